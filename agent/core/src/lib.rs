//! What an agent decides: pure functions over what it was told and what it sees.
//!
//! Invariant: no clock, no randomness, no I/O: `now` is an argument, and the same inputs in
//! the same order give the same actions.
//! Deliberately not here: Docker, gRPC, disks (the `agent` crate).

pub mod action;
pub mod assignments;
pub mod backoff;
pub mod balance;
pub mod container;
pub mod endpoints;
pub mod image;
pub mod lifecycle;
pub mod names;
pub mod probe;
pub mod progress;
pub mod proxy_protocol;
pub mod reconcile;
pub mod record;
pub mod routes;
pub mod seen;

pub use action::{Action, Finished, Success};
pub use assignments::{Assignments, Verdict};
pub use container::{ContainerStatus, Health, RuntimeError, SeenContainer};
pub use endpoints::EndpointTable;
pub use probe::{ProbeOutcome, ProbeResult, ProbeRun};
pub use reconcile::{Checkpoint, NodeState, Plan};
pub use seen::{Glance, Look, Sequence};
