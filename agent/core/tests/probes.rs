//! What probes do to the life of an instance, with a virtual clock and engine.

#![allow(clippy::unwrap_used)]

#[path = "world/model.rs"]
mod model;

use std::time::Duration;

use model::{World, assignment};
use skein_common::{
    assignment::{Assignment, Known},
    instance::{Desired, Phase, PortBinding, Readiness, Restarts},
    service::{Probe, ProbeKind, ProbeTest, Probes, Protocol, RestartPolicy},
};

const ALL: [ProbeKind; 3] = ProbeKind::ALL;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Every 10 s (1 s at first), three failures.
fn probe() -> Probe {
    Probe::new(ProbeTest::Tcp { port: 80 })
}

fn probed(kinds: &[ProbeKind], change: impl Fn(&mut Probe)) -> Assignment {
    let probe = |kind| {
        kinds.contains(&kind).then(|| {
            let mut probe = probe();
            change(&mut probe);
            probe
        })
    };
    let mut assignment = assignment(1, Desired::Run, RestartPolicy::default());
    assignment.container.probes = Probes {
        startup: probe(ProbeKind::Startup),
        readiness: probe(ProbeKind::Readiness),
        liveness: probe(ProbeKind::Liveness),
    };
    assignment
}

fn running(assignment: Assignment, failing: &[ProbeKind]) -> World {
    let mut world = World { failing: failing.iter().copied().collect(), ..World::default() };
    world.set(vec![assignment]);
    world.settle();
    world
}

fn is_ready(world: &World) -> bool {
    world.observed(1).is_ready()
}

#[test]
fn ready_is_what_has_started_and_passes() {
    let world = running(probed(&ALL, |_| {}), &[]);
    assert!(is_ready(&world));
    assert_eq!(world.observed(1).readiness, Readiness(0));
    let begun: Vec<_> = world.probed.iter().map(|(_, kind)| *kind).collect();
    assert_eq!(begun, [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness]);

    let mut world = running(probed(&ALL, |_| {}), &[ProbeKind::Readiness]);
    assert_eq!(world.progress(1), (1, Phase::Running));
    assert_eq!(world.observed(1).message, "readiness probe: refused");
    world.pass_time(seconds(120));
    assert_eq!(world.progress(1), (1, Phase::Running), "what is not ready is left alone");
    world.failing.clear();
    world.pass_time(seconds(1));
    assert!(is_ready(&world), "asked every second until the first pass");
    assert_eq!(world.observed(1).message, "");
}

#[test]
fn readiness_flaps_and_the_container_stays() {
    let mut world = running(probed(&[ProbeKind::Readiness], |probe| probe.successes = 2), &[]);
    assert!(!is_ready(&world), "two passes are asked for");
    world.pass_time(seconds(10));
    assert!(is_ready(&world));
    for round in 0..3 {
        world.failing = [ProbeKind::Readiness].into();
        world.pass_time(seconds(20));
        assert!(is_ready(&world), "two failures are not three");
        world.pass_time(seconds(10));
        assert!(!is_ready(&world));
        let observed = world.observed(1);
        assert_eq!((observed.progress.attempt, observed.progress.phase), (1, Phase::Ready));
        assert_eq!(
            (observed.readiness, observed.message.as_str()),
            (Readiness(2 * round + 1), "readiness probe: refused")
        );
        world.failing.clear();
        world.pass_time(seconds(10));
        assert!(!is_ready(&world));
        world.pass_time(seconds(10));
        assert!(is_ready(&world));
        assert_eq!(world.observed(1).readiness, Readiness(2 * round + 2));
    }
    assert_eq!(world.shown(1), ["1:running"]);
    assert_eq!(world.calls(), ["create 1", "start"]);
}

#[test]
fn a_failing_liveness_restarts_with_grace() {
    let mut world = running(probed(&[ProbeKind::Liveness, ProbeKind::Readiness], |_| {}), &[]);
    world.calls();
    world.failing = [ProbeKind::Liveness].into();
    world.pass_time(seconds(20));
    assert!(is_ready(&world));
    world.failing = [ProbeKind::Liveness, ProbeKind::Readiness].into();
    world.pass_time(seconds(10));
    assert_eq!(world.calls(), ["stop 3s", "create 2", "start"]);
    assert_eq!(world.progress(1), (2, Phase::Running), "readiness begins anew");
    world.failing.clear();
    world.pass_time(seconds(1));
    assert!(is_ready(&world));
    assert_eq!(world.observed(1).message, "liveness probe: refused");
    assert_eq!(world.observed(1).readiness, Readiness(0));
}

#[test]
fn a_slow_start_has_its_period_and_no_longer() {
    let slow = || probed(&ALL, |probe| probe.start_period = seconds(60));
    let mut world = running(slow(), &[ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness]);
    world.pass_time(seconds(59));
    assert_eq!(world.progress(1), (1, Phase::Running));
    assert!(world.probed.iter().all(|(_, kind)| *kind == ProbeKind::Startup), "the others wait");
    assert_eq!(world.probed.len(), 60, "at first every second");
    let mut late = world.clone();

    world.failing.clear();
    world.pass_time(seconds(1));
    assert!(is_ready(&world));
    let startups =
        |world: &World| world.probed.iter().filter(|(_, kind)| *kind == ProbeKind::Startup).count();
    let before = startups(&world);
    world.pass_time(seconds(60));
    assert_eq!(startups(&world), before, "once is enough");

    late.pass_time(seconds(20));
    assert_eq!(late.progress(1), (1, Phase::Running));
    late.pass_time(seconds(2));
    assert_eq!(late.progress(1).0, 2, "three failures after the period");
    assert_eq!(late.observed(1).message, "startup probe: refused");
}

#[test]
fn a_hanging_test_holds_up_neither_others_nor_a_stop() {
    let mut world = World { hangs: true, ..World::default() };
    let mut other = assignment(2, Desired::Run, RestartPolicy::default());
    world.set(vec![probed(&ALL, |_| {}), other.clone()]);
    world.settle();
    world.pass_time(seconds(100));
    assert_eq!(world.progress(1), (1, Phase::Running));
    assert_eq!(world.progress(2), (1, Phase::Ready));
    assert_eq!(world.probes.len(), 1, "one at a time of each");
    let stale = world.probes.clone();
    other.desired = Desired::Stop;
    world.set(vec![Assignment { desired: Desired::Stop, ..probed(&ALL, |_| {}) }, other]);
    world.settle();
    assert_eq!(world.progress(1), (1, Phase::Stopped));
    stale.into_iter().for_each(|run| world.answer(run));
    world.settle();
    assert_eq!(world.progress(1), (1, Phase::Stopped));
}

#[test]
fn a_pull_never_counts() {
    let mut world = World { failing: ALL.into(), ..World::default() };
    world.engine.images.clear();
    world.engine.faults =
        (0..8).map(|_| model::Fault::Pull(skein_agent_core::RuntimeError::Failed("slow".into()))).collect();
    world.set(vec![probed(&ALL, |_| {})]);
    world.settle();
    world.pass_time(seconds(60));
    assert_eq!((world.progress(1), world.probed.len()), ((1, Phase::Pulling), 0));
}

#[test]
fn a_restarted_agent_leaves_ready_what_was_ready() {
    for failing in [&[][..], &[ProbeKind::Readiness, ProbeKind::Startup]] {
        let mut world = running(probed(&ALL, |_| {}), &[]);
        world.failing = failing.iter().copied().collect();
        world.restart_agent(false);
        world.list();
        world.hangs = true;
        world.settle();
        assert!(is_ready(&world), "until a probe says otherwise");
        assert!(world.probes.iter().all(|run| run.kind != ProbeKind::Startup), "it has started");
        world.hangs = false;
        world.settle();
        world.pass_time(seconds(10));
        assert_eq!(is_ready(&world), failing.is_empty());
        world.failing.clear();
        world.pass_time(seconds(60));
        assert!(is_ready(&world));
        assert_eq!(world.calls(), ["create 1", "start"]);
    }
}

/// The masters' word alone: ready or not, how often, and what was counted.
#[test]
fn an_agent_without_its_data_goes_on_from_what_masters_know() {
    for (readiness, serving) in [(4, true), (5, false)] {
        let mut world = running(probed(&ALL, |_| {}), &[]);
        world.hangs = true;
        world.lose_data();
        world.settle();
        assert_eq!(world.progress(1), (1, Phase::Running), "not known to have no probes");
        let restarts = Restarts { total: 7, streak: 6, ..Restarts::default() };
        let known = Known { was_ready: true, readiness: Readiness(readiness), restarts: restarts.clone() };
        world.set(vec![Assignment { known, ..probed(&ALL, |_| {}) }]);
        world.settle();
        let observed = world.observed(1);
        assert_eq!((observed.is_ready(), observed.readiness), (serving, Readiness(readiness)));
        assert_eq!(observed.restarts, restarts);
        world.hangs = false;
        world.failing = if serving { [ProbeKind::Readiness].into() } else { [].into() };
        world.settle();
        world.pass_time(seconds(20));
        let observed = world.observed(1);
        assert_eq!((observed.is_ready(), observed.readiness), (!serving, Readiness(readiness + 1)));
    }
}

#[test]
fn restarts_are_counted_across_the_loss_of_data() {
    let policy = RestartPolicy {
        delay: Some(Duration::ZERO),
        max_attempts: Some(3),
        window: seconds(100),
        ..RestartPolicy::default()
    };
    let mut world = World::running(policy);
    for _ in 0..2 {
        world.exit(1, 1);
        world.settle();
        world.pass_time(seconds(10));
    }
    let told = world.observed(1).restarts;
    assert_eq!((told.total, told.in_window, told.recent.len()), (2, 2, 2));
    world.lose_data();
    let known = Known { was_ready: true, restarts: told.clone(), ..Known::default() };
    world.set(vec![Assignment { known, attempt: 3, ..assignment(1, Desired::Run, policy) }]);
    world.settle();
    assert_eq!(world.observed(1).restarts, told);
    let mut patient = world.clone();
    for phase in [Phase::Ready, Phase::Failed] {
        world.exit(1, 1);
        world.settle();
        assert_eq!(world.progress(1).1, phase);
    }
    patient.pass_time(seconds(101));
    for _ in 0..3 {
        patient.exit(1, 1);
        patient.settle();
        assert_eq!(patient.progress(1).1, Phase::Ready, "the window is over");
    }
}

#[test]
fn the_back_off_goes_on_where_it_was() {
    let mut world = World::running(RestartPolicy::default());
    while world.observed(1).restarts.streak < 6 {
        world.exit(1, 1);
        world.settle();
        if world.observed(1).restarts.streak < 6 {
            world.pass_time(seconds(60));
        }
    }
    let attempt = world.observed(1).progress.attempt;
    let told = world.observed(1).restarts;
    assert!(told.not_before > world.now + seconds(12), "16 s, less a quarter at most");
    world.lose_data();
    let known = Known { restarts: told.clone(), ..Known::default() };
    world.set(vec![Assignment { known, attempt, ..assignment(1, Desired::Run, RestartPolicy::default()) }]);
    world.settle();
    assert_eq!(world.progress(1), (attempt, Phase::Assigned));
    assert_eq!(world.wake_at, Some(told.not_before));
    world.pass_time(seconds(16));
    assert_eq!(world.progress(1), (attempt, Phase::Ready));
    world.exit(1, 1);
    world.settle();
    assert!(world.observed(1).restarts.not_before > world.now + seconds(24), "32 s, less a quarter at most");
}

#[test]
fn tests_go_to_the_container_itself_if_it_can_be_reached() {
    let mut given = probed(&[ProbeKind::Readiness], |_| {});
    given.ports = vec![PortBinding { container_port: 80, host_port: 20_080, protocol: Protocol::Tcp }];
    let mut world = World { hangs: true, ..World::default() };
    world.set(vec![given]);
    world.settle();
    assert_eq!(world.probes[0].target, Some(([127, 0, 0, 1], 20_080).into()), "it has no address");
    let id = world.probes[0].container.clone();
    world.engine.containers.get_mut(&id).unwrap().address = Some([172, 17, 0, 9].into());
    world.list();
    let run = world.probes.pop().unwrap();
    world.answer(run);
    world.pass_time(seconds(20));
    assert_eq!(world.probes[0].target, Some(([172, 17, 0, 9], 80).into()));
}
