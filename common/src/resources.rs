//! Amounts of what a node has and an instance needs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// CPU in thousandths of a core and memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Resources {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
}

/// A resource by name, for explanations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ResourceKind {
    Cpu,
    Memory,
}

impl Resources {
    pub const ZERO: Self = Self { cpu_millis: 0, memory_bytes: 0 };

    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }

    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
        }
    }

    /// The first resource of which `self` offers less than `wanted`.
    #[must_use]
    pub const fn lacking(self, wanted: Self) -> Option<ResourceKind> {
        if self.memory_bytes < wanted.memory_bytes {
            Some(ResourceKind::Memory)
        } else if self.cpu_millis < wanted.cpu_millis {
            Some(ResourceKind::Cpu)
        } else {
            None
        }
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        })
    }
}
