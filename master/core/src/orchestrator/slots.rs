//! The slots of one service: who holds each, which are missing, which are too many.
//!
//! Replicated: as many held slots as replicas, lowest free numbers first. Global: one slot for
//! every node that takes part. An instance that ended as its restart condition allows keeps its
//! slot (completed); one that failed gives it to a successor.
//!
//! Invariant: at most one holder a slot; an instance on a node that is down holds no slot, except
//! of a global service, whose slot *is* the node.

use std::collections::BTreeMap;

use skein_common::{
    instance::{Desired, Instance, Phase, Slot},
    node::{Availability, Liveness, Node},
    service::{Mode, RestartCondition, ServiceSpec},
};

use super::{
    draft::Draft,
    history::{self, Retry},
};
use crate::state::Service;

pub(super) struct Slots<'a> {
    pub(super) service: &'a Service,
    slots: BTreeMap<Slot, SlotRecord<'a>>,
}

#[derive(Default)]
pub(super) struct SlotRecord<'a> {
    pub(super) hold: Hold<'a>,
    /// Everything the state knows of the slot.
    pub(super) records: Vec<&'a Instance>,
}

/// Who holds a slot once the plan so far has been applied.
#[derive(Default, Clone, Copy)]
pub(super) enum Hold<'a> {
    #[default]
    Free,
    Live(&'a Instance),
    /// Ended, and that is how it shall be.
    Completed(&'a Instance),
    Failed(&'a Instance),
    /// An instance that this plan creates.
    Created,
}

impl<'a> Slots<'a> {
    /// Reads the slots, and gives up what was on nodes that are down.
    pub(super) fn of(draft: &mut Draft<'a>, service: &'a Service) -> Self {
        let state = draft.state;
        let mut slots: BTreeMap<Slot, SlotRecord<'a>> = BTreeMap::new();
        for instance in state.instances_of(service.id) {
            if service.spec.mode != Mode::Global {
                give_up_with_node(draft, instance);
            }
            slots.entry(instance.slot).or_default().records.push(instance);
        }
        for slot in slots.values_mut() {
            slot.hold = holder(draft, &slot.records);
        }
        Self { service, slots }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &SlotRecord<'a>> {
        self.slots.values()
    }

    pub(super) fn held(&self) -> impl Iterator<Item = (Slot, Hold<'a>)> {
        self.slots.iter().filter(|(_, slot)| slot.is_held()).map(|(slot, record)| (*slot, record.hold))
    }

    /// Creates what is missing and removes what is too much.
    pub(super) fn fit(&mut self, draft: &mut Draft<'a>) {
        match self.service.spec.mode {
            Mode::Replicated { replicas } => self.fit_count(draft, replicas),
            Mode::Global => self.fit_nodes(draft),
        }
    }

    fn fit_count(&mut self, draft: &mut Draft<'a>, replicas: u32) {
        let wanted = usize::try_from(replicas).unwrap_or(usize::MAX);
        let held: Vec<_> = self.held().collect();
        if let Some(missing) = wanted.checked_sub(held.len()) {
            let free = (1..=u32::MAX).map(Slot::Number).filter(|slot| !self.is_held(*slot));
            let free: Vec<_> = free.take(missing).collect();
            free.into_iter().for_each(|slot| self.create(draft, slot, Retry::default()));
            return;
        }
        let mut order = held;
        order.sort_by_key(|(slot, hold)| (hold.runs(), std::cmp::Reverse(*slot)));
        let excess = order.len() - wanted;
        for (slot, _) in order.into_iter().take(excess) {
            self.remove(draft, slot, "scaled down");
        }
    }

    fn fit_nodes(&mut self, draft: &mut Draft<'a>) {
        let spec = &self.service.spec;
        let held: Vec<Slot> = self.held().map(|(slot, _)| slot).collect();
        for slot in held {
            let Slot::Node(id) = slot else { continue };
            match draft.state.node(id) {
                None => self.remove(draft, slot, "its node is gone"),
                Some(node) => {
                    if let Some(reason) = misplaced(node, spec) {
                        self.remove(draft, slot, &reason);
                    }
                }
            }
        }
        for node in draft.state.nodes() {
            let takes = node.liveness == Liveness::Ready && node.availability == Availability::Active;
            let slot = Slot::Node(node.id);
            if takes && !self.is_held(slot) && node.satisfies(&spec.placement.constraints) {
                self.create(draft, slot, Retry::default());
            }
        }
    }

    /// Gives every failed slot a successor, after its back-off; one of another generation has
    /// failed for reasons of its own.
    pub(super) fn replace_failed(&mut self, draft: &mut Draft<'a>) {
        let held: Vec<_> = self.held().collect();
        for (slot, hold) in held {
            let Hold::Failed(instance) = hold else { continue };
            let same = instance.generation == self.service.generation;
            let retry = if same { history::retry(instance, draft.now) } else { Retry::default() };
            draft.wish(instance, Desired::Stop, "");
            self.create(draft, slot, retry);
        }
    }

    /// Ends the holder and gives its slot a successor of the current generation, which waits
    /// until the holder has stopped.
    pub(super) fn supersede(&mut self, draft: &mut Draft<'a>, slot: Slot, reason: &str) {
        if let Some(instance) = self.slots.get(&slot).and_then(|record| record.hold.instance()) {
            draft.wish(instance, Desired::Stop, reason);
        }
        self.create(draft, slot, Retry::default());
    }

    fn create(&mut self, draft: &mut Draft<'a>, slot: Slot, retry: Retry) {
        draft.create(self.service, slot, retry);
        self.slots.entry(slot).or_default().hold = Hold::Created;
    }

    fn remove(&mut self, draft: &mut Draft<'a>, slot: Slot, reason: &str) {
        let Some(record) = self.slots.get_mut(&slot) else { return };
        if let Some(instance) = record.hold.instance() {
            draft.wish(instance, Desired::Remove, reason);
        }
        record.hold = Hold::Free;
    }

    fn is_held(&self, slot: Slot) -> bool {
        self.slots.get(&slot).is_some_and(SlotRecord::is_held)
    }
}

impl SlotRecord<'_> {
    pub(super) fn is_held(&self) -> bool {
        !matches!(self.hold, Hold::Free)
    }
}

impl<'a> Hold<'a> {
    fn instance(self) -> Option<&'a Instance> {
        match self {
            Self::Live(instance) | Self::Completed(instance) | Self::Failed(instance) => Some(instance),
            Self::Free | Self::Created => None,
        }
    }

    /// Has something to lose by being scaled down.
    fn runs(self) -> bool {
        match self {
            Self::Live(instance) => instance.observed.progress.phase >= Phase::Running,
            Self::Completed(_) => true,
            Self::Free | Self::Failed(_) | Self::Created => false,
        }
    }
}

fn give_up_with_node<'a>(draft: &mut Draft<'a>, instance: &'a Instance) {
    let Some(node) = draft.node_of(instance).filter(|node| node.liveness == Liveness::Down) else { return };
    if !instance.observed.progress.phase.is_terminal() {
        let reason = format!("node {} is down: {}", node.description.name, node.liveness_reason);
        draft.lose(instance, reason);
    }
}

/// The live instance, else the one that ended last and was to run.
fn holder<'a>(draft: &mut Draft<'a>, records: &[&'a Instance]) -> Hold<'a> {
    let live = records.iter().find(|instance| instance.is_live() && !draft.loses(instance)).copied();
    let wanted = records.iter().filter(|i| i.desired == Desired::Run && !i.is_live());
    let mut ended: Vec<&'a Instance> = wanted.copied().collect();
    ended.sort_by_key(|instance| (instance.created_revision, instance.id));
    let hold = match live {
        Some(instance) => Hold::Live(instance),
        None => match ended.pop() {
            Some(last) if is_completed(draft, last) => Hold::Completed(last),
            Some(last) => Hold::Failed(last),
            None => Hold::Free,
        },
    };
    // Left behind by a plan that was applied in part.
    ended.into_iter().for_each(|instance| draft.wish(instance, Desired::Stop, ""));
    hold
}

fn is_completed(draft: &Draft<'_>, instance: &Instance) -> bool {
    let condition = draft.state.spec_of(instance).map(|spec| spec.restart.condition);
    let (phase, exit) = (instance.observed.progress.phase, instance.observed.exit_code);
    match condition {
        // It ran once, whatever came of it; a rejected one never ran.
        Some(RestartCondition::None) => phase != Phase::Rejected,
        Some(RestartCondition::OnFailure) => phase == Phase::Stopped && exit.unwrap_or(0) == 0,
        Some(RestartCondition::Any) | None => false,
    }
}

/// Why a service with this spec must not stay on the node.
pub(super) fn misplaced(node: &Node, spec: &ServiceSpec) -> Option<String> {
    let name = &node.description.name;
    if node.availability == Availability::Drained {
        return Some(format!("node {name} is drained"));
    }
    let constraints = &spec.placement.constraints;
    if node.satisfies(constraints) {
        return None;
    }
    let failing = constraints.iter().find(|constraint| !node.satisfies([*constraint]));
    Some(format!("node {name} is not {}", failing.map(ToString::to_string).unwrap_or_default()))
}
