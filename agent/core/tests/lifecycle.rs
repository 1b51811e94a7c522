//! Tables: what becomes of an instance in each situation.

#[path = "world/model.rs"]
mod model;

use std::time::Duration;

use model::{Fault, IMAGE, World, assignment, exited, instance};
use skein_agent_core::{ContainerStatus, Health, NodeState, RuntimeError, backoff::before_restart};
use skein_common::{
    Timestamp,
    assignment::{AssignmentContent, AssignmentUpdate},
    instance::{Desired, News, Phase},
    service::{RestartCondition, RestartPolicy},
};

fn policy(condition: RestartCondition) -> RestartPolicy {
    RestartPolicy { condition, ..RestartPolicy::default() }
}

fn any() -> RestartPolicy {
    RestartPolicy::default()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn an_image_that_is_here_is_created_and_started_with_two_calls() {
    let mut world = World::running(any());
    assert_eq!(world.calls(), ["create 1", "start"]);
    assert_eq!(world.progress(1), (1, Phase::Ready));
    assert_eq!(world.wake_at, None);
    world.settle();
    assert_eq!(world.calls(), [""; 0], "idempotent");
}

#[test]
fn a_health_check_decides_when_it_is_ready() {
    let mut world = World::default();
    world.engine.health_on_start = Some(Health::Starting);
    world.set(vec![assignment(1, Desired::Run, any())]);
    world.settle();
    assert_eq!(world.progress(1), (1, Phase::Running));
    world.set_status(1, ContainerStatus::Running { health: Health::Healthy, started_at: world.now });
    world.settle();
    assert_eq!(world.progress(1), (1, Phase::Ready));
}

#[test]
fn an_end_is_followed_as_the_policy_says() {
    use RestartCondition::{Any, None, OnFailure};
    for (condition, exit_code, then) in [
        (Any, 0, (2, Phase::Ready)),
        (Any, 1, (2, Phase::Ready)),
        (OnFailure, 0, (1, Phase::Stopped)),
        (OnFailure, 3, (2, Phase::Ready)),
        (None, 0, (1, Phase::Stopped)),
        (None, 137, (1, Phase::Failed)),
    ] {
        let mut world = World::running(policy(condition));
        world.exit(1, exit_code);
        world.settle();
        assert_eq!(world.progress(1), then, "{condition:?} after exit code {exit_code}");
        let observed = world.observed(1);
        assert_eq!(observed.exit_code, Some(exit_code));
        assert!(observed.message.contains(&format!("exit code {exit_code}")), "{}", observed.message);
    }
}

#[test]
fn restarts_back_off_and_start_over_after_a_long_run() {
    let mut world = World::running(any());
    for (number, wait) in [(1, 0), (2, 1), (3, 2), (4, 4), (5, 8)] {
        world.exit(1, 1);
        world.settle();
        if wait > 0 {
            assert_eq!(world.progress(1), (number + 1, Phase::Assigned), "restart {number}");
            let wait = before_restart(&any(), number - 1, instance(1), number);
            assert_eq!(world.wake_at, Some(world.now + wait), "restart {number}");
            world.pass_time(wait);
        }
        assert_eq!(world.progress(1), (number + 1, Phase::Ready), "restart {number}");
    }
    world.pass_time(seconds(600));
    world.exit(1, 1);
    world.settle();
    assert_eq!(world.progress(1), (7, Phase::Ready), "at once again");
}

#[test]
fn restarts_within_a_window_are_counted() {
    let policy = RestartPolicy {
        delay: Some(Duration::ZERO),
        max_attempts: Some(2),
        window: seconds(60),
        ..RestartPolicy::default()
    };
    let mut world = World::running(policy);
    for attempt in [2, 3] {
        world.exit(1, 1);
        world.settle();
        assert_eq!(world.progress(1), (attempt, Phase::Ready));
    }
    let mut patient = world.clone();
    world.exit(1, 1);
    world.settle();
    assert_eq!(world.progress(1), (3, Phase::Failed));
    assert_eq!(world.observed(1).message, "exit code 1; given up after 2 restarts within 60s");

    patient.pass_time(seconds(61));
    patient.exit(1, 1);
    patient.settle();
    assert_eq!(patient.progress(1), (4, Phase::Ready));
}

#[test]
fn restarts_without_a_window_are_counted_for_life() {
    let policy = RestartPolicy { delay: Some(seconds(1)), max_attempts: Some(1), ..RestartPolicy::default() };
    let mut world = World::running(policy);
    world.exit(1, 0);
    world.settle();
    world.pass_time(seconds(1));
    assert_eq!(world.progress(1), (2, Phase::Ready));
    world.pass_time(seconds(36_000));
    world.exit(1, 0);
    world.settle();
    assert_eq!(world.progress(1), (2, Phase::Failed));
}

#[test]
fn no_restart_at_all_is_a_policy_too() {
    let mut world = World::running(RestartPolicy { max_attempts: Some(0), ..any() });
    world.exit(1, 1);
    world.settle();
    assert_eq!(world.progress(1), (1, Phase::Failed));
}

#[test]
fn one_earlier_container_is_kept() {
    let mut world = World::running(RestartPolicy { delay: Some(Duration::ZERO), ..any() });
    for _ in 0..6 {
        world.exit(1, 1);
        world.settle();
    }
    assert_eq!(world.shown(1), ["6:exited", "7:running"]);
}

#[test]
fn containers_of_a_crash_loop_without_pause_do_not_pile_up() {
    let mut world = World::running(RestartPolicy { delay: Some(Duration::ZERO), ..any() });
    world.exit(1, 1);
    for _ in 0..40 {
        world.pass();
        if !world.under_way.is_empty() {
            world.step(0);
        }
        if world.shown(1).iter().any(|shown| shown.ends_with("running")) {
            world.exit(1, 1);
        }
        assert!(world.shown(1).len() <= 5, "{:?}", world.shown(1));
    }
}

#[test]
fn a_vanished_container_is_replaced() {
    let mut world = World::running(policy(RestartCondition::OnFailure));
    world.engine.containers.clear();
    world.list();
    world.settle();
    assert_eq!(world.progress(1), (2, Phase::Ready));
    assert_eq!(world.observed(1).message, "the container vanished");
    assert_eq!(world.observed(1).exit_code, None);
}

#[test]
fn an_unhealthy_container_is_stopped_and_replaced() {
    let mut world = World::running(policy(RestartCondition::OnFailure));
    world.calls();
    let health = Health::Unhealthy { output: "connection refused".to_owned() };
    world.set_status(1, ContainerStatus::Running { health, started_at: world.now });
    world.pass();
    assert_eq!(world.progress(1), (1, Phase::Stopping));
    assert_eq!(world.observed(1).message, "unhealthy: connection refused");
    world.settle();
    assert_eq!(world.progress(1), (2, Phase::Ready), "exit code 143 is a failure here");
    world.settle();
    assert_eq!(world.calls(), ["stop 3s", "create 2", "start"]);
    assert_eq!(world.observed(1).message, "unhealthy: connection refused");
}

#[test]
fn an_unhealthy_container_that_cannot_be_stopped_is_stopped_again() {
    let mut world = World::running(any());
    world.calls();
    let health = Health::Unhealthy { output: String::new() };
    world.engine.faults.push(Fault::Stop(RuntimeError::Failed("try again".to_owned())));
    world.set_status(1, ContainerStatus::Running { health, started_at: world.now });
    world.settle();
    assert_eq!(world.progress(1), (1, Phase::Stopping));
    world.pass_time(seconds(1));
    assert_eq!(world.calls(), ["stop 3s", "stop 3s", "create 2", "start"]);
}

#[test]
fn a_missing_image_is_pulled_with_a_reason_and_uses_up_no_attempt() {
    let mut world = World::default();
    world.engine.images.clear();
    let gone =
        || Fault::Pull(RuntimeError::Image { image: IMAGE.to_owned(), reason: "no such host".to_owned() });
    world.engine.faults = vec![gone(), gone(), gone()];
    world.set(vec![
        assignment(1, Desired::Run, policy(RestartCondition::None)),
        assignment(2, Desired::Run, policy(RestartCondition::None)),
    ]);
    world.settle();
    for number in [1, 2] {
        assert_eq!(world.progress(number), (1, Phase::Pulling));
        assert_eq!(world.observed(number).message, "image \"web:1\" cannot be pulled: no such host");
    }
    for wait in [1, 2, 4] {
        assert_eq!(world.wake_at, Some(world.now + seconds(wait)));
        world.pass_time(seconds(wait));
    }
    for number in [1, 2] {
        assert_eq!(world.progress(number), (1, Phase::Ready));
        assert_eq!(world.observed(number).message, "");
    }
    let pulls = world.calls().iter().filter(|call| call.starts_with("pull")).count();
    assert_eq!(pulls, 4, "two instances, one pull at a time");
}

#[test]
fn a_pull_under_way_does_not_delay_a_removal() {
    let mut world = World::default();
    world.engine.images.clear();
    world.set(vec![assignment(1, Desired::Run, any())]);
    world.pass();
    world.step(0);
    world.pass();
    assert_eq!(world.progress(1), (1, Phase::Pulling));
    world.set(vec![assignment(1, Desired::Remove, any())]);
    world.pass();
    assert_eq!(world.state.news(instance(1)), Some(News::Gone));
    world.step(0);
    world.settle();
    assert_eq!(world.shown(1), [""; 0]);
}

#[test]
fn what_can_never_start_is_rejected() {
    let rejected = |reason: &str| RuntimeError::Rejected(reason.to_owned());
    for fault in [Fault::Create(rejected("port 80 is taken")), Fault::Start(rejected("port 80 is taken"))] {
        let mut world = World::default();
        world.engine.faults.push(fault.clone());
        world.set(vec![assignment(1, Desired::Run, any())]);
        world.settle();
        assert_eq!(world.progress(1), (1, Phase::Rejected), "{fault:?}");
        assert_eq!(world.observed(1).message, "port 80 is taken");
        world.pass_time(seconds(3600));
        assert_eq!(world.progress(1), (1, Phase::Rejected));
        world.set(vec![assignment(1, Desired::Remove, any())]);
        world.settle();
        assert_eq!(world.state.news(instance(1)), Some(News::Gone));
        assert_eq!(world.shown(1), [""; 0]);
    }
}

#[test]
fn a_failed_step_is_a_failed_attempt() {
    let failed = || RuntimeError::Failed("exec: \"nope\": not found".to_owned());
    for fault in [Fault::Create(failed()), Fault::Start(failed())] {
        let mut world = World::default();
        world.engine.faults.push(fault.clone());
        world.set(vec![assignment(1, Desired::Run, policy(RestartCondition::OnFailure))]);
        world.settle();
        assert_eq!(world.progress(1), (2, Phase::Ready), "{fault:?}");
        assert_eq!(world.observed(1).message, "exec: \"nope\": not found");
    }
}

#[test]
fn an_engine_that_does_not_answer_costs_no_attempt() {
    let away = || RuntimeError::Unavailable("connection refused".to_owned());
    let mut world = World::default();
    world.engine.faults = vec![Fault::Create(away()), Fault::Create(away()), Fault::Start(away())];
    world.set(vec![assignment(1, Desired::Run, policy(RestartCondition::None))]);
    world.settle();
    assert_eq!(world.progress(1), (1, Phase::Assigned));
    assert_eq!(world.observed(1).message, "the container engine does not answer: connection refused");
    assert_eq!(world.wake_at, Some(world.now + Duration::from_millis(100)));
    world.pass_time(seconds(10));
    assert_eq!(world.progress(1), (1, Phase::Ready));
    assert_eq!(world.calls(), ["create 1", "create 1", "create 1", "start", "start"]);
}

#[test]
fn an_engine_that_is_back_ends_the_waits() {
    let mut world = World::default();
    for _ in 0..8 {
        world.engine.faults.push(Fault::Create(RuntimeError::Unavailable("away".to_owned())));
    }
    world.set(vec![assignment(1, Desired::Run, any())]);
    world.settle();
    world.pass_time(seconds(5));
    world.engine.faults.clear();
    world.state.engine_is_back();
    world.settle();
    assert_eq!(world.progress(1), (1, Phase::Ready));
}

#[test]
fn stop_keeps_the_container_and_remove_leaves_nothing() {
    let mut world = World::running(any());
    world.calls();
    world.set(vec![assignment(1, Desired::Stop, any())]);
    world.pass();
    assert_eq!(world.progress(1), (1, Phase::Stopping));
    world.settle();
    assert_eq!(world.progress(1), (1, Phase::Stopped));
    assert_eq!(world.observed(1).exit_code, Some(143));
    assert_eq!(world.shown(1), ["1:exited"]);
    world.set(vec![assignment(1, Desired::Remove, any())]);
    world.settle();
    assert_eq!(world.state.news(instance(1)), Some(News::Gone));
    assert_eq!(world.calls(), ["stop 3s", "remove"]);
    world.set(Vec::new());
    world.settle();
    assert_eq!(world.state.news(instance(1)), None);
}

#[test]
fn a_wish_to_stop_wins_over_every_stage() {
    for desired in [Desired::Stop, Desired::Remove] {
        for steps in 0..6 {
            let mut world = World::default();
            world.engine.images.clear();
            world.set(vec![assignment(1, Desired::Run, any())]);
            for _ in 0..steps {
                world.pass();
                if !world.under_way.is_empty() {
                    world.step(0);
                }
            }
            world.pass();
            world.set(vec![assignment(1, desired, any())]);
            world.settle();
            let running = world.shown(1).iter().any(|shown| shown.ends_with("running"));
            assert!(!running, "{desired:?} after {steps} steps: {:?}", world.shown(1));
            match desired {
                Desired::Stop => assert_eq!(world.progress(1).1, Phase::Stopped, "after {steps} steps"),
                _ => assert_eq!(world.state.news(instance(1)), Some(News::Gone), "after {steps} steps"),
            }
        }
    }
}

#[test]
fn what_never_started_is_removed_before_its_end_is_told() {
    for desired in [Desired::Stop, Desired::Remove] {
        let mut world = World::default();
        world.set(vec![assignment(1, Desired::Run, any())]);
        world.pass();
        world.step(0);
        world.pass();
        // The start is under way, and may take effect at any time from now on.
        world.restart_agent(false);
        world.list();
        world.calls();
        world.set(vec![assignment(1, desired, any())]);
        world.pass();
        assert_ne!(world.progress(1).1, Phase::Stopped);
        world.settle();
        assert_eq!(world.calls(), ["remove"], "{desired:?}");
        assert_eq!(world.shown(1), [""; 0]);
    }
}

/// An earlier life may have asked for its start, and that start may come at any time: also after this
/// life's start and the end of what that began.
#[test]
fn a_container_of_an_earlier_life_that_never_started_is_made_again() {
    for restart in [any(), policy(RestartCondition::None)] {
        let mut world = World::default();
        world.set(vec![assignment(1, Desired::Run, restart)]);
        world.pass();
        world.step(0);
        world.pass();
        world.restart_agent(false);
        world.list();
        world.calls();
        world.settle();
        assert_eq!(world.calls(), ["remove", "create 1", "start"]);
        assert_eq!(world.progress(1), (1, Phase::Ready), "it is the same attempt");
    }
}

#[test]
fn a_container_without_a_record_ends_with_its_own_grace() {
    let mut world = World::running(any());
    world.state = NodeState::default();
    world.list();
    world.calls();
    world.set(vec![assignment(1, Desired::Stop, any())]);
    world.settle();
    assert_eq!(world.calls(), ["stop 3s"]);
    assert_eq!(world.progress(1), (1, Phase::Stopped));
}

#[test]
fn an_instance_that_waits_for_its_restart_stops_at_once() {
    let mut world = World::running(RestartPolicy { delay: Some(seconds(60)), ..any() });
    world.exit(1, 9);
    world.settle();
    assert_eq!(world.progress(1), (2, Phase::Assigned));
    world.set(vec![assignment(1, Desired::Stop, any())]);
    world.settle();
    assert_eq!(world.progress(1), (2, Phase::Stopped));
    assert_eq!(world.observed(1).exit_code, Some(9));
}

#[test]
fn what_is_not_assigned_any_more_is_removed() {
    let mut world = World::running(any());
    world.calls();
    world.set(Vec::new());
    world.settle();
    assert_eq!(world.shown(1), [""; 0]);
    assert_eq!(world.state.news(instance(1)), None);
    assert_eq!(world.calls(), ["stop 3s", "remove"], "with its own grace");
}

#[test]
fn nothing_is_done_before_the_engine_was_listed() {
    let mut world = World { state: NodeState::default(), ..World::default() };
    world.set(vec![assignment(1, Desired::Run, any())]);
    assert_eq!(world.pass().actions, []);
    world.list();
    assert_eq!(world.pass().actions.len(), 1);
}

#[test]
fn unknown_containers_wait_for_a_full_set() {
    let mut world = World::running(any());
    world.lose_data();
    world.settle();
    assert_eq!(world.shown(1), ["1:running"]);
    assert_eq!(world.progress(1), (1, Phase::Running), "it is told of, and may have a probe");
    world.set(Vec::new());
    world.settle();
    assert_eq!(world.shown(1), [""; 0]);
}

#[test]
fn a_restarted_agent_adopts_what_runs() {
    let mut world = World::running(any());
    world.exit(1, 1);
    world.settle();
    world.calls();
    // Made after the checkpoint was: unknown to it.
    let stray = skein_agent_core::SeenContainer {
        id: "stray".to_owned(),
        instance: instance(2),
        attempt: 1,
        address: None,
        status: ContainerStatus::Running { health: Health::Unchecked, started_at: world.now },
    };
    world.engine.containers.insert("stray".to_owned(), stray);
    world.restart_agent(false);
    world.pass();
    world.list();
    world.settle();
    assert_eq!(world.calls(), [""; 0]);
    assert_eq!(world.progress(1), (2, Phase::Ready));
    assert_eq!(world.progress(2), (1, Phase::Running), "it may have a probe");
    world.exit(1, 1);
    world.settle();
    world.pass_time(seconds(1));
    assert_eq!(world.progress(1), (3, Phase::Ready), "restarted without a master, back-off remembered");
}

#[test]
fn a_restart_of_the_agent_at_any_step_harms_nothing() {
    for done in [false, true] {
        for steps in 0..4 {
            let mut world = World::default();
            world.engine.images.clear();
            world.set(vec![assignment(1, Desired::Run, policy(RestartCondition::None))]);
            for _ in 0..steps {
                world.pass();
                if !world.under_way.is_empty() {
                    world.step(0);
                }
            }
            world.pass();
            world.restart_agent(done);
            world.list();
            world.settle();
            world.pass_time(seconds(120));
            assert_eq!(world.progress(1), (1, Phase::Ready), "done: {done}, after {steps} steps");
            assert_eq!(world.shown(1), ["1:running"]);
        }
    }
}

#[test]
fn an_agent_without_its_data_goes_on_from_what_the_masters_know() {
    let mut world = World::default();
    let mut known = assignment(1, Desired::Run, any());
    known.attempt = 4;
    world.set(vec![known]);
    world.settle();
    assert_eq!(world.progress(1), (4, Phase::Ready));
}

#[test]
fn after_a_reboot_every_container_gets_its_next_attempt() {
    let mut world = World::running(any());
    let now = world.now;
    for container in world.engine.containers.values_mut() {
        container.status = exited(255, now);
    }
    world.restart_agent(false);
    world.list();
    world.settle();
    assert_eq!(world.progress(1), (2, Phase::Ready));
}

#[test]
fn a_clock_set_back_does_not_prolong_a_wait() {
    let mut world = World::running(RestartPolicy { delay: Some(seconds(5)), ..any() });
    world.exit(1, 1);
    world.settle();
    world.now = Timestamp::from_unix_ms(1_000);
    world.restart_agent(false);
    world.list();
    world.settle();
    world.pass_time(seconds(5));
    assert_eq!(world.progress(1), (2, Phase::Ready));
}

#[test]
fn a_look_that_was_overtaken_changes_nothing() {
    let mut world = World::default();
    let before = world.look(None);
    world.set(vec![assignment(1, Desired::Run, any())]);
    world.settle();
    world.state.look(before);
    world.settle();
    assert_eq!(world.progress(1), (1, Phase::Ready));
    assert_eq!(world.calls(), ["create 1", "start"]);

    let running = world.look(Some(instance(1)));
    world.exit(1, 1);
    world.settle();
    world.state.look(running);
    world.settle();
    assert_eq!(world.progress(1), (2, Phase::Ready));
}

#[test]
fn a_lower_term_is_not_obeyed_after_a_restart_either() {
    let mut world = World::default();
    let update = |term, generation, assignments| AssignmentUpdate {
        term,
        generation,
        content: AssignmentContent::Full(assignments),
    };
    world.state.assign(update(7, 1, vec![assignment(1, Desired::Run, any())]));
    world.settle();
    world.restart_agent(false);
    world.list();
    assert!(world.state.begin_session(6).is_err());
    world.state.assign(update(6, 9, Vec::new()));
    world.settle();
    assert_eq!(world.progress(1), (1, Phase::Ready));
    assert_eq!(world.state.assignments().term(), 7);
}
