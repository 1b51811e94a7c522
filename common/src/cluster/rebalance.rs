//! A rebalancing on its way: moves are made one after the other until none is worth it.
//!
//! Which moves have been made is never counted to decide: the instances show it. Only that it is
//! under way, and what for, is kept, so that a new leader goes on with it.

use serde::{Deserialize, Serialize};

use crate::{ServiceId, Timestamp};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebalanceRun {
    pub goal: RebalanceGoal,
    /// Only this service is moved; `None` = all.
    pub service: Option<ServiceId>,
    /// Who asked for it, or what happened.
    pub cause: String,
    pub started_at: Timestamp,
    /// Begun so far.
    pub moves: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum RebalanceGoal {
    /// Each service spread as it asks, and the load even over the nodes.
    #[default]
    Even,
    /// Nodes emptied that others have room for.
    Consolidate,
}
