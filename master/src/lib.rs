//! Placeholder.

pub mod raft;
