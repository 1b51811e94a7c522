//! The only writer of objects and indexes: `put_*` inserts or replaces, `drop_*` removes.
//!
//! Invariant: after each call every index equals what the objects say (`invariant::check`
//! recomputes them all). Deliberately not here: whether a change is allowed (`apply`).

use std::sync::Arc;

use imbl::OrdSet;
use skein_common::{
    ConfigId, InstanceId, NodeId, Resources, ServiceId,
    config::Config,
    event::Event,
    instance::{Desired, Instance, PortBinding},
    node::Node,
    service::{Generation, Protocol, Publish, Route, ServiceSpec},
};

use super::{ClusterState, Index, Occupancy, RecordedRequest, Service};

/// What the indexes know of an instance beyond its identity.
#[derive(PartialEq)]
struct Footprint<'a> {
    node: Option<NodeId>,
    occupies: Option<NodeId>,
    pending: bool,
    stopping: bool,
    ports: &'a [PortBinding],
}

fn footprint(instance: &Instance) -> Footprint<'_> {
    Footprint {
        node: instance.node,
        occupies: instance.occupies(),
        pending: instance.node.is_none() && instance.desired == Desired::Run,
        stopping: instance.desired > Desired::Run && instance.occupies().is_some(),
        ports: &instance.ports,
    }
}

fn ingress_ports(spec: &ServiceSpec) -> impl Iterator<Item = (Protocol, u16)> {
    spec.ports.iter().filter_map(|port| match port.publish {
        Publish::Ingress { port: published } => published.map(|number| (port.protocol, number)),
        Publish::Host { .. } => None,
    })
}

/// Names of the services that this one must be away from.
fn repelled(spec: &ServiceSpec) -> impl Iterator<Item = &str> {
    let away = spec.placement.affinities.iter().filter(|affinity| affinity.is_required_away());
    away.map(|affinity| affinity.service.as_str())
}

impl ClusterState {
    pub(crate) fn put_service(&mut self, service: Arc<Service>) {
        if let Some(before) = self.services.get(&service.id).cloned() {
            self.unindex_service(&before);
        }
        self.index.services_by_name.insert(service.spec.name.clone(), service.id);
        if let Some(address) = service.address {
            self.index.addresses.insert(address, service.id);
        }
        for port in ingress_ports(&service.spec) {
            self.index.ingress_ports.insert(port, service.id);
        }
        for (key, has_tls) in service.spec.routes.iter().flat_map(Route::takes) {
            self.index.routes.insert(key, (service.id, has_tls));
        }
        for name in repelled(&service.spec) {
            self.index.repelling.entry(name.to_owned()).or_default().insert(service.id);
        }
        if let Some(owner) = service.owner {
            self.index.runs.insert((owner, service.id));
        }
        for dependency in service.spec.depends_on.iter().filter(|_| service.waits) {
            self.index.waiting.insert((dependency.service.clone(), service.id));
        }
        self.specs.insert((service.id, service.generation), service.spec.clone());
        if let Some(before) = self.services.insert(service.id, service.clone()) {
            before.holds().for_each(|generation| self.drop_unused_spec(service.id, generation));
        }
    }

    pub(crate) fn drop_service(&mut self, id: ServiceId) -> Option<Arc<Service>> {
        let service = self.services.remove(&id)?;
        self.forget_homes(|owner, _| owner == id);
        self.unindex_service(&service);
        service.holds().for_each(|generation| self.drop_unused_spec(id, generation));
        Some(service)
    }

    fn forget_homes(&mut self, gone: impl Fn(ServiceId, NodeId) -> bool) {
        let lost: Vec<_> = self
            .homes
            .iter()
            .filter(|((owner, _), home)| gone(*owner, **home))
            .map(|(key, _)| *key)
            .collect();
        for key in lost {
            self.homes.remove(&key);
        }
    }

    fn unindex_service(&mut self, service: &Service) {
        self.index.services_by_name.remove(&service.spec.name);
        if let Some(address) = service.address {
            self.index.addresses.remove(&address);
        }
        if let Some(owner) = service.owner {
            self.index.runs.remove(&(owner, service.id));
        }
        for dependency in service.spec.depends_on.iter().filter(|_| service.waits) {
            self.index.waiting.remove(&(dependency.service.clone(), service.id));
        }
        for name in repelled(&service.spec) {
            self.index.stop_repelling(name, service.id);
        }
        for port in ingress_ports(&service.spec) {
            if self.index.ingress_ports.get(&port) == Some(&service.id) {
                self.index.ingress_ports.remove(&port);
            }
        }
        for (key, _) in service.spec.routes.iter().flat_map(Route::takes) {
            if self.index.routes.get(&key).is_some_and(|(owner, _)| *owner == service.id) {
                self.index.routes.remove(&key);
            }
        }
    }

    fn drop_unused_spec(&mut self, service: ServiceId, generation: Generation) {
        let held =
            self.services.get(&service).is_some_and(|service| service.holds().any(|g| g == generation));
        if !held && !self.index.spec_users.contains_key(&(service, generation)) {
            self.specs.remove(&(service, generation));
        }
    }

    pub(crate) fn put_node(&mut self, node: Arc<Node>) {
        let before = self.nodes.get(&node.id).cloned();
        if let Some(before) = &before {
            self.index.nodes_by_name.remove(&before.description.name);
        }
        self.index.nodes_by_name.insert(node.description.name.clone(), node.id);
        if let Some(before) = before.filter(|b| b.description.address != node.description.address) {
            self.move_ports(node.id, &before.description.address, &node.description.address);
        }
        self.nodes.insert(node.id, node);
    }

    fn move_ports(&mut self, node: NodeId, from: &str, to: &str) {
        let there: Vec<_> = self.instances_on(node).filter(|i| i.occupies().is_some()).cloned().collect();
        for instance in there {
            self.index.release_ports(from, instance.id, &instance.ports);
            self.index.take_ports(to, instance.id, &instance.ports);
        }
    }

    pub(crate) fn put_config(&mut self, config: Arc<Config>) {
        self.index.configs_by_name.insert(config.spec.name.clone(), config.id);
        self.configs.insert(config.id, config);
    }

    pub(crate) fn drop_config(&mut self, id: ConfigId) {
        if let Some(config) = self.configs.remove(&id) {
            self.index.configs_by_name.remove(&config.spec.name);
        }
    }

    /// The node's instances must have been dropped before.
    pub(crate) fn drop_node(&mut self, id: NodeId) -> Option<Arc<Node>> {
        let node = self.nodes.remove(&id)?;
        // What was on it is lost.
        self.forget_homes(|_, home| home == id);
        self.index.nodes_by_name.remove(&node.description.name);
        Some(node)
    }

    pub(crate) fn put_instance(&mut self, instance: Arc<Instance>) {
        let before = self.instances.insert(instance.id, instance.clone());
        let unchanged = before.as_ref().is_some_and(|before| footprint(before) == footprint(&instance));
        if unchanged {
            return;
        }
        // In before out, so that the spec both use is not dropped in between.
        *self.index.spec_users.entry((instance.service, instance.generation)).or_default() += 1;
        if let Some(before) = before {
            self.unindex_instance(&before);
        }
        self.index_instance(&instance);
    }

    pub(crate) fn drop_instance(&mut self, id: InstanceId) -> Option<Arc<Instance>> {
        let instance = self.instances.remove(&id)?;
        self.unindex_instance(&instance);
        Some(instance)
    }

    fn index_instance(&mut self, instance: &Instance) {
        self.index.slots.insert((instance.service, instance.slot, instance.id));
        let print = footprint(instance);
        if print.pending {
            self.index.pending.insert(instance.id);
        }
        if let Some(node) = print.node {
            self.index.on_node.insert((node, instance.id));
        }
        if let Some(node) = print.occupies {
            if print.stopping {
                self.index.stopping.insert((node, instance.id));
            }
            let before = self.occupancy(node);
            let reserved = before.reserved.saturating_add(self.reservation(instance));
            let instances = before.instances.saturating_add(1);
            let pids = before.pids.saturating_add(self.pids(instance));
            self.index.set_occupancy(node, Occupancy { reserved, instances, pids });
            if let Some(node) = self.nodes.get(&node) {
                self.index.take_ports(&node.description.address, instance.id, &instance.ports);
            }
        }
    }

    fn unindex_instance(&mut self, instance: &Instance) {
        self.index.slots.remove(&(instance.service, instance.slot, instance.id));
        let print = footprint(instance);
        if print.pending {
            self.index.pending.remove(&instance.id);
        }
        if let Some(node) = print.node {
            self.index.on_node.remove(&(node, instance.id));
        }
        if let Some(node) = print.occupies {
            if print.stopping {
                self.index.stopping.remove(&(node, instance.id));
            }
            let before = self.occupancy(node);
            let reserved = before.reserved.saturating_sub(self.reservation(instance));
            let instances = before.instances.saturating_sub(1);
            let pids = before.pids.saturating_sub(self.pids(instance));
            self.index.set_occupancy(node, Occupancy { reserved, instances, pids });
            if let Some(node) = self.nodes.get(&node) {
                self.index.release_ports(&node.description.address, instance.id, &instance.ports);
            }
        }
        self.release_spec(instance.service, instance.generation);
    }

    fn reservation(&self, instance: &Instance) -> Resources {
        self.spec_of(instance).map_or(Resources::ZERO, |spec| spec.resources.reservation)
    }

    fn pids(&self, instance: &Instance) -> u64 {
        self.spec_of(instance).and_then(|spec| spec.resources.pids).map_or(0, u64::from)
    }

    fn release_spec(&mut self, service: ServiceId, generation: Generation) {
        let key = (service, generation);
        let left = self.index.spec_users.get(&key).map_or(0, |users| users.saturating_sub(1));
        if left == 0 {
            self.index.spec_users.remove(&key);
            self.drop_unused_spec(service, generation);
        } else {
            self.index.spec_users.insert(key, left);
        }
    }

    pub(crate) fn put_event(&mut self, event: Arc<Event>, keep: usize) {
        self.last_event = event.sequence;
        self.events.insert(event.sequence, event);
        while self.events.len() > keep {
            let Some(oldest) = self.events.get_min().map(|(sequence, _)| *sequence) else { return };
            self.events.remove(&oldest);
        }
    }

    pub(crate) fn put_request(&mut self, id: String, request: RecordedRequest) {
        self.index.requests_by_time.insert((request.at, id.clone()));
        self.requests.insert(id, request);
    }

    pub(crate) fn drop_oldest_request(&mut self) {
        if let Some((_, id)) = self.index.requests_by_time.remove_min() {
            self.requests.remove(&id);
        }
    }
}

impl Index {
    fn stop_repelling(&mut self, name: &str, service: ServiceId) {
        let Some(services) = self.repelling.get_mut(name) else { return };
        services.remove(&service);
        if OrdSet::is_empty(services) {
            self.repelling.remove(name);
        }
    }

    fn set_occupancy(&mut self, node: NodeId, occupancy: Occupancy) {
        if occupancy == Occupancy::default() {
            self.occupancy.remove(&node);
        } else {
            self.occupancy.insert(node, occupancy);
        }
    }

    fn take_ports(&mut self, address: &str, instance: InstanceId, ports: &[PortBinding]) {
        if ports.is_empty() {
            return;
        }
        let used = self.host_ports.entry(address.to_owned()).or_default();
        used.extend(ports.iter().map(|port| (port.protocol, port.host_port, instance)));
    }

    fn release_ports(&mut self, address: &str, instance: InstanceId, ports: &[PortBinding]) {
        let Some(used) = self.host_ports.get_mut(address) else { return };
        for port in ports {
            used.remove(&(port.protocol, port.host_port, instance));
        }
        if OrdSet::is_empty(used) {
            self.host_ports.remove(address);
        }
    }
}
