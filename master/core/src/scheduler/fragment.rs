//! Balanced: the node whose room stays most useful for what usually runs here.
//!
//! The mix is what the cluster runs, as classes of equal needs with their shares. What is free on a
//! node and could not be used by a class, however many of it came, is stranded for it; a node's
//! fragmentation is the expectation of that over the mix, and the node where a placement lets it
//! grow least is taken (after Weng et al., "Beware of Fragmentation", ATC'23, who ask whether one
//! instance finds room; asking for how many sees CPU run out before the devices do).
//!
//! Invariant: the classes and their order depend on the mix alone.

use std::collections::BTreeMap;

use skein_common::{Resources, placement::WHOLE_MILLIS, service::ServiceSpec};

use super::{
    device::{Ask, Bank, Device, Names},
    fleet::{Fleet, Room, share},
    need::Need,
};

/// Rarer ones hardly change the expectation.
const MOST_CLASSES: usize = 150;
/// Classes that need many devices count a little more than their number: they are the first that
/// find no node.
const SIZE_EXPONENT: f64 = 0.25;
/// Ties go to the emptier node, so that equal needs do not pile up where they cannot grow.
const TIE: f64 = 5e-3;

#[derive(Clone, Default)]
pub(super) struct Mix {
    classes: Vec<Class>,
    /// Fragmentation of each position, and how many of the fleet's changes are in it.
    now: Vec<f64>,
    seen: usize,
}

#[derive(Clone)]
struct Class {
    reservation: Resources,
    asks: Vec<Ask>,
    /// Of the classes with, or of those without generic resources.
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
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by(|(left, a), (right, b)| b.cmp(a).then_with(|| left.cmp(right)));
        let is_plain = |(key, _): &(_, u64)| {
            let (_, _, asks): &(u64, u64, Vec<Ask>) = key;
            asks.is_empty()
        };
        let (plain, generic): (Vec<_>, Vec<_>) = counts.into_iter().partition(is_plain);
        let mut classes = Vec::new();
        for mut counts in [plain, generic] {
            counts.truncate(MOST_CLASSES);
            let weight = |asks: &[Ask], count| share(count, 1) * size(asks).powf(SIZE_EXPONENT);
            let total: f64 = counts.iter().map(|((_, _, asks), count)| weight(asks, *count)).sum();
            classes.extend(counts.into_iter().map(|((cpu_millis, memory_bytes, asks), count)| Class {
                reservation: Resources { cpu_millis, memory_bytes },
                share: weight(&asks, count) / total,
                asks,
            }));
        }
        Self { classes, ..Self::default() }
    }

    /// Expected stranded devices; on a node without any, stranded CPU and memory.
    pub(super) fn fragmentation(&self, free: Resources, banks: &[Bank], whole: Resources) -> f64 {
        let mut sum = 0.0;
        for class in &self.classes {
            let copies = copies(free, class.reservation);
            if class.asks.is_empty() {
                if banks.is_empty() {
                    let left =
                        idle(free, whole) - idle(class.reservation, whole) * share(copies.min(1 << 20), 1);
                    sum += class.share * left.max(0.0);
                }
                continue;
            }
            for bank in banks {
                let Some(ask) = class.asks.iter().find(|ask| ask.name == bank.name) else { continue };
                sum += class.share * stranded(&bank.devices, ask, copies);
            }
        }
        sum
    }

    /// Brings the fragmentation of all nodes up to date.
    pub(super) fn refresh(&mut self, fleet: &Fleet<'_>) {
        let of = |mix: &Self, room: &Room<'_>| mix.fragmentation(room.free(), &room.banks, fleet.largest());
        if self.now.len() != fleet.rooms.len() {
            self.now = fleet.rooms.iter().map(|room| of(self, room)).collect();
        } else {
            for position in &fleet.changed[self.seen..] {
                let position = *position as usize;
                self.now[position] = of(self, &fleet.rooms[position]);
            }
        }
        self.seen = fleet.changed.len();
    }

    /// By how much the fragmentation grows; infinitely where there is no room.
    pub(super) fn cost(&self, fleet: &Fleet<'_>, need: &Need<'_>, position: usize) -> f64 {
        let room = &fleet.rooms[position];
        let after = self.choose(room, need, fleet.largest());
        after.map_or(f64::INFINITY, |(after, _)| after - self.now[position] - fleet.slack[position] * TIE)
    }

    /// The devices that strand least, and the fragmentation when they are taken.
    pub(super) fn choose(
        &self,
        room: &Room<'_>,
        need: &Need<'_>,
        whole: Resources,
    ) -> Option<(f64, Vec<Vec<u16>>)> {
        if room.free().lacking(need.reservation).is_some() {
            return None;
        }
        let after = room.free().saturating_sub(need.reservation);
        let mut banks = room.banks.clone();
        let mut chosen = Vec::with_capacity(need.asks.len());
        for ask in &need.asks {
            let bank = banks.iter_mut().find(|bank| bank.name == ask.name)?;
            let devices = self.best_devices(bank, ask, after, whole)?;
            bank.take(&devices, ask.millis);
            chosen.push(devices);
        }
        Some((self.fragmentation(after, &banks, whole), chosen))
    }

    /// Of one device, the one whose taking strands least; of several, the tightest.
    fn best_devices(&self, bank: &Bank, ask: &Ask, after: Resources, whole: Resources) -> Option<Vec<u16>> {
        let tightest = bank.choose(ask)?;
        if ask.count > 1 || ask.millis == WHOLE_MILLIS {
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

/// In devices; 1 for what needs none.
fn size(asks: &[Ask]) -> f64 {
    let millis: u64 = asks.iter().map(|ask| u64::from(ask.count) * u64::from(ask.millis)).sum();
    if asks.is_empty() { 1.0 } else { share(millis, u64::from(WHOLE_MILLIS)) }
}

fn idle(free: Resources, whole: Resources) -> f64 {
    share(free.cpu_millis, whole.cpu_millis) + share(free.memory_bytes, whole.memory_bytes)
}

/// How often this fits into what is free, devices aside.
fn copies(free: Resources, reservation: Resources) -> u64 {
    let by = |free: u64, each: u64| free.checked_div(each).unwrap_or(u64::MAX);
    by(free.cpu_millis, reservation.cpu_millis).min(by(free.memory_bytes, reservation.memory_bytes))
}

/// In devices: what is free and could not be used by as many of the class as find room.
fn stranded(devices: &[Device], ask: &Ask, copies: u64) -> f64 {
    let (mut free, mut fits) = (0u64, 0u64);
    for device in devices {
        free += u64::from(device.free);
        if ask.suits(*device) {
            fits += u64::from(device.free / ask.millis.max(1));
        }
    }
    let fits = (fits / u64::from(ask.count.max(1))).min(copies);
    let used = fits * u64::from(ask.count) * u64::from(ask.millis);
    share(free.saturating_sub(used), u64::from(WHOLE_MILLIS))
}
