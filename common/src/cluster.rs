//! What belongs to the cluster as a whole: its history, its settings, and the rebalancing under way.

mod config;
mod rebalance;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::config::{
    ClusterConfig, MAX_MIN_GAIN_PERCENT, MIN_REBALANCE_INTERVAL, NetworkingConfig, RebalanceConfig,
    SchedulingConfig, ScoreWeights, Weight,
};
pub use self::rebalance::{RebalanceGoal, RebalanceRun};

/// Position in the replicated history: the Raft log index, identical on every master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
