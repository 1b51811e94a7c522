//! Jobs: the planner's conclusions about a run, and the end of a service whose time is over.
//!
//! Invariant: a run ends once; what is about an earlier generation is skipped.

use skein_common::{
    InstanceId, ServiceId,
    event::Severity,
    instance::{Desired, Phase, Slot},
    service::{JobPhase, JobRun},
};

use super::Step;
use crate::{
    command::{JobStep, JobVerdict},
    state::Service,
};

pub(super) fn conclude(step: &mut Step<'_>, conclusion: &JobStep) {
    let Some(service) = step.state.service(conclusion.service).cloned() else { return };
    let Some(run) = service.job.clone() else { return };
    if run.generation != conclusion.generation || run.phase != JobPhase::Running || service.deleting {
        return;
    }
    let name = &service.spec.name;
    let (severity, event, phase, message) = match conclusion.verdict {
        JobVerdict::Complete => {
            (Severity::Info, "JobCompleted", JobPhase::Completed, format!("job {name} completed"))
        }
        JobVerdict::Fail => {
            let message = format!("job {name} failed: {}", conclusion.reason);
            (Severity::Warning, "JobFailed", JobPhase::Failed, message)
        }
    };
    let finished_at = Some(step.state.time);
    let job = Some(JobRun { phase, finished_at, reason: conclusion.reason.clone(), ..run });
    let service = Service { job, ..Service::clone(&service) };
    step.put_service(service.clone());
    step.service_event(severity, event, &service, message);
}

/// The record goes with its node: what it says of the present run goes into the run, so that a slot that is
/// done is not run again, and failures still count.
pub(super) fn keep_result(step: &mut Step<'_>, id: InstanceId) {
    let Some(instance) = step.state.instance(id).cloned() else { return };
    let Some(service) = step.state.service(instance.service).cloned() else { return };
    let (Some(run), Slot::Number(slot)) = (&service.job, instance.slot) else { return };
    // Of others a successor took over what they say.
    let counts = instance.desired == Desired::Run && !instance.lost;
    if instance.generation != run.generation || !counts {
        return;
    }
    let observed = &instance.observed;
    let mut run = run.clone();
    let restarts = observed.progress.attempt.saturating_sub(1);
    let failures = u64::from(instance.failures) + u64::from(restarts) + u64::from(instance.has_failed());
    run.past_failures = run.past_failures.saturating_add(failures);
    if observed.progress.phase == Phase::Stopped && observed.exit_code == Some(0) {
        run.done.insert(slot);
    }
    step.put_service(Service { job: Some(run), ..Service::clone(&service) });
}

/// It is over and kept no longer: its time to live has passed, or later runs of its schedule are kept.
pub(super) fn expire(step: &mut Step<'_>, id: ServiceId) {
    let Some(service) = step.state.service(id).cloned() else { return };
    let over = service.job.as_ref().is_some_and(|run| run.phase != JobPhase::Running);
    if !over || service.deleting {
        return;
    }
    let service = Service { deleting: true, ..Service::clone(&service) };
    let message = format!("job {} is deleted: it is over and kept no longer", service.spec.name);
    step.put_service(service.clone());
    step.service_event(Severity::Info, "ServiceDeleting", &service, message);
}
