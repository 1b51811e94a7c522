//! Everything that can change the cluster: one enum, one entry of the Raft log each.
//!
//! Invariant: a command carries every id and time it needs. Old commands stay loadable for
//! ever: new fields get `#[serde(default)]`, variants are never renamed or removed.
//! Deliberately not here: what a command does (`apply`).

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use skein_common::{
    ClusterId, ConfigId, FieldViolation, InstanceId, NodeId, Revision, ServiceId, Timestamp,
    cluster::{ClusterConfig, RebalanceGoal},
    config::ConfigSpec,
    instance::{Desired, PortBinding, Slot},
    node::{Availability, Liveness, NodeDescription},
    placement::DeviceShare,
    rollout::RolloutControl,
    service::{Generation, ServiceSpec},
};

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Present when the caller wants a retry to be recognised.
    pub request: Option<RequestKey>,
    /// The proposer's clock.
    pub at: Timestamp,
    pub actor: Actor,
    pub kind: CommandKind,
}

/// Recognises a repeated call: same id and same body give the first answer again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestKey {
    pub id: String,
    /// Of the call's body; the same id with another one is refused.
    pub fingerprint: u64,
}

/// Who caused a command, for events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Actor {
    User,
    Agent(NodeId),
    /// A controller of the leader, by name.
    Controller(String),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
// A plan is most of what is in the log; a box would cost every one of them.
#[allow(clippy::large_enum_variant)]
pub enum CommandKind {
    /// The first command of a cluster; repeated ones change nothing.
    FormCluster {
        id: ClusterId,
    },
    CreateService {
        id: ServiceId,
        spec: Arc<ServiceSpec>,
    },
    /// Also answers Apply on an existing service. Equal specs change nothing.
    UpdateService {
        id: ServiceId,
        expected: Option<Revision>,
        spec: Arc<ServiceSpec>,
    },
    ScaleService {
        id: ServiceId,
        expected: Option<Revision>,
        replicas: u32,
    },
    /// Its instances are removed first, then the service itself.
    DeleteService {
        id: ServiceId,
        expected: Option<Revision>,
    },
    /// A user's word on a rollout.
    ControlRollout {
        id: ServiceId,
        expected: Option<Revision>,
        control: RolloutControl,
    },
    /// Runs a job now.
    RunJob {
        id: ServiceId,
        expected: Option<Revision>,
        /// Of the run, when the job has a schedule.
        run: ServiceId,
    },
    /// Suspends or resumes the schedule of a job.
    ControlSchedule {
        id: ServiceId,
        expected: Option<Revision>,
        suspend: bool,
    },
    CreateConfig {
        id: ConfigId,
        spec: Arc<ConfigSpec>,
    },
    /// Refused while a spec that is held names it.
    DeleteConfig {
        id: ConfigId,
    },
    /// An agent said Hello.
    RegisterNode {
        id: NodeId,
        description: Arc<NodeDescription>,
        incarnation: u64,
    },
    UpdateNode {
        id: NodeId,
        expected: Option<Revision>,
        availability: Option<Availability>,
        /// Replaces the API's labels when given.
        labels: Option<BTreeMap<String, String>>,
        /// Of a drain: after this time what is left is stopped without regard to disruption limits; zero = at once.
        #[serde(default)]
        drain_within: Option<Duration>,
    },
    /// Only a Down node without instances that live, unless `force`.
    DeleteNode {
        id: NodeId,
        expected: Option<Revision>,
        force: bool,
    },
    /// What agents reported since the last batch.
    Observe {
        reports: Vec<Report>,
    },
    /// What the liveness controller concluded.
    JudgeNodes {
        verdicts: Vec<Verdict>,
    },
    /// What the planner concluded.
    Plan(Plan),
    /// Replaces what is set.
    ConfigureCluster {
        expected: Option<Revision>,
        config: Arc<ClusterConfig>,
    },
    /// Begins a rebalancing; one that is under way goes on when it has the same aim.
    Rebalance {
        goal: RebalanceGoal,
        service: Option<ServiceId>,
    },
    /// Begins no further move.
    StopRebalance,
}

/// One agent's report on one of its instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub node: NodeId,
    pub instance: InstanceId,
    pub news: skein_common::instance::News,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub node: NodeId,
    pub liveness: Liveness,
    pub reason: String,
    /// `modified_revision` of the node it was drawn from: a node that changed since (its agent said
    /// Hello) is judged again. `None` (older logs) fits always.
    #[serde(default)]
    pub drawn_from: Option<Revision>,
}

/// One pass of the planner. Applied whole; parts whose object is gone are skipped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Plan {
    pub create: Vec<NewInstance>,
    pub place: Vec<Placement>,
    pub desire: Vec<Wish>,
    /// Records to drop: history beyond its bound.
    pub forget: Vec<InstanceId>,
    /// New reasons of pending instances.
    pub explain: Vec<Explanation>,
    /// Services whose last instance is gone and which were to be deleted.
    pub finish: Vec<ServiceId>,
    /// What became of rollouts.
    #[serde(default)]
    pub rollouts: Vec<RolloutStep>,
    /// What became of jobs.
    #[serde(default)]
    pub jobs: Vec<JobStep>,
    /// Jobs that are over and kept no longer: their services are deleted.
    #[serde(default)]
    pub expire: Vec<ServiceId>,
    /// What became of rebalancing.
    #[serde(default)]
    pub rebalance: Option<RebalanceStep>,
    /// Due times of schedules.
    #[serde(default)]
    pub schedules: Vec<ScheduleStep>,
    /// What services depended on is there: their first instances may start.
    #[serde(default)]
    pub released: Vec<Release>,
    /// Services without a virtual address: of a version that gave none.
    #[serde(default)]
    pub addresses: Vec<ServiceId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RebalanceStep {
    /// It is time.
    Begin { cause: String },
    /// Nothing (more) is worth a move. `began` is of the run it was drawn from, if there was one.
    End { began: Option<Timestamp> },
}

/// A due time to be decided on. The owner is marked and the run made by one command, so that no time is
/// forgotten or run twice, whatever happens to masters. Skipped when the owner has changed since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleStep {
    pub owner: ServiceId,
    /// `modified_revision` of the owner that `due` was computed from.
    pub drawn_from: Revision,
    pub due: Timestamp,
    /// Earlier due times that were passed over.
    pub passed: u32,
    /// It is too late for this one too.
    pub late: bool,
    /// Of the run, if one is begun.
    pub run: ServiceId,
}

/// Skipped when the service has another generation by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    pub service: ServiceId,
    pub generation: Generation,
}

/// Skipped when the job runs another generation by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStep {
    pub service: ServiceId,
    pub generation: Generation,
    pub verdict: JobVerdict,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobVerdict {
    Complete,
    Fail,
}

/// Skipped when the service has another generation by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStep {
    pub service: ServiceId,
    pub generation: Generation,
    pub verdict: RolloutVerdict,
    pub reason: String,
}

/// What the planner concluded about a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RolloutVerdict {
    /// The canaries have been Ready long enough.
    CanariesReady,
    /// The same, and nobody has to be asked.
    Promote,
    Complete,
    Pause,
    /// Goes on in spite of it; told once.
    Continue,
    RollBack,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewInstance {
    pub id: InstanceId,
    pub service: ServiceId,
    pub slot: Slot,
    pub generation: Generation,
    /// `None` = not yet placed; `not_before` bounds when.
    pub placed: Option<(NodeId, Vec<PortBinding>)>,
    /// What it is given of the node's generic resources, when placed.
    #[serde(default)]
    pub devices: Vec<DeviceShare>,
    pub not_before: Timestamp,
    /// See `Instance::failures`.
    #[serde(default)]
    pub failures: u32,
    /// See `Instance::beside`.
    #[serde(default)]
    pub beside: Option<InstanceId>,
    /// See `Instance::moves_to`.
    #[serde(default)]
    pub moves_to: Option<NodeId>,
    pub explanation: String,
}

/// The decision Instance → Node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    pub instance: InstanceId,
    pub node: NodeId,
    pub ports: Vec<PortBinding>,
    #[serde(default)]
    pub devices: Vec<DeviceShare>,
}

/// A new `desired` for an instance; never takes one back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    pub instance: InstanceId,
    pub desired: Desired,
    /// The node is down: the slot is free although the container may still run there.
    pub lost: bool,
    /// Nothing is wanted any more of one that has ended by itself meanwhile: a job's is done.
    #[serde(default)]
    pub only_live: bool,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub instance: InstanceId,
    pub text: String,
}

/// What a command did, for its caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The object as the caller will find it at the command's revision.
    Service(ServiceId),
    Node(NodeId),
    Config(ConfigId),
    Cluster(ClusterId),
    Done,
}

/// A deterministic "no" of the state machine: the same on every master, for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    #[error("{kind} {id} does not exist")]
    NotFound { kind: ObjectKind, id: String },
    #[error("{kind} {name:?} exists already")]
    AlreadyExists { kind: ObjectKind, name: String },
    #[error("{kind} has changed: etag is now {current}")]
    StaleEtag { kind: ObjectKind, current: Revision },
    #[error("request id {id:?} was used with another body")]
    RequestIdReused { id: String },
    #[error("{message}")]
    FailedPrecondition { message: String },
    #[error("invalid: {}", .violations.iter().map(|v| format!("{}: {}", v.field, v.description)).collect::<Vec<_>>().join("; "))]
    Invalid { violations: Vec<FieldViolation> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ObjectKind {
    Cluster,
    Service,
    Instance,
    Node,
    Event,
    Config,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "cluster",
            Self::Service => "service",
            Self::Instance => "instance",
            Self::Node => "node",
            Self::Event => "event",
            Self::Config => "config",
        })
    }
}

impl Plan {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
