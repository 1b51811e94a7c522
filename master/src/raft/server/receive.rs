//! Receiving a snapshot.
//!
//! Invariant: openraft sees a snapshot only when every block of it was read and understood, so a
//! damaged one costs a retry and not this master. What it had stays until then.
//! Deliberately not here: the file format (`snapshot.rs`).

use std::{
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Duration,
};

use openraft::async_runtime::watch::WatchReceiver as _;
use skein_proto::v1::{self, install_snapshot_request::Part};
use tokio::io::AsyncWriteExt as _;
use tonic::{Status, Streaming};

use super::{RaftServer, decode};
use crate::raft::{
    SnapshotMeta, TypeConfig, Vote,
    codec::{Kind, SnapshotBegin},
    snapshot::{self, SnapshotFile},
    term_of,
};

/// A leader that sends nothing for this long has given up.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// Deletes what was received unless it was adopted (and renamed) meanwhile.
struct Aside(PathBuf);

impl Drop for Aside {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl RaftServer {
    /// Receives and installs; answers this master's vote.
    pub(super) async fn receive(
        &self,
        mut parts: Streaming<v1::InstallSnapshotRequest>,
    ) -> Result<Vote, Status> {
        let Ok(_permit) = self.receiving.try_acquire() else {
            return Err(Status::resource_exhausted("snapshots are being received already"));
        };
        let Some(Part::Begin(begin)) = next_part(&mut parts).await? else {
            return Err(Status::invalid_argument("a snapshot starts with begin"));
        };
        let begin: SnapshotBegin = decode(Kind::SnapshotBegin, &begin)?;
        let vote = Vote::from(begin.vote);
        let meta = SnapshotMeta::try_from(begin.coverage)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.check(&vote, &meta)?;
        let number = self.received.fetch_add(1, Ordering::Relaxed);
        let aside = Aside(self.store.0.snapshots.receiving(number));
        write_parts(&aside.0, begin.length, &mut parts).await?;
        let path = aside.0.clone();
        let read = tokio::task::spawn_blocking(move || snapshot::read(&path)).await;
        let (read_meta, state) = read
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| Status::data_loss(error.to_string()))?;
        if read_meta != meta {
            return Err(Status::data_loss("the snapshot covers something else than was said"));
        }
        tracing::info!(
            bytes = begin.length,
            index = meta.last_log_id.map(|last| last.index),
            "snapshot received"
        );
        let file = SnapshotFile { path: aside.0.clone(), state: Some(Box::new(state)) };
        let installed =
            self.store.0.raft.install_full_snapshot(vote, Snapshot { meta, snapshot: file }).await;
        installed.map(|response| response.vote).map_err(|fatal| self.fatal(&fatal))
    }

    /// What openraft takes for granted, and would panic about.
    fn check(&self, vote: &Vote, meta: &SnapshotMeta) -> Result<(), Status> {
        let Some(last) = meta.last_log_id else {
            return Err(Status::invalid_argument("the snapshot covers nothing"));
        };
        if !vote.is_committed() || term_of(&last) > vote.leader_id().term {
            return Err(Status::invalid_argument("the snapshot is newer than the leader that sends it"));
        }
        let committed = self.store.0.raft.metrics().borrow_watched().local_committed;
        if committed.is_some_and(|committed| last > committed && last.index <= committed.index) {
            return Err(Status::failed_precondition("the snapshot contradicts what is committed here"));
        }
        Ok(())
    }
}

async fn next_part(parts: &mut Streaming<v1::InstallSnapshotRequest>) -> Result<Option<Part>, Status> {
    let message = tokio::time::timeout(CHUNK_TIMEOUT, parts.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the snapshot stopped coming"))??;
    match message {
        None => Ok(None),
        Some(message) => {
            message.part.map(Some).ok_or_else(|| Status::invalid_argument("a part of the snapshot is empty"))
        }
    }
}

async fn write_parts(
    path: &Path,
    length: u64,
    parts: &mut Streaming<v1::InstallSnapshotRequest>,
) -> Result<(), Status> {
    let failed = |error: std::io::Error| Status::internal(format!("the snapshot cannot be stored: {error}"));
    let mut file = tokio::fs::File::create(path).await.map_err(failed)?;
    let mut left = length;
    while let Some(part) = next_part(parts).await? {
        let Part::Chunk(chunk) = part else {
            return Err(Status::invalid_argument("a snapshot has one begin"));
        };
        left = left
            .checked_sub(chunk.len() as u64)
            .ok_or_else(|| Status::invalid_argument("the snapshot is longer than was said"))?;
        file.write_all(&chunk).await.map_err(failed)?;
    }
    if left > 0 {
        return Err(Status::data_loss("the snapshot ended early"));
    }
    file.sync_all().await.map_err(failed)
}
