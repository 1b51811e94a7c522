//! Who is an endpoint, and who is none any more.

use std::{collections::BTreeMap, time::Duration};

use skein_common::{
    ServiceId,
    endpoint::ServiceEndpoints,
    instance::Phase,
    node::Liveness,
    rollout::RolloutControl,
    service::{BalanceMode, NodeWeight, Publish, UpdatePolicy},
};

use crate::{
    CommandKind,
    testing::{Cluster, publishing, replicated},
};

fn cluster(replicas: u32) -> (Cluster, ServiceId) {
    let mut cluster = Cluster::new(2);
    let web = publishing(replicated("web", replicas), 80, Publish::Ingress { port: Some(8080) });
    let web = cluster.create(publishing(web, 81, Publish::Host { port: 9090 }));
    cluster.plan_out();
    (cluster, web)
}

fn told(cluster: &Cluster, service: ServiceId) -> ServiceEndpoints {
    cluster.state.endpoints_of(service).unwrap()
}

/// `host:port` of each endpoint of the first port, in order.
fn first(cluster: &Cluster, service: ServiceId) -> Vec<String> {
    let told = told(cluster, service);
    told.ports[0].endpoints.iter().map(|endpoint| format!("{}:{}", endpoint.host, endpoint.port)).collect()
}

#[test]
fn only_the_ready_are_endpoints() {
    let (mut cluster, web) = cluster(2);
    assert_eq!(first(&cluster, web), Vec::<String>::new());
    let [one, two] = [0, 1].map(|index| cluster.live(web)[index].clone());
    for phase in [Phase::Starting, Phase::Running] {
        cluster.report(one.id, phase);
        assert_eq!(first(&cluster, web), Vec::<String>::new(), "{phase}");
    }
    cluster.report(one.id, Phase::Ready);
    cluster.report(two.id, Phase::Ready);
    let expected: Vec<String> = cluster
        .live(web)
        .iter()
        .map(|instance| {
            let host = &cluster.state.node(instance.node.unwrap()).unwrap().description.address;
            format!(
                "{host}:{}",
                instance.ports.iter().find(|port| port.container_port == 80).unwrap().host_port
            )
        })
        .collect();
    assert_eq!(first(&cluster, web), expected);
    let ports = told(&cluster, web).ports;
    assert_eq!(ports.iter().map(|port| port.published).collect::<Vec<_>>(), [Some(8080), None]);
    assert_eq!(ports[1].endpoints.len(), 2);
    assert_eq!(ports[1].endpoints[0].port, 9090);
}

#[test]
fn who_is_to_stop_or_is_lost_is_none_any_more() {
    let (mut cluster, web) = cluster(2);
    cluster.settle();
    assert_eq!(first(&cluster, web).len(), 2);
    cluster.scale(web, 1);
    cluster.plan_out();
    assert_eq!(first(&cluster, web).len(), 1, "it leaves the balancers before it has stopped");
    let left = cluster.live(web)[0].clone();
    cluster.judge(left.node.unwrap(), Liveness::Unknown);
    assert_eq!(first(&cluster, web).len(), 1, "late is not dead");
    cluster.judge(left.node.unwrap(), Liveness::Down);
    cluster.plan_out();
    assert_eq!(first(&cluster, web).len(), 0);
}

#[test]
fn the_policy_is_of_now_and_needs_no_new_instances() {
    let (mut cluster, web) = cluster(1);
    cluster.settle();
    let before = first(&cluster, web);
    let mut spec = (*cluster.state.service(web).unwrap().spec).clone();
    spec.balance.mode = BalanceMode::Http;
    cluster.update(web, spec);
    cluster.settle();
    assert_eq!(told(&cluster, web).policy.mode, BalanceMode::Http);
    assert_eq!(first(&cluster, web), before);
}

#[test]
fn weights_go_by_labels_of_nodes_and_change_without_a_restart() {
    let (mut cluster, web) = cluster(2);
    cluster.settle();
    let weights = |cluster: &Cluster| -> Vec<u32> {
        told(cluster, web).ports[0].endpoints.iter().map(|endpoint| endpoint.weight).collect()
    };
    assert_eq!(weights(&cluster), [100, 100]);
    let before: Vec<_> = cluster.live(web).iter().map(|instance| instance.id).collect();
    let node = cluster.live(web)[0].node.unwrap();
    cluster.accept(CommandKind::UpdateNode {
        id: node,
        expected: None,
        availability: None,
        labels: Some(BTreeMap::from([("zone".to_owned(), "a".to_owned())])),
        drain_within: None,
    });
    let mut spec = (*cluster.state.service(web).unwrap().spec).clone();
    let rule = |weight| NodeWeight { label: "zone".to_owned(), value: "a".to_owned(), weight };
    for (weight, then) in [(300, [300, 100]), (0, [0, 100])] {
        spec.balance.weights = vec![rule(weight), rule(7)];
        cluster.update(web, spec.clone());
        cluster.settle();
        assert_eq!(weights(&cluster), then, "the first that matches");
    }
    assert_eq!(cluster.live(web).iter().map(|instance| instance.id).collect::<Vec<_>>(), before);
}

/// Planner and agents in turns, as time passes.
fn roll(cluster: &mut Cluster) {
    for _ in 0..200 {
        cluster.settle();
        cluster.pass(Duration::from_secs(1));
    }
}

#[test]
fn canaries_get_their_share_until_they_are_promoted() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(publishing(replicated("web", 4), 80, Publish::Ingress { port: Some(8080) }));
    cluster.settle();
    let mut spec = (*cluster.state.service(web).unwrap().spec).clone();
    spec.update = UpdatePolicy { canary: 1, monitor: Duration::ZERO, ..UpdatePolicy::default() };
    spec.balance.canary_permille = Some(50);
    spec.container.image = "web:2".to_owned();
    cluster.update(web, spec.clone());
    roll(&mut cluster);
    let shares = |cluster: &Cluster| -> Vec<u64> {
        let endpoints = told(cluster, web).ports[0].endpoints.clone();
        let sum: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
        let mut shares: Vec<u64> = endpoints.iter().map(|at| u64::from(at.weight) * 1_000 / sum).collect();
        shares.sort_unstable();
        shares
    };
    assert_eq!(shares(&cluster), [50, 316, 316, 316]);
    spec.balance.canary_permille = Some(400);
    cluster.update(web, spec);
    assert_eq!(shares(&cluster), [200, 200, 200, 400], "live, and the canary stays");
    cluster.accept(CommandKind::ControlRollout { id: web, expected: None, control: RolloutControl::Promote });
    roll(&mut cluster);
    assert_eq!(shares(&cluster), [250; 4]);
}

#[test]
fn without_ports_there_is_a_name_and_nothing_to_balance() {
    let mut cluster = Cluster::new(1);
    let plain = cluster.create(replicated("plain", 1));
    cluster.settle();
    let told = told(&cluster, plain);
    assert_eq!((told.name.as_str(), told.ports.len(), told.address.is_some()), ("plain", 0, true));
    cluster.accept(CommandKind::DeleteService { id: plain, expected: None });
    assert_eq!(cluster.state.endpoints_of(plain), None, "the name goes at once");
    assert_eq!(cluster.state.endpoints_of(ServiceId::from_random(99)), None);
}
