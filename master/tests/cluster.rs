//! Masters in this process, real Raft and real gRPC; agents are scripts.
//!
//! Invariant: nothing here sleeps; what is waited for is looked at until it is so.
//! Deliberately not here: Raft under faults (`store.rs`), real agents (`tests/`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "cluster/agent.rs"]
mod agent;
#[path = "cluster/api.rs"]
mod api;
#[path = "cluster/autoscale.rs"]
mod autoscale;
#[path = "cluster/harness.rs"]
mod harness;
#[path = "cluster/leaders.rs"]
mod leaders;
#[path = "cluster/sessions.rs"]
mod sessions;
#[path = "cluster/watches.rs"]
mod watches;
