//! How instances are replaced when the spec changes, and how many may be missing meanwhile.
//!
//! Invariant: plain values; what they make of a rollout is decided in `master/core`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a new instance is watched for failures (Swarm's default).
pub const DEFAULT_MONITOR: Duration = Duration::from_secs(5);
/// A rollout without any progress for this long has failed (Kubernetes' default).
pub const DEFAULT_PROGRESS_DEADLINE: Duration = Duration::from_secs(600);
/// Specs that can be gone back to.
pub const KEPT_GENERATIONS: usize = 10;

/// How a rollout goes about it. Defaults are Swarm's, and a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdatePolicy {
    /// Instances replaced at a time; 0 = all at once.
    pub parallelism: u32,
    pub order: UpdateOrder,
    /// Between an instance becoming Ready and the next being replaced.
    pub delay: Duration,
    /// An instance that fails within this time after it became Ready counts as failed; the rollout is complete
    /// only when the last one has been Ready for so long.
    pub monitor: Duration,
    /// Failed instances that are put up with, in thousandths of the service's.
    pub max_failure_permille: u16,
    pub failure_action: FailureAction,
    /// Without any instance becoming Ready for this long the rollout has failed; zero = never.
    pub progress_deadline: Duration,
    /// This many instances first, then the rollout waits to be promoted; 0 = no canaries.
    pub canary: u32,
    /// Canaries that have been Ready for `monitor` promote the rollout themselves.
    pub auto_promote: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum UpdateOrder {
    /// The old instance has stopped before the new one starts.
    #[default]
    StopFirst,
    /// The new instance is Ready before the old one stops. Services that publish a port in host mode are
    /// replaced stop-first all the same.
    StartFirst,
}

/// What becomes of a rollout that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum FailureAction {
    #[default]
    Pause,
    Continue,
    Rollback,
}

/// How many instances may be missing because of us: rollout, drain, rebalancing, preemption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Disruption {
    MaxUnavailable(u32),
    MinAvailable(u32),
}

impl Disruption {
    /// How many of `wanted` instances may be missing.
    #[must_use]
    pub const fn max_unavailable(self, wanted: u32) -> u32 {
        match self {
            Self::MaxUnavailable(most) => most,
            Self::MinAvailable(least) => wanted.saturating_sub(least),
        }
    }
}

impl Default for UpdatePolicy {
    fn default() -> Self {
        Self {
            parallelism: 1,
            order: UpdateOrder::StopFirst,
            delay: Duration::ZERO,
            monitor: DEFAULT_MONITOR,
            max_failure_permille: 0,
            failure_action: FailureAction::Pause,
            progress_deadline: DEFAULT_PROGRESS_DEADLINE,
            canary: 0,
            auto_promote: false,
        }
    }
}
