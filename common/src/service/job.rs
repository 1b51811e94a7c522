//! Services that run to completion.
//!
//! Invariant: plain values; when a job is done or has failed is decided in `master/core`.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use super::Generation;
use crate::Timestamp;

/// Failures of a job's instances that are put up with (Kubernetes' default).
pub const DEFAULT_BACKOFF_LIMIT: u32 = 6;

/// When a job ends otherwise than by completing, and when it is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPolicy {
    /// More failures than this, restarts in place included, and the job has failed.
    pub backoff_limit: u32,
    /// Not completed within this time, and the job has failed; `None` = it may take for ever.
    pub active_deadline: Option<Duration>,
    /// How long after its end the service is deleted, logs included; `None` = never.
    pub ttl_after_finished: Option<Duration>,
    /// All slots are placed together, or none is.
    #[serde(default)]
    pub gang: bool,
}

impl Default for JobPolicy {
    fn default() -> Self {
        Self {
            backoff_limit: DEFAULT_BACKOFF_LIMIT,
            active_deadline: None,
            ttl_after_finished: None,
            gang: false,
        }
    }
}

/// One run of a job: of one generation, from its creation to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRun {
    pub generation: Generation,
    pub phase: JobPhase,
    /// Why it failed; empty otherwise.
    pub reason: String,
    pub started_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    /// Slots that are done and whose records went with their node.
    #[serde(default)]
    pub done: BTreeSet<u32>,
    /// Failures that were counted in records that went with their node.
    #[serde(default)]
    pub past_failures: u64,
}

/// How far the schedule of a job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleState {
    /// Times up to this one are none of its business: it began, was changed or was resumed then.
    pub since: Timestamp,
    /// The last due time that was decided on: run, skipped or missed. Only grows.
    pub last: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum JobPhase {
    Running,
    /// Every slot has ended with exit code 0.
    Completed,
    Failed,
}

impl JobRun {
    #[must_use]
    pub const fn begin(generation: Generation, at: Timestamp) -> Self {
        Self {
            generation,
            phase: JobPhase::Running,
            reason: String::new(),
            started_at: at,
            finished_at: None,
            done: BTreeSet::new(),
            past_failures: 0,
        }
    }
}

impl ScheduleState {
    #[must_use]
    pub const fn begin(at: Timestamp) -> Self {
        Self { since: at, last: None }
    }

    /// Only later times are to be decided on.
    #[must_use]
    pub fn decided(self) -> Timestamp {
        self.last.map_or(self.since, |last| last.max(self.since))
    }
}
