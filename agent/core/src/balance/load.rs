//! What this node knows of one endpoint from its own requests.
//!
//! Invariant: the count of leases that are held is exact, and it is one word with whether more may be taken: once
//! [`Load::close`] has returned, nobody takes one any more, so a count of zero stays zero. An endpoint that is out comes
//! back by time alone.

use std::{
    sync::atomic::{
        AtomicBool, AtomicU8, AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
    time::Duration,
};

use skein_common::{
    load::{Counts, Out, OutCause},
    service::Ejection,
};

use super::meter::{Ending, Meter};

/// In [`Load::leases`]: no more of them.
const CLOSED: u32 = 1 << 31;

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
    /// How many are held, and [`CLOSED`].
    leases: AtomicU32,
    pub(super) meter: Meter,
    /// Why the last failure was one, as [`cause_code`].
    last_failure: AtomicU8,
    failed_in_row: AtomicU32,
    /// Checks in a row that say the other than what holds.
    checks_in_row: AtomicU32,
    fails_checks: AtomicBool,
    ejections: AtomicU32,
    /// In milliseconds since the balancer began; zero = never was out.
    out_until_ms: AtomicU64,
    latency_us: AtomicU64,
    latency_at_ms: AtomicU64,
}

/// Why there is no lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotTaken {
    Full,
    /// It is no endpoint any more.
    Closed,
}

impl Load {
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.leases.load(Acquire) & !CLOSED
    }

    /// Requests it was chosen for.
    #[must_use]
    pub fn chosen(&self) -> u64 {
        self.meter.tries()
    }

    /// One more lease, at most `limit`.
    pub(super) fn take(&self, limit: u32) -> Result<(), NotTaken> {
        let limit = limit.min(CLOSED - 1);
        let one_more = |leases| (leases < limit).then_some(leases + 1);
        // Acquire: who finds it closed also finds the set that is without it.
        let taken = self.leases.fetch_update(AcqRel, Acquire, one_more);
        taken.map(drop).map_err(|leases| if leases & CLOSED == 0 { NotTaken::Full } else { NotTaken::Closed })
    }

    pub(super) fn give_back(&self) {
        self.leases.fetch_sub(1, AcqRel);
    }

    /// It is no endpoint any more: from now on leases only end. To be called when the next set is in its place.
    pub fn close(&self) {
        self.leases.fetch_or(CLOSED, AcqRel);
    }

    /// It is no endpoint any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.leases.load(Acquire) & CLOSED != 0
    }

    /// Bytes from clients to it.
    pub fn received(&self, bytes: usize) {
        self.meter.received(bytes as u64);
    }

    /// Bytes from it to clients.
    pub fn sent(&self, bytes: usize) {
        self.meter.sent(bytes as u64);
    }

    /// All that was counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.meter.counts()
    }

    /// Sum of the latencies that were counted.
    #[must_use]
    pub fn latency_sum(&self) -> Duration {
        self.meter.latency_sum()
    }

    /// What was counted since this was asked last; for one who asks.
    #[must_use]
    pub fn news(&self) -> Counts {
        self.meter.news()
    }

    /// Why it gets no requests, and for how long.
    #[must_use]
    pub fn out(&self, now: Duration) -> Option<Out> {
        if self.fails_checks.load(Relaxed) {
            return Some(Out { cause: OutCause::Check, remaining: Duration::ZERO });
        }
        let remaining = self.out_until_ms.load(Relaxed).saturating_sub(millis(now));
        let cause = cause_of(self.last_failure.load(Relaxed));
        (remaining > 0).then(|| Out { cause, remaining: Duration::from_millis(remaining) })
    }

    /// Gets no requests for a while.
    #[must_use]
    pub fn is_out(&self, now: Duration) -> bool {
        self.fails_checks.load(Relaxed) || self.out_until_ms.load(Relaxed) > millis(now)
    }

    /// Smoothed time of its answers; what is old weighs less. Zero before the first.
    #[must_use]
    pub fn latency(&self, now: Duration) -> Duration {
        let age = millis(now).saturating_sub(self.latency_at_ms.load(Relaxed));
        let halvings = u32::try_from(age / HALVED_AFTER_MS).unwrap_or(u32::MAX);
        Duration::from_micros(self.latency_us.load(Relaxed).checked_shr(halvings).unwrap_or(0))
    }

    /// Takes note of an ended request. True = it has failed so often in a row that it should go out.
    pub(super) fn note(&self, ending: Ending, took: Duration, now: Duration, rule: Ejection) -> bool {
        self.meter.ended(ending, took);
        match ending.outcome() {
            Outcome::Unknown => false,
            Outcome::Success => {
                // Read first: every request writing the same word would cost all threads its cache line.
                if self.failed_in_row.load(Relaxed) > 0 {
                    self.failed_in_row.store(0, Relaxed);
                }
                self.sample(took, now);
                false
            }
            Outcome::Failure => {
                self.last_failure.store(cause_code(ending), Relaxed);
                self.sample(took.max(FAILED_LATENCY), now);
                let row = self.failed_in_row.fetch_add(1, Relaxed).saturating_add(1);
                rule.failures > 0 && row >= rule.failures
            }
        }
    }

    /// Gets no requests for a while: the n-th time n times as long.
    pub(super) fn eject(&self, now: Duration, rule: Ejection) {
        self.meter.ejected();
        let (now_ms, back_ms) = (millis(now), self.out_until_ms.load(Relaxed));
        let before = self.ejections.load(Relaxed);
        let good_for = u64::from(before).saturating_mul(millis(rule.time)).saturating_mul(FORGIVEN_AFTER);
        let count = if now_ms.saturating_sub(back_ms) > good_for { 1 } else { before.saturating_add(1) };
        self.ejections.store(count, Relaxed);
        self.failed_in_row.store(0, Relaxed);
        self.out_until_ms.store(now_ms.saturating_add(millis(rule.time.saturating_mul(count))), Relaxed);
    }

    /// Takes note of a check. True = there have been enough in a row to turn what holds.
    pub(super) fn check(&self, is_well: bool, (fall, rise): (u32, u32)) -> bool {
        let fails = self.fails_checks.load(Relaxed);
        if is_well != fails {
            self.checks_in_row.store(0, Relaxed);
            return false;
        }
        let row = self.checks_in_row.fetch_add(1, Relaxed).saturating_add(1);
        row >= if fails { rise } else { fall }
    }

    pub(super) fn turn(&self, fails: bool) {
        self.checks_in_row.store(0, Relaxed);
        self.fails_checks.store(fails, Relaxed);
    }

    /// May have requests again at once.
    pub(super) fn readmit(&self) {
        self.turn(false);
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

const fn cause_code(ending: Ending) -> u8 {
    match ending {
        Ending::Unreachable => 1,
        Ending::Late => 2,
        Ending::Broken => 3,
        Ending::Answered(_) | Ending::Connected | Ending::Abandoned => 0,
    }
}

const fn cause_of(code: u8) -> OutCause {
    match code {
        1 => OutCause::Unreachable,
        2 => OutCause::Late,
        3 => OutCause::Broken,
        _ => OutCause::ServerErrors,
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
