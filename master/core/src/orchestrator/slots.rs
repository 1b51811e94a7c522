//! The slots of one service: who holds each, which are missing, which are too many.
//!
//! Replicated: as many held slots as replicas, lowest free numbers first. Global: one slot for
//! every node that takes part. An instance that ended as its restart condition allows keeps its
//! slot (completed); one that failed gives it to a successor.
//!
//! Invariant: at most one holder a slot; an instance on a node that is down holds no slot, except
//! of a global service, whose slot *is* the node.

use std::{
    collections::BTreeSet,
    ops::{Deref, Range},
};

use skein_common::{
    instance::{Desired, Instance, Phase, Slot},
    node::{Availability, Liveness, Node},
    placement::EXCLUSIVE_LABEL,
    service::{Mode, RestartCondition, ServiceSpec},
};

use super::{
    draft::Draft,
    history::{self, Retry},
};
use crate::state::Service;

pub(super) struct Slots<'a> {
    pub(super) service: &'a Service,
    /// Everything the state knows of the service, in the order of slots.
    records: Vec<Record<'a>>,
    /// The slots that have records, in order.
    slots: Vec<SlotRecord<'a>>,
    /// Slots without records that this plan begins.
    begun: BTreeSet<Slot>,
}

/// An instance with its node, looked up once.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    instance: &'a Instance,
    pub(super) node: Option<&'a Node>,
}

impl Deref for Record<'_> {
    type Target = Instance;
    fn deref(&self) -> &Instance {
        self.instance
    }
}

struct SlotRecord<'a> {
    slot: Slot,
    hold: Hold<'a>,
    /// Started beside the holder, to take its place.
    successor: Option<Record<'a>>,
    /// Its part of the records.
    range: Range<usize>,
}

/// Who holds a slot once the plan so far has been applied.
#[derive(Clone, Copy)]
pub(super) enum Hold<'a> {
    Free,
    Live(Record<'a>),
    /// Ended, and that is how it shall be.
    Completed(Record<'a>),
    Failed(Record<'a>),
    /// An instance that this plan creates.
    Created,
}

impl<'a> Slots<'a> {
    /// Reads the slots, and gives up what was on nodes that are down.
    pub(super) fn of(draft: &mut Draft<'a>, service: &'a Service) -> Self {
        let state = draft.state;
        let node = |instance: &Instance| instance.node.and_then(|node| state.node(node)).map(AsRef::as_ref);
        let records: Vec<Record<'a>> = state
            .instances_of(service.id)
            .map(|instance| Record { instance, node: node(instance) })
            .collect();
        if !matches!(service.spec.mode, Mode::Global) {
            records.iter().for_each(|record| give_up_with_node(draft, record));
        }
        let mut slots: Vec<SlotRecord<'a>> = Vec::with_capacity(records.len());
        for part in records.chunk_by(|one, next| one.slot == next.slot) {
            let Some(first) = part.first() else { continue };
            let start = slots.last().map_or(0, |before| before.range.end);
            let (hold, successor) = holder(draft, part);
            slots.push(SlotRecord { slot: first.slot, hold, successor, range: start..start + part.len() });
        }
        Self { service, records, slots, begun: BTreeSet::new() }
    }

    /// Each slot's records, and whether it is held.
    pub(super) fn all(&self) -> impl Iterator<Item = (bool, &[Record<'a>])> {
        let records = |slot: &SlotRecord<'a>| self.records.get(slot.range.clone()).unwrap_or_default();
        self.slots.iter().map(move |slot| (slot.hold.is_held(), records(slot)))
    }

    pub(super) fn held(&self) -> impl Iterator<Item = (Slot, Hold<'a>)> {
        let begun = self.begun.iter().map(|slot| (*slot, Hold::Created));
        let known = self.slots.iter().map(|slot| (slot.slot, slot.hold));
        known.filter(|(_, hold)| hold.is_held()).chain(begun)
    }

    /// What lives, holders and their successors.
    pub(super) fn live(&self) -> impl Iterator<Item = Record<'a>> {
        self.slots.iter().flat_map(|slot| {
            let holder = match slot.hold {
                Hold::Live(instance) => Some(instance),
                Hold::Free | Hold::Completed(_) | Hold::Failed(_) | Hold::Created => None,
            };
            holder.into_iter().chain(slot.successor)
        })
    }

    pub(super) fn successor(&self, slot: Slot) -> Option<Record<'a>> {
        self.get(slot)?.successor
    }

    /// Slots where one instance is to take the place of another: holder, successor.
    pub(super) fn successions(&self) -> Vec<(Slot, Record<'a>, Record<'a>)> {
        let pair = |slot: &SlotRecord<'a>| match (slot.hold, slot.successor) {
            (Hold::Live(holder), Some(successor)) => Some((slot.slot, holder, successor)),
            _ => None,
        };
        self.slots.iter().filter_map(pair).collect()
    }

    /// Creates what is missing and removes what is too much.
    pub(super) fn fit(&mut self, draft: &mut Draft<'a>) {
        match self.service.spec.mode {
            Mode::Replicated { replicas } => self.fit_count(draft, replicas),
            Mode::Global => self.fit_nodes(draft),
            Mode::Job { .. } | Mode::GlobalJob => {}
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
        order.sort_by_key(|(slot, hold)| (hold.runs(), hold.serves(), std::cmp::Reverse(*slot)));
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
            if takes
                && !self.is_held(slot)
                && node.satisfies(&spec.placement.constraints)
                && intolerable(node, spec).is_none()
            {
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
            let retry = if same { history::retry(&instance, draft.now) } else { Retry::default() };
            draft.wish(&instance, Desired::Stop, "");
            self.create(draft, slot, retry);
        }
    }

    /// Ends the holder and gives its slot a successor of the current generation, which waits
    /// until the holder has stopped.
    pub(super) fn supersede(&mut self, draft: &mut Draft<'a>, slot: Slot, reason: &str) {
        if let Some(instance) = self.find(slot).and_then(|record| record.hold.instance()) {
            draft.wish(&instance, Desired::Stop, reason);
        }
        self.create(draft, slot, Retry::default());
    }

    /// Starts an instance of the current generation beside the holder; after failures, with their back-off.
    pub(super) fn succeed(&mut self, draft: &mut Draft<'a>, slot: Slot, reason: &str) {
        let generation = self.service.generation;
        let Some(record) = self.find(slot) else { return };
        let (Hold::Live(holder), range) = (record.hold, record.range.clone()) else { return };
        let records = self.records.get(range).unwrap_or_default();
        let failed = records.iter().filter(|i| i.generation == generation && i.has_failed());
        let last = failed.max_by_key(|instance| (instance.created_revision, instance.id));
        let mut retry =
            last.map(|last| history::retry(last, last.observed.at.max(last.created_at))).unwrap_or_default();
        if retry.explanation.is_empty() {
            reason.clone_into(&mut retry.explanation);
        }
        draft.create(self.service, slot, retry, Some(holder.id));
    }

    /// The holder goes; its successor is Ready and holds the slot from now on.
    pub(super) fn hand_over(&mut self, draft: &mut Draft<'a>, slot: Slot, reason: &str) {
        let Some(record) = self.find(slot) else { return };
        let (Some(holder), Some(successor)) = (record.hold.instance(), record.successor.take()) else {
            return;
        };
        record.hold = Hold::Live(successor);
        draft.wish(&holder, Desired::Stop, reason);
    }

    pub(super) fn end_successor(&mut self, draft: &mut Draft<'a>, slot: Slot, reason: &str) {
        let successor = self.find(slot).and_then(|record| record.successor.take());
        if let Some(successor) = successor {
            draft.wish(&successor, Desired::Stop, reason);
        }
    }

    pub(super) fn create(&mut self, draft: &mut Draft<'a>, slot: Slot, retry: Retry) {
        draft.create(self.service, slot, retry, None);
        match self.find(slot) {
            Some(record) => record.hold = Hold::Created,
            None => {
                self.begun.insert(slot);
            }
        }
    }

    /// Ends the holder, keeps its record, and leaves the slot free.
    pub(super) fn retire(&mut self, draft: &mut Draft<'a>, slot: Slot, reason: &str) {
        let Some(record) = self.find(slot) else { return };
        if let Some(instance) = record.hold.instance() {
            draft.wish(&instance, Desired::Stop, reason);
        }
        record.hold = Hold::Free;
    }

    pub(super) fn is_completed(&self, slot: Slot) -> bool {
        self.get(slot).is_some_and(|record| matches!(record.hold, Hold::Completed(_)))
    }

    /// What the instance that failed last had to say.
    pub(super) fn last_words(&self) -> Option<String> {
        let spoke = |record: &&Record<'a>| !record.observed.message.is_empty();
        let last = self.records.iter().filter(spoke).max_by_key(|record| record.modified_revision);
        last.map(|record| format!("slot {}: {}", record.slot, record.observed.message))
    }

    pub(super) fn remove(&mut self, draft: &mut Draft<'a>, slot: Slot, reason: &str) {
        let Some(record) = self.find(slot) else { return };
        for instance in record.hold.instance().into_iter().chain(record.successor.take()) {
            draft.wish(&instance, Desired::Remove, reason);
        }
        record.hold = Hold::Free;
    }

    fn find(&mut self, slot: Slot) -> Option<&mut SlotRecord<'a>> {
        let position = self.position(slot)?;
        self.slots.get_mut(position)
    }

    fn get(&self, slot: Slot) -> Option<&SlotRecord<'a>> {
        self.slots.get(self.position(slot)?)
    }

    fn position(&self, slot: Slot) -> Option<usize> {
        self.slots.binary_search_by_key(&slot, |record| record.slot).ok()
    }

    pub(super) fn is_held(&self, slot: Slot) -> bool {
        self.begun.contains(&slot) || self.get(slot).is_some_and(|record| record.hold.is_held())
    }
}

impl<'a> Hold<'a> {
    pub(super) fn is_held(self) -> bool {
        !matches!(self, Self::Free)
    }

    pub(super) fn instance(self) -> Option<Record<'a>> {
        match self {
            Self::Live(instance) | Self::Completed(instance) | Self::Failed(instance) => Some(instance),
            Self::Free | Self::Created => None,
        }
    }

    /// Is missed by its service's users when it goes.
    fn serves(self) -> bool {
        match self {
            Self::Live(instance) => instance.is_ready(),
            Self::Completed(_) => true,
            Self::Free | Self::Failed(_) | Self::Created => false,
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

fn give_up_with_node(draft: &mut Draft<'_>, instance: &Record<'_>) {
    let Some(node) = instance.node.filter(|node| node.liveness == Liveness::Down) else { return };
    if !instance.observed.progress.phase.is_terminal() {
        let reason = format!("node {} is down: {}", node.description.name, node.liveness_reason);
        draft.lose(instance, reason);
    }
}

/// The live instance (and the one that was started beside it), else the one that ended last and
/// was to run.
fn holder<'a>(draft: &mut Draft<'_>, records: &[Record<'a>]) -> (Hold<'a>, Option<Record<'a>>) {
    let mut live: Vec<_> =
        records.iter().filter(|instance| instance.is_live() && !draft.loses(instance)).copied().collect();
    let wanted = records.iter().filter(|i| i.desired == Desired::Run && !i.is_live());
    let mut ended: Vec<Record<'a>> = wanted.copied().collect();
    ended.sort_by_key(|instance| (instance.created_revision, instance.id));
    // The one that was there first, then the one beside it.
    live.sort_by_key(|instance| (instance.created_revision, instance.id));
    let mut live = live.into_iter();
    let hold = match live.next() {
        Some(instance) => Hold::Live(instance),
        None => match ended.pop() {
            Some(last) if is_completed(draft, &last) => Hold::Completed(last),
            Some(last) => Hold::Failed(last),
            None => Hold::Free,
        },
    };
    // Left behind by a plan that was applied in part, or a successor that failed.
    ended.into_iter().for_each(|instance| draft.wish(&instance, Desired::Stop, ""));
    (hold, live.next())
}

fn is_completed(draft: &Draft<'_>, instance: &Instance) -> bool {
    let spec = draft.state.spec_of(instance);
    let (phase, exit) = (instance.observed.progress.phase, instance.observed.exit_code);
    if spec.is_some_and(|spec| spec.mode.is_job()) {
        return exit == Some(0) && phase == Phase::Stopped;
    }
    let condition = spec.map(|spec| spec.restart.condition);
    match condition {
        // It ran once, whatever came of it; a rejected one never ran.
        Some(RestartCondition::None) => phase != Phase::Rejected,
        Some(RestartCondition::OnFailure) => phase == Phase::Stopped && exit.unwrap_or(0) == 0,
        Some(RestartCondition::Any) | None => false,
    }
}

/// What an exclusive node is exclusive to, unless the service tolerates it.
fn intolerable<'n>(node: &'n Node, spec: &ServiceSpec) -> Option<&'n str> {
    node.label(EXCLUSIVE_LABEL).filter(|value| !spec.placement.tolerates(value))
}

/// Why a service with this spec must not stay on the node.
pub(super) fn misplaced(node: &Node, spec: &ServiceSpec) -> Option<String> {
    let name = &node.description.name;
    if node.availability == Availability::Drained {
        return Some(format!("node {name} is drained"));
    }
    if let Some(value) = intolerable(node, spec) {
        return Some(format!("node {name} is exclusive to {value}"));
    }
    let constraints = &spec.placement.constraints;
    if node.satisfies(constraints) {
        return None;
    }
    let failing = constraints.iter().find(|constraint| !node.satisfies([*constraint]));
    Some(format!("node {name} is not {}", failing.map(ToString::to_string).unwrap_or_default()))
}
