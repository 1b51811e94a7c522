//! `depends_on`: whether what a service waits for is there.
//!
//! A service waits once a generation, with its first instances; when it was released it is never held
//! back again, so restarts, replacements and scaling go on whatever becomes of the others.
//!
//! Invariant: words and a yes or no, a pure function of the state.
//! Deliberately not here: who holds instances back (`draft`), the release (`apply`).

use skein_common::{
    instance::{Desired, Instance, Phase},
    service::{Dependency, DependencyCondition, JobPhase, Mode},
};

use crate::state::{ClusterState, Service};

/// What the service still waits for; `None` = everything is there.
pub(super) fn missing(state: &ClusterState, service: &Service) -> Option<String> {
    let missing: Vec<_> = service.spec.depends_on.iter().filter_map(|each| unmet(state, each)).collect();
    (!missing.is_empty()).then(|| format!("waits for {}", missing.join(" and ")))
}

fn unmet(state: &ClusterState, dependency: &Dependency) -> Option<String> {
    let name = &dependency.service;
    let Some(service) = state.service_by_name(name).filter(|service| !service.deleting) else {
        return Some(format!("{name}, which does not exist"));
    };
    match dependency.condition {
        DependencyCondition::Started if is_started(state, service) => None,
        DependencyCondition::Started => Some(format!("{name} to start")),
        DependencyCondition::Healthy if is_healthy(state, service) => None,
        DependencyCondition::Healthy => Some(format!("{name} to be healthy")),
        DependencyCondition::CompletedSuccessfully => incomplete(state, service),
    }
}

/// As it should be now: an instance of an earlier generation is on its way out.
fn current<'a>(state: &'a ClusterState, service: &'a Service) -> impl Iterator<Item = &'a Instance> {
    let wanted = state.instances_of(service.id).map(AsRef::as_ref);
    wanted.filter(|i| i.desired == Desired::Run && !i.lost && state.is_current(i))
}

fn is_started(state: &ClusterState, service: &Service) -> bool {
    // Of a schedule its being there is all there is to wait for; nothing is to run of a service at rest.
    let nothing_to_run = service.spec.schedule.is_some() || service.spec.replicas() == Some(0);
    let is_over = service.job.as_ref().is_some_and(|run| run.phase == JobPhase::Completed);
    let begun = |instance: &Instance| {
        let phase = instance.observed.progress.phase;
        phase.is_running() || (phase == Phase::Stopped && instance.observed.exit_code == Some(0))
    };
    nothing_to_run || is_over || current(state, service).any(begun)
}

fn is_healthy(state: &ClusterState, service: &Service) -> bool {
    if service.job.is_some() || service.spec.schedule.is_some() {
        return incomplete(state, service).is_none();
    }
    let is_ready = |instance: &&Instance| {
        let observed = &instance.observed;
        let done = observed.progress.phase == Phase::Stopped && observed.exit_code.unwrap_or(0) == 0;
        instance.is_ready() || done
    };
    let ready = current(state, service).filter(is_ready).count();
    let wanted = match service.spec.mode {
        Mode::Replicated { replicas } => usize::try_from(replicas).unwrap_or(usize::MAX),
        // The planner keeps one for every node that takes part.
        Mode::Global | Mode::GlobalJob | Mode::Job { .. } => current(state, service).count().max(1),
    };
    ready >= wanted
}

fn incomplete(state: &ClusterState, service: &Service) -> Option<String> {
    let name = &service.spec.name;
    let latest = state.runs_of(service.id).filter(|run| !run.deleting).max_by_key(|run| run.scheduled_for);
    let run = latest.map_or(service, |run| run.as_ref()).job.as_ref();
    match run.map(|run| run.phase) {
        Some(JobPhase::Completed) => None,
        Some(JobPhase::Running) => Some(format!("{name} to complete")),
        Some(JobPhase::Failed) => Some(format!("{name} to complete, which has failed")),
        None if service.spec.schedule.is_some() => Some(format!("a run of {name} to complete")),
        None => Some(format!("{name} to complete, which is no job")),
    }
}

#[cfg(test)]
mod tests;
