//! Where requests to a service may go: state → what every balancer is told.
//!
//! Invariant: a function of the state. An endpoint is an instance that is wanted, ready and not lost with its node; what
//! is to stop is none any more, so it leaves the balancers before it is stopped.
//! Deliberately not here: which endpoint takes a request (`agent/core`, `balance`).

mod book;
mod weights;

use skein_common::{
    ServiceId,
    endpoint::{BalancedPort, Endpoint, ServiceEndpoints},
    instance::{Desired, Instance},
    service::{PortSpec, Publish},
};

pub use self::book::{EndpointBook, ToldEndpoints, touched};
use crate::state::{ClusterState, Service};

impl ClusterState {
    /// The service as balancers and name servers see it: one of a stack always, for its containers ask for names.
    #[must_use]
    pub fn endpoints_of(&self, id: ServiceId) -> Option<ServiceEndpoints> {
        let is_known = |service: &Service| {
            !service.spec.ports.is_empty() || service.address.is_some() || !service.spec.stack().is_empty()
        };
        let service = self.service(id).filter(|service| !service.deleting && is_known(service))?;
        let serving: Vec<&Instance> =
            self.instances_of(id).map(AsRef::as_ref).filter(|instance| is_serving(instance)).collect();
        let weights = weights::of(self, service, &serving);
        let ports = service.spec.ports.iter().map(|port| self.balanced(*port, &serving, &weights)).collect();
        Some(ServiceEndpoints {
            service: id,
            name: service.spec.name.clone(),
            stack: service.spec.stack().to_owned(),
            address: service.address,
            policy: service.spec.balance.clone(),
            ports,
            routes: service.spec.routes.clone(),
        })
    }

    fn balanced(&self, port: PortSpec, serving: &[&Instance], weights: &[u32]) -> BalancedPort {
        BalancedPort {
            container_port: port.container_port,
            protocol: port.protocol,
            published: match port.publish {
                Publish::Ingress { port } => port,
                // Bound by the engine on the instance's own node.
                Publish::Host { .. } => None,
            },
            endpoints: serving
                .iter()
                .zip(weights)
                .filter_map(|(instance, weight)| self.endpoint(port, instance, *weight))
                .collect(),
        }
    }

    fn endpoint(&self, port: PortSpec, instance: &Instance, weight: u32) -> Option<Endpoint> {
        let node = self.node(instance.node?)?;
        let mut bindings = instance.ports.iter();
        let binding = bindings.find(|binding| {
            binding.container_port == port.container_port && binding.protocol == port.protocol
        })?;
        Some(Endpoint {
            instance: instance.id,
            host: node.description.address.clone(),
            port: binding.host_port,
            weight,
        })
    }
}

fn is_serving(instance: &Instance) -> bool {
    instance.desired == Desired::Run && instance.is_ready() && !instance.lost
}

#[cfg(test)]
mod tests;
