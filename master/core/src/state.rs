//! The replicated state: persistent maps, so a clone is O(1) and readers never block the writer.
//!
//! Invariant: changed by [`ClusterState::apply`] alone, and by nothing but its arguments:
//! no clock, no random, no environment, no map with random order, no I/O. Every master that
//! applied the same log holds an equal value. Indexes are written in `state/index.rs` only and
//! are not stored: they are rebuilt when a snapshot is loaded.
//! Deliberately not here: what commands do (`apply`), what should happen next (`orchestrator`).

mod address;
mod index;
mod read;
mod stored;

use std::{net::Ipv4Addr, sync::Arc};

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use skein_common::{
    ClusterId, ConfigId, InstanceId, NodeId, Resources, Revision, ServiceId, Timestamp,
    cluster::{ClusterConfig, RebalanceRun},
    config::Config,
    event::Event,
    instance::{Instance, Slot},
    node::Node,
    rollout::Rollout,
    service::{Generation, JobRun, Protocol, RouteKey, ScheduleState, ServiceSpec},
};

use crate::command::{Outcome, Rejection};

/// Everything the masters agree on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(from = "stored::Stored", into = "stored::Stored")]
pub struct ClusterState {
    /// `None` until the first command has been applied.
    pub(crate) cluster_id: Option<ClusterId>,
    pub(crate) revision: Revision,
    /// Latest proposer time applied; never goes back.
    pub(crate) time: Timestamp,
    pub(crate) services: OrdMap<ServiceId, Arc<Service>>,
    /// Specs that instances still run, or that the service holds now.
    pub(crate) specs: OrdMap<(ServiceId, Generation), Arc<ServiceSpec>>,
    pub(crate) nodes: OrdMap<NodeId, Arc<Node>>,
    pub(crate) configs: OrdMap<ConfigId, Arc<Config>>,
    pub(crate) instances: OrdMap<InstanceId, Arc<Instance>>,
    pub(crate) events: OrdMap<u64, Arc<Event>>,
    pub(crate) last_event: u64,
    pub(crate) requests: OrdMap<String, RecordedRequest>,
    pub(crate) settings: Arc<Settings>,
    /// Where the local volumes of a slot are: the node on which it last ran with some.
    pub(crate) homes: OrdMap<(ServiceId, Slot), NodeId>,
    pub(crate) index: Index,
}

/// What belongs to the cluster as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    pub config: Arc<ClusterConfig>,
    /// That last changed the config; 0 = never.
    pub modified_revision: Revision,
    /// The rebalancing that is under way.
    pub rebalance: Option<RebalanceRun>,
    /// When the last one ended, or found nothing to do.
    pub rebalanced_at: Timestamp,
}

/// What follows from the objects; kept so that nothing has to be searched for.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Index {
    /// Virtual addresses in use.
    pub(crate) addresses: OrdMap<Ipv4Addr, ServiceId>,
    pub(crate) services_by_name: OrdMap<String, ServiceId>,
    pub(crate) nodes_by_name: OrdMap<String, NodeId>,
    pub(crate) configs_by_name: OrdMap<String, ConfigId>,
    /// Published ports that every node's balancer listens on.
    pub(crate) ingress_ports: OrdMap<(Protocol, u16), ServiceId>,
    /// Shares of ports by host and path: whose, and whether with TLS.
    pub(crate) routes: OrdMap<RouteKey, (ServiceId, bool)>,
    /// Services that must be away from the one with this name.
    pub(crate) repelling: OrdMap<String, OrdSet<ServiceId>>,
    /// Runs under the service whose schedule made them.
    pub(crate) runs: OrdSet<(ServiceId, ServiceId)>,
    /// Services whose instances wait for the one with this name.
    pub(crate) waiting: OrdSet<(String, ServiceId)>,
    /// Instances that run each spec.
    pub(crate) spec_users: OrdMap<(ServiceId, Generation), u64>,
    /// Every instance under its service and slot.
    pub(crate) slots: OrdSet<(ServiceId, Slot, InstanceId)>,
    /// Every placed instance under its node.
    pub(crate) on_node: OrdSet<(NodeId, InstanceId)>,
    /// Placed, still there, and no longer wanted: nodes where room is being made.
    pub(crate) stopping: OrdSet<(NodeId, InstanceId)>,
    /// Wanted and not placed.
    pub(crate) pending: OrdSet<InstanceId>,
    /// What instances use of each node; no entry = nothing.
    pub(crate) occupancy: OrdMap<NodeId, Occupancy>,
    /// Host ports in use, by node *address*: nodes on one machine share its ports.
    pub(crate) host_ports: OrdMap<String, OrdSet<(Protocol, u16, InstanceId)>>,
    /// Eviction order of `requests`.
    pub(crate) requests_by_time: OrdSet<(Timestamp, String)>,
}

/// Instances that occupy a node, and the sum of their reservations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Occupancy {
    pub reserved: Resources,
    pub instances: u32,
    /// Of those that say how many they need.
    pub pids: u64,
}

/// A service as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub id: ServiceId,
    pub spec: Arc<ServiceSpec>,
    /// Of `spec`; grows when instances have to be replaced to follow it.
    pub generation: Generation,
    /// Its instances are being removed; the record goes with the last one.
    pub deleting: bool,
    /// Earlier generations whose specs are kept to go back to, oldest first.
    #[serde(default)]
    pub kept: Vec<Generation>,
    /// Of `generation`; `None` = it was never changed.
    #[serde(default)]
    pub rollout: Option<Rollout>,
    /// The present run, of a job without a schedule.
    #[serde(default)]
    pub job: Option<JobRun>,
    /// Of a job with a schedule.
    #[serde(default)]
    pub schedule: Option<ScheduleState>,
    /// The service whose schedule made this run.
    #[serde(default)]
    pub owner: Option<ServiceId>,
    /// The time a run was due, or was asked for.
    #[serde(default)]
    pub scheduled_for: Option<Timestamp>,
    /// The first instances of this generation wait for the services it depends on.
    #[serde(default)]
    pub waits: bool,
    /// Its virtual one, until it is deleted.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub created_revision: Revision,
    pub modified_revision: Revision,
}

/// The answer a repeated request gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedRequest {
    pub fingerprint: u64,
    pub outcome: Result<Outcome, Rejection>,
    pub revision: Revision,
    pub at: Timestamp,
}

/// One object that a command touched, as it is afterwards (or was, when deleted).
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Service { service: Arc<Service>, deleted: bool },
    Instance { instance: Arc<Instance>, deleted: bool },
    Node { node: Arc<Node>, deleted: bool },
    Event(Arc<Event>),
    Settings(Arc<Settings>),
}

/// What applying one command gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    pub outcome: Result<Outcome, Rejection>,
    /// At most one per object, in the order of the last touch.
    pub changes: Vec<Change>,
}
