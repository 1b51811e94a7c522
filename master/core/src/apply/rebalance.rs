//! Rebalancing begins and ends; what it moves are instances like any other (`plan`).
//!
//! Invariant: one at a time.

use std::sync::Arc;

use skein_common::{
    NodeId, ServiceId,
    cluster::{RebalanceGoal, RebalanceRun},
    event::{Severity, Subject},
};

use super::{Answer, Step, precondition};
use crate::{
    command::{ObjectKind, Outcome, RebalanceStep, Rejection},
    state::Settings,
};

/// Asked for by a user. The same again changes nothing.
pub(super) fn begin(step: &mut Step<'_>, goal: RebalanceGoal, service: Option<ServiceId>) -> Answer {
    if let Some(id) = service.filter(|id| step.state.service(*id).is_none()) {
        return Err(Rejection::NotFound { kind: ObjectKind::Service, id: id.to_string() });
    }
    match &step.state.settings.rebalance {
        Some(run) if run.goal == goal && run.service == service => return Ok(Outcome::Done),
        Some(run) => {
            return Err(precondition(format!(
                "another rebalancing is under way ({}): wait, or stop it first",
                run.cause
            )));
        }
        None => {}
    }
    start(step, goal, service, "asked for".to_owned());
    Ok(Outcome::Done)
}

/// A node takes instances that did not before.
pub(super) fn welcome(step: &mut Step<'_>, node: NodeId, what: &str) {
    let settings = &step.state.settings;
    if settings.config.scheduling.rebalance.enabled() && settings.rebalance.is_none() {
        let cause = format!("node {} {what}", step.state.node_name(node));
        start(step, RebalanceGoal::Even, None, cause);
    }
}

pub(super) fn stop(step: &mut Step<'_>) -> Answer {
    if step.state.settings.rebalance.is_some() {
        end(step, "RebalanceStopped", "stopped");
    }
    Ok(Outcome::Done)
}

/// What the planner concluded; skipped when it was about another state of affairs.
pub(super) fn conclude(step: &mut Step<'_>, conclusion: &RebalanceStep) {
    let under_way = step.state.settings.rebalance.as_ref().map(|run| run.started_at);
    match conclusion {
        RebalanceStep::Begin { cause } if under_way.is_none() => {
            start(step, RebalanceGoal::Even, None, cause.clone());
        }
        RebalanceStep::End { began } if *began == under_way => end(step, "RebalanceComplete", "complete"),
        RebalanceStep::Begin { .. } | RebalanceStep::End { .. } => {}
    }
}

/// A plan has begun so many more moves.
pub(super) fn count(step: &mut Step<'_>, moves: u32) {
    let settings = Arc::clone(&step.state.settings);
    if let Some(run) = settings.rebalance.clone().filter(|_| moves > 0) {
        let run = RebalanceRun { moves: run.moves.saturating_add(moves), ..run };
        step.put_settings(Settings { rebalance: Some(run), ..Settings::clone(&settings) });
    }
}

fn start(step: &mut Step<'_>, goal: RebalanceGoal, service: Option<ServiceId>, cause: String) {
    let run = RebalanceRun { goal, service, cause, started_at: step.state.time, moves: 0 };
    let settings = Settings::clone(&step.state.settings);
    step.put_settings(Settings { rebalance: Some(run), ..settings });
}

fn end(step: &mut Step<'_>, reason: &str, how: &str) {
    let mut settings = Settings::clone(&step.state.settings);
    let run = settings.rebalance.take();
    settings.rebalanced_at = step.state.time;
    step.put_settings(settings);
    // One that found nothing to do is not worth a word.
    if let Some(run) = run.filter(|run| run.moves > 0) {
        let message = format!("rebalancing is {how} after {} moves ({})", run.moves, run.cause);
        step.event(Severity::Info, reason, Subject::Cluster, message);
    }
}
