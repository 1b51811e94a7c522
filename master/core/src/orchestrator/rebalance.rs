//! Moving what runs to where it does better, while there is a run of it (`Settings::rebalance`).
//!
//! A move replaces an instance: start-first where its service allows, else stop-first. Which moves
//! are under way is seen by the instances (`Instance::moves_to`), so a new leader neither forgets
//! one nor makes it twice. Paced like a rollout: `parallelism` instances of a service at a time,
//! never more than `max_unavailable` missing, `max_moves` in the whole cluster; a service whose
//! rollout is under way, or which has instances that are not Ready, is left alone.
//!
//! Invariant: each move gains more than the threshold and takes nothing of what an earlier one
//! gained (`scheduler/shift`), so a run ends, and another one right after it finds nothing to do.
//! Deliberately not here: which move is worth it (`scheduler/shift`).

use std::time::Duration;

use skein_common::{
    ServiceId, Timestamp,
    cluster::{RebalanceConfig, RebalanceRun},
    instance::{Desired, Instance, Phase},
    node::{Availability, Liveness},
    rollout::RolloutPhase,
    service::{Publish, ServiceSpec, UpdateOrder},
};

use super::{Scope, draft::Draft, history};
use crate::{
    command::RebalanceStep,
    scheduler::{Pace, Party, Scheduler, Seat, Shift},
    state::{ClusterState, Service},
};

/// A run waits so long for services that are not settled.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the instances show.
struct Survey<'a> {
    parties: Vec<Party<'a>>,
    /// Moves under way.
    moving: usize,
    /// A service may be moved soon.
    unsettled: bool,
}

pub(super) fn advance(draft: &mut Draft<'_>, scope: &Scope) {
    let settings = draft.state.settings();
    let config = &settings.config.scheduling.rebalance;
    match &settings.rebalance {
        // What else there is to do comes first, and changes what is to be gained.
        Some(_) if draft.is_busy() => {}
        Some(run) => go_on(draft, run, config),
        None if config.enabled() && *scope == Scope::All => {
            let due = settings.rebalanced_at + config.interval();
            if due > draft.now {
                draft.wake(due);
            } else {
                let cause = format!("every {} s", config.interval().as_secs());
                draft.conclude_rebalance(RebalanceStep::Begin { cause });
            }
        }
        None => {}
    }
}

fn go_on(draft: &mut Draft<'_>, run: &RebalanceRun, config: &RebalanceConfig) {
    let survey = survey(draft.state, draft.now, run.service);
    let shifts = shifts(draft.state, run, config, &survey);
    let patient_until = run.started_at + PATIENCE;
    if shifts.is_empty() && survey.moving == 0 {
        if survey.unsettled && patient_until > draft.now {
            draft.wake(patient_until);
        } else {
            draft.conclude_rebalance(RebalanceStep::End { began: Some(run.started_at) });
        }
    }
    shifts.iter().for_each(|shift| begin(draft, shift));
}

/// What the next pass begins, when it has nothing else to do.
pub(super) fn next(state: &ClusterState, now: Timestamp) -> Vec<Shift> {
    let settings = state.settings();
    let Some(run) = &settings.rebalance else { return Vec::new() };
    let survey = survey(state, now, run.service);
    shifts(state, run, &settings.config.scheduling.rebalance, &survey)
}

fn shifts(
    state: &ClusterState,
    run: &RebalanceRun,
    config: &RebalanceConfig,
    survey: &Survey<'_>,
) -> Vec<Shift> {
    let most = usize::try_from(config.max_moves()).unwrap_or(usize::MAX);
    let pace = Pace {
        goal: run.goal,
        min_gain_percent: config.min_gain_percent(),
        most: most.saturating_sub(survey.moving),
    };
    Scheduler::new(state).shift(&survey.parties, pace)
}

fn begin(draft: &mut Draft<'_>, shift: &Shift) {
    let state = draft.state;
    let Some(instance) = state.instance(shift.instance) else { return };
    let Some(service) = state.service(instance.service) else { return };
    let explanation = format!("moves to node {}: {}", state.node_name(shift.to), shift.reason);
    let retry = history::Retry { explanation, moves_to: Some(shift.to), ..history::Retry::default() };
    if starts_first(&service.spec) {
        draft.create(service, instance.slot, retry, Some(instance.id));
    } else {
        let reason = retry.explanation.clone();
        draft.wish(instance, Desired::Stop, &reason);
        draft.create(service, instance.slot, retry, None);
    }
}

/// A port in host mode belongs to one instance at a time. One replica that is updated stop-first
/// may have to be alone; of several, one more does no harm.
fn starts_first(spec: &ServiceSpec) -> bool {
    let exclusive = spec.ports.iter().any(|port| matches!(port.publish, Publish::Host { .. }));
    let single = spec.replicas() == Some(1) && spec.update.order == UpdateOrder::StopFirst;
    !exclusive && !single
}

fn survey(state: &ClusterState, now: Timestamp, only: Option<ServiceId>) -> Survey<'_> {
    let mut survey = Survey { parties: Vec::new(), moving: 0, unsettled: false };
    for service in state.services() {
        let mut party =
            Party { service: service.id, spec: service.spec.as_ref(), seats: Vec::new(), budget: 0 };
        let (mut ready, mut moving) = (0, 0);
        let live: Vec<&Instance> = live(state, service);
        for slot in live.chunk_by(|one, next| one.slot == next.slot) {
            let underway = slot.iter().any(|instance| is_moving(instance)) || slot.len() > 1;
            moving += usize::from(slot.iter().any(|instance| is_moving(instance)));
            ready += usize::from(slot.iter().any(|instance| instance.is_ready()));
            // Where it will be when all that is under way is done.
            let Some(last) = slot.iter().max_by_key(|i| (i.created_revision, i.id)) else { continue };
            let Some(node) = last.node.or(last.moves_to) else { continue };
            let movable = !underway && last.is_ready() && may_leave(state, now, last);
            party.seats.push(Seat { instance: last.id, node, movable });
        }
        survey.moving += moving;
        if only.is_none_or(|only| only == service.id) {
            party.budget = budget(service, ready, moving);
            survey.unsettled |= is_unsettled(service, ready);
        }
        survey.parties.push(party);
    }
    survey
}

/// In the order of slots.
fn live<'a>(state: &'a ClusterState, service: &Service) -> Vec<&'a Instance> {
    state.instances_of(service.id).filter(|instance| instance.is_live()).map(AsRef::as_ref).collect()
}

/// A rebalancing has begun it, and its first attempt is not Ready yet.
fn is_moving(instance: &Instance) -> bool {
    let progress = instance.observed.progress;
    instance.moves_to.is_some() && progress.attempt == 1 && progress.phase < Phase::Ready
}

/// A wish to stop reaches it, its node is not to be left as it is, and its slot has not failed to
/// move lately.
fn may_leave(state: &ClusterState, now: Timestamp, instance: &Instance) -> bool {
    let node = instance.node.and_then(|node| state.node(node));
    let reachable =
        node.is_some_and(|n| n.liveness == Liveness::Ready && n.availability == Availability::Active);
    let mut earlier = state.instances_in(instance.service, instance.slot).filter(|other| !other.is_live());
    let failed = earlier.any(|other| {
        other.moves_to.is_some()
            && (other.has_failed() || other.beside == Some(instance.id))
            && now.since(other.observed.at.max(other.created_at)) < history::BACKOFF_TRUST
    });
    reachable && !failed && state.is_current(instance)
}

/// How many more instances of the service may be moved now.
fn budget(service: &Service, ready: usize, moving: usize) -> usize {
    let spec = &service.spec;
    let Some(replicas) = spec.replicas() else { return 0 };
    let rolls = service.rollout.as_ref().is_some_and(|rollout| rollout.is_under_way());
    if service.deleting || rolls || spec.has_local_volumes() {
        return 0;
    }
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let missing = count(replicas).saturating_sub(ready);
    let parallelism = if spec.update.parallelism == 0 { replicas } else { spec.update.parallelism };
    let free = count(parallelism).saturating_sub(moving);
    if starts_first(spec) {
        return if missing == 0 { free } else { 0 };
    }
    // Those that move stop-first are missing meanwhile; nobody else may be.
    let others = missing.saturating_sub(moving);
    let most = count(spec.max_unavailable(replicas)).saturating_sub(missing);
    if others == 0 { free.min(most) } else { 0 }
}

/// It may be moved later on, so a run waits for it.
fn is_unsettled(service: &Service, ready: usize) -> bool {
    let Some(replicas) = service.spec.replicas() else { return false };
    let rolls = service.rollout.as_ref().is_some_and(|rollout| rollout.phase == RolloutPhase::Running);
    !service.deleting && (rolls || ready < usize::try_from(replicas).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests;
