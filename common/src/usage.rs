//! Measured use, as agents report it with their heartbeats.
//!
//! Invariant: a sample lives in the leader's memory only; it never goes through the log.

use serde::{Deserialize, Serialize};

use crate::{InstanceId, Timestamp};

/// One sample of a host.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct HostUsage {
    pub at: Timestamp,
    /// Thousandths of a core in use, over the time since the last sample.
    pub cpu_millis: u64,
    /// Thousandths of a core there are.
    pub cpu_total_millis: u64,
    pub memory_bytes: u64,
    pub memory_total_bytes: u64,
    /// One-minute load average.
    pub load_one: f64,
    /// Of the file system that holds the agent's data folder.
    pub disk_bytes: u64,
    pub disk_total_bytes: u64,
    /// Bytes per second over the time since the last sample, loopback excluded.
    pub network_receive_rate: u64,
    pub network_transmit_rate: u64,
}

/// One sample of an instance's container.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct InstanceUsage {
    pub instance: InstanceId,
    pub at: Timestamp,
    pub cpu_millis: u64,
    /// Usage without inactive file cache (cAdvisor's working set).
    pub memory_bytes: u64,
    pub network_receive_rate: u64,
    pub network_transmit_rate: u64,
}
