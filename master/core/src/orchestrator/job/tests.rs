//! Jobs: every slot once, no more than allowed at a time, failures counted, an end in any case.

use std::time::Duration;

use skein_common::{
    InstanceId, ServiceId,
    instance::{Phase, Slot},
    service::{Disruption, JobPhase, JobPolicy, JobRun, Mode, RestartCondition, ServiceSpec},
};

use crate::{
    CommandKind, Rejection, invariant,
    testing::{Cluster, node, reserving, spec, with_image},
};

fn job(completions: u32, parallelism: u32) -> ServiceSpec {
    let mut spec = ServiceSpec { mode: Mode::Job { completions, parallelism }, ..spec("sum") };
    spec.restart.condition = RestartCondition::OnFailure;
    spec
}

fn run(cluster: &Cluster, service: ServiceId) -> JobRun {
    cluster.state.service(service).and_then(|service| service.job.clone()).expect("a job")
}

fn live(cluster: &Cluster, service: ServiceId) -> Vec<InstanceId> {
    cluster.live(service).iter().map(|instance| instance.id).collect()
}

fn end(cluster: &mut Cluster, id: InstanceId, exit_code: i64) {
    let phase = if exit_code == 0 { Phase::Stopped } else { Phase::Failed };
    cluster.report_exit(id, phase, Some(exit_code), "");
}

/// Every instance that runs ends well, until the job is over; the most that ran at a time.
fn work_off(cluster: &mut Cluster, service: ServiceId) -> usize {
    let mut most = 0;
    for _ in 0..1_000 {
        cluster.plan_out();
        assert_eq!(invariant::check(&cluster.state), []);
        let alive = live(cluster, service);
        most = most.max(alive.len());
        if run(cluster, service).phase != JobPhase::Running {
            return most;
        }
        cluster.obey();
        if let Some(first) = alive.first() {
            end(cluster, *first, 0);
        } else if let Some(later) = cluster.plan().wake_at {
            cluster.now = later;
        }
    }
    panic!("the job never ends");
}

#[test]
fn runs_every_slot_once_and_few_at_a_time() {
    for (completions, parallelism, most) in [(1, 0, 1), (5, 2, 2), (4, 0, 4), (3, 9, 3)] {
        let mut cluster = Cluster::new(2);
        let service = cluster.create(job(completions, parallelism));
        assert_eq!(work_off(&mut cluster, service), most, "{completions} by {parallelism}");
        assert_eq!(run(&cluster, service).phase, JobPhase::Completed);
        let slots: Vec<_> = cluster.state.instances_of(service).map(|i| i.slot).collect();
        assert_eq!(slots, (1..=completions).map(Slot::Number).collect::<Vec<_>>(), "each slot once");
        cluster.pass(Duration::from_secs(3600));
        cluster.settle();
        assert!(live(&cluster, service).is_empty(), "it is over");
    }
}

#[test]
fn a_failed_slot_is_tried_again_elsewhere_in_time() {
    let mut cluster = Cluster::new(2);
    let service = cluster.create(job(2, 1));
    cluster.settle();
    let first = live(&cluster, service)[0];
    let node = cluster.state.instance(first).and_then(|i| i.node);
    end(&mut cluster, first, 1);
    cluster.plan_out();
    cluster.now = cluster.plan().wake_at.expect("a back-off");
    cluster.plan_out();
    let next = live(&cluster, service)[0];
    assert_ne!(cluster.state.instance(next).and_then(|i| i.node), node);
    work_off(&mut cluster, service);
    assert_eq!(run(&cluster, service).phase, JobPhase::Completed);
}

#[test]
fn fails_when_its_failures_exceed_the_limit() {
    let mut cluster = Cluster::new(1);
    let policy = JobPolicy { backoff_limit: 2, ..JobPolicy::default() };
    let service = cluster.create(ServiceSpec { job: policy, ..job(3, 3) });
    cluster.settle();
    for id in live(&cluster, service) {
        assert_eq!(run(&cluster, service).phase, JobPhase::Running);
        cluster.report_exit(id, Phase::Failed, Some(1), "exit code 1");
    }
    cluster.settle();
    let over = run(&cluster, service);
    assert_eq!(over.phase, JobPhase::Failed);
    assert!(over.reason.starts_with("3 failures, more than the limit of 2, last: slot"), "{}", over.reason);
    assert!(live(&cluster, service).is_empty(), "what still ran is stopped");
}

#[test]
fn fails_when_it_takes_too_long() {
    let mut cluster = Cluster::new(1);
    let limit = Some(Duration::from_secs(60));
    let policy = JobPolicy { active_deadline: limit, ..JobPolicy::default() };
    let service = cluster.create(ServiceSpec { job: policy, ..job(2, 1) });
    cluster.settle();
    let first = live(&cluster, service)[0];
    end(&mut cluster, first, 0);
    cluster.settle();
    let due = cluster.plan().wake_at.expect("a deadline");
    cluster.now = due;
    cluster.settle();
    assert_eq!(run(&cluster, service).phase, JobPhase::Failed);
    assert_eq!(run(&cluster, service).reason, "not completed within 60 s: 1 of 2 left");
    assert!(live(&cluster, service).is_empty());
}

#[test]
fn is_forgotten_when_its_time_is_over() {
    let mut cluster = Cluster::new(1);
    let policy = JobPolicy { ttl_after_finished: Some(Duration::from_secs(30)), ..JobPolicy::default() };
    let service = cluster.create(ServiceSpec { job: policy, ..job(1, 1) });
    work_off(&mut cluster, service);
    cluster.settle();
    assert!(cluster.state.service(service).is_some());
    cluster.now = cluster.plan().wake_at.expect("an end");
    cluster.settle();
    assert!(cluster.state.service(service).is_none());
    assert_eq!(cluster.state.instance_count(), 0);
}

#[test]
fn a_new_spec_runs_it_anew() {
    let mut cluster = Cluster::new(1);
    let service = cluster.create(job(2, 1));
    work_off(&mut cluster, service);
    let mut labelled = job(2, 1);
    labelled.labels.insert("team".to_owned(), "a".to_owned());
    cluster.update(service, labelled);
    cluster.settle();
    assert_eq!(run(&cluster, service).phase, JobPhase::Completed, "a label is no reason");
    cluster.update(service, with_image(job(2, 1), "sum:2"));
    assert_eq!(run(&cluster, service).phase, JobPhase::Running);
    assert_eq!(work_off(&mut cluster, service), 1);
    assert_eq!(run(&cluster, service).phase, JobPhase::Completed);
}

#[test]
fn runs_once_on_every_node() {
    let mut cluster = Cluster::new(3);
    let mut spec = ServiceSpec { mode: Mode::GlobalJob, ..job(1, 0) };
    spec.mode = Mode::GlobalJob;
    let service = cluster.create(spec);
    cluster.settle();
    assert_eq!(live(&cluster, service).len(), 3);
    cluster.add_node(node("n4"));
    cluster.settle();
    assert_eq!(live(&cluster, service).len(), 4, "a node that comes while it runs takes part");
    work_off(&mut cluster, service);
    cluster.add_node(node("n5"));
    cluster.settle();
    assert!(live(&cluster, service).is_empty(), "one that comes later does not");
}

#[test]
fn has_no_replicas_and_stays_a_job() {
    let mut cluster = Cluster::new(1);
    let service = cluster.create(job(1, 1));
    let scale = CommandKind::ScaleService { id: service, expected: None, replicas: 2 };
    let update = CommandKind::UpdateService { id: service, expected: None, spec: spec("sum").into() };
    for kind in [scale, update] {
        let refused = cluster.apply(kind).outcome;
        assert!(matches!(refused, Err(Rejection::FailedPrecondition { .. })), "{refused:?}");
    }
}

fn gang(completions: u32, cpu_millis: u64) -> ServiceSpec {
    let mut spec = reserving(job(completions, 0), cpu_millis, 0);
    spec.job.gang = true;
    spec
}

fn placed(cluster: &Cluster, service: ServiceId) -> usize {
    cluster.live(service).iter().filter(|instance| instance.node.is_some()).count()
}

#[test]
fn a_gang_starts_together_or_not_at_all() {
    // Nodes of 4 cores: one instance of 3 each.
    let mut cluster = Cluster::new(2);
    let sum = cluster.create(gang(3, 3_000));
    cluster.settle();
    assert_eq!(placed(&cluster, sum), 0);
    let why = cluster.live(sum)[0].explanation.clone();
    assert!(why.starts_with("a gang of 3 starts together, room for 2: "), "{why}");
    // What it does not take is there for others.
    let mut small = reserving(spec("small"), 3_000, 0);
    small.mode = Mode::Replicated { replicas: 1 };
    let small = cluster.create(small);
    cluster.settle();
    assert_eq!(placed(&cluster, small), 1);
    for (name, then) in [("n3", 0), ("n4", 3)] {
        cluster.add_node(node(name));
        cluster.settle();
        assert_eq!(placed(&cluster, sum), then, "with {name}");
    }
    // A slot that failed comes back alone: the others run.
    let first = live(&cluster, sum)[0];
    end(&mut cluster, first, 1);
    cluster.plan_out();
    assert_eq!(placed(&cluster, sum), 2);
    cluster.now = cluster.plan().wake_at.expect("a back-off");
    cluster.settle();
    assert_eq!(placed(&cluster, sum), 3);
    assert_eq!(invariant::check(&cluster.state), []);
}

#[test]
fn others_give_way_to_a_gang_only_when_that_is_enough() {
    for (nodes, then) in [(2, 0), (3, 3)] {
        let mut cluster = Cluster::new(nodes);
        let mut low = reserving(spec("low"), 3_000, 0);
        low.placement.priority = 10;
        low.disruption = Some(Disruption::MaxUnavailable(9));
        low.mode = Mode::Replicated { replicas: 2 };
        let low = cluster.create(low);
        cluster.settle();
        let mut high = gang(3, 3_000);
        high.placement.priority = 90;
        let high = cluster.create(high);
        cluster.settle();
        assert_eq!(placed(&cluster, high), then, "{nodes} nodes");
        assert_eq!(placed(&cluster, low), 2 - then.min(2), "{nodes} nodes");
    }
}

#[test]
fn results_outlive_their_node() {
    let mut cluster = Cluster::new(2);
    let sum = cluster.create(job(3, 0));
    cluster.settle();
    let all = live(&cluster, sum);
    end(&mut cluster, all[0], 0);
    end(&mut cluster, all[1], 1);
    let done = cluster.state.instance(all[0]).cloned().expect("its record");
    let node = done.node.expect("a node");
    let failed_there = cluster.state.instance(all[1]).and_then(|i| i.node) == Some(node);
    cluster.accept(CommandKind::DeleteNode { id: node, expected: None, force: true });
    cluster.settle();
    let kept = run(&cluster, sum);
    assert!(kept.done.contains(&1), "{kept:?}");
    assert_eq!(kept.past_failures, u64::from(failed_there));
    assert!(cluster.state.instances_in(sum, Slot::Number(1)).next().is_none(), "it does not run again");
    cluster.pass(Duration::from_secs(60));
    work_off(&mut cluster, sum);
    assert_eq!(run(&cluster, sum).phase, JobPhase::Completed);
    assert!(cluster.state.instances_in(sum, Slot::Number(1)).next().is_none());
}

/// A plan that was drawn before its end would have had it done twice.
#[test]
fn who_is_done_gives_way_to_nobody() {
    let mut cluster = Cluster::new(1);
    let service = cluster.create(reserving(job(1, 0), 3_000, 0));
    cluster.settle();
    let done = live(&cluster, service)[0];
    let mut web = reserving(spec("web"), 3_000, 0);
    web.placement.priority = 90;
    cluster.create(web);
    let plan = cluster.plan().plan;
    assert!(plan.desire.iter().any(|wish| wish.instance == done), "{plan:?}");
    end(&mut cluster, done, 0);
    cluster.accept(CommandKind::Plan(plan));
    cluster.settle();
    assert_eq!(run(&cluster, service).phase, JobPhase::Completed);
    assert_eq!(cluster.state.instances_of(service).count(), 1, "once is enough");
}
