//! Bytes and back: what this master writes to its disk and says to its peers.
//!
//! Invariant: everything is MessagePack with named fields behind a header of magic, version, kind
//! and CRC32C. An unknown version, kind or field value is an error, never skipped. The shapes here
//! are ours, so a new openraft changes neither disk nor wire.
//! Deliberately not here: record and segment layout (`log_store/segment.rs`).

use std::collections::{BTreeMap, BTreeSet};

use openraft::{
    EntryPayload,
    entry::RaftEntry as _,
    raft::{
        AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderError,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
    vote::{RaftLeaderId as _, RaftVote as _},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Entry, LogId, MemberNode, Membership, Payload, Proposal, SnapshotMeta, StoredMembership, TypeConfig,
    Vote, log_id, term_of,
};

const MAGIC: [u8; 2] = *b"SK";
const VERSION: u8 = 1;
/// magic 2, version 1, kind 1, CRC32C 4.
const HEADER: usize = 8;

/// What a framed message or file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Append = 1,
    Appended = 2,
    Vote = 3,
    Voted = 4,
    Transfer = 5,
    Transferred = 6,
    SnapshotBegin = 7,
    SnapshotDone = 8,
    Outcome = 9,
    Identity = 10,
    SnapshotFile = 11,
}

/// Bytes that are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("{length} bytes are too few for a header")]
    Short { length: usize },
    #[error("these bytes are not Skein's: they start with {found:02x?}")]
    Magic { found: [u8; 2] },
    #[error("format version {found} is unknown; this build knows {VERSION}")]
    Version { found: u8 },
    #[error("expected kind {expected:?}, found number {found}")]
    Kind { expected: Kind, found: u8 },
    #[error("the checksum does not match: the bytes were damaged")]
    Checksum,
    #[error("the content cannot be read")]
    Content(#[from] rmp_serde::decode::Error),
    #[error("{0}")]
    Invalid(&'static str),
}

/// Encodes `value` behind the header.
pub fn encode<T: Serialize>(kind: Kind, value: &T) -> Result<Vec<u8>, rmp_serde::encode::Error> {
    let mut bytes = vec![MAGIC[0], MAGIC[1], VERSION, kind as u8, 0, 0, 0, 0];
    rmp_serde::encode::write_named(&mut bytes, value)?;
    let crc = checksum(&bytes);
    bytes[4..HEADER].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// Checks the header and decodes the value behind it.
pub fn decode<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, DecodeError> {
    let Some((header, body)) = bytes.split_at_checked(HEADER) else {
        return Err(DecodeError::Short { length: bytes.len() });
    };
    if header[..2] != MAGIC {
        return Err(DecodeError::Magic { found: [header[0], header[1]] });
    }
    if header[2] != VERSION {
        return Err(DecodeError::Version { found: header[2] });
    }
    if header[3] != kind as u8 {
        return Err(DecodeError::Kind { expected: kind, found: header[3] });
    }
    if header[4..HEADER] != checksum(bytes).to_le_bytes() {
        return Err(DecodeError::Checksum);
    }
    Ok(rmp_serde::from_slice(body)?)
}

fn checksum(framed: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&framed[..4]), &framed[HEADER..])
}

/// A log id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub term: u64,
    pub index: u64,
}

impl From<LogId> for Position {
    fn from(id: LogId) -> Self {
        Self { term: term_of(&id), index: id.index }
    }
}

impl From<Position> for LogId {
    fn from(position: Position) -> Self {
        log_id(position.term, position.index)
    }
}

/// A vote: given to `member` in `term`; committed once a quorum gave theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    pub term: u64,
    pub member: u64,
    pub committed: bool,
}

impl From<Vote> for Ballot {
    fn from(vote: Vote) -> Self {
        let leader = vote.leader_id();
        Self { term: leader.term, member: leader.voted_for, committed: vote.is_committed() }
    }
}

impl From<Ballot> for Vote {
    fn from(ballot: Ballot) -> Self {
        Vote::from_leader_id(
            openraft::impls::leader_id_std::LeaderId::new(ballot.term, ballot.member),
            ballot.committed,
        )
    }
}

/// The members: two sets of voters while a change is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    pub voters: Vec<BTreeSet<u64>>,
    pub nodes: BTreeMap<u64, MemberNode>,
}

impl From<&Membership> for Members {
    fn from(membership: &Membership) -> Self {
        Self {
            voters: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(id, node)| (*id, node.clone())).collect(),
        }
    }
}

impl TryFrom<Members> for Membership {
    type Error = DecodeError;
    fn try_from(members: Members) -> Result<Self, DecodeError> {
        if members.voters.is_empty() && members.nodes.is_empty() {
            return Ok(Self::default());
        }
        Self::new(members.voters, members.nodes)
            .map_err(|_| DecodeError::Invalid("the membership contradicts itself"))
    }
}

/// An entry of the log, on disk and on the wire.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredEntry {
    pub term: u64,
    pub index: u64,
    pub payload: StoredPayload,
}

/// Its kinds. A kind this build does not know fails to decode, which halts the member.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum StoredPayload {
    /// A new leader's first entry.
    Blank,
    Command(Proposal),
    Members(Members),
}

impl From<&Entry> for StoredEntry {
    fn from(entry: &Entry) -> Self {
        let payload = match &entry.payload {
            EntryPayload::Blank => StoredPayload::Blank,
            EntryPayload::Normal(proposal) => StoredPayload::Command(proposal.clone()),
            EntryPayload::Membership(membership) => StoredPayload::Members(membership.into()),
        };
        Self { term: term_of(&entry.log_id), index: entry.log_id.index, payload }
    }
}

impl StoredEntry {
    /// The entry as openraft knows it.
    pub fn restore(self) -> Result<Entry, DecodeError> {
        let payload: Payload = match self.payload {
            StoredPayload::Blank => EntryPayload::Blank,
            StoredPayload::Command(proposal) => EntryPayload::Normal(proposal),
            StoredPayload::Members(members) => EntryPayload::Membership(members.try_into()?),
        };
        Ok(Entry::new(log_id(self.term, self.index), payload))
    }
}

/// What a snapshot covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    pub last: Option<Position>,
    pub members_at: Option<Position>,
    pub members: Members,
}

impl From<&SnapshotMeta> for Coverage {
    fn from(meta: &SnapshotMeta) -> Self {
        Self {
            last: meta.last_log_id.map(Into::into),
            members_at: meta.last_membership.log_id().map(Into::into),
            members: meta.last_membership.membership().into(),
        }
    }
}

impl TryFrom<Coverage> for SnapshotMeta {
    type Error = DecodeError;
    fn try_from(coverage: Coverage) -> Result<Self, DecodeError> {
        Ok(Self {
            last_log_id: coverage.last.map(Into::into),
            last_membership: StoredMembership::new(
                coverage.members_at.map(Into::into),
                coverage.members.try_into()?,
            ),
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Append {
    pub vote: Ballot,
    pub previous: Option<Position>,
    pub committed: Option<Position>,
    pub entries: Vec<StoredEntry>,
    /// One past the last entry that the member has acknowledged to this leader, as far as the sender
    /// remembers; 0 = nothing.
    #[serde(default)]
    pub acknowledged: u64,
}

impl From<&AppendEntriesRequest<TypeConfig>> for Append {
    fn from(request: &AppendEntriesRequest<TypeConfig>) -> Self {
        Self {
            vote: request.vote.into(),
            previous: request.prev_log_id.map(Into::into),
            committed: request.leader_commit.map(Into::into),
            entries: request.entries.iter().map(Into::into).collect(),
            acknowledged: 0,
        }
    }
}

impl TryFrom<Append> for AppendEntriesRequest<TypeConfig> {
    type Error = DecodeError;
    /// Checks what openraft takes for granted: a peer's nonsense must not reach its assertions.
    fn try_from(append: Append) -> Result<Self, DecodeError> {
        if !append.vote.committed {
            return Err(DecodeError::Invalid("entries from a candidate: the vote is not committed"));
        }
        let mut before = append.previous;
        for entry in &append.entries {
            let expected = before.map_or(0, |position| position.index + 1);
            let term = before.map_or(0, |position| position.term);
            if entry.index != expected || entry.term < term || entry.term > append.vote.term {
                return Err(DecodeError::Invalid("the entries do not follow each other"));
            }
            before = Some(Position { term: entry.term, index: entry.index });
        }
        Ok(Self {
            vote: append.vote.into(),
            prev_log_id: append.previous.map(Into::into),
            leader_commit: append.committed.map(Into::into),
            entries: append.entries.into_iter().map(StoredEntry::restore).collect::<Result<_, _>>()?,
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Appended {
    Matching(Option<Position>),
    Conflict(Position),
    HigherVote(Ballot),
}

impl From<StreamAppendResult<TypeConfig>> for Appended {
    fn from(result: StreamAppendResult<TypeConfig>) -> Self {
        match result {
            Ok(matching) => Self::Matching(matching.map(Into::into)),
            Err(StreamAppendError::Conflict(at)) => Self::Conflict(at.into()),
            Err(StreamAppendError::HigherVote(vote)) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<Appended> for StreamAppendResult<TypeConfig> {
    fn from(appended: Appended) -> Self {
        match appended {
            Appended::Matching(matching) => Ok(matching.map(Into::into)),
            Appended::Conflict(at) => Err(StreamAppendError::Conflict(at.into())),
            Appended::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote.into())),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct AskVote {
    pub vote: Ballot,
    pub last: Option<Position>,
    pub leadership_transfer: bool,
}

impl From<VoteRequest<TypeConfig>> for AskVote {
    fn from(request: VoteRequest<TypeConfig>) -> Self {
        Self {
            vote: request.vote.into(),
            last: request.last_log_id.map(Into::into),
            leadership_transfer: request.leadership_transfer,
        }
    }
}

impl From<AskVote> for VoteRequest<TypeConfig> {
    fn from(ask: AskVote) -> Self {
        let mut request = Self::new(ask.vote.into(), ask.last.map(Into::into));
        request.leadership_transfer = ask.leadership_transfer;
        request
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Voted {
    pub vote: Ballot,
    pub granted: bool,
    pub last: Option<Position>,
}

impl From<VoteResponse<TypeConfig>> for Voted {
    fn from(response: VoteResponse<TypeConfig>) -> Self {
        Self {
            vote: response.vote.into(),
            granted: response.vote_granted,
            last: response.last_log_id.map(Into::into),
        }
    }
}

impl From<Voted> for VoteResponse<TypeConfig> {
    fn from(voted: Voted) -> Self {
        Self { vote: voted.vote.into(), vote_granted: voted.granted, last_log_id: voted.last.map(Into::into) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Transfer {
    pub from: Ballot,
    pub to: u64,
    pub last: Option<Position>,
}

impl From<&TransferLeaderRequest<TypeConfig>> for Transfer {
    fn from(request: &TransferLeaderRequest<TypeConfig>) -> Self {
        Self {
            from: (*request.from_leader()).into(),
            to: *request.to_node_id(),
            last: request.last_log_id().map(|id| (*id).into()),
        }
    }
}

impl From<Transfer> for TransferLeaderRequest<TypeConfig> {
    fn from(transfer: Transfer) -> Self {
        Self::new(transfer.from.into(), transfer.to, transfer.last.map(Into::into))
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Transferred {
    Done,
    VoteChanged { expected: Ballot, actual: Ballot },
    NotFlushed { expected: Option<Position>, actual: Option<Position> },
}

impl From<TransferLeaderResponse<TypeConfig>> for Transferred {
    fn from(response: TransferLeaderResponse<TypeConfig>) -> Self {
        match response {
            Ok(()) => Self::Done,
            Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                Self::VoteChanged { expected: expected.into(), actual: actual.into() }
            }
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                Self::NotFlushed { expected: expected.map(Into::into), actual: actual.map(Into::into) }
            }
        }
    }
}

impl From<Transferred> for TransferLeaderResponse<TypeConfig> {
    fn from(transferred: Transferred) -> Self {
        match transferred {
            Transferred::Done => Ok(()),
            Transferred::VoteChanged { expected, actual } => {
                Err(TransferLeaderError::VoteChanged { expected: expected.into(), actual: actual.into() })
            }
            Transferred::NotFlushed { expected, actual } => Err(TransferLeaderError::LogNotFlushed {
                expected: expected.map(Into::into),
                actual: actual.map(Into::into),
            }),
        }
    }
}

/// First message of a snapshot's transfer; the file's bytes follow.
#[derive(Debug, Serialize, Deserialize)]
pub struct SnapshotBegin {
    pub vote: Ballot,
    pub coverage: Coverage,
    pub length: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct SnapshotDone {
    pub vote: Ballot,
}

impl From<SnapshotDone> for SnapshotResponse<TypeConfig> {
    fn from(done: SnapshotDone) -> Self {
        Self::new(done.vote.into())
    }
}
