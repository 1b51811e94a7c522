//! Instance → Node: filter, score, choose.
//!
//! Instances of one (service, generation) are placed as a group (`rank` says how): nodes are
//! filtered once, and only what a placement changed is looked at again. What several groups ask
//! alike (constraints, domains of labels, costs of equal needs) is computed once a pass.
//!
//! Invariant: what this pass has placed counts at once; nothing is placed beyond a node's free
//! resources, on a used port or against a hard rule; equal input gives equal placements (ties go
//! to the lower node id).
//! Deliberately not here: which instances there should be (`orchestrator`).

mod device;
mod explain;
mod filter;
mod fleet;
mod fragment;
mod gang;
mod need;
mod ports;
mod preempt;
mod rank;
mod rate;
mod score;
mod shift;
mod topology;
mod usage;
mod work;

use std::{collections::BTreeMap, rc::Rc};

use skein_common::{
    InstanceId, NodeId, ServiceId,
    instance::PortBinding,
    placement::{DeviceShare, Strategy},
    service::ServiceSpec,
};

use self::{
    filter::Refusal,
    fleet::Fleet,
    fragment::Mix,
    ports::PortBook,
    preempt::Preemptions,
    work::{ClassKey, Costs, Standing, Work},
};
pub use self::{
    gang::Unfit,
    ports::DYNAMIC_PORTS,
    preempt::Preemption,
    rate::{Explained, Rated, Removed},
    score::Weights,
    shift::{Pace, Party, Seat, Shift},
    usage::{Amount, Usage},
};
use crate::state::ClusterState;

/// Instances that run the same spec.
pub struct Group<'a> {
    pub service: ServiceId,
    pub items: Vec<Item>,
    pub spec: &'a ServiceSpec,
}

/// One instance that wants a node.
pub struct Item {
    pub instance: InstanceId,
    /// The only node it may go to (global services, local volumes).
    pub pinned: Option<NodeId>,
    /// It is pinned because its local volumes are there.
    pub is_home: bool,
    /// Where this slot failed lately, latest last: taken only when nothing else is left.
    pub failed_on: Vec<NodeId>,
    /// Where it is wanted, if it may go there.
    pub bound: Option<Bound>,
}

/// A move: where to, and what it takes the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    pub to: NodeId,
    /// Where the instance runs that goes when this one is Ready.
    pub from: Option<NodeId>,
}

/// Where an instance goes, or why it goes nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Placed(Placed),
    Unplaced { explanation: String },
}

/// A node, and what of it is the instance's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    pub node: NodeId,
    pub ports: Vec<PortBinding>,
    pub devices: Vec<DeviceShare>,
}

const HOME: &str = "its local volumes are on ";

/// One pass over one state.
#[derive(Clone)]
pub struct Scheduler<'a> {
    state: &'a ClusterState,
    /// Of services that do not say.
    strategy: Strategy,
    weights: Weights,
    fleet: Fleet<'a>,
    ports: PortBook<'a>,
    /// Instances of each service that this pass placed, by position of the node.
    placed: BTreeMap<ServiceId, Vec<usize>>,
    /// Positions that pass the standing filters, by what is asked.
    standing: BTreeMap<String, Rc<Standing>>,
    /// What usually runs here; looked at when the first `balanced` group comes.
    mix: Option<Mix>,
    costs: BTreeMap<ClassKey, Costs>,
    preemptions: Preemptions<'a>,
    /// Below this difference of priorities nobody gives way.
    preemption_gap: u8,
}

impl Item {
    /// An instance that may go anywhere.
    #[must_use]
    pub const fn new(instance: InstanceId) -> Self {
        Self { instance, pinned: None, is_home: false, failed_on: Vec::new(), bound: None }
    }
}

impl<'a> Scheduler<'a> {
    #[must_use]
    pub fn new(state: &'a ClusterState) -> Self {
        let config = &state.settings().config.scheduling;
        Self {
            state,
            strategy: config.strategy(),
            weights: Weights::of(&config.weights),
            preemption_gap: config.preemption_gap(),
            fleet: Fleet::new(state),
            ports: PortBook::new(state),
            placed: BTreeMap::new(),
            standing: BTreeMap::new(),
            mix: None,
            costs: BTreeMap::new(),
            preemptions: Preemptions::default(),
        }
    }

    /// With what was measured on nodes, in thousandths of the scarcer resource. (Not under `balanced`, which
    /// looks at what fits.)
    #[must_use]
    pub fn with_measured(mut self, measured: &BTreeMap<NodeId, u16>) -> Self {
        if !measured.is_empty() {
            self.fleet.measure(measured, self.weights.utilisation);
        }
        self
    }

    /// With another strategy for services that do not say.
    #[must_use]
    pub fn with_strategy(self, strategy: Strategy) -> Self {
        Self { strategy, ..self }
    }

    /// With this for what usually runs here, instead of what the cluster's services say.
    #[must_use]
    pub fn with_mix<'s>(mut self, specs: impl Iterator<Item = (&'s ServiceSpec, u64)>) -> Self {
        self.mix = Some(Mix::of(specs, &mut self.fleet.names));
        self
    }

    /// One decision an item, in their order.
    pub fn place(&mut self, group: &Group<'a>) -> Vec<Decision> {
        let mut work = self.work(group);
        // Before the nodes are ranked, so that the ranking knows of them.
        let bound: Vec<_> = group.items.iter().map(|item| self.place_bound(&mut work, item)).collect();
        let mut ranking = None;
        let mut explanation = None;
        let loose = group.items.iter().filter(|item| item.pinned.is_none()).count();
        let mut decide = |item: &Item| {
            if let Some(node) = item.pinned {
                return self.place_pinned(&mut work, item, node);
            }
            if ranking.is_none() {
                ranking = Some(self.rank(&work, loose));
            }
            let best = ranking.as_mut().and_then(|ranking| self.best(&work, ranking, &item.failed_on));
            let Some(position) = best else {
                let text = explanation.get_or_insert_with(|| self.diagnose(&work));
                return Decision::Unplaced { explanation: text.clone() };
            };
            let (decision, frees) = self.take(&mut work, item.instance, position);
            if let Some(ranking) = &mut ranking {
                self.follow(&work);
                self.put_back(&work, ranking, position, frees);
            }
            decision
        };
        let items = group.items.iter().zip(bound);
        items.map(|(item, bound)| bound.unwrap_or_else(|| decide(item))).collect()
    }

    fn place_bound(&mut self, work: &mut Work<'a>, item: &Item) -> Option<Decision> {
        let Bound { to, from } = item.bound?;
        let position = self.fleet.position(to)?;
        let from = from.and_then(|from| self.fleet.position(from));
        let same = self.fleet.same[position];
        let fits = work.eligible.contains(position)
            && self.has_room(work, position)
            && work.topology.admits_move(from, position, same);
        fits.then(|| self.take(work, item.instance, position).0)
    }

    /// What a placement changed is in the costs before they are read again.
    fn follow(&mut self, work: &Work<'_>) {
        if work.need.strategy == Strategy::Balanced {
            self.refresh_costs(work);
        }
    }

    fn place_pinned(&mut self, work: &mut Work<'a>, item: &Item, node: NodeId) -> Decision {
        let Some(position) = self.fleet.position(node) else {
            return Decision::Unplaced { explanation: format!("node {node} does not exist") };
        };
        match self.refusal(work, position) {
            None => self.take(work, item.instance, position).0,
            Some(refusal) => {
                let why = if item.is_home { HOME } else { "" };
                let name = &self.fleet.rooms[position].node.description.name;
                Decision::Unplaced { explanation: format!("{why}{name}: {refusal}") }
            }
        }
    }

    /// The first reason against this node.
    fn refusal(&self, work: &Work<'_>, position: usize) -> Option<Refusal> {
        let room = &self.fleet.rooms[position];
        filter::standing(room, &work.need)
            .or_else(|| self.is_promised(position, &work.need).then_some(Refusal::Promised))
            .or_else(|| filter::filling(room, &work.need, &self.ports, &self.fleet.names))
            .or_else(|| work.topology.refusal(position, self.fleet.same[position]))
    }

    /// Also tells whether nodes that were refused may do again.
    fn take(&mut self, work: &mut Work<'a>, instance: InstanceId, position: usize) -> (Decision, bool) {
        // The filters have just found both free; total all the same.
        let Some(devices) = self.take_devices(work, position) else {
            return (Decision::Unplaced { explanation: "its devices are gone".to_owned() }, false);
        };
        let room = &mut self.fleet.rooms[position];
        let Some(ports) = self.ports.take(&room.node.description.address, instance, work.need.ports) else {
            return (Decision::Unplaced { explanation: Refusal::NoFreePort.to_string() }, false);
        };
        room.reserved = room.reserved.saturating_add(work.need.reservation);
        room.instances = room.instances.saturating_add(1);
        room.pids = room.pids.saturating_add(work.need.pids);
        let node = room.node.id;
        self.fleet.touch(position);
        self.fleet.add_same(position);
        self.placed.entry(work.service).or_default().push(position);
        let frees = work.topology.placed(position);
        (Decision::Placed(Placed { node, ports, devices }), frees)
    }

    fn take_devices(&mut self, work: &Work<'_>, position: usize) -> Option<Vec<DeviceShare>> {
        if work.need.asks.is_empty() {
            return Some(Vec::new());
        }
        let chosen = match (&self.mix, work.need.strategy) {
            (Some(mix), Strategy::Balanced) => {
                mix.choose(&self.fleet.rooms[position], &work.need, self.fleet.largest())?.1
            }
            _ => {
                let room = &self.fleet.rooms[position];
                let choose = |ask: &device::Ask| room.bank(ask.name)?.choose(ask);
                work.need.asks.iter().map(choose).collect::<Option<_>>()?
            }
        };
        let mut shares = Vec::new();
        for (ask, devices) in work.need.asks.iter().zip(chosen) {
            let banks = &mut self.fleet.rooms[position].banks;
            let bank = banks.iter_mut().find(|bank| bank.name == ask.name)?;
            shares.extend(bank.shares(&self.fleet.names, &devices, ask.millis));
            bank.take(&devices, ask.millis);
        }
        Some(shares)
    }
}

#[cfg(test)]
mod tests;
