//! One placement of one slot of a service on one node.
//!
//! Invariant: `desired` is written only by masters, `observed` only by agents, and
//! `Observed::clock` only grows; so duplicated and reordered reports are harmless
//! (the task model of SwarmKit).

mod history;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    InstanceId, NodeId, Revision, ServiceId, Timestamp,
    placement::DeviceShare,
    service::{Generation, Protocol},
};

pub use self::history::{Author, History, MAX_TRANSITIONS, Transition};

/// Which replica of its service an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Slot {
    /// The n-th replica, from 1.
    Number(u32),
    /// The instance of a global service on this node.
    Node(NodeId),
}

/// How far one attempt has come. The order is the order of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// No node has been chosen.
    Pending,
    /// A node has been chosen; the agent has not begun, or waits for its back-off.
    Assigned,
    Pulling,
    Creating,
    Starting,
    /// The process runs; its health check has not passed yet.
    Running,
    /// Healthy, or without a health check: may receive traffic.
    Ready,
    /// Leaving the balancers; still serving.
    Draining,
    /// Has been asked to end.
    Stopping,
    /// Ended as wished. Terminal.
    Stopped,
    /// Ended, and the restart policy allows no further attempt. Terminal.
    Failed,
    /// Could never start on this node: port taken, name taken, mount missing. Terminal.
    Rejected,
}

/// A Lamport clock of one instance: attempt first, then phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Progress {
    /// The n-th container of the instance, from 1.
    pub attempt: u32,
    pub phase: Phase,
}

/// How often an attempt that is Ready stopped or went on serving; grows within an attempt. Even: it
/// serves; odd: it does not at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Readiness(pub u32);

/// Restarts of one instance on its node, for its restart policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Restarts {
    /// Since the instance began.
    pub total: u32,
    /// In a row, without a long run between them: the step of the back-off.
    pub streak: u32,
    /// Within the policy's window, when it has one.
    pub in_window: u32,
    /// The newest of those, oldest first; at most [`Restarts::KEPT`].
    pub recent: Vec<Timestamp>,
    /// The back-off before the present attempt ends then, by the agent's clock.
    pub not_before: Timestamp,
}

/// A step that would go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{from} cannot become {to}")]
pub struct InvalidTransition {
    pub from: Progress,
    pub to: Progress,
}

/// What masters want of an instance. Only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Desired {
    Run,
    /// Ended, record and container kept for logs.
    Stop,
    /// Ended and forgotten.
    Remove,
}

/// What the agent last reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    pub progress: Progress,
    /// Whether a Ready attempt serves at the moment.
    #[serde(default)]
    pub readiness: Readiness,
    /// When the agent saw it (its clock).
    pub at: Timestamp,
    /// Docker's id of the attempt's container; empty when there is none.
    pub container_id: String,
    /// Of the attempt that ended last.
    pub exit_code: Option<i64>,
    /// Why: the pull error, the exit, the health failure; empty when there is nothing to say.
    pub message: String,
    /// What a restart policy counts, so that an agent that lost its data goes on counting.
    #[serde(default)]
    pub restarts: Restarts,
}

/// One agent's news of one of its instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceReport {
    pub instance: InstanceId,
    pub news: News,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum News {
    Observed(Observed),
    /// The instance left no trace on the node.
    Gone,
}

/// A container port and the port of the node that leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortBinding {
    pub container_port: u16,
    pub host_port: u16,
    pub protocol: Protocol,
}

/// One placement of one slot. Replaced by the masters, never moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub id: InstanceId,
    pub service: ServiceId,
    pub slot: Slot,
    /// Version of the service's spec that it runs.
    pub generation: Generation,
    /// Chosen once; `None` while Pending.
    pub node: Option<NodeId>,
    pub ports: Vec<PortBinding>,
    /// Generic resources of the node that are its own.
    #[serde(default)]
    pub devices: Vec<DeviceShare>,
    pub desired: Desired,
    pub observed: Observed,
    /// Its node was down when the masters gave it up; it may still run there.
    pub lost: bool,
    /// Why no node was found, or why it was replaced; empty when there is nothing to say.
    pub explanation: String,
    /// Not placed before this time (back-off of a slot that keeps failing).
    pub not_before: Timestamp,
    /// Instances of this slot that failed one after another just before this one; sets its back-off.
    #[serde(default)]
    pub failures: u32,
    /// The instance of this slot that goes only when this one is Ready (start-first).
    #[serde(default)]
    pub beside: Option<InstanceId>,
    /// Where a rebalancing wants it: it goes there when it may, else anywhere.
    #[serde(default)]
    pub moves_to: Option<NodeId>,
    /// Since when its attempt is Ready and serves, by the masters' clock.
    #[serde(default)]
    pub ready_since: Option<Timestamp>,
    /// What happened to it.
    #[serde(default)]
    pub history: History,
    pub created_at: Timestamp,
    pub created_revision: Revision,
    pub modified_revision: Revision,
}

impl Phase {
    /// In the order of life.
    pub const ALL: [Self; 12] = [
        Self::Pending,
        Self::Assigned,
        Self::Pulling,
        Self::Creating,
        Self::Starting,
        Self::Running,
        Self::Ready,
        Self::Draining,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
        Self::Rejected,
    ];

    /// No further report will come for this attempt.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed | Self::Rejected)
    }

    /// The process may be alive.
    #[must_use]
    pub const fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::Ready | Self::Draining | Self::Stopping)
    }
}

impl Progress {
    /// Where every instance begins.
    pub const FIRST: Self = Self { attempt: 1, phase: Phase::Pending };

    /// The later of two states of one instance.
    ///
    /// # Errors
    /// [`InvalidTransition`] when `to` is earlier.
    pub fn advance(self, to: Self) -> Result<Self, InvalidTransition> {
        if self <= to { Ok(to) } else { Err(InvalidTransition { from: self, to }) }
    }
}

impl Readiness {
    #[must_use]
    pub const fn is_serving(self) -> bool {
        self.0.is_multiple_of(2)
    }

    /// The next count that says `serving`; the same one when it does.
    #[must_use]
    pub const fn with(self, serving: bool) -> Self {
        if self.is_serving() == serving { self } else { Self(self.0.saturating_add(1)) }
    }

    /// Says what `self` does, and is not before `other`.
    #[must_use]
    pub fn not_before(self, other: Self) -> Self {
        self.max(other).with(self.is_serving())
    }
}

impl Restarts {
    /// Times that travel; more restarts than this within a window are only counted.
    pub const KEPT: usize = 16;
}

impl Observed {
    /// Of one that nothing has been seen of yet.
    #[must_use]
    pub fn first(at: Timestamp) -> Self {
        Self::of(Progress::FIRST, at)
    }

    /// With nothing more to say.
    #[must_use]
    pub fn of(progress: Progress, at: Timestamp) -> Self {
        Self {
            progress,
            readiness: Readiness::default(),
            at,
            container_id: String::new(),
            exit_code: None,
            message: String::new(),
            restarts: Restarts::default(),
        }
    }

    /// May receive traffic.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.progress.phase == Phase::Ready && self.readiness.is_serving()
    }

    /// What orders two reports of one instance.
    #[must_use]
    pub const fn clock(&self) -> (Progress, Readiness) {
        (self.progress, self.readiness)
    }
}

impl Instance {
    /// May receive traffic.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.observed.is_ready()
    }

    /// Holds its slot: wanted, not ended, and not given up with its node.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.desired == Desired::Run && !self.observed.progress.phase.is_terminal() && !self.lost
    }

    /// Ended against the wish of everybody.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        matches!(self.observed.progress.phase, Phase::Failed | Phase::Rejected)
    }

    /// Uses its node's resources: placed, and not known to have ended.
    #[must_use]
    pub fn occupies(&self) -> Option<NodeId> {
        self.node.filter(|_| !self.observed.progress.phase.is_terminal())
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt {} {}", self.attempt, self.phase)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Node(node) => node.fmt(f),
        }
    }
}
