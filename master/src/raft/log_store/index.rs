//! Where each entry of the log lies, and the newest entries themselves.
//!
//! Invariant: `places` covers exactly the log, `base..base + len`, without holes; `cache` is a
//! suffix of it and always holds every entry that is not in a file yet.
//! Deliberately not here: files (`segment.rs`) and order on disk (`writer.rs`).

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io,
    ops::Range,
    path::PathBuf,
    sync::Arc,
};

use openraft::EntryPayload;

use crate::raft::{Entry, LogId, Vote, codec::Position, term_of};

/// Memory the cached entries may take. Replication reads from here; a follower that is further
/// behind is served from the files, which the kernel caches.
pub const CACHE_BYTES: usize = 8 << 20;
/// What an entry costs besides its command.
const ENTRY_OVERHEAD: usize = 160;

/// A record in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub term: u64,
    /// `0` = not written yet.
    pub segment: u32,
    pub offset: u32,
    pub payload: u32,
}

/// A segment that can be read.
#[derive(Debug, Clone)]
pub struct Segment {
    pub file: Arc<File>,
    pub path: PathBuf,
    /// Highest index ever written into it.
    pub highest: Option<u64>,
}

/// An entry a reader asked for.
#[derive(Debug)]
pub enum Found {
    Cached(Entry),
    InFile { segment: Segment, offset: u64, payload: usize, position: Position },
}

#[derive(Debug, Default)]
pub struct Index {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    /// Index of `places[0]`.
    base: u64,
    places: VecDeque<Place>,
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    cache_budget: usize,
    pub segments: BTreeMap<u32, Segment>,
}

fn weight(entry: &Entry) -> usize {
    ENTRY_OVERHEAD
        + match &entry.payload {
            EntryPayload::Blank => 0,
            EntryPayload::Normal(proposal) => proposal.bytes().len(),
            EntryPayload::Membership(_) => 1024,
        }
}

impl Index {
    /// The index of a log of which `places` starts at `base`.
    #[must_use]
    pub fn new(base: u64, places: VecDeque<Place>, cache_budget: usize) -> Self {
        Self { base, places, cache_budget, ..Self::default() }
    }

    /// One past the last index.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.base + self.places.len() as u64
    }

    fn slot(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(self.base)?).ok().filter(|slot| *slot < self.places.len())
    }

    #[must_use]
    pub fn last(&self) -> Option<LogId> {
        match self.places.back() {
            Some(place) => Some(crate::raft::log_id(place.term, self.next() - 1)),
            None => self.purged,
        }
    }

    /// Adds entries that follow the last one; they are readable from now on.
    pub fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        for entry in entries {
            if self.places.is_empty() && self.purged.is_none() && self.base == 0 {
                // An empty log may start anywhere: the conformance suite does so.
                self.base = entry.log_id.index;
            }
            if entry.log_id.index != self.next() {
                return Err(io::Error::other(format!(
                    "entry {} does not follow the log, which ends before {}",
                    entry.log_id.index,
                    self.next()
                )));
            }
            self.places.push_back(Place { term: term_of(&entry.log_id), segment: 0, offset: 0, payload: 0 });
            self.cache_bytes += weight(entry);
            self.cache.push_back(entry.clone());
        }
        Ok(())
    }

    /// Remembers where a record was written, unless the entry was truncated meanwhile.
    pub fn written(&mut self, index: u64, place: Place) {
        if let Some(slot) = self.slot(index)
            && self.places[slot].term == place.term
        {
            self.places[slot] = place;
        }
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.highest = segment.highest.max(Some(index));
        }
    }

    /// Drops old cached entries beyond the budget; those not yet in a file stay.
    pub fn evict(&mut self) {
        while self.cache_bytes > self.cache_budget {
            let slot = self.places.len() - self.cache.len();
            if self.places.get(slot).is_none_or(|place| place.segment == 0) {
                return;
            }
            self.forget_oldest_cached();
        }
    }

    fn forget_oldest_cached(&mut self) {
        if let Some(entry) = self.cache.pop_front() {
            self.cache_bytes -= weight(&entry);
        }
    }

    /// Voids every entry after `keep`.
    pub fn truncate_after(&mut self, keep: Option<u64>) {
        let next = keep.map_or(0, |index| index + 1);
        while self.next() > next.max(self.base) {
            self.places.pop_back();
            if let Some(entry) = self.cache.pop_back() {
                self.cache_bytes -= weight(&entry);
            }
        }
    }

    /// Forgets entries up to `upto`; the log may then be empty and start after it.
    pub fn purge(&mut self, upto: LogId) {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        while self.base <= upto.index && !self.places.is_empty() {
            if self.cache.len() == self.places.len() {
                self.forget_oldest_cached();
            }
            self.places.pop_front();
            self.base += 1;
        }
        self.base = self.base.max(upto.index + 1);
        self.purged = Some(upto);
    }

    /// The part of `range` that the log has, from memory or as places in files.
    pub fn find(&self, range: Range<u64>, max_entries: usize) -> io::Result<Vec<Found>> {
        let end = range.end.min(self.next());
        let cache_start = self.next() - self.cache.len() as u64;
        let mut found = Vec::new();
        for index in range.start.max(self.base)..end {
            if found.len() == max_entries {
                break;
            }
            found.push(match index.checked_sub(cache_start).and_then(|slot| usize::try_from(slot).ok()) {
                Some(slot) => Found::Cached(self.cache[slot].clone()),
                None => self.in_file(index)?,
            });
        }
        Ok(found)
    }

    fn in_file(&self, index: u64) -> io::Result<Found> {
        let place = self.slot(index).map(|slot| self.places[slot]);
        let segment = place.and_then(|place| Some((place, self.segments.get(&place.segment)?)));
        let Some((place, segment)) = segment else {
            return Err(io::Error::other(format!("entry {index} of the log is in no segment")));
        };
        Ok(Found::InFile {
            segment: segment.clone(),
            offset: u64::from(place.offset),
            payload: place.payload as usize,
            position: Position { term: place.term, index },
        })
    }

    /// Takes out the oldest segments of which no entry is needed, the one in use excepted.
    pub fn take_obsolete(&mut self, current: u32) -> Vec<Segment> {
        let Some(purged) = self.purged else { return Vec::new() };
        let mut obsolete = Vec::new();
        while let Some((number, segment)) = self.segments.first_key_value() {
            if *number >= current || segment.highest.is_some_and(|highest| highest > purged.index) {
                break;
            }
            obsolete.extend(self.segments.pop_first().map(|(_, segment)| segment));
        }
        obsolete
    }
}

#[cfg(test)]
mod tests {
    use openraft::entry::RaftEntry as _;

    use super::*;
    use crate::raft::log_id;

    fn entries(term: u64, range: Range<u64>) -> Vec<Entry> {
        range.map(|index| Entry::new_blank(log_id(term, index))).collect()
    }

    fn filled() -> Index {
        let mut index = Index::new(0, VecDeque::new(), 3 * ENTRY_OVERHEAD);
        index.append(&entries(1, 0..10)).unwrap();
        index
    }

    fn found(index: &Index, range: Range<u64>) -> Vec<u64> {
        let position = |found| match found {
            Found::Cached(entry) => entry.log_id.index,
            Found::InFile { position, .. } => position.index,
        };
        index.find(range, usize::MAX).unwrap().into_iter().map(position).collect()
    }

    #[test]
    fn only_written_entries_leave_the_cache() {
        let mut index = filled();
        index.evict();
        assert_eq!(index.cache.len(), 10);
        for number in 0..5 {
            index.written(number, Place { term: 1, segment: 1, offset: 512, payload: 8 });
        }
        index.evict();
        assert_eq!(index.cache.len(), 5);
    }

    #[test]
    fn a_late_write_does_not_claim_a_replaced_entry() {
        let mut index = filled();
        index.truncate_after(Some(4));
        index.append(&entries(2, 5..7)).unwrap();
        index.written(5, Place { term: 1, segment: 1, offset: 512, payload: 8 });
        assert_eq!(index.places[5].segment, 0);
        assert_eq!(index.last(), Some(log_id(2, 6)));
    }

    #[test]
    fn truncating_and_purging_what_is_absent_changes_nothing() {
        let mut index = filled();
        index.truncate_after(Some(20));
        assert_eq!(index.next(), 10);
        index.purge(log_id(1, 3));
        index.purge(log_id(1, 2));
        assert_eq!(found(&index, 0..100), (4..10).collect::<Vec<_>>());
        index.truncate_after(None);
        assert_eq!((index.next(), index.last()), (4, Some(log_id(1, 3))));
        index.purge(log_id(2, 50));
        assert_eq!((index.next(), index.last()), (51, Some(log_id(2, 50))));
    }

    #[test]
    fn a_hole_is_refused() {
        assert!(filled().append(&entries(1, 11..12)).is_err());
    }
}
