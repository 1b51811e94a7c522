//! `update_config` and `rollback_config`: how instances are replaced.
//!
//! Invariant: what is absent has Swarm's default.

use std::time::Duration;

use skein_common::service::{FailureAction, UpdateOrder, UpdatePolicy};

use super::{diagnostic::Report, field::Field, keys};

const ORDERS: [(&str, UpdateOrder); 2] =
    [("stop-first", UpdateOrder::StopFirst), ("start-first", UpdateOrder::StartFirst)];
const ACTIONS: [(&str, FailureAction); 3] = [
    ("pause", FailureAction::Pause),
    ("continue", FailureAction::Continue),
    ("rollback", FailureAction::Rollback),
];

pub fn read(field: &Field<'_>, is_rollback: bool, report: &mut Report) -> UpdatePolicy {
    let mut policy = UpdatePolicy::default();
    let Some(section) = field.section(keys::UPDATE, report) else { return policy };
    if let Some(parallelism) = section.get("parallelism").and_then(|field| field.count(0, report)) {
        policy.parallelism = parallelism;
    }
    if let Some(order) = section.get("order").and_then(|field| field.choice(&ORDERS, report)) {
        policy.order = order;
    }
    if let Some(field) = section.get("failure_action")
        && let Some(action) = field.choice(&ACTIONS, report)
    {
        if is_rollback && action == FailureAction::Rollback {
            field.error(report, "a rollback cannot be rolled back: use pause or continue");
        }
        policy.failure_action = action;
    }
    policy.delay = section.get("delay").and_then(|field| field.duration(report)).unwrap_or_default();
    // As in Docker, 0 is its default.
    let monitor = section.get("monitor").and_then(|field| field.duration(report));
    if let Some(monitor) = monitor.filter(|monitor| *monitor > Duration::ZERO) {
        policy.monitor = monitor;
    }
    if let Some(permille) = section.get("max_failure_ratio").and_then(|field| field.permille(report)) {
        policy.max_failure_permille = permille;
    }
    policy
}
