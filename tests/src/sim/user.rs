//! A user: one command at a time, each repeated under its request id until it is answered.
//!
//! Invariant: `expected` is what was acknowledged, no more and no less, except for the service or
//! node of the command that has no answer yet.
//! Deliberately not here: the wire and the lookup by a real master (`master/src/grpc`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use skein_common::{
    NodeId, Resources, ServiceId,
    cluster::{ClusterConfig, RebalanceGoal},
    node::Availability,
    placement::{DEFAULT_PRIORITY, GenericRequest},
    rollout::RolloutControl,
    service::{
        ContainerSpec, Dependency, DependencyCondition, FailureAction, Mode, PortSpec, Probe, ProbeTest,
        Probes, Protocol, Publish, RestartCondition, RestartPolicy, ServiceSpec, UpdateOrder, UpdatePolicy,
    },
};
use skein_master_core::{
    Command, CommandKind, Outcome, Rejection,
    command::{Actor, RequestKey},
};

use super::{
    Event, World,
    engine::{ABSENT_IMAGE, CHECKED_IMAGE, CRASHING_IMAGE, REMOTE_IMAGE},
    raft::Origin,
};

const NAMES: [&str; 5] = ["web", "api", "db", "log", "job"];
const MOST_REPLICAS: u64 = 5;
const MIB: u64 = 1 << 20;

/// What a user asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Wish {
    Create(Arc<ServiceSpec>),
    Update(Arc<ServiceSpec>),
    Scale {
        name: String,
        replicas: u32,
    },
    Delete {
        name: String,
    },
    Allow {
        node: usize,
        availability: Availability,
    },
    /// Gives the node the label `zone`; `None` takes it away.
    Label {
        node: usize,
        zone: Option<&'static str>,
    },
    /// A rollout that failed, and waits for a word.
    Resume {
        name: String,
    },
    /// Of the rollout that is under way, or the last one.
    Control {
        name: String,
        control: RolloutControl,
    },
    /// With a time for it.
    DrainWithin {
        node: usize,
        seconds: u64,
    },
    Rebalance {
        consolidate: bool,
    },
    /// Whether the cluster rebalances itself.
    Rebalancing(bool),
    /// A job is to run now.
    RunJob {
        name: String,
    },
    Suspend {
        name: String,
        suspend: bool,
    },
    /// Of a node that is down, or by force.
    Forget {
        node: usize,
        force: bool,
    },
}

#[derive(Debug, Clone)]
pub struct Asked {
    sequence: u64,
    wish: Wish,
    /// Different for every try, as the API's is.
    tries: u64,
}

#[derive(Debug, Default)]
pub struct User {
    pub open: Option<Asked>,
    asked: u64,
    pub answered: u64,
    pub expected: BTreeMap<String, Arc<ServiceSpec>>,
    pub availability: BTreeMap<NodeId, Availability>,
    /// What only a scenario wants: no more wishes.
    pub silent: bool,
}

impl Wish {
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::Create(spec) | Self::Update(spec) => Some(&spec.name),
            Self::Scale { name, .. }
            | Self::Delete { name }
            | Self::Resume { name }
            | Self::Control { name, .. }
            | Self::RunJob { name }
            | Self::Suspend { name, .. } => Some(name),
            Self::Allow { .. }
            | Self::DrainWithin { .. }
            | Self::Label { .. }
            | Self::Rebalance { .. }
            | Self::Rebalancing(_)
            | Self::Forget { .. } => None,
        }
    }
}

impl User {
    /// The service an unanswered command is about: nothing is known of it.
    pub fn doubts(&self, name: &str) -> bool {
        self.open.as_ref().is_some_and(|asked| asked.wish.service() == Some(name))
    }
}

impl World {
    pub(super) fn user_turn(&mut self) {
        if self.user.open.is_none() && !self.user.silent {
            let wish = self.think();
            self.ask(wish);
        }
        if !self.calm {
            self.after(300, 6_000, Event::UserTurn);
        }
    }

    pub(super) fn ask(&mut self, wish: Wish) {
        self.user.asked += 1;
        self.note(format!("user wants {wish:?}"));
        let sequence = self.user.asked;
        self.user.open = Some(Asked { sequence, wish, tries: 0 });
        self.user_tries(sequence);
    }

    /// Sends it (again), to whichever master leads or believes to.
    pub(super) fn user_tries(&mut self, sequence: u64) {
        let Some(asked) = self.user.open.as_mut().filter(|asked| asked.sequence == sequence) else { return };
        asked.tries += 1;
        self.after(1_000, 3_000, Event::UserTries { sequence });
        let claims: Vec<_> = (0..self.masters.len()).filter(|m| self.masters[*m].leads.is_some()).collect();
        let Some(master) = self.dice.pick(&claims) else { return };
        self.after(1, 20, Event::UserArrives { sequence, master });
    }

    pub(super) fn user_arrives(&mut self, sequence: u64, master: usize) {
        let Some(asked) = self.user.open.clone().filter(|asked| asked.sequence == sequence) else { return };
        let Some(term) = self.masters[master].leads.as_ref().map(|leader| leader.term) else { return };
        let Some(kind) = self.translate(&asked) else { return self.conclude(sequence, None) };
        let request = Some(RequestKey { id: format!("user-{sequence}"), fingerprint: sequence });
        let command = Command { request, at: self.master_time(master), actor: Actor::User, kind };
        self.propose(master, term, command, Origin::User { sequence });
    }

    /// `None`: there is no such service or node.
    fn translate(&mut self, asked: &Asked) -> Option<CommandKind> {
        let state = &self.raft.state;
        let id = |name: &str| -> Option<ServiceId> { Some(state.service_by_name(name)?.id) };
        // A repeat must be recognised although its target may be gone by now.
        let repeated = |id: Option<ServiceId>| id.or((asked.tries > 1).then(|| ServiceId::from_random(1)));
        Some(match &asked.wish {
            Wish::Create(spec) => CommandKind::CreateService {
                id: ServiceId::from_random(self.dice.bits()),
                spec: spec.clone(),
            },
            Wish::Update(spec) => CommandKind::UpdateService {
                id: repeated(id(&spec.name))?,
                expected: None,
                spec: spec.clone(),
            },
            Wish::Scale { name, replicas } => {
                CommandKind::ScaleService { id: repeated(id(name))?, expected: None, replicas: *replicas }
            }
            Wish::Delete { name } => CommandKind::DeleteService { id: repeated(id(name))?, expected: None },
            Wish::RunJob { name } => CommandKind::RunJob {
                id: repeated(id(name))?,
                expected: None,
                run: ServiceId::from_random(self.dice.bits()),
            },
            Wish::Suspend { name, suspend } => {
                CommandKind::ControlSchedule { id: repeated(id(name))?, expected: None, suspend: *suspend }
            }
            Wish::Resume { name } => CommandKind::ControlRollout {
                id: repeated(id(name))?,
                expected: None,
                control: RolloutControl::Resume,
            },
            Wish::Control { name, control } => {
                CommandKind::ControlRollout { id: repeated(id(name))?, expected: None, control: *control }
            }
            Wish::DrainWithin { node, seconds } => CommandKind::UpdateNode {
                id: self.nodes[*node].id,
                expected: None,
                availability: Some(Availability::Drained),
                labels: None,
                drain_within: Some(Duration::from_secs(*seconds)),
            },
            Wish::Allow { node, availability } => CommandKind::UpdateNode {
                id: self.nodes[*node].id,
                expected: None,
                availability: Some(*availability),
                labels: None,
                drain_within: None,
            },
            Wish::Label { node, zone } => CommandKind::UpdateNode {
                id: self.nodes[*node].id,
                expected: None,
                availability: None,
                labels: Some(zone.iter().map(|zone| ("zone".to_owned(), (*zone).to_owned())).collect()),
                drain_within: None,
            },
            Wish::Rebalance { consolidate } => CommandKind::Rebalance {
                goal: if *consolidate { RebalanceGoal::Consolidate } else { RebalanceGoal::Even },
                service: None,
            },
            Wish::Rebalancing(enabled) => {
                let mut config = ClusterConfig::clone(&state.settings().config);
                config.scheduling.rebalance.enabled = Some(*enabled);
                config.scheduling.rebalance.max_moves = Some(3);
                CommandKind::ConfigureCluster { expected: None, config: Arc::new(config) }
            }
            Wish::Forget { node, force } => {
                CommandKind::DeleteNode { id: self.nodes[*node].id, expected: None, force: *force }
            }
        })
    }

    pub(super) fn user_answered(&mut self, sequence: u64, outcome: Result<Outcome, Rejection>) {
        // The answer can be lost on its way, but not for ever.
        if self.calm || !self.dice.percent(8) {
            self.conclude(sequence, Some(outcome));
        }
    }

    fn conclude(&mut self, sequence: u64, outcome: Option<Result<Outcome, Rejection>>) {
        let Some(asked) = self.user.open.take_if(|asked| asked.sequence == sequence) else { return };
        self.user.answered += 1;
        if !matches!(outcome, Some(Ok(_))) {
            return self.note(format!("user is refused: {outcome:?}"));
        }
        let expected = &mut self.user.expected;
        match asked.wish {
            Wish::Create(spec) | Wish::Update(spec) => {
                expected.insert(spec.name.clone(), spec);
            }
            Wish::Scale { name, replicas } => {
                if let Some(spec) = expected.get_mut(&name) {
                    Arc::make_mut(spec).mode = Mode::Replicated { replicas };
                }
            }
            Wish::Suspend { name, suspend } => {
                let spec = expected.get_mut(&name).map(Arc::make_mut);
                if let Some(schedule) = spec.and_then(|spec| spec.schedule.as_mut()) {
                    schedule.suspend = suspend;
                }
            }
            Wish::RunJob { .. } => {}
            Wish::Delete { name } => {
                expected.remove(&name);
            }
            Wish::Allow { node, availability } => {
                self.user.availability.insert(self.nodes[node].id, availability);
            }
            Wish::DrainWithin { node, .. } => {
                self.user.availability.insert(self.nodes[node].id, Availability::Drained);
            }
            Wish::Label { .. }
            | Wish::Resume { .. }
            | Wish::Control { .. }
            | Wish::Rebalance { .. }
            | Wish::Rebalancing(_) => {}
            Wish::Forget { node, .. } => {
                self.user.availability.remove(&self.nodes[node].id);
            }
        }
    }

    fn think(&mut self) -> Wish {
        if let Some(wish) = self.think_of_jobs() {
            return wish;
        }
        if self.mixed && self.dice.percent(12) {
            return self.think_of_control();
        }
        let name = NAMES[self.dice.index(NAMES.len())];
        let node = self.dice.index(self.nodes.len());
        let Some(known) = self.user.expected.get(name).cloned() else {
            return if self.dice.percent(85) { Wish::Create(self.imagine(name)) } else { self.drain(node) };
        };
        match self.dice.range(0..100) {
            0..35 => match known.mode {
                Mode::Replicated { .. } => {
                    let replicas = u32::try_from(self.dice.range(0..MOST_REPLICAS + 1)).unwrap_or(1);
                    Wish::Scale { name: name.to_owned(), replicas }
                }
                Mode::Global | Mode::Job { .. } | Mode::GlobalJob => Wish::Delete { name: name.to_owned() },
            },
            35..60 => {
                let mut spec = ServiceSpec::clone(&known);
                spec.container.command = vec![format!("v{}", self.user.asked)];
                if self.dice.percent(30) {
                    spec.container.image = self.image();
                }
                Wish::Update(Arc::new(spec))
            }
            60..70 => Wish::Delete { name: name.to_owned() },
            74..82 => {
                let zones: &[_] = if node == 0 { &[Some("a"), None] } else { &[Some("a"), Some("b"), None] };
                Wish::Label { node, zone: self.dice.pick(zones).flatten() }
            }
            90..96 => Wish::Rebalance { consolidate: self.dice.percent(30) },
            96..98 => Wish::Rebalancing(self.dice.percent(70)),
            70..74 => Wish::Forget { node, force: self.dice.percent(50) },
            _ => self.drain(node),
        }
    }

    fn think_of_control(&mut self) -> Wish {
        let node = self.dice.index(self.nodes.len());
        if self.dice.percent(25) {
            return Wish::DrainWithin { node, seconds: self.dice.range(2..30) };
        }
        let controls = [
            (3, RolloutControl::Undo { to: None }),
            (2, RolloutControl::Pause),
            (2, RolloutControl::Promote),
            (2, RolloutControl::Resume),
        ];
        let control = self.dice.weighted(&controls).unwrap_or(RolloutControl::Resume);
        Wish::Control { name: NAMES[self.dice.index(NAMES.len())].to_owned(), control }
    }

    /// Repairs a service whose image can never run; whether there was one.
    pub(super) fn repair_one(&mut self) -> bool {
        let is_bad = |spec: &&Arc<ServiceSpec>| is_bad(&spec.container.image);
        // A user may have gone back to one.
        let kept =
            self.raft.state.services().filter(|service| !service.deleting).map(|service| &service.spec);
        let Some(bad) = self.user.expected.values().chain(kept).find(is_bad).cloned() else { return false };
        if self.user.open.is_none() {
            let mut spec = ServiceSpec::clone(&bad);
            "plain:1".clone_into(&mut spec.container.image);
            self.ask(Wish::Update(Arc::new(spec)));
        }
        true
    }

    fn drain(&mut self, node: usize) -> Wish {
        let drained = [Availability::Drained, Availability::Paused];
        let usual =
            self.user.availability.get(&self.nodes[node].id).is_none_or(|a| *a == Availability::Active);
        let availability = if usual { drained[self.dice.index(drained.len())] } else { Availability::Active };
        Wish::Allow { node, availability }
    }

    /// Never in a circle: of these only `web` and `job` wait for one that waits itself.
    fn dependencies(&mut self, name: &str) -> Vec<Dependency> {
        let service = match name {
            "api" => "db",
            "web" => "api",
            "job" => "batch",
            _ => return Vec::new(),
        };
        if self.dice.percent(40) {
            return Vec::new();
        }
        let condition = match (name, self.dice.percent(50)) {
            ("job", _) => DependencyCondition::CompletedSuccessfully,
            (_, true) => DependencyCondition::Healthy,
            (_, false) => DependencyCondition::Started,
        };
        vec![Dependency { service: service.to_owned(), condition }]
    }

    fn image(&mut self) -> String {
        let images = [(5, "plain:1"), (2, REMOTE_IMAGE), (3, CHECKED_IMAGE)];
        if self.mixed && self.dice.percent(14) {
            let bad = if self.dice.percent(40) { ABSENT_IMAGE } else { CRASHING_IMAGE };
            return bad.to_owned();
        }
        self.dice.weighted(&images).unwrap_or("plain:1").to_owned()
    }

    fn imagine(&mut self, name: &str) -> Arc<ServiceSpec> {
        let replicas = u32::try_from(self.dice.range(0..MOST_REPLICAS + 1)).unwrap_or(1);
        let global = name == "log" && self.dice.percent(60);
        let restarts =
            [(6, RestartCondition::Any), (2, RestartCondition::OnFailure), (1, RestartCondition::None)];
        let condition = if global {
            RestartCondition::Any
        } else {
            self.dice.weighted(&restarts).unwrap_or(RestartCondition::Any)
        };
        let zoned = !global && name == "db";
        let port = match name {
            "job" if self.dice.percent(50) => Some(Publish::Host { port: 9000 }),
            "web" => Some(Publish::Ingress { port: Some(80) }),
            "api" => Some(Publish::Ingress { port: None }),
            _ => None,
        };
        let mut spec = ServiceSpec {
            mode: if global { Mode::Global } else { Mode::Replicated { replicas } },
            restart: RestartPolicy {
                condition,
                delay: self.dice.percent(30).then(|| Duration::from_millis(500)),
                max_attempts: self.dice.percent(25).then_some(2),
                window: Duration::ZERO,
            },
            update: update_policy(name),
            ..ServiceSpec::new(name, container(&self.image()))
        };
        // Large ones fill a node of 8 GiB quickly, so that room is what instances fight for.
        let sizes = [(3, 64), (2, 1_024), (3, 2_560), (2, 4_000)];
        let memory = self.dice.weighted(&sizes).unwrap_or(64);
        spec.resources.reservation =
            Resources { cpu_millis: self.dice.range(0..1_200), memory_bytes: memory * MIB };
        spec.placement.priority = priority(name);
        if self.mixed {
            spec.balance.timeouts.drain = Duration::from_secs(self.dice.range(1..9));
            spec.depends_on = self.dependencies(name);
        }
        spec.container.probes = probes(name);
        if name == "api" && self.dice.percent(40) {
            let millis = if self.dice.percent(50) { 500 } else { 1_000 };
            let gpu = GenericRequest { name: "gpu".to_owned(), count: 1, millis, models: Vec::new() };
            spec.placement.generic.push(gpu);
        }
        // The first node is never in zone b, so there is always one left.
        if zoned && let Ok(constraint) = "node.labels.zone != b".parse() {
            spec.placement.constraints.push(constraint);
        }
        if spec.ports.is_empty() && matches!(port, Some(Publish::Host { .. })) {
            spec.mode = Mode::Replicated { replicas: replicas.min(1) };
        }
        spec.ports.extend(port.map(|publish| PortSpec {
            container_port: 80,
            protocol: Protocol::Tcp,
            publish,
        }));
        Arc::new(spec)
    }
}

pub(super) fn is_bad(image: &str) -> bool {
    matches!(image, ABSENT_IMAGE | CRASHING_IMAGE)
}

/// Some give way to others.
fn priority(name: &str) -> u8 {
    match name {
        "db" => 80,
        "web" => 60,
        "log" => 10,
        _ => DEFAULT_PRIORITY,
    }
}

/// By name, so that each way of rolling out meets every fault and no die is thrown for it.
fn update_policy(name: &str) -> UpdatePolicy {
    let usual = UpdatePolicy::default();
    match name {
        "api" => UpdatePolicy { parallelism: 2, order: UpdateOrder::StartFirst, ..usual },
        "db" => UpdatePolicy { failure_action: FailureAction::Rollback, ..usual },
        "log" => {
            UpdatePolicy { order: UpdateOrder::StartFirst, failure_action: FailureAction::Continue, ..usual }
        }
        "web" => UpdatePolicy { canary: 1, auto_promote: true, delay: Duration::from_secs(2), ..usual },
        _ => usual,
    }
}

fn container(image: &str) -> ContainerSpec {
    ContainerSpec { stop_grace: Duration::from_secs(3), ..ContainerSpec::new(image) }
}

/// Of some services, so that those without are seen beside them.
fn probes(name: &str) -> Probes {
    let probe = |interval| {
        let interval = Duration::from_millis(interval);
        Probe { interval, start_interval: interval / 4, ..Probe::new(ProbeTest::Tcp { port: 80 }) }
    };
    match name {
        "api" => Probes { readiness: Some(Probe { retries: 1, ..probe(4_000) }), ..Probes::default() },
        "db" => Probes {
            startup: Some(probe(2_000)),
            readiness: Some(Probe { retries: 2, successes: 2, ..probe(3_000) }),
            liveness: Some(probe(5_000)),
        },
        _ => Probes::default(),
    }
}
