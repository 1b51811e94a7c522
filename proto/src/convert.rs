//! The wire door: one file a noun, `TryFrom` in, `From` out.
//!
//! Invariant: user input reports *all* its violations (`Violations`); a peer's malformed
//! message reports the first ([`InvalidMessage`]). Nothing here panics.

mod assignment;
mod autoscale;
mod balance;
mod cluster;
mod config;
mod endpoint;
mod hello;
mod instance;
mod job;
mod load;
mod node;
mod placement;
mod probe;
mod rollout;
mod route;
mod schedule;
mod service;
mod time;
mod update;
mod usage;

pub use hello::Hello;
pub use time::{duration_from_wire, duration_to_wire, timestamp_from_wire, timestamp_to_wire};

/// A message of a peer that does not say what its contract asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("{field}: {reason}")]
    Invalid { field: &'static str, reason: String },
}

impl InvalidMessage {
    pub(crate) fn invalid(field: &'static str, reason: impl ToString) -> Self {
        Self::Invalid { field, reason: reason.to_string() }
    }
}

/// `value`, or the complaint that `field` is missing.
pub(crate) fn required<T>(field: &'static str, value: Option<T>) -> Result<T, InvalidMessage> {
    value.ok_or(InvalidMessage::Missing { field })
}

/// An id in its text form.
pub(crate) fn id<T: std::str::FromStr<Err = skein_common::id::ParseIdError>>(
    field: &'static str,
    text: &str,
) -> Result<T, InvalidMessage> {
    text.parse().map_err(|error| InvalidMessage::invalid(field, error))
}

/// A port number.
pub(crate) fn port(field: &'static str, number: u32) -> Result<u16, InvalidMessage> {
    u16::try_from(number).map_err(|_| InvalidMessage::invalid(field, format!("{number} is more than 65535")))
}
