//! What is kept of instances that ended, how long a failing slot waits, and the end of a service.
//!
//! Invariant: at most [`KEPT`] ended records a slot; nothing is forgotten while an agent may
//! still hold it.

use std::time::Duration;

use skein_common::{
    NodeId, Timestamp,
    instance::{Desired, Instance, Phase},
    node::Liveness,
    service::JobPhase,
};

use super::{draft::Draft, slots::Slots};
use crate::state::Service;

/// Ended instances kept for a slot that is in use, with their containers' logs.
pub const KEPT: usize = 2;
/// Wait after the first failure of a slot's instance; doubles with each further one in a row.
pub const BACKOFF_START: Duration = Duration::from_secs(10);
pub const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// An instance that lived this long starts the count of failures anew.
pub const BACKOFF_TRUST: Duration = Duration::from_secs(600);

/// When, why and where a slot gets its next instance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Retry {
    pub(super) not_before: Timestamp,
    pub(super) failures: u32,
    pub(super) explanation: String,
    /// See `Instance::moves_to`.
    pub(super) moves_to: Option<NodeId>,
}

/// The back-off after `failed`. The first rejection costs nothing: the next instance goes to
/// another node or gets another port.
pub(super) fn retry(failed: &Instance, now: Timestamp) -> Retry {
    let lived = now.since(failed.created_at);
    let failures = if lived >= BACKOFF_TRUST { 1 } else { failed.failures.saturating_add(1) };
    let rejected = failed.observed.progress.phase == Phase::Rejected;
    if failures == 1 && rejected {
        return Retry { failures, ..Retry::default() };
    }
    let doublings = failures.saturating_sub(1).min(16);
    let wait = BACKOFF_START.saturating_mul(1 << doublings).min(BACKOFF_MAX);
    let not_before = now + wait;
    let times = if failures == 1 { "once".to_owned() } else { format!("{failures} times in a row") };
    let last = match (failed.observed.message.as_str(), failed.observed.exit_code) {
        ("", None) => "no reason known".to_owned(),
        ("", Some(code)) => format!("exit code {code}"),
        (message, _) => message.to_owned(),
    };
    let explanation = format!("waits until {not_before}: failed {times}, last: {last}");
    Retry { not_before, failures, explanation, moves_to: None }
}

/// Ends everything; the service goes when no node that can be reached holds a part of it.
pub(super) fn delete(draft: &mut Draft<'_>, service: &Service) {
    let state = draft.state;
    let mut left = false;
    for instance in state.instances_of(service.id).filter(|instance| !instance.lost) {
        let down = draft.node_of(instance).is_some_and(|node| node.liveness == Liveness::Down);
        if down {
            draft.lose(instance, "the service is deleted".to_owned());
        } else {
            draft.wish(instance, Desired::Remove, "the service is deleted");
        }
        let goes_with_wish = instance.node.is_none() && draft.ends(instance.id);
        left |= !draft.loses(instance) && !goes_with_wish;
    }
    // Its runs go before it.
    left |= state.runs_of(service.id).next().is_some();
    if !left {
        draft.finish_service(service.id);
    }
}

/// Ended records beyond their bound, and those of slots that are no longer used. What a job wrote is kept
/// as long as the job.
pub(super) fn trim(draft: &mut Draft<'_>, slots: &Slots<'_>) {
    let is_over = slots.service.job.as_ref().is_some_and(|run| run.phase != JobPhase::Running);
    for (held, records) in slots.all() {
        let keep = if held || is_over { KEPT } else { 0 };
        let mut ended: Vec<_> = records
            .iter()
            .filter(|i| i.desired == Desired::Stop && i.observed.progress.phase.is_terminal())
            .collect();
        ended.sort_by_key(|instance| std::cmp::Reverse((instance.created_revision, instance.id)));
        for instance in ended.into_iter().skip(keep) {
            draft.wish(instance, Desired::Remove, "");
        }
    }
}
