//! How a rollout goes about it. Written by users, so every violation is collected.

use skein_common::service::{
    DEFAULT_MONITOR, DEFAULT_PROGRESS_DEADLINE, Disruption, FailureAction, UpdateOrder, UpdatePolicy,
};

use super::{duration_to_wire, service::Door};
use crate::v1;

/// `name` is the field of the spec: update or rollback.
pub(super) fn update_policy(door: &mut Door<'_>, name: &str, wire: v1::UpdatePolicy) -> UpdatePolicy {
    let field = |leaf: &str| format!("spec.{name}.{leaf}");
    let order = door.known(&field("order"), wire.order, v1::UpdateOrder::try_from(wire.order));
    let known = v1::FailureAction::try_from(wire.failure_action);
    let action = door.known(&field("failure_action"), wire.failure_action, known);
    let defaults = UpdatePolicy::default();
    UpdatePolicy {
        parallelism: wire.parallelism.unwrap_or(defaults.parallelism),
        order: match order {
            Some(v1::UpdateOrder::StartFirst) => UpdateOrder::StartFirst,
            Some(v1::UpdateOrder::StopFirst | v1::UpdateOrder::Unspecified) | None => UpdateOrder::StopFirst,
        },
        delay: door.duration(&field("delay"), wire.delay).unwrap_or_default(),
        monitor: door.duration(&field("monitor"), wire.monitor).unwrap_or(DEFAULT_MONITOR),
        max_failure_permille: u16::try_from(wire.max_failure_permille).unwrap_or(u16::MAX),
        failure_action: match action {
            Some(v1::FailureAction::Continue) => FailureAction::Continue,
            Some(v1::FailureAction::Rollback) => FailureAction::Rollback,
            Some(v1::FailureAction::Pause | v1::FailureAction::Unspecified) | None => FailureAction::Pause,
        },
        progress_deadline: door
            .duration(&field("progress_deadline"), wire.progress_deadline)
            .unwrap_or(DEFAULT_PROGRESS_DEADLINE),
        canary: wire.canary,
        auto_promote: wire.auto_promote,
    }
}

impl From<&UpdatePolicy> for v1::UpdatePolicy {
    fn from(policy: &UpdatePolicy) -> Self {
        let order = match policy.order {
            UpdateOrder::StopFirst => v1::UpdateOrder::StopFirst,
            UpdateOrder::StartFirst => v1::UpdateOrder::StartFirst,
        };
        let action = match policy.failure_action {
            FailureAction::Pause => v1::FailureAction::Pause,
            FailureAction::Continue => v1::FailureAction::Continue,
            FailureAction::Rollback => v1::FailureAction::Rollback,
        };
        Self {
            parallelism: Some(policy.parallelism),
            order: order.into(),
            delay: Some(duration_to_wire(policy.delay)),
            monitor: Some(duration_to_wire(policy.monitor)),
            max_failure_permille: policy.max_failure_permille.into(),
            failure_action: action.into(),
            progress_deadline: Some(duration_to_wire(policy.progress_deadline)),
            canary: policy.canary,
            auto_promote: policy.auto_promote,
        }
    }
}

impl From<v1::service_spec::Disruption> for Disruption {
    fn from(wire: v1::service_spec::Disruption) -> Self {
        match wire {
            v1::service_spec::Disruption::MaxUnavailable(most) => Self::MaxUnavailable(most),
            v1::service_spec::Disruption::MinAvailable(least) => Self::MinAvailable(least),
        }
    }
}

impl From<Disruption> for v1::service_spec::Disruption {
    fn from(disruption: Disruption) -> Self {
        match disruption {
            Disruption::MaxUnavailable(most) => Self::MaxUnavailable(most),
            Disruption::MinAvailable(least) => Self::MinAvailable(least),
        }
    }
}
