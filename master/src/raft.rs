//! Consensus: the types that openraft is instantiated with, and nothing that decides anything.
//!
//! Invariant: openraft is named only under `raft/`, in this file and in `store.rs`; everybody else
//! talks to [`crate::store::Store`]. A bump of openraft therefore stays inside these files, and
//! neither the disk format nor the wire format is openraft's: both are ours (`raft/codec.rs`).
//! Deliberately not here: what a command does (`skein-master-core`), who may call (`grpc/`).

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prost::bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use skein_master_core::{Command, Outcome, Rejection};

pub mod codec;
pub mod fatal;
pub mod feed;
#[cfg(test)]
mod golden;
pub mod identity;
pub mod log_store;
pub mod network;
pub mod server;
pub mod snapshot;
pub mod state_machine;

openraft::declare_raft_types!(
    /// `leader_id_std`, not openraft's default: standard Raft with at most one leader in a term.
    /// Agents fence by the term alone, so two leaders must never share one.
    pub TypeConfig:
        D = Proposal,
        R = Response,
        NodeId = u64,
        Node = MemberNode,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = openraft::impls::TokioRuntime,
);

pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
pub type Payload = openraft::alias::PayloadOf<TypeConfig>;
pub type Membership = openraft::Membership<u64, MemberNode>;
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub type Raft = openraft::Raft<TypeConfig, state_machine::StateMachine>;

/// A log id of standard Raft: the term in which a leader wrote the entry, and its index.
#[must_use]
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(openraft::vote::leader_id_std::CommittedLeaderId::new(term), index)
}

/// The term of a log id.
#[must_use]
pub fn term_of(id: &LogId) -> u64 {
    id.committed_leader_id().term
}

/// A master as the Raft membership knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemberNode {
    pub name: String,
    pub api_address: String,
    pub cluster_address: String,
}

/// Raft's number of the master with this name: FNV-1a of the name, never zero.
///
/// Derived, so that every master computes the same initial membership without talking; two names
/// with one number are refused wherever members meet (`store/membership.rs`).
#[must_use]
pub fn member_id(name: &str) -> u64 {
    fnv1a(name.as_bytes()).max(1)
}

pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A command as the log carries it: encoded once by whoever proposes it, copied ever after.
#[derive(Clone)]
pub struct Proposal {
    bytes: Bytes,
    /// What the bytes say, on the leader until it is applied: there it need not be decoded.
    command: Option<Arc<Mutex<Option<Command>>>>,
}

impl Proposal {
    /// Encodes a command as MessagePack with named fields.
    pub fn encode(command: Command) -> Result<Self, rmp_serde::encode::Error> {
        let bytes = rmp_serde::to_vec_named(&command)?;
        Ok(Self { bytes: bytes.into(), command: Some(Arc::new(Mutex::new(Some(command)))) })
    }

    /// Accepts bytes from a peer only when they are a command.
    pub fn from_peer(bytes: Bytes) -> Result<Self, rmp_serde::decode::Error> {
        let command = rmp_serde::from_slice(&bytes)?;
        Ok(Self { bytes, command: Some(Arc::new(Mutex::new(Some(command)))) })
    }

    const fn from_log(bytes: Bytes) -> Self {
        Self { bytes, command: None }
    }

    /// The command, which is not kept any longer than until here.
    pub fn decode(&self) -> Result<Command, rmp_serde::decode::Error> {
        let kept = self.command.as_deref().map(|kept| kept.lock().unwrap_or_else(PoisonError::into_inner));
        match kept.and_then(|mut kept| kept.take()) {
            Some(command) => Ok(command),
            None => rmp_serde::from_slice(&self.bytes),
        }
    }

    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl PartialEq for Proposal {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Proposal {}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.bytes.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Serialize for Proposal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.bytes)
    }
}

impl<'de> Deserialize<'de> for Proposal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Proposal;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of a command")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Proposal, E> {
                Ok(Proposal::from_log(Bytes::copy_from_slice(bytes)))
            }
            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Proposal, E> {
                Ok(Proposal::from_log(bytes.into()))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

/// What applying an entry gave: `None` for entries that are Raft's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Response(pub Option<Result<Outcome, Rejection>>);

/// How often consensus acts, and how much it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat_ms: u64,
    /// No follower stands for election after less silence than one and a half times this.
    pub election_min_ms: u64,
    /// Every follower stands for election after this much silence.
    pub election_max_ms: u64,
    /// Entries applied between two snapshots.
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot, so that a short absence is caught up from the log.
    pub keep_entries: u64,
}

impl Default for Timing {
    /// A leader's death costs about a second; a busy small machine does not cost an election.
    fn default() -> Self {
        Self {
            heartbeat_ms: 150,
            election_min_ms: 600,
            election_max_ms: 1200,
            snapshot_every: 50_000,
            keep_entries: 10_000,
        }
    }
}

impl Timing {
    /// How long a leader may go on without hearing from a quorum, and for how long a follower that
    /// heard from it votes for nobody else.
    #[must_use]
    pub const fn lease_ms(&self) -> u64 {
        self.election_max_ms / 2
    }

    /// openraft's configuration. Its followers wait for the lease, which is its maximal election
    /// timeout, *and then* for their election timeout: so it is given halves.
    pub fn config(&self, cluster_name: String) -> Result<Arc<openraft::Config>, openraft::ConfigError> {
        let config = openraft::Config {
            cluster_name,
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_min_ms / 2,
            election_timeout_max: self.lease_ms(),
            max_payload_entries: 2048,
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.keep_entries,
            // One purge record and one pass over the segments for many entries, not for each.
            purge_batch_size: (self.keep_entries / 4).clamp(1, 2048),
            // A member further behind than this gets a snapshot; only then are the entries in
            // between certain to be gone, so it must exceed a whole snapshot interval.
            replication_lag_threshold: self.snapshot_every.saturating_add(self.keep_entries),
            // openraft's deadline for a *whole* snapshot; liveness is checked per chunk (network.rs).
            install_snapshot_timeout: 600_000,
            backoff: "100ms 200ms 400ms ...1s".to_owned(),
            // With pre-vote a member that was cut off, or hears but is not heard, asks before it
            // raises the term: it cannot depose a leader that the others still hear (fault 7, 9).
            enable_pre_vote: Some(true),
            // A leader that can send but not receive would hold its followers for ever. Once its
            // quorum is lost it falls silent for this long, so that they elect another (fault 7).
            quorum_loss_probe_interval: Some(self.election_max_ms + self.heartbeat_ms),
            // A member that comes back with less than it acknowledged stops itself as soon as it hears
            // so (server.rs). openraft's leader must not panic over it meanwhile, which it would.
            allow_log_reversion: Some(true),
            // Our state machine is volatile: a restarted leader that went on without an election
            // would answer "linearizable" reads from before its restart.
            enable_leader_restore: Some(false),
            ..openraft::Config::default()
        };
        config.validate().map(Arc::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_ids_are_stable_for_ever() {
        // These numbers are in logs on disk. FNV-1a of "" is its offset basis.
        for (name, id) in [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c)] {
            assert_eq!(member_id(name), id);
        }
    }

    #[test]
    fn a_leader_applies_what_its_followers_decode() {
        let command = Command {
            request: None,
            at: skein_common::Timestamp::default(),
            actor: skein_master_core::command::Actor::User,
            kind: skein_master_core::CommandKind::Observe { reports: Vec::new() },
        };
        let proposal = Proposal::encode(command.clone()).unwrap();
        // The second finds nothing kept.
        for _ in 0..2 {
            assert_eq!(proposal.decode().unwrap(), command);
        }
    }

    #[test]
    fn the_default_timing_is_accepted() {
        assert!(Timing::default().config("test".to_owned()).is_ok());
    }
}
