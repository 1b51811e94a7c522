//! Latencies as counts of buckets: eight to a doubling, from 1 µs to two minutes.
//!
//! Invariant: a bucket's bounds never change, so counts of different nodes and times add up; a quantile is off by at
//! most a sixteenth.

use std::{collections::BTreeMap, time::Duration};

/// Buckets to a doubling, as a power of two.
const FINE_BITS: u32 = 3;
const FINE: u64 = 1 << FINE_BITS;
/// The last doubling begins at 2²⁶ µs = 67 s; what takes longer counts there too.
const LAST_DOUBLING: u32 = 26;
/// How many there are.
pub const BUCKETS: usize = ((LAST_DOUBLING - FINE_BITS + 2) as usize) << FINE_BITS;

/// How often it took how long; only buckets that count anything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Latencies(BTreeMap<u16, u64>);

/// The bucket that counts this latency.
#[must_use]
pub fn bucket_of(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).min((2 << LAST_DOUBLING) - 1);
    let doubling = micros.checked_ilog2().unwrap_or(0);
    if doubling < FINE_BITS {
        return usize::try_from(micros).unwrap_or(0);
    }
    let fine = (micros >> (doubling - FINE_BITS)) & (FINE - 1);
    let coarse = u64::from(doubling - FINE_BITS + 1) << FINE_BITS;
    usize::try_from(coarse | fine).unwrap_or(BUCKETS - 1)
}

/// Where a bucket begins; it ends where the next one begins.
#[must_use]
pub const fn bucket_start(bucket: usize) -> Duration {
    let bucket = bucket as u64;
    if bucket < FINE {
        return Duration::from_micros(bucket);
    }
    let shift = (bucket >> FINE_BITS) - 1;
    Duration::from_micros(((bucket & (FINE - 1)) | FINE) << shift)
}

impl Latencies {
    /// From counts by bucket; unknown buckets count as the last one.
    #[must_use]
    pub fn from_counts(counts: impl IntoIterator<Item = (usize, u64)>) -> Self {
        let mut latencies = Self::default();
        for (bucket, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            let mine = latencies.0.entry(number(bucket)).or_default();
            *mine = mine.saturating_add(count);
        }
        latencies
    }

    /// Counts by bucket, in order.
    pub fn counts(&self) -> impl Iterator<Item = (usize, u64)> {
        self.0.iter().map(|(bucket, count)| (usize::from(*bucket), *count))
    }

    pub fn record(&mut self, latency: Duration) {
        *self.0.entry(number(bucket_of(latency))).or_default() += 1;
    }

    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.0 {
            let mine = self.0.entry(*bucket).or_default();
            *mine = mine.saturating_add(*count);
        }
    }

    /// What was counted after `earlier`, which these counts include.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |bucket| earlier.0.get(bucket).copied().unwrap_or_default();
        let news = self.0.iter().map(|(bucket, count)| (*bucket, count.saturating_sub(before(bucket))));
        Self(news.filter(|(_, count)| *count > 0).collect())
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The latency that this part of all (0 to 1) does not exceed; `None` when nothing was counted.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let rank = (part.clamp(0.0, 1.0) * self.count() as f64).max(1.0);
        let mut seen = 0u64;
        let bucket = self.counts().find(|(_, count)| {
            seen = seen.saturating_add(*count);
            seen as f64 >= rank
        });
        // The middle: half a bucket off at most.
        bucket.map(|(bucket, _)| (bucket_start(bucket) + bucket_start(bucket + 1)) / 2)
    }
}

fn number(bucket: usize) -> u16 {
    u16::try_from(bucket.min(BUCKETS - 1)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        for bucket in 0..BUCKETS {
            let (start, end) = (bucket_start(bucket), bucket_start(bucket + 1));
            assert!(start < end);
            assert_eq!(bucket_of(start), bucket);
            assert_eq!(bucket_of(end - Duration::from_nanos(1)), bucket);
        }
        assert_eq!(bucket_start(BUCKETS), Duration::from_micros(2 << LAST_DOUBLING));
        assert_eq!(bucket_of(Duration::MAX), BUCKETS - 1);
        assert_eq!(Latencies::default().quantile(0.5), None);
        let stray = Latencies::from_counts([(usize::MAX, u64::MAX), (BUCKETS, 1), (3, 0)]);
        assert_eq!(stray.counts().count(), 1);
    }

    proptest! {
        #[test]
        fn a_quantile_is_off_by_a_sixteenth_at_most(
            mut micros in prop::collection::vec(1u64..100_000_000, 1..300),
            part in 0.0f64..=1.0,
        ) {
            let (mut one, mut other) = (Latencies::default(), Latencies::default());
            for (at, micros) in micros.iter().enumerate() {
                if at % 2 == 0 { &mut one } else { &mut other }.record(Duration::from_micros(*micros));
            }
            one.merge(&other);
            prop_assert_eq!(one.count(), micros.len() as u64);
            micros.sort_unstable();
            let rank = (part * micros.len() as f64).max(1.0);
            let exact = (1..).zip(&micros).find(|(seen, _)| f64::from(*seen) >= rank).map(|(_, micros)| *micros as f64);
            let exact = exact.unwrap();
            let told = one.quantile(part).unwrap().as_secs_f64() * 1e6;
            prop_assert!((told - exact).abs() <= exact / 16.0 + 0.5, "{told} for {exact}");
            let again = Latencies::from_counts(one.counts());
            prop_assert_eq!(again, one);
        }
    }
}
