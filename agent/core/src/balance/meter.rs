//! What has happened to one endpoint, counted for reports.
//!
//! Invariant: counts only grow; every report holds what was counted since the one before, so nothing is told twice and
//! nothing is left out. Counting is a few atomic additions: it is always on.

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use skein_common::load::{BUCKETS, Counts, Endings, Latencies, bucket_of};

use super::load::Outcome;

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With this status.
    Answered(u16),
    /// A connection of mode tcp.
    Connected,
    /// No connection.
    Unreachable,
    /// No answer in time.
    Late,
    /// The connection ended before the answer.
    Broken,
    /// The client went away.
    Abandoned,
}

impl Ending {
    /// What it says of the endpoint: 502, 503 and 504 say that it cannot serve, other errors are answers.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::Answered(502..=504) | Self::Unreachable | Self::Late | Self::Broken => Outcome::Failure,
            Self::Answered(_) | Self::Connected => Outcome::Success,
            Self::Abandoned => Outcome::Unknown,
        }
    }
}

/// Counters of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Meter {
    tries: AtomicU64,
    retries: AtomicU64,
    ok: AtomicU64,
    client_errors: AtomicU64,
    server_errors: AtomicU64,
    unreachable: AtomicU64,
    late: AtomicU64,
    broken: AtomicU64,
    abandoned: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    ejections: AtomicU64,
    latency_sum_us: AtomicU64,
    /// Not before the first answer: most endpoints get no requests from most nodes.
    latencies: OnceLock<Box<[AtomicU64]>>,
    /// What reports have told.
    told: Mutex<Counts>,
}

impl Meter {
    pub(super) fn tried(&self, again: bool) {
        self.tries.fetch_add(1, Relaxed);
        if again {
            self.retries.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn tries(&self) -> u64 {
        self.tries.load(Relaxed)
    }

    pub(super) fn ended(&self, ending: Ending, took: Duration) {
        let counter = match ending {
            Ending::Answered(500..) => &self.server_errors,
            Ending::Answered(400..) => &self.client_errors,
            Ending::Answered(_) | Ending::Connected => &self.ok,
            Ending::Unreachable => &self.unreachable,
            Ending::Late => &self.late,
            Ending::Broken => &self.broken,
            Ending::Abandoned => &self.abandoned,
        };
        counter.fetch_add(1, Relaxed);
        if matches!(ending, Ending::Answered(_) | Ending::Connected) {
            let buckets = self.latencies.get_or_init(|| (0..BUCKETS).map(|_| AtomicU64::new(0)).collect());
            buckets[bucket_of(took)].fetch_add(1, Relaxed);
            self.latency_sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    pub(super) fn ejected(&self) {
        self.ejections.fetch_add(1, Relaxed);
    }

    pub(super) fn received(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Relaxed);
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Relaxed);
    }

    pub(super) fn latency_sum(&self) -> Duration {
        Duration::from_micros(self.latency_sum_us.load(Relaxed))
    }

    /// Since it is an endpoint.
    pub(super) fn counts(&self) -> Counts {
        let buckets = self.latencies.get().map(AsRef::as_ref).unwrap_or_default();
        let latencies = buckets.iter().map(|count| count.load(Relaxed)).enumerate();
        Counts {
            tries: self.tries.load(Relaxed),
            retries: self.retries.load(Relaxed),
            endings: Endings {
                ok: self.ok.load(Relaxed),
                client_errors: self.client_errors.load(Relaxed),
                server_errors: self.server_errors.load(Relaxed),
                unreachable: self.unreachable.load(Relaxed),
                late: self.late.load(Relaxed),
                broken: self.broken.load(Relaxed),
                abandoned: self.abandoned.load(Relaxed),
            },
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            ejections: self.ejections.load(Relaxed),
            latencies: Latencies::from_counts(latencies),
        }
    }

    /// Since it was asked last.
    pub(super) fn news(&self) -> Counts {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = self.counts();
        let news = counts.since(&told);
        *told = counts;
        news
    }
}
