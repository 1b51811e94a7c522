//! A range of IPv4 addresses, as `10.254.0.0/16`.
//!
//! Invariant: its base has no bits beyond the prefix, so equal ranges are equal values.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Network {
    base: Ipv4Addr,
    prefix: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no range of IPv4 addresses: use ADDRESS/BITS, the address ending in zeros, e.g. 10.254.0.0/16"
)]
pub struct ParseNetworkError(String);

impl Ipv4Network {
    /// `None` when the prefix is longer than 32 bits, or the base has bits beyond it.
    #[must_use]
    pub const fn new(base: Ipv4Addr, prefix: u8) -> Option<Self> {
        if prefix > 32 || base.to_bits() & !mask(prefix) != 0 {
            return None;
        }
        Some(Self { base, prefix })
    }

    /// The range that this address is in.
    #[must_use]
    pub const fn cut(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = if prefix > 32 { 32 } else { prefix };
        Self { base: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix }
    }

    #[must_use]
    pub const fn base(self) -> Ipv4Addr {
        self.base
    }

    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    #[must_use]
    pub const fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.base.to_bits()
    }

    /// Addresses that a machine can have: without the first and the last one.
    #[must_use]
    pub const fn hosts(self) -> u32 {
        (!mask(self.prefix)).saturating_sub(1)
    }

    /// The host of this number, counted from 0 and around.
    #[must_use]
    pub const fn host(self, number: u32) -> Ipv4Addr {
        let hosts = if self.hosts() == 0 { 1 } else { self.hosts() };
        Ipv4Addr::from_bits(self.base.to_bits().wrapping_add(1).wrapping_add(number % hosts))
    }

    /// The address in this range that ends as `address` does.
    #[must_use]
    pub const fn place(self, address: Ipv4Addr) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() | (address.to_bits() & !mask(self.prefix)))
    }
}

const fn mask(prefix: u8) -> u32 {
    if prefix == 0 { 0 } else { u32::MAX << (32 - prefix as u32) }
}

impl FromStr for Ipv4Network {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, ParseNetworkError> {
        let parsed = text.split_once('/').and_then(|(base, prefix)| {
            let is_number = prefix.bytes().all(|byte| byte.is_ascii_digit());
            Self::new(base.parse().ok()?, prefix.parse().ok().filter(|_| is_number)?)
        });
        parsed.ok_or_else(|| ParseNetworkError(text.to_owned()))
    }
}

impl fmt::Display for Ipv4Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl Serialize for Ipv4Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ipv4Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_shows_ranges() {
        for (text, hosts) in [
            ("10.254.0.0/16", Some(65_534)),
            ("10.0.0.8/29", Some(6)),
            ("10.0.0.8/31", Some(0)),
            ("10.0.0.8/32", Some(0)),
            ("0.0.0.0/0", Some(u32::MAX - 1)),
            ("10.254.0.1/16", None),
            ("10.254.0.0", None),
            ("10.254.0.0/33", None),
            ("10.254.0.0/+8", None),
            ("10.254.0.0/", None),
            ("::/0", None),
        ] {
            let network = text.parse::<Ipv4Network>().ok();
            assert_eq!(network.map(Ipv4Network::hosts), hosts, "{text}");
            assert!(network.is_none_or(|network| network.to_string() == text), "{text}");
        }
    }

    #[test]
    fn hosts_are_counted_around() {
        let network: Ipv4Network = "10.0.0.8/29".parse().unwrap();
        let hosts: Vec<_> = [0, 5, 6].map(|number| network.host(number).octets()[3]).to_vec();
        assert_eq!(hosts, [9, 14, 9]);
        assert!(network.contains(network.host(3)) && !network.contains(Ipv4Addr::new(10, 0, 0, 16)));
        let other: Ipv4Network = "127.9.0.0/16".parse().unwrap();
        assert_eq!(other.place(Ipv4Addr::new(10, 254, 3, 4)), Ipv4Addr::new(127, 9, 3, 4));
    }
}
