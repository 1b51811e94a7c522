//! A plan in the making: what the parts of the planner have decided so far.
//!
//! Invariant: at most [`MAX_PARTS`] parts of a kind, so that one plan stays a small log entry;
//! what is cut is planned again by the next pass.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use skein_common::{
    InstanceId, NodeId, Revision, ServiceId, Timestamp,
    instance::{Desired, Instance, Phase, Slot},
    node::Node,
    service::{Generation, Mode, ServiceSpec},
};

use super::{GIVES_WAY, Planned, Scope, history, order};
use crate::{
    command::{
        Explanation, JobStep, NewInstance, Placement, Plan, RebalanceStep, Release, RolloutStep,
        ScheduleStep, Wish,
    },
    scheduler::{Bound, Decision, Group, Item, Placed, Preemption, Scheduler},
    state::{ClusterState, Service},
};

/// Parts of one kind in one plan: some 4,000 creations are below one megabyte in the log.
pub const MAX_PARTS: usize = 4_096;

const WAITS_FOR_PREDECESSOR: &str = "waits until its predecessor has stopped";

pub(super) struct Draft<'a> {
    pub(super) state: &'a ClusterState,
    pub(super) now: Timestamp,
    ids: &'a mut dyn FnMut() -> InstanceId,
    plan: Plan,
    /// Instances whose desired this plan raises.
    wished: BTreeSet<InstanceId>,
    /// Those of them that are given up with their node.
    lost: BTreeSet<InstanceId>,
    wake_at: Option<Timestamp>,
    /// What services still wait for, as far as it was asked for.
    awaited: BTreeMap<ServiceId, Option<String>>,
}

/// An instance that wants a node: one of the state, or one of this plan.
#[derive(Clone, Copy)]
struct Waiting {
    source: Source,
    instance: InstanceId,
    service: ServiceId,
    generation: Generation,
    slot: Slot,
    /// Place in the queue; what this plan creates comes last.
    since: Revision,
}

#[derive(Clone, Copy)]
enum Source {
    State,
    Created { position: usize },
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        state: &'a ClusterState,
        now: Timestamp,
        ids: &'a mut dyn FnMut() -> InstanceId,
    ) -> Self {
        Self {
            state,
            now,
            ids,
            plan: Plan::default(),
            wished: BTreeSet::new(),
            lost: BTreeSet::new(),
            wake_at: None,
            awaited: BTreeMap::new(),
        }
    }

    pub(super) fn finish(mut self) -> Planned {
        // Whatever stands in the way of a move, what runs had better go on alone.
        self.plan.create.retain(|new| new.placed.is_some() || new.beside.is_none() || new.moves_to.is_none());
        Planned { plan: self.plan, wake_at: self.wake_at }
    }

    /// Whether this plan ends the instance, or gives it up.
    pub(super) fn ends(&self, instance: InstanceId) -> bool {
        self.wished.contains(&instance)
    }

    pub(super) fn loses(&self, instance: &Instance) -> bool {
        instance.lost || self.lost.contains(&instance.id)
    }

    pub(super) fn node_of(&self, instance: &Instance) -> Option<&'a Node> {
        instance.node.and_then(|node| self.state.node(node)).map(AsRef::as_ref)
    }

    pub(super) fn conclude(&mut self, verdict: RolloutStep) {
        self.plan.rollouts.push(verdict);
    }

    pub(super) fn judge_job(&mut self, verdict: JobStep) {
        self.plan.jobs.push(verdict);
    }

    /// A time of its schedule has come.
    pub(super) fn due(&mut self, owner: &Service, due: Timestamp, passed: u32, late: bool) {
        if self.is_full(self.plan.schedules.len()) {
            return;
        }
        // An id of a service is as random as one of an instance.
        let run = ServiceId::from_random((self.ids)().get());
        let drawn_from = owner.modified_revision;
        self.plan.schedules.push(ScheduleStep { owner: owner.id, drawn_from, due, passed, late, run });
    }

    /// What the first instances of its generation still wait for. When that is there, the plan says so,
    /// and they are placed by this very plan.
    pub(super) fn awaits(&mut self, service: &Service) -> Option<&str> {
        if !service.waits {
            return None;
        }
        if !self.awaited.contains_key(&service.id) {
            let missing = order::missing(self.state, service);
            if missing.is_none() {
                self.plan.released.push(Release { service: service.id, generation: service.generation });
            }
            self.awaited.insert(service.id, missing);
        }
        self.awaited.get(&service.id)?.as_deref()
    }

    /// One that an earlier version gave none gets an address.
    pub(super) fn address(&mut self, service: &Service) {
        let lacks = service.address.is_none() && !self.is_full(self.plan.addresses.len());
        if lacks && self.state.address_for(service).is_some() {
            self.plan.addresses.push(service.id);
        }
    }

    pub(super) fn expire(&mut self, service: ServiceId) {
        self.plan.expire.push(service);
    }

    /// `beside`: the instance of the slot that goes on until this one is Ready.
    pub(super) fn create(
        &mut self,
        service: &Service,
        slot: Slot,
        retry: history::Retry,
        beside: Option<InstanceId>,
    ) {
        if self.is_full(self.plan.create.len()) {
            return;
        }
        self.plan.create.push(NewInstance {
            id: (self.ids)(),
            service: service.id,
            slot,
            generation: service.generation,
            placed: None,
            devices: Vec::new(),
            not_before: retry.not_before,
            failures: retry.failures,
            beside,
            moves_to: retry.moves_to,
            explanation: retry.explanation,
        });
    }

    /// Says nothing when the instance is already told so.
    pub(super) fn wish(&mut self, instance: &Instance, desired: Desired, reason: &str) {
        if instance.desired < desired && !self.is_full(self.plan.desire.len()) {
            self.wished.insert(instance.id);
            let (instance, reason) = (instance.id, reason.to_owned());
            self.plan.desire.push(Wish { instance, desired, lost: false, only_live: false, reason });
        }
    }

    /// Frees the slot of an instance whose node is down.
    pub(super) fn lose(&mut self, instance: &Instance, reason: String) {
        if !instance.lost && !self.is_full(self.plan.desire.len()) {
            self.wished.insert(instance.id);
            self.lost.insert(instance.id);
            let desired = Desired::Remove;
            let instance = instance.id;
            self.plan.desire.push(Wish { instance, desired, lost: true, only_live: false, reason });
        }
    }

    pub(super) fn conclude_rebalance(&mut self, conclusion: RebalanceStep) {
        self.plan.rebalance = Some(conclusion);
    }

    /// Whether instances come or go by this plan.
    pub(super) fn is_busy(&self) -> bool {
        !self.plan.create.is_empty() || !self.plan.desire.is_empty()
    }

    pub(super) fn finish_service(&mut self, service: ServiceId) {
        self.plan.finish.push(service);
    }

    /// Cuts the plan: there is more to do at once.
    fn is_full(&mut self, parts: usize) -> bool {
        let full = parts >= MAX_PARTS;
        if full {
            self.wake(self.now);
        }
        full
    }

    pub(super) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
    }

    /// Gives nodes to whatever waits for one: the most important first, then the oldest. Who finds
    /// no room may make others give way.
    pub(super) fn schedule(&mut self, scope: &Scope, measured: &BTreeMap<NodeId, u16>) {
        let mut groups: BTreeMap<(ServiceId, Generation), Vec<Waiting>> = BTreeMap::new();
        for waiting in self.waiting(scope) {
            if self.may_be_placed(&waiting) {
                groups.entry((waiting.service, waiting.generation)).or_default().push(waiting);
            }
        }
        if groups.is_empty() {
            return;
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.sort_by_cached_key(|group| {
            let priority = group.first().map_or(0, |waiting| self.priority(waiting));
            (Reverse(priority), group.iter().map(|waiting| waiting.since).min())
        });
        let mut scheduler = Scheduler::new(self.state).with_measured(measured).without(&self.wished);
        for group in groups {
            self.place(&mut scheduler, &group);
        }
    }

    fn waiting(&self, scope: &Scope) -> Vec<Waiting> {
        let gap = self.state.settings().config.scheduling.preemption_gap();
        let yields = scope.least_important(self.state).map(|least| least.saturating_add(gap));
        let may_displace = |instance: &Instance| {
            let service = yields.and_then(|yields| Some((yields, self.state.service(instance.service)?)));
            service.is_some_and(|(yields, service)| service.spec.placement.priority >= yields)
        };
        let known = self
            .state
            .pending()
            // Nobody may slip into the room that is being made for somebody more important.
            .filter(|instance| {
                scope.tries(instance.service) || self.state.is_anything_stopping() || may_displace(instance)
            })
            .filter(|instance| !self.ends(instance.id))
            .map(|instance| Waiting {
                source: Source::State,
                instance: instance.id,
                service: instance.service,
                generation: instance.generation,
                slot: instance.slot,
                since: instance.created_revision,
            });
        let created = self.plan.create.iter().enumerate().map(|(position, new)| Waiting {
            source: Source::Created { position },
            instance: new.id,
            service: new.service,
            generation: new.generation,
            slot: new.slot,
            since: Revision(u64::MAX),
        });
        known.chain(created).collect()
    }

    /// Its back-off is over and nothing of its slot may still run.
    fn may_be_placed(&mut self, waiting: &Waiting) -> bool {
        let (not_before, beside) = match waiting.source {
            Source::State => {
                let known = self.state.instance(waiting.instance);
                (known.map(|i| i.not_before), known.and_then(|i| i.beside))
            }
            Source::Created { position } => {
                let new = self.plan.create.get(position);
                (new.map(|new| new.not_before), new.and_then(|new| new.beside))
            }
        };
        if let Some(later) = not_before.filter(|not_before| *not_before > self.now) {
            self.wake(later);
            return false;
        }
        let awaited = self.state.service(waiting.service).filter(|s| s.generation == waiting.generation);
        if let Some(missing) = awaited.and_then(|service| self.awaits(service)).map(str::to_owned) {
            self.explain(waiting, &missing);
            return false;
        }
        let vacating = self
            .state
            .instances_in(waiting.service, waiting.slot)
            .filter(|other| other.id != waiting.instance && Some(other.id) != beside)
            .any(|other| other.occupies().is_some() && !self.loses(other));
        if vacating {
            self.explain(waiting, WAITS_FOR_PREDECESSOR);
        }
        !vacating
    }

    fn place(&mut self, scheduler: &mut Scheduler<'a>, group: &[Waiting]) {
        let Some(first) = group.first() else { return };
        let Some(spec) = self.spec(first) else { return };
        let items = group.iter().map(|waiting| self.item(waiting)).collect();
        let items = Group { service: first.service, items, spec };
        if spec.job.gang && spec.mode.is_job() {
            return self.place_gang(scheduler, group, &items);
        }
        let decisions = scheduler.place(&items);
        let (mut homeless, mut pinned) = (0, Vec::new());
        for ((waiting, item), decision) in group.iter().zip(&items.items).zip(decisions) {
            match decision {
                Decision::Placed(placed) => self.assign(waiting, placed),
                Decision::Unplaced { explanation } => {
                    self.explain(waiting, &explanation);
                    homeless += usize::from(item.pinned.is_none());
                    pinned.extend(item.pinned);
                }
            }
        }
        if homeless > 0 {
            self.make_room(scheduler.preempt(&items, homeless), items.spec);
        }
        if !pinned.is_empty() {
            self.make_room(scheduler.preempt_on(&items, &pinned), items.spec);
        }
    }

    /// All that wait of a job, or none; not before the whole gang is there.
    fn place_gang(&mut self, scheduler: &mut Scheduler<'a>, group: &[Waiting], items: &Group<'a>) {
        let missing = self.missing_of_gang(group, items.spec);
        if missing > 0 {
            let text = format!("waits for {missing} more of its gang");
            return group.iter().for_each(|waiting| self.explain(waiting, &text));
        }
        if self.is_full(self.plan.place.len() + group.len() - 1) {
            return;
        }
        match scheduler.place_all(items) {
            Ok(placed) => group.iter().zip(placed).for_each(|(waiting, placed)| self.assign(waiting, placed)),
            Err(unfit) => {
                let (fit, all) = (unfit.fit, group.len());
                let text = format!("a gang of {all} starts together, room for {fit}: {}", unfit.explanation);
                group.iter().for_each(|waiting| self.explain(waiting, &text));
                self.make_room(unfit.preemptions, items.spec);
            }
        }
    }

    /// Slots of the job that neither wait here, nor run, nor are done: not made yet, or in their back-off.
    fn missing_of_gang(&self, group: &[Waiting], spec: &ServiceSpec) -> usize {
        let (Some(first), Mode::Job { completions, .. }) = (group.first(), spec.mode) else { return 0 };
        let Some(service) = self.state.service(first.service) else { return 0 };
        let records = self.state.instances_of(first.service);
        let begun =
            records.filter(|i| i.generation == first.generation && i.node.is_some() && !self.loses(i));
        let mut slots: BTreeSet<Slot> =
            begun.filter(|i| i.desired == Desired::Run && !i.has_failed()).map(|i| i.slot).collect();
        slots.extend(service.job.iter().flat_map(|run| &run.done).map(|slot| Slot::Number(*slot)));
        slots.extend(group.iter().map(|waiting| waiting.slot));
        usize::try_from(completions).unwrap_or(usize::MAX).saturating_sub(slots.len())
    }

    /// The next pass finds the room, once those who give way have stopped.
    fn make_room(&mut self, preemptions: Vec<Preemption>, spec: &ServiceSpec) {
        let reason = format!("{GIVES_WAY}{} of priority {}", spec.name, spec.placement.priority);
        for victim in preemptions.into_iter().flat_map(|preemption| preemption.victims) {
            let Some(victim) = self.state.instance(victim).filter(|victim| !self.ends(victim.id)) else {
                continue;
            };
            if self.is_full(self.plan.desire.len()) {
                return;
            }
            self.wished.insert(victim.id);
            let (instance, desired, reason) = (victim.id, Desired::Stop, reason.clone());
            self.plan.desire.push(Wish { instance, desired, lost: false, only_live: true, reason });
        }
    }

    /// As the user has it now.
    fn priority(&self, waiting: &Waiting) -> u8 {
        self.state.service(waiting.service).map_or(0, |service| service.spec.placement.priority)
    }

    fn spec(&self, waiting: &Waiting) -> Option<&'a ServiceSpec> {
        self.state.spec(waiting.service, waiting.generation).map(AsRef::as_ref)
    }

    /// Where a move leads, and beside whom it starts.
    fn wanted_on(&self, waiting: &Waiting) -> Option<(NodeId, Option<InstanceId>)> {
        match waiting.source {
            Source::State => self.state.instance(waiting.instance).map(|i| (i.moves_to, i.beside)),
            Source::Created { position } => self.plan.create.get(position).map(|n| (n.moves_to, n.beside)),
        }
        .and_then(|(to, beside)| to.map(|to| (to, beside)))
    }

    fn item(&self, waiting: &Waiting) -> Item {
        let home = home(self.state, waiting.service, waiting.slot, waiting.generation);
        let pinned = match waiting.slot {
            Slot::Number(_) => home,
            Slot::Node(node) => Some(node),
        };
        let mut failed: Vec<_> = self
            .state
            .instances_in(waiting.service, waiting.slot)
            .filter(|other| matches!(other.observed.progress.phase, Phase::Failed | Phase::Rejected))
            .filter(|other| self.now.since(other.observed.at) < history::BACKOFF_TRUST)
            .collect();
        failed.sort_by_key(|other| (other.created_revision, other.id));
        let failed_on = failed.into_iter().filter_map(|other| other.node).collect();
        let bound = self.wanted_on(waiting).map(|(to, beside)| {
            let beside = beside.and_then(|beside| self.state.instance(beside));
            Bound { to, from: beside.and_then(|beside| beside.node) }
        });
        Item { instance: waiting.instance, pinned, is_home: home.is_some(), failed_on, bound }
    }

    fn assign(&mut self, waiting: &Waiting, placed: Placed) {
        let Placed { node, ports, devices } = placed;
        match waiting.source {
            Source::Created { position } => {
                if let Some(new) = self.plan.create.get_mut(position) {
                    new.placed = Some((node, ports));
                    new.devices = devices;
                    new.explanation.clear();
                }
            }
            Source::State if self.is_full(self.plan.place.len()) => {}
            Source::State => {
                let placement = Placement { instance: waiting.instance, node, ports, devices };
                self.plan.place.push(placement);
            }
        }
    }

    fn explain(&mut self, waiting: &Waiting, text: &str) {
        match waiting.source {
            Source::Created { position } => {
                if let Some(new) = self.plan.create.get_mut(position) {
                    text.clone_into(&mut new.explanation);
                }
            }
            Source::State => {
                let told = self.state.instance(waiting.instance).is_some_and(|i| i.explanation == text);
                if !told && !self.is_full(self.plan.explain.len()) {
                    self.plan.explain.push(Explanation { instance: waiting.instance, text: text.to_owned() });
                }
            }
        }
    }
}

/// The node whose local volumes an instance needs, as long as it has not been removed.
pub fn home(state: &ClusterState, service: ServiceId, slot: Slot, generation: Generation) -> Option<NodeId> {
    let follows = state.spec(service, generation).is_some_and(|spec| spec.has_local_volumes());
    state.home(service, slot).filter(|_| follows)
}
