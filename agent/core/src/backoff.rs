//! How long to wait before trying again.
//!
//! Invariant: every wait is bounded. Waits between restarts depend on the count of failures and, by up to a
//! quarter, on who waits for which attempt: what fell together does not rise together, and the same
//! wait is the same wherever it is computed.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use skein_common::{InstanceId, Timestamp, service::RestartPolicy};

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

const RESTART: Doubling = Doubling { first: RESTART_FIRST, longest: RESTART_LONGEST };

/// The wait after an attempt that follows `streak` restarts without a long run between them. What a
/// user set is kept to the letter.
#[must_use]
pub fn before_restart(policy: &RestartPolicy, streak: u32, of: InstanceId, attempt: u32) -> Duration {
    policy.delay.unwrap_or_else(|| {
        let whole = RESTART.after(streak);
        let [part, ..] = scattered(of.get() ^ u64::from(attempt).rotate_left(32)).to_le_bytes();
        whole - whole / 4 * u32::from(part) / 255
    })
}

/// No wait of the policy is longer.
#[must_use]
pub fn longest_restart(policy: &RestartPolicy) -> Duration {
    policy.delay.unwrap_or(RESTART.longest)
}

/// Neighbouring numbers far apart (the finalizer of SplitMix64).
const fn scattered(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
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
    use std::collections::BTreeSet;

    use super::*;

    fn wait(policy: &RestartPolicy, streak: u32, id: u64) -> Duration {
        before_restart(policy, streak, InstanceId::from_random(id), 3)
    }

    #[test]
    fn restarts_wait_longer_and_longer() {
        let policy = RestartPolicy::default();
        for (streak, seconds) in
            [(0, 0), (1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (40, 300), (u32::MAX, 300)]
        {
            let whole = Duration::from_secs(seconds);
            let waits: Vec<_> = (1..200).map(|id| wait(&policy, streak, id)).collect();
            assert!(waits.iter().all(|wait| (whole * 3 / 4..=whole).contains(wait)), "streak {streak}");
            assert_eq!(waits, (1..200).map(|id| wait(&policy, streak, id)).collect::<Vec<_>>());
            let different: BTreeSet<_> = waits.iter().collect();
            assert!(seconds == 0 || different.len() > 50, "{} waits for 199 instances", different.len());
            assert!(longest_restart(&policy) >= whole);
        }
        let attempts: BTreeSet<_> =
            (1..20).map(|attempt| before_restart(&policy, 9, InstanceId::from_random(1), attempt)).collect();
        assert!(attempts.len() > 15, "each attempt waits its own time");
        let fixed = RestartPolicy { delay: Some(Duration::from_secs(7)), ..policy };
        for streak in [0, 1, 40] {
            assert_eq!(wait(&fixed, streak, 5), Duration::from_secs(7));
        }
    }

    #[test]
    fn pulls_wait_up_to_a_minute() {
        for (failures, seconds) in [(0, 0), (1, 1), (2, 2), (6, 32), (7, 60), (1000, 60)] {
            assert_eq!(PULL.after(failures), Duration::from_secs(seconds), "{failures} failures");
        }
    }
}
