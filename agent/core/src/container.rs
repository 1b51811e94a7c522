//! Containers as the engine shows them, and how its steps fail.
//!
//! Invariant: what is here was seen, not wished; decisions read it and never change it.
//! Deliberately not here: the engine (`agent/src/runtime`), what a container is made of.

use std::net::IpAddr;

use skein_common::{InstanceId, Timestamp};

/// How a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerStatus {
    /// Made, never started.
    Created,
    Running {
        health: Health,
        started_at: Timestamp,
    },
    Exited {
        exit_code: i64,
        oom_killed: bool,
        finished_at: Timestamp,
        message: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// There is no health check: running is ready.
    Unchecked,
    Starting,
    Healthy,
    Unhealthy {
        output: String,
    },
}

/// Why a step failed. The variant decides what the lifecycle does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// The engine does not answer; nothing is known. Tried again.
    #[error("the container engine does not answer: {0}")]
    Unavailable(String),
    /// The image is neither here nor to be had; `create` of an absent image says so too. Pulled
    /// with back-off.
    #[error("image {image:?} cannot be pulled: {reason}")]
    Image { image: String, reason: String },
    /// This node can never run it as it is: port taken, name taken by a foreign container, bad mount.
    #[error("{0}")]
    Rejected(String),
    /// The container is gone.
    #[error("container {0} does not exist")]
    NotFound(String),
    /// Anything else the engine says. Counts as a failed attempt.
    #[error("{0}")]
    Failed(String),
}

/// One container of one attempt of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenContainer {
    /// The engine's id.
    pub id: String,
    pub instance: InstanceId,
    pub attempt: u32,
    pub status: ContainerStatus,
    /// Its own on the node's bridge, while it runs.
    pub address: Option<IpAddr>,
}

impl ContainerStatus {
    #[must_use]
    pub const fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }
}
