//! What happened, for people: kept with the state, bounded, watched like any object.
//!
//! Invariant: events are made by `apply` only, so every master has the same ones.

use serde::{Deserialize, Serialize};

use crate::{InstanceId, NodeId, Revision, ServiceId, Timestamp};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Position among all events of the cluster, from 1, without gaps.
    pub sequence: u64,
    pub revision: Revision,
    /// The proposer's clock.
    pub at: Timestamp,
    pub severity: Severity,
    /// Short CamelCase name of the kind, stable for scripts: `NodeDown`, `InstanceRestarted`.
    pub reason: String,
    pub subject: Subject,
    /// A sentence for a person.
    pub message: String,
    /// Who caused it: `user`, `planner`, `node n1`.
    pub actor: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    Info,
    Warning,
}

/// What an event is about; names are as they were then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    Cluster,
    Service { id: ServiceId, name: String },
    Instance { id: InstanceId, service: ServiceId, name: String },
    Node { id: NodeId, name: String },
}
