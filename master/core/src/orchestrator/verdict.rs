//! Whether a rollout goes well: canaries, failures, the deadline for progress, completion.
//!
//! A failure is an instance of the new generation that failed, could not start or had to be
//! restarted since the rollout began (or was last resumed). Slots are counted, not instances.
//!
//! Invariant: a verdict is a pure function of state and time, given at most once: `apply` stores it.

use std::time::Duration;

use skein_common::{
    Timestamp,
    instance::{Instance, Phase},
    rollout::{Rollout, RolloutPhase},
    service::{FailureAction, UpdatePolicy},
};

use super::{draft::Draft, rollout::Survey, slots::Slots};
use crate::command::{RolloutStep, RolloutVerdict};

/// Of a service that says nothing about going back: like its updates, without a second way back.
pub(super) fn rollback_policy(update: UpdatePolicy) -> UpdatePolicy {
    let failure_action = match update.failure_action {
        FailureAction::Rollback => FailureAction::Pause,
        action => action,
    };
    UpdatePolicy { failure_action, canary: 0, ..update }
}

/// How many more instances may be brought to the new generation by this plan.
pub(super) fn updates_allowed(
    draft: &mut Draft<'_>,
    slots: &Slots<'_>,
    policy: &UpdatePolicy,
    survey: &Survey,
) -> usize {
    let Some(rollout) = &slots.service.rollout else { return usize::MAX };
    if matches!(rollout.phase, RolloutPhase::Paused | RolloutPhase::AwaitingPromotion) {
        return 0;
    }
    if let Some(next) = newest_ready(draft, slots).map(|ready| ready + policy.delay)
        && next > draft.now
    {
        draft.wake(next);
        return 0;
    }
    if has_canaries(rollout, policy) {
        let canaries = usize::try_from(policy.canary).unwrap_or(usize::MAX);
        return canaries.saturating_sub(survey.updated);
    }
    usize::MAX
}

/// Answers whether there is a verdict: it is in force from the next pass on.
pub(super) fn conclude(
    draft: &mut Draft<'_>,
    slots: &Slots<'_>,
    policy: &UpdatePolicy,
    survey: &Survey,
) -> bool {
    let Some(rollout) = slots.service.rollout.as_ref().filter(|rollout| rollout.is_under_way()) else {
        return false;
    };
    let Some((verdict, reason)) = verdict(draft, slots, policy, survey, rollout) else { return false };
    let (service, generation) = (slots.service.id, rollout.generation);
    draft.conclude(RolloutStep { service, generation, verdict, reason });
    true
}

fn verdict(
    draft: &mut Draft<'_>,
    slots: &Slots<'_>,
    policy: &UpdatePolicy,
    survey: &Survey,
    rollout: &Rollout,
) -> Option<(RolloutVerdict, String)> {
    if rollout.phase == RolloutPhase::Paused {
        return None;
    }
    let reason = too_many_failures(slots, policy, survey, rollout);
    if let Some(verdict) = reason.and_then(|reason| failed(policy, rollout, reason)) {
        return Some(verdict);
    }
    let canaries = has_canaries(rollout, policy);
    let goal = if canaries { usize::try_from(policy.canary).unwrap_or(usize::MAX) } else { survey.total };
    if survey.updated < goal.min(survey.total) || survey.unsettled > 0 {
        return late(draft, slots, policy, rollout).and_then(|reason| failed(policy, rollout, reason));
    }
    if !is_watched(draft, slots, policy) {
        return None;
    }
    if survey.updated >= survey.total {
        return Some((RolloutVerdict::Complete, String::new()));
    }
    match rollout.phase {
        RolloutPhase::AwaitingPromotion => None,
        _ if policy.auto_promote => Some((RolloutVerdict::Promote, String::new())),
        _ => Some((RolloutVerdict::CanariesReady, format!("{} canaries are ready", policy.canary))),
    }
}

fn failed(policy: &UpdatePolicy, rollout: &Rollout, reason: String) -> Option<(RolloutVerdict, String)> {
    let verdict = match policy.failure_action {
        FailureAction::Pause => RolloutVerdict::Pause,
        FailureAction::Rollback => RolloutVerdict::RollBack,
        FailureAction::Continue if rollout.reason.is_empty() => RolloutVerdict::Continue,
        FailureAction::Continue => return None,
    };
    Some((verdict, reason))
}

pub(crate) fn has_canaries(rollout: &Rollout, policy: &UpdatePolicy) -> bool {
    policy.canary > 0 && !rollout.promoted && !rollout.is_rollback
}

fn too_many_failures(
    slots: &Slots<'_>,
    policy: &UpdatePolicy,
    survey: &Survey,
    rollout: &Rollout,
) -> Option<String> {
    let mut failures = slots
        .all()
        .filter_map(|(_, records)| records.iter().rev().find_map(|record| failure(record, rollout)));
    let first = failures.next()?;
    let count = 1 + failures.count();
    let too_many = count * 1000 > usize::from(policy.max_failure_permille) * survey.total.max(1);
    too_many
        .then(|| if count == 1 { first } else { format!("{count} instances failed, among them: {first}") })
}

/// What went wrong with an instance of the new generation since the rollout began.
fn failure(instance: &Instance, rollout: &Rollout) -> Option<String> {
    let progress = instance.observed.progress;
    let over = matches!(progress.phase, Phase::Failed | Phase::Rejected);
    let concerns = instance.generation == rollout.generation
        && instance.modified_revision > rollout.since
        && !instance.lost;
    let what = match (over, progress.attempt) {
        (true, _) => "failed",
        (false, 2..) => "was restarted",
        (false, _) => return None,
    };
    let cause = match (instance.observed.message.as_str(), instance.observed.exit_code) {
        ("", Some(code)) => format!(": exit code {code}"),
        ("", None) => String::new(),
        (message, _) => format!(": {message}"),
    };
    concerns.then(|| format!("slot {} {what}{cause}", instance.slot))
}

/// All that runs the new spec has been Ready for the time of watching.
fn is_watched(draft: &mut Draft<'_>, slots: &Slots<'_>, policy: &UpdatePolicy) -> bool {
    let until = newest_ready(draft, slots).map(|ready| ready + policy.monitor);
    match until.filter(|until| *until > draft.now) {
        None => true,
        Some(until) => {
            draft.wake(until);
            false
        }
    }
}

fn newest_ready(draft: &Draft<'_>, slots: &Slots<'_>) -> Option<Timestamp> {
    slots.live().filter(|instance| draft.state.is_current(instance)).filter_map(|i| i.ready_since).max()
}

/// Why the rollout does not get on, once the deadline has passed.
fn late(
    draft: &mut Draft<'_>,
    slots: &Slots<'_>,
    policy: &UpdatePolicy,
    rollout: &Rollout,
) -> Option<String> {
    let waits_for_user = rollout.phase != RolloutPhase::Running;
    if policy.progress_deadline == Duration::ZERO || waits_for_user {
        return None;
    }
    let last = newest_ready(draft, slots).unwrap_or_default().max(rollout.changed_at);
    let due = last + policy.progress_deadline;
    if due > draft.now {
        draft.wake(due);
        return None;
    }
    let stuck = slots.live().find(|instance| !instance.is_ready());
    let because = stuck.map(|instance| {
        let text =
            [&instance.explanation, &instance.observed.message].into_iter().find(|text| !text.is_empty());
        let text = text.cloned().unwrap_or_else(|| instance.observed.progress.to_string());
        format!("; slot {}: {text}", instance.slot)
    });
    Some(format!(
        "no instance became ready for {} s{}",
        policy.progress_deadline.as_secs(),
        because.unwrap_or_default()
    ))
}
