//! Which instances give way to one that finds no room: as few as do, the least important first.
//!
//! Invariant: a victim's priority is lower by the cluster's gap at least; without any one of the
//! victims the instance would not fit; a service loses no more than its disruption limit allows.
//! Only want of room is cured like this: rules, ports and constraints are not.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::Arc,
};

use skein_common::{
    InstanceId, NodeId, Resources, ServiceId,
    instance::{Desired, Instance},
    placement::DeviceShare,
    service::{Disruption, ServiceSpec},
};

use super::{Group, Scheduler, device::Bank, filter, fleet::Fleet, need::Need, work::Work};
use crate::state::ClusterState;

/// Who has to go from which node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preemption {
    pub node: NodeId,
    /// Least important first.
    pub victims: Vec<InstanceId>,
}

/// Somebody who could give way.
#[derive(Debug, Clone)]
struct Candidate<'a> {
    priority: u8,
    instance: &'a Instance,
    reservation: Resources,
    devices: &'a [DeviceShare],
}

/// What preemptions of one pass have in common.
#[derive(Clone, Default)]
pub(super) struct Preemptions<'a> {
    /// By position, least important and youngest first; made when the first group needs it.
    candidates: Vec<Vec<Candidate<'a>>>,
    /// How many more of each service may be missing; made with the candidates.
    budget: BTreeMap<ServiceId, u32>,
    /// Victims of this pass, and whom the plan ends anyway.
    gone: BTreeSet<InstanceId>,
    /// Positions where room is being made, and how important those are who wait for it.
    promised: BTreeMap<usize, u8>,
    /// Of all services; looked up when somebody finds no room.
    least_important: Option<u8>,
}

/// Lower is better: the most important victim, how many, and where.
type Key = (u8, usize, u32);

impl<'a> Scheduler<'a> {
    /// These end by the plan under way: they give way to nobody, and their services miss them.
    #[must_use]
    pub fn without(mut self, ending: &BTreeSet<InstanceId>) -> Self {
        self.preemptions.gone.extend(ending);
        self
    }

    /// Room for up to `wanted` instances of the group, one node each; fewer when there are not so
    /// many, or when what is stopping already will make room. Where room is being made, nobody less
    /// important is placed by this pass.
    pub fn preempt(&mut self, group: &Group<'a>, wanted: usize) -> Vec<Preemption> {
        self.make_room(group, wanted).1
    }

    /// And for how many what is stopping already makes room.
    pub(super) fn make_room(&mut self, group: &Group<'a>, wanted: usize) -> (usize, Vec<Preemption>) {
        let Some(threshold) = self.threshold(group) else { return (0, Vec::new()) };
        let work = self.work(group);
        let making = self.making_room(&work, wanted);
        making.iter().for_each(|position| self.promise(*position, group.spec.placement.priority));
        let wanted = wanted.saturating_sub(making.len());
        let positions = work.eligible.positions.iter().copied();
        let found = self.make_victims(&work, threshold, wanted, positions.filter(|_| wanted > 0));
        (making.len(), found)
    }

    /// Room on each of these nodes.
    pub fn preempt_on(&mut self, group: &Group<'a>, nodes: &[NodeId]) -> Vec<Preemption> {
        let Some(threshold) = self.threshold(group) else { return Vec::new() };
        let work = self.work(group);
        let mut positions: BTreeSet<usize> =
            nodes.iter().filter_map(|node| self.fleet.position(*node)).collect();
        positions.retain(|position| work.eligible.contains(*position));
        for position in self.making_room(&work, usize::MAX) {
            if positions.remove(&position) {
                self.promise(position, group.spec.placement.priority);
            }
        }
        let wanted = positions.len();
        let positions = positions.into_iter().filter_map(|position| u32::try_from(position).ok());
        self.make_victims(&work, threshold, wanted, positions)
    }

    /// The most important who give way; `None` when nobody could.
    fn threshold(&mut self, group: &Group<'a>) -> Option<u8> {
        let threshold = group.spec.placement.priority.checked_sub(self.preemption_gap)?;
        if self.least_important() > threshold {
            return None;
        }
        if self.preemptions.candidates.is_empty() {
            self.preemptions.candidates = candidates(self.state, &self.fleet);
            let services = self.preemptions.candidates.iter().flatten().map(|c| c.instance.service);
            let services: BTreeSet<_> = services.collect();
            let gone = &self.preemptions.gone;
            let budgets = services.into_iter().map(|service| (service, budget(self.state, service, gone)));
            self.preemptions.budget = budgets.collect();
        }
        Some(threshold)
    }

    /// The best of these nodes, at most so many.
    fn make_victims(
        &mut self,
        work: &Work<'a>,
        threshold: u8,
        wanted: usize,
        positions: impl Iterator<Item = u32>,
    ) -> Vec<Preemption> {
        let mut heap = BinaryHeap::new();
        for position in positions {
            if let Some((key, _)) = self.victims(work, threshold, position) {
                heap.push(Reverse(key));
            }
        }
        let mut found = Vec::new();
        while found.len() < wanted {
            let Some(Reverse(key)) = heap.pop() else { break };
            let (_, _, position) = key;
            // A budget may have been used up since, so that others have to go, or nobody can.
            match self.victims(work, threshold, position) {
                Some((now, victims)) if now <= key => {
                    found.push(self.evict(position, &victims));
                    self.promise(position as usize, work.need.policy.priority);
                }
                Some((now, _)) => heap.push(Reverse(now)),
                None => {}
            }
        }
        found
    }

    fn least_important(&mut self) -> u8 {
        let priorities = self.state.services().map(|service| service.spec.placement.priority);
        *self.preemptions.least_important.get_or_insert_with(|| priorities.min().unwrap_or(u8::MAX))
    }

    fn promise(&mut self, position: usize, priority: u8) {
        let promised = self.preemptions.promised.entry(position).or_default();
        *promised = (*promised).max(priority);
    }

    /// Whether room is being made there for somebody more important.
    pub(super) fn is_promised(&self, position: usize, need: &Need<'_>) -> bool {
        let promised = &self.preemptions.promised;
        !promised.is_empty() && promised.get(&position).is_some_and(|to| *to > need.policy.priority)
    }

    /// Nodes where the instance fits once everything that is to stop has stopped.
    fn making_room(&self, work: &Work<'_>, wanted: usize) -> Vec<usize> {
        let fits = |position: &usize| {
            let place = *position;
            if self.preemptions.promised.contains_key(&place) {
                return false;
            }
            let room = &self.fleet.rooms[place];
            let leaving = self.state.instances_on(room.node.id);
            let leaving = leaving.filter(|i| i.occupies().is_some() && i.desired > Desired::Run);
            let (mut freed, mut devices) = (Resources::ZERO, Vec::new());
            for instance in leaving {
                if let Some(spec) = self.state.spec_of(instance) {
                    freed = freed.saturating_add(spec.resources.reservation);
                    devices.extend(instance.devices.iter());
                }
            }
            freed != Resources::ZERO && self.would_fit(&work.need, place, freed, devices.into_iter())
        };
        // Only nodes where something is stopping are worth the look.
        let stopping = self.state.stopping_nodes();
        let known = stopping.filter_map(|node| self.fleet.position(node));
        known.filter(|position| work.eligible.contains(*position)).filter(fits).take(wanted).collect()
    }

    fn would_fit<'d>(
        &self,
        need: &Need<'_>,
        position: usize,
        freed: Resources,
        devices: impl Iterator<Item = &'d DeviceShare>,
    ) -> bool {
        let room = &self.fleet.rooms[position];
        if room.free().saturating_add(freed).lacking(need.reservation).is_some() {
            return false;
        }
        if need.asks.is_empty() {
            return true;
        }
        let mut banks: Vec<Bank> = room.banks.clone();
        for share in devices {
            let bank = banks.iter_mut().find(|bank| self.fleet.names.text(bank.name) == share.name);
            if let Some(device) = bank.and_then(|bank| bank.devices.get_mut(usize::from(share.device))) {
                device.free = device.free.saturating_add(share.millis);
            }
        }
        need.asks.iter().all(|ask| banks.iter().any(|bank| bank.name == ask.name && bank.fits(ask)))
    }

    /// The fewest and least important whose leaving makes room on this node.
    fn victims(&self, work: &Work<'_>, threshold: u8, position: u32) -> Option<(Key, Vec<Candidate<'a>>)> {
        let place = position as usize;
        let room = &self.fleet.rooms[place];
        if self.preemptions.promised.contains_key(&place)
            || filter::pids(room, &work.need).is_some()
            || work.topology.refusal(place, self.fleet.same[place]).is_some()
            || filter::host_ports(room, &work.need, &self.ports).is_some()
        {
            return None;
        }
        let mut chosen: Vec<Candidate<'a>> = Vec::new();
        let mut freed = Resources::ZERO;
        let mut taken: BTreeMap<ServiceId, u32> = BTreeMap::new();
        let mut fits = false;
        for candidate in &self.preemptions.candidates[place] {
            if candidate.priority > threshold {
                break;
            }
            let service = candidate.instance.service;
            let used = taken.entry(service).or_default();
            if self.preemptions.gone.contains(&candidate.instance.id) || *used >= self.budget(service) {
                continue;
            }
            *used += 1;
            freed = freed.saturating_add(candidate.reservation);
            chosen.push(candidate.clone());
            fits = self.would_fit(&work.need, place, freed, devices(&chosen, None));
            if fits {
                break;
            }
        }
        if !fits {
            return None;
        }
        // Whoever is not needed stays, the most important first.
        for number in (0..chosen.len()).rev() {
            let without = freed.saturating_sub(chosen[number].reservation);
            if self.would_fit(&work.need, place, without, devices(&chosen, Some(number))) {
                freed = without;
                chosen.remove(number);
            }
        }
        let most = chosen.iter().map(|candidate| candidate.priority).max()?;
        Some(((most, chosen.len(), position), chosen))
    }

    fn budget(&self, service: ServiceId) -> u32 {
        self.preemptions.budget.get(&service).copied().unwrap_or(0)
    }

    fn evict(&mut self, position: u32, victims: &[Candidate<'a>]) -> Preemption {
        for victim in victims {
            let left = self.budget(victim.instance.service).saturating_sub(1);
            self.preemptions.budget.insert(victim.instance.service, left);
            self.preemptions.gone.insert(victim.instance.id);
        }
        Preemption {
            node: self.fleet.rooms[position as usize].node.id,
            victims: victims.iter().map(|victim| victim.instance.id).collect(),
        }
    }
}

fn devices<'c, 'a>(
    chosen: &'c [Candidate<'a>],
    without: Option<usize>,
) -> impl Iterator<Item = &'a DeviceShare> + use<'c, 'a> {
    let kept = chosen.iter().enumerate().filter(move |(number, _)| Some(*number) != without);
    kept.flat_map(|(_, candidate)| candidate.devices)
}

/// Everything that is wanted where it is, by position.
fn candidates<'a>(state: &'a ClusterState, fleet: &Fleet<'_>) -> Vec<Vec<Candidate<'a>>> {
    let mut all: Vec<Vec<Candidate<'a>>> = Vec::new();
    all.resize_with(fleet.rooms.len(), Vec::new);
    for instance in state.instances().filter(|instance| instance.is_live()) {
        let Some(position) = instance.occupies().and_then(|node| fleet.position(node)) else { continue };
        let Some(spec) = state.spec_of(instance) else { continue };
        all[position].push(Candidate {
            priority: priority(state, instance, spec),
            instance,
            reservation: spec.resources.reservation,
            devices: &instance.devices,
        });
    }
    for there in &mut all {
        there.sort_by_key(|c| (c.priority, Reverse(c.instance.created_revision), c.instance.id));
    }
    all
}

/// As the user has it now: a changed priority needs no new instances.
fn priority(state: &ClusterState, instance: &Instance, spec: &ServiceSpec) -> u8 {
    state.service(instance.service).map_or(spec.placement.priority, |s| s.spec.placement.priority)
}

/// How many more instances of a service may be missing now.
fn budget(state: &ClusterState, service: ServiceId, gone: &BTreeSet<InstanceId>) -> u32 {
    let Some(service) = state.service(service) else { return 0 };
    let stays = |instance: &&Arc<Instance>| instance.is_live() && !gone.contains(&instance.id);
    let live = state.instances_of(service.id).filter(stays);
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let (mut there, mut ready) = (0, 0);
    for instance in live {
        there += 1;
        ready += usize::from(instance.is_ready());
    }
    let wanted = service.spec.replicas().unwrap_or_else(|| count(there));
    // As many as a rollout replaces at a time, when nothing is said.
    let limit =
        service.spec.disruption.unwrap_or(Disruption::MaxUnavailable(service.spec.update.parallelism));
    limit.max_unavailable(wanted).saturating_sub(wanted.saturating_sub(count(ready)))
}
