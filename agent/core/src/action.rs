//! What an agent asks of its container engine, and how that ended.
//!
//! Invariant: every action may be repeated after a crash; names and ids make it idempotent.
//! Deliberately not here: who carries it out and for how long it may take (`agent/src/executor`).

use std::{sync::Arc, time::Duration};

use skein_common::{InstanceId, assignment::Assignment};

use crate::{
    container::RuntimeError,
    seen::{Look, Sequence},
};

/// One step. Pulls belong to an image, all others to one instance; one at a time of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Pull { image: String },
    Create { assignment: Arc<Assignment>, attempt: u32 },
    Start { instance: InstanceId, container: String },
    Stop { instance: InstanceId, container: String, grace: Duration },
    Remove { instance: InstanceId, container: String },
}

/// An action came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    pub action: Action,
    /// Drawn after the engine answered and before `look` was begun.
    pub at: Sequence,
    pub outcome: Result<Success, RuntimeError>,
    /// How the instance was right afterwards, when that could be seen.
    pub look: Option<Look>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Success {
    /// The engine's id of the new container.
    Created(String),
    Done,
}

impl Action {
    /// Whose it is; `None` for a pull.
    #[must_use]
    pub fn instance(&self) -> Option<InstanceId> {
        match self {
            Self::Pull { .. } => None,
            Self::Create { assignment, .. } => Some(assignment.instance),
            Self::Start { instance, .. } | Self::Stop { instance, .. } | Self::Remove { instance, .. } => {
                Some(*instance)
            }
        }
    }
}
