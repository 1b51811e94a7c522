//! The master: Raft, the API, the agents' sessions and the leader's loops around `skein-master-core`.
//!
//! Invariant: decisions are made in the core; this crate carries them out. Whatever comes from
//! outside ends in a typed error, never in a panic.

pub mod clock;
pub mod config;
pub mod controllers;
pub mod exec;
pub mod gather;
pub mod grpc;
pub mod leadership;
pub mod load;
pub mod logs;
pub mod outbox;
pub mod process;
pub mod raft;
pub mod server;
pub mod sessions;
pub mod status;
pub mod store;
pub mod usage;
