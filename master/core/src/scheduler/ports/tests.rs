//! Which ports are handed out.

use skein_common::service::{Publish, ServiceSpec};

use super::*;
use crate::testing::{Cluster, publishing, spec};

const ADDRESS: &str = "n1";

fn take(book: &mut PortBook<'_>, id: u64, spec: &ServiceSpec) -> Option<Vec<u16>> {
    let bindings = book.take(ADDRESS, InstanceId::from_random(id), &spec.ports)?;
    Some(bindings.iter().map(|binding| binding.host_port).collect())
}

fn dynamic(mut spec: ServiceSpec, count: u16) -> ServiceSpec {
    for port in 1..=count {
        spec = publishing(spec, port, Publish::Ingress { port: None });
    }
    spec
}

#[test]
fn the_id_decides_where_probing_starts() {
    let cluster = Cluster::new(1);
    let count = u64::from(DYNAMIC_COUNT);
    for (id, then) in [(count, 20_000), (count + 5, 20_005), (count - 1, 32_000)] {
        let mut book = PortBook::new(&cluster.state);
        assert_eq!(take(&mut book, id, &dynamic(spec("web"), 1)), Some(vec![then]));
        // The next one probes on, around the end.
        let next = if then == 32_000 { 20_000 } else { then + 1 };
        assert_eq!(take(&mut book, id, &dynamic(spec("web"), 1)), Some(vec![next]));
    }
}

#[test]
fn one_instance_gets_different_ports() {
    let cluster = Cluster::new(1);
    let mut book = PortBook::new(&cluster.state);
    let asked = publishing(dynamic(spec("web"), 2), 9, Publish::Host { port: 20_001 });
    let id = u64::from(DYNAMIC_COUNT);
    assert_eq!(take(&mut book, id, &asked), Some(vec![20_001, 20_000, 20_002]));
}

#[test]
fn protocols_do_not_disturb_each_other() {
    let cluster = Cluster::new(1);
    let mut book = PortBook::new(&cluster.state);
    let mut udp = dynamic(spec("dns"), 1);
    udp.ports[0].protocol = Protocol::Udp;
    let id = u64::from(DYNAMIC_COUNT);
    assert_eq!(take(&mut book, id, &dynamic(spec("web"), 1)), Some(vec![20_000]));
    assert_eq!(take(&mut book, id, &udp), Some(vec![20_000]));
}

#[test]
fn when_all_are_taken_there_is_none() {
    let cluster = Cluster::new(1);
    let mut book = PortBook::new(&cluster.state);
    let asked = dynamic(spec("web"), 1);
    for id in 1..=u64::from(DYNAMIC_COUNT) {
        assert!(book.has_dynamic(ADDRESS, &asked.ports));
        assert!(take(&mut book, id, &asked).is_some());
    }
    assert!(!book.has_dynamic(ADDRESS, &asked.ports));
    assert_eq!(take(&mut book, 1, &asked), None);
    assert!(book.has_dynamic("elsewhere", &asked.ports));
    assert!(book.has_dynamic(ADDRESS, &[]));
}
