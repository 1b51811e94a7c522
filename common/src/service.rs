//! What the user asks for: a service and the container every instance of it runs.
//!
//! Invariant: a `ServiceSpec` that came through the API passed [`ServiceSpec::violations`];
//! equal specs need no new generation.
//! Deliberately not here: the observed side (`instance`), the Compose spelling (`cli`).

mod validate;

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::Resources;
pub use crate::placement::PlacementPolicy;

/// SIGTERM to SIGKILL when the spec says nothing (Docker's and Swarm's default).
pub const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);
/// Replicas of a service that does not say.
pub const DEFAULT_REPLICAS: u32 = 1;

/// Monotone version of a spec: 1 for the first, +1 for each change that needs new instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// What the user wants to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Unique in the cluster: letters, digits, `_`, `.`, `-`; at most 63 characters.
    pub name: String,
    /// Free labels of the service; a change needs no restart.
    pub labels: BTreeMap<String, String>,
    pub mode: Mode,
    pub container: ContainerSpec,
    pub resources: ResourceRequirements,
    pub restart: RestartPolicy,
    pub placement: PlacementPolicy,
    pub ports: Vec<PortSpec>,
}

/// How many instances, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// This many slots, numbered from 1, anywhere.
    Replicated { replicas: u32 },
    /// One instance on every node that passes the filters.
    Global,
}

/// The container of every instance of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub image: String,
    /// Replaces the image's ENTRYPOINT when not empty.
    pub entrypoint: Vec<String>,
    /// Replaces the image's CMD when not empty.
    pub command: Vec<String>,
    pub environment: BTreeMap<String, String>,
    /// Docker labels of the container; `io.skein.` is reserved.
    pub labels: BTreeMap<String, String>,
    /// `user`, `uid`, `user:group` or `uid:gid`; empty = the image's.
    pub user: String,
    /// Absolute path; empty = the image's.
    pub working_dir: String,
    pub mounts: Vec<Mount>,
    /// `None` = the image's HEALTHCHECK, if it has one.
    pub healthcheck: Option<Healthcheck>,
    /// Signal name or number that asks to stop; empty = the image's, else SIGTERM.
    pub stop_signal: String,
    /// How long after the stop signal SIGKILL follows.
    pub stop_grace: Duration,
}

/// A path in the container that is backed by something outside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub kind: MountKind,
    /// Host path (bind) or volume name; empty for tmpfs and anonymous volumes.
    pub source: String,
    /// Absolute path in the container.
    pub target: String,
    pub read_only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    Bind,
    Volume,
    Tmpfs,
}

/// Docker's own health check of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthcheck {
    pub test: HealthTest,
    /// Between two tests; zero = Docker's default of 30 s.
    pub interval: Duration,
    /// Of one test; zero = Docker's default of 30 s.
    pub timeout: Duration,
    /// Failures in a row that make it unhealthy; zero = Docker's default of 3.
    pub retries: u32,
    /// Failures within this time after the start do not count.
    pub start_period: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthTest {
    /// Switches the image's HEALTHCHECK off.
    Disabled,
    /// Runs this program with arguments.
    Exec(Vec<String>),
    /// Runs this line in the container's shell.
    Shell(String),
}

/// What the scheduler sets aside and what the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResourceRequirements {
    /// Set aside on the node; zero = nothing.
    pub reservation: Resources,
    /// Enforced by the kernel; zero = no limit.
    pub limit: Resources,
}

/// When the agent starts the next attempt on the same node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    pub condition: RestartCondition,
    /// Wait before every restart. `None` = the first at once, then 1 s doubling up to 5 min,
    /// starting over after 10 min of running.
    pub delay: Option<Duration>,
    /// Restarts within `window` before the agent gives the instance up; `None` = no bound.
    pub max_attempts: Option<u32>,
    /// Zero = since the instance began.
    pub window: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartCondition {
    /// However it ended.
    Any,
    /// Exit code other than 0, killed, or unhealthy.
    OnFailure,
    /// Never.
    None,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self { condition: RestartCondition::Any, delay: None, max_attempts: None, window: Duration::ZERO }
    }
}

/// A container port that is reachable from outside the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortSpec {
    pub container_port: u16,
    pub protocol: Protocol,
    pub publish: Publish,
}

/// How a container port is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Publish {
    /// The balancer of every node listens on `port` (`None` = not published outside); each
    /// instance gets a host port of its own from the dynamic range.
    Ingress { port: Option<u16> },
    /// Exactly this port of the instance's node; one instance a node address.
    Host { port: u16 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ServiceSpec {
    /// Replicas asked for; `None` for a global service.
    #[must_use]
    pub const fn replicas(&self) -> Option<u32> {
        match self.mode {
            Mode::Replicated { replicas } => Some(replicas),
            Mode::Global => None,
        }
    }

    /// Whether instances of `self` may go on as instances of `other`: nothing their
    /// container, restarts or placement depend on differs.
    #[must_use]
    pub fn runs_like(&self, other: &Self) -> bool {
        self.container == other.container
            && self.resources == other.resources
            && self.restart == other.restart
            && self.placement.holds_like(&other.placement)
            && self.ports == other.ports
    }
}
