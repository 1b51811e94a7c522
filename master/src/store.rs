//! The one door to consensus: read the state, propose commands, follow changes, change members.
//!
//! Invariant: `snapshot` never blocks and never waits; `propose` and `linearize` always answer,
//! within seconds, whatever the other masters do; "not proposed" is said only when it is certain.
//! Deliberately not here: what a command does (`skein-master-core`), who may call (`grpc/`).

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use skein_common::Revision;
use skein_master_core::{ClusterState, Outcome, Rejection};
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::raft::{
    Raft,
    identity::{Identity, IdentityError},
    log_store::{Closed, LogReader, LogStore, OpenLogError},
    network::{Network, peers::Peers},
    snapshot::{SnapshotError, SnapshotFolder},
    state_machine::{Published, StateMachine},
};

mod batch;
mod formation;
mod leadership;
mod membership;
mod propose;
mod read;
mod status;

pub(crate) use leadership::LastHeard;
pub use leadership::Leadership;
pub(crate) use membership::Change;
pub use membership::MembershipError;
pub(crate) use propose::Attempt;
pub use propose::ProposeError;
pub use read::ReadError;
pub use status::{ClusterStatus, Member, Role};

pub use crate::raft::{
    MemberNode, Timing,
    fatal::{EXIT_STORAGE_FAILED, FatalHandler},
    feed::{ChangeBatch, Compacted, Feed, FeedEnd},
    log_store::LogOptions,
    member_id,
};

/// Largest command, encoded. One entry must fit into one message between masters.
pub const MAX_COMMAND_BYTES: usize = 16 << 20;
/// Commands in flight at once. More wait: their memory stays bounded, and so does the queue that
/// a leader carries into an election.
const PROPOSALS_IN_FLIGHT: usize = 16_384;

/// How to open a [`Store`].
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Holds the log, the snapshots and the identity. Created when missing.
    pub data_dir: PathBuf,
    /// This master.
    pub me: MemberNode,
    /// Forms the cluster at the first start; ignored ever after. Empty = waits to be added.
    pub initial_masters: Vec<MemberNode>,
    pub timing: Timing,
    pub log: LogOptions,
    /// Called when the storage fails or the log cannot be applied.
    pub fatal: FatalHandler,
}

impl StoreOptions {
    /// Defaults for everything that has one.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, me: MemberNode, initial_masters: Vec<MemberNode>) -> Self {
        Self {
            data_dir: data_dir.into(),
            me,
            initial_masters,
            timing: Timing::default(),
            log: LogOptions::default(),
            fatal: FatalHandler::exit_process(),
        }
    }
}

/// Why a store cannot be opened. The texts say which file, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot use the data folder {}", folder.display())]
    Folder { folder: PathBuf, source: io::Error },
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Log(#[from] OpenLogError),
    #[error(
        "the snapshot cannot be used; remove this master from the cluster, delete its data folder and add it again under a new name"
    )]
    Snapshot(#[from] SnapshotError),
    #[error("the timing is not usable: {0}")]
    Timing(String),
    #[error("consensus did not start: {0}")]
    Raft(String),
}

/// A command that is in the log of a quorum for ever, and what it did.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// Index of its log entry. `snapshot()` on the asked master has it (unless that master lags
    /// more than half a second behind the leader).
    pub revision: Revision,
    pub outcome: Result<Outcome, Rejection>,
}

/// A cheap handle; all clones are the same store.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub raft: Raft,
    pub identity: Identity,
    pub peers: Peers,
    pub snapshots: SnapshotFolder,
    pub last_heard: LastHeard,
    pub log: LogReader,
    pub fatal: FatalHandler,
    published: Published,
    leadership: watch::Receiver<Leadership>,
    timing: Timing,
    proposals: Semaphore,
    batches: batch::Batches,
    /// Held by the change of the members under way here.
    membership: tokio::sync::Mutex<()>,
    stop: CancellationToken,
    tasks: TaskTracker,
    closed: Mutex<Option<Closed>>,
}

struct Opened {
    log: LogStore,
    closed: Closed,
    identity: Identity,
    snapshots: SnapshotFolder,
    machine: StateMachine,
    published: Published,
}

fn open_files(options: &StoreOptions) -> Result<Opened, OpenError> {
    let folder: &Path = &options.data_dir;
    std::fs::create_dir_all(folder)
        .map_err(|source| OpenError::Folder { folder: folder.to_owned(), source })?;
    // First, because it locks the folder.
    let (log, closed) = LogStore::open(&folder.join("log"), options.log, options.fatal.clone())?;
    let identity = Identity::open(folder, &options.me.name, &options.initial_masters)?;
    let snapshots = SnapshotFolder::open(&folder.join("snapshots"))?;
    let (machine, published) = StateMachine::open(snapshots.clone(), options.fatal.clone())?;
    Ok(Opened { log, closed, identity, snapshots, machine, published })
}

impl Store {
    /// Opens this master's data and takes part in its cluster. The cluster port must be served
    /// (see [`crate::raft::server::RaftServer`]) for the others to reach it.
    pub async fn open(options: StoreOptions) -> Result<Self, OpenError> {
        let config = options
            .timing
            .config(options.me.name.clone())
            .map_err(|error| OpenError::Timing(error.to_string()))?;
        let for_files = options.clone();
        let opened = tokio::task::spawn_blocking(move || open_files(&for_files))
            .await
            .map_err(|error| OpenError::Raft(error.to_string()))??;
        let Opened { log, closed, identity, snapshots, machine, published } = opened;
        let peers = Peers::new(identity.clone());
        let reader = log.reader();
        let raft = Raft::new(identity.id(), config, Network::new(peers.clone()), log, machine)
            .await
            .map_err(|error| OpenError::Raft(error.to_string()))?;
        let last_heard = LastHeard::default();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (sender, leadership) = watch::channel(Leadership::default());
        let observer = leadership::Observer {
            raft: raft.clone(),
            last_heard: last_heard.clone(),
            timing: options.timing.clone(),
            fatal: options.fatal.clone(),
            leadership: sender,
        };
        tasks.spawn(observer.run(stop.clone()));
        let formation = formation::Formation {
            raft: raft.clone(),
            timing: options.timing.clone(),
            masters: options.initial_masters,
        };
        tasks.spawn(formation.run(stop.clone()));
        let lease = Duration::from_millis(options.timing.lease_ms());
        let (batcher, batches) = batch::Batcher::new(raft.clone(), identity.id(), leadership.clone(), lease);
        tasks.spawn(batcher.run(stop.clone()));
        tasks.close();
        Ok(Self(Arc::new(Inner {
            raft,
            identity,
            peers,
            snapshots,
            last_heard,
            log: reader,
            fatal: options.fatal,
            published,
            leadership,
            timing: options.timing,
            proposals: Semaphore::new(PROPOSALS_IN_FLIGHT),
            batches,
            membership: tokio::sync::Mutex::new(()),
            stop,
            tasks,
            closed: Mutex::new(Some(closed)),
        })))
    }

    /// The state as last applied on this master. Never blocks, never waits.
    #[must_use]
    pub fn snapshot(&self) -> Arc<ClusterState> {
        self.0.published.state.load_full()
    }

    /// Index of the last entry applied on this master.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<Revision> {
        self.0.published.applied.clone()
    }

    /// Follows what changes after a revision, exclusive.
    pub fn feed(&self, after: Revision) -> Result<Feed, Compacted> {
        self.0.published.feed.follow(after, self.changed())
    }

    /// Who leads, as this master sees it.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// Stops taking part and closes the files; the folder can then be opened again.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.wait().await;
        if let Err(error) = self.0.raft.shutdown().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "consensus ended with an error");
        }
        let closed = self.0.closed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(closed) = closed {
            // An error means the writer is gone already.
            let _ = closed.await;
        }
    }
}

impl Inner {
    /// A quorum that is not heard from for this long is lost.
    fn lease(&self) -> Duration {
        Duration::from_millis(self.timing.lease_ms())
    }

    /// Ends the process when consensus itself has ended for another reason than our asking.
    pub(crate) fn check(&self, fatal: &openraft::errors::Fatal<crate::raft::TypeConfig>) {
        if !matches!(fatal, openraft::errors::Fatal::Stopped) && !self.stop.is_cancelled() {
            self.fatal.call(&format!("consensus has failed: {fatal}"));
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.0.identity.name())
    }
}
