//! Jobs: the planner's conclusions about a run, and the end of a service whose time is over.
//!
//! Invariant: a run ends once; what is about an earlier generation is skipped.

use skein_common::{
    ServiceId,
    event::Severity,
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

/// The time to live after the end has passed.
pub(super) fn expire(step: &mut Step<'_>, id: ServiceId) {
    let Some(service) = step.state.service(id).cloned() else { return };
    let over = service.job.as_ref().is_some_and(|run| run.phase != JobPhase::Running);
    if !over || service.deleting {
        return;
    }
    let service = Service { deleting: true, ..Service::clone(&service) };
    let message = format!("job {} is deleted: its time to live is over", service.spec.name);
    step.put_service(service.clone());
    step.service_event(Severity::Info, "ServiceDeleting", &service, message);
}
