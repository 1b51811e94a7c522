//! What a service asks of the nodes its instances go to: priority, constraints, spread, affinity
//! and generic resources (licences, GPUs and shares of them).
//!
//! Invariant: a policy that came through the API passed [`PlacementPolicy::check`].
//! Deliberately not here: how a node is chosen (`master/core/src/scheduler`).

mod check;
mod device;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::constraint::Constraint;

pub use self::device::{DeviceShare, GenericRequest, GenericResource, WHOLE_MILLIS};

/// Of a service that does not say.
pub const DEFAULT_PRIORITY: u8 = 50;
pub const MAX_PRIORITY: u8 = 100;
/// A node with this label takes only services that tolerate its value.
pub const EXCLUSIVE_LABEL: &str = "io.skein.exclusive";
/// Tolerates every exclusive node.
pub const TOLERATE_ALL: &str = "*";

/// Where instances may go, and where they would rather be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlacementPolicy {
    /// All must hold.
    pub constraints: Vec<Constraint>,
    /// 0 to 100; orders the queue and permits preemption.
    pub priority: u8,
    /// `None` = the cluster's.
    pub strategy: Option<Strategy>,
    /// `None` = no bound.
    pub max_replicas_per_node: Option<u32>,
    /// Hard: an instance that would break one stays Pending.
    pub spread: Vec<TopologySpread>,
    /// Soft, the first one first: each instance goes where the service has fewest.
    pub preferences: Vec<TopologyKey>,
    pub affinities: Vec<Affinity>,
    /// Generic resources, set aside beside CPU and memory.
    pub generic: Vec<GenericRequest>,
    /// Values of [`EXCLUSIVE_LABEL`] that are accepted; [`TOLERATE_ALL`] = any.
    pub tolerations: Vec<String>,
}

/// What makes one node better than another when both would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Strategy {
    /// The node with fewest instances of the service, then the emptiest.
    #[default]
    Spread,
    /// The fullest node.
    Binpack,
    /// The node whose room stays most useful for what usually runs here.
    Balanced,
}

/// What tells one part of the cluster from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TopologyKey {
    /// Every node is a part of its own.
    Node,
    /// Nodes with the same value are one part. Where it is hard, nodes without the label are out.
    Label(String),
}

/// No part of the cluster has more than `max_skew` instances above the one with fewest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologySpread {
    pub key: TopologyKey,
    /// At least 1.
    pub max_skew: u32,
    /// With fewer parts than this the fewest count as 0; 0 and 1 = no such rule.
    #[serde(default)]
    pub min_domains: u32,
}

/// Near to, or away from, the instances of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// Name of the other service; its own name means the service itself.
    pub service: String,
    pub key: TopologyKey,
    pub direction: Direction,
    /// `None` = required; 1 to 100 = the more the better.
    pub weight: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// In a part of the cluster where the other service has an instance.
    Near,
    /// Where it has none. Required: also the other way round.
    Away,
}

impl Default for PlacementPolicy {
    fn default() -> Self {
        Self {
            constraints: Vec::new(),
            priority: DEFAULT_PRIORITY,
            strategy: None,
            max_replicas_per_node: None,
            spread: Vec::new(),
            preferences: Vec::new(),
            affinities: Vec::new(),
            generic: Vec::new(),
            tolerations: Vec::new(),
        }
    }
}

impl PlacementPolicy {
    /// Whether what runs under `self` may go on under `other`: what differs is only what is
    /// looked at when a node is chosen.
    #[must_use]
    pub fn holds_like(&self, other: &Self) -> bool {
        self.constraints == other.constraints
            && self.max_replicas_per_node == other.max_replicas_per_node
            && self.spread == other.spread
            && self.required().eq(other.required())
            && self.generic == other.generic
            && self.tolerations == other.tolerations
    }

    fn required(&self) -> impl Iterator<Item = &Affinity> {
        self.affinities.iter().filter(|affinity| affinity.weight.is_none())
    }

    /// Whether a node with this value of [`EXCLUSIVE_LABEL`] is accepted.
    #[must_use]
    pub fn tolerates(&self, value: &str) -> bool {
        self.tolerations.iter().any(|tolerated| tolerated == TOLERATE_ALL || tolerated == value)
    }
}

impl Affinity {
    #[must_use]
    pub fn is_required_away(&self) -> bool {
        self.direction == Direction::Away && self.weight.is_none()
    }
}

impl FromStr for TopologyKey {
    type Err = ParseTopologyKeyError;

    fn from_str(text: &str) -> Result<Self, ParseTopologyKeyError> {
        match text.trim() {
            "node" | "node.id" | "node.name" | "node.hostname" => Ok(Self::Node),
            "node.pool" => Ok(Self::Label(crate::constraint::POOL_LABEL.to_owned())),
            other => match other.strip_prefix("node.labels.") {
                Some(label) if !label.is_empty() => Ok(Self::Label(label.to_owned())),
                _ => Err(ParseTopologyKeyError(text.to_owned())),
            },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no part of the cluster: use node, node.pool or node.labels.NAME")]
pub struct ParseTopologyKeyError(String);

impl fmt::Display for TopologyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Label(label) if label == crate::constraint::POOL_LABEL => f.write_str("node.pool"),
            Self::Label(label) => write!(f, "node.labels.{label}"),
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spread => "spread",
            Self::Binpack => "binpack",
            Self::Balanced => "balanced",
        })
    }
}

impl FromStr for Strategy {
    type Err = ParseStrategyError;

    fn from_str(text: &str) -> Result<Self, ParseStrategyError> {
        [Self::Spread, Self::Binpack, Self::Balanced]
            .into_iter()
            .find(|strategy| strategy.to_string() == text)
            .ok_or_else(|| ParseStrategyError(text.to_owned()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no strategy: use spread, binpack or balanced")]
pub struct ParseStrategyError(String);

#[cfg(test)]
mod tests;
