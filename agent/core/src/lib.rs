//! What an agent decides: pure functions over what it was told and what it sees.
//!
//! Invariant: no clock, no randomness, no I/O: `now` and jitter are arguments.
//! Deliberately not here: Docker, gRPC, disks (the `agent` crate).

pub mod container;
