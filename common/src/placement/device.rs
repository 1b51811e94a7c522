//! Generic resources: named, counted in devices, each divisible into thousandths.
//!
//! Invariant: a share lies on one device; devices of one resource are numbered from 0 in the
//! order of the node's description.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Thousandths of one whole device.
pub const WHOLE_MILLIS: u16 = 1_000;

/// What a node has: so many devices of one model. A resource may have several models.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GenericResource {
    /// `gpu`, `licence`, …
    pub name: String,
    /// Empty = it has none.
    #[serde(default)]
    pub model: String,
    pub count: u16,
}

/// What one instance needs: `count` devices, of each at least `millis` thousandths.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GenericRequest {
    pub name: String,
    /// At least 1.
    pub count: u16,
    /// Of each device, 1 to 1,000; a whole device is nobody else's.
    pub millis: u16,
    /// Any of these; empty = any model.
    #[serde(default)]
    pub models: Vec<String>,
}

/// A device, or a share of one, that an instance has been given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceShare {
    /// Of the resource.
    pub name: String,
    /// Number of the device among the node's of this name.
    pub device: u16,
    pub millis: u16,
}

impl GenericRequest {
    /// In thousandths of a device.
    #[must_use]
    pub fn total_millis(&self) -> u64 {
        u64::from(self.count) * u64::from(self.millis)
    }

    #[must_use]
    pub fn accepts(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|accepted| accepted == model)
    }
}

impl fmt::Display for DeviceShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.device)?;
        if self.millis < WHOLE_MILLIS {
            write!(f, " ({}/{WHOLE_MILLIS})", self.millis)?;
        }
        Ok(())
    }
}
