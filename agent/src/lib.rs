//! The agent: runs containers on this node on the masters' behalf, and reports.
//!
//! Invariant: decisions are made in `skein-agent-core`; this crate executes them.

pub mod checkpoint;
pub mod clock;
mod executor;
pub mod identity;
pub mod runtime;
pub mod usage;
pub mod worker;
