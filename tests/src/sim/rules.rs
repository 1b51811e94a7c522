//! Rules between one commit and the next that the core does not state itself, written down independently of it.
//!
//! Invariant: nothing here asks the code that it checks.
//! Deliberately not here: rules of single states (`skein_master_core::invariant`), of jobs (`jobs`), of agents (`check`).

use skein_common::{
    instance::{Desired, Instance, Phase},
    service::{Dependency, DependencyCondition, JobPhase, Mode},
};
use skein_master_core::{ClusterState, command::Plan, state::Service};

/// What this commit broke.
pub fn broken(before: &ClusterState, after: &ClusterState) -> Option<String> {
    after.instances().find_map(|new| {
        let old = before.instance(new.id);
        forgotten_restarts(old.map(AsRef::as_ref), new)
            .or_else(|| of_another_generation(before, after, old.is_none().then_some(new)))
            .or_else(|| placed_while_waiting(after, old.is_none_or(|old| old.node.is_none()), new))
    })
}

/// Who is let go although something is missing, as its planner sees the state.
pub fn released_too_early(state: &ClusterState, plan: &Plan) -> Option<String> {
    plan.released.iter().find_map(|release| {
        let service = state.service(release.service)?;
        let missing = missing(state, service)?;
        Some(format!("{} is released although {missing} is missing", service.spec.name))
    })
}

/// Whoever leads: what a restart policy counts only grows.
fn forgotten_restarts(old: Option<&Instance>, new: &Instance) -> Option<String> {
    let (was, is) = (old?.observed.restarts.total, new.observed.restarts.total);
    (is < was).then(|| format!("{} was restarted {was} times, and now {is} times", new.id))
}

/// Two rollouts never interleave: what begins runs what is wanted now.
fn of_another_generation(
    before: &ClusterState,
    after: &ClusterState,
    new: Option<&Instance>,
) -> Option<String> {
    let (new, is) = (new?, after.service(new?.service)?);
    // A rollout may have gone back by the same plan.
    let was = before.service(is.id).map_or(is.generation, |was| was.generation);
    (was != new.generation && is.generation != new.generation)
        .then(|| format!("{} begins with {:?} of {:?}", new.id, new.generation, is.generation))
}

fn placed_while_waiting(state: &ClusterState, was_unplaced: bool, new: &Instance) -> Option<String> {
    let service = state.service(new.service).filter(|service| service.waits)?;
    let begins = was_unplaced && new.node.is_some() && new.generation == service.generation;
    begins.then(|| format!("{} is placed although {} waits", new.id, service.spec.name))
}

/// The first service that this one waits for and that is not so far.
pub fn missing(state: &ClusterState, service: &Service) -> Option<String> {
    let unmet = service.spec.depends_on.iter().find(|dependency| !is_met(state, dependency));
    unmet.map(|dependency| dependency.service.clone())
}

fn is_met(state: &ClusterState, dependency: &Dependency) -> bool {
    let named = state.services().find(|service| service.spec.name == dependency.service);
    let Some(service) = named.filter(|service| !service.deleting) else { return false };
    let wanted: Vec<_> = state
        .instances()
        .filter(|i| i.service == service.id && i.desired == Desired::Run && !i.lost && state.is_current(i))
        .collect();
    let ended_well =
        |i: &Instance| i.observed.progress.phase == Phase::Stopped && i.observed.exit_code.unwrap_or(0) == 0;
    let is_complete = service.job.as_ref().map(|run| run.phase == JobPhase::Completed);
    match (dependency.condition, is_complete) {
        (DependencyCondition::CompletedSuccessfully, complete) => complete == Some(true),
        (DependencyCondition::Healthy, Some(complete)) => complete,
        (DependencyCondition::Healthy, None) => {
            let ready = wanted.iter().filter(|i| i.is_ready() || ended_well(i)).count();
            match service.spec.mode {
                Mode::Replicated { replicas } => ready >= replicas as usize,
                Mode::Global | Mode::GlobalJob | Mode::Job { .. } => ready >= wanted.len().max(1),
            }
        }
        (DependencyCondition::Started, complete) => {
            let begun = |i: &Instance| i.observed.progress.phase.is_running() || ended_well(i);
            complete == Some(true)
                || service.spec.mode == (Mode::Replicated { replicas: 0 })
                || wanted.iter().any(|i| begun(i))
        }
    }
}
