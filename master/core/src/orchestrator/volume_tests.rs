//! Instances with local volumes follow their data.

use std::time::Duration;

use skein_common::{
    ServiceId,
    instance::{Phase, Slot},
    node::{Availability, Liveness},
    service::{Mount, MountKind, MountOptions, ServiceSpec, UpdateOrder},
};

use crate::{
    CommandKind,
    testing::{Cluster, GIB, global, replicated, reserving, with_image},
};

fn with_volume(mut spec: ServiceSpec, options: MountOptions) -> ServiceSpec {
    spec.container.mounts.push(Mount {
        kind: MountKind::Volume,
        source: "data".to_owned(),
        target: "/data".to_owned(),
        read_only: false,
        options,
    });
    spec
}

fn db() -> ServiceSpec {
    with_volume(replicated("db", 1), MountOptions::default())
}

fn place(cluster: &Cluster, service: ServiceId) -> (String, Phase, String) {
    let live = cluster.live(service);
    let one = live.last().expect("one lives");
    let node = one.node.map(|node| cluster.state.node_name(node)).unwrap_or_default();
    (node, one.observed.progress.phase, one.explanation.clone())
}

#[test]
fn a_slot_goes_back_to_its_data() {
    for order in [UpdateOrder::StopFirst, UpdateOrder::StartFirst] {
        let mut cluster = Cluster::new(1);
        let mut spec = db();
        spec.update.order = order;
        let service = cluster.create(spec.clone());
        cluster.settle();
        // Emptier nodes, but without the data.
        for name in ["n2", "n3"] {
            cluster.add_node(crate::testing::node(name));
        }
        for version in 2..5 {
            cluster.update(service, with_image(spec.clone(), &format!("skein-sample:{version}")));
            cluster.settle();
            cluster.pass(Duration::from_secs(60));
            assert_eq!(place(&cluster, service).0, "n1");
        }
        cluster.scale(service, 0);
        cluster.settle();
        cluster.scale(service, 1);
        cluster.settle();
        assert_eq!(place(&cluster, service).0, "n1", "remembered while nothing runs");
    }
}

#[test]
fn it_waits_for_its_node_until_the_node_is_removed() {
    for order in [UpdateOrder::StopFirst, UpdateOrder::StartFirst] {
        let mut cluster = Cluster::new(2);
        let mut spec = db();
        spec.update.order = order;
        let service = cluster.create(spec);
        cluster.settle();
        let home = place(&cluster, service).0;
        let node = cluster.node(&home);
        cluster.set_availability(node, Availability::Drained);
        cluster.settle();
        let waits = format!("its local volumes are on {home}: drained");
        assert_eq!(place(&cluster, service), (String::new(), Phase::Pending, waits));
        cluster.set_availability(node, Availability::Active);
        cluster.settle();
        assert_eq!(place(&cluster, service).0, home);

        cluster.judge(node, Liveness::Down);
        cluster.settle();
        let waits = format!("its local volumes are on {home}: down");
        assert_eq!(place(&cluster, service), (String::new(), Phase::Pending, waits));
        cluster.accept(CommandKind::DeleteNode { id: node, expected: None, force: true });
        cluster.settle();
        let (now, phase, _) = place(&cluster, service);
        assert!(now != home && phase == Phase::Ready, "{now} {phase}");
        assert_eq!(cluster.state.home(service, Slot::Number(1)), Some(cluster.node(&now)));
    }
}

#[test]
fn only_data_that_is_on_the_node_is_followed() {
    let nfs = MountOptions {
        driver_options: [("type".to_owned(), "nfs".to_owned())].into(),
        ..MountOptions::default()
    };
    let plugin = MountOptions { driver: "rexray".to_owned(), ..MountOptions::default() };
    for spec in [
        replicated("db", 1),
        with_volume(replicated("db", 1), nfs),
        with_volume(replicated("db", 1), plugin),
        with_volume(global("db"), MountOptions::default()),
    ] {
        let mut cluster = Cluster::new(2);
        let service = cluster.create(spec.clone());
        cluster.settle();
        assert_eq!(cluster.state.home(service, Slot::Number(1)), None, "{:?}", spec.container.mounts);
        cluster.set_availability(cluster.node("n1"), Availability::Drained);
        cluster.settle();
        assert_eq!(place(&cluster, service).0, "n2");
    }
}

#[test]
fn one_that_never_ran_has_no_data() {
    let mut cluster = Cluster::new(2);
    let service = cluster.create(db());
    cluster.plan_out();
    let first = cluster.live(service).remove(0);
    cluster.report(first.id, Phase::Rejected);
    assert_eq!(cluster.state.home(service, Slot::Number(1)), None);
    cluster.settle();
    assert_ne!(cluster.live(service).first().and_then(|i| i.node), first.node);
}

#[test]
fn others_give_way_on_its_node_only() {
    let mut cluster = Cluster::new(2);
    let mut spec = reserving(db(), 0, 5 * GIB);
    spec.placement.priority = 80;
    let service = cluster.create(spec);
    cluster.settle();
    let home = place(&cluster, service).0;
    cluster.scale(service, 0);
    cluster.settle();
    let low = cluster.create(reserving(replicated("low", 2), 0, 6 * GIB));
    cluster.settle();
    let stays =
        cluster.live(low).into_iter().find(|i| i.node != Some(cluster.node(&home))).expect("one there");
    cluster.scale(service, 1);
    cluster.settle();
    assert_eq!(place(&cluster, service).0, home);
    assert!(cluster.live(low).iter().any(|i| i.id == stays.id), "nobody else gave way");
}

#[test]
fn a_global_service_may_make_others_give_way() {
    let mut cluster = Cluster::new(2);
    let low = cluster.create(reserving(replicated("low", 2), 0, 6 * GIB));
    cluster.settle();
    let mut spec = reserving(global("log"), 0, 4 * GIB);
    spec.placement.priority = 90;
    let log = cluster.create(spec);
    cluster.settle();
    // One at a time, as the disruption limit of the other says; it comes back as soon as there is room.
    assert!(cluster.live(log).iter().any(|i| i.is_ready()), "{:?}", cluster.picture(log));
    assert!(cluster.live(low).iter().any(|i| i.node.is_none()), "{:?}", cluster.picture(low));
}
