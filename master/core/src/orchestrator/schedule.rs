//! Jobs with a schedule: which time is due, and which runs are kept.
//!
//! The latest due time that has not been decided on is proposed; earlier ones are passed over. So
//! however long there was no leader, and however far a clock jumped, at most one run is begun.
//!
//! Invariant: a scheduled service has no instances of its own; a time up to the last decided one is
//! never due again.
//! Deliberately not here: what happens to runs under way (`apply` sees them as they are then).

use std::cmp::Reverse;

use skein_common::{
    ServiceId, Timestamp,
    instance::Desired,
    service::{Calendar, JobPhase, Schedule, ScheduleState},
};

use super::draft::Draft;
use crate::state::Service;

/// More times that were passed over are not counted.
pub const MOST_PASSED: u32 = 1_000;

/// What is due, and what is kept no longer.
pub(super) fn advance(draft: &mut Draft<'_>, service: &Service) {
    let schedule = service.spec.schedule.as_ref();
    forget_runs(draft, service, schedule);
    let (Some(schedule), Some(state)) = (schedule, service.schedule) else { return };
    for instance in draft.state.instances_of(service.id) {
        draft.wish(instance, Desired::Remove, "its service has a schedule now");
    }
    if !schedule.suspend {
        tick(draft, service, schedule, state);
    }
}

fn tick(draft: &mut Draft<'_>, service: &Service, schedule: &Schedule, state: ScheduleState) {
    // Refused where it came in, unless another version of us knew it.
    let Ok(calendar) = Calendar::of(schedule) else { return };
    let decided = state.decided();
    let Some(first) = calendar.after(decided) else { return };
    if first > draft.now {
        return draft.wake(first);
    }
    let due = calendar.latest(draft.now).filter(|latest| *latest >= first).unwrap_or(first);
    let late = schedule.tolerance().is_some_and(|tolerance| draft.now.since(due) > tolerance);
    let passed = count(&calendar, first, due);
    draft.due(service, due, passed, late);
    // The next one, should nothing else happen.
    if let Some(next) = calendar.after(draft.now) {
        draft.wake(next);
    }
}

/// Due times from `first` on that are before `due`.
fn count(calendar: &Calendar, first: Timestamp, due: Timestamp) -> u32 {
    let mut passed = 0;
    let mut at = Some(first);
    while let Some(time) = at.filter(|time| *time < due && passed < MOST_PASSED) {
        passed += 1;
        at = calendar.after(time);
    }
    passed
}

/// Runs that are over, beyond those that are kept.
fn forget_runs(draft: &mut Draft<'_>, service: &Service, schedule: Option<&Schedule>) {
    let (completed, failed) = schedule.map_or((0, 0), |s| (s.keep_completed, s.keep_failed));
    for (phase, keep) in [(JobPhase::Completed, completed), (JobPhase::Failed, failed)] {
        let runs = draft.state.runs_of(service.id).filter(|run| !run.deleting);
        let over = runs.filter(|run| run.job.as_ref().is_some_and(|job| job.phase == phase));
        let mut over: Vec<(Option<Timestamp>, ServiceId)> =
            over.map(|run| (run.scheduled_for, run.id)).collect();
        over.sort_by_key(|run| Reverse(*run));
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        over.into_iter().skip(keep).for_each(|(_, run)| draft.expire(run));
    }
}

#[cfg(test)]
mod tests;
