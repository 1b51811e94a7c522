//! Bytes written by older builds still load, and what no build knows is refused.
//!
//! Invariant: files under `tests/golden` are never rewritten once released; a new format gets a
//! new folder beside them. `cargo test -p skein-master --lib -- --ignored write_golden_files`
//! writes them (before a release only).

use std::{fs, path::PathBuf};

use openraft::{
    EntryPayload, RaftLogReader as _,
    entry::RaftEntry as _,
    raft::{AppendEntriesRequest, StreamAppendResult},
    storage::{RaftLogStorage as _, RaftLogStorageExt as _},
};
use serde::Serialize;
use skein_common::{ClusterId, NodeId, Resources, Timestamp, node::NodeDescription};
use skein_master_core::{ClusterState, Command, CommandKind, command::Actor};

use super::{
    codec::{Append, Appended, Ballot, DecodeError, Kind, Position, decode, encode},
    fatal::FatalHandler,
    identity::{Formation, Identity},
    log_store::{LogOptions, LogStore},
    snapshot::{SnapshotFolder, read},
    *,
};

const OPTIONS: LogOptions = LogOptions { segment_bytes: 4096, cache_bytes: 1024 };

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/raft-v1")
}

fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("log")).unwrap();
    fs::create_dir(folder.path().join("snapshots")).unwrap();
    for part in ["", "log", "snapshots"] {
        for entry in fs::read_dir(golden().join(part)).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), folder.path().join(part).join(entry.file_name())).unwrap();
            }
        }
    }
    folder
}

fn command(kind: CommandKind) -> Command {
    Command { request: None, at: Timestamp::from_unix_ms(1_800_000_000_000), actor: Actor::User, kind }
}

fn commands() -> [Command; 2] {
    let description = NodeDescription {
        name: "n1".to_owned(),
        address: "10.0.0.1".to_owned(),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        capacity: Resources::default(),
        reserved: Resources::default(),
        platform: skein_common::node::Platform::default(),
        agent_version: "0.1.0".to_owned(),
        runtime_version: "docker 20.10.24".to_owned(),
        generic: Vec::new(),
        balances: false,
        pids: 0,
    };
    let id = NodeId::from_random(7);
    [
        command(CommandKind::FormCluster { id: ClusterId::from_random(1) }),
        command(CommandKind::RegisterNode { id, description: Arc::new(description), incarnation: 3 }),
    ]
}

fn member(name: &str) -> MemberNode {
    MemberNode {
        name: name.to_owned(),
        api_address: format!("{name}:7070"),
        cluster_address: format!("{name}:7071"),
    }
}

fn membership() -> Membership {
    let nodes: std::collections::BTreeMap<u64, MemberNode> =
        ["m1", "m2", "m3"].into_iter().map(|name| (member_id(name), member(name))).collect();
    Membership::new(vec![nodes.keys().copied().collect()], nodes).unwrap()
}

fn entries() -> Vec<Entry> {
    let proposals = commands().map(|command| Proposal::encode(command).unwrap());
    let mut entries = vec![Entry::new_membership(log_id(0, 0), membership()), Entry::new_blank(log_id(1, 1))];
    for (proposal, index) in proposals.into_iter().zip(2..) {
        entries.push(Entry::new_normal(log_id(2, index), proposal));
    }
    entries
}

/// What an entry says, however it was encoded: fields added since are absent from old bytes.
#[derive(Debug, PartialEq)]
enum Meaning {
    Blank,
    Membership(Membership),
    Command(Box<Command>),
}

fn meanings(entries: &[Entry]) -> Vec<(LogId, Meaning)> {
    let meaning = |entry: &Entry| match &entry.payload {
        EntryPayload::Blank => Meaning::Blank,
        EntryPayload::Membership(membership) => Meaning::Membership(membership.clone()),
        EntryPayload::Normal(proposal) => Meaning::Command(Box::new(proposal.decode().unwrap())),
    };
    entries.iter().map(|entry| (entry.log_id(), meaning(entry))).collect()
}

fn vote() -> Vote {
    Ballot { term: 2, member: member_id("m1"), committed: true }.into()
}

fn append() -> AppendEntriesRequest<TypeConfig> {
    AppendEntriesRequest {
        vote: vote(),
        prev_log_id: None,
        leader_commit: Some(log_id(2, 3)),
        entries: entries(),
    }
}

fn fatal() -> FatalHandler {
    FatalHandler::new(|reason| panic!("{reason}"))
}

#[tokio::test]
#[ignore = "rewrites the golden files"]
async fn write_golden_files() {
    let folder = golden();
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    Identity::open(&folder, "m1", &["m1", "m2", "m3"].map(member)).unwrap();
    let (mut log, closed) = LogStore::open(&folder.join("log"), OPTIONS, fatal()).unwrap();
    log.save_vote(&vote()).await.unwrap();
    log.blocking_append(entries()).await.unwrap();
    log.truncate_after(Some(log_id(2, 2))).await.unwrap();
    log.blocking_append(entries().into_iter().skip(3)).await.unwrap();
    log.save_committed(Some(log_id(2, 3))).await.unwrap();
    log.purge(log_id(0, 0)).await.unwrap();
    drop(log);
    closed.await.unwrap();
    fs::remove_file(folder.join("log/LOCK")).unwrap();
    let mut state = ClusterState::default();
    for (command, index) in commands().iter().zip(2..) {
        state.apply(skein_common::Revision(index), command);
    }
    let last_membership = StoredMembership::new(Some(log_id(0, 0)), membership());
    let meta = SnapshotMeta { last_log_id: Some(log_id(2, 3)), last_membership };
    SnapshotFolder::open(&folder.join("snapshots")).unwrap().write(&meta, &state).unwrap();
    fs::write(folder.join("append"), encode(Kind::Append, &Append::from(&append())).unwrap()).unwrap();
    let answer = Appended::from(StreamAppendResult::<TypeConfig>::Ok(Some(log_id(2, 3))));
    fs::write(folder.join("appended"), encode(Kind::Appended, &answer).unwrap()).unwrap();
}

#[tokio::test]
async fn the_first_logs_still_load() {
    let folder = copy();
    let (mut log, _closed) = LogStore::open(&folder.path().join("log"), OPTIONS, fatal()).unwrap();
    let mut reader = log.get_log_reader().await;
    assert_eq!(reader.read_vote().await.unwrap(), Some(vote()));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(2, 3)));
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(log_id(0, 0)));
    let read = reader.try_get_log_entries(..).await.unwrap();
    assert_eq!(meanings(&read), meanings(&entries()[1..]));
}

#[test]
fn the_first_snapshots_still_load() {
    let folder = copy();
    let newest = SnapshotFolder::open(&folder.path().join("snapshots")).unwrap().newest().unwrap().unwrap();
    let (meta, state) = read(&newest).unwrap();
    assert_eq!(meta.last_log_id, Some(log_id(2, 3)));
    assert_eq!(*meta.last_membership.membership(), membership());
    assert_eq!(state.node_by_name("n1").map(|node| node.id), Some(NodeId::from_random(7)));
}

#[test]
fn the_first_identities_still_load() {
    let folder = copy();
    let identity = Identity::open(folder.path(), "m1", &[]).unwrap();
    assert_eq!(identity.id(), member_id("m1"));
    assert_eq!(identity.formation(), Some(Formation::of(&["m1", "m2", "m3"].map(member))));
}

#[test]
fn the_first_messages_are_still_understood() {
    let bytes = fs::read(golden().join("append")).unwrap();
    let request = AppendEntriesRequest::try_from(decode::<Append>(Kind::Append, &bytes).unwrap()).unwrap();
    assert_eq!((request.vote, meanings(&request.entries)), (vote(), meanings(&entries())));
    let bytes = fs::read(golden().join("appended")).unwrap();
    let answer = StreamAppendResult::from(decode::<Appended>(Kind::Appended, &bytes).unwrap());
    assert_eq!(answer, Ok(Some(log_id(2, 3))));
}

#[test]
fn what_is_unknown_is_refused_not_skipped() {
    let good = encode(Kind::Append, &Append::from(&append())).unwrap();
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        decode::<Append>(Kind::Append, &bytes)
    };
    assert!(matches!(changed(0, b'X'), Err(DecodeError::Magic { .. })));
    assert!(matches!(changed(2, 2), Err(DecodeError::Version { found: 2 })));
    assert!(matches!(changed(3, 99), Err(DecodeError::Kind { found: 99, .. })));
    assert!(matches!(changed(good.len() - 1, 0xfe), Err(DecodeError::Checksum)));
    for cut in 0..good.len() {
        assert!(decode::<Append>(Kind::Append, &good[..cut]).is_err(), "cut at {cut}");
    }

    #[derive(Serialize)]
    enum Payload {
        Someday(u8),
    }
    #[derive(Serialize)]
    struct Future {
        term: u64,
        index: u64,
        payload: Payload,
    }
    let future =
        rmp_serde::to_vec_named(&Future { term: 1, index: 1, payload: Payload::Someday(1) }).unwrap();
    let error = rmp_serde::from_slice::<codec::StoredEntry>(&future).unwrap_err().to_string();
    assert!(error.contains("Someday"), "{error}");
}

#[test]
fn entries_that_make_no_sense_are_refused() {
    let refused = |change: fn(&mut Append)| {
        let mut append = Append::from(&append());
        change(&mut append);
        AppendEntriesRequest::try_from(append).is_err()
    };
    assert!(!refused(|_| {}));
    assert!(refused(|append| append.vote.committed = false), "a candidate has no entries to send");
    assert!(refused(|append| append.vote.term = 1), "an entry newer than its leader");
    assert!(refused(|append| drop(append.entries.remove(1))), "a hole");
    assert!(refused(|append| append.previous = Some(Position { term: 1, index: 9 })), "a gap");
    assert!(refused(|append| append.entries[3].term = 0), "terms never go back");
}
