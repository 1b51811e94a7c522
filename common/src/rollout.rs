//! A change of a service's spec on its way through the instances.
//!
//! What has been replaced is never counted here: the instances show it. Only what was *decided*
//! is kept (paused, promoted, gone back), so that a new leader goes on with it.
//!
//! Invariant: belongs to exactly one generation; a new one begins a new rollout.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Revision, Timestamp, service::Generation};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The generation that all instances shall run.
    pub generation: Generation,
    /// What an automatic rollback goes back to: the last generation whose rollout was complete.
    pub from: Generation,
    pub phase: RolloutPhase,
    /// It goes back to an earlier spec.
    pub is_rollback: bool,
    /// Its canaries were found good.
    pub promoted: bool,
    /// Why it is paused, or what failed; empty when there is nothing to say.
    pub reason: String,
    pub started_at: Timestamp,
    /// Of the last decision; the deadline for progress counts from here.
    pub changed_at: Timestamp,
    /// Failures before this revision have been answered for (start, or the last resumption).
    pub since: Revision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RolloutPhase {
    /// Instances are being replaced.
    Running,
    /// The canaries are Ready; a user promotes or goes back.
    AwaitingPromotion,
    /// Nothing more is replaced until a user resumes or goes back.
    Paused,
    /// Every instance runs it and has been watched.
    Completed,
}

/// What a user makes of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RolloutControl {
    Pause,
    Resume,
    /// Goes on after its canaries.
    Promote,
    /// Back to a kept generation; `None` = the one before.
    Undo {
        to: Option<Generation>,
    },
}

impl Rollout {
    #[must_use]
    pub const fn begin(
        generation: Generation,
        from: Generation,
        is_rollback: bool,
        at: Timestamp,
        since: Revision,
    ) -> Self {
        Self {
            generation,
            from,
            phase: RolloutPhase::Running,
            is_rollback,
            promoted: false,
            reason: String::new(),
            started_at: at,
            changed_at: at,
            since,
        }
    }

    #[must_use]
    pub const fn is_under_way(&self) -> bool {
        !matches!(self.phase, RolloutPhase::Completed)
    }
}

impl fmt::Display for RolloutPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::AwaitingPromotion => "awaiting promotion",
            Self::Paused => "paused",
            Self::Completed => "completed",
        })
    }
}
