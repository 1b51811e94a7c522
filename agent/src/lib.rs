//! The agent: runs containers on this node on the masters' behalf, and reports.
//!
//! Invariant: decisions are made in `skein-agent-core`; this crate executes them.

pub mod clock;
pub mod runtime;
pub mod usage;
