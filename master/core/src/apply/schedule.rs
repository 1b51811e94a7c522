//! Schedules: due times become runs, users run jobs now, suspend and resume; and the release of services
//! that waited for others.
//!
//! Invariant: the owner's last decided time and the run it makes are written by one command, and a time
//! that was decided on is skipped; so a time is never run twice. A run is a service of its own, with the
//! spec its owner had then.
//! Deliberately not here: when a schedule is due (`orchestrator`), what a run does (it is a job).

use std::sync::Arc;

use skein_common::{
    Revision, ServiceId, Timestamp,
    event::Severity,
    rollout::Rollout,
    service::{Concurrency, Generation, JobPhase, JobRun, Schedule, ScheduleState, ServiceSpec},
};

use super::{
    Answer, Step, precondition, rollout,
    service::{changeable, check_no_run, delete},
};
use crate::{
    command::{ObjectKind, Outcome, Rejection, Release, ScheduleStep},
    orchestrator::MOST_PASSED,
    state::Service,
};

/// `after` with the schedule and the run that its spec asks for, where it was `before`.
pub(super) fn follow(before: &Service, after: Service, at: Timestamp) -> Service {
    match (&before.spec.schedule, &after.spec.schedule) {
        (_, None) if after.schedule.is_none() => after,
        (_, None) => {
            let job = Some(JobRun::begin(after.generation, at));
            Service { schedule: None, job, ..after }
        }
        (old, Some(new)) => {
            let same = old.as_ref().is_some_and(|old| old.keeps_time_of(new));
            let begun = ScheduleState { since: at, last: after.schedule.and_then(|state| state.last) };
            let schedule = if same { after.schedule } else { Some(begun) };
            Service { schedule, job: None, waits: false, ..after }
        }
    }
}

/// One due time.
pub(super) fn conclude(step: &mut Step<'_>, due: &ScheduleStep) {
    let Some(owner) = step.state.service(due.owner).cloned() else { return };
    let (Some(schedule), Some(state)) = (&owner.spec.schedule, owner.schedule) else { return };
    let stale = owner.modified_revision != due.drawn_from || due.due <= state.decided();
    if stale || owner.deleting || step.state.services.contains_key(&due.run) {
        return;
    }
    let decided = ScheduleState { last: Some(due.due), ..state };
    step.put_service(Service { schedule: Some(decided), ..Service::clone(&owner) });
    tell_missed(step, &owner, due);
    if due.late {
        return;
    }
    let active: Vec<_> =
        step.state.active_runs(owner.id).map(|run| (run.id, run.spec.name.clone())).collect();
    match (schedule.concurrency, active.first()) {
        (Concurrency::Forbid, Some((_, name))) => {
            let message = format!("run of {} due at {} skipped: {name} still runs", owner.spec.name, due.due);
            step.service_event(Severity::Warning, "RunSkipped", &owner, message);
            return;
        }
        (Concurrency::Replace, Some(_)) => {
            for (run, name) in &active {
                let message = format!("run {name} of {} gives way to the next", owner.spec.name);
                step.service_event(Severity::Warning, "RunReplaced", &owner, message);
                // It was there a moment ago.
                let _ = delete(step, *run, None);
            }
        }
        (Concurrency::Allow | Concurrency::Forbid | Concurrency::Replace, _) => {}
    }
    let run = begin(step, &owner, due.run, due.due);
    let message = format!("run {} of {} begins, due at {}", run.spec.name, owner.spec.name, due.due);
    step.service_event(Severity::Info, "RunStarted", &owner, message);
}

fn tell_missed(step: &mut Step<'_>, owner: &Service, due: &ScheduleStep) {
    let missed = due.passed.saturating_add(u32::from(due.late));
    if missed > 0 {
        let times = match missed {
            1 => "1 time was".to_owned(),
            MOST_PASSED.. => format!("{MOST_PASSED} times or more were"),
            _ => format!("{missed} times were"),
        };
        let until = if due.late { "up to" } else { "before" };
        let message = format!("{times} missed by {} {until} {}", owner.spec.name, due.due);
        step.service_event(Severity::Warning, "RunMissed", owner, message);
    }
}

/// A run of its own for the owner as it is now.
fn begin(step: &mut Step<'_>, owner: &Service, id: ServiceId, at: Timestamp) -> Service {
    let name = free_name(step, &owner.spec.name, at);
    let spec = Arc::new(ServiceSpec { name, schedule: None, ..ServiceSpec::clone(&owner.spec) });
    let run = Service {
        id,
        waits: !spec.depends_on.is_empty(),
        address: None,
        spec,
        generation: Generation(1),
        deleting: false,
        kept: Vec::new(),
        rollout: None,
        job: Some(JobRun::begin(Generation(1), step.state.time)),
        schedule: None,
        owner: Some(owner.id),
        scheduled_for: Some(at),
        created_at: step.state.time,
        updated_at: step.state.time,
        created_revision: step.state.revision,
        modified_revision: step.state.revision,
    };
    step.put_service(run.clone());
    run
}

/// Called by its time; a letter more when somebody else is called so.
fn free_name(step: &Step<'_>, owner: &str, at: Timestamp) -> String {
    let name = Schedule::run_name(owner, at);
    if step.state.service_by_name(&name).is_none() {
        return name;
    }
    let others = ('b'..='z').map(|letter| format!("{name}{letter}"));
    let free = others.into_iter().find(|other| step.state.service_by_name(other).is_none());
    // Names of runs have at most 16 characters more than their owner's, which leaves room for this one only
    // when it is short; nobody takes 25 names of one second.
    free.unwrap_or_else(|| format!("{name}-{}", step.state.revision.0 % 1_000))
}

/// A user wants it to run, whatever the time and what else runs.
pub(super) fn run_now(
    step: &mut Step<'_>,
    id: ServiceId,
    expected: Option<Revision>,
    run: ServiceId,
) -> Answer {
    let service = changeable(step.state, id, expected)?;
    check_no_run(step.state, &service)?;
    let name = service.spec.name.clone();
    if !service.spec.mode.is_job() {
        let mode = service.spec.mode.name();
        return Err(precondition(format!("service {name} is {mode}: only a job is run")));
    }
    if service.spec.schedule.is_none() {
        return run_anew(step, &service);
    }
    if step.state.services.contains_key(&run) {
        return Err(Rejection::AlreadyExists { kind: ObjectKind::Service, name: run.to_string() });
    }
    let at = step.state.time;
    let run = begin(step, &service, run, at);
    let message = format!("run {} of {name} begins, because a user asked for it", run.spec.name);
    step.service_event(Severity::Info, "RunStarted", &service, message);
    Ok(Outcome::Service(run.id))
}

fn run_anew(step: &mut Step<'_>, service: &Service) -> Answer {
    let name = &service.spec.name;
    if service.job.as_ref().is_some_and(|run| run.phase == JobPhase::Running) {
        return Err(precondition(format!("job {name} still runs: wait for its end, or remove it")));
    }
    let again = rollout::begin(step, service, service.spec.clone(), false);
    let message = format!("job {name} is run anew, because a user asked for it");
    step.put_service(again.clone());
    step.service_event(Severity::Info, "RunStarted", &again, message);
    Ok(Outcome::Service(service.id))
}

/// Suspending twice changes nothing.
pub(super) fn control(
    step: &mut Step<'_>,
    id: ServiceId,
    expected: Option<Revision>,
    suspend: bool,
) -> Answer {
    let service = changeable(step.state, id, expected)?;
    let mut spec = ServiceSpec::clone(&service.spec);
    let Some(schedule) = &mut spec.schedule else {
        return Err(precondition(format!("service {} has no schedule", service.spec.name)));
    };
    if schedule.suspend == suspend {
        return Ok(Outcome::Service(id));
    }
    schedule.suspend = suspend;
    let (reason, what) =
        if suspend { ("ScheduleSuspended", "suspended") } else { ("ScheduleResumed", "resumed") };
    let message = format!("schedule of {} {what}", spec.name);
    let at = step.state.time;
    let changed = Service { spec: Arc::new(spec), updated_at: at, ..service.clone() };
    let changed = follow(&service, changed, at);
    step.put_service(changed.clone());
    step.service_event(Severity::Info, reason, &changed, message);
    Ok(Outcome::Service(id))
}

/// What the service waited for is there. The clocks of its run and of its rollout begin now.
pub(super) fn release(step: &mut Step<'_>, release: Release) {
    let Some(service) = step.state.service(release.service).cloned() else { return };
    if !service.waits || service.generation != release.generation {
        return;
    }
    let at = step.state.time;
    let job = service.job.clone().map(|run| JobRun { started_at: at, ..run });
    let rollout = service.rollout.clone().map(|rollout| Rollout { changed_at: at, ..rollout });
    step.put_service(Service { waits: false, job, rollout, ..Service::clone(&service) });
}
