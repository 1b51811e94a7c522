//! Filters, scores and groups, as tables.

use skein_common::{
    node::{Availability, Liveness},
    service::{Publish, ServiceSpec},
};

mod rules;

use super::*;
use crate::testing::{Cluster, GIB, mix, node, publishing, replicated, reserving, spec};

fn items(count: u64) -> Vec<Item> {
    let item = |n| Item::new(InstanceId::from_random(mix(n)));
    (1..=count).map(item).collect()
}

fn place(cluster: &Cluster, spec: &ServiceSpec, items: Vec<Item>) -> Vec<Decision> {
    let service = ServiceId::from_random(1);
    Scheduler::new(&cluster.state).place(&Group { service, items, spec })
}

/// The names of the chosen nodes, or the explanation.
fn chosen(cluster: &Cluster, decisions: &[Decision]) -> Vec<String> {
    let tell = |decision: &Decision| match decision {
        Decision::Placed(Placed { node, .. }) => cluster.state.node_name(*node),
        Decision::Unplaced { explanation } => explanation.clone(),
    };
    decisions.iter().map(tell).collect()
}

#[test]
fn each_filter_explains_itself() {
    let constrained = |text: &str| {
        let mut asked = spec("web");
        asked.placement.constraints = vec![text.parse().unwrap()];
        asked
    };
    type Prepare = fn(&mut Cluster);
    let nothing: Prepare = |_| {};
    for (prepare, asked, then) in [
        (nothing, spec("web"), "n1"),
        (nothing, reserving(spec("web"), 4_001, 0), "1 node: 1 insufficient cpu; largest node has 4 cores"),
        (nothing, reserving(spec("web"), 4_000, 8 * GIB), "n1"),
        (
            nothing,
            reserving(spec("web"), 0, 9 * GIB),
            "1 node: 1 insufficient memory; largest node has 8.0 GiB of memory",
        ),
        (nothing, constrained("node.labels.zone == a"), "1 node: 1 not node.labels.zone == a"),
        (nothing, constrained("node.name == n1"), "n1"),
        (|c| c.judge(c.node("n1"), Liveness::Down), spec("web"), "1 node: 1 down"),
        (|c| c.judge(c.node("n1"), Liveness::Unknown), spec("web"), "1 node: 1 not heard lately"),
        (|c| c.set_availability(c.node("n1"), Availability::Drained), spec("web"), "1 node: 1 drained"),
        (|c| c.set_availability(c.node("n1"), Availability::Paused), spec("web"), "1 node: 1 paused"),
        (
            |c| {
                c.create(publishing(spec("first"), 80, Publish::Host { port: 80 }));
                c.settle();
            },
            publishing(spec("web"), 80, Publish::Host { port: 80 }),
            "1 node: 1 host port 80/tcp in use",
        ),
        (
            |c| {
                let id = c.node("n1");
                c.accept(crate::CommandKind::DeleteNode { id, expected: None, force: true });
            },
            spec("web"),
            "there are no nodes",
        ),
    ] {
        let mut cluster = Cluster::new(1);
        prepare(&mut cluster);
        assert_eq!(chosen(&cluster, &place(&cluster, &asked, items(1))), [then]);
    }
}

#[test]
fn reasons_are_counted_most_frequent_first() {
    let mut cluster = Cluster::new(4);
    cluster.set_availability(cluster.node("n4"), Availability::Drained);
    let decisions = place(&cluster, &reserving(spec("web"), 0, 9 * GIB), items(2));
    assert_eq!(
        chosen(&cluster, &decisions),
        ["4 nodes: 3 insufficient memory, 1 drained; largest node has 8.0 GiB of memory"; 2]
    );
}

#[test]
fn a_group_fills_what_there_is_and_explains_the_rest() {
    let cluster = Cluster::new(2);
    let decisions = place(&cluster, &reserving(spec("web"), 0, 3 * GIB), items(5));
    let mut told = chosen(&cluster, &decisions);
    told[..4].sort();
    assert_eq!(told, ["n1", "n1", "n2", "n2", "2 nodes: 2 insufficient memory"]);
}

#[test]
fn the_emptiest_node_is_chosen() {
    let mut cluster = Cluster::new(3);
    let first = cluster.create(reserving(spec("first"), 1_000, 0));
    cluster.settle();
    let taken = cluster.live(first)[0].node.unwrap();
    let decisions = place(&cluster, &replicated("web", 2), items(2));
    assert!(decisions.iter().all(|d| !matches!(d, Decision::Placed(Placed { node, .. }) if *node == taken)));
    // The same service counts more than room.
    let again =
        Group { service: ServiceId::from_random(2), items: items(3), spec: &reserving(spec("web"), 500, 0) };
    let mut nodes = chosen(&cluster, &Scheduler::new(&cluster.state).place(&again));
    nodes.sort();
    assert_eq!(nodes, ["n1", "n2", "n3"]);
}

#[test]
fn groups_of_one_pass_see_each_other() {
    let cluster = Cluster::new(1);
    let mut scheduler = Scheduler::new(&cluster.state);
    let spec = reserving(spec("web"), 0, 5 * GIB);
    for (service, then) in [(1, "n1"), (2, "1 node: 1 insufficient memory")] {
        let service = ServiceId::from_random(service);
        let decisions = scheduler.place(&Group { service, items: items(1), spec: &spec });
        assert_eq!(chosen(&cluster, &decisions), [then]);
    }
}

#[test]
fn where_it_failed_is_the_last_choice() {
    let cluster = Cluster::new(3);
    let [one, two, three] = ["n1", "n2", "n3"].map(|name| cluster.node(name));
    for (failed_on, then) in [
        (vec![one, two], "n3"),
        (vec![three, two], "n1"),
        (vec![one, two, three], "n1"),
        (vec![two, one, three], "n2"),
        (vec![one, two, three, one], "n2"),
    ] {
        let item = Item { failed_on, ..Item::new(InstanceId::from_random(1)) };
        assert_eq!(chosen(&cluster, &place(&cluster, &spec("web"), vec![item])), [then]);
    }
}

#[test]
fn a_pinned_instance_goes_to_its_node_or_nowhere() {
    let mut cluster = Cluster::new(2);
    cluster.judge(cluster.node("n2"), Liveness::Unknown);
    for (node, then) in [
        (cluster.node("n1"), "n1".to_owned()),
        (cluster.node("n2"), "n2: not heard lately".to_owned()),
        (NodeId::from_random(9), format!("node {} does not exist", NodeId::from_random(9))),
    ] {
        let item = Item { pinned: Some(node), ..Item::new(InstanceId::from_random(1)) };
        assert_eq!(chosen(&cluster, &place(&cluster, &spec("web"), vec![item])), [then]);
    }
}

#[test]
fn nodes_of_one_address_share_its_ports() {
    let mut cluster = Cluster::default();
    for name in ["a", "b"] {
        let mut description = node(name);
        description.address = "10.0.0.1".to_owned();
        cluster.add_node(description);
    }
    let asked = publishing(spec("web"), 80, Publish::Host { port: 80 });
    let told = chosen(&cluster, &place(&cluster, &asked, items(2)));
    assert!(["a", "b"].contains(&told[0].as_str()));
    assert_eq!(told[1], "2 nodes: 2 host port 80/tcp in use");
}
