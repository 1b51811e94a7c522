//! `cargo bench -p skein-master-core`: the scheduler's speed, one thread, on synthetic nodes.
//!
//! Prints one line a scenario; asserts what does not depend on the machine (how many found a node,
//! and how evenly). Deliberately not here: real traces (`skein simulate placement`).

#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::expect_used)] // it measures

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use skein_common::{
    InstanceId, NodeId, Resources, Revision, ServiceId, Timestamp,
    instance::{News, Observed, Phase, Progress, Slot},
    node::{NodeDescription, Platform},
    placement::{Affinity, Direction, Strategy, TopologyKey, TopologySpread},
    service::{ContainerSpec, Disruption, Generation, Mode, ServiceSpec},
};
use skein_master_core::{
    ClusterState, Command, CommandKind,
    command::{Actor, NewInstance, Plan, Report},
    scheduler::{Decision, Group, Item, Scheduler},
};

const GIB: u64 = 1 << 30;

fn apply(state: &mut ClusterState, kind: CommandKind) {
    let command = Command { request: None, at: Timestamp::default(), actor: Actor::User, kind };
    let revision = Revision(state.revision().0 + 1);
    assert!(state.apply(revision, &command).outcome.is_ok());
}

fn nodes(count: u64) -> ClusterState {
    let mut state = ClusterState::default();
    for number in 0..count {
        let label = |name: &str, of: u64| (name.to_owned(), (number % of).to_string());
        let description = NodeDescription {
            name: format!("n{number}"),
            address: format!("n{number}"),
            labels: BTreeMap::from([label("zone", 10), label("rack", 50)]),
            capacity: Resources { cpu_millis: 64_000, memory_bytes: 256 * GIB },
            reserved: Resources::ZERO,
            platform: Platform { os: "linux".to_owned(), arch: "amd64".to_owned() },
            agent_version: String::new(),
            runtime_version: String::new(),
            generic: Vec::new(),
            balances: false,
            pids: 0,
        };
        let id = NodeId::from_random(number + 1);
        apply(
            &mut state,
            CommandKind::RegisterNode { id, description: Arc::new(description), incarnation: 1 },
        );
    }
    state
}

fn spec(name: &str, replicas: u32, cpu_millis: u64) -> ServiceSpec {
    let mut spec = ServiceSpec::new(name, ContainerSpec::new("image"));
    spec.mode = Mode::Replicated { replicas };
    spec.resources.reservation = Resources { cpu_millis, memory_bytes: GIB / 4 };
    spec
}

fn label(name: &str) -> TopologyKey {
    TopologyKey::Label(name.to_owned())
}

struct Outcome {
    placed: Vec<NodeId>,
    total: Duration,
    /// Of each group, by instance.
    each: Vec<Duration>,
}

/// Every spec as a group of its own, all in one pass.
fn place(state: &ClusterState, specs: &[ServiceSpec]) -> Outcome {
    let mut scheduler = Scheduler::new(state);
    let mut outcome = Outcome { placed: Vec::new(), total: Duration::ZERO, each: Vec::new() };
    let mut next = 0;
    for (number, spec) in (1u64..).zip(specs) {
        let item = |_| {
            next += 1;
            Item::new(InstanceId::from_random(next))
        };
        let items: Vec<_> = (0..spec.replicas().unwrap_or(0)).map(item).collect();
        let count = u32::try_from(items.len()).expect("a small group");
        let group = Group { service: ServiceId::from_random(number), items, spec };
        let begun = Instant::now();
        let decisions = scheduler.place(&group);
        let elapsed = begun.elapsed();
        outcome.total += elapsed;
        outcome.each.push(elapsed / count.max(1));
        outcome.placed.extend(decisions.iter().filter_map(|decision| match decision {
            Decision::Placed(placed) => Some(placed.node),
            Decision::Unplaced { .. } => None,
        }));
    }
    outcome
}

fn tell(name: &str, mut outcome: Outcome) {
    outcome.each.sort_unstable();
    let p99 = outcome.each[outcome.each.len() * 99 / 100];
    let count = u32::try_from(outcome.placed.len()).expect("not so many");
    let per_second = f64::from(count) / outcome.total.as_secs_f64();
    let total = outcome.total.as_secs_f64() * 1e3;
    let p99 = p99.as_secs_f64() * 1e6;
    println!("{name:<52}{count:>8}{per_second:>12.0}{total:>10.1}{p99:>10.1}");
}

fn many(count: u32, make: impl Fn(u32) -> ServiceSpec) -> Vec<ServiceSpec> {
    (0..count).map(make).collect()
}

/// Every node full of what is less important; each instance has to make somebody give way.
fn preemption() {
    let mut state = nodes(5_000);
    let mut low = spec("low", 5_000, 40_000);
    low.placement.priority = 10;
    low.disruption = Some(Disruption::MaxUnavailable(5_000));
    let service = ServiceId::from_random(1);
    apply(&mut state, CommandKind::CreateService { id: service, spec: Arc::new(low) });
    let create = (1u32..=5_000).map(|number| NewInstance {
        id: InstanceId::from_random(number.into()),
        service,
        slot: Slot::Number(number),
        generation: Generation(1),
        placed: Some((NodeId::from_random(number.into()), Vec::new())),
        devices: Vec::new(),
        not_before: Timestamp::default(),
        failures: 0,
        explanation: String::new(),
        beside: None,
        moves_to: None,
    });
    let create: Vec<_> = create.collect();
    for part in create.chunks(1_000) {
        apply(&mut state, CommandKind::Plan(Plan { create: part.to_vec(), ..Plan::default() }));
    }
    let reports = (1u64..=5_000).map(|number| {
        let progress = Progress { attempt: 1, phase: Phase::Ready };
        let news = News::Observed(Observed::of(progress, Timestamp::default()));
        Report { node: NodeId::from_random(number), instance: InstanceId::from_random(number), news }
    });
    apply(&mut state, CommandKind::Observe { reports: reports.collect() });
    let groups = many(20, |n| {
        let mut spec = spec(&format!("high{n}"), 200, 30_000);
        spec.placement.priority = 90;
        spec
    });
    let mut scheduler = Scheduler::new(&state);
    let mut outcome = Outcome { placed: Vec::new(), total: Duration::ZERO, each: Vec::new() };
    for (number, spec) in (100u64..).zip(&groups) {
        let group = Group { service: ServiceId::from_random(number), items: Vec::new(), spec };
        let begun = Instant::now();
        let found = scheduler.preempt(&group, 200);
        let elapsed = begun.elapsed();
        outcome.total += elapsed;
        outcome.each.push(elapsed / 200);
        assert!(found.iter().all(|preemption| preemption.victims.len() == 1));
        outcome.placed.extend(found.iter().map(|preemption| preemption.node));
    }
    assert_eq!(outcome.placed.len(), 4_000);
    tell("5,000 nodes, preemption, groups of 200", outcome);
}

fn main() {
    println!("{:<52}{:>8}{:>12}{:>10}{:>10}", "scenario", "placed", "per second", "total ms", "p99 µs");
    let state = nodes(5_000);
    let groups = many(100, |n| spec(&format!("s{n}"), 500, 100));
    tell("5,000 nodes, groups of 500, spread", place(&state, &groups));
    for strategy in [Strategy::Binpack, Strategy::Balanced] {
        let mut groups = groups.clone();
        groups.iter_mut().for_each(|spec| spec.placement.strategy = Some(strategy));
        tell(&format!("5,000 nodes, groups of 500, {strategy}"), place(&state, &groups));
    }
    let different = many(20_000, |n| spec(&format!("s{n}"), 1, 100 + u64::from(n % 997)));
    tell("5,000 nodes, all different, spread", place(&state, &different));
    let zones = many(100, |n| {
        let mut spec = spec(&format!("s{n}"), 200, 100);
        spec.placement.spread = vec![TopologySpread { key: label("zone"), max_skew: 1, min_domains: 0 }];
        spec
    });
    tell("5,000 nodes, hard zone spread, groups of 200", place(&state, &zones));
    let apart = many(100, |n| {
        let mut spec = spec(&format!("s{n}"), 200, 100);
        let service = spec.name.clone();
        spec.placement.affinities =
            vec![Affinity { service, key: TopologyKey::Node, direction: Direction::Away, weight: None }];
        spec
    });
    tell("5,000 nodes, required anti-affinity, groups of 200", place(&state, &apart));
    preemption();
    let state = nodes(10_000);
    tell("10,000 nodes, all different, spread", place(&state, &different));
    let mut soft = spec("soft", 1_200, 100);
    soft.placement.preferences = vec![label("rack")];
    let mut hard = spec("hard", 1_200, 100);
    hard.placement.spread = vec![TopologySpread { key: label("rack"), max_skew: 1, min_domains: 0 }];
    for (name, spec) in [("preferred", soft), ("hard", hard)] {
        let outcome = place(&state, &[spec]);
        let mut racks: BTreeMap<u64, u32> = BTreeMap::new();
        outcome.placed.iter().for_each(|node| *racks.entry((node.get() - 1) % 50).or_default() += 1);
        let (most, least) = (racks.values().max(), racks.values().min());
        assert!(racks.len() == 50 && most.zip(least).is_some_and(|(most, least)| most - least <= 1));
        tell(&format!("10,000 nodes, 1,200 over 50 racks, {name}"), outcome);
    }
}
