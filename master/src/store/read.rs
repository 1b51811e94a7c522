//! Linearizable reads: how far this master must have applied the log to answer one.
//!
//! Invariant: after `linearize` the local state contains everything that was acknowledged to
//! anybody before the call. The leader confirms with a quorum each time (ReadIndex, not a lease),
//! so clocks do not matter and a leader that was cut off answers nobody.
//! Deliberately not here: reads that may be stale (`Store::snapshot`).

use std::time::Duration;

use openraft::{
    ReadPolicy,
    errors::{LinearizableReadError, RaftError},
};
use skein_common::Revision;
use skein_proto::v1;
use tokio::time::Instant;
use tonic::Request;

use super::{
    Inner, Store,
    propose::{LEADER_PATIENCE, TRY_AGAIN},
};
use crate::raft::network::peers::{Lane, Peer};

/// A follower that lags more than this far behind answers no linearizable reads.
const APPLY_PATIENCE: Duration = Duration::from_secs(5);

/// Why the state here cannot be called current.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("no leader with a quorum could be reached")]
    NoLeader {
        /// The leader last known, by name.
        leader: Option<String>,
    },
    #[error("this master has applied the log up to {applied}, the leader is at {index}")]
    Lagging { applied: Revision, index: u64 },
}

impl Store {
    /// Waits until the state here is at least as new as anything acknowledged before the call.
    pub async fn linearize(&self) -> Result<Revision, ReadError> {
        let inner = &*self.0;
        let patience = Instant::now() + LEADER_PATIENCE;
        let mut delay = TRY_AGAIN;
        let index = loop {
            let asked = tokio::time::timeout_at(patience, inner.read_index()).await;
            if let Ok(Some(index)) = asked {
                break index;
            }
            if Instant::now() >= patience {
                let leader = inner.leadership.borrow().leader.as_ref().map(|leader| leader.name.clone());
                return Err(ReadError::NoLeader { leader });
            }
            inner.wait_for_news(&mut delay, patience).await;
        };
        match tokio::time::timeout(APPLY_PATIENCE, inner.applied(Revision(index))).await {
            Ok(Some(revision)) => Ok(revision),
            Ok(None) | Err(_) => {
                Err(ReadError::Lagging { applied: *inner.published.applied.borrow(), index })
            }
        }
    }
}

impl Inner {
    async fn read_index(&self) -> Option<u64> {
        let leader = self.leadership.borrow().leader_id;
        match leader {
            Some(leader) if leader != self.identity.id() => {
                let mut client = self.peer(leader)?.client(Lane::Control);
                let mut request = Request::new(v1::ReadIndexRequest {});
                request.set_timeout(self.lease());
                client.read_index(request).await.ok()?.into_inner().index
            }
            Some(_) | None => self.read_index_here().await,
        }
    }

    /// Confirms with a quorum that this master leads; `None` when it does not, or cannot.
    pub(crate) async fn read_index_here(&self) -> Option<u64> {
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Some(linearizer.read_log_id().index()),
            Err(RaftError::APIError(
                LinearizableReadError::ForwardToLeader(_) | LinearizableReadError::QuorumNotEnough(_),
            )) => None,
            Err(RaftError::Fatal(fatal)) => {
                self.check(&fatal);
                None
            }
        }
    }

    /// Waits until this master has applied an entry; `None` when it is stopping.
    pub(super) async fn applied(&self, revision: Revision) -> Option<Revision> {
        let mut applied = self.published.applied.clone();
        applied.wait_for(|applied| *applied >= revision).await.ok().map(|applied| *applied)
    }

    /// A member, by number.
    pub(super) fn peer(&self, id: u64) -> Option<Peer> {
        use openraft::async_runtime::watch::WatchReceiver as _;
        let members = self.raft.metrics().borrow_watched().membership_config.clone();
        self.peers.get(id, members.get_node(&id)?).ok()
    }
}
