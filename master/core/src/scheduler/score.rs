//! Which of the nodes that may take an instance is best: spread.
//!
//! Invariant: whole numbers only, compared field by field: a higher rule decides, a lower one
//! breaks ties. (Where the slot failed lately is weighed by the chooser, it differs by instance.)

use super::Room;

/// Smaller is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score {
    /// Instances of the same service.
    same: u32,
    /// Of the scarcer resource, in thousandths.
    reserved_permille: u32,
    instances: u32,
}

impl Score {
    pub(super) fn of(room: &Room<'_>) -> Self {
        let cpu = permille(room.reserved.cpu_millis, room.allocatable.cpu_millis);
        let memory = permille(room.reserved.memory_bytes, room.allocatable.memory_bytes);
        Self { same: room.same, reserved_permille: cpu.max(memory), instances: room.instances }
    }
}

fn permille(part: u64, whole: u64) -> u32 {
    if part == 0 {
        return 0;
    }
    let value = u128::from(part) * 1000 / u128::from(whole.max(1));
    u32::try_from(value).unwrap_or(u32::MAX)
}
