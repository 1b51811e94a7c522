//! A trace through the real scheduler: one pass over a state that holds the nodes.
//!
//! Invariant: nothing but the seed is random; the clock is read for the figures only.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use skein_common::{
    InstanceId, NodeId, Resources, Revision, ServiceId, Timestamp,
    node::{NodeDescription, Platform},
    placement::Strategy,
    service::{ContainerSpec, PlacementPolicy, ResourceRequirements, ServiceSpec},
};
use skein_master_core::{
    ClusterState, Command, CommandKind,
    command::Actor,
    scheduler::{Decision, Group, Item, Scheduler, Usage},
};

use super::trace::{Trace, TraceInstances, TraceNode};

const GPU: &str = "gpu";
const WHOLE_DEMAND_PERCENT: u64 = 100;
const PROTOCOL_DEMAND_PERCENT: u64 = 130;

/// Shuffled and repeated until 130 % of the GPUs have been asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Protocol {
    pub(super) seed: u64,
}

pub(super) struct Replay {
    state: ClusterState,
    /// One group each, in the order of arrival, as places in `specs`.
    arrivals: Vec<Arrival>,
    specs: Vec<ServiceSpec>,
    /// Of the trace as it is, before anything was repeated.
    mix: Vec<(usize, u64)>,
    gpu_millis: u64,
}

struct Arrival {
    spec: usize,
    service: ServiceId,
    count: u32,
}

pub(super) struct Report {
    pub(super) asked: u64,
    pub(super) rejected: u64,
    pub(super) gpu_percent_at_100: Option<f64>,
    pub(super) gpu_percent_at_130: Option<f64>,
    pub(super) usage: Usage,
    pub(super) placements_per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

impl Replay {
    pub(super) fn new(trace: &Trace, protocol: Option<Protocol>) -> Self {
        let gpus = trace.nodes.iter().flat_map(|node| &node.generic).filter(|there| there.name == GPU);
        let gpu_millis = gpus.map(|there| u64::from(there.count) * 1_000).sum();
        let mut places: BTreeMap<String, (usize, ServiceId)> = BTreeMap::new();
        let (mut specs, mut arrivals): (Vec<ServiceSpec>, Vec<Arrival>) = (Vec::new(), Vec::new());
        let mut mix = Vec::new();
        for (number, instances) in trace.instances.iter().enumerate() {
            let fresh = (specs.len(), ServiceId::from_random(number as u64 + 1));
            // Instances of one service may ask for different amounts: each is a spec of its own.
            let key = instances.service.as_ref().map(|name| format!("{name} {:?}", shape(instances)));
            let (place, service) = key.map_or(fresh, |key| *places.entry(key).or_insert(fresh));
            if place == specs.len() {
                specs.push(spec(instances));
            }
            let follows = arrivals.last_mut().filter(|last| last.spec == place);
            match follows {
                Some(last) => last.count += instances.count,
                None => arrivals.push(Arrival { spec: place, service, count: instances.count }),
            }
            mix.push((place, u64::from(instances.count)));
        }
        if let Some(protocol) = protocol {
            arrivals = follow(protocol, &arrivals, &specs, gpu_millis);
        }
        Self { state: state(&trace.nodes), arrivals, specs, mix, gpu_millis }
    }

    pub(super) fn run(&self, strategy: Strategy) -> Report {
        let mix = self.mix.iter().map(|(spec, count)| (&self.specs[*spec], *count));
        let mut scheduler = Scheduler::new(&self.state).with_strategy(strategy).with_mix(mix);
        let (mut demand, mut allocated) = (0, 0);
        let (mut asked, mut rejected) = (0, 0);
        let mut at = [None, None];
        let mut times: Vec<(u64, u64)> = Vec::with_capacity(self.arrivals.len());
        let mut next = 0u64;
        for arrival in &self.arrivals {
            let spec = &self.specs[arrival.spec];
            let item = |_| {
                next += 1;
                Item::new(InstanceId::from_random(next))
            };
            let items = (0..arrival.count).map(item).collect();
            let group = Group { service: arrival.service, items, spec };
            let begun = Instant::now();
            let decisions = scheduler.place(&group);
            let elapsed = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let count = u64::from(arrival.count.max(1));
            times.push((elapsed / count, count));
            let placed = decisions.iter().filter(|d| matches!(d, Decision::Placed(_))).count() as u64;
            asked += decisions.len() as u64;
            rejected += decisions.len() as u64 - placed;
            demand += gpu_demand(spec) * u64::from(arrival.count);
            allocated += gpu_demand(spec) * placed;
            let percents = [WHOLE_DEMAND_PERCENT, PROTOCOL_DEMAND_PERCENT];
            for (at, percent) in at.iter_mut().zip(percents) {
                if at.is_none() && self.gpu_millis > 0 && demand * 100 >= self.gpu_millis * percent {
                    *at = Some(percentage(allocated, self.gpu_millis));
                }
            }
        }
        let total: u64 = times.iter().map(|(time, count)| time * count).sum();
        Report {
            asked,
            rejected,
            gpu_percent_at_100: at[0],
            gpu_percent_at_130: at[1],
            usage: scheduler.usage(),
            placements_per_second: percentage(asked - rejected, total.max(1)) * 1e7,
            p50_us: quantile(&mut times, 0.50),
            p99_us: quantile(&mut times, 0.99),
        }
    }
}

fn shape(instances: &TraceInstances) -> impl std::fmt::Debug + '_ {
    (instances.reservation, &instances.generic, instances.max_per_node)
}

fn gpu_demand(spec: &ServiceSpec) -> u64 {
    let gpus = spec.placement.generic.iter().filter(|request| request.name == GPU);
    gpus.map(skein_common::placement::GenericRequest::total_millis).sum()
}

#[allow(clippy::cast_precision_loss)] // for reading
fn percentage(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

/// In microseconds, each time as often as it counts.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn quantile(times: &mut [(u64, u64)], part: f64) -> f64 {
    times.sort_unstable();
    let all: u64 = times.iter().map(|(_, count)| count).sum();
    let wanted = (all as f64 * part).ceil() as u64;
    let mut seen = 0;
    let found = times.iter().find(|(_, count)| {
        seen += count;
        seen >= wanted
    });
    found.map_or(0.0, |(time, _)| *time as f64 / 1_000.0)
}

/// Each instance arrives alone.
fn follow(protocol: Protocol, arrivals: &[Arrival], specs: &[ServiceSpec], gpu_millis: u64) -> Vec<Arrival> {
    let mut dice = Dice(protocol.seed);
    let mut queue: Vec<usize> = Vec::new();
    for arrival in arrivals {
        queue.extend((0..arrival.count).map(|_| arrival.spec));
    }
    for last in (1..queue.len()).rev() {
        queue.swap(last, dice.below(last + 1));
    }
    let (pool, wanted) = (queue.len(), gpu_millis * PROTOCOL_DEMAND_PERCENT / 100);
    let any_gpu = queue.iter().any(|spec| gpu_demand(&specs[*spec]) > 0);
    let mut demand: u64 = queue.iter().map(|spec| gpu_demand(&specs[*spec])).sum();
    while any_gpu && demand < wanted {
        let again = queue[dice.below(pool)];
        demand += gpu_demand(&specs[again]);
        queue.push(again);
    }
    let single = |(number, spec)| Arrival { spec, service: ServiceId::from_random(number), count: 1 };
    let mut taken = Vec::with_capacity(queue.len());
    let mut demand = 0;
    for arrival in (1u64..).zip(queue).map(single) {
        if any_gpu && demand >= wanted {
            break;
        }
        demand += gpu_demand(&specs[arrival.spec]);
        taken.push(arrival);
    }
    taken
}

/// SplitMix64: the same on every machine and in every version.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = bound.max(1) as u128;
        usize::try_from((u128::from(self.next()) * bound) >> 64).unwrap_or(0)
    }
}

fn spec(instances: &TraceInstances) -> ServiceSpec {
    let defaults = PlacementPolicy::default();
    let placement = PlacementPolicy {
        priority: instances.priority.unwrap_or(defaults.priority),
        max_replicas_per_node: instances.max_per_node,
        generic: instances.generic.clone(),
        ..defaults
    };
    let mut spec =
        ServiceSpec::new(instances.service.clone().unwrap_or_default(), ContainerSpec::new("trace"));
    spec.placement = placement;
    spec.resources =
        ResourceRequirements { reservation: instances.reservation, ..ResourceRequirements::default() };
    spec
}

fn state(nodes: &[TraceNode]) -> ClusterState {
    let mut state = ClusterState::default();
    for (number, node) in (1u64..).zip(nodes) {
        let description = NodeDescription {
            name: node.name.clone(),
            address: node.name.clone(),
            labels: BTreeMap::new(),
            capacity: node.capacity,
            reserved: Resources::ZERO,
            platform: Platform::default(),
            agent_version: String::new(),
            runtime_version: String::new(),
            generic: node.generic.clone(),
            balances: false,
            pids: 0,
        };
        // Ids in the order of the file, so that ties go to the earlier line.
        let id = NodeId::from_random(number);
        let kind = CommandKind::RegisterNode { id, description: Arc::new(description), incarnation: 1 };
        let command = Command { request: None, at: Timestamp::default(), actor: Actor::User, kind };
        state.apply(Revision(number), &command);
    }
    state
}
