//! The nodes as one pass sees them: rooms, columns for fast scans, and domains of labels.
//!
//! Invariant: a column equals what its room says; whoever changes a room calls [`Fleet::touch`].
//! Positions follow the order of node ids. Deliberately not here: which node is good (`score`).

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use skein_common::{NodeId, Resources, node::Node};

use super::device::{Ask, Bank, Names, banks};
use crate::state::ClusterState;

/// A node as this pass sees it.
#[derive(Clone)]
pub(super) struct Room<'a> {
    pub(super) node: &'a Node,
    pub(super) allocatable: Resources,
    pub(super) reserved: Resources,
    /// Everything that occupies the node.
    pub(super) instances: u32,
    /// Of those that say how many they need.
    pub(super) pids: u64,
    pub(super) banks: Vec<Bank>,
}

/// Nodes by the value of one label.
pub(super) struct Domains {
    /// Of each position; `NONE` = the node has no such label.
    pub(super) of: Vec<u32>,
    pub(super) values: Vec<String>,
}

/// [`Fleet::busy`] of a node that has nothing left.
const WHOLE_BUSY: u32 = 20;

/// Load, what was measured, instances, position.
type OrderKey = (u64, u32, u32, u32);

pub(super) const NONE: u32 = u32::MAX;

#[derive(Clone, Default)]
pub(super) struct Fleet<'a> {
    pub(super) rooms: Vec<Room<'a>>,
    pub(super) names: Names,
    /// Free CPU and memory.
    pub(super) cpu: Vec<u64>,
    pub(super) memory: Vec<u64>,
    pub(super) instances: Vec<u32>,
    /// Reserved share of the scarcest resource, below 1; whole thousandths, so that nodes that
    /// hardly differ tie.
    pub(super) load: Vec<f64>,
    /// Measured, in twentieths of the scarcer resource, so that nodes that hardly differ tie.
    pub(super) busy: Vec<u32>,
    /// What a node that is busy as a whole costs more.
    pub(super) busy_cost: f64,
    /// What is free, as shares of the largest node, summed over the resources.
    pub(super) slack: Vec<f64>,
    /// By load, instances and position; kept from the first time on that it is asked for.
    order: Option<BTreeSet<OrderKey>>,
    /// Instances of the group's service.
    pub(super) same: Vec<u32>,
    same_at: Vec<u32>,
    /// Positions in the order in which they changed.
    pub(super) changed: Vec<u32>,
    largest: Resources,
    largest_bank: BTreeMap<u32, u64>,
    domains: BTreeMap<String, Rc<Domains>>,
}

impl<'a> Fleet<'a> {
    pub(super) fn new(state: &'a ClusterState) -> Self {
        let mut fleet = Self::default();
        for node in state.nodes() {
            let room = Room::new(state, node, &mut fleet.names);
            fleet.largest.cpu_millis = fleet.largest.cpu_millis.max(room.allocatable.cpu_millis);
            fleet.largest.memory_bytes = fleet.largest.memory_bytes.max(room.allocatable.memory_bytes);
            for bank in &room.banks {
                let largest = fleet.largest_bank.entry(bank.name).or_default();
                *largest = (*largest).max(bank.capacity());
            }
            fleet.rooms.push(room);
        }
        let count = fleet.rooms.len();
        (fleet.cpu, fleet.memory) = (vec![0; count], vec![0; count]);
        (fleet.load, fleet.slack) = (vec![0.0; count], vec![0.0; count]);
        (fleet.instances, fleet.same) = (vec![0; count], vec![0; count]);
        fleet.busy = vec![0; count];
        (0..count).for_each(|position| fleet.refresh(position));
        fleet
    }

    /// What was measured, and what it costs beside what is reserved.
    pub(super) fn measure(&mut self, measured: &BTreeMap<NodeId, u16>, cost: f64) {
        self.busy_cost = cost;
        for position in 0..self.rooms.len() {
            let permille = measured.get(&self.rooms[position].node.id).copied().unwrap_or(0);
            self.busy[position] = u32::from(permille.min(1_000)) * WHOLE_BUSY / 1_000;
            self.refresh(position);
        }
    }

    pub(super) fn position(&self, node: NodeId) -> Option<usize> {
        self.rooms.binary_search_by_key(&node, |room| room.node.id).ok()
    }

    /// After a room has changed.
    pub(super) fn touch(&mut self, position: usize) {
        let before = self.order_key(position);
        self.refresh(position);
        let after = self.order_key(position);
        if let Some(order) = &mut self.order {
            order.remove(&before);
            order.insert(after);
        }
        self.changed.push(u32::try_from(position).unwrap_or(u32::MAX));
    }

    /// Loads are not negative, so their bits are ordered as they are.
    fn order_key(&self, position: usize) -> OrderKey {
        let place = u32::try_from(position).unwrap_or(NONE);
        (self.load[position].to_bits(), self.busy[position], self.instances[position], place)
    }

    pub(super) fn keep_order(&mut self) {
        if self.order.is_none() {
            self.order = Some((0..self.rooms.len()).map(|position| self.order_key(position)).collect());
        }
    }

    /// Positions, the least loaded first; nothing before [`Fleet::keep_order`].
    pub(super) fn emptiest(&self) -> impl Iterator<Item = u32> {
        self.order.iter().flatten().map(|(.., position)| *position)
    }

    fn refresh(&mut self, position: usize) {
        let room = &self.rooms[position];
        let free = room.free();
        let mut load = permille(room.reserved.cpu_millis, room.allocatable.cpu_millis)
            .max(permille(room.reserved.memory_bytes, room.allocatable.memory_bytes));
        let mut slack = share(free.cpu_millis, self.largest.cpu_millis)
            + share(free.memory_bytes, self.largest.memory_bytes);
        for bank in &room.banks {
            load = load.max(permille(bank.capacity() - bank.free(), bank.capacity()));
            slack += share(bank.free(), self.largest_bank.get(&bank.name).copied().unwrap_or(0));
        }
        self.cpu[position] = free.cpu_millis;
        self.memory[position] = free.memory_bytes;
        self.instances[position] = room.instances;
        let busy = self.busy_cost * f64::from(self.busy[position]) / f64::from(WHOLE_BUSY);
        self.load[position] = f64::from(load) / 1_001.0 + busy;
        self.slack[position] = slack + busy;
    }

    /// Forgets the counts of the service before, and counts these.
    pub(super) fn count_same(&mut self, positions: impl Iterator<Item = usize>) {
        for position in self.same_at.drain(..) {
            self.same[position as usize] = 0;
        }
        positions.for_each(|position| self.add_same(position));
    }

    pub(super) fn add_same(&mut self, position: usize) {
        self.same[position] = self.same[position].saturating_add(1);
        self.same_at.push(u32::try_from(position).unwrap_or(0));
    }

    pub(super) fn domains(&mut self, label: &str) -> Rc<Domains> {
        if let Some(known) = self.domains.get(label) {
            return Rc::clone(known);
        }
        let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
        let mut domains = Domains { of: Vec::with_capacity(self.rooms.len()), values: Vec::new() };
        for room in &self.rooms {
            let number = room.node.label(label).map(|value| {
                *numbers.entry(value).or_insert_with(|| {
                    domains.values.push(value.to_owned());
                    u32::try_from(domains.values.len() - 1).unwrap_or(NONE)
                })
            });
            domains.of.push(number.unwrap_or(NONE));
        }
        let domains = Rc::new(domains);
        self.domains.insert(label.to_owned(), Rc::clone(&domains));
        domains
    }

    /// The most that any node could give to one instance.
    pub(super) const fn largest(&self) -> Resources {
        self.largest
    }

    /// The most devices that suit, on any node, were it empty.
    pub(super) fn most_devices(&self, ask: &Ask) -> usize {
        self.rooms
            .iter()
            .map(|room| room.bank(ask.name).map_or(0, |bank| bank.suiting(ask)))
            .max()
            .unwrap_or(0)
    }
}

impl<'a> Room<'a> {
    fn new(state: &ClusterState, node: &'a Node, names: &mut Names) -> Self {
        let occupancy = state.occupancy(node.id);
        Self {
            node,
            allocatable: node.allocatable(),
            reserved: occupancy.reserved,
            instances: occupancy.instances,
            pids: occupancy.pids,
            banks: banks(state, node, names),
        }
    }

    pub(super) fn free(&self) -> Resources {
        self.allocatable.saturating_sub(self.reserved)
    }

    pub(super) fn bank(&self, name: u32) -> Option<&Bank> {
        self.banks.iter().find(|bank| bank.name == name)
    }
}

/// Scores need no more than 52 bits.
#[allow(clippy::cast_precision_loss)]
pub(super) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn permille(part: u64, whole: u64) -> u32 {
    if part == 0 {
        return 0;
    }
    let value = u128::from(part) * 1000 / u128::from(whole.max(1));
    u32::try_from(value.min(1_000)).unwrap_or(1_000)
}
