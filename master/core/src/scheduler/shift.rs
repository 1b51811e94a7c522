//! Moves that are worth it: for the spread of a service, for an even load, or to empty nodes.
//!
//! What a service asks for is a list of parts of the cluster to be spread over (hard spread,
//! preferences, nodes); the first of them that a move changes must get better by it. A move for
//! the load changes none of them for the worse. So no move takes back what another gained, and
//! since counts and loads cannot fall for ever, moves come to an end:
//! - for spread, the sum of the squares of a part's counts falls;
//! - for load, the loads of the nodes, the highest first, fall in the order of a dictionary;
//! - of what reserves nothing, the sum of the squares of their number on each node falls.
//!
//! Invariant: whole numbers only; hard rules hold for each move as they do for a placement; what
//! leaves a node is not counted on as room there.
//! Deliberately not here: when a move may begin (`orchestrator/rebalance`).

use std::{cmp::Reverse, collections::BTreeMap, rc::Rc};

use skein_common::{
    InstanceId, NodeId, Resources, ServiceId,
    cluster::RebalanceGoal,
    node::{Availability, Liveness},
    placement::{Strategy, TopologyKey},
    service::ServiceSpec,
};

use super::{
    Group, Scheduler,
    fleet::{Domains, NONE},
    work::Work,
};

/// A service, with where its instances are or will be when all that is under way is done.
pub struct Party<'a> {
    pub service: ServiceId,
    pub spec: &'a ServiceSpec,
    pub seats: Vec<Seat>,
    /// How many may be moved now.
    pub budget: usize,
}

#[derive(Debug, Clone, Copy)]
pub struct Seat {
    pub instance: InstanceId,
    pub node: NodeId,
    pub movable: bool,
}

/// What moves are for, and how many may begin.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub goal: RebalanceGoal,
    pub min_gain_percent: u32,
    pub most: usize,
}

/// An instance would do better elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shift {
    pub instance: InstanceId,
    pub from: NodeId,
    pub to: NodeId,
    pub gain_percent: u32,
    /// What gets better.
    pub reason: String,
}

/// Nodes looked at on either side for one move of load.
const MOST_TRIES: usize = 32;

/// A party while moves are chosen.
struct Side<'a> {
    spec: &'a ServiceSpec,
    work: Work<'a>,
    keys: Vec<Key>,
    /// Instance, position, movable.
    seats: Vec<(InstanceId, usize, bool)>,
    /// Of the service on each node.
    same: BTreeMap<usize, u32>,
    budget: usize,
}

/// One thing to be spread over.
struct Key {
    key: TopologyKey,
    domains: Option<Rc<Domains>>,
    count: BTreeMap<u32, i64>,
}

/// A move that may be made; what is compared first is better when smaller.
struct Found {
    seat: usize,
    to: usize,
    gain_percent: u32,
    reason: String,
}

/// All nodes, as they will be.
struct Field {
    reserved: Vec<Resources>,
    /// Instances that reserve nothing.
    light: Vec<u32>,
    /// What there is of any kind.
    there: Vec<u32>,
}

impl<'a> Scheduler<'a> {
    /// Moves that could begin now, in the order in which they should.
    pub fn shift(&mut self, parties: &[Party<'a>], pace: Pace) -> Vec<Shift> {
        let mut field = self.field(parties);
        let mut sides: Vec<Side<'a>> = Vec::new();
        for party in parties.iter().filter(|party| party.budget > 0) {
            sides.push(self.side(party));
        }
        let mut shifts = Vec::new();
        match pace.goal {
            RebalanceGoal::Even => {
                for side in &mut sides {
                    while shifts.len() < pace.most
                        && side.budget > 0
                        && let Some(found) = self.spread(side, &field, pace)
                    {
                        shifts.push(self.commit(side, &mut field, found));
                    }
                }
                while shifts.len() < pace.most
                    && let Some((side, found)) = self.even(&sides, &field, pace)
                    && let Some(side) = sides.get_mut(side)
                {
                    shifts.push(self.commit(side, &mut field, found));
                }
            }
            RebalanceGoal::Consolidate => {
                while shifts.len() < pace.most
                    && let Some((side, found)) = self.empty(parties, &sides, &field)
                    && let Some(side) = sides.get_mut(side)
                {
                    shifts.push(self.commit(side, &mut field, found));
                }
            }
        }
        shifts
    }

    fn field(&self, parties: &[Party<'_>]) -> Field {
        let nodes = self.fleet.rooms.len();
        let mut field =
            Field { reserved: vec![Resources::ZERO; nodes], light: vec![0; nodes], there: vec![0; nodes] };
        for party in parties {
            for position in party.seats.iter().filter_map(|seat| self.fleet.position(seat.node)) {
                field.add(position, party.spec, !party.spec.mode.is_per_node());
            }
        }
        field
    }

    fn side(&mut self, party: &Party<'a>) -> Side<'a> {
        let group = Group { service: party.service, items: Vec::new(), spec: party.spec };
        let work = self.work(&group);
        let policy = &party.spec.placement;
        let mut keys: Vec<TopologyKey> = policy.spread.iter().map(|spread| spread.key.clone()).collect();
        keys.extend(policy.preferences.iter().cloned());
        if work.need.strategy == Strategy::Spread && !keys.contains(&TopologyKey::Node) {
            keys.push(TopologyKey::Node);
        }
        let seats: Vec<_> = party
            .seats
            .iter()
            .filter_map(|seat| Some((seat.instance, self.fleet.position(seat.node)?, seat.movable)))
            .collect();
        let mut same = BTreeMap::new();
        seats.iter().for_each(|(_, position, _)| *same.entry(*position).or_default() += 1);
        let keys = keys.into_iter().map(|key| {
            let domains = match &key {
                TopologyKey::Node => None,
                TopologyKey::Label(label) => Some(self.fleet.domains(label)),
            };
            let mut key = Key { key, domains, count: BTreeMap::new() };
            for (_, position, _) in &seats {
                *key.count.entry(key.domain(*position)).or_default() += 1;
            }
            key
        });
        let keys = keys.collect();
        Side { spec: party.spec, work, keys, seats, same, budget: party.budget }
    }

    /// Whether the instance may go there by all hard rules.
    fn admits(&self, side: &Side<'_>, from: usize, to: usize) -> bool {
        let same = side.same.get(&to).copied().unwrap_or(0);
        from != to && self.has_room(&side.work, to) && side.work.topology.admits_move(Some(from), to, same)
    }

    /// The move that does most for the spread of the service.
    fn spread(&self, side: &Side<'_>, field: &Field, pace: Pace) -> Option<Found> {
        if !side.may_improve() {
            return None;
        }
        let mut sources: BTreeMap<usize, usize> = BTreeMap::new();
        for (number, (_, position, movable)) in side.seats.iter().enumerate() {
            if *movable {
                sources.entry(*position).or_insert(number);
            }
        }
        let mut best: Option<(Vec<i64>, u32, u32, Found)> = None;
        for (from, seat) in sources {
            let loaded = self.load(field, from, Resources::ZERO);
            for to in side.work.eligible.positions.iter().map(|position| *position as usize) {
                let Some(key) = side.improves(from, to) else { continue };
                let changes: Vec<i64> = side.keys.iter().map(|key| key.change(from, to)).collect();
                // Among equals from the fullest to the emptiest.
                let rank = (changes, u32::MAX - loaded, self.load(field, to, side.reservation()));
                let known = best.as_ref().map(|(changes, full, load, _)| (changes, *full, *load));
                if known.is_some_and(|known| known <= (&rank.0, rank.1, rank.2))
                    || !self.admits(side, from, to)
                {
                    continue;
                }
                let gain = rank.0.iter().find(|change| **change != 0).map_or(0, |change| -change);
                let gain_percent = u32::try_from(gain.saturating_mul(100)).unwrap_or(u32::MAX);
                if gain_percent >= pace.min_gain_percent {
                    let reason = side.told(key, from, to);
                    best = Some((rank.0, rank.1, rank.2, Found { seat, to, gain_percent, reason }));
                }
            }
        }
        best.map(|(.., found)| found)
    }

    /// A move that makes the load more even, from the fullest node on.
    fn even(&self, sides: &[Side<'_>], field: &Field, pace: Pace) -> Option<(usize, Found)> {
        let there = Resources::ZERO;
        let mut by_load: Vec<usize> = (0..self.fleet.rooms.len()).filter(|n| self.takes_part(*n)).collect();
        by_load.sort_by_key(|n| (Reverse(self.load(field, *n, there)), *n));
        for from in by_load.iter().copied().take(MOST_TRIES) {
            let targets = by_load.iter().rev().copied();
            if let Some(found) = self.relieve(sides, field, pace, from, targets, false) {
                return Some(found);
            }
        }
        by_load.sort_by_key(|n| (Reverse(field.light[*n]), Reverse(self.load(field, *n, there)), *n));
        for from in by_load.iter().copied().take(MOST_TRIES) {
            let targets = by_load.iter().rev().copied();
            if let Some(found) = self.relieve(sides, field, pace, from, targets, true) {
                return Some(found);
            }
        }
        None
    }

    /// The best move away from this node: of what reserves nothing (`light`), or of what does.
    fn relieve(
        &self,
        sides: &[Side<'_>],
        field: &Field,
        pace: Pace,
        from: usize,
        targets: impl Iterator<Item = usize> + Clone,
        light: bool,
    ) -> Option<(usize, Found)> {
        let mut best: Option<(usize, Found)> = None;
        for (number, side) in sides.iter().enumerate() {
            if side.budget == 0
                || side.work.need.strategy != Strategy::Spread
                || light != (side.reservation() == Resources::ZERO)
            {
                continue;
            }
            let Some(seat) = side.seats.iter().position(|(_, at, movable)| *movable && *at == from) else {
                continue;
            };
            let targets = targets.clone().filter(|to| {
                side.work.eligible.contains(*to) && side.keeps(from, *to) && self.admits(side, from, *to)
            });
            for to in targets.take(MOST_TRIES) {
                let Some((gain_percent, reason)) = self.relief(side, field, from, to, light) else {
                    continue;
                };
                if gain_percent >= pace.min_gain_percent
                    && best.as_ref().is_none_or(|(_, best)| gain_percent > best.gain_percent)
                {
                    best = Some((number, Found { seat, to, gain_percent, reason }));
                }
            }
        }
        best
    }

    fn relief(
        &self,
        side: &Side<'_>,
        field: &Field,
        from: usize,
        to: usize,
        light: bool,
    ) -> Option<(u32, String)> {
        if light {
            let (here, there) = (field.light[from], field.light[to]);
            let gain = here.checked_sub(there + 1)?;
            let reason = format!("even load: {here} instances that reserve nothing here, {there} there");
            return Some((gain.saturating_mul(100), reason));
        }
        let wanted = side.reservation();
        let here = self.load(field, from, Resources::ZERO);
        let left = permille(field.reserved[from].saturating_sub(wanted), self.fleet.rooms[from].allocatable);
        let there = self.load(field, to, wanted);
        let gain = here.checked_sub(left.max(there))? / 10;
        let reason = format!(
            "even load: {} % here, {} % there",
            here / 10,
            self.load(field, to, Resources::ZERO) / 10
        );
        Some((gain, reason))
    }

    /// A move off the emptiest node that others have room for as a whole.
    fn empty(&self, parties: &[Party<'_>], sides: &[Side<'_>], field: &Field) -> Option<(usize, Found)> {
        let there = Resources::ZERO;
        let mut nodes: Vec<usize> =
            (0..self.fleet.rooms.len()).filter(|n| field.there[*n] > 0 && self.takes_part(*n)).collect();
        nodes.sort_by_key(|n| (self.load(field, *n, there), field.there[*n], *n));
        for (rank, from) in nodes.iter().copied().enumerate() {
            let fuller = nodes.get(rank + 1..).unwrap_or_default();
            if let Some(found) = self.vacate(parties, sides, field, from, fuller) {
                return Some(found);
            }
        }
        None
    }

    /// The first move off the node, when all that is there finds room on those.
    fn vacate(
        &self,
        parties: &[Party<'_>],
        sides: &[Side<'_>],
        field: &Field,
        from: usize,
        fuller: &[usize],
    ) -> Option<(usize, Found)> {
        let node = self.fleet.rooms[from].node.id;
        let there = parties.iter().filter(|party| !party.spec.mode.is_per_node());
        let there: usize =
            there.map(|party| party.seats.iter().filter(|seat| seat.node == node).count()).sum();
        let mut leaving: Vec<(usize, usize)> = Vec::new();
        for (number, side) in sides.iter().enumerate() {
            let plain = side.work.need.asks.is_empty() && side.work.need.ports.is_empty();
            let here = side.seats.iter().enumerate().filter(|(_, (_, at, movable))| *at == from && *movable);
            leaving.extend(here.filter(|_| plain).map(|(seat, _)| (number, seat)));
        }
        if leaving.len() < there {
            return None;
        }
        leaving.sort_by_key(|(side, seat)| {
            let wanted = sides.get(*side).map_or(Resources::ZERO, Side::reservation);
            (Reverse((wanted.memory_bytes, wanted.cpu_millis)), *side, *seat)
        });
        let mut free: BTreeMap<usize, Resources> =
            fuller.iter().map(|to| (*to, self.fleet.rooms[*to].free())).collect();
        let mut first = None;
        for (number, seat) in leaving {
            let side = sides.get(number)?;
            // The fullest first.
            let to = fuller.iter().rev().copied().find(|to| {
                free.get(to).is_some_and(|free| free.lacking(side.reservation()).is_none())
                    && side.work.eligible.contains(*to)
                    && side.keeps(from, *to)
                    && self.admits(side, from, *to)
            })?;
            if let Some(free) = free.get_mut(&to) {
                *free = free.saturating_sub(side.reservation());
            }
            if first.is_none() && side.budget > 0 {
                let reason = format!("empties node {}", self.fleet.rooms[from].node.description.name);
                let gain_percent = (1_000 - self.load(field, from, Resources::ZERO).min(1_000)) / 10;
                first = Some((number, Found { seat, to, gain_percent, reason }));
            }
        }
        first
    }

    fn commit(&mut self, side: &mut Side<'a>, field: &mut Field, found: Found) -> Shift {
        let Found { seat, to, gain_percent, reason } = found;
        let (instance, from, _) = side.seats[seat];
        let spread = !side.spec.mode.is_per_node();
        field.remove(from, side.spec);
        field.add(to, side.spec, spread);
        for key in &mut side.keys {
            let (left, gained) = (key.domain(from), key.domain(to));
            *key.count.entry(left).or_default() -= 1;
            *key.count.entry(gained).or_default() += 1;
        }
        if let Some(left) = side.same.get_mut(&from) {
            *left = left.saturating_sub(1);
        }
        *side.same.entry(to).or_default() += 1;
        side.seats[seat] = (instance, to, false);
        side.budget -= 1;
        let (from, node) = (self.fleet.rooms[from].node.id, self.fleet.rooms[to].node.id);
        // Its room is taken at once; what it leaves is free only when it has gone.
        let _ = self.take(&mut side.work, instance, to);
        Shift { instance, from, to: node, gain_percent, reason }
    }

    /// In thousandths of the scarcer resource, with so much more.
    fn load(&self, field: &Field, position: usize, more: Resources) -> u32 {
        permille(field.reserved[position].saturating_add(more), self.fleet.rooms[position].allocatable)
    }

    /// Gives and takes instances.
    fn takes_part(&self, position: usize) -> bool {
        let node = self.fleet.rooms[position].node;
        node.liveness == Liveness::Ready && node.availability == Availability::Active
    }
}

fn permille(reserved: Resources, allocatable: Resources) -> u32 {
    let share = |part: u64, whole: u64| {
        let value = u128::from(part) * 1_000 / u128::from(whole.max(1));
        if part == 0 { 0 } else { u32::try_from(value).unwrap_or(u32::MAX) }
    };
    let cpu = share(reserved.cpu_millis, allocatable.cpu_millis);
    cpu.max(share(reserved.memory_bytes, allocatable.memory_bytes))
}

impl Field {
    fn add(&mut self, position: usize, spec: &ServiceSpec, counts: bool) {
        let wanted = spec.resources.reservation;
        self.reserved[position] = self.reserved[position].saturating_add(wanted);
        self.light[position] += u32::from(counts && wanted == Resources::ZERO);
        self.there[position] += u32::from(counts);
    }

    fn remove(&mut self, position: usize, spec: &ServiceSpec) {
        let wanted = spec.resources.reservation;
        self.reserved[position] = self.reserved[position].saturating_sub(wanted);
        self.light[position] -= u32::from(wanted == Resources::ZERO).min(self.light[position]);
        self.there[position] = self.there[position].saturating_sub(1);
    }
}

impl Side<'_> {
    fn reservation(&self) -> Resources {
        self.spec.resources.reservation
    }

    /// The first part that the move changes, when it gets better.
    fn improves(&self, from: usize, to: usize) -> Option<&Key> {
        self.keys.iter().find(|key| key.change(from, to) != 0).filter(|key| key.change(from, to) < 0)
    }

    /// No part gets worse before another gets better.
    fn keeps(&self, from: usize, to: usize) -> bool {
        self.keys.iter().map(|key| key.change(from, to)).find(|change| *change != 0).is_none_or(|c| c < 0)
    }

    /// Whether anything could get better at all: cheap, and true too often.
    fn may_improve(&self) -> bool {
        self.keys.iter().any(|key| {
            let most = key.count.values().max().copied().unwrap_or(0);
            let domain = |position: &u32| key.domain(*position as usize);
            let counts = self.work.eligible.positions.iter().map(domain).filter(|domain| *domain != NONE);
            let least = counts.map(|domain| key.count.get(&domain).copied().unwrap_or(0)).min();
            key.count.get(&NONE).is_some_and(|outside| *outside > 0)
                || least.is_some_and(|least| most - least > 1)
        })
    }

    fn told(&self, key: &Key, from: usize, to: usize) -> String {
        let count = |position| key.count.get(&key.domain(position)).copied().unwrap_or(0);
        format!("spread over {}: {} here, {} there", key.key, count(from), count(to))
    }
}

impl Key {
    /// `NONE`: the node has no such label, and is outside of what is spread over.
    fn domain(&self, position: usize) -> u32 {
        match &self.domains {
            None => u32::try_from(position).unwrap_or(NONE),
            Some(domains) => domains.of.get(position).copied().unwrap_or(NONE),
        }
    }

    /// Half the growth of the sum of squares; being outside is worse than any count.
    fn change(&self, from: usize, to: usize) -> i64 {
        let (from, to) = (self.domain(from), self.domain(to));
        let count = |domain: u32| self.count.get(&domain).copied().unwrap_or(0);
        match (from, to) {
            _ if from == to => 0,
            (NONE, _) => -1,
            (_, NONE) => 1,
            _ => count(to) + 1 - count(from),
        }
    }
}
