//! Rules between nodes, devices, strategies and preemption: tables and properties.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use skein_common::{
    Resources,
    instance::Phase,
    node::Availability,
    placement::{
        Affinity, DeviceShare, Direction, EXCLUSIVE_LABEL, GenericRequest, GenericResource, Strategy,
        TopologyKey, TopologySpread,
    },
    service::Disruption,
};

use super::*;
use crate::{CommandKind, invariant, testing::with_image};

fn zone() -> TopologyKey {
    TopologyKey::Label("zone".to_owned())
}

/// Nodes `n1` … with the zones given; empty = no zone.
fn zoned(zones: &[&str]) -> Cluster {
    let mut cluster = Cluster::new(0);
    for (number, zone) in (1..).zip(zones) {
        let mut description = node(&format!("n{number}"));
        if !zone.is_empty() {
            description.labels.insert("zone".to_owned(), (*zone).to_owned());
        }
        cluster.add_node(description);
    }
    cluster
}

fn per_zone(cluster: &Cluster, told: &[String]) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for name in told {
        let Some(node) = cluster.state.node_by_name(name) else { continue };
        *counts.entry(node.label("zone").unwrap_or_default().to_owned()).or_default() += 1;
    }
    counts
}

fn spread(mut spec: ServiceSpec, max_skew: u32, min_domains: u32) -> ServiceSpec {
    spec.placement.spread = vec![TopologySpread { key: zone(), max_skew, min_domains }];
    spec
}

fn related(mut spec: ServiceSpec, to: &str, key: TopologyKey, direction: Direction) -> ServiceSpec {
    spec.placement.affinities.push(Affinity { service: to.to_owned(), key, direction, weight: None });
    spec
}

#[test]
fn a_hard_spread_leaves_pending_what_would_break_it() {
    let cluster = zoned(&["a", "a", "a", "b", ""]);
    let told =
        chosen(&cluster, &place(&cluster, &spread(reserving(spec("web"), 0, 5 * GIB), 1, 0), items(4)));
    assert_eq!(per_zone(&cluster, &told), BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]));
    assert_eq!(
        told[3],
        "5 nodes: 3 insufficient memory, 1 too many of the service in the same node.labels.zone, 1 without \
         node.labels.zone"
    );
    // Two zones where three are asked for: none may have more than the skew.
    let told = chosen(&cluster, &place(&cluster, &spread(spec("web"), 1, 3), items(3)));
    assert_eq!(per_zone(&cluster, &told).values().sum::<u32>(), 2);
}

#[test]
fn preferences_spread_as_evenly_as_there_is_room() {
    let cluster = zoned(&["a", "a", "a", "a", "b", "c"]);
    let mut asked = spec("web");
    asked.placement.preferences = vec![zone()];
    let told = chosen(&cluster, &place(&cluster, &asked, items(9)));
    assert!(per_zone(&cluster, &told).values().all(|count| *count == 3), "{told:?}");
    let mut asked = reserving(spec("web"), 0, 5 * GIB);
    asked.placement.preferences = vec![zone()];
    let told = chosen(&cluster, &place(&cluster, &asked, items(6)));
    assert_eq!(per_zone(&cluster, &told).values().sum::<u32>(), 6, "soft: it goes where there is room");
}

#[test]
fn a_node_takes_no_more_replicas_than_it_may() {
    let cluster = Cluster::new(2);
    let mut asked = spec("web");
    asked.placement.max_replicas_per_node = Some(2);
    let told = chosen(&cluster, &place(&cluster, &asked, items(5)));
    assert_eq!(told[4], "2 nodes: 2 already 2 of the service");
}

#[test]
fn affinity_holds_in_both_directions() {
    let mut cluster = zoned(&["a", "a", "b"]);
    let db = cluster.create(spec("db"));
    cluster.settle();
    let home = cluster.live(db)[0].node.unwrap();
    let home_zone = cluster.state.node(home).unwrap().label("zone").unwrap().to_owned();
    let near = related(spec("web"), "db", zone(), Direction::Near);
    let told = chosen(&cluster, &place(&cluster, &near, items(3)));
    assert_eq!(per_zone(&cluster, &told), BTreeMap::from([(home_zone.clone(), 3)]));
    let away = related(spec("web"), "db", zone(), Direction::Away);
    let told = chosen(&cluster, &place(&cluster, &away, items(2)));
    assert_eq!(per_zone(&cluster, &told).get(&home_zone), None);
    // What must be away from others keeps them away too.
    let lonely = cluster.create(related(spec("lonely"), "cache", TopologyKey::Node, Direction::Away));
    cluster.settle();
    let taken = cluster.state.node_name(cluster.live(lonely)[0].node.unwrap());
    let told = chosen(&cluster, &place(&cluster, &spec("cache"), items(6)));
    assert!(!told.contains(&taken), "{told:?} with lonely on {taken}");
    // The first of those that want to be together may go anywhere.
    let together = related(spec("web"), "web", TopologyKey::Node, Direction::Near);
    let told = chosen(&cluster, &place(&cluster, &together, items(3)));
    assert!(told.iter().all(|name| *name == told[0]), "{told:?}");
    let apart = related(spec("web"), "web", TopologyKey::Node, Direction::Away);
    let told = chosen(&cluster, &place(&cluster, &apart, items(4)));
    assert_eq!(told[3], "3 nodes: 3 not away from web");
}

#[test]
fn exclusive_nodes_take_only_who_tolerates_them() {
    let mut cluster = Cluster::new(0);
    let mut description = node("n1");
    description.labels.insert(EXCLUSIVE_LABEL.to_owned(), "gpu".to_owned());
    cluster.add_node(description);
    for (tolerations, then) in
        [(vec![], "1 node: 1 exclusive to gpu"), (vec!["gpu"], "n1"), (vec!["*"], "n1")]
    {
        let mut asked = spec("web");
        asked.placement.tolerations = tolerations.into_iter().map(str::to_owned).collect();
        assert_eq!(chosen(&cluster, &place(&cluster, &asked, items(1))), [then]);
    }
}

fn with_gpus(counts: &[(u16, &str)]) -> Cluster {
    let mut cluster = Cluster::new(0);
    for (number, (count, model)) in (1..).zip(counts) {
        let mut description = node(&format!("n{number}"));
        description.generic =
            vec![GenericResource { name: "gpu".to_owned(), model: (*model).to_owned(), count: *count }];
        cluster.add_node(description);
    }
    cluster
}

fn on_gpu(mut spec: ServiceSpec, count: u16, millis: u16, models: &[&str]) -> ServiceSpec {
    let models = models.iter().map(|model| (*model).to_owned()).collect();
    spec.placement.generic = vec![GenericRequest { name: "gpu".to_owned(), count, millis, models }];
    spec
}

#[test]
fn devices_are_given_recorded_and_not_given_twice() {
    let mut cluster = with_gpus(&[(2, "T4"), (1, "A100")]);
    let shares = cluster.create(on_gpu(replicated("shares", 3), 1, 400, &["T4"]));
    cluster.settle();
    let mut held: Vec<DeviceShare> = cluster.live(shares).iter().flat_map(|i| i.devices.clone()).collect();
    held.sort_unstable();
    let share = |device| DeviceShare { name: "gpu".to_owned(), device, millis: 400 };
    assert_eq!(held, [share(0), share(0), share(1)]);
    for (asked, then) in [
        (on_gpu(spec("web"), 1, 1_000, &[]), "n2"),
        (on_gpu(spec("web"), 1, 600, &["T4"]), "n1"),
        (on_gpu(spec("web"), 1, 601, &["T4"]), "2 nodes: 2 insufficient gpu"),
        (on_gpu(spec("web"), 3, 1_000, &[]), "2 nodes: 2 insufficient gpu; largest node has 2 gpu"),
    ] {
        assert_eq!(
            chosen(&cluster, &place(&cluster, &asked, items(1))),
            [then],
            "{:?}",
            asked.placement.generic
        );
    }
    assert_eq!(invariant::check(&cluster.state), []);
}

#[test]
fn each_strategy_chooses_its_node() {
    let mut cluster = with_gpus(&[(2, "T4"), (2, "T4"), (2, "T4")]);
    let first = cluster.create(on_gpu(reserving(spec("first"), 500, 0), 1, 500, &[]));
    cluster.settle();
    let taken = cluster.state.node_name(cluster.live(first)[0].node.unwrap());
    for (strategy, same) in [(Strategy::Spread, false), (Strategy::Binpack, true), (Strategy::Balanced, true)]
    {
        let mut asked = on_gpu(reserving(spec("web"), 500, 0), 1, 500, &[]);
        asked.placement.strategy = Some(strategy);
        // What usually runs here needs whole devices.
        let usual = on_gpu(spec("usual"), 1, 1_000, &[]);
        let mut scheduler = Scheduler::new(&cluster.state).with_mix([(&usual, 1)].into_iter());
        let group = Group { service: ServiceId::from_random(1), items: items(1), spec: &asked };
        let told = chosen(&cluster, &scheduler.place(&group));
        assert_eq!(told[0] == taken, same, "{strategy}: {told:?}");
    }
}

/// Three services of different priority on one node of 8 GiB; who gives way to 4 GiB more.
#[test]
fn the_least_important_give_way_and_no_more_than_needed() {
    let important = |name: &str, priority, gib| {
        let mut spec = reserving(spec(name), 0, gib * GIB);
        spec.placement.priority = priority;
        spec
    };
    for (priority, gib, then) in [
        (90, 4, Some(vec!["low", "middle"])),
        (90, 1, Some(vec!["low"])),
        (50, 1, Some(vec!["low"])),
        (49, 3, None),
        (29, 1, None),
        (90, 9, None),
    ] {
        let mut cluster = Cluster::new(1);
        for (name, priority, gib) in [("low", 20, 2), ("middle", 40, 2), ("high", 80, 4)] {
            cluster.create(important(name, priority, gib));
            cluster.settle();
        }
        let asked = important("web", priority, gib);
        let mut scheduler = Scheduler::new(&cluster.state);
        let group = Group { service: ServiceId::from_random(1), items: items(1), spec: &asked };
        let found = scheduler.preempt(&group, 1);
        let names = found.first().map(|preemption| {
            let named = preemption.victims.iter().filter_map(|id| cluster.state.instance(*id));
            named.filter_map(|i| Some(cluster.state.spec_of(i)?.name.clone())).collect::<Vec<_>>()
        });
        let then = then.map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(names, then, "{priority} {gib}");
    }
}

#[test]
fn a_disruption_limit_protects_and_room_in_the_making_is_waited_for() {
    let mut cluster = Cluster::new(2);
    let mut low = reserving(replicated("low", 2), 0, 6 * GIB);
    low.placement.priority = 10;
    low.disruption = Some(Disruption::MaxUnavailable(1));
    let low = cluster.create(low);
    cluster.settle();
    let asked = reserving(replicated("web", 2), 0, 4 * GIB);
    let found = {
        let group = Group { service: ServiceId::from_random(1), items: items(2), spec: &asked };
        Scheduler::new(&cluster.state).preempt(&group, 2)
    };
    assert_eq!(found.len(), 1, "one of the two may be missing");
    let instance = found[0].victims[0];
    assert!(cluster.live(low).iter().any(|live| live.id == instance));
    let wish = crate::command::Wish {
        instance,
        desired: skein_common::instance::Desired::Stop,
        lost: false,
        only_live: false,
        reason: "gives way".to_owned(),
    };
    let plan = crate::command::Plan { desire: vec![wish], ..Default::default() };
    cluster.accept(crate::CommandKind::Plan(plan));
    let group = Group { service: ServiceId::from_random(1), items: items(1), spec: &asked };
    assert_eq!(Scheduler::new(&cluster.state).preempt(&group, 1), [], "it is stopping already");
}

#[test]
fn an_explanation_tells_filters_and_terms() {
    let mut cluster = zoned(&["a", "a", "b", "b", "b"]);
    let web = cluster.create(reserving(spec("web"), 1_000, 0));
    cluster.settle();
    let taken = cluster.live(web)[0].node.unwrap();
    cluster.set_availability(cluster.node("n5"), Availability::Drained);
    let mut asked = reserving(spec("web"), 1_000, 0);
    asked.placement.preferences = vec![zone()];
    let failed_on = vec![cluster.node("n1")];
    let item = Item { failed_on, ..Item::new(InstanceId::from_random(1)) };
    let group = Group { service: web, items: vec![item], spec: &asked };
    let explained = Scheduler::new(&cluster.state).explain(&group, 9);
    assert_eq!((explained.nodes, explained.priority, explained.strategy), (5, 50, Strategy::Spread));
    let removed = Removed { reason: "drained".to_owned(), nodes: 1, examples: vec!["n5".to_owned()] };
    assert_eq!(explained.removed, [removed]);
    let last = explained.best.last().unwrap();
    assert_eq!((cluster.state.node_name(last.node).as_str(), last.failures), ("n1", 1));
    let of_taken = explained.best.iter().find(|rated| rated.node == taken).unwrap();
    assert!(of_taken.constraints <= 0.0 && of_taken.resources <= -1.0, "{of_taken:?}");
    // The best node told is the one that is taken.
    let decisions = Scheduler::new(&cluster.state).place(&group);
    let Decision::Placed(placed) = &decisions[0] else { panic!("{decisions:?}") };
    assert_eq!(placed.node, explained.best[0].node);
}

fn policies() -> impl Strategy2<Value = (ServiceSpec, u64)> {
    (0..3u32, 0..4u64, prop::option::of(1..3u32), prop::option::of(1..4u32), 0..3u16, 1..9u64, any::<bool>())
        .prop_map(|(strategy, gib, skew, per_node, gpus, count, prefers)| {
            let mut spec = with_image(reserving(spec("web"), gib * 300, gib * GIB), "image:1");
            spec.placement.strategy =
                [Strategy::Spread, Strategy::Binpack, Strategy::Balanced].get(strategy as usize).copied();
            if let Some(max_skew) = skew {
                spec = spread(spec, max_skew, 0);
            }
            spec.placement.max_replicas_per_node = per_node;
            if gpus > 0 {
                spec = on_gpu(spec, 1, gpus * 300, &[]);
            }
            if prefers {
                spec.placement.preferences = vec![zone()];
            }
            (spec, count)
        })
}

use proptest::strategy::Strategy as Strategy2;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever is asked in whatever order: no node beyond what it has, no device given twice, no
    /// skew above its bound at any moment, and the same again for the same input.
    #[test]
    fn no_rule_is_ever_broken(
        asked in prop::collection::vec(policies(), 1..6),
        zones in prop::collection::vec(0..4u8, 1..8),
    ) {
        let mut cluster = Cluster::new(0);
        for (number, zone) in (1..).zip(&zones) {
            let mut description = node(&format!("n{number}"));
            if *zone > 0 {
                description.labels.insert("zone".to_owned(), zone.to_string());
            }
            description.generic =
                vec![GenericResource { name: "gpu".to_owned(), model: String::new(), count: u16::from(*zone) }];
            cluster.add_node(description);
        }
        let run = || {
            let mut scheduler = Scheduler::new(&cluster.state);
            let mut all = Vec::new();
            for (number, (spec, count)) in (1u64..).zip(&asked) {
                let items = items(*count);
                let service = ServiceId::from_random(number);
                all.push(scheduler.place(&Group { service, items, spec }));
            }
            all
        };
        let told = run();
        prop_assert_eq!(&told, &run());
        let mut used: BTreeMap<NodeId, Resources> = BTreeMap::new();
        let mut devices: BTreeMap<(NodeId, u16), u16> = BTreeMap::new();
        for ((spec, _), decisions) in asked.iter().zip(&told) {
            let mut counts: BTreeMap<String, u32> = cluster
                .state
                .nodes()
                .filter_map(|node| Some((node.label("zone")?.to_owned(), 0)))
                .collect();
            let mut same: BTreeMap<NodeId, u32> = BTreeMap::new();
            for decision in decisions {
                let Decision::Placed(placed) = decision else { continue };
                let node = cluster.state.node(placed.node).unwrap();
                let sum = used.entry(placed.node).or_default();
                *sum = sum.saturating_add(spec.resources.reservation);
                prop_assert_eq!(node.allocatable().lacking(*sum), None);
                for share in &placed.devices {
                    let sum = devices.entry((placed.node, share.device)).or_default();
                    *sum += share.millis;
                    prop_assert!(*sum <= 1_000);
                }
                let here = same.entry(placed.node).or_default();
                *here += 1;
                prop_assert!(spec.placement.max_replicas_per_node.is_none_or(|most| *here <= most));
                if let Some(rule) = spec.placement.spread.first() {
                    let zone = node.label("zone").map(str::to_owned);
                    prop_assert!(zone.is_some());
                    *counts.entry(zone.unwrap()).or_default() += 1;
                    let (most, least) = (counts.values().max().unwrap(), counts.values().min().unwrap());
                    prop_assert!(most - least <= rule.max_skew, "{counts:?}");
                }
            }
        }
    }
}

#[test]
fn pids_are_set_aside_where_they_are_known() {
    let mut cluster = Cluster::new(0);
    for (name, pids) in [("n1", 100), ("n2", 50)] {
        let mut description = crate::testing::node(name);
        description.pids = pids;
        cluster.add_node(description);
    }
    let mut spec = replicated("web", 4);
    spec.resources.pids = Some(50);
    let service = cluster.create(spec.clone());
    cluster.settle();
    let live = cluster.live(service);
    let on = |name: &str| live.iter().filter(|i| i.node == Some(cluster.node(name))).count();
    assert_eq!((on("n1"), on("n2")), (2, 1));
    let pending = live.iter().find(|instance| instance.node.is_none()).expect("one finds nothing");
    assert_eq!(pending.explanation, "2 nodes: 2 insufficient pids");
    // A plan made from an older state gives nothing away twice.
    assert_eq!(cluster.state.occupancy(cluster.node("n1")).pids, 100);
    cluster.add_node(crate::testing::node("n3"));
    cluster.settle();
    assert!(cluster.live(service).iter().all(|i| i.is_ready()), "0 = not known, and not counted");
}

#[test]
fn what_is_measured_decides_among_equals_and_more_when_it_weighs() {
    use skein_common::cluster::{ClusterConfig, Weight};
    let mut cluster = Cluster::new(3);
    let nodes: Vec<_> = cluster.state.nodes().map(|node| node.id).collect();
    let busy: std::collections::BTreeMap<_, _> = [(nodes[0], 900), (nodes[1], 300), (nodes[2], 600)].into();
    let spec = replicated("web", 3);
    let place = |cluster: &Cluster, spec: &ServiceSpec, count: u64| -> Vec<usize> {
        let items = (1..=count).map(|n| Item::new(InstanceId::from_random(n))).collect();
        let group = Group { service: ServiceId::from_random(5), items, spec };
        let decisions = Scheduler::new(&cluster.state).with_measured(&busy).place(&group);
        let position = |decision: Decision| match decision {
            Decision::Placed(placed) => nodes.iter().position(|node| *node == placed.node).expect("known"),
            Decision::Unplaced { explanation } => panic!("{explanation}"),
        };
        decisions.into_iter().map(position).collect()
    };
    assert_eq!(place(&cluster, &spec, 3), [1, 2, 0], "the least busy first");
    assert_eq!(place(&cluster, &spec, 1), [1]);
    // Spread comes first, unless it weighs more than an instance.
    let mut config = ClusterConfig::default();
    config.scheduling.weights.utilisation = Some(Weight(10_000));
    let config = CommandKind::ConfigureCluster { expected: None, config: std::sync::Arc::new(config) };
    cluster.accept(config);
    assert_eq!(place(&cluster, &spec, 3), [1, 1, 1]);
}

#[test]
fn a_node_that_has_the_image_wins_among_equals() {
    let mut cluster = Cluster::new(3);
    let service = cluster.create(replicated("web", 1));
    cluster.settle();
    let first = cluster.live(service).remove(0);
    cluster.scale(service, 0);
    cluster.plan_out();
    cluster.settle();
    // Its record is gone with its container, and nothing is known of images then.
    cluster.scale(service, 1);
    cluster.settle();
    let second = cluster.live(service).remove(0);
    assert!(second.is_ready() && second.id != first.id);
    cluster.report_exit(second.id, Phase::Stopped, Some(0), "");
    cluster.settle();
    cluster.pass(Duration::from_secs(3_600));
    cluster.settle();
    let third = cluster.live(service).remove(0);
    assert_eq!(third.node, second.node, "it was pulled there");
}
