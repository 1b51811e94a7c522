//! The change feed: what the last commands changed, for Watch.
//!
//! Invariant: a reader sees every batch after its start, in order, once, or is told where to
//! resume; nothing is skipped silently. The ring is bounded, so a slow reader costs nothing: it
//! falls out. Readers share the batches and own only a position.
//! Deliberately not here: filtering and wire messages (`grpc/`).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use skein_common::Revision;
use skein_master_core::Change;
use tokio::sync::watch;

/// Batches kept. At a thousand commands a second a reader may be away for half a minute.
const MAX_BATCHES: usize = 32_768;
/// Rough memory of the kept batches.
const MAX_BYTES: usize = 16 << 20;
/// What one change weighs, besides its command.
const CHANGE_WEIGHT: usize = 256;
/// Batches a reader takes at once.
const READ_BATCHES: usize = 256;

/// What one command changed.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangeBatch {
    pub revision: Revision,
    pub changes: Vec<Change>,
}

/// The history after the asked revision is gone: read the state, then follow from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("changes are only known after revision {oldest}")]
pub struct Compacted {
    /// The oldest revision one can follow from.
    pub oldest: Revision,
}

/// Why a feed ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FeedEnd {
    #[error("the reader was too slow; it may resume after revision {resume}")]
    Lagged {
        /// The last revision the reader has seen: resume there, and see `Compacted` if that is gone.
        resume: Revision,
    },
    #[error("this master is stopping")]
    Closed,
}

#[derive(Debug, Default)]
struct Ring {
    batches: VecDeque<(Arc<ChangeBatch>, usize)>,
    bytes: usize,
    /// Everything after this revision is in `batches`.
    floor: Revision,
    limits: (usize, usize),
}

/// The writing end, kept by the state machine.
#[derive(Debug, Clone)]
pub struct FeedSource(Arc<Mutex<Ring>>);

impl Default for FeedSource {
    fn default() -> Self {
        Self::with_limits(MAX_BATCHES, MAX_BYTES)
    }
}

impl FeedSource {
    #[must_use]
    pub fn with_limits(batches: usize, bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(Ring { limits: (batches, bytes), ..Ring::default() })))
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds batches, with the size of the command behind each.
    pub fn push(&self, batches: Vec<(ChangeBatch, usize)>) {
        let mut ring = self.ring();
        for (batch, command_bytes) in batches {
            let weight = command_bytes + CHANGE_WEIGHT * (batch.changes.len() + 1);
            ring.bytes += weight;
            ring.batches.push_back((Arc::new(batch), weight));
        }
        while ring.batches.len() > ring.limits.0 || ring.bytes > ring.limits.1 {
            let Some((batch, weight)) = ring.batches.pop_front() else { break };
            ring.bytes -= weight;
            ring.floor = batch.revision;
        }
    }

    /// Forgets everything: the state at `floor` came from a snapshot.
    pub fn reset(&self, floor: Revision) {
        let mut ring = self.ring();
        ring.batches.clear();
        ring.bytes = 0;
        ring.floor = floor;
    }

    /// Follows from `after`, exclusive.
    pub fn follow(&self, after: Revision, applied: watch::Receiver<Revision>) -> Result<Feed, Compacted> {
        let floor = self.ring().floor;
        if after < floor {
            return Err(Compacted { oldest: floor });
        }
        Ok(Feed { ring: self.clone(), applied, seen: after })
    }
}

/// An ordered stream of what changed.
#[derive(Debug)]
pub struct Feed {
    ring: FeedSource,
    applied: watch::Receiver<Revision>,
    seen: Revision,
}

impl Feed {
    /// Everything up to this revision has been given out (or changed nothing): a bookmark.
    #[must_use]
    pub const fn position(&self) -> Revision {
        self.seen
    }

    /// The next batches, at least one. Cancel-safe.
    pub async fn next(&mut self) -> Result<Vec<Arc<ChangeBatch>>, FeedEnd> {
        loop {
            let applied = *self.applied.borrow_and_update();
            let batches = self.take(applied)?;
            if !batches.is_empty() {
                return Ok(batches);
            }
            self.applied.changed().await.map_err(|_| FeedEnd::Closed)?;
        }
    }

    fn take(&mut self, applied: Revision) -> Result<Vec<Arc<ChangeBatch>>, FeedEnd> {
        let ring = self.ring.ring();
        if self.seen < ring.floor {
            return Err(FeedEnd::Lagged { resume: self.seen });
        }
        let start = ring.batches.partition_point(|(batch, _)| batch.revision <= self.seen);
        let batches: Vec<_> =
            ring.batches.range(start..).take(READ_BATCHES).map(|(batch, _)| batch.clone()).collect();
        drop(ring);
        self.seen = match batches.last() {
            Some(batch) => batch.revision,
            // The ring is filled before `applied` moves, so nothing up to there is missing.
            None => self.seen.max(applied),
        };
        Ok(batches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(revision: u64) -> (ChangeBatch, usize) {
        (ChangeBatch { revision: Revision(revision), changes: Vec::new() }, 10)
    }

    fn revisions(batches: &[Arc<ChangeBatch>]) -> Vec<u64> {
        batches.iter().map(|batch| batch.revision.0).collect()
    }

    #[tokio::test]
    async fn readers_resume_where_they_were() {
        let source = FeedSource::with_limits(3, usize::MAX);
        let (applied, receiver) = watch::channel(Revision(4));
        source.push(vec![batch(2), batch(4)]);
        let mut feed = source.follow(Revision(2), receiver.clone()).unwrap();
        assert_eq!(revisions(&feed.next().await.unwrap()), [4]);
        source.push(vec![batch(5)]);
        applied.send_replace(Revision(6));
        assert_eq!(revisions(&feed.next().await.unwrap()), [5]);
        // 6 changed nothing; asking again moves the bookmark past it.
        drop(applied);
        assert_eq!(feed.next().await, Err(FeedEnd::Closed));
        assert_eq!(feed.position(), Revision(6));
    }

    #[tokio::test]
    async fn a_slow_reader_falls_out_with_its_position() {
        let source = FeedSource::with_limits(3, usize::MAX);
        let (_applied, receiver) = watch::channel(Revision(9));
        let mut slow = source.follow(Revision(0), receiver.clone()).unwrap();
        source.push((1..=9).map(batch).collect());
        assert_eq!(slow.next().await, Err(FeedEnd::Lagged { resume: Revision(0) }));
        let compacted = source.follow(Revision(5), receiver.clone()).unwrap_err();
        assert_eq!(compacted, Compacted { oldest: Revision(6) });
        let mut fresh = source.follow(compacted.oldest, receiver).unwrap();
        assert_eq!(revisions(&fresh.next().await.unwrap()), [7, 8, 9]);
    }

    #[tokio::test]
    async fn bytes_bound_the_ring_too() {
        let source = FeedSource::with_limits(usize::MAX, 3 * (CHANGE_WEIGHT + 10));
        let (_applied, receiver) = watch::channel(Revision(9));
        source.push((1..=9).map(batch).collect());
        assert!(source.follow(Revision(5), receiver.clone()).is_err());
        assert!(source.follow(Revision(6), receiver.clone()).is_ok());
        source.reset(Revision(20));
        assert_eq!(source.follow(Revision(9), receiver).unwrap_err().oldest, Revision(20));
    }
}
