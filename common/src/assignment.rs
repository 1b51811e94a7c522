//! What a node has been told to run.
//!
//! Invariant: an assignment is self-contained: with it and its checkpoint an agent runs and
//! restarts the instance without any master.

use serde::{Deserialize, Serialize};

use crate::{
    InstanceId, ServiceId,
    instance::{Desired, PortBinding, Readiness, Restarts},
    placement::DeviceShare,
    service::{ContainerSpec, Generation, ResourceRequirements, RestartPolicy},
};

/// One instance that a node shall hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub instance: InstanceId,
    pub service: ServiceId,
    pub service_name: String,
    /// Number of the replica; 0 for a global service.
    pub slot: u32,
    pub generation: Generation,
    pub desired: Desired,
    pub container: ContainerSpec,
    pub resources: ResourceRequirements,
    pub restart: RestartPolicy,
    pub ports: Vec<PortBinding>,
    /// Generic resources of the node that are its own.
    #[serde(default)]
    pub devices: Vec<DeviceShare>,
    /// The attempt the masters know of: an agent that lost its data goes on from there.
    pub attempt: u32,
    /// What else the masters know of that attempt.
    #[serde(default)]
    pub known: Known,
}

/// What an agent once reported, handed back to one that may have lost it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Known {
    /// The attempt has been Ready.
    pub was_ready: bool,
    pub readiness: Readiness,
    pub restarts: Restarts,
}

/// What a leader tells an agent: everything, or what changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignmentUpdate {
    /// The leader's term. An agent refuses a lower one than it has obeyed.
    pub term: u64,
    pub generation: u64,
    pub content: AssignmentContent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssignmentContent {
    /// What is not in it is removed.
    Full(Vec<Assignment>),
    /// Applies to exactly generation `from`.
    Delta { from: u64, upserts: Vec<Assignment>, removals: Vec<InstanceId> },
}
