//! The wire door: one file a noun, `TryFrom` in, `From` out.
//!
//! Invariant: user input reports *all* its violations (`Violations`); a peer's malformed
//! message reports the first ([`InvalidMessage`]).

mod instance;
mod node;
mod service;
mod session;
mod time;

pub use time::{duration_to_wire, timestamp_to_wire};

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
