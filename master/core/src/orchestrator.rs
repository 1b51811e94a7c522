//! What should happen next: which instances there should be, which must go, and where new ones go.
//!
//! `plan` is level-triggered: it looks at the state, never at what changed, and says everything
//! that is missing, so a lost or refused plan costs nothing but another pass. Once the plan has
//! been applied and agents say nothing new, the next plan is empty.
//!
//! Invariant: a pure function of state, time and ids; a slot never gets a second live instance,
//! but for one that starts beside the one it replaces; any other is placed only when nothing of
//! its slot may still run elsewhere, unless that node is down.
//! Deliberately not here: the choice of node (`scheduler`), who is alive (`liveness`).

mod draft;
pub mod foresight;
mod history;
mod job;
mod order;
mod rebalance;
pub mod rehearsal;
mod rollout;
mod schedule;
mod scope;
mod slots;
mod verdict;

pub(crate) use self::verdict::has_canaries;

use std::collections::BTreeMap;

use skein_common::{InstanceId, NodeId, Timestamp};

use self::{draft::Draft, slots::Slots};
pub use self::{
    draft::{MAX_PARTS, home},
    history::{BACKOFF_MAX, BACKOFF_START, BACKOFF_TRUST, KEPT},
    schedule::MOST_PASSED,
    scope::Scope,
};
use crate::{
    command::Plan,
    state::{ClusterState, Service},
};

/// How the reason of whoever makes room begins.
const GIVES_WAY: &str = "gives way to ";

/// One pass of the planner.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Planned {
    /// To be proposed as one command, unless it is empty.
    pub plan: Plan,
    /// When time alone will change the plan: then everything (`Scope::All`) is to be looked at
    /// again. With a narrow scope this covers that scope only, so the earlier of this and what is
    /// already awaited counts. `now` or earlier = the plan was cut at [`MAX_PARTS`], there is more.
    pub wake_at: Option<Timestamp>,
}

/// Plans for the services in `scope`.
///
/// `ids` must give an id nobody has used; one that exists is skipped by `apply` and planned again.
pub fn plan(
    state: &ClusterState,
    scope: &Scope,
    now: Timestamp,
    ids: &mut dyn FnMut() -> InstanceId,
) -> Planned {
    plan_measured(state, scope, now, &BTreeMap::new(), ids)
}

/// The same, knowing how busy nodes are: thousandths of the scarcer resource.
pub fn plan_measured(
    state: &ClusterState,
    scope: &Scope,
    now: Timestamp,
    measured: &BTreeMap<NodeId, u16>,
    ids: &mut dyn FnMut() -> InstanceId,
) -> Planned {
    // A leader whose clock is behind must not wait for times that have been reached already.
    let mut draft = Draft::new(state, now.max(state.time()), ids);
    let scope = scope.with_waiting(state);
    for service in scope.services(state) {
        plan_service(&mut draft, service);
    }
    rebalance::advance(&mut draft, &scope);
    draft.schedule(&scope, measured);
    draft.finish()
}

fn plan_service<'a>(draft: &mut Draft<'a>, service: &'a Service) {
    if service.deleting {
        history::delete(draft, service);
        return;
    }
    draft.address(service);
    schedule::advance(draft, service);
    if service.spec.schedule.is_some() {
        return;
    }
    draft.awaits(service);
    let mut slots = Slots::of(draft, service);
    if service.spec.mode.is_job() {
        job::advance(draft, &mut slots);
    } else {
        slots.fit(draft);
        slots.replace_failed(draft);
        rollout::advance(draft, &mut slots);
    }
    history::trim(draft, &slots);
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod volume_tests;
