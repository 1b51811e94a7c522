//! What this master knows about the control plane.
//!
//! Invariant: answers at once, with or without a leader, from this master's own view.
//! Deliberately not here: the health of agents.

use openraft::async_runtime::watch::WatchReceiver as _;

use super::Store;

/// Part a member takes in consensus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Voter,
    /// Receives the log, does not vote.
    Learner,
}

/// One master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: u64,
    pub name: String,
    pub api_address: String,
    pub cluster_address: String,
    pub role: Role,
    /// Last index known to be in its log; only the leader knows this of others.
    pub matched: Option<u64>,
}

/// The control plane as one master sees it. Indexes are zero while there is nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStatus {
    pub id: u64,
    pub name: String,
    pub leader_id: Option<u64>,
    /// By name.
    pub leader: Option<String>,
    pub term: u64,
    /// Ordered by name.
    pub members: Vec<Member>,
    pub last_log: u64,
    pub committed: u64,
    pub applied: u64,
    /// Last entry in the snapshot.
    pub snapshot: u64,
    /// Last entry that the log has dropped.
    pub purged: u64,
}

impl Store {
    /// The control plane as this master sees it.
    #[must_use]
    pub fn status(&self) -> ClusterStatus {
        let leadership = self.0.leadership.borrow().clone();
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        let matched = |id: u64| {
            let others = metrics.replication.as_ref().and_then(|others| others.get(&id));
            others.and_then(|matched| matched.map(|matched| matched.index))
        };
        let mut members: Vec<Member> = metrics
            .membership_config
            .nodes()
            .map(|(id, node)| Member {
                id: *id,
                name: node.name.clone(),
                api_address: node.api_address.clone(),
                cluster_address: node.cluster_address.clone(),
                role: if voters.contains(id) { Role::Voter } else { Role::Learner },
                matched: if *id == metrics.id { metrics.last_log_index } else { matched(*id) },
            })
            .collect();
        members.sort_by(|one, other| one.name.cmp(&other.name));
        let index = |id: Option<crate::raft::LogId>| id.map_or(0, |id| id.index);
        ClusterStatus {
            id: metrics.id,
            name: self.0.identity.name().to_owned(),
            leader_id: leadership.leader_id,
            leader: leadership.leader.map(|leader| leader.name),
            term: metrics.current_term,
            members,
            last_log: metrics.last_log_index.unwrap_or(0),
            committed: index(metrics.local_committed),
            applied: self.0.published.applied.borrow().0,
            snapshot: index(metrics.snapshot),
            purged: index(metrics.purged),
        }
    }
}
