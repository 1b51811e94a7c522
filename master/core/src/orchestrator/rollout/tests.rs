//! Rollouts as users see them: never too few Ready, failures answered, the way back open.

use std::time::Duration;

use skein_common::{
    ServiceId,
    instance::Phase,
    node::Availability,
    rollout::{Rollout, RolloutControl, RolloutPhase},
    service::{
        Disruption, FailureAction, Generation, KEPT_GENERATIONS, Publish, ServiceSpec, UpdateOrder,
        UpdatePolicy,
    },
};

use crate::{
    CommandKind, Rejection, invariant,
    testing::{Cluster, global, publishing, replicated, with_image},
};

fn rolling(replicas: u32, update: UpdatePolicy) -> ServiceSpec {
    ServiceSpec { update, ..replicated("web", replicas) }
}

fn start_first(parallelism: u32) -> UpdatePolicy {
    UpdatePolicy { parallelism, order: UpdateOrder::StartFirst, ..UpdatePolicy::default() }
}

fn on_failure(failure_action: FailureAction) -> UpdatePolicy {
    UpdatePolicy { failure_action, ..UpdatePolicy::default() }
}

/// A settled service, and the same with another image on its way.
fn updated(cluster: &mut Cluster, spec: ServiceSpec) -> ServiceId {
    let service = cluster.create(spec.clone());
    cluster.settle();
    cluster.update(service, with_image(spec, "sample:2"));
    service
}

fn rollout(cluster: &Cluster, service: ServiceId) -> Rollout {
    cluster.state.service(service).and_then(|service| service.rollout.clone()).expect("a rollout")
}

fn control(cluster: &mut Cluster, id: ServiceId, control: RolloutControl) {
    cluster.accept(CommandKind::ControlRollout { id, expected: None, control });
}

fn ready(cluster: &Cluster, service: ServiceId) -> usize {
    cluster.live(service).iter().filter(|i| i.observed.progress.phase == Phase::Ready).count()
}

fn current(cluster: &Cluster, service: ServiceId) -> usize {
    cluster.live(service).iter().filter(|instance| cluster.state.is_current(instance)).count()
}

/// Planner and agents in turns, time passing where the planner waits for it; the least and the
/// most instances that were Ready or alive on the way.
fn roll(cluster: &mut Cluster, service: ServiceId) -> (usize, usize) {
    let (mut least, mut most) = (usize::MAX, 0);
    for _ in 0..1_000 {
        cluster.plan_out();
        assert_eq!(invariant::check(&cluster.state), []);
        least = least.min(ready(cluster, service));
        most = most.max(cluster.live(service).len());
        if cluster.obey() {
            continue;
        }
        match cluster.plan().wake_at {
            Some(later) if rollout(cluster, service).phase == RolloutPhase::Running => cluster.now = later,
            _ => return (least, most),
        }
    }
    panic!("the rollout never ends");
}

/// The next instance of the new generation dies.
fn fail_one(cluster: &mut Cluster, service: ServiceId) {
    cluster.plan_out();
    cluster.obey();
    cluster.plan_out();
    let generation = cluster.state.service(service).expect("known").generation;
    let placed = |i: &&std::sync::Arc<skein_common::instance::Instance>| {
        i.generation == generation && i.node.is_some()
    };
    let victim = cluster.live(service).iter().find(placed).expect("one of the new generation").id;
    cluster.report_exit(victim, Phase::Failed, Some(3), "exit code 3");
}

#[test]
fn never_fewer_ready_than_promised() {
    for (name, update, disruption, least, most) in [
        ("stop-first, one", UpdatePolicy::default(), None, 5, 6),
        ("stop-first, two", UpdatePolicy { parallelism: 2, ..UpdatePolicy::default() }, None, 4, 6),
        (
            "two, but one missing",
            UpdatePolicy { parallelism: 2, ..UpdatePolicy::default() },
            Some(Disruption::MaxUnavailable(1)),
            5,
            6,
        ),
        (
            "all, but four stay",
            UpdatePolicy { parallelism: 0, ..UpdatePolicy::default() },
            Some(Disruption::MinAvailable(4)),
            4,
            6,
        ),
        ("start-first, one", start_first(1), None, 6, 7),
        ("start-first, three", start_first(3), None, 6, 9),
    ] {
        let mut cluster = Cluster::new(3);
        let service = updated(&mut cluster, ServiceSpec { disruption, ..rolling(6, update) });
        assert_eq!(roll(&mut cluster, service), (least, most), "{name}");
        assert_eq!(rollout(&cluster, service).phase, RolloutPhase::Completed, "{name}");
        assert_eq!((ready(&cluster, service), current(&cluster, service)), (6, 6), "{name}");
    }
}

#[test]
fn start_first_gives_way_where_a_port_is_exclusive() {
    let mut cluster = Cluster::new(2);
    let spec = publishing(rolling(2, start_first(1)), 80, Publish::Host { port: 8080 });
    let service = updated(&mut cluster, spec);
    assert_eq!(roll(&mut cluster, service), (1, 2));
}

#[test]
fn a_global_service_starts_first_on_each_node() {
    let mut cluster = Cluster::new(3);
    let service = updated(&mut cluster, ServiceSpec { update: start_first(1), ..global("web") });
    assert_eq!(roll(&mut cluster, service), (3, 4));
    assert_eq!(rollout(&cluster, service).phase, RolloutPhase::Completed);
}

#[test]
fn a_drain_starts_first_too() {
    let mut cluster = Cluster::new(2);
    let service = cluster.create(rolling(4, start_first(1)));
    cluster.settle();
    cluster.set_availability(cluster.node("n1"), Availability::Drained);
    let mut least = usize::MAX;
    loop {
        cluster.plan_out();
        least = least.min(ready(&cluster, service));
        if !cluster.obey() {
            break;
        }
    }
    assert_eq!(least, 4);
    assert!(cluster.live(service).iter().all(|i| i.node == Some(cluster.node("n2"))));
}

#[test]
fn waits_between_instances_and_watches_the_last() {
    let mut cluster = Cluster::new(2);
    let delay = Duration::from_secs(30);
    let service = updated(&mut cluster, rolling(2, UpdatePolicy { delay, ..UpdatePolicy::default() }));
    let began = cluster.now;
    cluster.settle();
    // The old instances have just become Ready, but only new ones hold the next one back.
    assert_eq!(current(&cluster, service), 1);
    assert_eq!(cluster.plan().wake_at, Some(began + delay));
    cluster.now = began + delay;
    cluster.settle();
    assert_eq!(current(&cluster, service), 2);
    assert_eq!(rollout(&cluster, service).phase, RolloutPhase::Running, "the last one is watched");
    cluster.pass(Duration::from_secs(5));
    cluster.settle();
    assert_eq!(rollout(&cluster, service).phase, RolloutPhase::Completed);
}

#[test]
fn a_failure_pauses_and_the_user_resumes() {
    let mut cluster = Cluster::new(2);
    let service = updated(&mut cluster, rolling(4, on_failure(FailureAction::Pause)));
    fail_one(&mut cluster, service);
    cluster.settle();
    let paused = rollout(&cluster, service);
    assert_eq!(paused.phase, RolloutPhase::Paused);
    assert_eq!(paused.reason, "slot 1 failed: exit code 3");
    // The failed slot waits for its back-off; nothing else was touched.
    assert_eq!(ready(&cluster, service), 3);
    control(&mut cluster, service, RolloutControl::Resume);
    roll(&mut cluster, service);
    assert_eq!(rollout(&cluster, service).phase, RolloutPhase::Completed);
    assert_eq!(current(&cluster, service), 4);
}

#[test]
fn a_failure_goes_back_without_touching_what_was_not_replaced() {
    let mut cluster = Cluster::new(2);
    let service = updated(&mut cluster, rolling(4, on_failure(FailureAction::Rollback)));
    let untouched: Vec<_> = cluster.live(service).iter().skip(1).map(|i| i.id).collect();
    fail_one(&mut cluster, service);
    roll(&mut cluster, service);
    let back = rollout(&cluster, service);
    assert_eq!(
        (back.phase, back.is_rollback, back.generation),
        (RolloutPhase::Completed, true, Generation(3))
    );
    assert_eq!((ready(&cluster, service), current(&cluster, service)), (4, 4));
    let live: Vec<_> = cluster.live(service).iter().map(|i| i.id).collect();
    assert!(untouched.iter().all(|id| live.contains(id)), "what ran the old spec runs on");
    let image = &cluster.state.service(service).expect("known").spec.container.image;
    assert_eq!(image, "skein-sample:1");
}

#[test]
fn failures_within_the_ratio_are_put_up_with() {
    let mut cluster = Cluster::new(2);
    let update = UpdatePolicy { max_failure_permille: 250, ..UpdatePolicy::default() };
    let service = updated(&mut cluster, rolling(4, update));
    fail_one(&mut cluster, service);
    roll(&mut cluster, service);
    assert_eq!(rollout(&cluster, service).phase, RolloutPhase::Completed);
}

#[test]
fn goes_back_to_the_last_generation_that_was_complete() {
    let mut cluster = Cluster::new(2);
    let spec = rolling(2, on_failure(FailureAction::Rollback));
    let service = cluster.create(spec.clone());
    cluster.settle();
    // Interrupted by the next before it was complete.
    cluster.update(service, with_image(spec.clone(), "sample:2"));
    cluster.update(service, with_image(spec, "sample:3"));
    fail_one(&mut cluster, service);
    roll(&mut cluster, service);
    let service = cluster.state.service(service).expect("known");
    assert_eq!(service.spec.container.image, "skein-sample:1");
}

#[test]
fn canaries_wait_for_promotion() {
    let mut cluster = Cluster::new(2);
    let update = UpdatePolicy { canary: 1, ..UpdatePolicy::default() };
    let service = updated(&mut cluster, rolling(4, update));
    roll(&mut cluster, service);
    assert_eq!(rollout(&cluster, service).phase, RolloutPhase::AwaitingPromotion);
    assert_eq!((ready(&cluster, service), current(&cluster, service)), (4, 1));
    control(&mut cluster, service, RolloutControl::Promote);
    roll(&mut cluster, service);
    assert_eq!(rollout(&cluster, service).phase, RolloutPhase::Completed);
    assert_eq!(current(&cluster, service), 4);
}

#[test]
fn canaries_promote_themselves_when_asked() {
    let mut cluster = Cluster::new(2);
    let update = UpdatePolicy { canary: 2, auto_promote: true, ..start_first(1) };
    let service = updated(&mut cluster, rolling(4, update));
    roll(&mut cluster, service);
    let done = rollout(&cluster, service);
    assert_eq!((done.phase, done.promoted), (RolloutPhase::Completed, true));
}

#[test]
fn no_progress_until_the_deadline_is_a_failure() {
    let mut cluster = Cluster::new(2);
    let spec = rolling(2, start_first(1));
    let service = cluster.create(spec.clone());
    cluster.settle();
    let mut bad = with_image(spec, "sample:2");
    bad.placement.constraints = vec!["node.labels.gpu == yes".parse().expect("a constraint")];
    bad.update.failure_action = FailureAction::Rollback;
    // The old ones do not satisfy it either, but they go one at a time and only for a Ready one.
    cluster.update(service, bad);
    cluster.settle();
    assert_eq!(ready(&cluster, service), 2);
    cluster.pass(Duration::from_secs(600));
    roll(&mut cluster, service);
    let back = rollout(&cluster, service);
    assert_eq!((back.phase, back.is_rollback), (RolloutPhase::Completed, true));
    assert_eq!((ready(&cluster, service), cluster.live(service).len()), (2, 2));
}

#[test]
fn a_user_pauses_resumes_and_goes_back() {
    let mut cluster = Cluster::new(2);
    let service = updated(&mut cluster, rolling(3, UpdatePolicy::default()));
    cluster.plan_out();
    control(&mut cluster, service, RolloutControl::Pause);
    cluster.settle();
    assert_eq!(current(&cluster, service), 1, "what had begun is finished, nothing more");
    control(&mut cluster, service, RolloutControl::Undo { to: None });
    roll(&mut cluster, service);
    assert_eq!(current(&cluster, service), 3);
    let image = &cluster.state.service(service).expect("known").spec.container.image;
    assert_eq!(image, "skein-sample:1");
}

#[test]
fn ten_generations_are_kept() {
    let mut cluster = Cluster::new(1);
    let spec = rolling(1, UpdatePolicy::default());
    let service = cluster.create(spec.clone());
    for version in 2..=15 {
        cluster.update(service, with_image(spec.clone(), &format!("sample:{version}")));
        roll(&mut cluster, service);
    }
    let kept = cluster.state.service(service).expect("known").kept.clone();
    assert_eq!(kept.len(), KEPT_GENERATIONS);
    assert_eq!(kept.first(), Some(&Generation(5)));
    let undo = |to| CommandKind::ControlRollout {
        id: service,
        expected: None,
        control: RolloutControl::Undo { to: Some(Generation(to)) },
    };
    let refused = cluster.apply(undo(3)).outcome;
    assert!(matches!(refused, Err(Rejection::FailedPrecondition { .. })), "{refused:?}");
    cluster.accept(undo(5));
    roll(&mut cluster, service);
    let image = &cluster.state.service(service).expect("known").spec.container.image;
    assert_eq!(image, "sample:5");
    assert_eq!(invariant::check(&cluster.state), []);
}

#[test]
fn there_is_nothing_to_control_without_a_rollout() {
    let mut cluster = Cluster::new(1);
    let service = cluster.create(rolling(1, UpdatePolicy::default()));
    cluster.settle();
    for control in [
        RolloutControl::Pause,
        RolloutControl::Resume,
        RolloutControl::Promote,
        RolloutControl::Undo { to: None },
    ] {
        let refused = cluster.apply(CommandKind::ControlRollout { id: service, expected: None, control });
        assert!(matches!(refused.outcome, Err(Rejection::FailedPrecondition { .. })), "{control:?}");
    }
}

#[test]
fn a_successor_whose_predecessor_dies_takes_its_place() {
    let mut cluster = Cluster::new(2);
    let service = updated(&mut cluster, rolling(1, start_first(1)));
    cluster.plan_out();
    let old = cluster.live(service).iter().find(|i| i.beside.is_none()).expect("the old one").id;
    assert_eq!(cluster.live(service).len(), 2);
    cluster.report_exit(old, Phase::Failed, Some(1), "");
    roll(&mut cluster, service);
    assert_eq!((ready(&cluster, service), cluster.live(service).len()), (1, 1));
    assert_eq!(rollout(&cluster, service).phase, RolloutPhase::Completed);
}
