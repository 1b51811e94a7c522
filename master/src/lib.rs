//! Placeholder.

pub mod raft;
pub mod store;
