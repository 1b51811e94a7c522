//! One group being placed: its need, the nodes that pass what does not change, its rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use skein_common::{Resources, ServiceId, instance::Phase, placement::Strategy};

use super::{
    Group, Scheduler,
    device::Ask,
    filter,
    fragment::Mix,
    need::Need,
    topology::{Presence, Topology},
};

pub(super) struct Work<'a> {
    pub(super) service: ServiceId,
    pub(super) need: Need<'a>,
    pub(super) eligible: Rc<Standing>,
    pub(super) topology: Topology,
    pub(super) class: ClassKey,
    /// Nodes that have the image, as far as the service's own instances show; of small groups only.
    pub(super) warm: BTreeSet<u32>,
}

/// Nodes that pass the standing filters.
pub(super) struct Standing {
    /// In order.
    pub(super) positions: Vec<u32>,
    passes: Vec<bool>,
}

/// Needs that cost the same everywhere under `balanced`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct ClassKey {
    cpu_millis: u64,
    memory_bytes: u64,
    asks: Vec<Ask>,
}

/// Costs of one class on every node, brought up to date by what has changed since.
#[derive(Clone, Default)]
pub(super) struct Costs {
    values: Vec<f64>,
    /// How many of the fleet's changes are in `values`.
    seen: usize,
}

/// Larger groups spread over so many nodes that the image matters less than the look for it.
const MOST_WARM: usize = 64;

/// Classes kept; beyond it all are computed anew.
const MOST_COSTS: usize = 512;

impl Standing {
    fn of(positions: Vec<u32>, nodes: usize) -> Self {
        let mut passes = vec![false; nodes];
        positions.iter().for_each(|position| passes[*position as usize] = true);
        Self { positions, passes }
    }

    pub(super) fn contains(&self, position: usize) -> bool {
        self.passes.get(position).copied().unwrap_or(false)
    }
}

impl Costs {
    pub(super) fn values(&self) -> &[f64] {
        &self.values
    }
}

impl<'a> Scheduler<'a> {
    pub(super) fn work(&mut self, group: &Group<'a>) -> Work<'a> {
        let need = Need::of(group.spec, self.strategy, &mut self.fleet.names);
        let presence = Presence { state: self.state, placed: &self.placed };
        let own = self.state.instances_of(group.service).filter_map(|instance| instance.occupies());
        let known: Vec<_> = own.filter_map(|node| self.fleet.position(node)).collect();
        let now = presence.placed.get(&group.service).into_iter().flatten().copied();
        self.fleet.count_same(known.into_iter().chain(now));
        let key = need.standing_key();
        let eligible = match self.standing.get(&key) {
            Some(known) => Rc::clone(known),
            None => {
                let rooms = (0u32..).zip(&self.fleet.rooms);
                let passing = rooms.filter(|(_, room)| filter::standing(room, &need).is_none());
                let positions = passing.map(|(position, _)| position).collect();
                let passing = Rc::new(Standing::of(positions, self.fleet.rooms.len()));
                self.standing.insert(key, Rc::clone(&passing));
                passing
            }
        };
        let name = &group.spec.name;
        let topology =
            Topology::of(&need, group.service, name, &presence, &mut self.fleet, &eligible.positions);
        let class = match need.strategy {
            Strategy::Balanced => ClassKey::of(need.reservation, &need.asks),
            Strategy::Spread | Strategy::Binpack => ClassKey::default(),
        };
        let warm = self.warm(group);
        Work { service: group.service, need, eligible, topology, class, warm }
    }

    fn warm(&self, group: &Group<'a>) -> BTreeSet<u32> {
        if group.items.len() > MOST_WARM {
            return BTreeSet::new();
        }
        let image = &group.spec.container.image;
        let pulled = self.state.instances_of(group.service).filter(|instance| {
            let phase = instance.observed.progress.phase;
            phase > Phase::Pulling
                && phase != Phase::Rejected
                && self.state.spec_of(instance).is_some_and(|spec| spec.container.image == *image)
        });
        let positions = pulled.filter_map(|instance| self.fleet.position(instance.node?));
        positions.filter_map(|position| u32::try_from(position).ok()).collect()
    }

    /// Brings the costs of the work's class up to date.
    pub(super) fn refresh_costs(&mut self, work: &Work<'_>) {
        if self.mix.is_none() {
            let specs = self
                .state
                .services()
                .map(|service| (service.spec.as_ref(), service.spec.replicas().map_or(1, u64::from)));
            self.mix = Some(Mix::of(specs, &mut self.fleet.names));
        }
        let Some(mix) = &mut self.mix else { return };
        mix.refresh(&self.fleet);
        let mix = &*mix;
        if self.costs.len() >= MOST_COSTS && !self.costs.contains_key(&work.class) {
            self.costs.clear();
        }
        let costs = self.costs.entry(work.class.clone()).or_default();
        let changed = self.fleet.changed.len();
        if costs.values.is_empty() || changed - costs.seen > costs.values.len() {
            // Nodes that have the same left cost the same.
            let mut known = BTreeMap::new();
            costs.values.clear();
            costs.values.extend(self.fleet.rooms.iter().enumerate().map(|(position, room)| {
                let free = room.free();
                let state = (free.cpu_millis, free.memory_bytes, room.banks.as_slice());
                *known.entry(state).or_insert_with(|| mix.cost(&self.fleet, &work.need, position))
            }));
        } else {
            for position in &self.fleet.changed[costs.seen..] {
                let position = *position as usize;
                costs.values[position] = mix.cost(&self.fleet, &work.need, position);
            }
        }
        costs.seen = changed;
    }
}

impl ClassKey {
    fn of(reservation: Resources, asks: &[Ask]) -> Self {
        Self {
            cpu_millis: reservation.cpu_millis,
            memory_bytes: reservation.memory_bytes,
            asks: asks.to_vec(),
        }
    }
}
