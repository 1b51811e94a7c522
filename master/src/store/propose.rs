//! Proposing commands, here or through the leader.
//!
//! Invariant: `NoLeader` and `TooLarge` mean that the command is certainly in no log;
//! `OutcomeUnknown` that it may be, now or later. A command with a request id is tried again by
//! itself after an unknown outcome, because the state machine recognises it; any other is not.
//! Deliberately not here: deduplication (`skein-master-core`).

use std::time::Duration;

use openraft::errors::{ClientWriteError, RaftError};
use prost::bytes::Bytes;
use skein_common::Revision;
use skein_master_core::{Command, Outcome, Rejection};
use skein_proto::v1::{self, propose_response::Result as Answer};
use tokio::{sync::watch, time::Instant};
use tonic::Request;

use super::{Committed, Inner, Leadership, MAX_COMMAND_BYTES, Store};
use crate::raft::{
    Proposal,
    codec::{self, Kind},
    network::peers::{Lane, Reason, never_sent},
};

/// How long a leader is waited for: an election, as a rule.
pub(super) const LEADER_PATIENCE: Duration = Duration::from_millis(1500);
/// How long an accepted command may take before its outcome is called unknown.
const OUTCOME_PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries when nothing else says when to try again; doubles, because thousands may wait.
pub(super) const TRY_AGAIN: Duration = Duration::from_millis(25);
const TRY_AGAIN_MAX: Duration = Duration::from_millis(200);
/// A follower that answers for the leader waits this long to have applied the command itself.
const APPLIED_PATIENCE: Duration = Duration::from_millis(500);

/// Why a command was not committed, or perhaps was.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// Certainly not proposed.
    #[error("no leader could be reached; nothing was changed")]
    NoLeader {
        /// The leader last known, by name.
        leader: Option<String>,
    },
    /// Perhaps committed, now or later.
    #[error("it is unknown whether the command took effect: {reason}")]
    OutcomeUnknown { reason: String },
    #[error("the command has {bytes} bytes, more than {MAX_COMMAND_BYTES}")]
    TooLarge { bytes: usize },
    #[error("the command cannot be encoded")]
    Encoding(#[from] rmp_serde::encode::Error),
}

/// What one try gave.
pub(crate) enum Attempt {
    Committed(Committed),
    /// Certainly in no log; the leader, if known.
    NotProposed {
        leader: Option<u64>,
    },
    Unknown {
        reason: String,
    },
}

impl Store {
    /// Commits a command. On a follower it is forwarded one hop to the leader.
    pub async fn propose(&self, command: Command) -> Result<Committed, ProposeError> {
        let repeatable = command.request.is_some();
        let proposal = Proposal::encode(command)?;
        if proposal.bytes().len() > MAX_COMMAND_BYTES {
            return Err(ProposeError::TooLarge { bytes: proposal.bytes().len() });
        }
        // Closed never happens; waiting is bounded because everything in flight is.
        let _permit = self.0.proposals.acquire().await;
        let inner = &*self.0;
        let started = Instant::now();
        let mut patience = started + LEADER_PATIENCE;
        let mut unknown = None;
        let mut hint = None;
        let mut delay = TRY_AGAIN;
        loop {
            match inner.attempt(&proposal, hint.take()).await {
                Attempt::Committed(committed) => return Ok(committed),
                Attempt::NotProposed { leader } => hint = leader,
                Attempt::Unknown { reason } if repeatable => {
                    if unknown.is_none() {
                        // As long again as a fresh one: there may be an election now.
                        patience = Instant::now() + LEADER_PATIENCE;
                    }
                    unknown = Some(reason);
                }
                Attempt::Unknown { reason } => return Err(ProposeError::OutcomeUnknown { reason }),
            }
            if Instant::now() >= patience {
                let leader = inner.leadership.borrow().leader.as_ref().map(|leader| leader.name.clone());
                return Err(match unknown {
                    Some(reason) => ProposeError::OutcomeUnknown { reason },
                    None => ProposeError::NoLeader { leader },
                });
            }
            inner.wait_for_news(&mut delay, patience).await;
        }
    }
}

impl Inner {
    async fn attempt(&self, proposal: &Proposal, hint: Option<u64>) -> Attempt {
        let leader = hint.or_else(|| self.leadership.borrow().leader_id);
        match leader {
            Some(leader) if leader == self.identity.id() => self.propose_here(proposal.clone()).await,
            Some(leader) => self.forward(leader, proposal.bytes().clone()).await,
            // A leader that is just elected may not be published yet; asking openraft is cheap.
            None => self.propose_here(proposal.clone()).await,
        }
    }

    /// Proposes to this master's own Raft, which refuses when it does not lead.
    pub(crate) async fn propose_here(&self, proposal: Proposal) -> Attempt {
        let written = tokio::select! {
            written = self.batches.write(proposal) => written,
            () = self.lost(self.identity.id()) => {
                return Attempt::Unknown { reason: "the leader lost its quorum".to_owned() };
            }
            () = tokio::time::sleep(OUTCOME_PATIENCE) => {
                return Attempt::Unknown { reason: "the quorum took too long".to_owned() };
            }
        };
        match written {
            None => Attempt::Unknown { reason: "the leader lost its quorum, or is stopping".to_owned() },
            Some(Ok(response)) => match response.response.0 {
                Some(outcome) => {
                    Attempt::Committed(Committed { revision: Revision(response.log_id.index), outcome })
                }
                None => Attempt::Unknown { reason: "the command was not applied".to_owned() },
            },
            Some(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                let other = forward.leader_id.filter(|leader| *leader != self.identity.id());
                Attempt::NotProposed { leader: other }
            }
            Some(Err(RaftError::APIError(error))) => Attempt::Unknown { reason: error.to_string() },
            Some(Err(RaftError::Fatal(fatal))) => {
                self.check(&fatal);
                Attempt::Unknown { reason: fatal.to_string() }
            }
        }
    }

    async fn forward(&self, leader: u64, command: Bytes) -> Attempt {
        let Some(peer) = self.peer(leader) else { return Attempt::NotProposed { leader: None } };
        let mut client = peer.client(Lane::Log);
        let mut request = Request::new(v1::ProposeRequest { command });
        request.set_timeout(OUTCOME_PATIENCE);
        let answer = tokio::select! {
            answer = client.propose(request) => answer,
            () = self.lost(leader) => {
                return Attempt::Unknown { reason: "the leader was lost while it had the command".to_owned() };
            }
        };
        let answer = match answer {
            Ok(answer) => answer.into_inner().result,
            Err(status) if never_sent(&status) || refused_at_the_door(&status) => {
                return Attempt::NotProposed { leader: None };
            }
            Err(status) => return Attempt::Unknown { reason: Reason(&status).to_string() },
        };
        match answer {
            Some(Answer::Committed(committed)) => self.forwarded(committed).await,
            Some(Answer::NotProposed(other)) => Attempt::NotProposed {
                leader: Some(other.leader).filter(|other| *other != 0 && *other != leader),
            },
            Some(Answer::Unknown(unknown)) => Attempt::Unknown { reason: unknown.reason },
            None => Attempt::Unknown { reason: "the leader's answer is empty".to_owned() },
        }
    }

    async fn forwarded(&self, committed: v1::propose_response::Committed) -> Attempt {
        let outcome = match codec::decode::<Result<Outcome, Rejection>>(Kind::Outcome, &committed.outcome) {
            Ok(outcome) => outcome,
            Err(error) => {
                return Attempt::Unknown { reason: format!("the leader's answer is unreadable: {error}") };
            }
        };
        let revision = Revision(committed.revision);
        // So that the caller, who reads here next, finds what it wrote.
        let _ = tokio::time::timeout(APPLIED_PATIENCE, self.applied(revision)).await;
        Attempt::Committed(Committed { revision, outcome })
    }

    /// Resolves when `leader` has not led, as seen from here, for a whole lease.
    pub(super) async fn lost(&self, leader: u64) {
        lost(self.leadership.clone(), leader, self.lease()).await;
    }

    /// Waits for another leadership, or a moment, which grows.
    pub(super) async fn wait_for_news(&self, delay: &mut Duration, until: Instant) {
        let mut leadership = self.leadership.clone();
        leadership.mark_unchanged();
        let moment = (Instant::now() + *delay).min(until);
        *delay = (*delay * 2).min(TRY_AGAIN_MAX);
        let _ = tokio::time::timeout_at(moment, leadership.changed()).await;
    }
}

/// Resolves when `leader` has not led, as seen from here, for a whole lease.
pub(super) async fn lost(mut leadership: watch::Receiver<Leadership>, leader: u64, lease: Duration) {
    loop {
        if leadership.wait_for(|seen| seen.leader_id != Some(leader)).await.is_err() {
            return;
        }
        let back = leadership.wait_for(|seen| seen.leader_id == Some(leader));
        if tokio::time::timeout(lease, back).await.is_err() {
            return;
        }
    }
}

/// The peer answered before it looked at the command.
fn refused_at_the_door(status: &tonic::Status) -> bool {
    matches!(status.code(), tonic::Code::FailedPrecondition | tonic::Code::Unimplemented)
}
