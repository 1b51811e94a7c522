//! The harness of Skein's tests.
//!
//! Invariant: nothing here decides anything about the cluster; it starts it, asks it, breaks it
//! and waits. Only `wait` sleeps. Whatever a test started ends with it.

pub mod bench;
pub mod client;
pub mod cluster;
pub mod continuity;
pub mod deployment;
pub mod docker;
pub mod hollow;
pub mod http;
pub mod ports;
pub mod process;
pub mod sim;
pub mod soak;
pub mod spec;
pub mod traffic;
pub mod wait;
pub mod watch;
