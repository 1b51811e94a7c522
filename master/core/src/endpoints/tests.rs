//! Who is an endpoint, and who is none any more.

use skein_common::{
    ServiceId,
    endpoint::ServiceEndpoints,
    instance::Phase,
    node::Liveness,
    service::{BalanceMode, Publish},
};

use crate::testing::{Cluster, publishing, replicated};

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
fn without_ports_there_is_nothing_to_balance() {
    let mut cluster = Cluster::new(1);
    let plain = cluster.create(replicated("plain", 1));
    cluster.settle();
    assert_eq!(cluster.state.endpoints_of(plain), None);
    assert_eq!(cluster.state.endpoints_of(ServiceId::from_random(99)), None);
}
