//! The second stored form: rollouts, jobs, placement rules, devices, what a container may be told.

use std::{sync::Arc, time::Duration};

use skein_common::{
    InstanceId, NodeId, Revision, ServiceId,
    instance::Phase,
    node::Liveness,
    placement::{
        Affinity, DeviceShare, Direction, GenericRequest, GenericResource, Strategy, TopologyKey,
        TopologySpread,
    },
    rollout::{RolloutControl, RolloutPhase},
    service::{
        Disruption, FailureAction, Generation, JobPolicy, Mode, RestartCondition, ServiceSpec, Ulimit,
        UpdateOrder, UpdatePolicy,
    },
};

use super::{full_spec, golden, plan};
use crate::{
    ClusterState, Command, CommandKind,
    command::{Actor, JobStep, JobVerdict, RolloutStep, RolloutVerdict, Verdict},
    invariant,
    testing::{Cluster, EPOCH, node, spec, with_image},
};

fn update() -> UpdatePolicy {
    UpdatePolicy {
        parallelism: 2,
        order: UpdateOrder::StartFirst,
        delay: Duration::from_secs(1),
        max_failure_permille: 100,
        failure_action: FailureAction::Rollback,
        canary: 1,
        auto_promote: true,
        ..UpdatePolicy::default()
    }
}

fn rich_spec() -> ServiceSpec {
    let mut spec = full_spec();
    spec.ports.truncate(1);
    spec.update = update();
    spec.rollback = Some(UpdatePolicy::default());
    spec.disruption = Some(Disruption::MinAvailable(1));
    spec.container.hostname = "web".to_owned();
    spec.container.init = true;
    spec.container.cap_drop = vec!["ALL".to_owned()];
    spec.container.sysctls.insert("net.core.somaxconn".to_owned(), "1024".to_owned());
    spec.container.ulimits = vec![Ulimit { name: "nofile".to_owned(), soft: 1024, hard: -1 }];
    let zone = TopologyKey::Label("zone".to_owned());
    let policy = &mut spec.placement;
    policy.priority = 70;
    policy.strategy = Some(Strategy::Balanced);
    policy.max_replicas_per_node = Some(2);
    policy.constraints.push("node.labels.zone regex ^[ac]$".parse().expect("a constraint"));
    policy.spread = vec![TopologySpread { key: zone.clone(), max_skew: 1, min_domains: 1 }];
    policy.preferences = vec![zone.clone()];
    policy.affinities =
        vec![Affinity { service: "db".to_owned(), key: zone, direction: Direction::Away, weight: Some(20) }];
    policy.tolerations = vec!["gpu".to_owned()];
    spec
}

fn job() -> ServiceSpec {
    let mut job = ServiceSpec { mode: Mode::Job { completions: 2, parallelism: 1 }, ..spec("sum") };
    job.restart.condition = RestartCondition::OnFailure;
    job.job = JobPolicy {
        backoff_limit: 3,
        active_deadline: Some(Duration::from_secs(60)),
        ttl_after_finished: None,
        gang: false,
    };
    job.placement.generic = vec![GenericRequest {
        name: "gpu".to_owned(),
        count: 1,
        millis: 500,
        models: vec!["A100".to_owned()],
    }];
    job
}

fn commands() -> Vec<Command> {
    let service = ServiceId::from_random(31);
    let (generation, reason) = (Generation(2), "why".to_owned());
    let mut plan = plan();
    plan.create[0].beside = Some(InstanceId::from_random(20));
    plan.create[0].devices = vec![DeviceShare { name: "gpu".to_owned(), device: 1, millis: 500 }];
    plan.rollouts =
        vec![RolloutStep { service, generation, verdict: RolloutVerdict::RollBack, reason: reason.clone() }];
    plan.jobs = vec![JobStep { service, generation, verdict: JobVerdict::Fail, reason: reason.clone() }];
    plan.expire = vec![service];
    let mut description = node("n1");
    description.generic =
        vec![GenericResource { name: "gpu".to_owned(), model: "A100".to_owned(), count: 2 }];
    let control = |control| CommandKind::ControlRollout { id: service, expected: Some(Revision(7)), control };
    let verdict = Verdict {
        node: NodeId::from_random(11),
        liveness: Liveness::Down,
        reason,
        drawn_from: Some(Revision(9)),
    };
    let kinds = vec![
        CommandKind::CreateService { id: service, spec: Arc::new(rich_spec()) },
        CommandKind::CreateService { id: service, spec: Arc::new(job()) },
        CommandKind::RegisterNode {
            id: NodeId::from_random(11),
            description: Arc::new(description),
            incarnation: 4,
        },
        CommandKind::JudgeNodes { verdicts: vec![verdict] },
        control(RolloutControl::Pause),
        control(RolloutControl::Resume),
        control(RolloutControl::Promote),
        control(RolloutControl::Undo { to: Some(Generation(1)) }),
        CommandKind::Plan(plan),
    ];
    kinds.into_iter().map(|kind| Command { request: None, at: EPOCH, actor: Actor::User, kind }).collect()
}

/// In the middle of a rollout, and of a job.
fn state() -> ClusterState {
    let mut cluster = Cluster::new(0);
    for name in ["n1", "n2"] {
        let mut description = node(name);
        description.labels = [("zone".to_owned(), "a".to_owned())].into();
        description.generic =
            vec![GenericResource { name: "gpu".to_owned(), model: "A100".to_owned(), count: 2 }];
        cluster.add_node(description);
    }
    let web = cluster.create(rich_spec());
    cluster.create(job());
    cluster.settle();
    cluster.update(web, with_image(rich_spec(), "skein-sample:2"));
    cluster.plan_out();
    cluster.state
}

#[test]
fn commands_load() {
    let expected = commands();
    let bytes = golden("commands", 2, &rmp_serde::to_vec_named(&expected).expect("encodes"));
    let loaded: Vec<Command> = rmp_serde::from_slice(&bytes).expect("commands load");
    assert_eq!(loaded, expected);
}

#[test]
fn a_state_loads() {
    let bytes = golden("state", 2, &rmp_serde::to_vec_named(&state()).expect("encodes"));
    let loaded: ClusterState = rmp_serde::from_slice(&bytes).expect("the state loads");
    assert_eq!(invariant::check(&loaded), []);
    let web = loaded.service_by_name("web").expect("known");
    let rollout = web.rollout.as_ref().expect("a rollout");
    assert_eq!((rollout.phase, web.kept.as_slice()), (RolloutPhase::Running, &[Generation(1)][..]));
    assert!(loaded.instances().any(|instance| instance.beside.is_some()));
    let ready = |i: &&Arc<skein_common::instance::Instance>| i.observed.progress.phase == Phase::Ready;
    assert!(loaded.instances().filter(ready).all(|instance| instance.ready_since.is_some()));
    assert!(loaded.service_by_name("sum").is_some_and(|job| job.job.is_some()));
    assert!(loaded.instances().any(|instance| !instance.devices.is_empty()));
}
