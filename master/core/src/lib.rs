//! What the masters decide: pure functions over replicated state.
//!
//! Invariant: no clock, no randomness, no map with random order, no I/O. `now` is an argument;
//! ids and times are chosen by the proposer and travel in the [`Command`].
//! Deliberately not here: Raft, gRPC, sessions (the `master` crate), the wire (`skein-proto`).

pub mod advice;
mod apply;
pub mod autoscaler;
pub mod command;
pub mod drain;
pub mod endpoints;
#[cfg(test)]
mod golden;
pub mod invariant;
pub mod liveness;
pub mod orchestrator;
#[cfg(test)]
mod properties;
pub mod scheduler;
pub mod state;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod told;

pub use apply::{MAX_EVENTS, progress};
pub use command::{Command, CommandKind, Outcome, Rejection};
pub use orchestrator::{Planned, Scope, plan};
pub use state::{Applied, Change, ClusterState};
