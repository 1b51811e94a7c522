//! How much of the cluster a pass has given away, for simulations and capacity planning.

use std::collections::BTreeMap;

use super::{Scheduler, fleet::share};

/// What is given away, and what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    pub used: u64,
    pub total: u64,
}

/// Of all nodes together.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Usage {
    pub cpu_millis: Amount,
    pub memory_bytes: Amount,
    /// In thousandths of a device, by name.
    pub generic: BTreeMap<String, Amount>,
    /// Of all devices: expected to be free and of no use for what usually runs here, in percent.
    pub stranded_percent: f64,
}

impl Amount {
    #[must_use]
    pub fn percent(self) -> f64 {
        100.0 * share(self.used, self.total)
    }

    fn add(&mut self, used: u64, total: u64) {
        self.used += used;
        self.total += total;
    }
}

impl Scheduler<'_> {
    #[must_use]
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        let (mut stranded, mut devices) = (0.0, 0u64);
        for room in &self.fleet.rooms {
            usage.cpu_millis.add(room.reserved.cpu_millis, room.allocatable.cpu_millis);
            usage.memory_bytes.add(room.reserved.memory_bytes, room.allocatable.memory_bytes);
            for bank in &room.banks {
                let amount = usage.generic.entry(self.fleet.names.text(bank.name).to_owned()).or_default();
                amount.add(bank.capacity() - bank.free(), bank.capacity());
                devices += bank.devices.len() as u64;
            }
            if let Some(mix) = &self.mix
                && !room.banks.is_empty()
            {
                stranded += mix.fragmentation(room.free(), &room.banks, self.fleet.largest());
            }
        }
        usage.stranded_percent = stranded * 100.0 * share(1, devices);
        usage
    }
}
