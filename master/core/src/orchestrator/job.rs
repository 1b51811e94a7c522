//! Services that run to completion: which slots are to be begun, and when the job is over.
//!
//! A slot is done when its instance ended with exit code 0. Failures are restarts in place and
//! instances that were given up, over all slots; they are counted in the instances themselves
//! (`failures`, `attempt`), so a new leader counts on.
//!
//! Invariant: never more than `parallelism` live instances; a job that is over starts nothing.
//! Deliberately not here: restarts in place (the agent's), what a verdict does (`apply`).

use std::collections::BTreeSet;

use skein_common::{
    Timestamp,
    instance::{Desired, Slot},
    node::{Availability, Liveness},
    service::{JobPhase, JobRun, Mode},
};

use super::{
    draft::Draft,
    history::{self, Retry},
    slots::{Hold, Slots},
};
use crate::command::{JobStep, JobVerdict};

pub(super) fn advance<'a>(draft: &mut Draft<'a>, slots: &mut Slots<'a>) {
    let service = slots.service;
    let Some(run) = &service.job else { return };
    match run.phase {
        JobPhase::Running => go_on(draft, slots, run),
        JobPhase::Completed | JobPhase::Failed => wind_up(draft, slots, run),
    }
}

fn go_on<'a>(draft: &mut Draft<'a>, slots: &mut Slots<'a>, run: &JobRun) {
    let wanted = wanted(draft, slots);
    retire(draft, slots, &wanted);
    if let Some((verdict, reason)) = verdict(draft, slots, run, &wanted) {
        draft.judge_job(JobStep { service: slots.service.id, generation: run.generation, verdict, reason });
        return;
    }
    retry_failed(draft, slots);
    let alive = slots.held().filter(|(_, hold)| matches!(hold, Hold::Live(_) | Hold::Created)).count();
    let room = match slots.service.spec.mode {
        Mode::Job { parallelism: 0, .. } | Mode::GlobalJob | Mode::Replicated { .. } | Mode::Global => {
            usize::MAX
        }
        Mode::Job { parallelism, .. } => usize::try_from(parallelism).unwrap_or(usize::MAX),
    };
    let free = wanted.into_iter().filter(|slot| !slots.is_held(*slot) && !is_done(slots, run, *slot));
    let free: Vec<_> = free.collect();
    for slot in free.into_iter().take(room.saturating_sub(alive)) {
        slots.create(draft, slot, Retry::default());
    }
}

/// Slots of an earlier run, and those that are no longer asked for.
fn retire<'a>(draft: &mut Draft<'a>, slots: &mut Slots<'a>, wanted: &BTreeSet<Slot>) {
    let held: Vec<_> = slots.held().collect();
    for (slot, hold) in held {
        let earlier = hold.instance().is_some_and(|instance| instance.generation != slots.service.generation);
        if earlier {
            slots.retire(draft, slot, "the job runs anew");
        } else if !wanted.contains(&slot) && !matches!(hold, Hold::Completed(_)) {
            slots.remove(draft, slot, "its node takes no part any more");
        }
    }
}

fn retry_failed<'a>(draft: &mut Draft<'a>, slots: &mut Slots<'a>) {
    let held: Vec<_> = slots.held().collect();
    for (slot, hold) in held {
        let Hold::Failed(instance) = hold else { continue };
        let retry = history::retry(&instance, draft.now);
        // Every failure of the run counts, however long the instance lived.
        let failures = instance.failures.saturating_add(1);
        draft.wish(&instance, Desired::Stop, "");
        slots.create(draft, slot, Retry { failures, ..retry });
    }
}

fn wanted(draft: &Draft<'_>, slots: &Slots<'_>) -> BTreeSet<Slot> {
    let spec = &slots.service.spec;
    match spec.mode {
        Mode::Job { completions, .. } => (1..=completions).map(Slot::Number).collect(),
        Mode::GlobalJob => draft
            .state
            .nodes()
            .filter(|node| node.liveness != Liveness::Down && node.availability == Availability::Active)
            .filter(|node| node.satisfies(&spec.placement.constraints))
            .map(|node| Slot::Node(node.id))
            .collect(),
        Mode::Replicated { .. } | Mode::Global => BTreeSet::new(),
    }
}

fn verdict(
    draft: &mut Draft<'_>,
    slots: &Slots<'_>,
    run: &JobRun,
    wanted: &BTreeSet<Slot>,
) -> Option<(JobVerdict, String)> {
    let policy = slots.service.spec.job;
    let failures = failures(slots).saturating_add(run.past_failures);
    if failures > u64::from(policy.backoff_limit) {
        let last = slots.last_words().map(|words| format!(", last: {words}")).unwrap_or_default();
        let reason = format!("{failures} failures, more than the limit of {}{last}", policy.backoff_limit);
        return Some((JobVerdict::Fail, reason));
    }
    let done = |slot: &Slot| is_done(slots, run, *slot);
    if !wanted.is_empty() && wanted.iter().all(done) {
        return Some((JobVerdict::Complete, String::new()));
    }
    // Its time begins when what it waits for is there.
    if slots.service.waits {
        return None;
    }
    let due: Timestamp = run.started_at + policy.active_deadline?;
    if due > draft.now {
        draft.wake(due);
        return None;
    }
    let left = wanted.iter().filter(|slot| !done(slot)).count();
    let limit = policy.active_deadline.unwrap_or_default().as_secs();
    Some((JobVerdict::Fail, format!("not completed within {limit} s: {left} of {} left", wanted.len())))
}

/// Ended with exit code 0; perhaps its record went with its node.
fn is_done(slots: &Slots<'_>, run: &JobRun, slot: Slot) -> bool {
    slots.is_completed(slot) || matches!(slot, Slot::Number(number) if run.done.contains(&number))
}

/// Of the present run: restarts in place, and instances that were given up.
fn failures(slots: &Slots<'_>) -> u64 {
    let of_slot = |hold: Hold<'_>| match hold {
        Hold::Live(instance) | Hold::Completed(instance) | Hold::Failed(instance) => {
            let over = u64::from(matches!(hold, Hold::Failed(_)));
            let restarts = instance.observed.progress.attempt.saturating_sub(1);
            u64::from(instance.failures) + u64::from(restarts) + over
        }
        Hold::Free | Hold::Created => 0,
    };
    slots.held().map(|(_, hold)| of_slot(hold)).sum()
}

/// Ends what lives on, keeps what there is to read, and forgets the service in the end.
fn wind_up<'a>(draft: &mut Draft<'a>, slots: &mut Slots<'a>, run: &JobRun) {
    let held: Vec<_> = slots.held().collect();
    for (_, hold) in held {
        if let Hold::Live(instance) = hold {
            draft.wish(&instance, Desired::Stop, "the job is over");
        }
    }
    let ttl = slots.service.spec.job.ttl_after_finished;
    let (Some(ttl), Some(finished)) = (ttl, run.finished_at) else { return };
    let due = finished + ttl;
    if due > draft.now {
        draft.wake(due);
    } else {
        draft.expire(slots.service.id);
    }
}

#[cfg(test)]
mod tests;
