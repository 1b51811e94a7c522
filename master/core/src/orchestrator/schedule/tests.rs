//! Schedules: every due time at most one run, none twice, and what is kept of them.

use std::{sync::Arc, time::Duration};

use skein_common::{
    ServiceId, Timestamp,
    instance::Phase,
    service::{Concurrency, JobPhase, MissedRuns, Mode, RestartCondition, Schedule, ServiceSpec},
};

use crate::{
    Command, CommandKind, Rejection,
    command::{Actor, Plan},
    invariant,
    state::Service,
    testing::{Cluster, EPOCH, spec, with_image},
};

/// EPOCH is 2023-11-14T22:13:20Z, so the first minute is due 40 s later.
fn scheduled(line: &str) -> ServiceSpec {
    let mut spec = ServiceSpec { mode: Mode::Job { completions: 1, parallelism: 0 }, ..spec("backup") };
    spec.restart.condition = RestartCondition::OnFailure;
    spec.schedule = Some(Schedule::new(line));
    spec
}

fn with(change: impl FnOnce(&mut Schedule)) -> ServiceSpec {
    let mut spec = scheduled("* * * * *");
    if let Some(schedule) = &mut spec.schedule {
        change(schedule);
    }
    spec
}

fn runs(cluster: &Cluster, owner: ServiceId) -> Vec<Arc<Service>> {
    let mut runs: Vec<_> = cluster.state.runs_of(owner).filter(|run| !run.deleting).cloned().collect();
    runs.sort_by_key(|run| run.scheduled_for);
    runs
}

fn names(cluster: &Cluster, owner: ServiceId) -> Vec<String> {
    runs(cluster, owner).iter().map(|run| run.spec.name.clone()).collect()
}

fn events(cluster: &Cluster, reason: &str) -> Vec<String> {
    cluster.state.events().filter(|event| event.reason == reason).map(|event| event.message.clone()).collect()
}

/// To the next time at which something is due, and everything planned.
fn wake(cluster: &mut Cluster) {
    cluster.now = cluster.plan().wake_at.expect("a time to come");
    cluster.plan_out();
    assert_eq!(invariant::check(&cluster.state), []);
}

/// Whatever runs ends with this code.
fn finish(cluster: &mut Cluster, exit_code: i64) {
    cluster.settle();
    let running: Vec<_> = cluster.state.instances().filter(|i| i.is_live()).map(|i| i.id).collect();
    let phase = if exit_code == 0 { Phase::Stopped } else { Phase::Failed };
    running.into_iter().for_each(|id| cluster.report_exit(id, phase, Some(exit_code), ""));
    cluster.settle();
}

fn jump(cluster: &mut Cluster, seconds: u64) {
    cluster.pass(Duration::from_secs(seconds));
    cluster.plan_out();
}

#[test]
fn each_due_time_is_a_run_of_its_own() {
    let mut cluster = Cluster::new(2);
    let owner = cluster.create(scheduled("* * * * *"));
    cluster.plan_out();
    assert_eq!(cluster.plan().wake_at, Some(EPOCH + Duration::from_secs(40)));
    assert!(cluster.live(owner).is_empty(), "it has no instances of its own");
    wake(&mut cluster);
    assert_eq!(names(&cluster, owner), ["backup-20231114t2214"]);
    finish(&mut cluster, 0);
    wake(&mut cluster);
    assert_eq!(names(&cluster, owner), ["backup-20231114t2214", "backup-20231114t2215"]);
    let phases: Vec<_> =
        runs(&cluster, owner).iter().filter_map(|run| Some(run.job.as_ref()?.phase)).collect();
    assert_eq!(phases, [JobPhase::Completed, JobPhase::Running]);
    assert!(cluster.plan().plan.is_empty());
}

/// The plan is proposed by an old leader and by a new one, and once more from a log entry of long ago.
#[test]
fn a_plan_that_is_applied_twice_makes_one_run() {
    let mut cluster = Cluster::new(1);
    let owner = cluster.create(scheduled("* * * * *"));
    cluster.pass(Duration::from_secs(41));
    let (first, second) = (cluster.plan().plan, cluster.plan().plan);
    assert_ne!(first.schedules[0].run, second.schedules[0].run);
    for plan in [first.clone(), second, first] {
        cluster.accept(CommandKind::Plan(plan));
        assert_eq!(runs(&cluster, owner).len(), 1);
    }
    // A due time from before another change is computed again.
    cluster.pass(Duration::from_secs(60));
    let plan = cluster.plan().plan;
    cluster.update(owner, with(|schedule| schedule.keep_failed = 2));
    cluster.accept(CommandKind::Plan(plan));
    assert_eq!(runs(&cluster, owner).len(), 1);
    cluster.plan_out();
    assert_eq!(runs(&cluster, owner).len(), 2);
}

#[test]
fn however_long_nobody_led_one_run_follows() {
    let skip = || with(|schedule| schedule.missed = MissedRuns::Skip);
    let within_10_s = || with(|schedule| schedule.starting_deadline = Some(Duration::from_secs(10)));
    for (spec, passes, then, missed) in [
        (
            scheduled("* * * * *"),
            3 * 86_400,
            1,
            "1000 times or more were missed by backup before 2023-11-17T22:13",
        ),
        (skip(), 600, 1, "9 times were missed by backup before 2023-11-14T22:23"),
        (scheduled("@hourly"), 100 * 3_600, 1, "99 times were missed by backup before 2023-11-19T02:00"),
        (skip(), 45, 1, ""),
        (within_10_s(), 49, 1, ""),
        (within_10_s(), 51, 0, "1 time was missed by backup up to 2023-11-14T22:14"),
    ] {
        let mut cluster = Cluster::new(1);
        let owner = cluster.create(spec.clone());
        cluster.plan_out();
        jump(&mut cluster, passes);
        assert_eq!(runs(&cluster, owner).len(), then, "{:?} after {passes} s", spec.schedule);
        let told = events(&cluster, "RunMissed").join("; ");
        assert!(told.starts_with(missed) && told.is_empty() == missed.is_empty(), "{told:?}");
        assert!(cluster.plan().wake_at.is_some_and(|at| at > cluster.now));
    }
    // An hourly one that is an hour late is not run when missed ones are skipped.
    let mut spec = scheduled("@hourly");
    spec.schedule.as_mut().into_iter().for_each(|schedule| schedule.missed = MissedRuns::Skip);
    let mut cluster = Cluster::new(1);
    let owner = cluster.create(spec);
    jump(&mut cluster, 3_600);
    assert_eq!((runs(&cluster, owner).len(), events(&cluster, "RunMissed").len()), (0, 1));
}

/// A leader whose clock is behind, or that steps back, runs nothing a second time.
#[test]
fn a_clock_that_steps_back_repeats_nothing() {
    let mut cluster = Cluster::new(1);
    let owner = cluster.create(scheduled("* * * * *"));
    jump(&mut cluster, 3_600);
    assert_eq!(runs(&cluster, owner).len(), 1);
    cluster.now = EPOCH;
    cluster.plan_out();
    assert_eq!(runs(&cluster, owner).len(), 1);
    jump(&mut cluster, 3_500);
    assert_eq!(runs(&cluster, owner).len(), 1);
    jump(&mut cluster, 160);
    assert_eq!(runs(&cluster, owner).len(), 2);
}

#[test]
fn what_becomes_of_a_run_while_another_is_under_way() {
    for (concurrency, then, event) in [
        (Concurrency::Allow, vec!["backup-20231114t2214", "backup-20231114t2215"], ""),
        (Concurrency::Forbid, vec!["backup-20231114t2214"], "RunSkipped"),
        (Concurrency::Replace, vec!["backup-20231114t2215"], "RunReplaced"),
    ] {
        let mut cluster = Cluster::new(1);
        let owner = cluster.create(with(|schedule| schedule.concurrency = concurrency));
        wake(&mut cluster);
        cluster.settle();
        wake(&mut cluster);
        assert_eq!(names(&cluster, owner), then, "{concurrency:?}");
        assert_eq!(events(&cluster, event).len(), usize::from(!event.is_empty()), "{concurrency:?}");
        // The next time is decided on anew.
        finish(&mut cluster, 0);
        wake(&mut cluster);
        assert!(names(&cluster, owner).contains(&"backup-20231114t2216".to_owned()), "{concurrency:?}");
    }
}

#[test]
fn as_many_runs_are_kept_as_are_asked_for() {
    let mut cluster = Cluster::new(1);
    let mut spec = with(|schedule| (schedule.keep_completed, schedule.keep_failed) = (2, 1));
    spec.job.backoff_limit = 0;
    let owner = cluster.create(spec);
    for exit_code in [0, 1, 0, 1, 0, 0] {
        wake(&mut cluster);
        finish(&mut cluster, exit_code);
    }
    let kept = names(&cluster, owner);
    assert_eq!(kept, ["backup-20231114t2217", "backup-20231114t2218", "backup-20231114t2219"]);
    assert_eq!(cluster.state.services().count(), 4, "the others are gone");
    let records = cluster.state.instances().count();
    assert_eq!(records, 3, "with their containers");
    // Fewer are asked for.
    cluster.update(owner, with(|schedule| (schedule.keep_completed, schedule.keep_failed) = (0, 0)));
    cluster.settle();
    assert_eq!(runs(&cluster, owner).len(), 0);
}

#[test]
fn runs_go_with_their_owner() {
    let mut cluster = Cluster::new(1);
    let owner = cluster.create(scheduled("* * * * *"));
    wake(&mut cluster);
    finish(&mut cluster, 0);
    wake(&mut cluster);
    cluster.settle();
    assert_eq!(runs(&cluster, owner).len(), 2);
    cluster.accept(CommandKind::DeleteService { id: owner, expected: None });
    assert_eq!(runs(&cluster, owner).len(), 0);
    cluster.settle();
    assert_eq!((cluster.state.services().count(), cluster.state.instances().count()), (0, 0));
    // One of them alone.
    let owner = cluster.create(scheduled("* * * * *"));
    wake(&mut cluster);
    let run = runs(&cluster, owner)[0].id;
    cluster.accept(CommandKind::DeleteService { id: run, expected: None });
    cluster.settle();
    assert_eq!((runs(&cluster, owner).len(), cluster.state.services().count()), (0, 1));
}

#[test]
fn a_change_concerns_later_runs_only() {
    let mut cluster = Cluster::new(1);
    let owner = cluster.create(scheduled("* * * * *"));
    wake(&mut cluster);
    cluster.settle();
    cluster.update(owner, with_image(scheduled("* * * * *"), "skein-sample:2"));
    cluster.settle();
    assert_eq!(runs(&cluster, owner).len(), 1);
    wake(&mut cluster);
    let images: Vec<_> = runs(&cluster, owner).iter().map(|run| run.spec.container.image.clone()).collect();
    assert_eq!(images, ["skein-sample:1", "skein-sample:2"]);
    assert!(runs(&cluster, owner).iter().all(|run| run.generation.0 == 1 && run.spec.schedule.is_none()));
    // A run itself is not changed.
    let run = runs(&cluster, owner)[0].clone();
    let refused = |rejection: Result<_, Rejection>| matches!(rejection, Err(Rejection::FailedPrecondition { message }) if message.contains("is a run of backup"));
    let kind = CommandKind::UpdateService { id: run.id, expected: None, spec: run.spec.clone() };
    assert!(refused(cluster.apply(kind).outcome));
    let kind = CommandKind::RunJob { id: run.id, expected: None, run: ServiceId::from_random(7) };
    assert!(refused(cluster.apply(kind).outcome));
}

#[test]
fn suspended_until_resumed() {
    let mut cluster = Cluster::new(1);
    let owner = cluster.create(scheduled("* * * * *"));
    let control = |cluster: &mut Cluster, suspend| {
        cluster.accept(CommandKind::ControlSchedule { id: owner, expected: None, suspend });
        cluster.plan_out();
    };
    control(&mut cluster, true);
    assert_eq!(cluster.plan().wake_at, None);
    jump(&mut cluster, 3_600);
    control(&mut cluster, true);
    control(&mut cluster, false);
    assert_eq!(runs(&cluster, owner).len(), 0, "what passed meanwhile is not made up for");
    wake(&mut cluster);
    assert_eq!(runs(&cluster, owner).len(), 1);
    assert_eq!(events(&cluster, "ScheduleSuspended").len(), 1);
    assert_eq!(events(&cluster, "RunMissed"), [""; 0]);
}

#[test]
fn a_user_runs_it_now() {
    let mut cluster = Cluster::new(1);
    let mut spec = with(|schedule| (schedule.suspend, schedule.concurrency) = (true, Concurrency::Forbid));
    let owner = cluster.create(spec.clone());
    for number in 1..=2 {
        let run = ServiceId::from_random(number);
        cluster.accept(CommandKind::RunJob { id: owner, expected: None, run });
    }
    assert_eq!(names(&cluster, owner), ["backup-20231114t221320", "backup-20231114t221320b"]);
    finish(&mut cluster, 0);
    // A job without a schedule runs anew, when it is over.
    spec.schedule = None;
    "sum".clone_into(&mut spec.name);
    let plain = cluster.create(spec);
    let again = CommandKind::RunJob { id: plain, expected: None, run: ServiceId::from_random(9) };
    assert!(cluster.apply(again.clone()).outcome.is_err(), "it runs");
    finish(&mut cluster, 0);
    cluster.accept(again);
    cluster.settle();
    assert_eq!(cluster.live(plain).len(), 1);
    assert_eq!(cluster.live(plain)[0].generation.0, 2);
}

#[test]
fn a_schedule_comes_and_goes() {
    let mut cluster = Cluster::new(1);
    let plain = ServiceSpec { schedule: None, ..scheduled("* * * * *") };
    let service = cluster.create(plain.clone());
    cluster.settle();
    assert_eq!(cluster.live(service).len(), 1);
    cluster.update(service, scheduled("* * * * *"));
    cluster.settle();
    assert_eq!(cluster.live(service).len(), 0);
    wake(&mut cluster);
    assert_eq!(runs(&cluster, service).len(), 1);
    cluster.update(service, plain);
    cluster.settle();
    assert_eq!(cluster.live(service).len(), 1, "it is a job again");
    assert_eq!(runs(&cluster, service).len(), 1, "the run goes on");
    finish(&mut cluster, 0);
    assert_eq!(runs(&cluster, service).len(), 0);
    assert_eq!(invariant::check(&cluster.state), []);
}

/// A line that this version does not understand (a newer one did) is no reason to fall over.
#[test]
fn an_unknown_line_does_nothing() {
    let mut cluster = Cluster::new(1);
    let owner = cluster.create(scheduled("every now and then"));
    cluster.plan_out();
    assert_eq!((cluster.plan().plan, cluster.plan().wake_at), (Plan::default(), None));
    assert_eq!(runs(&cluster, owner).len(), 0);
}

#[test]
fn late_commands_change_nothing() {
    let mut cluster = Cluster::new(1);
    let owner = cluster.create(scheduled("* * * * *"));
    cluster.pass(Duration::from_secs(41));
    let plan = cluster.plan().plan;
    cluster.accept(CommandKind::DeleteService { id: owner, expected: None });
    let at = Timestamp::from_unix_ms(EPOCH.unix_ms() + 50_000);
    let command = Command { request: None, at, actor: Actor::User, kind: CommandKind::Plan(plan) };
    let revision = skein_common::Revision(cluster.state.revision().0 + 1);
    assert!(cluster.state.apply(revision, &command).outcome.is_ok());
    assert_eq!(runs(&cluster, owner).len(), 0);
}
