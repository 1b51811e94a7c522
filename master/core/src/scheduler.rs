//! Instance → Node: filter, score, choose.
//!
//! Instances of one (service, generation) are placed as a group: nodes are filtered once, kept in
//! a heap by score, and only the node that was chosen is scored again. So placing costs
//! O(nodes + instances · log nodes), and a group that fits nowhere is refused at once.
//!
//! Invariant: what this pass has placed counts at once; nothing is placed beyond a node's free
//! resources or on a used port; equal input gives equal placements (ties go to the lower node id).
//! Deliberately not here: which instances there should be (`orchestrator`).

mod explain;
mod filter;
mod ports;
mod score;

pub use self::ports::DYNAMIC_PORTS;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use skein_common::{
    InstanceId, NodeId, Resources, ServiceId, instance::PortBinding, node::Node, placement::DeviceShare,
    service::ServiceSpec,
};

use self::{
    explain::Tally,
    filter::{Need, Refusal},
    ports::PortBook,
    score::Score,
};
use crate::state::ClusterState;

/// Instances that run the same spec.
pub(crate) struct Group<'a> {
    pub(crate) service: ServiceId,
    pub(crate) items: Vec<Item>,
    pub(crate) spec: &'a ServiceSpec,
}

/// One instance that wants a node.
pub(crate) struct Item {
    pub(crate) instance: InstanceId,
    /// The only node it may go to (global services).
    pub(crate) pinned: Option<NodeId>,
    /// Where this slot failed lately, latest last: taken only when nothing else is left.
    pub(crate) failed_on: Vec<NodeId>,
}

/// Where an instance goes, or why it goes nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    Placed(Placed),
    Unplaced { explanation: String },
}

/// A node, and what of it is the instance's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) node: NodeId,
    pub(crate) ports: Vec<PortBinding>,
    pub(crate) devices: Vec<DeviceShare>,
}

/// A node as this pass sees it.
struct Room<'a> {
    node: &'a Node,
    allocatable: Resources,
    reserved: Resources,
    /// Everything that occupies the node.
    instances: u32,
    /// Instances of the group's service among them.
    same: u32,
}

/// One pass over one state.
pub(crate) struct Scheduler<'a> {
    state: &'a ClusterState,
    /// In the order of node ids.
    rooms: Vec<Room<'a>>,
    ports: PortBook<'a>,
    /// Instances of each service that this pass placed, by position of the node.
    placed: BTreeMap<ServiceId, Vec<usize>>,
}

type Heap = BinaryHeap<Reverse<(Score, usize)>>;

impl<'a> Scheduler<'a> {
    pub(crate) fn new(state: &'a ClusterState) -> Self {
        let rooms = state.nodes().map(|node| Room::new(state, node)).collect();
        Self { state, rooms, ports: PortBook::new(state), placed: BTreeMap::new() }
    }

    /// One decision an item, in their order.
    pub(crate) fn place(&mut self, group: &Group<'a>) -> Vec<Decision> {
        self.count_same(group.service);
        let need = Need::of(group.spec);
        let (mut heap, mut tally) = (Heap::new(), Tally::default());
        if group.items.iter().any(|item| item.pinned.is_none()) {
            (heap, tally) = self.candidates(&need);
        }
        let mut explanation = None;
        let mut decide = |item: &Item| {
            if let Some(node) = item.pinned {
                return self.place_pinned(group.service, &need, item.instance, node);
            }
            match self.pop_best(&need, &mut heap, &mut tally, &item.failed_on) {
                Some(position) => {
                    let decision = self.take(group.service, &need, item.instance, position);
                    self.push(&mut heap, position);
                    decision
                }
                None => {
                    let text = explanation.get_or_insert_with(|| tally.to_string());
                    Decision::Unplaced { explanation: text.clone() }
                }
            }
        };
        group.items.iter().map(&mut decide).collect()
    }

    /// Nodes that pass all filters, and why the others do not.
    fn candidates(&self, need: &Need<'_>) -> (Heap, Tally) {
        let (mut heap, mut tally) = (Heap::new(), Tally::default());
        for (position, room) in self.rooms.iter().enumerate() {
            match filter::refusal(room, need, &self.ports) {
                Some(refusal) => tally.add(refusal),
                None => heap.push(Reverse((Score::of(room), position))),
            }
        }
        (heap, tally)
    }

    /// The best node where the slot did not fail lately; of the others the one where it failed
    /// least and longest ago. A node that has filled up meanwhile leaves the heap.
    fn pop_best(
        &self,
        need: &Need<'_>,
        heap: &mut Heap,
        tally: &mut Tally,
        failed_on: &[NodeId],
    ) -> Option<usize> {
        let mut aside = Vec::new();
        let mut best = None;
        while let Some(Reverse((score, position))) = heap.pop() {
            let room = &self.rooms[position];
            if let Some(refusal) = filter::refusal_when_filling(room, need, &self.ports) {
                tally.add(refusal);
                continue;
            }
            let failures = failed_on.iter().filter(|node| **node == room.node.id).count();
            if failures == 0 {
                best = Some(position);
                break;
            }
            let latest = failed_on.iter().rposition(|node| *node == room.node.id);
            aside.push((failures, latest, score, position));
        }
        aside.sort_unstable();
        let mut aside = aside.into_iter();
        let best = best.or_else(|| aside.next().map(|(.., position)| position));
        heap.extend(aside.map(|(_, _, score, position)| Reverse((score, position))));
        best
    }

    fn push(&self, heap: &mut Heap, position: usize) {
        heap.push(Reverse((Score::of(&self.rooms[position]), position)));
    }

    fn place_pinned(
        &mut self,
        service: ServiceId,
        need: &Need<'_>,
        instance: InstanceId,
        node: NodeId,
    ) -> Decision {
        let Ok(position) = self.rooms.binary_search_by_key(&node, |room| room.node.id) else {
            return Decision::Unplaced { explanation: format!("node {node} does not exist") };
        };
        match filter::refusal(&self.rooms[position], need, &self.ports) {
            None => self.take(service, need, instance, position),
            Some(refusal) => Decision::Unplaced {
                explanation: format!("{}: {refusal}", self.rooms[position].node.description.name),
            },
        }
    }

    fn take(
        &mut self,
        service: ServiceId,
        need: &Need<'_>,
        instance: InstanceId,
        position: usize,
    ) -> Decision {
        let room = &mut self.rooms[position];
        let Some(ports) = self.ports.take(&room.node.description.address, instance, need.ports) else {
            // The filter has just found them free; total all the same.
            return Decision::Unplaced { explanation: Refusal::NoFreePort.to_string() };
        };
        room.reserved = room.reserved.saturating_add(need.reservation);
        room.instances = room.instances.saturating_add(1);
        room.same = room.same.saturating_add(1);
        let node = room.node.id;
        self.placed.entry(service).or_default().push(position);
        Decision::Placed(Placed { node, ports, devices: Vec::new() })
    }

    fn count_same(&mut self, service: ServiceId) {
        self.rooms.iter_mut().for_each(|room| room.same = 0);
        let here = self.state.instances_of(service).filter_map(|instance| instance.occupies());
        let known = here.filter_map(|node| self.rooms.binary_search_by_key(&node, |room| room.node.id).ok());
        let before: Vec<usize> = known.collect();
        let now = self.placed.get(&service).into_iter().flatten().copied();
        for position in before.into_iter().chain(now) {
            let room = &mut self.rooms[position];
            room.same = room.same.saturating_add(1);
        }
    }
}

impl<'a> Room<'a> {
    fn new(state: &ClusterState, node: &'a Node) -> Self {
        let there = state.instances_on(node.id).filter(|instance| instance.occupies().is_some()).count();
        Self {
            node,
            allocatable: node.allocatable(),
            reserved: state.reserved(node.id),
            instances: u32::try_from(there).unwrap_or(u32::MAX),
            same: 0,
        }
    }

    fn free(&self) -> Resources {
        self.allocatable.saturating_sub(self.reserved)
    }
}

#[cfg(test)]
mod tests;
