//! Balanced: the node whose room stays most useful for what usually runs here.
//!
//! The mix is what the cluster runs, as classes of equal needs with their shares. What is free on a
//! node and could not be used by a class is stranded for it; a node's fragmentation is the
//! expectation of that over the mix, and the node where a placement lets it grow least is taken
//! (Weng et al., "Beware of Fragmentation", ATC'23).
//!
//! Invariant: the classes and their order depend on the mix alone.

use std::collections::BTreeMap;

use skein_common::{Resources, service::ServiceSpec};

use super::{
    device::{Ask, Bank, Device, Names},
    fleet::{Fleet, Room, share},
    need::Need,
};

/// Rarer ones hardly change the expectation.
const MOST_CLASSES: usize = 96;

#[derive(Default)]
pub(super) struct Mix {
    classes: Vec<Class>,
}

struct Class {
    reservation: Resources,
    asks: Vec<Ask>,
    /// Of all instances.
    share: f64,
}

impl Mix {
    pub(super) fn of<'s>(specs: impl Iterator<Item = (&'s ServiceSpec, u64)>, names: &mut Names) -> Self {
        let mut counts: BTreeMap<(u64, u64, Vec<Ask>), u64> = BTreeMap::new();
        for (spec, count) in specs {
            let reservation = spec.resources.reservation;
            let asks = spec.placement.generic.iter().map(|request| names.ask(request)).collect();
            *counts.entry((reservation.cpu_millis, reservation.memory_bytes, asks)).or_default() += count;
        }
        let mut classes: Vec<_> = counts.into_iter().collect();
        classes.sort_by(|(left, a), (right, b)| b.cmp(a).then_with(|| left.cmp(right)));
        classes.truncate(MOST_CLASSES);
        let total = classes.iter().map(|(_, count)| count).sum();
        let class = |((cpu_millis, memory_bytes, asks), count)| Class {
            reservation: Resources { cpu_millis, memory_bytes },
            asks,
            share: share(count, total),
        };
        Self { classes: classes.into_iter().map(class).collect() }
    }

    /// Expected stranded devices (of all generic resources) and stranded CPU and memory.
    pub(super) fn fragmentation(&self, free: Resources, banks: &[Bank], whole: Resources) -> f64 {
        let idle = share(free.cpu_millis, whole.cpu_millis) + share(free.memory_bytes, whole.memory_bytes);
        let mut sum = 0.0;
        for class in &self.classes {
            let has_room = free.lacking(class.reservation).is_none();
            if class.asks.is_empty() {
                if banks.is_empty() && !has_room {
                    sum += class.share * idle;
                }
                continue;
            }
            for bank in banks {
                let Some(ask) = class.asks.iter().find(|ask| ask.name == bank.name) else { continue };
                sum += class.share * stranded(&bank.devices, ask, has_room);
            }
        }
        sum
    }

    /// By how much the fragmentation grows, and the devices to take for that.
    pub(super) fn growth(
        &self,
        room: &Room<'_>,
        need: &Need<'_>,
        whole: Resources,
    ) -> Option<(f64, Vec<Vec<u16>>)> {
        let free = room.free();
        let after = free.saturating_sub(need.reservation);
        let before = self.fragmentation(free, &room.banks, whole);
        let mut banks = room.banks.clone();
        let mut chosen = Vec::with_capacity(need.asks.len());
        for ask in &need.asks {
            let bank = banks.iter_mut().find(|bank| bank.name == ask.name)?;
            let devices = self.best_devices(bank, ask, after, whole)?;
            bank.take(&devices, ask.millis);
            chosen.push(devices);
        }
        Some((self.fragmentation(after, &banks, whole) - before, chosen))
    }

    /// Of one device, the one whose taking strands least; of several, the tightest.
    fn best_devices(&self, bank: &Bank, ask: &Ask, after: Resources, whole: Resources) -> Option<Vec<u16>> {
        let tightest = bank.choose(ask)?;
        if ask.count > 1 {
            return Some(tightest);
        }
        let mut seen: Vec<Device> = Vec::new();
        let mut best: Option<(f64, u16, u16)> = None;
        for (number, device) in (0u16..).zip(&bank.devices) {
            if !ask.suits(*device) || seen.contains(device) {
                continue;
            }
            seen.push(*device);
            let mut with = bank.clone();
            with.take(&[number], ask.millis);
            let cost = self.fragmentation(after, std::slice::from_ref(&with), whole);
            if best.is_none_or(|(least, free, _)| (cost, device.free) < (least, free)) {
                best = Some((cost, device.free, number));
            }
        }
        best.map(|(_, _, number)| vec![number])
    }
}

/// In devices: all that is free when the class cannot run here, else what is too small for it.
fn stranded(devices: &[Device], ask: &Ask, has_room: bool) -> f64 {
    let (mut free, mut useful, mut suiting) = (0u32, 0u32, 0u16);
    for device in devices {
        free += u32::from(device.free);
        if ask.suits(*device) {
            useful += u32::from(device.free);
            suiting = suiting.saturating_add(1);
        }
    }
    let usable = if has_room && suiting >= ask.count { useful } else { 0 };
    f64::from(free - usable) / 1_000.0
}

impl Fleet<'_> {
    /// Growth of fragmentation; ties go to the fuller node.
    pub(super) fn balanced_cost(&self, mix: &Mix, need: &Need<'_>, position: usize) -> f64 {
        let growth = mix.growth(&self.rooms[position], need, self.largest());
        growth.map_or(f64::INFINITY, |(growth, _)| growth + self.slack[position] * 1e-6)
    }
}
