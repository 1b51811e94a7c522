//! How long to wait before trying again.
//!
//! Invariant: every wait is bounded, and depends on the count of failures alone.
//! Deliberately not here: jitter (one node's restarts do not meet in a crowd).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use skein_common::{Timestamp, service::RestartPolicy};

/// Second restart after this, then doubling (Kubernetes begins at 10 s, with the first).
const RESTART_FIRST: Duration = Duration::from_secs(1);
const RESTART_LONGEST: Duration = Duration::from_secs(5 * 60);
/// A container that ran this long failed for a new reason (Kubernetes' figure).
pub const RESTART_FORGIVEN_AFTER: Duration = Duration::from_secs(10 * 60);
/// Pulls: a registry that is back is noticed within a minute.
pub const PULL: Doubling = Doubling { first: Duration::from_secs(1), longest: Duration::from_secs(60) };
/// Steps the engine did not answer.
pub const ENGINE: Doubling = Doubling { first: Duration::from_millis(100), longest: Duration::from_secs(5) };

/// Waits that double.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doubling {
    pub first: Duration,
    pub longest: Duration,
}

impl Doubling {
    /// The wait after `failures` in a row; none after none.
    #[must_use]
    pub fn after(self, failures: u32) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }
}

/// The wait before a restart that follows `streak` restarts without a long run between them.
#[must_use]
pub fn before_restart(policy: &RestartPolicy, streak: u32) -> Duration {
    let doubling = Doubling { first: RESTART_FIRST, longest: RESTART_LONGEST };
    policy.delay.unwrap_or_else(|| doubling.after(streak))
}

/// Failures in a row, and until when to leave it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Retry {
    pub failures: u32,
    pub not_before: Timestamp,
}

impl Retry {
    pub fn fail(&mut self, waits: Doubling, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + waits.after(self.failures);
    }

    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_wait_longer_and_longer() {
        let policy = RestartPolicy::default();
        for (streak, seconds) in
            [(0, 0), (1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (40, 300), (u32::MAX, 300)]
        {
            assert_eq!(before_restart(&policy, streak), Duration::from_secs(seconds), "streak {streak}");
        }
        let fixed = RestartPolicy { delay: Some(Duration::from_secs(7)), ..policy };
        for streak in [0, 1, 40] {
            assert_eq!(before_restart(&fixed, streak), Duration::from_secs(7));
        }
    }

    #[test]
    fn pulls_wait_up_to_a_minute() {
        for (failures, seconds) in [(0, 0), (1, 1), (2, 2), (6, 32), (7, 60), (1000, 60)] {
            assert_eq!(PULL.after(failures), Duration::from_secs(seconds), "{failures} failures");
        }
    }
}
