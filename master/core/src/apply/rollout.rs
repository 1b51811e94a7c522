//! Rollouts: their beginning, a user's word on them, the planner's conclusions.
//!
//! Invariant: a rollout belongs to its service's generation; going back is a new generation with
//! an earlier spec (and the replicas of now), so generations only grow.

use std::sync::Arc;

use skein_common::{
    Revision, ServiceId,
    event::Severity,
    rollout::{Rollout, RolloutControl, RolloutPhase},
    service::{Generation, JobRun, KEPT_GENERATIONS, ServiceSpec},
};

use super::{
    Answer, Step, precondition, schedule,
    service::{changeable, check_no_run, check_published},
};
use crate::{
    command::{Outcome, Rejection, RolloutStep, RolloutVerdict},
    state::Service,
};

/// `service` with the next generation, whose spec this is.
pub(super) fn begin(
    step: &Step<'_>,
    service: &Service,
    spec: Arc<ServiceSpec>,
    is_rollback: bool,
) -> Service {
    let (at, generation) = (step.state.time, Generation(service.generation.0 + 1));
    // What never became complete is nothing to go back to by itself.
    let unfinished = service.rollout.as_ref().filter(|rollout| rollout.is_under_way());
    let from = unfinished.map_or(service.generation, |rollout| rollout.from);
    let mut kept = service.kept.clone();
    kept.push(service.generation);
    let excess = kept.len().saturating_sub(KEPT_GENERATIONS);
    // The way back stays open however many attempts there were.
    let stale: Vec<_> = kept.iter().copied().filter(|old| *old != from).take(excess).collect();
    kept.retain(|old| !stale.contains(old));
    // A job has no instances to keep Ready: it just runs anew.
    let is_job = spec.mode.is_job();
    let job = (is_job && spec.schedule.is_none()).then(|| JobRun::begin(generation, at));
    // Going back must not wait for anything.
    let waits = !spec.depends_on.is_empty() && spec.schedule.is_none() && !is_rollback;
    let rollout = Rollout::begin(generation, from, is_rollback, at, step.state.revision);
    Service {
        spec,
        generation,
        kept,
        rollout: (!is_job).then_some(rollout),
        job,
        waits,
        updated_at: at,
        ..service.clone()
    }
}

pub(super) fn control(
    step: &mut Step<'_>,
    id: ServiceId,
    expected: Option<Revision>,
    control: RolloutControl,
) -> Answer {
    let service = changeable(step.state, id, expected)?;
    check_no_run(step.state, &service)?;
    let name = &service.spec.name;
    if let RolloutControl::Undo { to } = control {
        let to = to
            .or_else(|| before(&service))
            .ok_or_else(|| precondition(format!("service {name} has no earlier generation to go back to")))?;
        return go_back(step, &service, to, "a user asked for it");
    }
    let Some(rollout) = service.rollout.clone().filter(Rollout::is_under_way) else {
        return Err(precondition(format!("service {name} has no rollout under way")));
    };
    let (at, since) = (step.state.time, step.state.revision);
    let (rollout, reason, what) = match control {
        RolloutControl::Pause => {
            let reason = "a user asked for it".to_owned();
            (Rollout { phase: RolloutPhase::Paused, reason, ..rollout }, "RolloutPaused", "paused")
        }
        RolloutControl::Resume => {
            let running = Rollout { phase: RolloutPhase::Running, reason: String::new(), since, ..rollout };
            (running, "RolloutResumed", "resumed")
        }
        RolloutControl::Promote => {
            let phase = RolloutPhase::Running;
            let promoted = Rollout { phase, promoted: true, reason: String::new(), since, ..rollout };
            (promoted, "RolloutPromoted", "promoted")
        }
        RolloutControl::Undo { .. } => return Ok(Outcome::Service(id)),
    };
    let message = format!("rollout of {name} to generation {} {what}", rollout.generation);
    let rollout = Some(Rollout { changed_at: at, ..rollout });
    let service = Service { rollout, updated_at: at, ..service };
    step.put_service(service.clone());
    step.service_event(Severity::Info, reason, &service, message);
    Ok(Outcome::Service(id))
}

/// The generation a user means who just says "back".
fn before(service: &Service) -> Option<Generation> {
    let unfinished = service.rollout.as_ref().filter(|rollout| rollout.is_under_way());
    unfinished.map(|rollout| rollout.from).or_else(|| service.kept.last().copied())
}

fn go_back(step: &mut Step<'_>, service: &Service, to: Generation, reason: &str) -> Answer {
    let name = &service.spec.name;
    let kept = step.state.spec(service.id, to).filter(|_| service.kept.contains(&to));
    let Some(kept) = kept.cloned() else {
        let known: Vec<_> = service.kept.iter().map(ToString::to_string).collect();
        return Err(precondition(format!(
            "generation {to} of service {name} is not kept; kept are: {}",
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        )));
    };
    // How many there are is not part of what went wrong.
    let spec = Arc::new(ServiceSpec { mode: service.spec.mode, ..ServiceSpec::clone(&kept) });
    check_published(step.state, service.id, &spec)?;
    let back = schedule::follow(service, begin(step, service, spec, true), step.state.time);
    let message =
        format!("service {name} goes back from generation {} to {to}: {reason}", service.generation);
    step.put_service(back.clone());
    step.service_event(Severity::Warning, "RolloutRolledBack", &back, message);
    Ok(Outcome::Service(service.id))
}

/// What the planner concluded; skipped when it is about an earlier generation.
pub(super) fn conclude(step: &mut Step<'_>, conclusion: &RolloutStep) {
    let Some(service) = step.state.service(conclusion.service).cloned() else { return };
    let Some(rollout) = service.rollout.clone() else { return };
    let stale = service.generation != conclusion.generation || service.deleting || !rollout.is_under_way();
    if stale {
        return;
    }
    let refused = match conclusion.verdict {
        RolloutVerdict::RollBack => match go_back(step, &service, rollout.from, &conclusion.reason) {
            Ok(_) => return,
            Err(refusal) => Some(refusal),
        },
        _ => None,
    };
    let (severity, event, rollout) = decide(conclusion, rollout, refused.as_ref());
    let what = match (&rollout.phase, rollout.promoted) {
        (RolloutPhase::Running, true) => "is promoted".to_owned(),
        (RolloutPhase::Running, false) => "goes on".to_owned(),
        (phase, _) => format!("is {phase}"),
    };
    let because = if rollout.reason.is_empty() { String::new() } else { format!(": {}", rollout.reason) };
    let message =
        format!("rollout of {} to generation {} {what}{because}", service.spec.name, rollout.generation);
    let rollout = Some(Rollout { changed_at: step.state.time, ..rollout });
    let service = Service { rollout, ..Service::clone(&service) };
    step.put_service(service.clone());
    step.service_event(severity, event, &service, message);
}

fn decide(
    conclusion: &RolloutStep,
    rollout: Rollout,
    refused: Option<&Rejection>,
) -> (Severity, &'static str, Rollout) {
    let reason = conclusion.reason.clone();
    let (severity, event, phase) = match conclusion.verdict {
        RolloutVerdict::CanariesReady => {
            (Severity::Info, "RolloutAwaitsPromotion", RolloutPhase::AwaitingPromotion)
        }
        RolloutVerdict::Promote => {
            let promoted = Rollout { phase: RolloutPhase::Running, promoted: true, ..rollout };
            return (Severity::Info, "RolloutPromoted", promoted);
        }
        RolloutVerdict::Complete => (Severity::Info, "RolloutCompleted", RolloutPhase::Completed),
        RolloutVerdict::Pause => (Severity::Warning, "RolloutPaused", RolloutPhase::Paused),
        RolloutVerdict::Continue => (Severity::Warning, "RolloutFailing", RolloutPhase::Running),
        RolloutVerdict::RollBack => {
            let reason =
                refused.map_or(reason.clone(), |refusal| format!("{reason}; cannot go back: {refusal}"));
            let paused = Rollout { phase: RolloutPhase::Paused, reason, ..rollout };
            return (Severity::Warning, "RolloutPaused", paused);
        }
    };
    (severity, event, Rollout { phase, reason, ..rollout })
}
