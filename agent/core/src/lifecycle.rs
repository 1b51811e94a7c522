//! The life of one instance: from what is remembered, seen and wanted to the next step.
//!
//! Invariant: one step at a time, each idempotent; calling again without news changes nothing.
//! A wish to stop or remove wins over everything. Nothing is decided while a step is under way.
//! Deliberately not here: whose turn it is (`reconcile`), waiting (the shell wakes at `until`).

use std::sync::Arc;

use skein_common::{
    Timestamp,
    assignment::Assignment,
    instance::{Desired, Phase},
    service::Probes,
};

use crate::{
    action::Action,
    container::{ContainerStatus, Health, SeenContainer},
    image::Need,
    probe::{self, ProbeRun},
    progress::Cause,
    record::{Ending, Record},
};

/// Containers an instance that restarts without a pause may have before old ones are removed
/// first; else they are removed while it waits or runs.
const MAX_KEPT: usize = 3;

/// What is wanted of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal<'a> {
    Run(&'a Arc<Assignment>),
    Stop,
    /// Ended and removed; the masters forget it once it is gone.
    Remove,
    /// Not assigned any more: ended, removed, forgotten.
    Forget,
    /// Not known to be wanted or unwanted: nothing is done.
    Leave,
}

/// What is so, apart from the record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Situation<'a> {
    pub(crate) goal: Goal<'a>,
    /// `None` while nothing has been assigned: whether it has any is not known.
    pub(crate) probes: Option<&'a Probes>,
    /// Of this instance, lowest attempt first.
    pub(crate) containers: &'a [SeenContainer],
    pub(crate) now: Timestamp,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    Act(Action),
    /// The image has to be pulled, by whoever comes first.
    Pull,
    /// Nothing before this time, or before something happens.
    Wait(Option<Timestamp>),
    /// Nothing is left, nothing is wanted.
    Forget,
}

impl<'a> Goal<'a> {
    pub(crate) fn of(assignment: Option<&'a Arc<Assignment>>, is_authoritative: bool) -> Self {
        match assignment.map(|assignment| (assignment, assignment.desired)) {
            Some((assignment, Desired::Run)) => Self::Run(assignment),
            Some((_, Desired::Stop)) => Self::Stop,
            Some((_, Desired::Remove)) => Self::Remove,
            None if is_authoritative => Self::Forget,
            None => Self::Leave,
        }
    }
}

/// Takes over what the engine shows. Never decides that something ended: that is for [`next`],
/// when no step is under way.
pub(crate) fn observe(record: &mut Record, situation: &Situation<'_>) {
    let now = situation.now;
    if let Some(highest) = situation.containers.last() {
        record.adopt(highest.attempt, now);
    }
    let Some(container) = current(record, situation) else {
        record.show_container("", now);
        return;
    };
    record.show_container(&container.id, now);
    if let ContainerStatus::Running { health, started_at } = &container.status {
        record.process_began(*started_at);
        let has_started = record.has_started();
        record.probing.watch(&container.id, *started_at, has_started, now);
        let complaint = judge(record, situation.probes, health, now);
        if !record.phase().is_terminal() && record.ending.is_none() {
            record.set_obstacle(&complaint, now);
        }
    }
}

/// How far a running container has come; answers what probes have against it.
fn judge(record: &mut Record, probes: Option<&Probes>, health: &Health, now: Timestamp) -> String {
    let is_well = matches!(health, Health::Unchecked | Health::Healthy);
    let (serves, complaint) = match probes {
        Some(probes) if record.probing.has_started(probes) => {
            if probes.startup.is_some() {
                record.mark_started();
            }
            (record.probing.serves(probes), record.probing.complaint(probes))
        }
        Some(probes) => (None, record.probing.complaint(probes)),
        None => (None, String::new()),
    };
    if is_well && (serves == Some(true) || record.was_ready()) {
        record.advance(Cause::Serve, now);
    } else {
        record.advance(Cause::Run, now);
    }
    // What was Ready before this life of the agent stays as it was until a probe says otherwise.
    if let Some(serves) = serves {
        record.serve(serves, now);
    }
    complaint
}

/// The next step; `need` is what the image of the assignment needs.
pub(crate) fn next(record: &mut Record, situation: &Situation<'_>, need: impl FnOnce(&str) -> Need) -> Next {
    match situation.goal {
        Goal::Leave => Next::Wait(None),
        Goal::Run(assignment) => run(record, situation, assignment, need),
        Goal::Stop => stop(record, situation),
        Goal::Remove => remove(record, situation),
        Goal::Forget => match remove(record, situation) {
            Next::Wait(None) => Next::Forget,
            other => other,
        },
    }
}

fn current<'a>(record: &Record, situation: &Situation<'a>) -> Option<&'a SeenContainer> {
    situation.containers.iter().find(|container| container.attempt == record.attempt())
}

fn run(
    record: &mut Record,
    situation: &Situation<'_>,
    assignment: &Arc<Assignment>,
    need: impl FnOnce(&str) -> Need,
) -> Next {
    if record.phase().is_terminal() {
        return rest(record, situation);
    }
    if let Some(stale) = running(situation, |attempt| attempt != record.attempt()) {
        return held_up(record, situation).unwrap_or_else(|| stop_action(record, stale));
    }
    if let Some(ending) = has_ended(record, situation) {
        record.end_attempt(assignment.instance, ending, &assignment.restart, situation.now);
        if record.phase().is_terminal() {
            return rest(record, situation);
        }
    }
    if let Some(wait) = held_up(record, situation) {
        return wait;
    }
    match current(record, situation).map(|container| (container, &container.status)) {
        None => launch(record, situation, assignment, need),
        // An earlier life may have asked for its start, which can take effect at any time, also after
        // this life's start and the end of what that began.
        Some((container, ContainerStatus::Created)) if !record.is_own(&container.id) => {
            record.remake();
            remove_action(container)
        }
        Some((container, ContainerStatus::Created)) => {
            record.set_obstacle("", situation.now);
            record.advance(Cause::Start, situation.now);
            Next::Act(Action::Start { instance: container.instance, container: container.id.clone() })
        }
        // Its stop is not through yet: again.
        Some((container, ContainerStatus::Running { .. })) if record.ending.is_some() => {
            stop_action(record, container)
        }
        Some((container, ContainerStatus::Running { health, .. })) => {
            let Some(cause) = illness(record, situation, health) else { return tidy(record, situation) };
            record.set_obstacle(&cause, situation.now);
            record.advance(Cause::Ill, situation.now);
            record.ending = Some(Ending { exit_code: None, failure: true, cause, finished_at: None });
            stop_action(record, container)
        }
        Some((_, ContainerStatus::Exited { .. })) => tidy(record, situation),
    }
}

/// How the current attempt ended, when it has. An exit code completes a known cause.
fn has_ended(record: &mut Record, situation: &Situation<'_>) -> Option<Ending> {
    let known = record.ending.take();
    match current(record, situation).map(|container| &container.status) {
        Some(ContainerStatus::Running { .. }) => {
            record.ending = known;
            None
        }
        Some(ContainerStatus::Exited { exit_code, oom_killed, finished_at, message }) => Some(Ending {
            exit_code: Some(*exit_code),
            failure: known.is_some() || *exit_code != 0 || *oom_killed,
            cause: known.map_or_else(|| exit_cause(*exit_code, *oom_killed, message), |known| known.cause),
            finished_at: Some(*finished_at),
        }),
        Some(ContainerStatus::Created) => known,
        None if record.has_begun() => Some(known.unwrap_or_else(|| Ending {
            exit_code: None,
            failure: true,
            cause: "the container vanished".to_owned(),
            finished_at: None,
        })),
        None => known,
    }
}

fn launch(
    record: &mut Record,
    situation: &Situation<'_>,
    assignment: &Arc<Assignment>,
    need: impl FnOnce(&str) -> Need,
) -> Next {
    let now = situation.now;
    let is_early = now < record.not_before;
    if is_early || situation.containers.len() > MAX_KEPT {
        match tidy(record, situation) {
            Next::Wait(_) if is_early => return Next::Wait(Some(record.not_before)),
            Next::Wait(_) => {}
            removal => return removal,
        }
    }
    let image = &assignment.container.image;
    let create = || Action::Create { assignment: Arc::clone(assignment), attempt: record.attempt() };
    let (cause, reason, next) = match need(image) {
        // Until the image is known to be here the phase stays, so that Pulling may still follow.
        Need::Try => return Next::Act(create()),
        Need::Nothing => (Cause::Create, String::new(), Next::Act(create())),
        Need::Pull { reason } => (Cause::Pull, reason, Next::Pull),
        Need::Wait { until, reason } => (Cause::Pull, reason, Next::Wait(until)),
    };
    record.advance(cause, now);
    record.set_obstacle(&reason, now);
    next
}

fn stop(record: &mut Record, situation: &Situation<'_>) -> Next {
    if let Some(container) = running(situation, |_| true) {
        record.advance(Cause::Unwanted, situation.now);
        return held_up(record, situation).unwrap_or_else(|| stop_action(record, container));
    }
    if let Some(container) = never_started(situation) {
        record.advance(Cause::Unwanted, situation.now);
        return held_up(record, situation).unwrap_or_else(|| remove_action(container));
    }
    let ending = ended_as_wished(record, situation);
    record.stop(ending, situation.now);
    tidy(record, situation)
}

fn remove(record: &mut Record, situation: &Situation<'_>) -> Next {
    if running(situation, |_| true).is_some() || never_started(situation).is_some() {
        return stop(record, situation);
    }
    let ending = ended_as_wished(record, situation);
    record.stop(ending, situation.now);
    let Some(container) = situation.containers.first() else {
        record.mark_gone(situation.now);
        return Next::Wait(None);
    };
    held_up(record, situation).unwrap_or_else(|| remove_action(container))
}

/// It is over: nothing of it may run on.
fn rest(record: &Record, situation: &Situation<'_>) -> Next {
    match running(situation, |_| true) {
        Some(container) => held_up(record, situation).unwrap_or_else(|| stop_action(record, container)),
        None => tidy(record, situation),
    }
}

/// How an attempt that is not to go on ended.
fn ended_as_wished(record: &mut Record, situation: &Situation<'_>) -> Option<Ending> {
    match current(record, situation).map(|container| &container.status) {
        Some(ContainerStatus::Exited { exit_code, oom_killed, message, finished_at }) => Some(Ending {
            exit_code: Some(*exit_code),
            failure: false,
            cause: exit_cause(*exit_code, *oom_killed, message),
            finished_at: Some(*finished_at),
        }),
        Some(ContainerStatus::Created | ContainerStatus::Running { .. }) | None => record.ending.take(),
    }
}

/// One earlier attempt's container is kept for its logs; older ones go.
fn tidy(record: &Record, situation: &Situation<'_>) -> Next {
    let kept = record.attempt().saturating_sub(1);
    let old = situation
        .containers
        .iter()
        .find(|container| container.attempt < kept && !container.status.is_running());
    match old {
        None => Next::Wait(None),
        Some(old) => held_up(record, situation).unwrap_or_else(|| remove_action(old)),
    }
}

/// The engine did not do the last step: not yet again.
fn held_up(record: &Record, situation: &Situation<'_>) -> Option<Next> {
    (situation.now < record.retry.not_before).then_some(Next::Wait(Some(record.retry.not_before)))
}

fn running<'a>(situation: &Situation<'a>, which: impl Fn(u32) -> bool) -> Option<&'a SeenContainer> {
    situation.containers.iter().find(|container| container.status.is_running() && which(container.attempt))
}

/// A start that was asked for before (in an earlier life of the agent, or one that timed out) may
/// still take effect; only without its container it cannot. There is no output to keep either.
fn never_started<'a>(situation: &Situation<'a>) -> Option<&'a SeenContainer> {
    situation.containers.iter().find(|container| container.status == ContainerStatus::Created)
}

fn stop_action(record: &Record, container: &SeenContainer) -> Next {
    Next::Act(Action::Stop {
        instance: container.instance,
        container: container.id.clone(),
        grace: record.stop_grace,
    })
}

fn remove_action(container: &SeenContainer) -> Next {
    Next::Act(Action::Remove { instance: container.instance, container: container.id.clone() })
}

/// Why a running container has to be stopped.
fn illness(record: &Record, situation: &Situation<'_>, health: &Health) -> Option<String> {
    if let Health::Unhealthy { output } = health {
        return Some(match output.trim() {
            "" => "unhealthy".to_owned(),
            output => format!("unhealthy: {output}"),
        });
    }
    situation.probes.and_then(|probes| record.probing.fatal(probes))
}

/// Tests that are to begin now, and when the next one is due.
pub(crate) fn probe(record: &mut Record, situation: &Situation<'_>) -> (Vec<ProbeRun>, Option<Timestamp>) {
    let (Goal::Run(assignment), Some(container)) = (situation.goal, current(record, situation)) else {
        return (Vec::new(), None);
    };
    let is_alive = matches!(record.phase(), Phase::Running | Phase::Ready) && record.ending.is_none();
    if !is_alive || !container.status.is_running() {
        return (Vec::new(), None);
    }
    let probes = &assignment.container.probes;
    let (kinds, next) = record.probing.due(probes, situation.now);
    let run = |kind| ProbeRun {
        instance: container.instance,
        container: container.id.clone(),
        kind,
        assignment: Arc::clone(assignment),
        target: probes.get(kind).and_then(|probe| probe::target(&probe.test, container, assignment)),
    };
    (kinds.into_iter().map(run).collect(), next)
}

fn exit_cause(exit_code: i64, oom_killed: bool, message: &str) -> String {
    let what = match (oom_killed, exit_code) {
        (true, _) => format!("out of memory (exit code {exit_code})"),
        (false, 137) => "killed (exit code 137)".to_owned(),
        (false, _) => format!("exit code {exit_code}"),
    };
    match message.trim() {
        "" => what,
        message => format!("{what}: {message}"),
    }
}
