//! What this node knows of one endpoint from its own requests.
//!
//! Invariant: `in_flight` counts leases that are held, exactly. An endpoint that is out comes back by time alone.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use skein_common::service::Ejection;

/// A failure counts as an answer this slow, or an endpoint that fails at once would look like the quickest.
const FAILED_LATENCY: Duration = Duration::from_secs(1);
/// Share of a new sample in the mean: 1/8, as in TCP's round-trip estimate (RFC 6298).
const SMOOTHING: u64 = 8;
/// What was slow this long ago is worth half: who got no requests for it is tried again.
const HALVED_AFTER_MS: u64 = 5_000;
/// Back in for this many times its last absence, and an endpoint's ejections are forgiven.
const FORGIVEN_AFTER: u64 = 10;

/// How a request ended, as far as the endpoint is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// No connection, no answer in time, a broken one, or 502, 503, 504.
    Failure,
    /// The client went away, or nobody is to blame.
    Unknown,
}

/// Live counters of one endpoint, shared by all threads and all sets that hold it.
#[derive(Debug, Default)]
pub struct Load {
    pub(super) in_flight: AtomicU32,
    /// Requests it was chosen for.
    pub(super) chosen: AtomicU64,
    failed_in_row: AtomicU32,
    ejections: AtomicU32,
    /// In milliseconds since the balancer began; zero = never was out.
    out_until_ms: AtomicU64,
    latency_us: AtomicU64,
    latency_at_ms: AtomicU64,
}

impl Load {
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    #[must_use]
    pub fn chosen(&self) -> u64 {
        self.chosen.load(Relaxed)
    }

    /// Gets no requests for a while.
    #[must_use]
    pub fn is_out(&self, now: Duration) -> bool {
        self.out_until_ms.load(Relaxed) > millis(now)
    }

    /// Smoothed time of its answers; what is old weighs less. Zero before the first.
    #[must_use]
    pub fn latency(&self, now: Duration) -> Duration {
        let age = millis(now).saturating_sub(self.latency_at_ms.load(Relaxed));
        let halvings = u32::try_from(age / HALVED_AFTER_MS).unwrap_or(u32::MAX);
        Duration::from_micros(self.latency_us.load(Relaxed).checked_shr(halvings).unwrap_or(0))
    }

    /// Takes note of an ended request. True = it has failed so often in a row that it should go out.
    pub(super) fn note(&self, outcome: Outcome, took: Duration, now: Duration, rule: Ejection) -> bool {
        match outcome {
            Outcome::Unknown => false,
            Outcome::Success => {
                self.failed_in_row.store(0, Relaxed);
                self.sample(took, now);
                false
            }
            Outcome::Failure => {
                self.sample(took.max(FAILED_LATENCY), now);
                let row = self.failed_in_row.fetch_add(1, Relaxed).saturating_add(1);
                rule.failures > 0 && row >= rule.failures
            }
        }
    }

    /// Gets no requests for a while: the n-th time n times as long.
    pub(super) fn eject(&self, now: Duration, rule: Ejection) {
        let (now_ms, back_ms) = (millis(now), self.out_until_ms.load(Relaxed));
        let before = self.ejections.load(Relaxed);
        let good_for = u64::from(before).saturating_mul(millis(rule.time)).saturating_mul(FORGIVEN_AFTER);
        let count = if now_ms.saturating_sub(back_ms) > good_for { 1 } else { before.saturating_add(1) };
        self.ejections.store(count, Relaxed);
        self.failed_in_row.store(0, Relaxed);
        self.out_until_ms.store(now_ms.saturating_add(millis(rule.time.saturating_mul(count))), Relaxed);
    }

    /// May have requests again at once.
    pub(super) fn readmit(&self) {
        self.out_until_ms.store(0, Relaxed);
    }

    fn sample(&self, took: Duration, now: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX / SMOOTHING);
        let known = u64::try_from(self.latency(now).as_micros()).unwrap_or(0);
        let next = if known == 0 { took } else { known - known / SMOOTHING + took / SMOOTHING };
        self.latency_us.store(next, Relaxed);
        self.latency_at_ms.store(millis(now), Relaxed);
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
