//! The state machine: applies committed commands and publishes what they gave.
//!
//! Invariant: readers get a whole state from [`ArcSwap`] without a lock; the caller of a command
//! is answered only after the state with its effect is published. The state lives in memory: after
//! a start it is the last snapshot plus the committed log.
//! Deliberately not here: what a command means (`skein-master-core`).

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::{Stream, StreamExt as _};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine},
};
use skein_common::Revision;
use skein_master_core::ClusterState;
use tokio::sync::watch;

use super::{
    Entry, LogId, Response, SnapshotMeta, StoredMembership, TypeConfig,
    codec::Coverage,
    fatal::FatalHandler,
    feed::{ChangeBatch, FeedSource},
    snapshot::{self, SnapshotError, SnapshotFile, SnapshotFolder},
};

/// Entries applied before what they gave is published, at most.
const PUBLISH_EVERY: usize = 1024;
/// Between two tries to write a snapshot to a full disk.
const SPACE_PATIENCE: Duration = Duration::from_secs(10);

/// What readers see of the state machine.
#[derive(Debug, Clone)]
pub struct Published {
    pub state: Arc<ArcSwap<ClusterState>>,
    pub applied: watch::Receiver<Revision>,
    pub feed: FeedSource,
}

/// The snapshot on disk: what it covers, and where it is.
type Kept = Arc<Mutex<Option<(SnapshotMeta, PathBuf)>>>;
type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>;

#[derive(Debug)]
pub struct StateMachine {
    state: ClusterState,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    published: Arc<ArcSwap<ClusterState>>,
    applied: watch::Sender<Revision>,
    feed: FeedSource,
    folder: SnapshotFolder,
    kept: Kept,
    fatal: FatalHandler,
}

/// Answers and changes of entries that are applied but not yet published.
#[derive(Default)]
struct Pending {
    answers: Vec<(ApplyResponder<TypeConfig>, Response)>,
    changes: Vec<(ChangeBatch, usize)>,
    entries: usize,
}

impl StateMachine {
    /// The state of the newest snapshot in `folder`; blocking. Refuses a damaged one.
    pub fn open(folder: SnapshotFolder, fatal: FatalHandler) -> Result<(Self, Published), SnapshotError> {
        let (kept, state) = match folder.newest()? {
            Some(path) => {
                let (meta, state) = snapshot::read(&path)?;
                (Some((meta, path)), state)
            }
            None => (None, ClusterState::default()),
        };
        let meta = kept.as_ref().map(|(meta, _)| meta.clone()).unwrap_or_default();
        let last_applied = meta.last_log_id;
        let revision = Revision(last_applied.map_or(0, |last| last.index));
        let published = Arc::new(ArcSwap::from_pointee(state.clone()));
        let (applied, applied_receiver) = watch::channel(revision);
        let feed = FeedSource::default();
        feed.reset(revision);
        let machine = Self {
            state,
            last_applied,
            membership: meta.last_membership,
            published: published.clone(),
            applied,
            feed: feed.clone(),
            folder,
            kept: Arc::new(Mutex::new(kept)),
            fatal,
        };
        Ok((machine, Published { state: published, applied: applied_receiver, feed }))
    }

    fn apply_entry(&mut self, entry: Entry, pending: &mut Pending) -> io::Result<Response> {
        let index = entry.log_id.index;
        self.last_applied = Some(entry.log_id);
        pending.entries += 1;
        match entry.payload {
            EntryPayload::Blank => Ok(Response(None)),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Ok(Response(None))
            }
            EntryPayload::Normal(proposal) => {
                let command = proposal.decode().map_err(|error| {
                    // Skipping it would make this master's state differ from the others'.
                    let reason = format!(
                        "entry {index} of the log is no command that this build knows ({error}); run the version \
                         the other masters run"
                    );
                    self.fatal.call(&reason);
                    io::Error::new(io::ErrorKind::InvalidData, reason)
                })?;
                let applied = self.state.apply(Revision(index), &command);
                if !applied.changes.is_empty() {
                    let batch = ChangeBatch { revision: Revision(index), changes: applied.changes };
                    pending.changes.push((batch, proposal.bytes().len()));
                }
                Ok(Response(Some(applied.outcome)))
            }
        }
    }

    fn publish(&self, pending: &mut Pending) {
        if pending.entries == 0 {
            return;
        }
        self.published.store(Arc::new(self.state.clone()));
        self.feed.push(std::mem::take(&mut pending.changes));
        self.applied.send_replace(Revision(self.last_applied.map_or(0, |last| last.index)));
        // A batch waits for its first answer first: told last, it finds all the others.
        for (responder, response) in pending.answers.drain(..).rev() {
            responder.send(response);
        }
        pending.entries = 0;
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last_applied, last_membership: self.membership.clone() }
    }
}

/// Remembers a snapshot, unless a newer one was received while it was being written.
fn keep(kept: &Kept, meta: &SnapshotMeta, file: &SnapshotFile) {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.as_ref().is_none_or(|(known, _)| known.last_log_id <= meta.last_log_id) {
        *kept = Some((meta.clone(), file.path.clone()));
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut pending = Pending::default();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let response = self.apply_entry(entry, &mut pending)?;
            pending.answers.extend(responder.map(|responder| (responder, response)));
            if pending.entries == PUBLISH_EVERY {
                self.publish(&mut pending);
            }
        }
        self.publish(&mut pending);
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        // Both clones are O(1); the work happens in the builder, beside the apply loop.
        Builder {
            state: self.state.clone(),
            meta: self.meta(),
            folder: self.folder.clone(),
            kept: self.kept.clone(),
            fatal: self.fatal.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        received: SnapshotFile,
    ) -> Result<(), io::Error> {
        let (folder, covered) = (self.folder.clone(), meta.clone());
        let (state, file) = tokio::task::spawn_blocking(move || {
            let state = match received.state {
                Some(state) => *state,
                None => snapshot::read(&received.path)?.1,
            };
            let file = folder.adopt(&received.path, &Coverage::from(&covered))?;
            Ok::<_, SnapshotError>((state, file))
        })
        .await
        .map_err(io::Error::other)??;
        self.state = state;
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        let revision = Revision(self.last_applied.map_or(0, |last| last.index));
        self.feed.reset(revision);
        keep(&self.kept, meta, &file);
        self.publish(&mut Pending { entries: 1, ..Pending::default() });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(kept.map(|(meta, path)| Snapshot { meta, snapshot: SnapshotFile { path, state: None } }))
    }
}

/// Writes a snapshot of the state as it was when the builder was made.
#[derive(Debug)]
pub struct Builder {
    state: ClusterState,
    meta: SnapshotMeta,
    folder: SnapshotFolder,
    kept: Kept,
    fatal: FatalHandler,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let started = std::time::Instant::now();
        let snapshot = loop {
            let (folder, meta, state) = (self.folder.clone(), self.meta.clone(), self.state.clone());
            let written = tokio::task::spawn_blocking(move || folder.write(&meta, &state)).await;
            match written.map_err(io::Error::other)? {
                Ok(snapshot) => break snapshot,
                // The log has what the snapshot would have had, so there is time.
                Err(SnapshotError::Io { file, source }) if source.kind() == io::ErrorKind::StorageFull => {
                    tracing::error!(file = %file.display(), "no space left for a snapshot; waiting for some");
                    tokio::time::sleep(SPACE_PATIENCE).await;
                }
                Err(error) => {
                    self.fatal.call(&format!("writing a snapshot failed: {error}"));
                    return Err(error.into());
                }
            }
        };
        keep(&self.kept, &self.meta, &snapshot);
        tracing::info!(
            index = self.meta.last_log_id.map(|last| last.index),
            took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "snapshot written"
        );
        Ok(Snapshot { meta: self.meta.clone(), snapshot })
    }
}
