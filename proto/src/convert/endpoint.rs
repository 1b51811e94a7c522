//! What a leader tells a node's balancer.

use std::net::Ipv4Addr;

use skein_common::{
    ServiceId, Violations,
    endpoint::{BalancedPort, Endpoint, EndpointsUpdate, ServiceEndpoints},
};

use super::{InvalidMessage, balance::balance_policy, id, port, route::routes, service::Door};
use crate::v1;

impl From<&EndpointsUpdate> for v1::EndpointsUpdate {
    fn from(update: &EndpointsUpdate) -> Self {
        Self {
            term: update.term,
            generation: update.generation,
            from_generation: update.from,
            services: update.services.iter().map(v1::ServiceEndpoints::from).collect(),
            removals: update.removals.iter().map(ServiceId::to_string).collect(),
        }
    }
}

impl TryFrom<v1::EndpointsUpdate> for EndpointsUpdate {
    type Error = InvalidMessage;

    fn try_from(wire: v1::EndpointsUpdate) -> Result<Self, InvalidMessage> {
        Ok(Self {
            term: wire.term,
            generation: wire.generation,
            from: wire.from_generation,
            services: wire.services.into_iter().map(ServiceEndpoints::try_from).collect::<Result<_, _>>()?,
            removals: wire.removals.iter().map(|text| id("removals", text)).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&ServiceEndpoints> for v1::ServiceEndpoints {
    fn from(service: &ServiceEndpoints) -> Self {
        Self {
            service_id: service.service.to_string(),
            service_name: service.name.clone(),
            stack: service.stack.clone(),
            virtual_address: service.address.map(|address| address.to_string()).unwrap_or_default(),
            policy: Some((&service.policy).into()),
            ports: service.ports.iter().map(v1::BalancedPort::from).collect(),
            routes: service.routes.iter().map(v1::Route::from).collect(),
        }
    }
}

impl TryFrom<v1::ServiceEndpoints> for ServiceEndpoints {
    type Error = InvalidMessage;

    fn try_from(wire: v1::ServiceEndpoints) -> Result<Self, InvalidMessage> {
        let mut found = Violations::default();
        let policy = balance_policy(&mut Door { found: &mut found }, wire.policy.unwrap_or_default());
        let routes = routes(&mut Door { found: &mut found }, "routes", wire.routes);
        let (policy, routes) =
            found.into_result((policy, routes)).map_err(|found| InvalidMessage::invalid("policy", found))?;
        Ok(Self {
            service: id("service_id", &wire.service_id)?,
            name: wire.service_name,
            stack: wire.stack,
            address: address(&wire.virtual_address)?,
            policy,
            ports: wire.ports.into_iter().map(BalancedPort::try_from).collect::<Result<_, _>>()?,
            routes,
        })
    }
}

fn address(text: &str) -> Result<Option<Ipv4Addr>, InvalidMessage> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error| InvalidMessage::invalid("virtual_address", error))
}

impl From<&BalancedPort> for v1::BalancedPort {
    fn from(port: &BalancedPort) -> Self {
        Self {
            container_port: port.container_port.into(),
            protocol: v1::Protocol::from(port.protocol).into(),
            published_port: port.published.unwrap_or(0).into(),
            endpoints: port.endpoints.iter().map(v1::BalancedEndpoint::from).collect(),
        }
    }
}

impl TryFrom<v1::BalancedPort> for BalancedPort {
    type Error = InvalidMessage;

    fn try_from(wire: v1::BalancedPort) -> Result<Self, InvalidMessage> {
        let protocol = v1::Protocol::try_from(wire.protocol)
            .map_err(|error| InvalidMessage::invalid("protocol", error))?;
        let published = port("published_port", wire.published_port)?;
        Ok(Self {
            container_port: port("container_port", wire.container_port)?,
            protocol: protocol.into(),
            published: (published > 0).then_some(published),
            endpoints: wire.endpoints.into_iter().map(Endpoint::try_from).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Endpoint> for v1::BalancedEndpoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            instance_id: endpoint.instance.to_string(),
            host: endpoint.host.clone(),
            port: endpoint.port.into(),
            weight: endpoint.weight,
        }
    }
}

impl TryFrom<v1::BalancedEndpoint> for Endpoint {
    type Error = InvalidMessage;

    fn try_from(wire: v1::BalancedEndpoint) -> Result<Self, InvalidMessage> {
        Ok(Self {
            instance: id("instance_id", &wire.instance_id)?,
            host: wire.host,
            port: port("port", wire.port)?,
            weight: wire.weight,
        })
    }
}
