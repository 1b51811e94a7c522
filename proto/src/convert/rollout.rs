//! Where a rollout stands. Told by masters only, so there is no way in.

use skein_common::rollout::{Rollout, RolloutPhase};

use super::timestamp_to_wire;
use crate::v1;

impl From<&Rollout> for v1::Rollout {
    fn from(rollout: &Rollout) -> Self {
        let phase = match rollout.phase {
            RolloutPhase::Running => v1::RolloutPhase::Running,
            RolloutPhase::AwaitingPromotion => v1::RolloutPhase::AwaitingPromotion,
            RolloutPhase::Paused => v1::RolloutPhase::Paused,
            RolloutPhase::Completed => v1::RolloutPhase::Completed,
        };
        Self {
            generation: rollout.generation.0,
            from_generation: rollout.from.0,
            phase: phase.into(),
            is_rollback: rollout.is_rollback,
            promoted: rollout.promoted,
            reason: rollout.reason.clone(),
            started_at: Some(timestamp_to_wire(rollout.started_at)),
            changed_at: Some(timestamp_to_wire(rollout.changed_at)),
        }
    }
}
