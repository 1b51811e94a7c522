//! Changing the members: one at a time, through the leader.
//!
//! Invariant: a new master votes only after it has caught up, so adding one never costs the
//! quorum its speed; two members never share a number or a name; the last voter stays.
//! Every change may be asked for again: it goes on where it stands.
//! Deliberately not here: starting or stopping processes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use openraft::{
    ChangeMembers,
    async_runtime::watch::WatchReceiver as _,
    errors::{ChangeMembershipError, ClientWriteError, RaftError},
};
use skein_proto::v1::{self, change_members_request::Change as Wire};
use tokio::time::Instant;
use tonic::Request;

use super::{
    Inner, Store,
    propose::{LEADER_PATIENCE, TRY_AGAIN},
};
use crate::raft::{
    MemberNode, StoredMembership, TypeConfig, member_id,
    network::peers::{Lane, Reason, never_sent},
};

/// How long a new master may take to catch up before it is left a learner.
const CATCH_UP: Duration = Duration::from_secs(60);
/// Entries a learner may be behind when it is given its vote.
const CAUGHT_UP: u64 = 1000;
const CHANGE: Duration = Duration::from_secs(10);
const TRANSFER: Duration = Duration::from_secs(5);

/// Why the members were not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    #[error("no leader could be reached; nothing was changed")]
    NoLeader,
    /// The change contradicts the members there are.
    #[error("{0}")]
    Refused(String),
    #[error("it is unknown whether the members were changed: {0}; look at the status and ask again")]
    Unknown(String),
}

/// A change of the members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Add(MemberNode),
    Remove(String),
    Lead(Option<String>),
}

impl Store {
    /// Adds a master that waits to be added; answers when it votes. For a member it changes the
    /// address of its API.
    pub async fn add_master(&self, master: MemberNode) -> Result<(), MembershipError> {
        self.change(Change::Add(master)).await
    }

    /// Removes a master, the leader included. Removing one that is not there changes nothing.
    pub async fn remove_master(&self, name: &str) -> Result<(), MembershipError> {
        self.change(Change::Remove(name.to_owned())).await
    }

    /// Hands leadership to this voter, or to the one that has most of the log.
    pub async fn transfer_leadership(&self, to: Option<&str>) -> Result<(), MembershipError> {
        self.change(Change::Lead(to.map(str::to_owned))).await
    }

    async fn change(&self, change: Change) -> Result<(), MembershipError> {
        let patience = Instant::now() + LEADER_PATIENCE;
        let mut delay = TRY_AGAIN;
        loop {
            let leader = self.0.leadership.borrow().leader_id;
            let result = match leader {
                Some(leader) if leader != self.0.identity.id() => {
                    self.0.forward_change(leader, &change).await
                }
                Some(_) => self.0.change_here(change.clone()).await,
                None => Err(MembershipError::NoLeader),
            };
            match result {
                Err(MembershipError::NoLeader) if Instant::now() < patience => {
                    self.0.wait_for_news(&mut delay, patience).await;
                }
                result => return result,
            }
        }
    }
}

impl Inner {
    async fn forward_change(&self, leader: u64, change: &Change) -> Result<(), MembershipError> {
        let Some(peer) = self.peer(leader) else { return Err(MembershipError::NoLeader) };
        let wire = match change.clone() {
            Change::Add(MemberNode { name, api_address, cluster_address }) => {
                Wire::Add(v1::change_members_request::Add { name, api_address, cluster_address })
            }
            Change::Remove(name) => Wire::Remove(name),
            Change::Lead(to) => Wire::Lead(to.unwrap_or_default()),
        };
        let mut request = Request::new(v1::ChangeMembersRequest { change: Some(wire) });
        request.set_timeout(CATCH_UP + 2 * CHANGE);
        match peer.client(Lane::Control).change_members(request).await {
            Ok(answer) if answer.get_ref().not_leader => Err(MembershipError::NoLeader),
            Ok(answer) if answer.get_ref().refusal.is_empty() => Ok(()),
            Ok(answer) => Err(MembershipError::Refused(answer.into_inner().refusal)),
            Err(status) if never_sent(&status) => Err(MembershipError::NoLeader),
            Err(status) => Err(MembershipError::Unknown(Reason(&status).to_string())),
        }
    }

    /// Changes the members as the leader.
    pub(crate) async fn change_here(&self, change: Change) -> Result<(), MembershipError> {
        match change {
            Change::Add(master) => self.add(master).await,
            Change::Remove(name) => self.remove(&name).await,
            Change::Lead(to) => self.hand_over(to.as_deref()).await,
        }
    }

    fn members(&self) -> std::sync::Arc<StoredMembership> {
        self.raft.metrics().borrow_watched().membership_config.clone()
    }

    async fn add(&self, master: MemberNode) -> Result<(), MembershipError> {
        let id = member_id(&master.name);
        let members = self.members();
        check_new(&members, id, &master)?;
        self.peers.get(id, &master).map_err(|error| MembershipError::Refused(error.to_string()))?;
        let node = BTreeMap::from([(id, master.clone())]);
        match members.get_node(&id) {
            None => self.change_membership(ChangeMembers::AddNodes(node)).await?,
            // Only the API's address may differ: a master announces its own (`leadership::announce`).
            Some(known) if *known != master => self.change_membership(ChangeMembers::SetNodes(node)).await?,
            Some(_) => {}
        }
        if members.voter_ids().any(|voter| voter == id) {
            return Ok(());
        }
        self.caught_up(id, &master.name).await?;
        self.change_membership(ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
    }

    async fn caught_up(&self, id: u64, name: &str) -> Result<(), MembershipError> {
        let close = |metrics: &openraft::RaftMetrics<TypeConfig>| {
            let matched = metrics.replication.as_ref().and_then(|others| others.get(&id).copied().flatten());
            let matched = matched.map_or(0, |matched| matched.index + 1);
            metrics.replication.is_none()
                || matched > 0 && matched + CAUGHT_UP > metrics.last_log_index.unwrap_or(0)
        };
        match self.raft.wait(Some(CATCH_UP)).metrics(close, "a new master catches up").await {
            Ok(metrics) if metrics.replication.is_some() => Ok(()),
            Ok(_) => Err(MembershipError::NoLeader),
            Err(_) => Err(MembershipError::Refused(format!(
                "{name} did not catch up within {} s and stays a learner: start it without initial masters, \
                 check its cluster address, and add it again",
                CATCH_UP.as_secs()
            ))),
        }
    }

    async fn remove(&self, name: &str) -> Result<(), MembershipError> {
        let members = self.members();
        let Some((id, _)) = members.nodes().find(|(_, node)| node.name == name) else { return Ok(()) };
        let id = BTreeSet::from([*id]);
        let voters: BTreeSet<u64> = members.voter_ids().collect();
        if voters == id {
            return Err(MembershipError::Refused(format!("{name} is the only voter")));
        }
        let change = if voters.is_superset(&id) {
            ChangeMembers::RemoveVoters(id)
        } else {
            ChangeMembers::RemoveNodes(id)
        };
        self.change_membership(change).await
    }

    async fn hand_over(&self, to: Option<&str>) -> Result<(), MembershipError> {
        let refused = |text: &str| Err(MembershipError::Refused(text.to_owned()));
        let me = self.identity.id();
        let metrics = self.raft.metrics().borrow_watched().clone();
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let matched =
            |id: &u64| metrics.replication.as_ref().and_then(|others| others.get(id).copied().flatten());
        let target = match to {
            Some(name) => voters
                .iter()
                .copied()
                .find(|id| metrics.membership_config.get_node(id).is_some_and(|node| node.name == name)),
            None => voters.iter().copied().filter(|id| *id != me).max_by_key(matched),
        };
        let Some(target) = target else { return refused("there is no such voter to lead") };
        if target == me {
            return Ok(());
        }
        self.raft.trigger().transfer_leader(target).await.map_err(|fatal| {
            self.check(&fatal);
            MembershipError::Unknown(fatal.to_string())
        })?;
        let leads = |metrics: &openraft::RaftMetrics<TypeConfig>| metrics.current_leader == Some(target);
        match self.raft.wait(Some(TRANSFER)).metrics(leads, "the new leader").await {
            Ok(_) => Ok(()),
            Err(_) => Err(MembershipError::Unknown("the new leader did not take over in time".to_owned())),
        }
    }

    /// One after the other: masters announce their addresses whenever they start, and a user's
    /// change must not be refused because of that.
    async fn change_membership(&self, change: ChangeMembers<u64, MemberNode>) -> Result<(), MembershipError> {
        let changed = async {
            let _turn = self.membership.lock().await;
            loop {
                match self.raft.change_membership(change.clone(), false).await {
                    // Begun by a leader before this one, or by a call that was given up.
                    Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                        ChangeMembershipError::InProgress(_),
                    ))) => tokio::time::sleep(TRY_AGAIN).await,
                    changed => return changed,
                }
            }
        };
        match tokio::time::timeout(CHANGE, changed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Err(MembershipError::NoLeader)
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => {
                Err(MembershipError::Refused(error.to_string()))
            }
            Ok(Err(RaftError::APIError(error))) => Err(MembershipError::Unknown(error.to_string())),
            Ok(Err(RaftError::Fatal(fatal))) => {
                self.check(&fatal);
                Err(MembershipError::Unknown(fatal.to_string()))
            }
            Err(_) => Err(MembershipError::Unknown("the quorum took too long".to_owned())),
        }
    }
}

/// A member is known by its name, and its number must be its own.
fn check_new(members: &StoredMembership, id: u64, master: &MemberNode) -> Result<(), MembershipError> {
    for (known_id, known) in members.nodes() {
        let refusal = if *known_id == id && known.name != master.name {
            format!("{} and {} have the same number: choose another name", master.name, known.name)
        } else if known.name == master.name && known.cluster_address != master.cluster_address {
            format!("{} is a member with other addresses: remove it first", master.name)
        } else if known.name != master.name && known.cluster_address == master.cluster_address {
            format!("{} has the cluster address {}", known.name, known.cluster_address)
        } else {
            continue;
        };
        return Err(MembershipError::Refused(refusal));
    }
    Ok(())
}
