//! The vocabulary of Skein: the nouns every other crate speaks.
//!
//! Invariant: no I/O, no clock, no randomness. Types here are validated values; parsing
//! and checking happen at construction, so whoever holds one may trust it.
//! Deliberately not here: wire types (`skein-proto`), decisions (`master/core`, `agent/core`).

pub mod assignment;
pub mod cidr;
pub mod cluster;
pub mod config;
pub mod constraint;
pub mod endpoint;
pub mod error;
pub mod event;
pub mod id;
pub mod instance;
pub mod load;
pub mod network;
pub mod node;
pub mod placeholder;
pub mod placement;
pub mod resources;
pub mod rollout;
pub mod service;
pub mod time;
pub mod usage;

pub use cluster::Revision;
pub use error::{FieldViolation, Violations};
pub use id::{ClusterId, ConfigId, InstanceId, NodeId, ServiceId, SessionId};
pub use resources::Resources;
pub use time::Timestamp;
