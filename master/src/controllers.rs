//! The leader's loops: look, decide (in `skein-master-core`), propose.
//!
//! Invariant: each exists only inside the Leader role and is idempotent: what it misses or what is
//! lost is found again by looking at the state.

pub mod liveness;
pub mod observer;
pub mod planner;
