//! What each command does, as tables: given, when, then.

use std::{sync::Arc, time::Duration};

use skein_common::{
    InstanceId, NodeId, Revision, ServiceId,
    instance::{Desired, Instance, News, Observed, Phase, Progress, Readiness, Slot},
    node::{Availability, Liveness},
    service::{Generation, Publish, ServiceSpec},
};

use super::{MAX_EVENTS, request};
use crate::{
    Change, CommandKind, Outcome, Rejection, Scope,
    command::{NewInstance, ObjectKind, Placement, Plan, Report, RequestKey, Verdict, Wish},
    invariant,
    state::Applied,
    testing::{Cluster, GIB, global, node, publishing, replicated, reserving, spec, with_image},
};

fn new_id(cluster: &mut Cluster) -> ServiceId {
    ServiceId::from_random(cluster.bits())
}

fn create(cluster: &mut Cluster, spec: ServiceSpec) -> Applied {
    let id = new_id(cluster);
    cluster.apply(CommandKind::CreateService { id, spec: Arc::new(spec) })
}

fn update(id: ServiceId, expected: Option<u64>, spec: ServiceSpec) -> CommandKind {
    CommandKind::UpdateService { id, expected: expected.map(Revision), spec: Arc::new(spec) }
}

/// The message of a precondition that failed.
fn refused(applied: &Applied) -> &str {
    match &applied.outcome {
        Err(Rejection::FailedPrecondition { message }) => message,
        other => panic!("not refused: {other:?}"),
    }
}

fn reasons(applied: &Applied) -> Vec<&str> {
    let event = |change: &'_ Change| matches!(change, Change::Event(_));
    let events = applied.changes.iter().filter(|change| event(change));
    events.map(|c| if let Change::Event(e) = c { e.reason.as_str() } else { "" }).collect()
}

fn sound(cluster: &Cluster) {
    assert_eq!(invariant::check(&cluster.state), []);
}

/// A cluster with one service of one placed instance.
fn with_instance() -> (Cluster, ServiceId, InstanceId) {
    let mut cluster = Cluster::new(1);
    let service = cluster.create(spec("web"));
    cluster.plan_out();
    let id = cluster.live(service)[0].id;
    (cluster, service, id)
}

fn instance(cluster: &Cluster, id: InstanceId) -> Instance {
    Instance::clone(cluster.state.instance(id).expect("the instance"))
}

#[test]
fn the_cluster_is_formed_once() {
    let mut cluster = Cluster::default();
    let first = skein_common::ClusterId::from_random(7);
    for id in [first, skein_common::ClusterId::from_random(8)] {
        let applied = cluster.apply(CommandKind::FormCluster { id });
        assert_eq!(applied.outcome, Ok(Outcome::Cluster(first)));
    }
    assert_eq!(cluster.state.cluster_id(), Some(first));
    assert_eq!(cluster.state.events().count(), 1);
}

#[test]
fn a_service_is_created_under_a_free_name() {
    let mut cluster = Cluster::new(0);
    let applied = create(&mut cluster, replicated("web", 3));
    assert_eq!(reasons(&applied), ["ServiceCreated"]);
    let service = cluster.state.service_by_name("web").cloned().expect("created");
    assert_eq!((service.generation, service.deleting), (Generation(1), false));
    assert_eq!(service.created_revision, cluster.state.revision());
    let again = create(&mut cluster, spec("web"));
    let exists = Rejection::AlreadyExists { kind: ObjectKind::Service, name: "web".to_owned() };
    assert_eq!(again, Applied { outcome: Err(exists), changes: Vec::new() });
    let same = CommandKind::CreateService { id: service.id, spec: Arc::new(spec("other")) };
    assert!(matches!(cluster.apply(same).outcome, Err(Rejection::AlreadyExists { .. })));
    sound(&cluster);
}

#[test]
fn an_invalid_spec_is_refused_with_all_fields() {
    let mut cluster = Cluster::new(0);
    let mut wrong = spec("-");
    wrong.container.image = String::new();
    let Err(Rejection::Invalid { violations }) = create(&mut cluster, wrong).outcome else {
        panic!("accepted");
    };
    let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["spec.name", "spec.container.image"]);
    assert_eq!(cluster.state.services().count(), 0);
}

#[test]
fn a_published_port_belongs_to_one_service() {
    let mut cluster = Cluster::new(0);
    let port = |name, port| publishing(spec(name), 80, Publish::Ingress { port });
    assert!(create(&mut cluster, port("a", Some(8080))).outcome.is_ok());
    let taken = create(&mut cluster, port("b", Some(8080)));
    assert_eq!(refused(&taken), "spec.ports[0].published_port: 8080/tcp is published by service a");
    assert!(create(&mut cluster, port("c", None)).outcome.is_ok());
    // Given up by an update, it is free.
    let a = cluster.state.service_by_name("a").unwrap().id;
    cluster.update(a, port("a", Some(9090)));
    assert!(create(&mut cluster, port("b", Some(8080))).outcome.is_ok());
    sound(&cluster);
}

#[test]
fn what_an_update_does() {
    let base = || replicated("web", 2);
    let mut labelled = base();
    labelled.labels.insert("a".to_owned(), "b".to_owned());
    for (given, generation, modified) in [
        (base(), 1, false),
        (labelled, 1, true),
        (replicated("web", 5), 1, true),
        (with_image(base(), "skein-sample:2"), 2, true),
        (reserving(base(), 100, 0), 2, true),
    ] {
        let mut cluster = Cluster::new(0);
        let id = cluster.create(base());
        let before = cluster.state.service(id).cloned().unwrap();
        let applied = cluster.apply(update(id, None, given.clone()));
        let after = cluster.state.service(id).cloned().unwrap();
        assert_eq!(applied.outcome, Ok(Outcome::Service(id)));
        assert_eq!(after.generation, Generation(generation), "{given:?}");
        assert_eq!(after.modified_revision != before.modified_revision, modified);
        assert_eq!(applied.changes.is_empty(), !modified);
        assert_eq!(cluster.state.spec(id, after.generation), Some(&after.spec));
        sound(&cluster);
    }
}

#[test]
fn what_an_update_must_not_do() {
    for (given, says) in [(spec("other"), "spec.name"), (global("web"), "spec.mode")] {
        let mut cluster = Cluster::new(0);
        let id = cluster.create(spec("web"));
        let applied = cluster.apply(update(id, None, given));
        assert!(refused(&applied).starts_with(says), "{applied:?}");
    }
}

#[test]
fn etags_and_unknown_ids() {
    let mut cluster = Cluster::new(1);
    let id = cluster.create(spec("web"));
    let current = cluster.state.service(id).unwrap().modified_revision;
    let stale = Some(Revision(current.0 - 1));
    let node = cluster.node("n1");
    let nobody = ServiceId::from_random(5);
    for (kind, service_or_node) in [
        (update(id, stale.map(|r| r.0), replicated("web", 2)), ObjectKind::Service),
        (CommandKind::ScaleService { id, expected: stale, replicas: 2 }, ObjectKind::Service),
        (CommandKind::DeleteService { id, expected: stale }, ObjectKind::Service),
        (
            CommandKind::UpdateNode {
                id: node,
                expected: Some(Revision(0)),
                availability: None,
                labels: None,
                drain_within: None,
            },
            ObjectKind::Node,
        ),
        (CommandKind::DeleteNode { id: node, expected: Some(Revision(0)), force: true }, ObjectKind::Node),
    ] {
        let outcome = cluster.apply(kind).outcome;
        assert!(
            matches!(&outcome, Err(Rejection::StaleEtag { kind, .. }) if *kind == service_or_node),
            "{outcome:?}"
        );
    }
    for kind in [
        update(nobody, None, spec("web")),
        CommandKind::ScaleService { id: nobody, expected: None, replicas: 2 },
        CommandKind::DeleteService { id: nobody, expected: None },
        CommandKind::DeleteNode { id: NodeId::from_random(5), expected: None, force: false },
    ] {
        assert!(matches!(cluster.apply(kind).outcome, Err(Rejection::NotFound { .. })));
    }
    cluster.accept(CommandKind::ScaleService { id, expected: Some(current), replicas: 2 });
}

#[test]
fn scaling_changes_replicas_only() {
    let mut cluster = Cluster::new(0);
    let id = cluster.create(spec("web"));
    let applied = cluster.accept(CommandKind::ScaleService { id, expected: None, replicas: 3 });
    assert_eq!(reasons(&applied), ["ServiceScaled"]);
    assert_eq!(cluster.state.service(id).unwrap().spec.replicas(), Some(3));
    assert_eq!(cluster.accept(CommandKind::ScaleService { id, expected: None, replicas: 3 }).changes, []);
    let everywhere = cluster.create(global("agent"));
    let applied = cluster.apply(CommandKind::ScaleService { id: everywhere, expected: None, replicas: 3 });
    assert!(refused(&applied).contains("is global"));
    let applied = cluster.apply(CommandKind::ScaleService { id, expected: None, replicas: u32::MAX });
    assert!(matches!(applied.outcome, Err(Rejection::Invalid { .. })));
}

#[test]
fn a_service_being_deleted_keeps_its_name() {
    let (mut cluster, service, _) = with_instance();
    cluster.accept(CommandKind::DeleteService { id: service, expected: None });
    assert_eq!(cluster.accept(CommandKind::DeleteService { id: service, expected: None }).changes, []);
    for kind in [
        CommandKind::CreateService { id: ServiceId::from_random(5), spec: Arc::new(spec("web")) },
        update(service, None, spec("web")),
        CommandKind::ScaleService { id: service, expected: None, replicas: 2 },
    ] {
        let applied = cluster.apply(kind);
        assert!(refused(&applied).contains("is being deleted"));
    }
    cluster.settle();
    assert!(cluster.state.service(service).is_none());
    cluster.create(spec("web"));
    sound(&cluster);
}

#[test]
fn a_repeated_request_gets_the_first_answer() {
    let mut cluster = Cluster::new(0);
    let key = |fingerprint| Some(RequestKey { id: "r1".to_owned(), fingerprint });
    let kind = |cluster: &mut Cluster| CommandKind::CreateService {
        id: new_id(cluster),
        spec: Arc::new(spec("web")),
    };
    let (first, second) = (kind(&mut cluster), kind(&mut cluster));
    let answer = cluster.apply_as(key(1), first).outcome;
    let repeated = cluster.apply_as(key(1), second.clone());
    assert_eq!(repeated, Applied { outcome: answer, changes: Vec::new() });
    let reused = cluster.apply_as(key(2), second.clone()).outcome;
    assert_eq!(reused, Err(Rejection::RequestIdReused { id: "r1".to_owned() }));
    assert_eq!(cluster.state.services().count(), 1);
    cluster.pass(request::KEEP_REQUESTS + Duration::from_millis(1));
    assert!(matches!(cluster.apply_as(key(1), second).outcome, Err(Rejection::AlreadyExists { .. })));
    sound(&cluster);
}

#[test]
fn requests_and_events_are_bounded() {
    let mut cluster = Cluster::new(1);
    let id = cluster.node("n1");
    for number in 0..=request::MAX_REQUESTS {
        let key = RequestKey { id: number.to_string(), fingerprint: 0 };
        let availability = Some(if number % 2 == 0 { Availability::Paused } else { Availability::Active });
        cluster.apply_as(
            Some(key),
            CommandKind::UpdateNode { id, expected: None, availability, labels: None, drain_within: None },
        );
        cluster.pass(Duration::from_millis(1));
    }
    assert_eq!(cluster.state.requests.len(), request::MAX_REQUESTS);
    assert!(cluster.state.request("0").is_none());
    assert_eq!(cluster.state.events().count(), MAX_EVENTS);
    assert_eq!(cluster.state.events().next_back().map(|e| e.sequence), Some(cluster.state.last_event));
    sound(&cluster);
}

#[test]
fn time_never_goes_back() {
    let mut cluster = Cluster::new(1);
    let before = cluster.state.time();
    cluster.now = skein_common::Timestamp::from_unix_ms(5);
    cluster.create(spec("web"));
    assert_eq!(cluster.state.time(), before);
}

#[test]
fn how_a_node_registers() {
    let mut cluster = Cluster::new(1);
    let id = cluster.node("n1");
    let register = |id, name: &str, incarnation| CommandKind::RegisterNode {
        id,
        description: Arc::new(node(name)),
        incarnation,
    };
    assert_eq!(cluster.accept(register(id, "n1", 1)).changes, [], "a reconnect");
    assert_eq!(reasons(&cluster.accept(register(id, "n1", 2))), [""; 0], "a restart");
    assert!(refused(&cluster.apply(register(id, "n1", 1))).contains("incarnation 2"));
    let other = NodeId::from_random(5);
    assert!(refused(&cluster.apply(register(other, "n1", 1))).contains("in use"));
    cluster.judge(id, Liveness::Down);
    assert!(refused(&cluster.apply(register(other, "n1", 1))).contains("skein node rm n1"));
    assert_eq!(reasons(&cluster.accept(register(id, "n1", 3))), ["NodeReady"]);
    assert_eq!(reasons(&cluster.accept(register(other, "n2", 1))), ["NodeJoined"]);
    let mut wrong = node("");
    wrong.address = String::new();
    wrong.capacity.memory_bytes = u64::MAX;
    let applied =
        cluster.apply(CommandKind::RegisterNode { id: other, description: Arc::new(wrong), incarnation: 2 });
    assert!(matches!(applied.outcome, Err(Rejection::Invalid { violations }) if violations.len() == 3));
    sound(&cluster);
}

#[test]
fn ports_follow_their_node_to_its_new_address() {
    let mut cluster = Cluster::new(1);
    let service = cluster.create(publishing(spec("web"), 80, Publish::Host { port: 8080 }));
    cluster.settle();
    assert!(cluster.state.host_port_in_use("n1", skein_common::service::Protocol::Tcp, 8080));
    let mut moved = node("n1");
    moved.address = "10.0.0.1".to_owned();
    let id = cluster.node("n1");
    cluster.accept(CommandKind::RegisterNode { id, description: Arc::new(moved), incarnation: 2 });
    assert_eq!(cluster.state.host_ports("10.0.0.1").count(), 1);
    sound(&cluster);
    cluster.accept(CommandKind::DeleteService { id: service, expected: None });
    cluster.settle();
    assert_eq!(cluster.state.host_ports("10.0.0.1").count(), 0);
    sound(&cluster);
}

#[test]
fn which_nodes_may_be_deleted() {
    let delete = |id, force| CommandKind::DeleteNode { id, expected: None, force };
    let (mut cluster, service, _) = with_instance();
    let id = cluster.node("n1");
    assert!(refused(&cluster.apply(delete(id, false))).contains("is Ready"));
    cluster.judge(id, Liveness::Down);
    assert!(refused(&cluster.apply(delete(id, false))).contains("still holds 1"));
    cluster.plan_out();
    assert_eq!(reasons(&cluster.accept(delete(id, false))), ["NodeRemoved"], "its instance is lost");
    sound(&cluster);
    assert_eq!(cluster.live(service).len(), 1, "pending");

    let (mut cluster, service, _) = with_instance();
    let id = cluster.node("n1");
    cluster.accept(delete(id, true));
    sound(&cluster);
    assert_eq!(cluster.live(service).len(), 0);
}

#[test]
fn verdicts_tell_once() {
    let mut cluster = Cluster::new(1);
    let id = cluster.node("n1");
    let verdict = |liveness, reason: &str| CommandKind::JudgeNodes {
        verdicts: vec![Verdict { node: id, liveness, reason: reason.to_owned(), drawn_from: None }],
    };
    for (liveness, reason, then) in [
        (Liveness::Ready, "", vec![]),
        (Liveness::Unknown, "late", vec!["NodeUnknown"]),
        (Liveness::Unknown, "late", vec![]),
        (Liveness::Unknown, "held", vec!["NodeUnknown"]),
        (Liveness::Down, "dead", vec!["NodeDown"]),
        (Liveness::Ready, "", vec!["NodeReady"]),
    ] {
        cluster.pass(Duration::from_secs(1));
        assert_eq!(reasons(&cluster.accept(verdict(liveness, reason))), then, "{liveness:?} {reason}");
        let node = cluster.state.node(id).unwrap();
        assert_eq!((node.liveness, node.liveness_reason.as_str()), (liveness, reason));
    }
}

#[test]
fn a_verdict_on_a_node_that_registered_meanwhile_is_skipped() {
    let mut cluster = Cluster::new(1);
    let id = cluster.node("n1");
    cluster.judge(id, Liveness::Unknown);
    let drawn_from = cluster.state.node(id).map(|node| node.modified_revision);
    let judge = |drawn_from| {
        let verdict = Verdict { node: id, liveness: Liveness::Down, reason: "dead".to_owned(), drawn_from };
        CommandKind::JudgeNodes { verdicts: vec![verdict] }
    };
    let description = cluster.state.node(id).unwrap().description.clone().into();
    cluster.accept(CommandKind::RegisterNode { id, description, incarnation: 2 });
    cluster.accept(judge(drawn_from));
    assert_eq!(cluster.state.node(id).unwrap().liveness, Liveness::Ready);
    let drawn_from = cluster.state.node(id).map(|node| node.modified_revision);
    cluster.accept(judge(drawn_from));
    assert_eq!(cluster.state.node(id).unwrap().liveness, Liveness::Down);
}

#[test]
fn a_successor_waits_when_the_node_comes_back_before_the_plan_is_applied() {
    let mut cluster = Cluster::new(2);
    let service = cluster.create(spec("web"));
    cluster.settle();
    let old = Instance::clone(&cluster.live(service)[0]);
    cluster.update(service, with_image(spec("web"), "web:2"));
    cluster.plan_out();
    let node = old.node.unwrap();
    cluster.judge(node, Liveness::Down);
    let plan = cluster.plan().plan;
    assert!(plan.desire.iter().any(|wish| wish.lost) && !plan.place.is_empty(), "{plan:?}");
    let description = cluster.state.node(node).unwrap().description.clone().into();
    cluster.accept(CommandKind::RegisterNode { id: node, description, incarnation: 2 });
    let before = cluster.state.clone();
    cluster.accept(CommandKind::Plan(plan));
    assert_eq!(invariant::check_step(&before, &cluster.state), []);
    assert!(!instance(&cluster, old.id).lost);
    assert_eq!(cluster.live(service)[0].node, None, "the one before it runs on");
    cluster.settle();
    assert_eq!(cluster.live(service)[0].observed.progress.phase, Phase::Ready);
    sound(&cluster);
}

#[test]
fn reports_only_move_forward() {
    let at = |attempt, phase| Progress { attempt, phase };
    for (given, when, moves) in [
        (at(1, Phase::Running), at(1, Phase::Ready), true),
        (at(1, Phase::Running), at(1, Phase::Starting), false),
        (at(1, Phase::Running), at(1, Phase::Running), false),
        (at(1, Phase::Ready), at(2, Phase::Assigned), true),
        (at(2, Phase::Assigned), at(1, Phase::Ready), false),
        (at(2, Phase::Failed), at(3, Phase::Assigned), false),
        (at(1, Phase::Stopped), at(1, Phase::Failed), false),
    ] {
        let (mut cluster, _, id) = with_instance();
        let node = cluster.node("n1");
        let report = |progress| {
            let observed = Observed::of(progress, skein_common::Timestamp::from_unix_ms(0));
            CommandKind::Observe {
                reports: vec![Report { node, instance: id, news: News::Observed(observed) }],
            }
        };
        cluster.accept(report(given));
        let applied = cluster.accept(report(when));
        assert_eq!(!applied.changes.is_empty(), moves, "{given} → {when}");
        assert_eq!(instance(&cluster, id).observed.progress, if moves { when } else { given });
        sound(&cluster);
    }
}

#[test]
fn readiness_moves_forward_within_a_phase_and_is_told() {
    let (mut cluster, service, id) = with_instance();
    let node = cluster.node("n1");
    let report = |phase, readiness, message: &str| {
        let observed = Observed {
            readiness: Readiness(readiness),
            message: message.to_owned(),
            ..Observed::of(Progress { attempt: 1, phase }, skein_common::Timestamp::from_unix_ms(0))
        };
        CommandKind::Observe { reports: vec![Report { node, instance: id, news: News::Observed(observed) }] }
    };
    for (phase, readiness, then) in [
        (Phase::Running, 0, (false, 0)),
        (Phase::Ready, 0, (true, 0)),
        (Phase::Ready, 1, (false, 1)),
        // Late and repeated.
        (Phase::Ready, 0, (false, 1)),
        (Phase::Ready, 1, (false, 1)),
        (Phase::Ready, 4, (true, 4)),
        (Phase::Ready, 3, (true, 4)),
        (Phase::Running, 9, (true, 4)),
        (Phase::Stopping, 4, (false, 4)),
    ] {
        cluster.pass(Duration::from_secs(1));
        let before = instance(&cluster, id);
        cluster.accept(report(phase, readiness, if readiness % 2 == 1 { "HTTP 503" } else { "" }));
        let now = instance(&cluster, id);
        assert_eq!((now.is_ready(), now.observed.readiness.0), then, "{phase} {readiness}");
        assert_eq!(now.ready_since.is_some(), now.is_ready());
        if before.observed.readiness != now.observed.readiness {
            assert_ne!(before.ready_since, now.ready_since, "{phase} {readiness}: watched anew");
        }
        sound(&cluster);
    }
    let told: Vec<_> = cluster.state.events_after(2).map(|e| (e.reason.clone(), e.message.clone())).collect();
    let expected = [
        ("InstanceNotReady", "web.1 on n1 is not ready: HTTP 503"),
        ("InstanceReady", "web.1 on n1 is ready again"),
    ];
    assert_eq!(told, expected.map(|(reason, message)| (reason.to_owned(), message.to_owned())));
    assert!(cluster.state.service(service).is_some());
}

#[test]
fn more_can_be_said_about_the_same_progress() {
    let (mut cluster, _, id) = with_instance();
    cluster.report_exit(id, Phase::Pulling, None, "");
    let before = cluster.state.revision();
    cluster.pass(Duration::from_secs(1));
    cluster.report_exit(id, Phase::Pulling, None, "no such image; next try in 10 s");
    let told = instance(&cluster, id);
    assert_eq!(told.observed.message, "no such image; next try in 10 s");
    assert!(told.modified_revision > before);
    cluster.now = skein_common::Timestamp::from_unix_ms(0);
    cluster.report_exit(id, Phase::Pulling, None, "an older word");
    assert_eq!(instance(&cluster, id), told);
}

#[test]
fn strangers_are_not_believed() {
    let (mut cluster, _, id) = with_instance();
    let stranger = cluster.add_node(node("n2"));
    for news in [News::Gone, News::Observed(instance(&cluster, id).observed)] {
        for (node, instance) in [(stranger, id), (cluster.node("n1"), InstanceId::from_random(5))] {
            let reports = vec![Report { node, instance, news: news.clone() }];
            assert_eq!(cluster.accept(CommandKind::Observe { reports }).changes, []);
        }
    }
}

#[test]
fn what_gone_means() {
    for (desired, then) in
        [(Desired::Run, Some(Phase::Failed)), (Desired::Stop, Some(Phase::Stopped)), (Desired::Remove, None)]
    {
        let (mut cluster, _, id) = with_instance();
        let wish = Wish { instance: id, desired, lost: false, only_live: false, reason: String::new() };
        cluster.accept(CommandKind::Plan(Plan { desire: vec![wish], ..Plan::default() }));
        let node = cluster.node("n1");
        let reports = vec![Report { node, instance: id, news: News::Gone }];
        cluster.accept(CommandKind::Observe { reports: reports.clone() });
        let phase = cluster.state.instance(id).map(|i| i.observed.progress.phase);
        assert_eq!(phase, then);
        assert_eq!(cluster.accept(CommandKind::Observe { reports }).changes, [], "repeated");
        sound(&cluster);
    }
}

#[test]
fn what_happened_is_told() {
    let (mut cluster, _, id) = with_instance();
    let at = cluster.now;
    let node = cluster.node("n1");
    let report = |attempt, phase, exit_code| {
        let observed = Observed { exit_code, ..Observed::of(Progress { attempt, phase }, at) };
        CommandKind::Observe { reports: vec![Report { node, instance: id, news: News::Observed(observed) }] }
    };
    let seen = reasons(&cluster.accept(report(1, Phase::Ready, None))).len();
    assert_eq!(seen, 0);
    cluster.accept(report(2, Phase::Assigned, Some(1)));
    cluster.accept(report(2, Phase::Failed, Some(3)));
    let told: Vec<_> = cluster.state.events_after(2).map(|e| (e.reason.clone(), e.message.clone())).collect();
    let expected = [
        ("InstanceRestarted", "web.1 on n1 is restarted, attempt 2: exit code 1"),
        ("InstanceFailed", "web.1 on n1 failed: exit code 3"),
    ];
    assert_eq!(told, expected.map(|(reason, message)| (reason.to_owned(), message.to_owned())));
}

#[test]
fn a_plan_that_no_longer_fits_is_skipped() {
    let full = || reserving(spec("web"), 0, 5 * GIB);
    type Spoil = fn(&mut Cluster, ServiceId);
    let cases: [(&str, Spoil); 7] = [
        ("node away", |cluster, _| cluster.judge(cluster.node("n1"), Liveness::Unknown)),
        ("node drained", |cluster, _| cluster.set_availability(cluster.node("n1"), Availability::Drained)),
        ("node gone", |cluster, _| {
            let id = cluster.node("n1");
            cluster.accept(CommandKind::DeleteNode { id, expected: None, force: true });
        }),
        ("node full", |cluster, _| {
            let other = cluster.create(reserving(spec("other"), 0, 5 * GIB));
            let plan = cluster.plan_for(&Scope::Only { services: [other].into(), pending: false }).plan;
            cluster.accept(CommandKind::Plan(plan));
        }),
        ("new generation", |cluster, id| cluster.update(id, reserving(spec("web"), 1, GIB))),
        ("being deleted", |cluster, id| {
            cluster.accept(CommandKind::DeleteService { id, expected: None });
        }),
        ("slot taken", |cluster, _| {
            cluster.step();
        }),
    ];
    for (case, spoil) in cases {
        let mut cluster = Cluster::new(1);
        let service = cluster.create(full());
        let plan = cluster.plan().plan;
        assert_eq!(plan.create.len(), 1);
        spoil(&mut cluster, service);
        let applied = cluster.accept(CommandKind::Plan(plan));
        assert_eq!(applied.changes, [], "{case}");
        sound(&cluster);
        assert_eq!(invariant::check_capacity(&cluster.state), []);
    }
}

#[test]
fn wishes_grow_and_placements_happen_once() {
    let (mut cluster, service, id) = with_instance();
    let wish = |desired, lost| Plan {
        desire: vec![Wish { instance: id, desired, lost, only_live: false, reason: "r".to_owned() }],
        ..Plan::default()
    };
    let node = cluster.node("n1");
    let placement = Placement { instance: id, node, ports: Vec::new(), devices: Vec::new() };
    let place = Plan { place: vec![placement], ..Plan::default() };
    assert_eq!(cluster.accept(CommandKind::Plan(place)).changes, [], "it has a node");
    assert_eq!(cluster.accept(CommandKind::Plan(wish(Desired::Remove, true))).changes, [], "not down");
    cluster.accept(CommandKind::Plan(wish(Desired::Remove, false)));
    assert_eq!(cluster.accept(CommandKind::Plan(wish(Desired::Stop, false))).changes, []);
    assert_eq!(instance(&cluster, id).desired, Desired::Remove);
    let plan = Plan { forget: vec![id], finish: vec![service], ..Plan::default() };
    assert_eq!(cluster.accept(CommandKind::Plan(plan)).changes, [], "held by a node; not deleted");
}

#[test]
fn a_new_instance_must_suit_its_service() {
    let mut cluster = Cluster::new(1);
    let service = cluster.create(spec("web"));
    let new = |slot, generation| NewInstance {
        id: InstanceId::from_random(9),
        service,
        slot,
        generation: Generation(generation),
        placed: None,
        devices: Vec::new(),
        not_before: skein_common::Timestamp::default(),
        failures: 0,
        beside: None,
        moves_to: None,
        explanation: String::new(),
    };
    let node = cluster.node("n1");
    for (new, accepted) in [
        (new(Slot::Node(node), 1), false),
        (new(Slot::Number(1), 2), false),
        (new(Slot::Number(1), 1), true),
        (new(Slot::Number(2), 1), false),
    ] {
        let plan = Plan { create: vec![new.clone()], ..Plan::default() };
        assert_eq!(!cluster.accept(CommandKind::Plan(plan)).changes.is_empty(), accepted, "{new:?}");
        sound(&cluster);
    }
}

#[test]
fn changes_tell_each_object_once() {
    let (mut cluster, _, id) = with_instance();
    let node = cluster.node("n1");
    let report = |phase| {
        let progress = Progress { attempt: 1, phase };
        let observed = Observed { progress, ..instance(&cluster, id).observed };
        Report { node, instance: id, news: News::Observed(observed) }
    };
    let reports = vec![report(Phase::Pulling), report(Phase::Running), report(Phase::Ready)];
    let applied = cluster.accept(CommandKind::Observe { reports });
    let [Change::Instance { instance, deleted: false }] = &applied.changes[..] else {
        panic!("{:?}", applied.changes);
    };
    assert_eq!(instance.observed.progress.phase, Phase::Ready);
    assert_eq!(instance.modified_revision, cluster.state.revision());
}

#[test]
fn an_instance_keeps_its_story() {
    let (mut cluster, _, id) = with_instance();
    let mut told = |attempt, phase| {
        let instance = cluster.state.instance(id).unwrap();
        let observed = Observed { progress: Progress { attempt, phase }, ..instance.observed.clone() };
        let (node, news) = (instance.node.unwrap(), News::Observed(observed));
        cluster.apply(CommandKind::Observe { reports: vec![Report { node, instance: id, news }] });
    };
    told(1, Phase::Ready);
    told(2, Phase::Assigned);
    told(2, Phase::Ready);
    // Said again, it is no step.
    told(2, Phase::Ready);
    let instance = cluster.state.instance(id).unwrap();
    let steps: Vec<_> =
        instance.history.iter().map(|step| (step.progress.attempt, step.progress.phase)).collect();
    assert_eq!(steps, [(1, Phase::Assigned), (1, Phase::Ready), (2, Phase::Assigned), (2, Phase::Ready)]);
    let revisions: Vec<_> = instance.history.iter().map(|step| step.revision).collect();
    assert!(revisions.is_sorted() && revisions[0] == instance.created_revision, "{revisions:?}");
    let whole = rmp_serde::to_vec_named(&**instance).unwrap().len();
    let bare = Instance { history: Default::default(), ..Instance::clone(instance) };
    let more = whole - rmp_serde::to_vec_named(&bare).unwrap().len();
    println!("history of {} steps: {more} bytes stored", steps.len());
    assert!(more < 600, "{more} bytes");
}
