//! The one thread that writes the log.
//!
//! Invariant: requests reach the disk in the order they were sent, votes and entries alike, and
//! nothing is acknowledged before the fdatasync that covers it. Whatever arrived while the last
//! fdatasync ran goes into the next group: no timer, no waiting. After a failed write or sync
//! nothing is ever acknowledged again.
//! Deliberately not here: what is asked of the log (`log_store.rs`), the file layout.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use super::{
    index::{Index, Place, Segment},
    segment::{self, Checkpoint, Group, Prepared, RecordKind, SECTOR},
};
use crate::raft::{
    Entry, LogId, TypeConfig, Vote,
    codec::{Ballot, Position, StoredEntry},
    fatal::FatalHandler,
    term_of,
};

/// A group beyond this is written at once, so that one fdatasync stays short.
const GROUP_BYTES: usize = 8 << 20;
/// `committed` alone is not worth an fdatasync, nor a write of its own while more is coming.
const COMMITTED_DELAY: Duration = Duration::from_millis(50);

/// What the writer is asked to do.
pub enum Request {
    Append { entries: Vec<Entry>, flushed: IOFlushed<TypeConfig> },
    Vote { vote: Vote, saved: oneshot::Sender<io::Result<()>> },
    Committed(Option<LogId>),
    TruncateAfter(Option<LogId>),
    Purge(LogId),
}

/// Who waits for the fdatasync.
enum Waiter {
    Append(IOFlushed<TypeConfig>),
    Vote(Vote, oneshot::Sender<io::Result<()>>),
}

/// The segment being written.
pub struct Current {
    pub number: u64,
    pub file: Arc<File>,
    pub capacity: u64,
    pub end: u64,
    /// Of the next group; never zero.
    pub group: u32,
}

pub struct Writer {
    pub folder: PathBuf,
    pub segment_bytes: u64,
    pub index: Arc<Mutex<Index>>,
    pub current: Current,
    /// What a new segment's header has to repeat: the state as of the records written.
    pub state: Checkpoint,
    pub fatal: FatalHandler,
    /// Held for its lock: released when this thread ends.
    _lock: File,
    group: Group,
    waiting: Vec<Waiter>,
    places: Vec<(u64, Place)>,
    unsaved_committed: Option<Position>,
    obsolete: bool,
    next: Option<thread::JoinHandle<io::Result<Prepared>>>,
}

pub(super) fn locked(index: &Mutex<Index>) -> MutexGuard<'_, Index> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer {
    pub fn new(
        folder: PathBuf,
        segment_bytes: u64,
        index: Arc<Mutex<Index>>,
        (current, state): (Current, Checkpoint),
        fatal: FatalHandler,
        lock: File,
    ) -> Self {
        let mut group = Group::default();
        group.restart(current.group);
        Self {
            folder,
            segment_bytes,
            index,
            current,
            state,
            fatal,
            _lock: lock,
            group,
            waiting: Vec::new(),
            places: Vec::new(),
            unsaved_committed: None,
            obsolete: false,
            next: None,
        }
    }

    /// Serves until every sender is gone.
    pub fn run(mut self, requests: &mpsc::Receiver<Request>) {
        while let Some(first) = self.wait(requests) {
            let result = self.one_group(first, requests);
            if let Err(error) = result {
                return self.fail(&error, requests);
            }
        }
        if self.unsaved_committed.is_some() {
            // Best effort: it only spares the next start some waiting.
            let _ = self.write_committed_alone();
        }
        drop(self.next.take().map(thread::JoinHandle::join));
    }

    fn wait(&mut self, requests: &mpsc::Receiver<Request>) -> Option<Request> {
        if self.unsaved_committed.is_none() {
            return requests.recv().ok();
        }
        match requests.recv_timeout(COMMITTED_DELAY) {
            Ok(request) => Some(request),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => match self.write_committed_alone() {
                Ok(()) => requests.recv().ok(),
                Err(error) => {
                    self.fail(&error, requests);
                    None
                }
            },
        }
    }

    fn one_group(&mut self, first: Request, requests: &mpsc::Receiver<Request>) -> io::Result<()> {
        let mut next = Some(first);
        while let Some(request) = next {
            self.take(request)?;
            next = if self.group.len() < GROUP_BYTES { requests.try_recv().ok() } else { None };
        }
        if self.group.is_empty() {
            return Ok(());
        }
        self.add_committed()?;
        self.flush()?;
        if std::mem::take(&mut self.obsolete) {
            self.delete_obsolete()?;
        }
        self.prepare_next();
        Ok(())
    }

    /// Puts a request into the group.
    fn take(&mut self, request: Request) -> io::Result<()> {
        match request {
            Request::Append { entries, flushed } => {
                for entry in &entries {
                    self.add_entry(entry)?;
                }
                self.waiting.push(Waiter::Append(flushed));
            }
            Request::Vote { vote, saved } => {
                let ballot = Ballot::from(vote);
                self.add(RecordKind::Vote, &ballot)?;
                self.state.vote = Some(ballot);
                self.waiting.push(Waiter::Vote(vote, saved));
            }
            Request::Committed(committed) => self.unsaved_committed = committed.map(Into::into),
            Request::TruncateAfter(keep) => {
                let keep = keep.map(Position::from);
                self.add(RecordKind::Truncate, &keep)?;
                self.state.last = keep.or(self.state.purged);
            }
            Request::Purge(upto) => {
                let upto = Position::from(upto);
                self.add(RecordKind::Purge, &upto)?;
                self.state.purged = Some(upto);
                if self.state.last.is_none_or(|last| last.index < upto.index) {
                    self.state.last = Some(upto);
                }
                self.obsolete = true;
            }
        }
        Ok(())
    }

    fn add_entry(&mut self, entry: &Entry) -> io::Result<()> {
        let stored = StoredEntry::from(entry);
        let (offset, payload) = self.add(RecordKind::Entry, &stored)?;
        let place = Place {
            term: term_of(&entry.log_id),
            segment: narrow(self.current.number)?,
            offset: narrow(self.current.end + offset as u64)?,
            payload: narrow(payload as u64)?,
        };
        self.places.push((entry.log_id.index, place));
        self.state.last = Some(entry.log_id.into());
        Ok(())
    }

    /// Adds a record to the group, in the next segment when this one has no room.
    fn add<T: serde::Serialize>(&mut self, kind: RecordKind, payload: &T) -> io::Result<(usize, usize)> {
        let before = self.group.len();
        let place = self.group.push(kind, payload)?;
        if self.current.end + self.group.len() as u64 <= self.current.capacity {
            return Ok(place);
        }
        // Take the record out again, finish the segment, and put it at the start of the next one.
        let needed = (self.group.len() - before) as u64;
        self.group.take_back(place.0);
        self.flush()?;
        self.rotate(needed)?;
        self.group.push(kind, payload)
    }

    fn add_committed(&mut self) -> io::Result<()> {
        if let Some(committed) = self.unsaved_committed.take() {
            self.add(RecordKind::Committed, &committed)?;
            self.state.committed = Some(committed);
        }
        Ok(())
    }

    /// Written, not synced: losing it to a power cut costs nothing but freshness of stale reads.
    fn write_committed_alone(&mut self) -> io::Result<()> {
        self.add_committed()?;
        let bytes = self.group.finish(false);
        self.current.file.write_all_at(bytes, self.current.end)?;
        self.current.end += bytes.len() as u64;
        // The group goes on: its number only grows with an fdatasync.
        self.group.restart(self.current.group);
        Ok(())
    }

    /// Writes and syncs the group, then tells everybody who waits.
    fn flush(&mut self) -> io::Result<()> {
        if self.group.is_empty() {
            return Ok(());
        }
        let bytes = self.group.finish(true);
        self.current.file.write_all_at(bytes, self.current.end)?;
        self.current.end += bytes.len() as u64;
        self.current.file.sync_data()?;
        self.current.group = self.current.group.wrapping_add(1).max(1);
        self.group.restart(self.current.group);
        {
            let mut index = locked(&self.index);
            for (number, place) in self.places.drain(..) {
                index.written(number, place);
            }
            for waiter in &self.waiting {
                if let Waiter::Vote(vote, _) = waiter {
                    index.vote = Some(*vote);
                }
            }
            index.evict();
        }
        for waiter in self.waiting.drain(..) {
            match waiter {
                Waiter::Append(flushed) => flushed.io_completed(Ok(())),
                Waiter::Vote(_, saved) => drop(saved.send(Ok(()))),
            }
        }
        Ok(())
    }

    fn rotate(&mut self, needed: u64) -> io::Result<()> {
        // Its last record may be one that was only written. A finished segment is whole.
        self.current.file.sync_data()?;
        let number = self.current.number + 1;
        let room = SECTOR + needed;
        let prepared = match self.next.take() {
            Some(next) => next.join().map_err(|_| io::Error::other("preparing a segment panicked"))??,
            None => segment::prepare(&self.folder, number, self.segment_bytes.max(room))?,
        };
        let prepared = if prepared.capacity < room {
            segment::prepare(&self.folder, number, room.next_multiple_of(SECTOR))?
        } else {
            prepared
        };
        let capacity = prepared.capacity;
        let header =
            Checkpoint { segment: number, capacity, previous_end: self.current.end, ..self.state.clone() };
        let (file, path) = prepared.activate(&self.folder, &header)?;
        let file = Arc::new(file);
        locked(&self.index)
            .segments
            .insert(narrow(number)?, Segment { file: file.clone(), path, highest: None });
        self.current = Current { number, file, capacity, end: SECTOR, group: 1 };
        self.group.restart(1);
        Ok(())
    }

    /// Fills the next segment with zeros in the background once half of this one is used.
    fn prepare_next(&mut self) {
        if self.next.is_some() || self.current.end < self.current.capacity / 2 {
            return;
        }
        let (folder, number, bytes) = (self.folder.clone(), self.current.number + 1, self.segment_bytes);
        let spawned = thread::Builder::new()
            .name("log-prepare".to_owned())
            .spawn(move || segment::prepare(&folder, number, bytes));
        // Without a thread the next rotation prepares it itself.
        self.next = spawned.ok();
    }

    fn delete_obsolete(&self) -> io::Result<()> {
        let obsolete = locked(&self.index).take_obsolete(narrow(self.current.number)?);
        if obsolete.is_empty() {
            return Ok(());
        }
        for segment in &obsolete {
            std::fs::remove_file(&segment.path)?;
        }
        segment::sync_folder(&self.folder)
    }

    /// Ends the process, or in tests refuses everything from now on.
    fn fail(&mut self, error: &io::Error, requests: &mpsc::Receiver<Request>) {
        self.fatal.call(&format!(
            "writing the Raft log in {} failed: {error}; nothing is acknowledged any more, and a restart checks the log",
            self.folder.display()
        ));
        for waiter in self.waiting.drain(..) {
            refuse(waiter, error);
        }
        while let Ok(request) = requests.recv() {
            match request {
                Request::Append { flushed, .. } => refuse(Waiter::Append(flushed), error),
                Request::Vote { vote, saved } => refuse(Waiter::Vote(vote, saved), error),
                Request::Committed(_) | Request::TruncateAfter(_) | Request::Purge(_) => {}
            }
        }
    }
}

fn refuse(waiter: Waiter, error: &io::Error) {
    let error = io::Error::new(error.kind(), error.to_string());
    match waiter {
        Waiter::Append(flushed) => flushed.io_completed(Err(error)),
        Waiter::Vote(_, saved) => drop(saved.send(Err(error))),
    }
}

fn narrow(value: u64) -> io::Result<u32> {
    u32::try_from(value).map_err(|_| io::Error::other("a segment number or offset exceeds 32 bits"))
}
