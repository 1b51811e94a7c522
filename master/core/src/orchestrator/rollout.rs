//! Replacing what runs by what should: an older generation, a node that is being drained or no
//! longer satisfies the constraints.
//!
//! What is pending goes at once: nothing is lost with it. So does what is not Ready on a node it
//! must leave. Everything else is replaced `parallelism` at a time, and only while no more than
//! `max_unavailable` are missing: first what is not Ready anyway, then what must leave its node,
//! then the lowest slot. Stop-first ends the old instance and creates the new one, which waits;
//! start-first creates the new one beside the old one, which ends when the new one is Ready.
//!
//! Invariant: never fewer than desired − max_unavailable are Ready because of this. The progress
//! of a rollout is the instances themselves, so a new leader goes on with it; only verdicts
//! (`verdict`) are stored.
//! Deliberately not here: whether the rollout goes well (`verdict`), what a verdict does (`apply`).

use skein_common::{
    instance::Slot,
    node::{Availability, Liveness},
    rollout::RolloutPhase,
    service::{Publish, ServiceSpec, UpdateOrder, UpdatePolicy},
};

use super::{
    draft::Draft,
    slots::{Hold, Record, Slots, misplaced},
    verdict,
};
use crate::state::Service;

struct Candidate {
    slot: Slot,
    reason: String,
    ready: bool,
    /// Must leave its node.
    misplaced: bool,
}

/// What the rollout makes of the slots, as the plan leaves them.
#[derive(Default)]
pub(super) struct Survey {
    candidates: Vec<Candidate>,
    /// Slots that something is being done to, or that are not Ready yet.
    pub(super) unsettled: usize,
    /// Slots without a Ready instance.
    unavailable: usize,
    /// Slots whose instance runs the current spec, Ready or not.
    pub(super) updated: usize,
    pub(super) total: usize,
}

/// What is to be done about a slot.
enum Standing {
    /// As it should be, or out of reach without being missed.
    Fine,
    /// Not Ready yet, or being replaced.
    Unsettled,
    Outdated(Candidate),
    /// Nothing is lost by replacing it at once.
    ReplaceNow {
        reason: String,
    },
}

pub(super) fn advance<'a>(draft: &mut Draft<'a>, slots: &mut Slots<'a>) {
    let policy = policy(slots.service);
    finish_successions(draft, slots);
    let mut survey = survey(draft, slots);
    if draft.awaits(slots.service).is_some() {
        // What runs goes on; nothing that could not start takes its place.
        return;
    }
    let decided = verdict::conclude(draft, slots, &policy, &survey);
    let updates = if decided { 0 } else { verdict::updates_allowed(draft, slots, &policy, &survey) };
    survey.candidates.sort_by_key(|candidate| (candidate.ready, !candidate.misplaced, candidate.slot));
    replace(draft, slots, &policy, survey, updates);
}

/// The policy that the service's rollout follows.
fn policy(service: &Service) -> UpdatePolicy {
    let spec = &service.spec;
    match service.rollout.as_ref().filter(|rollout| rollout.is_rollback) {
        Some(_) => spec.rollback.unwrap_or(verdict::rollback_policy(spec.update)),
        None => spec.update,
    }
}

/// `updates`: how many may be brought to the new generation; leaving a node is not counted.
fn replace<'a>(
    draft: &mut Draft<'a>,
    slots: &mut Slots<'a>,
    policy: &UpdatePolicy,
    survey: Survey,
    mut updates: usize,
) {
    let service = slots.service;
    let wanted = u32::try_from(survey.total).unwrap_or(u32::MAX);
    let start_first = starts_first(&service.spec, policy);
    let most = usize::try_from(service.spec.max_unavailable(wanted)).unwrap_or(usize::MAX);
    let parallelism = if policy.parallelism == 0 { wanted } else { policy.parallelism };
    let parallelism = usize::try_from(parallelism).unwrap_or(usize::MAX);
    let mut room = parallelism.saturating_sub(survey.unsettled);
    let mut unavailable = survey.unavailable;
    for candidate in survey.candidates {
        if room == 0 {
            return;
        }
        if !candidate.misplaced {
            let Some(left) = updates.checked_sub(1) else { continue };
            updates = left;
        }
        // Its successor waits for the node: beside it, it would wait for ever.
        let follows_data = candidate.misplaced && service.spec.has_local_volumes();
        if start_first && candidate.ready && !follows_data {
            slots.succeed(draft, candidate.slot, &candidate.reason);
        } else if !candidate.ready || unavailable < most {
            unavailable += usize::from(candidate.ready);
            slots.supersede(draft, candidate.slot, &candidate.reason);
        } else {
            continue;
        }
        room -= 1;
    }
}

/// A port in host mode belongs to one instance of a node at a time.
fn starts_first(spec: &ServiceSpec, policy: &UpdatePolicy) -> bool {
    let exclusive = spec.ports.iter().any(|port| matches!(port.publish, Publish::Host { .. }));
    policy.order == UpdateOrder::StartFirst && !exclusive
}

/// Ends the old instance where the new one is Ready, and the new one where it is not wanted (any more).
fn finish_successions<'a>(draft: &mut Draft<'a>, slots: &mut Slots<'a>) {
    for (slot, holder, successor) in slots.successions() {
        let ready = successor.is_ready();
        let holder_stays = draft.state.is_current(&holder) && must_leave(draft, slots, &holder).is_none();
        if !draft.state.is_current(&successor) || must_leave(draft, slots, &successor).is_some() {
            slots.end_successor(draft, slot, "the service has changed again");
        } else if holder_stays && !ready && !may_still_move(draft, slots, &successor) {
            slots.end_successor(draft, slot, "its predecessor stays");
        } else if !ready && is_overdue(draft, Hold::Live(holder)) {
            slots.hand_over(draft, slot, "the time of the drain is over");
        } else if ready {
            let moved = successor.moves_to.and(successor.node);
            let reason =
                moved.map(|node| format!("moved to node {}: its successor is ready", node.description.name));
            slots.hand_over(draft, slot, reason.as_deref().unwrap_or("its successor is ready"));
        }
    }
}

/// The drain of its node has had its time. Looks again when it will have had it.
fn is_overdue(draft: &mut Draft<'_>, hold: Hold<'_>) -> bool {
    let Hold::Live(instance) = hold else { return false };
    let Some(node) = instance.node.filter(|node| node.availability == Availability::Drained) else {
        return false;
    };
    if let Some(by) = node.drain_by.filter(|by| *by > draft.now) {
        draft.wake(by);
    }
    node.is_overdue(draft.now)
}

/// A rebalancing has begun it, and it has time left to become Ready.
fn may_still_move(draft: &mut Draft<'_>, slots: &Slots<'_>, successor: &Record<'_>) -> bool {
    let deadline = slots.service.spec.update.progress_deadline;
    if successor.moves_to.is_none() || successor.node.is_none() {
        return false;
    }
    let due = successor.created_at + deadline;
    let in_time = deadline.is_zero() || due > draft.now;
    if in_time && !deadline.is_zero() {
        draft.wake(due);
    }
    in_time
}

fn survey<'a>(draft: &mut Draft<'a>, slots: &mut Slots<'a>) -> Survey {
    let mut survey = Survey::default();
    let held: Vec<_> = slots.held().collect();
    for (slot, hold) in held {
        survey.total += 1;
        survey.updated += usize::from(is_updated(draft, slots, slot, hold));
        let available = match hold {
            Hold::Live(instance) => instance.is_ready(),
            Hold::Completed(_) => true,
            Hold::Free | Hold::Failed(_) | Hold::Created => false,
        };
        let overdue = is_overdue(draft, hold);
        let standing = match judge(draft, slots, slot, hold) {
            _ if slots.successor(slot).is_some() => Standing::Unsettled,
            Standing::Outdated(Candidate { reason, misplaced: true, .. }) if overdue => {
                Standing::ReplaceNow { reason }
            }
            standing => standing,
        };
        match standing {
            Standing::Fine => continue,
            Standing::Unsettled => survey.unsettled += 1,
            Standing::Outdated(candidate) => survey.candidates.push(candidate),
            Standing::ReplaceNow { reason } => {
                survey.unsettled += 1;
                slots.supersede(draft, slot, &reason);
            }
        }
        survey.unavailable += usize::from(!available);
    }
    survey
}

fn is_updated(draft: &Draft<'_>, slots: &Slots<'_>, slot: Slot, hold: Hold<'_>) -> bool {
    match hold {
        Hold::Created => true,
        Hold::Live(instance) | Hold::Completed(instance) => {
            slots.successor(slot).is_some() || draft.state.is_current(&instance)
        }
        Hold::Free | Hold::Failed(_) => false,
    }
}

fn judge(draft: &Draft<'_>, slots: &Slots<'_>, slot: Slot, hold: Hold<'_>) -> Standing {
    let service = slots.service;
    let updated = || format!("the service is now at generation {}", service.generation);
    match hold {
        Hold::Free => Standing::Fine,
        Hold::Created | Hold::Failed(_) => Standing::Unsettled,
        Hold::Completed(instance) if draft.state.is_current(&instance) => Standing::Fine,
        Hold::Completed(_) => {
            Standing::Outdated(Candidate { slot, reason: updated(), ready: false, misplaced: false })
        }
        Hold::Live(instance) => {
            let outdated = !draft.state.is_current(&instance);
            if instance.node.is_none() {
                // A paused rollout begins nothing new.
                return if outdated && !is_held_up(service) {
                    Standing::ReplaceNow { reason: updated() }
                } else {
                    Standing::Unsettled
                };
            }
            let leave = must_leave(draft, slots, &instance);
            let reason = leave.clone().or_else(|| outdated.then(updated));
            judge_placed(slots, &instance, slot, leave.is_some(), reason)
        }
    }
}

fn is_held_up(service: &Service) -> bool {
    let phase = service.rollout.as_ref().map(|rollout| rollout.phase);
    matches!(phase, Some(RolloutPhase::Paused | RolloutPhase::AwaitingPromotion))
}

fn judge_placed(
    slots: &Slots<'_>,
    instance: &Record<'_>,
    slot: Slot,
    misplaced: bool,
    reason: Option<String>,
) -> Standing {
    let ready = instance.is_ready();
    match instance.node.map(|node| node.liveness) {
        Some(Liveness::Ready) => {}
        // The one instance of a node that is away; it follows when the node is back.
        Some(Liveness::Down) | None if slots.service.spec.mode.is_per_node() => return Standing::Fine,
        // A wish to stop would not reach it.
        Some(Liveness::Unknown | Liveness::Down) | None => return Standing::Unsettled,
    }
    match reason {
        None if ready => Standing::Fine,
        None => Standing::Unsettled,
        Some(reason) if misplaced && !ready => Standing::ReplaceNow { reason },
        Some(reason) => Standing::Outdated(Candidate { slot, reason, ready, misplaced }),
    }
}

/// Why a replicated instance has to leave its node. (Slots of global services are removed with
/// their node's eligibility.)
fn must_leave(draft: &Draft<'_>, slots: &Slots<'_>, instance: &Record<'_>) -> Option<String> {
    let service = slots.service;
    if service.spec.mode.is_per_node() {
        return None;
    }
    let current = instance.generation == service.generation;
    let spec = if current { Some(&service.spec) } else { draft.state.spec_of(instance) };
    misplaced(instance.node?, spec?)
}

#[cfg(test)]
mod tests;
