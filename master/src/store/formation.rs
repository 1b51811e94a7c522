//! Forming the cluster at the first start.
//!
//! Invariant: every initial master proposes the same first membership, so it does not matter who
//! does it or how many do: one of them is elected, and its log wins. A member that has a log, or
//! hears from a leader, forms nothing.
//! Deliberately not here: members that come later (`membership.rs`).

use std::{collections::BTreeMap, time::Duration};

use openraft::errors::{InitializeError, RaftError};
use tokio_util::sync::CancellationToken;

use crate::raft::{MemberNode, Raft, Timing, member_id};

pub struct Formation {
    pub raft: Raft,
    pub timing: Timing,
    pub masters: Vec<MemberNode>,
}

impl Formation {
    /// The master with the lowest number goes first and the others wait for it, so that the first
    /// votes are not split; without it they go on after a while.
    pub async fn run(self, stop: CancellationToken) {
        let members: BTreeMap<u64, MemberNode> =
            self.masters.iter().map(|master| (member_id(&master.name), master.clone())).collect();
        let Some(rank) = members.keys().position(|id| id == self.raft.node_id()) else { return };
        let patience = self.timing.election_max_ms * 2 * u64::try_from(rank).unwrap_or(u64::MAX);
        tokio::select! {
            () = stop.cancelled() => return,
            () = self.formed() => return,
            () = tokio::time::sleep(Duration::from_millis(patience)) => {}
        }
        match self.raft.initialize(members).await {
            Ok(()) => tracing::info!(masters = self.masters.len(), "formed a new cluster"),
            // Another initial master was quicker, or this is not the first start.
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the cluster could not be formed");
            }
        }
    }

    async fn formed(&self) {
        // At the first start nothing is known; afterwards at once everything is.
        let members = |metrics: &openraft::RaftMetrics<_>| metrics.membership_config.nodes().next().is_some();
        if self.raft.wait(None).metrics(members, "formed").await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
