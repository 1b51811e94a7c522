//! The Docker runtime against a real daemon.
//!
//! Invariant: every container made here carries a cluster id of its own test and is removed
//! at its end, also after a panic. Without a daemon, or without the sample image, every test
//! fails and says what to do.

// clippy.toml allows these in tests only inside `#[test]` functions, not in what they share.
#![allow(clippy::expect_used)]

mod conflicts;
mod exec;
mod life;
mod logs;
mod mapping;
mod probes;
mod sandbox;
#[path = "../session/scripted.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic)] // a part of it is used here
mod scripted;
mod signals;
mod stats;
