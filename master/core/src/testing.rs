//! Builders and a small cluster without I/O, for tests of this crate and of others.
//!
//! Everything is deterministic: ids are mixed from a counter, time moves when it is told to.
//! Deliberately not here: faults (the simulator), anything a master process needs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use skein_common::{
    InstanceId, NodeId, Resources, Revision, ServiceId, Timestamp,
    instance::{Desired, Instance, News, Observed, Phase, Progress},
    node::{Availability, Liveness, NodeDescription, Platform},
    resources::Resources as Amount,
    service::{ContainerSpec, Mode, PortSpec, Protocol, Publish, ServiceSpec},
};

use crate::{
    command::{Actor, Command, CommandKind, Report, RequestKey, Verdict},
    orchestrator::{self, Planned, Scope},
    state::{Applied, ClusterState},
};

/// One gibibyte.
pub const GIB: u64 = 1 << 30;
/// Where the time of tests begins.
pub const EPOCH: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);

/// A replicated service of one replica that reserves nothing.
#[must_use]
pub fn spec(name: &str) -> ServiceSpec {
    ServiceSpec::new(name, ContainerSpec::new("skein-sample:1"))
}

/// [`spec`] with this many replicas.
#[must_use]
pub fn replicated(name: &str, replicas: u32) -> ServiceSpec {
    ServiceSpec { mode: Mode::Replicated { replicas }, ..spec(name) }
}

/// [`spec`] on every node.
#[must_use]
pub fn global(name: &str) -> ServiceSpec {
    ServiceSpec { mode: Mode::Global, ..spec(name) }
}

/// `spec` as a new generation would look.
#[must_use]
pub fn with_image(mut spec: ServiceSpec, image: &str) -> ServiceSpec {
    image.clone_into(&mut spec.container.image);
    spec
}

/// `spec` reserving this much.
#[must_use]
pub fn reserving(mut spec: ServiceSpec, cpu_millis: u64, memory_bytes: u64) -> ServiceSpec {
    spec.resources.reservation = Amount { cpu_millis, memory_bytes };
    spec
}

/// `spec` with one more TCP port.
#[must_use]
pub fn publishing(mut spec: ServiceSpec, container_port: u16, publish: Publish) -> ServiceSpec {
    spec.ports.push(PortSpec { container_port, protocol: Protocol::Tcp, publish });
    spec
}

/// A machine of 4 cores and 8 GiB whose address is its name.
#[must_use]
pub fn node(name: &str) -> NodeDescription {
    NodeDescription {
        name: name.to_owned(),
        address: name.to_owned(),
        labels: BTreeMap::new(),
        capacity: Resources { cpu_millis: 4_000, memory_bytes: 8 * GIB },
        reserved: Resources::ZERO,
        platform: Platform { os: "linux".to_owned(), arch: "amd64".to_owned() },
        agent_version: "test".to_owned(),
        runtime_version: "fake".to_owned(),
        generic: Vec::new(),
        balances: false,
        pids: 0,
    }
}

/// Well-spread bits from a counter (SplitMix64).
#[must_use]
pub const fn mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A state, a clock and agents that do as they are told when asked to.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    pub state: ClusterState,
    pub now: Timestamp,
    counter: u64,
}

impl Cluster {
    /// Nodes `n1` … `n<count>`, all Ready.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let mut cluster = Self { now: EPOCH, ..Self::default() };
        for number in 1..=count {
            cluster.add_node(node(&format!("n{number}")));
        }
        cluster
    }

    /// Bits no one had before.
    pub fn bits(&mut self) -> u64 {
        self.counter += 1;
        mix(self.counter)
    }

    pub fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// Applies at the next revision.
    pub fn apply(&mut self, kind: CommandKind) -> Applied {
        self.apply_as(None, kind)
    }

    pub fn apply_as(&mut self, request: Option<RequestKey>, kind: CommandKind) -> Applied {
        let revision = Revision(self.state.revision().0 + 1);
        self.state.apply(revision, &Command { request, at: self.now, actor: Actor::User, kind })
    }

    /// Applies what must succeed.
    ///
    /// # Panics
    /// When it is rejected.
    pub fn accept(&mut self, kind: CommandKind) -> Applied {
        let applied = self.apply(kind);
        assert!(applied.outcome.is_ok(), "rejected: {:?}", applied.outcome);
        applied
    }

    pub fn add_node(&mut self, description: NodeDescription) -> NodeId {
        let id = NodeId::from_random(self.bits());
        self.accept(CommandKind::RegisterNode { id, description: Arc::new(description), incarnation: 1 });
        id
    }

    pub fn create(&mut self, spec: ServiceSpec) -> ServiceId {
        let id = ServiceId::from_random(self.bits());
        self.accept(CommandKind::CreateService { id, spec: Arc::new(spec) });
        id
    }

    pub fn update(&mut self, id: ServiceId, spec: ServiceSpec) {
        self.accept(CommandKind::UpdateService { id, expected: None, spec: Arc::new(spec) });
    }

    pub fn scale(&mut self, id: ServiceId, replicas: u32) {
        self.accept(CommandKind::ScaleService { id, expected: None, replicas });
    }

    pub fn judge(&mut self, node: NodeId, liveness: Liveness) {
        let reason =
            if liveness == Liveness::Ready { String::new() } else { "no heartbeat for 10 s".to_owned() };
        self.accept(CommandKind::JudgeNodes {
            verdicts: vec![Verdict { node, liveness, reason, drawn_from: None }],
        });
    }

    pub fn set_availability(&mut self, id: NodeId, availability: Availability) {
        self.accept(CommandKind::UpdateNode {
            id,
            expected: None,
            availability: Some(availability),
            labels: None,
            drain_within: None,
        });
    }

    /// The id of the node with this name; any id when there is none.
    #[must_use]
    pub fn node(&self, name: &str) -> NodeId {
        self.state.node_by_name(name).map_or(NodeId::from_random(u64::MAX), |node| node.id)
    }

    /// What the planner would do now.
    pub fn plan(&mut self) -> Planned {
        self.plan_for(&Scope::All)
    }

    pub fn plan_for(&mut self, scope: &Scope) -> Planned {
        let mut counter = self.counter;
        let mut ids = || {
            counter += 1;
            InstanceId::from_random(mix(counter))
        };
        let planned = orchestrator::plan(&self.state, scope, self.now, &mut ids);
        self.counter = counter;
        planned
    }

    /// One pass of the planner, applied; whether it changed anything.
    pub fn step(&mut self) -> bool {
        let plan = self.plan().plan;
        let changes = !plan.is_empty();
        if changes {
            self.accept(CommandKind::Plan(plan));
        }
        changes
    }

    /// Passes of the planner until there is nothing left to do.
    ///
    /// # Panics
    /// When it never ends.
    pub fn plan_out(&mut self) {
        for _ in 0..100 {
            if !self.step() {
                return;
            }
        }
        assert!(self.plan().plan.is_empty(), "the planner finds no rest");
    }

    /// Planner and agents in turns, until both rest.
    ///
    /// # Panics
    /// When they never rest.
    pub fn settle(&mut self) {
        for _ in 0..1_000 {
            self.plan_out();
            if !self.obey() {
                return;
            }
        }
        assert!(!self.obey(), "planner and agents find no rest");
    }

    /// Every agent on a node that is Ready does what it was told; whether there was anything.
    pub fn obey(&mut self) -> bool {
        let reports: Vec<_> = self.state.instances().filter_map(|i| self.obedience(i)).collect();
        let any = !reports.is_empty();
        if any {
            self.accept(CommandKind::Observe { reports });
        }
        any
    }

    fn obedience(&self, instance: &Instance) -> Option<Report> {
        let node = instance.node?;
        self.state.node(node).filter(|node| node.liveness == Liveness::Ready)?;
        let phase = instance.observed.progress.phase;
        let attempt = instance.observed.progress.attempt;
        let news = match instance.desired {
            Desired::Remove => News::Gone,
            Desired::Run | Desired::Stop if phase.is_terminal() => return None,
            Desired::Stop => self.observed(instance, attempt, Phase::Stopped),
            Desired::Run if phase == Phase::Ready => return None,
            Desired::Run if phase < Phase::Ready => self.observed(instance, attempt, Phase::Ready),
            // It was on its way down: the next attempt is as good as wished.
            Desired::Run => self.observed(instance, attempt + 1, Phase::Ready),
        };
        Some(Report { node, instance: instance.id, news })
    }

    fn observed(&self, instance: &Instance, attempt: u32, phase: Phase) -> News {
        let progress = Progress { attempt, phase };
        News::Observed(Observed { progress, at: self.now, ..instance.observed.clone() })
    }

    /// The instance's node reports this phase.
    pub fn report(&mut self, id: InstanceId, phase: Phase) {
        self.report_exit(id, phase, None, "");
    }

    pub fn report_exit(&mut self, id: InstanceId, phase: Phase, exit_code: Option<i64>, message: &str) {
        let Some(instance) = self.state.instance(id).cloned() else { return };
        let Some(node) = instance.node else { return };
        let progress = Progress { phase, ..instance.observed.progress };
        let message = message.to_owned();
        let observed = Observed { exit_code, message, ..Observed::of(progress, self.now) };
        let report = Report { node, instance: id, news: News::Observed(observed) };
        self.accept(CommandKind::Observe { reports: vec![report] });
    }

    /// The live instance of a replicated slot.
    #[must_use]
    pub fn live(&self, service: ServiceId) -> Vec<Arc<Instance>> {
        self.state.instances_of(service).filter(|instance| instance.is_live()).cloned().collect()
    }

    /// `web.1@n2 Ready`, for each record of the service; live ones only.
    #[must_use]
    pub fn picture(&self, service: ServiceId) -> Vec<String> {
        self.live(service).iter().map(|instance| self.describe(instance)).collect()
    }

    fn describe(&self, instance: &Instance) -> String {
        let name = self.state.instance_name(instance);
        let node = instance.node.map_or_else(|| "nowhere".to_owned(), |node| self.state.node_name(node));
        format!("{name}@{node} {}", instance.observed.progress.phase)
    }
}
