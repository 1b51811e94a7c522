//! When a job ends, and where its run stands.

use skein_common::service::{DEFAULT_BACKOFF_LIMIT, JobPhase, JobPolicy, JobRun};

use super::{duration_to_wire, service::Door, timestamp_to_wire};
use crate::v1;

pub(super) fn job_policy(door: &mut Door<'_>, wire: v1::JobPolicy) -> JobPolicy {
    JobPolicy {
        backoff_limit: wire.backoff_limit.unwrap_or(DEFAULT_BACKOFF_LIMIT),
        active_deadline: door.duration("spec.job_policy.active_deadline", wire.active_deadline),
        ttl_after_finished: door.duration("spec.job_policy.ttl_after_finished", wire.ttl_after_finished),
        gang: wire.gang,
    }
}

impl From<&JobPolicy> for v1::JobPolicy {
    fn from(policy: &JobPolicy) -> Self {
        Self {
            backoff_limit: Some(policy.backoff_limit),
            active_deadline: policy.active_deadline.map(duration_to_wire),
            ttl_after_finished: policy.ttl_after_finished.map(duration_to_wire),
            gang: policy.gang,
        }
    }
}

impl From<&JobRun> for v1::JobRun {
    fn from(run: &JobRun) -> Self {
        let phase = match run.phase {
            JobPhase::Running => v1::JobPhase::Running,
            JobPhase::Completed => v1::JobPhase::Completed,
            JobPhase::Failed => v1::JobPhase::Failed,
        };
        Self {
            generation: run.generation.0,
            phase: phase.into(),
            reason: run.reason.clone(),
            started_at: Some(timestamp_to_wire(run.started_at)),
            finished_at: run.finished_at.map(timestamp_to_wire),
        }
    }
}
