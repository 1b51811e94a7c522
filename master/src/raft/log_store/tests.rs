//! The log on a real disk: openraft's conformance suite, reopening, and every kind of damage.

use std::{fs, path::PathBuf};

use openraft::{
    StorageError,
    entry::RaftEntry as _,
    storage::RaftLogStorageExt as _,
    testing::log::{StoreBuilder, Suite},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tempfile::TempDir;

use super::*;
use crate::raft::{
    Proposal, codec::Ballot, log_id, snapshot::SnapshotFolder, state_machine::StateMachine, term_of,
};

/// Small enough that the suite and the tests cross many segments.
const SMALL: LogOptions = LogOptions { segment_bytes: 4096, cache_bytes: 1024 };

fn must_not_fail() -> FatalHandler {
    FatalHandler::new(|reason| panic!("{reason}"))
}

struct Build;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Build {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let folder = tempfile::tempdir().unwrap();
        let (log, _closed) = LogStore::open(&folder.path().join("log"), SMALL, must_not_fail()).unwrap();
        let snapshots = SnapshotFolder::open(&folder.path().join("snapshots")).unwrap();
        let (machine, _published) = StateMachine::open(snapshots, must_not_fail()).unwrap();
        Ok((folder, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_conformance_suite_passes() {
    Suite::test_all(Build).await.unwrap();
}

/// A log that is closed and opened again.
struct Log {
    folder: TempDir,
    options: LogOptions,
}

impl Log {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), options: SMALL }
    }

    fn try_open(&self) -> Result<(LogStore, Closed), OpenLogError> {
        LogStore::open(self.folder.path(), self.options, must_not_fail())
    }

    /// Lets `act` change the log, then closes it.
    async fn with<R>(&self, act: impl AsyncFnOnce(&mut LogStore) -> R) -> R {
        let (mut log, closed) = self.try_open().unwrap();
        let result = act(&mut log).await;
        drop(log);
        closed.await.unwrap();
        result
    }

    async fn contents(&self) -> Contents {
        self.with(contents).await
    }

    fn segments(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut segments: Vec<_> = files.filter(|file| segment::number_of(file).is_some()).collect();
        segments.sort();
        segments
    }

    fn last_segment(&self) -> PathBuf {
        self.segments().pop().unwrap()
    }

    fn refusal(&self) -> String {
        match self.try_open() {
            Err(error @ OpenLogError::Corrupt { .. }) => error.to_string(),
            Err(error) => panic!("refused for another reason: {error}"),
            Ok(_) => panic!("accepted"),
        }
    }
}

#[derive(Debug, PartialEq)]
struct Contents {
    vote: Option<Vote>,
    committed: Option<LogId>,
    state: LogState<TypeConfig>,
    entries: Vec<Entry>,
}

async fn contents(log: &mut LogStore) -> Contents {
    let mut reader = log.get_log_reader().await;
    Contents {
        vote: reader.read_vote().await.unwrap(),
        committed: log.read_committed().await.unwrap(),
        state: log.get_log_state().await.unwrap(),
        entries: reader.try_get_log_entries(..).await.unwrap(),
    }
}

fn entry(term: u64, index: u64) -> Entry {
    let bytes = vec![b'x'; 100 + usize::try_from(index).unwrap() % 50];
    let proposal: Proposal = rmp_serde::from_slice(&rmp_serde::to_vec(&BytesOnly(bytes)).unwrap()).unwrap();
    Entry::new_normal(log_id(term, index), proposal)
}

struct BytesOnly(Vec<u8>);

impl serde::Serialize for BytesOnly {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

async fn append(log: &mut LogStore, term: u64, range: std::ops::Range<u64>) {
    log.blocking_append(range.map(|index| entry(term, index))).await.unwrap();
}

fn vote(term: u64) -> Vote {
    Ballot { term, member: 7, committed: true }.into()
}

/// End of the last record that is written, by its end byte.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

/// Offsets of the records in a segment.
fn records(bytes: &[u8]) -> Vec<usize> {
    let mut at = 512;
    let mut records = Vec::new();
    while let Some(record) = Record::parse(&bytes[at..]) {
        records.push(at);
        at += record.size();
    }
    records
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let log = Log::new();
    let before = log
        .with(async |log| {
            log.save_vote(&vote(3)).await.unwrap();
            append(log, 3, 1..90).await;
            log.save_committed(Some(log_id(3, 80))).await.unwrap();
            append(log, 3, 90..91).await;
            contents(log).await
        })
        .await;
    assert_eq!(before.entries.len(), 90);
    assert!(log.segments().len() > 3, "the test is meant to cross segments");
    assert_eq!(log.contents().await, before);
    assert_eq!(log.contents().await, before);
}

#[tokio::test]
async fn a_conflict_is_still_gone_after_reopening() {
    let log = Log::new();
    let before = log
        .with(async |log| {
            append(log, 1, 0..60).await;
            log.truncate_after(Some(log_id(1, 20))).await.unwrap();
            append(log, 2, 21..40).await;
            log.truncate_after(Some(log_id(2, 30))).await.unwrap();
            contents(log).await
        })
        .await;
    assert_eq!(before.entries.last().unwrap().log_id, log_id(2, 30));
    assert_eq!(log.contents().await, before);
}

#[tokio::test]
async fn purging_deletes_segments_and_survives_reopening() {
    let log = Log::new();
    let (before, segments) = log
        .with(async |log_store| {
            append(log_store, 1, 0..100).await;
            let segments = log.segments().len();
            log_store.save_vote(&vote(4)).await.unwrap();
            log_store.purge(log_id(1, 79)).await.unwrap();
            append(log_store, 4, 100..101).await;
            (contents(log_store).await, segments)
        })
        .await;
    assert!(log.segments().len() < segments / 2, "{segments} -> {}", log.segments().len());
    assert_eq!(before.entries.first().unwrap().log_id.index, 80);
    assert_eq!(log.contents().await, before);
    // Beyond the end, as after a snapshot from the leader.
    log.with(async |log| {
        log.purge(log_id(5, 500)).await.unwrap();
        append(log, 5, 501..503).await;
    })
    .await;
    let after = log.contents().await;
    assert_eq!(after.state.last_purged_log_id, Some(log_id(5, 500)));
    assert_eq!((after.entries.len(), after.vote), (2, Some(vote(4))));
}

#[tokio::test]
async fn truncating_below_deleted_segments_survives_reopening() {
    let log = Log::new();
    let before = log
        .with(async |log| {
            append(log, 1, 0..60).await;
            log.truncate_after(Some(log_id(1, 30))).await.unwrap();
            append(log, 2, 31..62).await;
            log.purge(log_id(2, 60)).await.unwrap();
            append(log, 2, 62..63).await;
            contents(log).await
        })
        .await;
    assert_eq!(log.contents().await, before);
}

#[tokio::test]
async fn an_entry_larger_than_a_segment_gets_its_own() {
    let log = Log::new();
    log.with(async |log| {
        append(log, 1, 0..3).await;
        let bytes = rmp_serde::to_vec(&BytesOnly(vec![b'y'; 20_000])).unwrap();
        let large = Entry::new_normal(log_id(1, 3), rmp_serde::from_slice(&bytes).unwrap());
        log.blocking_append([large]).await.unwrap();
        append(log, 1, 4..6).await;
    })
    .await;
    assert_eq!(log.contents().await.entries.len(), 6);
}

#[tokio::test]
async fn a_folder_belongs_to_one_process() {
    let log = Log::new();
    let (_open, _closed) = log.try_open().unwrap();
    assert!(matches!(log.try_open(), Err(OpenLogError::InUse { .. })));
}

#[tokio::test]
async fn a_torn_end_is_cut_and_the_log_goes_on() {
    // The last group: a vote and entries, some of whose sectors never reached the disk.
    for lost_from_end in [8, 100, 512, 700] {
        let log = Log { options: LogOptions { segment_bytes: 1 << 16, ..SMALL }, ..Log::new() };
        log.with(async |log| {
            append(log, 1, 0..10).await;
            append(log, 1, 10..30).await;
        })
        .await;
        let file = log.last_segment();
        let mut bytes = fs::read(&file).unwrap();
        let end = used(&bytes).next_multiple_of(8);
        // A sector is lost whole.
        let from = (end - lost_from_end) / 512 * 512;
        bytes[from..end].fill(0);
        fs::write(&file, &bytes).unwrap();
        let cut = log.contents().await;
        assert!((10..30).contains(&cut.entries.len()), "{}", cut.entries.len());
        let next = cut.entries.len() as u64;
        log.with(async |log| append(log, 2, next..next + 20).await).await;
        assert_eq!(log.contents().await.entries.len() as u64, next + 20);
    }
}

#[tokio::test]
async fn a_first_lost_sector_of_the_last_group_is_cut_too() {
    let log = Log { options: LogOptions { segment_bytes: 1 << 16, ..SMALL }, ..Log::new() };
    log.with(async |log| {
        append(log, 1, 0..10).await;
    })
    .await;
    let start = used(&fs::read(log.last_segment()).unwrap()).next_multiple_of(8);
    log.with(async |log| append(log, 1, 10..30).await).await;
    let mut bytes = fs::read(log.last_segment()).unwrap();
    bytes[start..start.next_multiple_of(512)].fill(0);
    fs::write(log.last_segment(), &bytes).unwrap();
    assert_eq!(log.contents().await.entries.len(), 10);
    assert_eq!(used(&fs::read(log.last_segment()).unwrap()).next_multiple_of(8), start);
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_refused() {
    let log = Log { options: LogOptions { segment_bytes: 1 << 16, ..SMALL }, ..Log::new() };
    log.with(async |log| {
        append(log, 1, 0..3).await;
        log.save_vote(&vote(3)).await.unwrap();
        append(log, 1, 3..5).await;
    })
    .await;
    let file = log.last_segment();
    let good = fs::read(&file).unwrap();
    let end = used(&good);
    for (record, at) in records(&good).into_iter().enumerate() {
        // Header, payload and end byte, of the last record too: it was acknowledged.
        for byte in [at, at + 2, at + 5, at + 9, at + 17, at + 30] {
            let mut damaged = good.clone();
            damaged[byte] ^= 0x40;
            fs::write(&file, &damaged).unwrap();
            let refusal = log.refusal();
            assert!(refusal.contains(&format!("offset {at}")), "record {record}, byte {byte}: {refusal}");
            assert!(refusal.contains(file.to_str().unwrap()) && refusal.contains("remove this master"));
        }
    }
    let mut damaged = good.clone();
    damaged[end - 1] ^= 0x01;
    fs::write(&file, &damaged).unwrap();
    log.refusal();
    fs::write(&file, &good).unwrap();
    assert_eq!(log.contents().await.entries.len(), 5);
}

#[tokio::test]
async fn zeros_in_the_middle_are_refused() {
    let log = Log { options: LogOptions { segment_bytes: 1 << 16, ..SMALL }, ..Log::new() };
    log.with(async |log| {
        append(log, 1, 0..20).await;
        append(log, 1, 20..22).await;
        append(log, 1, 22..24).await;
    })
    .await;
    let mut bytes = fs::read(log.last_segment()).unwrap();
    bytes[1024..1536].fill(0);
    fs::write(log.last_segment(), &bytes).unwrap();
    log.refusal();
}

#[tokio::test]
async fn short_and_missing_segments_are_refused() {
    let log = Log::new();
    log.with(async |log| append(log, 1, 0..100).await).await;
    let segments = log.segments();
    for segment in [&segments[0], &segments[2], segments.last().unwrap()] {
        let bytes = fs::read(segment).unwrap();
        fs::write(segment, &bytes[..bytes.len() - 512]).unwrap();
        assert!(log.refusal().contains("laid out"));
        fs::write(segment, bytes).unwrap();
    }
    for segment in [&segments[0], &segments[2]] {
        let bytes = fs::read(segment).unwrap();
        fs::remove_file(segment).unwrap();
        log.refusal();
        fs::write(segment, bytes).unwrap();
    }
    // The end of a finished segment, cleanly missing.
    let bytes = fs::read(&segments[1]).unwrap();
    let mut damaged = bytes.clone();
    damaged[*records(&bytes).last().unwrap()..].fill(0);
    fs::write(&segments[1], damaged).unwrap();
    assert!(log.refusal().contains("continue"));
}

#[tokio::test]
async fn what_committed_alone_leaves_behind_is_no_damage() {
    let log = Log::new();
    log.with(async |log| {
        append(log, 1, 0..2).await;
        log.save_committed(Some(log_id(1, 1))).await.unwrap();
    })
    .await;
    // The writer wrote it when it ended, without a sync.
    assert_eq!(log.contents().await.committed, Some(log_id(1, 1)));
    log.with(async |log| append(log, 1, 2..4).await).await;
    let contents = log.contents().await;
    assert_eq!((contents.entries.len(), contents.committed), (4, Some(log_id(1, 1))));
}

#[tokio::test]
async fn a_failed_write_is_fatal_and_acknowledges_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (told, reason) = std::sync::mpsc::channel();
    let fatal = FatalHandler::new(move |reason| told.send(reason.to_owned()).unwrap());
    let (mut log, _closed) = LogStore::open(folder.path(), SMALL, fatal).unwrap();
    // The next segment cannot be created any more.
    fs::remove_dir_all(folder.path()).unwrap();
    let result = log.blocking_append((0..100).map(|index| entry(1, index))).await;
    assert!(result.is_err());
    assert!(reason.recv().unwrap().contains("nothing is acknowledged"));
    assert!(log.save_vote(&vote(9)).await.is_err());
}

#[tokio::test]
async fn entries_that_left_the_cache_are_read_from_the_files() {
    let log = Log::new();
    log.with(async |log| {
        append(log, 1, 0..200).await;
        let mut reader = log.get_log_reader().await;
        let read = reader.try_get_log_entries(3..=150).await.unwrap();
        assert_eq!(read.len(), 148);
        assert!(read.iter().zip(3..).all(|(read, index)| *read == entry(1, index)));
        let some = reader.limited_get_log_entries(0, 200).await.unwrap();
        assert_eq!(some.len(), 200);
        assert_eq!(term_of(&some[0].log_id), 1);
    })
    .await;
}

/// What the log must hold.
#[derive(Default)]
struct Model {
    term: u64,
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: std::collections::BTreeMap<u64, u64>,
}

impl Model {
    fn next(&self) -> u64 {
        let purged = self.purged.map_or(0, |purged| purged.index + 1);
        self.entries.last_key_value().map_or(purged, |(last, _)| last + 1)
    }

    fn check(&self, found: &Contents, why: &str) {
        let entries: Vec<_> = self.entries.iter().map(|(index, term)| entry(*term, *index)).collect();
        let last = self.entries.last_key_value().map(|(index, term)| log_id(*term, *index));
        assert_eq!(found.entries, entries, "{why}");
        assert_eq!((found.vote, found.state.last_purged_log_id), (self.vote, self.purged), "{why}");
        assert_eq!(found.state.last_log_id, last.or(self.purged), "{why}");
    }

    /// One change, of the log and of what it must hold.
    async fn step(&mut self, log: &mut LogStore, random: &mut StdRng) {
        match random.random_range(0..9) {
            0..=4 => {
                let next = self.next();
                let count = random.random_range(1..12);
                append(log, self.term, next..next + count).await;
                self.entries.extend((next..next + count).map(|index| (index, self.term)));
            }
            5 => {
                self.term += 1;
                log.save_vote(&vote(self.term)).await.unwrap();
                self.vote = Some(vote(self.term));
            }
            6 => {
                let first = self.purged.map_or(0, |purged| purged.index + 1);
                let keep = random.random_range(first..=self.next()).checked_sub(1);
                let term = |index| self.entries.get(&index).copied();
                let kept = keep.and_then(|keep| Some(log_id(term(keep)?, keep))).or(self.purged);
                log.truncate_after(kept).await.unwrap();
                self.entries.retain(|index, _| keep.is_some_and(|keep| *index <= keep));
            }
            7 => {
                // Beyond the end too, as after a snapshot.
                let upto = random.random_range(0..self.next() + 2);
                let term = self.entries.get(&upto).copied().unwrap_or(self.term);
                if self.purged.is_none_or(|purged| purged.index < upto) {
                    log.purge(log_id(term, upto)).await.unwrap();
                    self.purged = Some(log_id(term, upto));
                    self.entries.retain(|index, _| *index > upto);
                }
            }
            _ => log.save_committed(self.purged).await.unwrap(),
        }
    }
}

#[tokio::test]
async fn whatever_happens_reopening_finds_what_was_written() {
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut model = Model::default();
        let log = Log::new();
        for round in 0..12 {
            let steps = random.random_range(1..15);
            let why = format!("seed {seed}, round {round}");
            let found = log
                .with(async |log| {
                    for _ in 0..steps {
                        model.step(log, &mut random).await;
                    }
                    contents(log).await
                })
                .await;
            model.check(&found, &why);
            model.check(&log.contents().await, &format!("{why}, reopened"));
        }
    }
}

#[tokio::test]
async fn a_crash_in_the_last_write_loses_nothing_that_was_acknowledged() {
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut model = Model::default();
        let log = Log { options: LogOptions { segment_bytes: 1 << 18, ..SMALL }, ..Log::new() };
        for round in 0..8 {
            log.with(async |log| {
                for _ in 0..random.random_range(1..6) {
                    model.step(log, &mut random).await;
                }
            })
            .await;
            let next = model.next();
            let before = log
                .with(async |store| {
                    let before = fs::read(log.last_segment()).unwrap();
                    append(store, model.term, next..next + 20).await;
                    before
                })
                .await;
            // Of the sectors that the last write touched, some never arrived.
            let mut after = fs::read(log.last_segment()).unwrap();
            for sector in (0..after.len()).step_by(512).filter(|_| random.random_bool(0.5)) {
                after[sector..sector + 512].copy_from_slice(&before[sector..sector + 512]);
            }
            fs::write(log.last_segment(), &after).unwrap();
            let found = log.contents().await;
            let survived = found.entries.last().map_or(0, |last| last.log_id.index + 1);
            model.entries.extend((next..survived).map(|index| (index, model.term)));
            model.check(&found, &format!("seed {seed}, round {round}"));
        }
    }
}
