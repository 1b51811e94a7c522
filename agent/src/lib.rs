//! The agent: runs containers on this node on the masters' behalf, and reports.
//!
//! Invariant: decisions are made in `skein-agent-core`; this crate executes them.

pub mod agent;
pub mod checkpoint;
pub mod clock;
pub mod config;
mod exec;
mod executor;
mod files;
pub mod identity;
mod logs;
mod metrics;
pub mod names;
mod prober;
pub mod proxy;
pub mod runtime;
mod session;
pub mod usage;
pub mod worker;
