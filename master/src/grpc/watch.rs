//! The one watch: snapshot → synced → changes and bookmarks; resumable (see `api.proto`).
//!
//! Invariant: a reader gets every revision that concerns it, in order, once, or an error that says
//! from where to go on. It holds one queue and one position in the change feed; a reader that stops
//! reading falls out of the feed, or out of patience, and costs nothing then.
//! Deliberately not here: what is watched ([`Topic`], one for each kind of object).

use std::{sync::Arc, time::Duration};

use skein_common::Revision;
use skein_master_core::ClusterState;
use skein_proto::v1::ChangeType;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    outbox::{Delivery, NotQueued, Outbox, outbox},
    status::CallError,
    store::{ChangeBatch, Feed, FeedEnd, Store},
};

/// Messages that wait for a reader; each is at most what one command changed.
const QUEUE: usize = 64;
/// A bookmark for a reader that nothing concerned, at most this often ...
const BOOKMARK_EVERY: Duration = Duration::from_secs(5);
/// ... or after this many revisions.
const BOOKMARK_AFTER: u64 = 1000;

pub type Snapshot<'a, M> = Box<dyn Iterator<Item = M> + Send + 'a>;

/// What a watch is about, and how it says it.
pub trait Topic: Send + Sync + 'static {
    type Message: Send + 'static;

    /// One message for each object there is.
    fn snapshot<'a>(&'a self, state: &'a ClusterState) -> Snapshot<'a, Self::Message>;
    /// What of a batch concerns this watch. `state` is at least as new as the batch.
    fn changes(&self, state: &ClusterState, batch: &ChangeBatch) -> Option<Self::Message>;
    fn synced(&self, revision: Revision) -> Self::Message;
    fn bookmark(&self, revision: Revision) -> Self::Message;
}

/// Starts watches and bounds them.
#[derive(Debug, Clone)]
pub struct Watches {
    store: Store,
    permits: Arc<Semaphore>,
    limit: usize,
    patience: Duration,
    tracker: TaskTracker,
    stop: CancellationToken,
}

struct Watch<T: Topic> {
    store: Store,
    topic: T,
    outbox: Outbox<T::Message>,
    patience: Duration,
    /// Everything up to here has been queued.
    told: Revision,
}

impl Watches {
    /// At most `limit` at once; a reader may keep its queue full for `patience`.
    #[must_use]
    pub fn new(
        store: Store,
        limit: usize,
        patience: Duration,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self { store, permits: Arc::new(Semaphore::new(limit)), limit, patience, tracker, stop }
    }

    /// Begins with a snapshot when `after` is 0, else right after that revision.
    pub async fn start<T: Topic>(&self, after: u64, topic: T) -> Result<Delivery<T::Message>, CallError> {
        let permit = self.permits.clone().try_acquire_owned();
        let permit = permit.map_err(|_| CallError::TooMany { what: "watches", limit: self.limit })?;
        let after = Revision(after);
        let (state, feed) = if after == Revision(0) {
            self.store.linearize().await?;
            let state = self.store.snapshot();
            (Some(state.clone()), self.store.feed(state.revision())?)
        } else {
            (None, self.resume(after).await?)
        };
        let (outbox, delivery) = outbox(QUEUE);
        let watch = Watch { store: self.store.clone(), topic, outbox, patience: self.patience, told: after };
        self.tracker.spawn(watch.run(state, feed, self.stop.clone(), permit));
        Ok(delivery)
    }

    /// A revision that this master does not have yet must at least exist.
    async fn resume(&self, after: Revision) -> Result<Feed, CallError> {
        if after > self.store.snapshot().revision() {
            let newest = self.store.linearize().await?;
            if after > newest {
                return Err(CallError::FutureRevision { asked: after, newest });
            }
        }
        Ok(self.store.feed(after)?)
    }
}

impl<T: Topic> Watch<T> {
    async fn run(
        mut self,
        state: Option<Arc<ClusterState>>,
        feed: Feed,
        stop: CancellationToken,
        _permit: OwnedSemaphorePermit,
    ) {
        let end = tokio::select! {
            end = self.tell(state, feed) => end,
            () = stop.cancelled() => Some(CallError::Stopping),
        };
        if let Some(error) = end {
            self.outbox.finish(error);
        }
    }

    /// Until the reader is gone (`None`) or must be told why it ends.
    async fn tell(&mut self, state: Option<Arc<ClusterState>>, mut feed: Feed) -> Option<CallError> {
        let told = match state {
            Some(state) => self.tell_snapshot(&state).await,
            None => Ok(()),
        };
        match told {
            Ok(()) => {}
            Err(NotQueued::Gone) => return None,
            Err(NotQueued::Slow) => return Some(CallError::SlowConsumer { resume: self.told }),
        }
        match self.tell_changes(&mut feed).await {
            Ok(FeedEnd::Closed) => Some(CallError::Stopping),
            Err(NotQueued::Gone) => None,
            Ok(FeedEnd::Lagged { .. }) | Err(NotQueued::Slow) => {
                Some(CallError::SlowConsumer { resume: self.told })
            }
        }
    }

    async fn tell_snapshot(&mut self, state: &ClusterState) -> Result<(), NotQueued> {
        for message in self.topic.snapshot(state) {
            self.outbox.send(message, self.patience).await?;
        }
        let revision = state.revision();
        self.send(revision, self.topic.synced(revision)).await
    }

    async fn tell_changes(&mut self, feed: &mut Feed) -> Result<FeedEnd, NotQueued> {
        let mut bookmarks = interval(BOOKMARK_EVERY);
        bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.outbox.gone() => return Err(NotQueued::Gone),
                batches = feed.next() => match batches {
                    Ok(batches) => self.tell_batches(&batches).await?,
                    Err(end) => return Ok(end),
                },
                _ = bookmarks.tick() => self.bookmark(feed.position(), 1).await?,
            }
            self.bookmark(feed.position(), BOOKMARK_AFTER).await?;
        }
    }

    async fn tell_batches(&mut self, batches: &[Arc<ChangeBatch>]) -> Result<(), NotQueued> {
        let state = self.store.snapshot();
        for batch in batches {
            if let Some(message) = self.topic.changes(&state, batch) {
                self.send(batch.revision, message).await?;
            }
        }
        Ok(())
    }

    /// Says that nothing happened up to `position`, when that is news of `distance` revisions.
    async fn bookmark(&mut self, position: Revision, distance: u64) -> Result<(), NotQueued> {
        if position.0.saturating_sub(self.told.0) < distance {
            return Ok(());
        }
        self.send(position, self.topic.bookmark(position)).await
    }

    async fn send(&mut self, revision: Revision, message: T::Message) -> Result<(), NotQueued> {
        self.outbox.send(message, self.patience).await?;
        self.told = revision;
        Ok(())
    }
}

/// The wire's word for a change.
#[must_use]
pub fn change_type(deleted: bool) -> i32 {
    if deleted { ChangeType::Deleted.into() } else { ChangeType::Upserted.into() }
}
