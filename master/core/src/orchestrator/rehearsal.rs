//! What would happen: the planner on a copy of the state, with agents that do at once as they are told.
//!
//! Invariant: the decisions are the planner's own; nothing here decides. What agents would really do
//! (a pull that fails, a health check that never passes) cannot be foreseen.

use skein_common::{
    InstanceId, Revision, ServiceId, Timestamp,
    cluster::{RebalanceConfig, RebalanceGoal},
    instance::{Desired, Instance, News, Observed, Phase, Progress},
    node::Liveness,
};

use super::{Planned, Scope, rebalance};
use crate::{
    command::{Actor, Command, CommandKind, Rejection, Report},
    scheduler::Shift,
    state::ClusterState,
};

/// Passes of the planner before a rehearsal is cut.
const MOST_PASSES: usize = 10_000;

/// A copy of the state that goes its own way.
#[derive(Debug, Clone)]
pub struct Rehearsal {
    pub state: ClusterState,
    now: Timestamp,
    next_id: u64,
}

impl Rehearsal {
    #[must_use]
    pub fn new(state: &ClusterState, now: Timestamp) -> Self {
        Self { state: state.clone(), now: now.max(state.time()), next_id: 0 }
    }

    /// Applies a user's command.
    ///
    /// # Errors
    /// As it would be rejected.
    pub fn command(&mut self, kind: CommandKind) -> Result<(), Rejection> {
        let revision = Revision(self.state.revision().0 + 1);
        let command = Command { request: None, at: self.now, actor: Actor::User, kind };
        self.state.apply(revision, &command).outcome.map(|_| ())
    }

    /// One pass of the planner, applied; its plan is empty when there is nothing to do.
    pub fn pass(&mut self) -> Planned {
        let mut next = self.next_id;
        let state = &self.state;
        let mut ids = || loop {
            next += 1;
            // Ids come at random elsewhere, so that low ones are free nearly always.
            let id = InstanceId::from_random(next);
            if state.instance(id).is_none() {
                return id;
            }
        };
        let planned = super::plan(state, &Scope::All, self.now, &mut ids);
        self.next_id = next;
        if !planned.plan.is_empty() {
            // A plan is never rejected.
            let _ = self.command(CommandKind::Plan(planned.plan.clone()));
        }
        planned
    }

    /// Nothing is left to do but to wait until then.
    pub fn pass_time(&mut self, until: Timestamp) {
        self.now = self.now.max(until);
    }

    /// Every agent that can be reached does as it is told; whether there was anything.
    pub fn obey(&mut self) -> bool {
        let reports: Vec<_> = self.state.instances().filter_map(|i| self.obedience(i)).collect();
        !reports.is_empty() && self.command(CommandKind::Observe { reports }).is_ok()
    }

    fn obedience(&self, instance: &Instance) -> Option<Report> {
        let node = instance.node?;
        self.state.node(node).filter(|node| node.liveness == Liveness::Ready)?;
        let Progress { attempt, phase } = instance.observed.progress;
        let observed = |attempt, phase| {
            let progress = Progress { attempt, phase };
            News::Observed(Observed::of(progress, self.now))
        };
        let news = match instance.desired {
            Desired::Remove => News::Gone,
            Desired::Run | Desired::Stop if phase.is_terminal() => return None,
            Desired::Stop => observed(attempt, Phase::Stopped),
            Desired::Run if self.state.spec_of(instance).is_some_and(|spec| spec.mode.is_job()) => {
                let done = Progress { attempt, phase: Phase::Stopped };
                News::Observed(Observed { exit_code: Some(0), ..Observed::of(done, self.now) })
            }
            Desired::Run if phase == Phase::Ready => return None,
            Desired::Run if phase < Phase::Ready => observed(attempt, Phase::Ready),
            Desired::Run => observed(attempt.saturating_add(1), Phase::Ready),
        };
        Some(Report { node, instance: instance.id, news })
    }

    /// Planner and agents in turns, until both rest.
    pub fn settle(&mut self) {
        for _ in 0..MOST_PASSES {
            let planned = !self.pass().plan.is_empty();
            if !self.obey() && !planned {
                return;
            }
        }
    }
}

/// A move that a rebalancing would make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub service: ServiceId,
    /// Service and slot.
    pub name: String,
    pub start_first: bool,
    pub shift: Shift,
}

/// The moves of a whole rebalancing, as far as they can be foreseen.
///
/// # Errors
/// As the command would be rejected.
pub fn moves(
    state: &ClusterState,
    goal: RebalanceGoal,
    service: Option<ServiceId>,
    now: Timestamp,
) -> Result<Vec<Move>, Rejection> {
    let mut rehearsal = Rehearsal::new(state, now);
    let mut config = state.settings().config.as_ref().clone();
    // The pace changes when, not what.
    config.scheduling.rebalance =
        RebalanceConfig { enabled: Some(false), max_moves: Some(u32::MAX), ..config.scheduling.rebalance };
    rehearsal.command(CommandKind::StopRebalance)?;
    rehearsal.settle();
    rehearsal.command(CommandKind::ConfigureCluster { expected: None, config: config.into() })?;
    rehearsal.command(CommandKind::Rebalance { goal, service })?;
    let mut moves = Vec::new();
    for _ in 0..MOST_PASSES {
        let before = rehearsal.state.clone();
        let shifts = rebalance::next(&before, rehearsal.now);
        let planned = rehearsal.pass().plan;
        let created = planned.create.iter().filter(|new| new.moves_to.is_some());
        for new in created {
            let of_slot = |shift: &&Shift| {
                let instance = before.instance(shift.instance);
                instance.is_some_and(|i| (i.service, i.slot) == (new.service, new.slot))
            };
            let Some(shift) = shifts.iter().find(of_slot) else { continue };
            let Some(instance) = before.instance(shift.instance) else { continue };
            let name = before.instance_name(instance);
            let start_first = new.beside.is_some();
            moves.push(Move { service: new.service, name, start_first, shift: shift.clone() });
        }
        if !rehearsal.obey() && planned.is_empty() {
            break;
        }
    }
    Ok(moves)
}
