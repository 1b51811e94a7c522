//! Replacing what runs by what should: an older generation, a node that is being drained or no
//! longer satisfies the constraints. Stop first, one at a time.
//!
//! What is pending goes at once: nothing is lost with it. So does what is not Ready on a node it
//! must leave. Everything else waits until all other instances of the service are Ready, and then
//! one is replaced: first one that is not Ready anyway, then one that must leave its node, then
//! the lowest slot.
//!
//! Invariant: a Ready instance is ended only while every other one is Ready (or completed).
//! The whole state of an update is the instances themselves, so a new leader goes on with it.
//! Deliberately not here: parallelism, order start-first, rollback (the rollout to come).

use skein_common::{
    instance::{Phase, Slot},
    node::Liveness,
    service::Mode,
};

use super::{
    draft::Draft,
    slots::{Hold, Record, Slots, misplaced},
};

struct Candidate {
    slot: Slot,
    reason: String,
    ready: bool,
    /// Must leave its node.
    misplaced: bool,
}

pub(super) fn advance<'a>(draft: &mut Draft<'a>, slots: &mut Slots<'a>) {
    let mut candidates = Vec::new();
    let mut settled = true;
    let held: Vec<_> = slots.held().collect();
    for (slot, hold) in held {
        match judge(draft, slots, slot, hold) {
            Standing::Fine => {}
            Standing::Unsettled => settled = false,
            Standing::Outdated(candidate) => candidates.push(candidate),
            Standing::ReplaceNow { reason } => {
                settled = false;
                slots.supersede(draft, slot, &reason);
            }
        }
    }
    candidates.sort_by_key(|candidate| (candidate.ready, !candidate.misplaced, candidate.slot));
    if let Some(next) = candidates.first().filter(|_| settled) {
        slots.supersede(draft, next.slot, &next.reason);
    }
}

/// What the update makes of a slot.
enum Standing {
    /// As it should be, or out of reach without being missed.
    Fine,
    /// Not Ready yet: nothing else is touched meanwhile.
    Unsettled,
    Outdated(Candidate),
    /// Nothing is lost by replacing it at once.
    ReplaceNow {
        reason: String,
    },
}

fn judge(draft: &Draft<'_>, slots: &Slots<'_>, slot: Slot, hold: Hold<'_>) -> Standing {
    let service = slots.service;
    let updated = || format!("the service is now at generation {}", service.generation);
    match hold {
        Hold::Free => Standing::Fine,
        Hold::Created | Hold::Failed(_) => Standing::Unsettled,
        Hold::Completed(instance) if instance.generation == service.generation => Standing::Fine,
        Hold::Completed(_) => {
            Standing::Outdated(Candidate { slot, reason: updated(), ready: false, misplaced: false })
        }
        Hold::Live(instance) => {
            let outdated = instance.generation != service.generation;
            if instance.node.is_none() {
                return if outdated {
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

fn judge_placed(
    slots: &Slots<'_>,
    instance: &Record<'_>,
    slot: Slot,
    misplaced: bool,
    reason: Option<String>,
) -> Standing {
    let ready = instance.observed.progress.phase == Phase::Ready;
    match instance.node.map(|node| node.liveness) {
        Some(Liveness::Ready) => {}
        // The one instance of a node that is away; it follows when the node is back.
        Some(Liveness::Down) | None if slots.service.spec.mode == Mode::Global => return Standing::Fine,
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
    if service.spec.mode == Mode::Global {
        return None;
    }
    let current = instance.generation == service.generation;
    let spec = if current { Some(&service.spec) } else { draft.state.spec_of(instance) };
    misplaced(instance.node?, spec?)
}
