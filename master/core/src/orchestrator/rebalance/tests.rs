//! What is moved, how it is paced, and that it ends.

use std::{collections::BTreeMap, sync::Arc};

use proptest::{collection::vec, prelude::*};
use skein_common::{
    ServiceId,
    cluster::{ClusterConfig, RebalanceGoal},
    node::NodeDescription,
    placement::{Strategy as Taste, TopologySpread},
    service::{Mount, MountKind, MountOptions},
};

use super::*;
use crate::{
    CommandKind, invariant,
    orchestrator::rehearsal,
    testing::{Cluster, GIB, node, publishing, replicated, reserving, with_image},
};

fn zoned(name: &str, zone: &str) -> NodeDescription {
    let mut description = node(name);
    description.labels = [("zone".to_owned(), zone.to_owned())].into();
    description
}

fn configure(cluster: &mut Cluster, change: impl FnOnce(&mut RebalanceConfig)) {
    let mut config = ClusterConfig::clone(&cluster.state.settings().config);
    change(&mut config.scheduling.rebalance);
    cluster.accept(CommandKind::ConfigureCluster { expected: None, config: Arc::new(config) });
}

fn ask(cluster: &mut Cluster, goal: RebalanceGoal) {
    cluster.accept(CommandKind::Rebalance { goal, service: None });
}

/// Instances of the service by the name of their node.
fn spread(cluster: &Cluster, service: ServiceId) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for instance in cluster.live(service) {
        let node = instance.node.map(|node| cluster.state.node_name(node)).unwrap_or_default();
        *counts.entry(node).or_default() += 1;
    }
    counts
}

fn counts(of: &[(&str, usize)]) -> BTreeMap<String, usize> {
    of.iter().map(|(node, count)| ((*node).to_owned(), *count)).collect()
}

/// Until the run has ended; never fewer than `least` Ready of each.
fn run_out(cluster: &mut Cluster, least: &[(ServiceId, usize)]) -> u32 {
    let mut moves = 0;
    for _ in 0..2_000 {
        moves = moves.max(cluster.state.settings().rebalance.as_ref().map_or(0, |run| run.moves));
        let stepped = cluster.step();
        for (service, least) in least {
            let ready = cluster.live(*service).iter().filter(|i| i.is_ready()).count();
            assert!(ready >= *least, "{ready} Ready of {least}");
        }
        assert_eq!(invariant::check(&cluster.state), []);
        if cluster.obey() || stepped {
            continue;
        }
        if cluster.state.settings().rebalance.is_none() {
            return moves;
        }
        cluster.now = cluster.plan().wake_at.expect("something to wait for");
    }
    panic!("it never ends: {:?}", cluster.state.settings());
}

#[test]
fn a_new_node_gets_its_part() {
    for (spec, least) in [
        (replicated("web", 6), 6),
        (reserving(replicated("web", 6), 500, GIB), 6),
        (publishing(replicated("web", 2), 80, Publish::Host { port: 80 }), 1),
    ] {
        let mut cluster = Cluster::new(2);
        let service = cluster.create(spec.clone());
        cluster.settle();
        cluster.add_node(node("n3"));
        cluster.settle();
        assert!(!spread(&cluster, service).contains_key("n3"), "nothing moves by itself");
        let foreseen =
            rehearsal::moves(&cluster.state, RebalanceGoal::Even, None, cluster.now).expect("accepted");
        ask(&mut cluster, RebalanceGoal::Even);
        let moves = run_out(&mut cluster, &[(service, least)]);
        assert_eq!(foreseen.len(), usize::try_from(moves).expect("few"), "{foreseen:?}");
        assert!(foreseen.iter().all(|one| one.start_first == (least > 1)), "{foreseen:?}");
        if spec.ports.is_empty() {
            assert_eq!(spread(&cluster, service), counts(&[("n1", 2), ("n2", 2), ("n3", 2)]));
        }
        ask(&mut cluster, RebalanceGoal::Even);
        assert_eq!(run_out(&mut cluster, &[]), 0, "twice is no better");
    }
}

#[test]
fn one_replica_is_moved_stop_first_unless_its_service_says_otherwise() {
    for (order, least) in [(UpdateOrder::StopFirst, 0), (UpdateOrder::StartFirst, 1)] {
        let mut cluster = Cluster::new(1);
        let mut specs = vec![];
        for name in ["a", "b", "c", "d"] {
            let mut spec = reserving(replicated(name, 1), 1_000, GIB);
            spec.update.order = order;
            specs.push(cluster.create(spec));
        }
        cluster.settle();
        cluster.add_node(node("n2"));
        ask(&mut cluster, RebalanceGoal::Even);
        let least: Vec<_> = specs.iter().map(|service| (*service, least)).collect();
        assert_eq!(run_out(&mut cluster, &least), 2);
        let there = specs.iter().filter(|s| spread(&cluster, **s).contains_key("n2")).count();
        assert_eq!(there, 2);
    }
}

#[test]
fn spread_over_zones_comes_before_nodes_and_load() {
    let mut cluster = Cluster::new(0);
    cluster.add_node(zoned("n1", "a"));
    cluster.add_node(zoned("n2", "a"));
    let mut spec = replicated("web", 4);
    spec.placement.preferences = vec!["node.labels.zone".parse().expect("a key")];
    let service = cluster.create(spec);
    cluster.settle();
    cluster.add_node(zoned("n3", "b"));
    ask(&mut cluster, RebalanceGoal::Even);
    assert_eq!(run_out(&mut cluster, &[(service, 4)]), 2);
    assert_eq!(spread(&cluster, service), counts(&[("n1", 1), ("n2", 1), ("n3", 2)]));
}

#[test]
fn hard_spread_is_kept_while_moving() {
    let mut cluster = Cluster::new(0);
    for (name, zone) in [("n1", "a"), ("n2", "b")] {
        cluster.add_node(zoned(name, zone));
    }
    let mut spec = replicated("web", 6);
    let key = "node.labels.zone".parse().expect("a key");
    spec.placement.spread = vec![TopologySpread { key, max_skew: 1, min_domains: 0 }];
    let service = cluster.create(spec);
    cluster.settle();
    cluster.add_node(zoned("n3", "c"));
    ask(&mut cluster, RebalanceGoal::Even);
    run_out(&mut cluster, &[(service, 6)]);
    assert_eq!(spread(&cluster, service), counts(&[("n1", 2), ("n2", 2), ("n3", 2)]));
}

#[test]
fn what_must_stay_stays() {
    let volume = Mount {
        kind: MountKind::Volume,
        source: "data".to_owned(),
        target: "/data".to_owned(),
        read_only: false,
        options: MountOptions::default(),
    };
    let mut with_volume = replicated("web", 4);
    with_volume.container.mounts.push(volume);
    let mut pinned = replicated("web", 4);
    pinned.placement.constraints = vec!["node.name != n3".parse().expect("a constraint")];
    let mut packed = replicated("web", 4);
    packed.placement.strategy = Some(Taste::Binpack);
    for spec in [with_volume, pinned, packed] {
        let mut cluster = Cluster::new(2);
        let service = cluster.create(spec);
        cluster.settle();
        let before = cluster.picture(service);
        cluster.add_node(node("n3"));
        ask(&mut cluster, RebalanceGoal::Even);
        assert_eq!(run_out(&mut cluster, &[]), 0);
        assert_eq!(cluster.picture(service), before);
    }
}

#[test]
fn it_is_paced() {
    let mut cluster = Cluster::new(1);
    configure(&mut cluster, |config| config.max_moves = Some(3));
    let mut services = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        let mut spec = replicated(name, 6);
        spec.update.parallelism = 2;
        services.push(cluster.create(spec));
    }
    cluster.settle();
    cluster.add_node(node("n2"));
    ask(&mut cluster, RebalanceGoal::Even);
    cluster.plan_out();
    let moving =
        |cluster: &Cluster, service: ServiceId| cluster.live(service).iter().filter(|i| is_moving(i)).count();
    let each: Vec<_> = services.iter().map(|service| moving(&cluster, *service)).collect();
    assert_eq!(each.iter().sum::<usize>(), 3, "{each:?}");
    assert!(each.iter().all(|moving| *moving <= 2), "{each:?}");
    // A service that is updated meanwhile is left alone, and what it had begun goes on or ends.
    cluster.update(services[0], with_image(replicated("a", 6), "skein-sample:2"));
    let least: Vec<_> = services.iter().skip(1).map(|service| (*service, 6)).collect();
    run_out(&mut cluster, &least);
    for service in &services[1..] {
        assert_eq!(spread(&cluster, *service), counts(&[("n1", 3), ("n2", 3)]));
    }
}

#[test]
fn a_move_that_fails_is_not_tried_again_at_once() {
    let mut cluster = Cluster::new(1);
    let service = cluster.create(replicated("web", 2));
    cluster.settle();
    cluster.add_node(node("n2"));
    ask(&mut cluster, RebalanceGoal::Even);
    cluster.plan_out();
    let moving: Vec<_> = cluster.live(service).into_iter().filter(|i| is_moving(i)).collect();
    assert_eq!(moving.len(), 1);
    cluster.report(moving[0].id, Phase::Failed);
    // The other slot is tried, and the one that failed is not.
    run_out(&mut cluster, &[(service, 2)]);
    let (slot, node) = (moving[0].slot, cluster.node("n1"));
    let stays = cluster.live(service).iter().any(|i| i.slot == slot && i.node == Some(node));
    assert!(stays, "{:?}", cluster.picture(service));
}

#[test]
fn by_itself_after_a_node_has_joined_and_at_the_interval() {
    let mut cluster = Cluster::new(1);
    let service = cluster.create(replicated("web", 4));
    cluster.settle();
    configure(&mut cluster, |config| config.enabled = Some(true));
    cluster.settle();
    cluster.add_node(node("n2"));
    assert!(cluster.state.settings().rebalance.is_some(), "at once");
    run_out(&mut cluster, &[(service, 4)]);
    assert_eq!(spread(&cluster, service), counts(&[("n1", 2), ("n2", 2)]));
    let next = cluster.plan().wake_at.expect("the interval");
    assert_eq!(next.since(cluster.now), RebalanceConfig::DEFAULT_INTERVAL);
    cluster.now = next;
    assert!(cluster.step());
    assert!(cluster.state.settings().rebalance.is_some(), "and again");
    assert_eq!(run_out(&mut cluster, &[]), 0);
}

#[test]
fn asked_for_once() {
    let mut cluster = Cluster::new(2);
    let service = cluster.create(replicated("web", 2));
    cluster.settle();
    let even = CommandKind::Rebalance { goal: RebalanceGoal::Even, service: None };
    cluster.accept(even.clone());
    cluster.accept(even.clone());
    let other = CommandKind::Rebalance { goal: RebalanceGoal::Consolidate, service: None };
    assert!(cluster.apply(other).outcome.is_err(), "another aim");
    let before = cluster.state.settings().clone();
    let late = RebalanceStep::End { began: None };
    let plan = crate::command::Plan { rebalance: Some(late), ..Default::default() };
    cluster.accept(CommandKind::Plan(plan));
    assert_eq!(*cluster.state.settings(), before, "drawn from another run");
    cluster.accept(CommandKind::StopRebalance);
    assert_eq!(cluster.state.settings().rebalance, None);
    let unknown = ServiceId::from_random(99);
    let unknown = CommandKind::Rebalance { goal: RebalanceGoal::Even, service: Some(unknown) };
    assert!(cluster.apply(unknown).outcome.is_err());
    cluster.accept(CommandKind::Rebalance { goal: RebalanceGoal::Even, service: Some(service) });
}

#[test]
fn nodes_are_emptied_when_asked_for() {
    let mut cluster = Cluster::new(4);
    let service = cluster.create(reserving(replicated("web", 4), 1_000, GIB));
    let global = cluster.create(crate::testing::global("log"));
    cluster.settle();
    ask(&mut cluster, RebalanceGoal::Even);
    assert_eq!(run_out(&mut cluster, &[]), 0);
    // The spread over nodes is what has to give way, so a service of that strategy is not packed.
    ask(&mut cluster, RebalanceGoal::Consolidate);
    assert_eq!(run_out(&mut cluster, &[]), 0);
    let mut spec = reserving(replicated("web", 4), 1_000, GIB);
    spec.placement.strategy = Some(Taste::Binpack);
    cluster.update(service, spec);
    cluster.settle();
    ask(&mut cluster, RebalanceGoal::Consolidate);
    assert_eq!(run_out(&mut cluster, &[(service, 4)]), 3);
    assert_eq!(spread(&cluster, service).len(), 1);
    assert_eq!(cluster.live(global).len(), 4);
}

/// A service of the property.
#[derive(Debug, Clone)]
struct Shape {
    replicas: u32,
    cpu: u64,
    taste: u8,
    prefers_zone: bool,
    host_port: bool,
    parallelism: u32,
}

fn shape() -> impl Strategy<Value = Shape> {
    (0..7u32, 0..4u64, 0..4u8, any::<bool>(), prop::bool::weighted(0.1), 0..3u32).prop_map(
        |(replicas, cpu, taste, prefers_zone, host_port, parallelism)| Shape {
            replicas,
            cpu,
            taste,
            prefers_zone,
            host_port,
            parallelism,
        },
    )
}

fn build(
    before: &[u8],
    shapes: &[Shape],
    after: &[u8],
    max_moves: u32,
) -> (Cluster, Vec<(ServiceId, usize)>) {
    let mut cluster = Cluster::new(0);
    configure(&mut cluster, |config| config.max_moves = Some(max_moves));
    let zone = |number: u8| ["a", "b", "c"][usize::from(number % 3)];
    for (number, kind) in before.iter().enumerate() {
        let mut description = zoned(&format!("n{number}"), zone(*kind));
        description.capacity.cpu_millis = 2_000 + 1_000 * u64::from(*kind);
        cluster.add_node(description);
    }
    let mut least = Vec::new();
    for (number, shape) in shapes.iter().enumerate() {
        let mut spec = reserving(replicated(&format!("s{number}"), shape.replicas), shape.cpu * 250, 0);
        spec.update.parallelism = shape.parallelism;
        spec.placement.strategy = match shape.taste {
            0 => Some(Taste::Binpack),
            1 => Some(Taste::Balanced),
            _ => None,
        };
        if shape.prefers_zone {
            spec.placement.preferences = vec!["node.labels.zone".parse().expect("a key")];
        }
        if shape.host_port {
            spec = publishing(spec, 80, Publish::Host { port: 8000 });
        }
        let unavailable = if starts_first(&spec) { 0 } else { spec.max_unavailable(shape.replicas) };
        let service = cluster.create(spec);
        cluster.settle();
        let there = cluster.live(service).iter().filter(|i| i.is_ready()).count();
        least.push((service, there.saturating_sub(usize::try_from(unavailable).unwrap_or(0))));
    }
    for (number, kind) in after.iter().enumerate() {
        cluster.add_node(zoned(&format!("m{number}"), zone(*kind)));
    }
    cluster.settle();
    for (service, least) in &mut least {
        let there = cluster.live(*service).iter().filter(|i| i.is_ready()).count();
        *least = (*least).min(there);
    }
    (cluster, least)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever there is: it ends, nobody is missing beyond the limit meanwhile, and once more
    /// changes nothing.
    #[test]
    fn it_comes_to_rest(
        before in vec(0..6u8, 1..5),
        shapes in vec(shape(), 1..6),
        after in vec(0..6u8, 0..4),
        max_moves in 1..6u32,
        consolidate in any::<bool>(),
    ) {
        let (mut cluster, least) = build(&before, &shapes, &after, max_moves);
        let goal = if consolidate { RebalanceGoal::Consolidate } else { RebalanceGoal::Even };
        cluster.now = cluster.now + Duration::from_secs(3_600);
        ask(&mut cluster, goal);
        // A service that cannot be settled is waited for; time does not pass here.
        for _ in 0..3 {
            for _ in 0..500 {
                let stepped = cluster.step();
                for (service, least) in &least {
                    let ready = cluster.live(*service).iter().filter(|i| i.is_ready()).count();
                    prop_assert!(ready >= *least, "{ready} Ready, {least} is the limit");
                }
                prop_assert_eq!(invariant::check(&cluster.state), []);
                prop_assert_eq!(invariant::check_capacity(&cluster.state), []);
                if !cluster.obey() && !stepped {
                    break;
                }
            }
            cluster.now = cluster.now + PATIENCE;
        }
        prop_assert_eq!(&cluster.state.settings().rebalance, &None);
        let picture: Vec<_> = least.iter().map(|(service, _)| cluster.picture(*service)).collect();
        ask(&mut cluster, goal);
        for _ in 0..10 {
            cluster.settle();
            cluster.now = cluster.now + PATIENCE;
        }
        let again: Vec<_> = least.iter().map(|(service, _)| cluster.picture(*service)).collect();
        prop_assert_eq!(picture, again, "a further pass is empty");
        prop_assert_eq!(&cluster.state.settings().rebalance, &None);
    }
}
