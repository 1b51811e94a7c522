//! Ports of this machine for servers that a test starts, stops and starts again.
//!
//! Invariant: while a [`Port`] lives, no other run of this harness gets the same number, and the
//! system never gives it to an outgoing connection (they come from above [`RANGE`]): a master
//! that was killed finds its port free again.
//! Deliberately not here: ports of containers (20000 to 32000, chosen by the cluster).

use std::{
    fmt,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    ops::Range,
    sync::Arc,
};

use anyhow::{Result, anyhow};
use rand::RngExt as _;

/// Below Linux' ephemeral ports (from 32768) and the ports of containers.
const RANGE: Range<u16> = 10_000..19_000;
const TRIES: usize = 500;

/// A reserved TCP port on 127.0.0.1, free for its holder to listen on.
#[derive(Debug, Clone)]
pub struct Port {
    number: u16,
    /// Held on the UDP side of the same number: visible to every other run, in no one's way.
    _guard: Arc<UdpSocket>,
}

impl Port {
    /// # Errors
    /// When no port of the range is free.
    pub fn reserve() -> Result<Self> {
        let mut random = rand::rng();
        (0..TRIES)
            .find_map(|_| Self::try_reserve(random.random_range(RANGE)))
            .ok_or_else(|| anyhow!("no free port in {RANGE:?} after {TRIES} tries"))
    }

    fn try_reserve(number: u16) -> Option<Self> {
        let guard = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).ok()?;
        Some(Self { number, _guard: Arc::new(guard) })
    }

    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:<number>`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_port_is_not_given_twice_and_can_be_listened_on() {
        let port = Port::reserve().expect("a free port");
        assert!(Port::try_reserve(port.number()).is_none());
        TcpListener::bind(port.address()).expect("free for its holder");
    }
}
