//! Reads the log back at start, and refuses what cannot be explained.
//!
//! Invariant: the only damage that is repaired is the end of the last group of the last segment,
//! and only when a part of it visibly never reached the disk: nobody was told that it was there.
//! Everything else (a flipped bit, a short file, a missing segment) stops the member before it
//! votes: acknowledged entries may be gone, and the other masters have them.
//! Deliberately not here: writing (`writer.rs`).

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    index::{Index, Place, Segment},
    segment::{self, Checkpoint, Group, RECORD_HEADER, Record, RecordKind, SECTOR},
    writer::Current,
};
use crate::raft::codec::{Ballot, DecodeError, Position, StoredEntry};

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenLogError {
    #[error("cannot read or write the Raft log in {}", folder.display())]
    Io { folder: PathBuf, source: io::Error },
    #[error("{} is in use by another process", folder.display())]
    InUse { folder: PathBuf },
    #[error(
        "the Raft log is damaged: {} at offset {offset}: {what}. This master refuses to start, because it may have \
         lost what it acknowledged. Keep a copy of the folder, remove this master from the cluster \
         (`skein cluster remove`), delete its data folder and add it again under a new name; the other masters have \
         the data",
        file.display()
    )]
    Corrupt { file: PathBuf, offset: u64, what: String },
}

/// A log that was read back.
pub struct Recovered {
    pub index: Index,
    pub current: Current,
    pub state: Checkpoint,
}

/// What replaying the records gives.
struct Replay {
    state: Checkpoint,
    /// Index of `places[0]`.
    base: u64,
    places: VecDeque<Place>,
    segments: BTreeMap<u32, Segment>,
}

/// Where the records of a segment end.
struct End {
    offset: u64,
    /// Group of the last record, and whether that record closes it.
    group: u32,
    closed: bool,
}

struct SegmentFile {
    path: PathBuf,
    file: Arc<File>,
    bytes: Vec<u8>,
    header: Checkpoint,
}

/// Opens the log in `folder`, creating an empty one where there is none.
pub fn recover(folder: &Path, segment_bytes: u64, cache_bytes: usize) -> Result<Recovered, OpenLogError> {
    let io_error = |source| OpenLogError::Io { folder: folder.to_owned(), source };
    let numbers = list(folder).map_err(io_error)?;
    let Some((first, last)) = numbers.first().zip(numbers.last()) else {
        return create(folder, segment_bytes, cache_bytes).map_err(io_error);
    };
    let mut replay: Option<Replay> = None;
    let mut end = End { offset: SECTOR, group: 0, closed: true };
    let mut open = None;
    for number in *first..=*last {
        let segment = SegmentFile::read(folder, number)?;
        match &replay {
            None => replay = Some(Replay::start(&segment.header)),
            Some(replay) => replay.check_continues(&segment, end.offset)?,
        }
        let Some(replay) = &mut replay else { continue };
        end = replay.segment(&segment, number == *last)?;
        open = Some(segment);
    }
    let (Some(replay), Some(segment)) = (replay, open) else {
        return create(folder, segment_bytes, cache_bytes).map_err(io_error);
    };
    replay.finish(&segment, end, cache_bytes)
}

/// Numbers of the segments, ascending; files that never became segments are deleted.
fn list(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            std::fs::remove_file(&path)?;
        }
        numbers.extend(segment::number_of(&path));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn create(folder: &Path, segment_bytes: u64, cache_bytes: usize) -> io::Result<Recovered> {
    let state = Checkpoint { segment: 1, capacity: segment_bytes, ..Checkpoint::default() };
    let (file, path) = segment::prepare(folder, 1, segment_bytes)?.activate(folder, &state)?;
    let file = Arc::new(file);
    let mut index = Index::new(0, VecDeque::new(), cache_bytes);
    index.segments.insert(1, Segment { file: file.clone(), path, highest: None });
    let current = Current { number: 1, file, capacity: segment_bytes, end: SECTOR, group: 1 };
    Ok(Recovered { index, current, state })
}

impl SegmentFile {
    fn read(folder: &Path, number: u64) -> Result<Self, OpenLogError> {
        let path = segment::path_of(folder, number);
        let corrupt = |what: String| OpenLogError::Corrupt { file: path.clone(), offset: 0, what };
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(corrupt("the segment is missing between others".to_owned()));
            }
            Err(source) => return Err(OpenLogError::Io { folder: folder.to_owned(), source }),
        };
        let bytes =
            std::fs::read(&path).map_err(|source| OpenLogError::Io { folder: folder.to_owned(), source })?;
        let header = Checkpoint::decode(&bytes).map_err(&corrupt)?;
        if header.segment != number {
            return Err(corrupt(format!("its header says that it is segment {}", header.segment)));
        }
        if header.capacity != bytes.len() as u64 {
            let what = format!("it has {} bytes where {} were laid out", bytes.len(), header.capacity);
            return Err(OpenLogError::Corrupt { file: path, offset: bytes.len() as u64, what });
        }
        Ok(Self { path, file: Arc::new(file), bytes, header })
    }

    fn at(&self, offset: u64) -> &[u8] {
        usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset..)).unwrap_or_default()
    }

    fn corrupt(&self, offset: u64, what: impl Into<String>) -> OpenLogError {
        OpenLogError::Corrupt { file: self.path.clone(), offset, what: what.into() }
    }

    /// Judges bytes that are no record: `Ok` = the log may end here.
    fn judge_end(&self, end: &End, is_last: bool) -> Result<(), OpenLogError> {
        let rest = self.at(end.offset);
        if rest.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let damaged = || self.corrupt(end.offset, "a record's checksum does not match");
        // A finished segment was synced whole before the next one existed.
        if !is_last || self.has_later_group(end) || !self.lacks_a_sector(end.offset) {
            return Err(damaged());
        }
        Ok(())
    }

    /// Whether a group follows that can only have been written after the bytes at `end` were
    /// synced.
    fn has_later_group(&self, end: &End) -> bool {
        let damaged_group = if end.closed { end.group.wrapping_add(1) } else { end.group };
        let mut offset = end.offset;
        while let Some(position) = self.at(offset).windows(2).step_by(8).position(|pair| pair == b"SR") {
            offset += position as u64 * 8;
            match Record::parse(self.at(offset)) {
                Some(record) if record.group > damaged_group => return true,
                Some(record) => offset += record.size() as u64,
                None => offset += 8,
            }
        }
        false
    }

    /// Whether a sector's part of the record at `offset` is all zeros. No record has such a part:
    /// it starts with its magic and its last eight bytes contain its end byte. When its header is
    /// not whole, only the header is judged, because its length means nothing.
    fn lacks_a_sector(&self, offset: u64) -> bool {
        let rest = self.at(offset);
        let size = Record::claimed_size(rest).unwrap_or(RECORD_HEADER).min(rest.len());
        let to_boundary = usize::try_from(SECTOR - offset % SECTOR).unwrap_or(512).min(size);
        let (head, tail) = rest[..size].split_at(to_boundary);
        std::iter::once(head).chain(tail.chunks(512)).any(|part| part.iter().all(|byte| *byte == 0))
    }
}

impl Replay {
    fn start(header: &Checkpoint) -> Self {
        Self {
            base: header.last.map_or(0, |last| last.index + 1),
            state: header.clone(),
            places: VecDeque::new(),
            segments: BTreeMap::new(),
        }
    }

    fn check_continues(&self, segment: &SegmentFile, previous_end: u64) -> Result<(), OpenLogError> {
        let expected = Checkpoint {
            segment: segment.header.segment,
            capacity: segment.header.capacity,
            previous_end,
            ..self.state.clone()
        };
        if expected == segment.header {
            Ok(())
        } else {
            Err(segment.corrupt(0, "it does not continue the segment before, the end of which is lost"))
        }
    }

    fn next(&self) -> u64 {
        self.base + self.places.len() as u64
    }

    /// Replays one segment's records.
    fn segment(&mut self, segment: &SegmentFile, is_last: bool) -> Result<End, OpenLogError> {
        let number = u32::try_from(segment.header.segment).unwrap_or(u32::MAX);
        let handle = Segment { file: segment.file.clone(), path: segment.path.clone(), highest: None };
        self.segments.insert(number, handle);
        let mut end = End { offset: SECTOR, group: 0, closed: true };
        while let Some(record) = Record::parse(segment.at(end.offset)) {
            self.record(number, end.offset, &record).map_err(|what| segment.corrupt(end.offset, what))?;
            end = End {
                offset: end.offset + record.size() as u64,
                group: record.group,
                closed: record.last_of_group,
            };
        }
        segment.judge_end(&end, is_last)?;
        Ok(end)
    }

    fn record(&mut self, segment: u32, offset: u64, record: &Record<'_>) -> Result<(), String> {
        fn read<T: serde::de::DeserializeOwned>(record: &Record<'_>) -> Result<T, String> {
            rmp_serde::from_slice(record.payload)
                .map_err(DecodeError::from)
                .map_err(|error| format!("{error}: a newer version may have written it"))
        }
        match record.kind {
            RecordKind::Entry => {
                let entry: StoredEntry = read(record)?;
                self.entry(
                    segment,
                    offset,
                    record.payload.len(),
                    Position { term: entry.term, index: entry.index },
                )
            }
            RecordKind::Vote => read::<Ballot>(record).map(|vote| self.state.vote = Some(vote)),
            RecordKind::Committed => read(record).map(|committed| self.state.committed = Some(committed)),
            RecordKind::Truncate => read(record).map(|keep| self.truncate(keep)),
            RecordKind::Purge => read(record).map(|upto| self.purge(upto)),
        }
    }

    fn entry(&mut self, segment: u32, offset: u64, payload: usize, at: Position) -> Result<(), String> {
        if self.places.is_empty() && self.state.last.is_none() {
            self.base = at.index;
        }
        if at.index != self.next() {
            return Err(format!("entry {} follows entry {}", at.index, self.next().wrapping_sub(1)));
        }
        self.places.push_back(Place {
            term: at.term,
            segment,
            offset: u32::try_from(offset).map_err(|_| "the offset exceeds 32 bits")?,
            payload: u32::try_from(payload).map_err(|_| "the length exceeds 32 bits")?,
        });
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.highest = segment.highest.max(Some(at.index));
        }
        self.state.last = Some(at);
        Ok(())
    }

    fn truncate(&mut self, keep: Option<Position>) {
        let next = keep.map_or(0, |position| position.index + 1);
        while self.next() > next && self.places.pop_back().is_some() {}
        if self.places.is_empty() {
            self.base = self.base.min(next);
        }
        self.state.last = keep.or(self.state.purged);
    }

    fn purge(&mut self, upto: Position) {
        while self.base <= upto.index && self.places.pop_front().is_some() {
            self.base += 1;
        }
        self.base = self.base.max(upto.index + 1);
        self.state.purged = Some(upto);
        if self.state.last.is_none_or(|last| last.index < upto.index) {
            self.state.last = Some(upto);
        }
    }

    fn finish(self, segment: &SegmentFile, end: End, cache_bytes: usize) -> Result<Recovered, OpenLogError> {
        let purged = self.state.purged;
        let known_from = purged.map_or(self.base, |purged| purged.index + 1);
        let oldest_is_first = segment.header.segment == 1 || self.segments.contains_key(&1);
        if self.base != known_from || (purged.is_none() && !oldest_is_first) {
            return Err(segment.corrupt(
                0,
                format!(
                    "entries {known_from} to {} are missing: their segments are gone",
                    self.base.wrapping_sub(1)
                ),
            ));
        }
        let end = seal(segment, &end, self.state.last)
            .map_err(|source| OpenLogError::Io { folder: segment.path.clone(), source })?;
        let mut index = Index::new(self.base, self.places, cache_bytes);
        index.vote = self.state.vote.map(Into::into);
        index.committed = self.state.committed.map(Into::into);
        index.purged = purged.map(Into::into);
        index.segments = self.segments;
        let current = Current {
            number: segment.header.segment,
            file: segment.file.clone(),
            capacity: segment.header.capacity,
            end: end.offset,
            group: end.group.wrapping_add(1).max(1),
        };
        Ok(Recovered { index, current, state: self.state })
    }
}

/// Cuts a torn end off and closes an open group, so that what is written next cannot be mistaken
/// for a part of what was lost.
fn seal(segment: &SegmentFile, end: &End, last: Option<Position>) -> io::Result<End> {
    let rest = segment.at(end.offset);
    if let Some(torn) = rest.iter().rposition(|byte| *byte != 0) {
        tracing::warn!(
            file = %segment.path.display(),
            offset = end.offset,
            bytes = torn + 1,
            "cut off the end of the Raft log: it was being written when the machine stopped, and nobody was told"
        );
        segment.file.write_all_at(&vec![0; torn + 1], end.offset)?;
        segment.file.sync_data()?;
    }
    if end.closed {
        return Ok(End { ..*end });
    }
    let mut group = Group::default();
    group.restart(end.group);
    // Says what is the case anyway.
    group.push(RecordKind::Truncate, &last)?;
    let bytes = group.finish(true);
    if end.offset + bytes.len() as u64 > segment.header.capacity {
        // No room, so nothing will ever follow here: the next record opens a segment.
        return Ok(End { closed: true, ..*end });
    }
    segment.file.write_all_at(bytes, end.offset)?;
    segment.file.sync_data()?;
    Ok(End { offset: end.offset + bytes.len() as u64, group: end.group, closed: true })
}
