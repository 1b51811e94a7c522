//! BalanceService: what balancers measured, beside what the state says. Answered from the leader's memory; a follower
//! asks the leader.

use std::{collections::BTreeMap, time::Duration};

use skein_common::{
    InstanceId, NodeId, ServiceId,
    endpoint::{BalancedPort, Endpoint, ServiceEndpoints},
    instance::{Desired, Instance},
    load::{InstanceSum, Out, OutCause, ServiceLoad},
    service::Protocol,
};
use skein_master_core::ClusterState;
use skein_proto::{
    convert::{duration_from_wire, duration_to_wire},
    v1::{self, balance_service_client::BalanceServiceClient, balance_service_server::BalanceService},
};
use tonic::{Request, Response};

use super::{
    Answer, Api,
    proxy::{Answerer, hand_on},
    read,
};
use crate::{
    load::{KEEP, LoadStore},
    status::CallError,
};

const DEFAULT_WINDOW: Duration = Duration::from_secs(30);
/// Nodes that are named one by one when they send an instance nothing.
const NAMED_NODES: usize = 3;

#[tonic::async_trait]
impl BalanceService for Api {
    async fn get_balance(&self, request: Request<v1::GetBalanceRequest>) -> Answer<v1::GetBalanceResponse> {
        match self.proxy.answerer(&request).await? {
            Answerer::There(channel) => {
                BalanceServiceClient::new(channel).get_balance(hand_on(request.into_inner())).await
            }
            Answerer::Here(leading) => {
                let request = request.into_inner();
                let window = request.window.map(|wire| duration_from_wire("window", wire)).transpose();
                let window = window.map_err(CallError::from)?.unwrap_or(DEFAULT_WINDOW).min(KEEP);
                let state = self.store.snapshot();
                let service = read::filter(&request.service, |name| read::service(&state, name));
                let service = service.map_err(CallError::from)?.map(|service| service.id);
                let view = View { state: &state, load: &leading.load, window, by_node: request.by_node };
                Ok(Response::new(v1::GetBalanceResponse { ports: view.ports(service) }))
            }
        }
    }
}

struct View<'a> {
    state: &'a ClusterState,
    load: &'a LoadStore,
    window: Duration,
    by_node: bool,
}

impl View<'_> {
    fn ports(&self, wanted: Option<ServiceId>) -> Vec<v1::PortBalance> {
        let mut services: Vec<ServiceEndpoints> = match wanted {
            Some(service) => self.state.endpoints_of(service).into_iter().collect(),
            None => self.state.services().filter_map(|service| self.state.endpoints_of(service.id)).collect(),
        };
        services.sort_by(|one, other| one.name.cmp(&other.name));
        let mut ports = Vec::new();
        for service in &services {
            for port in service.ports.iter().filter(|port| port.protocol == Protocol::Tcp) {
                let container_port = Some(port.container_port);
                if self.by_node {
                    let mut nodes: Vec<(&str, ServiceLoad)> = self
                        .load
                        .by_node(service.service, container_port, self.window)
                        .into_iter()
                        .map(|(node, load)| (self.node_name(node), load))
                        .collect();
                    nodes.sort_by_key(|(name, _)| *name);
                    ports.extend(nodes.iter().map(|(name, load)| self.port(service, port, load, name)));
                } else {
                    let load = self.load.service(service.service, container_port, self.window);
                    ports.push(self.port(service, port, &load, ""));
                }
            }
        }
        ports
    }

    fn port(
        &self,
        service: &ServiceEndpoints,
        port: &BalancedPort,
        load: &ServiceLoad,
        node: &str,
    ) -> v1::PortBalance {
        let policy = v1::BalancePolicy::from(&service.policy);
        v1::PortBalance {
            service_id: service.service.to_string(),
            service_name: service.name.clone(),
            container_port: port.container_port.into(),
            published_port: port.published.unwrap_or(0).into(),
            node_name: node.to_owned(),
            nodes: load.nodes,
            mode: policy.mode,
            algorithm: policy.algorithm,
            window: Some(duration_to_wire(load.window)),
            front: Some((&load.front).into()),
            rate: load.rate(),
            endpoints: self.endpoints(service.service, port, load),
        }
    }

    fn endpoints(
        &self,
        service: ServiceId,
        port: &BalancedPort,
        load: &ServiceLoad,
    ) -> Vec<v1::EndpointBalance> {
        let known: BTreeMap<InstanceId, &Endpoint> =
            port.endpoints.iter().map(|endpoint| (endpoint.instance, endpoint)).collect();
        let weights: u64 = port.endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
        let tries = load.counts().tries;
        let part = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let nothing = InstanceSum::default();
        let mut instances: Vec<(String, &Instance)> = self
            .state
            .instances_of(service)
            .map(AsRef::as_ref)
            .filter(|instance| {
                let is_over = instance.observed.progress.phase.is_terminal();
                !is_over || load.instances.get(&instance.id).is_some_and(|sum| sum.in_flight > 0)
            })
            .map(|instance| (self.state.instance_name(instance), instance))
            .collect();
        // web.2 before web.10.
        instances.sort_by(|(one, a), (other, b)| (one.len(), one, a.id).cmp(&(other.len(), other, b.id)));
        let balances = instances.into_iter().map(|(name, instance)| {
            let (endpoint, sum) =
                (known.get(&instance.id), load.instances.get(&instance.id).unwrap_or(&nothing));
            let quantile = |part| sum.counts.latencies.quantile(part).map(duration_to_wire);
            let weight = endpoint.map_or(0, |endpoint| endpoint.weight);
            v1::EndpointBalance {
                instance_id: instance.id.to_string(),
                instance_name: name,
                node_name: instance.node.map(|node| self.node_name(node).to_owned()).unwrap_or_default(),
                address: endpoint.map(|at| format!("{}:{}", at.host, at.port)).unwrap_or_default(),
                weight,
                share: part(weight.into(), weights),
                measured_share: part(sum.counts.tries, tries),
                in_flight: sum.in_flight,
                rate: load.per_second(sum.counts.tries),
                p50: quantile(0.5),
                p95: quantile(0.95),
                p99: quantile(0.99),
                counts: Some((&sum.counts).into()),
                out: self.out(instance, endpoint.copied(), sum, load.nodes),
            }
        });
        balances.collect()
    }

    /// Why it gets no requests, or none from some nodes.
    fn out(
        &self,
        instance: &Instance,
        endpoint: Option<&Endpoint>,
        sum: &InstanceSum,
        nodes: u32,
    ) -> Vec<String> {
        let mut reasons = Vec::new();
        match endpoint {
            None => reasons.push(not_serving(instance, sum.in_flight)),
            Some(Endpoint { weight: 0, .. }) => reasons.push("its weight is 0".to_owned()),
            Some(_) => {}
        }
        for (cause, nodes_out) in by_cause(&sum.out) {
            let longest = nodes_out.iter().map(|(_, out)| out.remaining).max().unwrap_or_default();
            let until = if longest.is_zero() {
                String::new()
            } else {
                format!(", {} s more", longest.as_secs().max(1))
            };
            let names: Vec<&str> =
                nodes_out.iter().take(NAMED_NODES).map(|(node, _)| self.node_name(*node)).collect();
            let more = if nodes_out.len() > NAMED_NODES { ", …" } else { "" };
            let (count, names) = (nodes_out.len(), names.join(", "));
            reasons.push(format!("{cause}: out on {count} of {nodes} nodes ({names}{more}){until}"));
        }
        reasons
    }

    fn node_name(&self, node: NodeId) -> &str {
        self.state.node(node).map_or("", |node| node.description.name.as_str())
    }
}

/// Why it is no endpoint.
fn not_serving(instance: &Instance, in_flight: u32) -> String {
    let said = [instance.explanation.as_str(), instance.observed.message.as_str()];
    let because =
        said.into_iter().find(|text| !text.is_empty()).map(|text| format!(": {text}")).unwrap_or_default();
    if instance.desired > Desired::Run {
        return match in_flight {
            0 => "it is to stop".to_owned(),
            count => format!("it is to stop; {count} requests are under way"),
        };
    }
    if instance.lost {
        return "its node is down".to_owned();
    }
    format!("not ready{because}")
}

/// Those that are out for the same cause, with its words.
fn by_cause(out: &BTreeMap<NodeId, Out>) -> Vec<(&'static str, Vec<(NodeId, Out)>)> {
    let causes = [
        (OutCause::ServerErrors, "answered 502, 503 or 504 too often"),
        (OutCause::Unreachable, "could not be connected to too often"),
        (OutCause::Late, "did not answer in time too often"),
        (OutCause::Broken, "ended connections before it answered too often"),
        (OutCause::Check, "checks fail"),
    ];
    let of = |cause| out.iter().filter(move |(_, out)| out.cause == cause).map(|(node, out)| (*node, *out));
    let found = causes.into_iter().map(|(cause, words)| (words, of(cause).collect::<Vec<_>>()));
    found.filter(|(_, nodes)| !nodes.is_empty()).collect()
}
