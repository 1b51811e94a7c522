//! When the checkpoint is written.
//!
//! Invariant: one write at a time, off the async threads, always of the newest state. Writing
//! delays no container: a checkpoint that lacks the last moments is made up for by the engine's
//! labels and by the next session's full set. Only two things wait for the disk: a new leader is
//! obeyed after its term is on it (else a deposed one might be obeyed after a crash), and an
//! instance's end is told after it is on it (else a restarted agent, not knowing of the wish to
//! stop, might start what the masters believe ended).
//! Deliberately not here: the file (`checkpoint`).

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use skein_agent_core::Checkpoint;
use tokio::{
    task::{self, JoinHandle},
    time::Instant,
};

use crate::checkpoint;

/// Between two writes nobody waits for: the masters of a small cluster fsync on the same disk.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_WHEN_FAILING: Duration = Duration::from_secs(5);

pub(super) struct Journal {
    /// `None` = nothing is kept.
    folder: Option<PathBuf>,
    /// Grows with every change of the state.
    version: u64,
    /// Newest version on disk.
    durable: u64,
    /// Up to here nobody waits for a disk that fails.
    excused: u64,
    /// Somebody waits for this version.
    awaited: u64,
    writing: Option<(u64, JoinHandle<io::Result<()>>)>,
    not_before: Instant,
    failing: bool,
}

impl Journal {
    pub(super) fn new(folder: Option<&Path>) -> Self {
        Self {
            folder: folder.map(Path::to_owned),
            version: 0,
            durable: 0,
            excused: 0,
            awaited: 0,
            writing: None,
            not_before: Instant::now(),
            failing: false,
        }
    }

    /// The state changed.
    pub(super) fn note(&mut self) {
        self.version += 1;
        if self.folder.is_none() {
            self.durable = self.version;
        }
    }

    /// Everything up to now is to be written without a pause; answers the version to wait for.
    pub(super) fn insist(&mut self) -> u64 {
        if self.failing {
            self.excused = self.version;
        }
        self.awaited = self.version;
        self.version
    }

    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    /// Whoever waits for this version or an earlier one may go on.
    pub(super) fn settled(&self) -> u64 {
        self.durable.max(self.excused)
    }

    /// When to call [`Self::write`], if nothing happens before.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        (self.writing.is_none() && self.durable < self.version).then_some(self.not_before)
    }

    /// Begins to write when it is time.
    pub(super) fn write(&mut self, state: impl FnOnce() -> Checkpoint) {
        let Some(folder) = &self.folder else { return };
        let is_due = self.awaited > self.settled() || self.not_before <= Instant::now();
        if self.writing.is_some() || self.durable >= self.version || !is_due {
            return;
        }
        let (folder, checkpoint) = (folder.clone(), state());
        let write = task::spawn_blocking(move || checkpoint::save(&folder, &checkpoint));
        self.writing = Some((self.version, write));
    }

    /// Pends while nothing is being written.
    pub(super) async fn written(&mut self) {
        let Some((version, writing)) = &mut self.writing else { return std::future::pending().await };
        let outcome = writing.await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        let version = *version;
        self.writing = None;
        match outcome {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the checkpoint is written again");
                }
                self.durable = version;
                self.not_before = Instant::now() + PAUSE;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(
                        error,
                        "the checkpoint cannot be written; a restart would rely on the engine"
                    );
                }
                // A full disk must not keep the node from its work: what waits goes on without.
                self.excused = self.version;
                self.not_before = Instant::now() + PAUSE_WHEN_FAILING;
            }
        }
    }

    /// The last state, when the agent ends.
    pub(super) async fn close(mut self, state: impl FnOnce() -> Checkpoint) {
        if self.writing.is_some() {
            self.written().await;
        }
        self.not_before = Instant::now();
        self.write(state);
        if self.writing.is_some() {
            self.written().await;
        }
    }
}
