//! Properties over random histories: whatever users, agents and planners do, in any order, the
//! rules hold after each command; equal input gives equal plans; and when the faults stop, what
//! runs becomes what is wanted.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proptest::{collection::vec, prelude::*, sample::Index};
use skein_common::{
    InstanceId, ServiceId,
    cluster::RebalanceGoal,
    instance::{Desired, News, Observed, Phase, Progress},
    node::{Availability, Liveness},
    rollout::{RolloutControl, RolloutPhase},
    service::{FailureAction, Mode, Publish, RestartCondition, ServiceSpec, UpdateOrder, UpdatePolicy},
};

use crate::{
    ClusterState, CommandKind, Scope,
    command::{Plan, Report, Verdict},
    invariant,
    orchestrator::{self, KEPT, Planned},
    state::{Applied, Service},
    testing::{Cluster, GIB, global, mix, node, publishing, replicated, reserving, with_image},
};

const PHASES: [Phase; 11] = [
    Phase::Assigned,
    Phase::Pulling,
    Phase::Creating,
    Phase::Starting,
    Phase::Running,
    Phase::Ready,
    Phase::Draining,
    Phase::Stopping,
    Phase::Stopped,
    Phase::Failed,
    Phase::Rejected,
];

/// One step of a history. Indexes choose among what there is at that moment.
#[derive(Debug, Clone)]
enum Action {
    Create {
        name: u8,
        spec: Shape,
    },
    Update {
        service: Index,
        spec: Shape,
    },
    Scale {
        service: Index,
        replicas: u32,
    },
    Delete {
        service: Index,
    },
    Control {
        service: Index,
        control: u8,
    },
    AddNode {
        name: u8,
        host: u8,
        zone: bool,
    },
    Judge {
        node: Index,
        liveness: u8,
    },
    Avail {
        node: Index,
        availability: u8,
    },
    Label {
        node: Index,
        zone: bool,
    },
    RemoveNode {
        node: Index,
        force: bool,
    },
    Report {
        instance: Index,
        attempt: u32,
        phase: Index,
        exit: Option<i64>,
    },
    Gone {
        instance: Index,
    },
    /// What occupies its node no longer does.
    End {
        instance: Index,
        phase: Phase,
    },
    Rebalance {
        consolidate: bool,
    },
    /// Agents do as they are told.
    Obey,
    /// A pass of the planner, applied at once.
    Plan,
    /// A pass whose command is delayed …
    Draft,
    /// … and arrives now.
    Deliver,
    Pass {
        seconds: u64,
    },
}

/// The parts of a spec that decisions depend on.
#[derive(Debug, Clone)]
struct Shape {
    global: bool,
    replicas: u32,
    memory: u64,
    image: u8,
    port: u8,
    condition: u8,
    zone: bool,
    priority: u8,
    update: UpdatePolicy,
}

impl Shape {
    fn spec(&self, name: &str) -> ServiceSpec {
        let spec = if self.global { global(name) } else { replicated(name, self.replicas) };
        let spec = with_image(spec, &format!("image:{}", self.image));
        let mut spec = reserving(spec, self.memory * 250, self.memory * GIB);
        spec.restart.condition = match self.condition {
            0 => RestartCondition::Any,
            1 => RestartCondition::OnFailure,
            _ => RestartCondition::None,
        };
        spec.update = self.update;
        spec.placement.priority = self.priority;
        if self.zone {
            spec.placement.constraints = vec!["node.labels.zone == a".parse().expect("a constraint")];
        }
        match self.port {
            0 => publishing(spec, 80, Publish::Host { port: 8080 }),
            1 => publishing(spec, 80, Publish::Ingress { port: None }),
            2 => publishing(spec, 80, Publish::Ingress { port: Some(80) }),
            _ => spec,
        }
    }
}

fn updates() -> impl Strategy<Value = UpdatePolicy> {
    (0..3u32, any::<bool>(), 0..3u8, prop::bool::weighted(0.2), any::<bool>(), 0..20u64).prop_map(
        |(parallelism, start_first, action, canary, auto_promote, delay)| UpdatePolicy {
            parallelism,
            order: if start_first { UpdateOrder::StartFirst } else { UpdateOrder::StopFirst },
            delay: Duration::from_secs(delay / 4),
            failure_action: match action {
                0 => FailureAction::Pause,
                1 => FailureAction::Continue,
                _ => FailureAction::Rollback,
            },
            canary: u32::from(canary),
            auto_promote,
            ..UpdatePolicy::default()
        },
    )
}

fn shapes() -> impl Strategy<Value = Shape> {
    let rest =
        (prop::bool::weighted(0.2), prop_oneof![2 => Just(50), 1 => Just(20), 1 => Just(80)], updates());
    (prop::bool::weighted(0.25), 0..6u32, 0..5u64, 0..3u8, 0..6u8, 0..4u8, rest).prop_map(
        |(global, replicas, memory, image, port, condition, (zone, priority, update))| Shape {
            update,
            priority,
            global,
            replicas,
            memory,
            image,
            port,
            // Twice as often the default.
            condition: condition.saturating_sub(1),
            zone,
        },
    )
}

fn actions() -> impl Strategy<Value = Action> {
    let index = any::<Index>;
    prop_oneof![
        3 => (0..4u8, shapes()).prop_map(|(name, spec)| Action::Create { name, spec }),
        2 => (index(), shapes()).prop_map(|(service, spec)| Action::Update { service, spec }),
        2 => (index(), 0..6u32).prop_map(|(service, replicas)| Action::Scale { service, replicas }),
        1 => index().prop_map(|service| Action::Delete { service }),
        2 => (index(), 0..5u8).prop_map(|(service, control)| Action::Control { service, control }),
        3 => (0..5u8, 0..3u8, any::<bool>()).prop_map(|(name, host, zone)| Action::AddNode { name, host, zone }),
        4 => (index(), 0..3u8).prop_map(|(node, liveness)| Action::Judge { node, liveness }),
        2 => (index(), 0..3u8).prop_map(|(node, availability)| Action::Avail { node, availability }),
        1 => (index(), any::<bool>()).prop_map(|(node, zone)| Action::Label { node, zone }),
        1 => (index(), any::<bool>()).prop_map(|(node, force)| Action::RemoveNode { node, force }),
        8 => (index(), 1..4u32, index(), prop::option::of(0..2i64))
            .prop_map(|(instance, attempt, phase, exit)| Action::Report { instance, attempt, phase, exit }),
        1 => index().prop_map(|instance| Action::Gone { instance }),
        4 => Just(Action::Obey),
        8 => Just(Action::Plan),
        2 => Just(Action::Draft),
        2 => Just(Action::Deliver),
        1 => any::<bool>().prop_map(|consolidate| Action::Rebalance { consolidate }),
        3 => (0..400u64).prop_map(|seconds| Action::Pass { seconds }),
    ]
}

/// What frees room: the case in which a narrow scope must look beyond its services.
fn endings() -> impl Strategy<Value = Action> {
    let ended = (any::<Index>(), 8..11usize).prop_map(|(instance, phase)| (instance, PHASES[phase]));
    prop_oneof![
        ended.prop_map(|(instance, phase)| Action::End { instance, phase }),
        any::<Index>().prop_map(|instance| Action::Gone { instance }),
        any::<Index>().prop_map(|service| Action::Delete { service }),
    ]
}

/// A small cluster, soon full, with what is still under way to it.
struct World {
    cluster: Cluster,
    delayed: Option<Plan>,
}

impl World {
    fn new() -> Self {
        let mut world = Self { cluster: Cluster::new(0), delayed: None };
        for (name, zone) in [(0, true), (1, false)] {
            world.act(&Action::AddNode { name, host: 0, zone });
        }
        world
    }

    fn act(&mut self, action: &Action) -> Option<Applied> {
        match action {
            Action::Obey => {
                self.cluster.obey();
                None
            }
            Action::Plan => {
                self.cluster.step();
                None
            }
            Action::Draft => {
                self.delayed = Some(self.cluster.plan().plan);
                None
            }
            Action::Pass { seconds } => {
                self.cluster.pass(Duration::from_secs(*seconds));
                None
            }
            other => self.command(other).map(|kind| self.cluster.apply(kind)),
        }
    }

    /// The command of an action; nothing when what it is about does not exist.
    fn command(&mut self, action: &Action) -> Option<CommandKind> {
        match action {
            Action::Create { name, spec } => {
                let id = ServiceId::from_random(self.cluster.bits());
                let spec = spec.spec(&format!("s{name}")).into();
                Some(CommandKind::CreateService { id, spec })
            }
            Action::Update { service, spec } => {
                let service = pick(self.cluster.state.services(), service)?;
                let mut spec = spec.spec(&service.spec.name);
                if service.spec.mode == Mode::Global {
                    spec.mode = Mode::Global;
                } else if spec.mode == Mode::Global {
                    spec.mode = service.spec.mode;
                }
                Some(CommandKind::UpdateService { id: service.id, expected: None, spec: spec.into() })
            }
            Action::Scale { service, replicas } => {
                let id = pick(self.cluster.state.services(), service)?.id;
                Some(CommandKind::ScaleService { id, expected: None, replicas: *replicas })
            }
            Action::Delete { service } => {
                let id = pick(self.cluster.state.services(), service)?.id;
                Some(CommandKind::DeleteService { id, expected: None })
            }
            Action::Rebalance { consolidate } => {
                let goal = if *consolidate { RebalanceGoal::Consolidate } else { RebalanceGoal::Even };
                Some(CommandKind::Rebalance { goal, service: None })
            }
            Action::Control { service, control } => {
                let service = pick(self.cluster.state.services(), service)?;
                let control = match control {
                    0 => RolloutControl::Pause,
                    1 => RolloutControl::Resume,
                    2 => RolloutControl::Promote,
                    3 => RolloutControl::Undo { to: None },
                    _ => RolloutControl::Undo { to: service.kept.first().copied() },
                };
                Some(CommandKind::ControlRollout { id: service.id, expected: None, control })
            }
            Action::AddNode { .. }
            | Action::Judge { .. }
            | Action::Avail { .. }
            | Action::Label { .. }
            | Action::RemoveNode { .. } => self.node_command(action),
            Action::Report { .. } | Action::End { .. } | Action::Gone { .. } => self.report(action),
            Action::Deliver => self.delayed.take().map(CommandKind::Plan),
            Action::Obey | Action::Plan | Action::Draft | Action::Pass { .. } => None,
        }
    }

    fn node_command(&mut self, action: &Action) -> Option<CommandKind> {
        let labels = |zone: bool| [("zone".to_owned(), if zone { "a" } else { "b" }.to_owned())].into();
        let state = &self.cluster.state;
        Some(match action {
            Action::AddNode { name, host, zone } => {
                let mut description = node(&format!("n{name}"));
                description.capacity.memory_bytes = 6 * GIB;
                // A node keeps its address, so that it does not come to ports another one uses.
                description.address = format!("host{host}");
                description.labels = labels(*zone);
                let known = state.node_by_name(&description.name).map(|n| (n.id, n.incarnation + 1));
                if let Some(known) = state.node_by_name(&description.name) {
                    description.address.clone_from(&known.description.address);
                }
                let (id, incarnation) = known.unwrap_or_else(|| {
                    (skein_common::NodeId::from_random(mix(1_000 + state.revision().0)), 1)
                });
                CommandKind::RegisterNode { id, description: description.into(), incarnation }
            }
            Action::Judge { node, liveness } => {
                let liveness = [Liveness::Ready, Liveness::Unknown, Liveness::Down][usize::from(*liveness)];
                let node = pick(state.nodes(), node)?.id;
                let reason = format!("{liveness:?}");
                CommandKind::JudgeNodes {
                    verdicts: vec![Verdict { node, liveness, reason, drawn_from: None }],
                }
            }
            Action::Avail { node, availability } => {
                let all = [Availability::Active, Availability::Paused, Availability::Drained];
                let availability = Some(all[usize::from(*availability)]);
                CommandKind::UpdateNode {
                    id: pick(state.nodes(), node)?.id,
                    expected: None,
                    availability,
                    labels: None,
                    drain_within: None,
                }
            }
            Action::Label { node, zone } => CommandKind::UpdateNode {
                id: pick(state.nodes(), node)?.id,
                expected: None,
                availability: None,
                labels: Some(labels(*zone)),
                drain_within: None,
            },
            Action::RemoveNode { node, force } => {
                CommandKind::DeleteNode { id: pick(state.nodes(), node)?.id, expected: None, force: *force }
            }
            _ => return None,
        })
    }

    fn report(&self, action: &Action) -> Option<CommandKind> {
        let state = &self.cluster.state;
        let (instance, news) = match action {
            Action::Report { instance, attempt, phase, exit } => {
                let instance = pick(state.instances(), instance)?;
                let progress = Progress { attempt: *attempt, phase: *phase.get(&PHASES) };
                let observed = Observed { exit_code: *exit, ..Observed::of(progress, self.cluster.now) };
                (instance, News::Observed(observed))
            }
            Action::End { instance, phase } => {
                let instance = pick(state.instances().filter(|i| i.occupies().is_some()), instance)?;
                let progress = Progress { phase: *phase, ..instance.observed.progress };
                let observed = Observed { progress, at: self.cluster.now, ..instance.observed.clone() };
                (instance, News::Observed(observed))
            }
            Action::Gone { instance } => (pick(state.instances(), instance)?, News::Gone),
            _ => return None,
        };
        let report = Report { node: instance.node?, instance: instance.id, news };
        Some(CommandKind::Observe { reports: vec![report] })
    }

    /// Faults stop: all nodes are there and open, back-offs pass, agents obey.
    fn heal(&mut self) {
        self.delayed = None;
        let nodes: Vec<_> = self.cluster.state.nodes().map(|node| node.id).collect();
        for node in nodes {
            self.cluster.judge(node, Liveness::Ready);
            self.cluster.set_availability(node, Availability::Active);
        }
        for _ in 0..100 {
            self.cluster.settle();
            self.encourage();
            let Some(wake_at) = self.cluster.plan().wake_at else { return };
            assert!(wake_at > self.cluster.now, "a back-off lies in the future");
            self.cluster.now = wake_at;
        }
    }

    /// Users let every rollout that waits for them go on.
    fn encourage(&mut self) {
        let waiting = |service: &&Arc<Service>| {
            let phase = service.rollout.as_ref().map(|rollout| rollout.phase);
            matches!(phase, Some(RolloutPhase::Paused | RolloutPhase::AwaitingPromotion))
        };
        let waiting: Vec<_> =
            self.cluster.state.services().filter(waiting).map(|service| service.id).collect();
        for id in waiting {
            self.cluster.apply(CommandKind::ControlRollout {
                id,
                expected: None,
                control: RolloutControl::Promote,
            });
        }
        self.cluster.settle();
    }
}

fn pick<T: Clone>(all: impl Iterator<Item = T>, index: &Index) -> Option<T> {
    let all: Vec<_> = all.collect();
    (!all.is_empty()).then(|| index.get(&all).clone())
}

fn sound(state: &ClusterState) {
    assert_eq!(invariant::check(state), []);
    assert_eq!(invariant::check_capacity(state), []);
}

/// Whatever the planner has just placed is alone in its slot.
fn stops_first(before: &ClusterState, after: &ClusterState) {
    let placed = |state: &ClusterState, id| state.instance(id).is_some_and(|i| i.node.is_some());
    for new in after.instances().filter(|i| placed(after, i.id) && !placed(before, i.id)) {
        let others = after.instances_in(new.service, new.slot).filter(|other| other.id != new.id);
        let others = others.filter(|other| !other.lost && new.beside != Some(other.id));
        assert!(others.into_iter().all(|other| other.occupies().is_none()));
    }
}

fn plan_with(state: &ClusterState, cluster: &Cluster, scope: &Scope) -> Planned {
    let mut counter = 1 << 32;
    let mut ids = || {
        counter += 1;
        InstanceId::from_random(mix(counter))
    };
    orchestrator::plan(state, scope, cluster.now, &mut ids)
}

/// What a healed cluster looks like: nothing but what is wanted, and a reason for what is missing.
fn converged(cluster: &Cluster) {
    let state = &cluster.state;
    assert!(state.services().all(|service| !service.deleting));
    for service in state.services() {
        let live = cluster.live(service.id);
        // There is no room for what shall run now, and it says so.
        let stuck = live.iter().any(|instance| instance.node.is_none());
        let done = service.rollout.as_ref().is_none_or(|rollout| rollout.phase == RolloutPhase::Completed);
        assert!(done || stuck || live.is_empty(), "{:?}", service.rollout);
        if !stuck {
            assert!(live.iter().all(|instance| state.is_current(instance)));
        }
        let mut records = BTreeMap::new();
        for instance in state.instances_of(service.id) {
            let (held, ended): &mut (usize, usize) = records.entry(instance.slot).or_default();
            *(if instance.desired == Desired::Run { held } else { ended }) += 1;
        }
        for (slot, (held, ended)) in records {
            let most = if stuck { 2 } else { 1 };
            assert!((1..=most).contains(&held) && ended <= KEPT, "slot {slot}: {held} held, {ended} kept");
        }
        let completed = state.instances_of(service.id).filter(|i| !i.is_live() && i.desired == Desired::Run);
        if let Some(replicas) = service.spec.replicas() {
            let holders = live.iter().filter(|i| i.beside.is_none_or(|b| live.iter().all(|o| o.id != b)));
            assert_eq!(holders.count() + completed.count(), usize::try_from(replicas).expect("fits"));
        }
        for instance in live {
            let phase = instance.observed.progress.phase;
            if instance.node.is_none() {
                assert!(!instance.explanation.is_empty(), "pending without a reason");
            } else {
                assert_eq!(phase, Phase::Ready);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_hold_after_every_command(history in vec(actions(), 1..80)) {
        let mut world = World::new();
        for action in &history {
            let before = world.cluster.state.clone();
            world.act(action);
            sound(&world.cluster.state);
            prop_assert_eq!(invariant::check_step(&before, &world.cluster.state), []);
            if matches!(action, Action::Plan) {
                stops_first(&before, &world.cluster.state);
            }
        }
        world.heal();
        sound(&world.cluster.state);
        converged(&world.cluster);
    }

    #[test]
    fn equal_input_gives_equal_plans(history in vec(actions(), 1..40)) {
        let mut world = World::new();
        history.iter().for_each(|action| { world.act(action); });
        let cluster = &world.cluster;
        let stored = rmp_serde::to_vec_named(&cluster.state).expect("encodes");
        let loaded: ClusterState = rmp_serde::from_slice(&stored).expect("decodes");
        prop_assert_eq!(&loaded, &cluster.state);
        let plan = plan_with(&cluster.state, cluster, &Scope::All);
        prop_assert_eq!(plan_with(&loaded, cluster, &Scope::All), plan);
    }

    #[test]
    fn plans_reach_a_fixed_point(history in vec(actions(), 1..60)) {
        let mut world = World::new();
        history.iter().for_each(|action| { world.act(action); });
        // One pass decides; a second and third may follow what the first one dropped or filled.
        for _ in 0..4 {
            world.cluster.step();
        }
        prop_assert_eq!(world.cluster.plan().plan, Plan::default());
    }

    #[test]
    fn a_narrow_scope_decides_the_same(history in vec(actions(), 1..40), last in prop_oneof![actions(), endings()]) {
        let mut world = World::new();
        history.iter().for_each(|action| { world.act(action); });
        world.cluster.plan_out();
        world.delayed = None;
        let Some(applied) = world.command(&last).map(|kind| world.cluster.apply(kind)) else { return Ok(()) };
        let cluster = &world.cluster;
        let narrow = plan_with(&cluster.state, cluster, &Scope::of(&applied.changes));
        prop_assert_eq!(narrow.plan, plan_with(&cluster.state, cluster, &Scope::All).plan);
    }
}
