//! What the user asks for: a service and the container every instance of it runs.
//!
//! Invariant: a `ServiceSpec` that came through the API passed [`ServiceSpec::violations`];
//! equal specs need no new generation.
//! Deliberately not here: the observed side (`instance`), the Compose spelling (`cli`).

mod autoscale;
mod balance;
mod job;
mod mount;
mod order;
mod probe;
mod route;
mod schedule;
mod update;
mod validate;

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::autoscale::{
    AutoscaleMode, AutoscalePolicy, BurstPolicy, Combination, DEFAULT_RATE_PERIOD, ForecastPolicy, Metric,
    READINESS_DELAY, RateAmount, RatePolicy, RateSelect, ScaleRules, ScheduledFloor, Side, Spread, Target,
};
pub use self::balance::{
    ActiveCheck, Algorithm, BalanceLimits, BalanceMode, BalancePolicy, BalanceTimeouts, DEFAULT_WEIGHT,
    Ejection, HashBy, MAX_HOLD, MAX_INSTANCE_WEIGHT, MAX_RETRIES, MAX_TRUSTED, MAX_WEIGHTS,
    MIN_CHECK_INTERVAL, NodeWeight, Upstream,
};
pub use self::job::{DEFAULT_BACKOFF_LIMIT, JobPhase, JobPolicy, JobRun, ScheduleState};
pub use self::mount::{Mount, MountKind, MountOptions, PROPAGATIONS};
pub use self::order::{Dependency, DependencyCondition};
pub use self::probe::{
    DEFAULT_PROBE_INTERVAL, DEFAULT_PROBE_RETRIES, DEFAULT_PROBE_START_INTERVAL, DEFAULT_PROBE_TIMEOUT,
    Probe, ProbeKind, ProbeTest, Probes,
};
pub use self::route::{HTTP_PORT, HTTPS_PORT, Route, RouteKey, RouteTls};
pub use self::schedule::{
    Calendar, Concurrency, DEFAULT_KEEP_COMPLETED, DEFAULT_KEEP_FAILED, DEFAULT_TOLERANCE,
    MAX_SCHEDULED_NAME, MissedRuns, Schedule,
};
pub use self::update::{
    DEFAULT_MONITOR, DEFAULT_PROGRESS_DEADLINE, Disruption, FailureAction, KEPT_GENERATIONS, UpdateOrder,
    UpdatePolicy,
};
pub use crate::placement::PlacementPolicy;
use crate::{Resources, config::ConfigMount};

/// SIGTERM to SIGKILL when the spec says nothing (Docker's and Swarm's default).
pub const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);
/// Processes a container may have when the spec says nothing: a fork bomb must not take the node
/// along, and no sane service comes near (podman's is 2,048).
pub const DEFAULT_PIDS: u32 = 4_096;
/// The label by which a service says of which stack (Compose project) it is.
pub const STACK_LABEL: &str = "skein.stack";
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
    /// Changing it needs no restart.
    #[serde(default)]
    pub update: UpdatePolicy,
    /// Of a rollout that goes back; `None` = like `update`, but pausing when it fails.
    #[serde(default)]
    pub rollback: Option<UpdatePolicy>,
    /// `None` = as many as a rollout replaces at a time.
    #[serde(default)]
    pub disruption: Option<Disruption>,
    /// Of a job; nothing to others.
    #[serde(default)]
    pub job: JobPolicy,
    /// A job that runs by itself: it has no instances of its own, each due time makes a run.
    #[serde(default)]
    pub schedule: Option<Schedule>,
    /// Its first instances of a generation wait for these.
    #[serde(default)]
    pub depends_on: Vec<Dependency>,
    /// Changing it needs no restart.
    #[serde(default)]
    pub balance: BalancePolicy,
    /// Shares of ports that several services share. Changing them needs no restart.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// `None` = it has the replicas of its mode. Changing it needs no restart.
    #[serde(default)]
    pub autoscale: Option<AutoscalePolicy>,
}

/// How many instances, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// This many slots, numbered from 1, anywhere.
    Replicated { replicas: u32 },
    /// One instance on every node that passes the filters.
    Global,
    /// This many slots, each run until it ends with exit code 0; at most `parallelism` at a time (0 = all).
    Job { completions: u32, parallelism: u32 },
    /// Run once on every node that passes the filters.
    GlobalJob,
}

impl Mode {
    /// Runs to completion.
    #[must_use]
    pub const fn is_job(self) -> bool {
        matches!(self, Self::Job { .. } | Self::GlobalJob)
    }

    /// A slot is a node.
    #[must_use]
    pub const fn is_per_node(self) -> bool {
        matches!(self, Self::Global | Self::GlobalJob)
    }

    /// As the API and Compose files spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Replicated { .. } => "replicated",
            Self::Global => "global",
            Self::Job { .. } => "replicated-job",
            Self::GlobalJob => "global-job",
        }
    }
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
    /// Asked by the agent, beside Docker's health check.
    #[serde(default)]
    pub probes: Probes,
    /// Signal name or number that asks to stop; empty = the image's, else SIGTERM.
    pub stop_signal: String,
    /// How long after the stop signal SIGKILL follows.
    pub stop_grace: Duration,
    /// What the container calls itself; empty = `<service>-<slot>`.
    #[serde(default)]
    pub hostname: String,
    /// A small init process that reaps zombies and passes signals on.
    #[serde(default)]
    pub init: bool,
    /// The root file system is read-only.
    #[serde(default)]
    pub read_only: bool,
    #[serde(default)]
    pub tty: bool,
    /// Standard input stays open.
    #[serde(default)]
    pub stdin_open: bool,
    /// Linux capabilities on top of the engine's usual ones; `ALL` = all.
    #[serde(default)]
    pub cap_add: Vec<String>,
    #[serde(default)]
    pub cap_drop: Vec<String>,
    /// Additional groups of the process.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Lines of /etc/hosts, `name:address`.
    #[serde(default)]
    pub extra_hosts: Vec<String>,
    /// Name servers; empty = the node's.
    #[serde(default)]
    pub dns: Vec<String>,
    #[serde(default)]
    pub dns_search: Vec<String>,
    #[serde(default)]
    pub dns_options: Vec<String>,
    /// Kernel parameters of the container's namespaces.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    #[serde(default)]
    pub ulimits: Vec<Ulimit>,
    /// Files from the cluster's configs.
    #[serde(default)]
    pub configs: Vec<ConfigMount>,
}

/// A limit of the container's processes (setrlimit(2)); -1 = unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    pub name: String,
    pub soft: i64,
    pub hard: i64,
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
    /// Between two tests within `start_period`; zero = Docker's default of 5 s. Docker before 25 does not
    /// know it.
    #[serde(default)]
    pub start_interval: Duration,
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
    /// Processes and threads at the same time; `None` = [`DEFAULT_PIDS`].
    #[serde(default)]
    pub pids: Option<u32>,
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

impl ContainerSpec {
    /// The image as it is.
    #[must_use]
    pub fn new(image: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            environment: BTreeMap::new(),
            labels: BTreeMap::new(),
            user: String::new(),
            working_dir: String::new(),
            mounts: Vec::new(),
            healthcheck: None,
            probes: Probes::default(),
            stop_signal: String::new(),
            stop_grace: DEFAULT_STOP_GRACE,
            hostname: String::new(),
            init: false,
            read_only: false,
            tty: false,
            stdin_open: false,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            groups: Vec::new(),
            extra_hosts: Vec::new(),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            sysctls: BTreeMap::new(),
            ulimits: Vec::new(),
            configs: Vec::new(),
        }
    }
}

impl ServiceSpec {
    /// One replica of the container, anywhere, restarted for ever.
    #[must_use]
    pub fn new(name: impl Into<String>, container: ContainerSpec) -> Self {
        Self {
            name: name.into(),
            labels: BTreeMap::new(),
            mode: Mode::Replicated { replicas: DEFAULT_REPLICAS },
            container,
            resources: ResourceRequirements::default(),
            restart: RestartPolicy::default(),
            placement: PlacementPolicy::default(),
            ports: Vec::new(),
            update: UpdatePolicy::default(),
            rollback: None,
            disruption: None,
            job: JobPolicy::default(),
            schedule: None,
            depends_on: Vec::new(),
            balance: BalancePolicy::default(),
            routes: Vec::new(),
            autoscale: None,
        }
    }

    /// Replicas asked for; `None` for a global service or a job.
    #[must_use]
    pub const fn replicas(&self) -> Option<u32> {
        match self.mode {
            Mode::Replicated { replicas } => Some(replicas),
            Mode::Global | Mode::Job { .. } | Mode::GlobalJob => None,
        }
    }

    /// Instances that may be missing because of a rollout, a drain, a rebalancing or a preemption.
    #[must_use]
    pub fn max_unavailable(&self, wanted: u32) -> u32 {
        let own = match self.update.parallelism {
            0 => wanted,
            parallelism => parallelism,
        };
        self.disruption.map_or(own, |disruption| disruption.max_unavailable(wanted))
    }

    /// Its instances follow their data.
    #[must_use]
    pub fn has_local_volumes(&self) -> bool {
        self.container.mounts.iter().any(Mount::is_local_volume)
    }

    /// The stack it is of; empty = of none.
    #[must_use]
    pub fn stack(&self) -> &str {
        self.labels.get(STACK_LABEL).map_or("", String::as_str)
    }

    /// Whether others may want to reach it: a job that offers nothing is run, not asked.
    #[must_use]
    pub fn wants_address(&self) -> bool {
        self.schedule.is_none() && (!self.mode.is_job() || !self.ports.is_empty())
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
            && (!self.mode.is_job() || self.mode == other.mode)
    }
}
