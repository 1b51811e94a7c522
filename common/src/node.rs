//! A machine with an agent.
//!
//! Invariant: the agent describes the machine (`NodeDescription`); the user decides
//! availability and extra labels; masters alone decide liveness.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    NodeId, Resources, Revision, Timestamp,
    constraint::{Constraint, ConstraintSubject},
    placement::GenericResource,
};

/// What an agent says about its machine, at every Hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDescription {
    /// Unique in the cluster.
    pub name: String,
    /// Where the node's ports are reached: an address or a host name, without port.
    /// Nodes with the same address share its ports.
    pub address: String,
    /// From the agent's `--label`.
    pub labels: BTreeMap<String, String>,
    /// Of the machine.
    pub capacity: Resources,
    /// Kept for everything that is not ours (`--reserve-cpu`, `--reserve-memory`).
    pub reserved: Resources,
    pub platform: Platform,
    pub agent_version: String,
    /// Of the container runtime, e.g. `docker 20.10.24`.
    pub runtime_version: String,
    /// GPUs, licences, …; devices of one name are numbered through, in this order.
    #[serde(default)]
    pub generic: Vec<GenericResource>,
    /// Its balancer listens on published ports, and is to be told endpoints.
    #[serde(default)]
    pub balances: bool,
    /// Processes and threads the machine allows; 0 = not known, and not counted.
    #[serde(default)]
    pub pids: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Platform {
    /// As Docker spells it: `linux`.
    pub os: String,
    /// As Docker spells it: `amd64`, `arm64`.
    pub arch: String,
}

/// What the user allows on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Availability {
    /// Takes new instances.
    Active,
    /// Keeps what it runs, takes nothing new (cordoned).
    Paused,
    /// Gives away what it runs.
    Drained,
}

/// What the masters believe about the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Liveness {
    /// Heard within its time.
    Ready,
    /// Late, and not given up: nothing new goes there, nothing is moved away
    /// (also held here by the brake when too many nodes are late at once).
    Unknown,
    /// Given up: its instances are replaced.
    Down,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub description: NodeDescription,
    /// Set through the API; wins over the agent's label of the same name.
    pub labels: BTreeMap<String, String>,
    pub availability: Availability,
    /// Of a drain: then what is left is stopped without regard to disruption limits.
    #[serde(default)]
    pub drain_by: Option<Timestamp>,
    pub liveness: Liveness,
    /// When `liveness` last changed.
    pub liveness_at: Timestamp,
    /// Why, e.g. `no heartbeat for 10 s`; empty when Ready.
    pub liveness_reason: String,
    /// Grows with every start of the agent; older sessions are refused.
    pub incarnation: u64,
    pub created_at: Timestamp,
    pub created_revision: Revision,
    pub modified_revision: Revision,
}

impl Node {
    /// The time that a drain was given is over.
    #[must_use]
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        self.availability == Availability::Drained && self.drain_by.is_some_and(|by| by <= now)
    }

    /// What instances may reserve.
    #[must_use]
    pub fn allocatable(&self) -> Resources {
        self.description.capacity.saturating_sub(self.description.reserved)
    }

    /// The agent's labels with the user's over them.
    #[must_use]
    pub fn all_labels(&self) -> BTreeMap<String, String> {
        let mut all = self.description.labels.clone();
        all.extend(self.labels.clone());
        all
    }

    /// The value of one label.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).or_else(|| self.description.labels.get(name)).map(String::as_str)
    }

    /// Whether all constraints hold here.
    #[must_use]
    pub fn satisfies<'a>(&self, constraints: impl IntoIterator<Item = &'a Constraint>) -> bool {
        let mut constraints = constraints.into_iter().peekable();
        if constraints.peek().is_none() {
            return true;
        }
        let id = self.id.to_string();
        let subject = ConstraintSubject {
            id: &id,
            name: &self.description.name,
            address: &self.description.address,
            os: &self.description.platform.os,
            arch: &self.description.platform.arch,
            labels: &self.labels,
            agent_labels: &self.description.labels,
        };
        constraints.all(|constraint| constraint.holds(subject))
    }
}
