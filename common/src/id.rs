//! Identifiers: 64 random bits, shown as 13 characters of Crockford base 32.
//!
//! Invariant: an id is chosen once, by whoever proposes the object, and is never reused;
//! the state machine refuses one that exists. Zero is no id, so `0` can mean "absent" on the wire.
//! Deliberately not here: the random source (shells own it and call `from_random`).

use std::{fmt, num::NonZeroU64, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of a printed id: ⌈64 / 5⌉.
const LENGTH: usize = 13;

/// The text is not an id: 13 characters of `0-9a-z` without `i`, `l`, `o`, `u`, and not zero.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an id: expected 13 characters of 0-9 a-z without i, l, o, u")]
pub struct ParseIdError(pub String);

fn encode(value: u64) -> [u8; LENGTH] {
    let mut text = [0; LENGTH];
    for (place, slot) in text.iter_mut().rev().enumerate() {
        let digit = (value.checked_shr(5 * u32::try_from(place).unwrap_or(0)).unwrap_or(0)) & 31;
        *slot = ALPHABET[usize::try_from(digit).unwrap_or(0)];
    }
    text
}

fn decode(text: &str) -> Option<NonZeroU64> {
    if text.len() != LENGTH {
        return None;
    }
    let value = text.bytes().try_fold(0u128, |value, byte| {
        let digit = ALPHABET.iter().position(|known| *known == byte)?;
        Some(value << 5 | digit as u128)
    })?;
    NonZeroU64::new(u64::try_from(value).ok()?)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(NonZeroU64);

        impl $name {
            /// The id made of these random bits; zero, which is no id, becomes one.
            #[must_use]
            pub fn from_random(bits: u64) -> Self {
                Self(NonZeroU64::new(bits).unwrap_or(NonZeroU64::MIN))
            }

            /// The bits behind the id.
            #[must_use]
            pub fn get(self) -> u64 {
                self.0.get()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(std::str::from_utf8(&encode(self.0.get())).unwrap_or_default())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                decode(text).map(Self).ok_or_else(|| ParseIdError(text.to_owned()))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
                } else {
                    NonZeroU64::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

id!(/// A cluster, chosen when it is formed; containers carry it as a label.
    ClusterId);
id!(/// A node: chosen by the agent at its first start and kept in its data folder.
    NodeId);
id!(/// A service.
    ServiceId);
id!(/// A config; its content never changes.
    ConfigId);
id!(/// One placement of one slot of a service.
    InstanceId);
id!(/// One stream of one agent to one leader.
    SessionId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for bits in [1, 31, 32, u64::MAX, 0x0123_4567_89ab_cdef] {
            let id = NodeId::from_random(bits);
            assert_eq!(id.to_string().len(), LENGTH);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "0", "0000000000000", "000000000000i", "zzzzzzzzzzzzz", "ABCDEFGHJKMNP"] {
            assert_eq!(text.parse::<NodeId>(), Err(ParseIdError(text.to_owned())));
        }
    }
}
