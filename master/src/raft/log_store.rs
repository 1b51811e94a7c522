//! The durable log: openraft's storage traits over segment files of our own.
//!
//! Invariant: a vote is durable before `save_vote` returns; an entry is readable when `append`
//! returns and reported flushed only after the fdatasync that covers it; votes and entries reach
//! the disk in one order, through one thread (`writer.rs`). One process per folder.
//! Deliberately not here: the state machine and its snapshots.

use std::{
    fmt::Debug,
    fs::{File, OpenOptions},
    io,
    ops::{Bound, RangeBounds},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    thread,
};

use openraft::{
    OptionalSend, RaftLogReader,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use tokio::sync::oneshot;

use self::{
    index::{CACHE_BYTES, Found, Index},
    segment::{RECORD_HEADER, Record},
    writer::{Request, Writer, locked},
};
use super::{Entry, LogId, TypeConfig, Vote, codec::StoredEntry, fatal::FatalHandler};

mod index;
mod recovery;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

pub use recovery::OpenLogError;
pub use segment::sync_folder;

/// One replication message carries at most about this much.
const REPLY_BYTES: usize = 2 << 20;

/// Sizes of the log; tests use small ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOptions {
    pub segment_bytes: u64,
    pub cache_bytes: usize,
}

impl Default for LogOptions {
    /// 16 MiB: small enough to be filled with zeros in a blink, large enough that rotating (two
    /// syncs and a rename) is rare.
    fn default() -> Self {
        Self { segment_bytes: 16 << 20, cache_bytes: CACHE_BYTES }
    }
}

/// The log of this member. Dropping it ends its writer, which then releases the folder.
pub struct LogStore {
    requests: mpsc::Sender<Request>,
    index: Arc<Mutex<Index>>,
}

/// Resolves when the writer has ended and the folder is free again.
pub type Closed = oneshot::Receiver<()>;

impl LogStore {
    /// Opens the log in `folder`; blocking. Refuses damage and a folder that is in use.
    pub fn open(
        folder: &Path,
        options: LogOptions,
        fatal: FatalHandler,
    ) -> Result<(Self, Closed), OpenLogError> {
        let io_error = |source| OpenLogError::Io { folder: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(io_error)?;
        let lock = lock(folder)?;
        let recovered = recovery::recover(folder, options.segment_bytes, options.cache_bytes)?;
        let index = Arc::new(Mutex::new(recovered.index));
        let writer = Writer::new(
            folder.to_owned(),
            options.segment_bytes,
            index.clone(),
            (recovered.current, recovered.state),
            fatal,
            lock,
        );
        let (requests, received) = mpsc::channel();
        let (ended, closed) = oneshot::channel();
        thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || {
                writer.run(&received);
                let _ = ended.send(());
            })
            .map_err(io_error)?;
        Ok((Self { requests, index }, closed))
    }

    #[must_use]
    pub fn reader(&self) -> LogReader {
        LogReader { index: self.index.clone() }
    }

    fn send(&self, request: Request) -> io::Result<()> {
        self.requests.send(request).map_err(|_| io::Error::other("the log's writer has ended"))
    }
}

fn lock(folder: &Path) -> Result<File, OpenLogError> {
    let io_error = |source| OpenLogError::Io { folder: folder.to_owned(), source };
    let path: PathBuf = folder.join("LOCK");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(io_error)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenLogError::InUse { folder: folder.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(io_error(source)),
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let index = locked(&self.index);
        Ok(LogState { last_purged_log_id: index.purged, last_log_id: index.last() })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (saved, answer) = oneshot::channel();
        self.send(Request::Vote { vote: *vote, saved })?;
        answer.await.map_err(|_| io::Error::other("the log's writer has ended"))?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        locked(&self.index).committed = committed;
        self.send(Request::Committed(committed))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(locked(&self.index).committed)
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        locked(&self.index).append(&entries)?;
        self.send(Request::Append { entries, flushed })
    }

    async fn truncate_after(&mut self, keep: Option<LogId>) -> Result<(), io::Error> {
        {
            let mut index = locked(&self.index);
            if index.next() <= keep.map_or(0, |keep| keep.index + 1) {
                return Ok(());
            }
            index.truncate_after(keep.map(|keep| keep.index));
        }
        self.send(Request::TruncateAfter(keep))
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        locked(&self.index).purge(upto);
        self.send(Request::Purge(upto))
    }
}

/// Reads the log beside its writer.
#[derive(Clone)]
pub struct LogReader {
    index: Arc<Mutex<Index>>,
}

impl LogReader {
    /// The term of the saved vote and one past the last index, as of one moment.
    #[must_use]
    pub fn standing(&self) -> (u64, u64) {
        let index = locked(&self.index);
        (index.vote.map_or(0, |vote| vote.leader_id.term), index.next())
    }

    async fn read(&self, start: u64, end: u64, limits: Option<usize>) -> io::Result<Vec<Entry>> {
        let found = locked(&self.index).find(start..end.max(start), usize::MAX)?;
        let found = match limits {
            Some(bytes) => within(found, bytes),
            None => found,
        };
        if found.iter().all(|found| matches!(found, Found::Cached(_))) {
            return found.into_iter().map(load).collect();
        }
        tokio::task::spawn_blocking(move || found.into_iter().map(load).collect())
            .await
            .map_err(io::Error::other)?
    }
}

/// The first of `found` that together have about this size; at least one.
fn within(mut found: Vec<Found>, bytes: usize) -> Vec<Found> {
    let mut size = 0;
    let fitting = found.iter().position(|found| {
        size += match found {
            Found::Cached(entry) => match &entry.payload {
                openraft::EntryPayload::Normal(proposal) => proposal.bytes().len(),
                openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => 64,
            },
            Found::InFile { payload, .. } => *payload,
        };
        size > bytes
    });
    found.truncate(fitting.unwrap_or(found.len()).max(1));
    found
}

fn load(found: Found) -> io::Result<Entry> {
    match found {
        Found::Cached(entry) => Ok(entry),
        Found::InFile { segment, offset, payload, position } => {
            let mut bytes = vec![0; segment::record_size(payload)];
            segment.file.read_exact_at(&mut bytes, offset)?;
            let damaged = |what: &str| {
                let path = segment.path.display();
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("entry {} in {path} at offset {offset}: {what}", position.index),
                )
            };
            let record = Record::parse(&bytes).ok_or_else(|| damaged("the checksum does not match"))?;
            debug_assert_eq!(record.payload.len() + RECORD_HEADER, payload + RECORD_HEADER);
            let stored: StoredEntry =
                rmp_serde::from_slice(record.payload).map_err(|error| damaged(&error.to_string()))?;
            if (stored.term, stored.index) != (position.term, position.index) {
                return Err(damaged("another entry lies there"));
            }
            stored.restore().map_err(|error| damaged(&error.to_string()))
        }
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, None).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, Some(REPLY_BYTES)).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(locked(&self.index).vote)
    }
}
