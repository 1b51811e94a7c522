//! Stored data of earlier versions must load: one command of each kind and one state, as
//! MessagePack with named fields, committed as files.
//!
//! A failing test here means that data on users' disks would no longer load. Additive changes
//! need a new file beside the old one (`SKEIN_GOLDEN=write` writes what is missing), never a new
//! version of an old one.

mod second;
mod third;

use std::{path::PathBuf, sync::Arc};

use skein_common::{
    ClusterId, InstanceId, NodeId, Revision, ServiceId, Timestamp,
    instance::{Desired, News, Observed, Phase, PortBinding, Progress, Slot},
    node::{Availability, Liveness},
    service::{
        Generation, HealthTest, Healthcheck, Mount, MountKind, MountOptions, Protocol, Publish, ServiceSpec,
    },
};

use crate::{
    ClusterState, Command, CommandKind, Rejection,
    command::{
        Actor, Explanation, NewInstance, ObjectKind, Placement, Plan, Report, RequestKey, Verdict, Wish,
    },
    invariant,
    testing::{Cluster, EPOCH, global, node, publishing, replicated, reserving},
};

/// `version`: of the stored form; a new one when fields or kinds are added (`second`).
fn path(name: &str, version: u32) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.v{version}.msgpack"))
}

/// The file's bytes; written first when that is asked for and it does not exist.
#[allow(clippy::disallowed_methods)] // Reading its own golden files is what this test is for.
fn golden(name: &str, version: u32, fresh: &[u8]) -> Vec<u8> {
    let path = path(name, version);
    if !path.exists() && std::env::var("SKEIN_GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(&path, fresh).expect("the golden file is written");
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn full_spec() -> ServiceSpec {
    let mut spec = reserving(replicated("web", 2), 250, 64 << 20);
    spec.labels.insert("team".to_owned(), "a".to_owned());
    spec.container.command = vec!["serve".to_owned()];
    spec.container.environment.insert("A".to_owned(), "b".to_owned());
    spec.container.mounts = vec![Mount {
        kind: MountKind::Volume,
        source: "data".to_owned(),
        target: "/data".to_owned(),
        read_only: false,
        options: MountOptions::default(),
    }];
    spec.container.healthcheck = Some(Healthcheck {
        test: HealthTest::Exec(vec!["/ok".to_owned()]),
        interval: std::time::Duration::from_secs(5),
        timeout: std::time::Duration::from_millis(1_500),
        retries: 3,
        start_period: std::time::Duration::ZERO,
        start_interval: std::time::Duration::ZERO,
    });
    spec.restart.delay = Some(std::time::Duration::from_secs(1));
    spec.restart.max_attempts = Some(3);
    spec.placement.constraints = vec!["node.labels.zone != b".parse().expect("a constraint")];
    let spec = publishing(spec, 80, Publish::Ingress { port: Some(8080) });
    publishing(spec, 81, Publish::Host { port: 8081 })
}

fn plan() -> Plan {
    let (instance, node) = (InstanceId::from_random(21), NodeId::from_random(11));
    let ports = vec![PortBinding { container_port: 80, host_port: 20_000, protocol: Protocol::Tcp }];
    Plan {
        create: vec![NewInstance {
            id: instance,
            service: ServiceId::from_random(31),
            slot: Slot::Number(1),
            generation: Generation(1),
            placed: Some((node, ports.clone())),
            devices: Vec::new(),
            not_before: EPOCH,
            failures: 2,
            beside: None,
            moves_to: None,
            explanation: "why".to_owned(),
        }],
        place: vec![Placement { instance, node, ports, devices: Vec::new() }],
        desire: vec![Wish {
            instance,
            desired: Desired::Remove,
            lost: true,
            only_live: false,
            reason: "why".to_owned(),
        }],
        forget: vec![instance],
        explain: vec![Explanation { instance, text: "why".to_owned() }],
        rollouts: Vec::new(),
        jobs: Vec::new(),
        expire: Vec::new(),
        rebalance: None,
        schedules: Vec::new(),
        released: Vec::new(),
        addresses: Vec::new(),
        finish: vec![ServiceId::from_random(31)],
    }
}

fn kinds() -> Vec<CommandKind> {
    let (service, node_id) = (ServiceId::from_random(31), NodeId::from_random(11));
    let observed = Observed {
        container_id: "abc".to_owned(),
        exit_code: Some(-1),
        message: "said".to_owned(),
        ..Observed::of(Progress { attempt: 2, phase: Phase::Ready }, EPOCH)
    };
    let report = |news| Report { node: node_id, instance: InstanceId::from_random(21), news };
    vec![
        CommandKind::FormCluster { id: ClusterId::from_random(1) },
        CommandKind::CreateService { id: service, spec: Arc::new(full_spec()) },
        CommandKind::UpdateService {
            id: service,
            expected: Some(Revision(7)),
            spec: Arc::new(global("web")),
        },
        CommandKind::ScaleService { id: service, expected: None, replicas: 3 },
        CommandKind::DeleteService { id: service, expected: None },
        CommandKind::RegisterNode { id: node_id, description: Arc::new(node("n1")), incarnation: 4 },
        CommandKind::UpdateNode {
            id: node_id,
            expected: None,
            availability: Some(Availability::Drained),
            labels: Some([("zone".to_owned(), "a".to_owned())].into()),
            drain_within: None,
        },
        CommandKind::DeleteNode { id: node_id, expected: None, force: true },
        CommandKind::Observe { reports: vec![report(News::Observed(observed)), report(News::Gone)] },
        CommandKind::JudgeNodes {
            verdicts: vec![Verdict {
                node: node_id,
                liveness: Liveness::Unknown,
                reason: "late".to_owned(),
                drawn_from: None,
            }],
        },
        CommandKind::Plan(plan()),
    ]
}

fn commands() -> Vec<Command> {
    let actors =
        [Actor::User, Actor::Agent(NodeId::from_random(11)), Actor::Controller("planner".to_owned())];
    let command = |(kind, actor)| Command {
        request: Some(RequestKey { id: "r".to_owned(), fingerprint: u64::MAX }),
        at: EPOCH,
        actor,
        kind,
    };
    kinds().into_iter().zip(actors.into_iter().cycle()).map(command).collect()
}

/// A state with something of everything.
fn state() -> ClusterState {
    let mut cluster = Cluster::new(3);
    cluster.accept(CommandKind::FormCluster { id: ClusterId::from_random(1) });
    let web = cluster.create(full_spec());
    cluster.create(global("agent"));
    cluster.create(reserving(replicated("big", 1), 0, 1 << 50));
    cluster.settle();
    cluster.update(web, {
        let mut spec = full_spec();
        spec.container.image = "skein-sample:2".to_owned();
        spec
    });
    cluster.plan_out();
    cluster.judge(cluster.node("n2"), Liveness::Down);
    cluster.plan_out();
    let key = RequestKey { id: "r".to_owned(), fingerprint: 1 };
    let unknown = CommandKind::DeleteService { id: ServiceId::from_random(5), expected: None };
    let refused = cluster.apply_as(Some(key), unknown).outcome;
    let not_found =
        Rejection::NotFound { kind: ObjectKind::Service, id: ServiceId::from_random(5).to_string() };
    assert_eq!(refused, Err(not_found));
    cluster.now = Timestamp::from_unix_ms(EPOCH.unix_ms() + 1);
    cluster.state
}

#[test]
fn old_commands_load() {
    let expected = commands();
    let bytes = golden("commands", 1, &rmp_serde::to_vec_named(&expected).expect("encodes"));
    let loaded: Vec<Command> = rmp_serde::from_slice(&bytes).expect("commands load");
    assert_eq!(loaded, expected);
}

/// What loads is whole; it need not equal what today's rules would make of the same history.
#[test]
fn an_old_state_loads() {
    let bytes = golden("state", 1, &rmp_serde::to_vec_named(&state()).expect("encodes"));
    let loaded: ClusterState = rmp_serde::from_slice(&bytes).expect("the state loads");
    assert_eq!(invariant::check(&loaded), []);
    assert_eq!(loaded.services().count(), 3);
    assert_eq!(loaded.nodes().count(), 3);
    assert!(loaded.instances().any(|instance| instance.lost));
    assert!(loaded.instances().any(|instance| instance.node.is_none()));
    assert!(loaded.request("r").is_some());
    let again = rmp_serde::to_vec_named(&loaded).expect("encodes");
    let reloaded: ClusterState = rmp_serde::from_slice(&again).expect("loads");
    assert_eq!(reloaded, loaded);
}

/// Fields that did not exist yet take their default.
#[test]
fn fields_added_later_may_be_absent() {
    #[derive(serde::Serialize)]
    struct Before {
        id: InstanceId,
        service: ServiceId,
        slot: Slot,
        generation: Generation,
        placed: Option<(NodeId, Vec<PortBinding>)>,
        not_before: Timestamp,
        explanation: String,
    }
    let before = Before {
        id: InstanceId::from_random(1),
        service: ServiceId::from_random(2),
        slot: Slot::Number(1),
        generation: Generation(1),
        placed: None,
        not_before: EPOCH,
        explanation: String::new(),
    };
    let bytes = rmp_serde::to_vec_named(&before).expect("encodes");
    let loaded: NewInstance = rmp_serde::from_slice(&bytes).expect("loads");
    assert_eq!((loaded.id, loaded.failures), (before.id, 0));
}
