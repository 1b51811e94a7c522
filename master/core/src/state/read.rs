//! Reading the state: by id, by name, by owner. Iteration is always in the order of ids
//! (instances of a service: in the order of slots).

use std::{ops::Bound, sync::Arc};

use imbl::OrdSet;
use skein_common::{
    ClusterId, ConfigId, InstanceId, NodeId, Resources, Revision, ServiceId, Timestamp,
    config::Config,
    event::Event,
    instance::{Instance, Slot},
    node::Node,
    placement::Affinity,
    service::{Generation, JobPhase, Protocol, RouteKey, ServiceSpec},
};

use super::{ClusterState, Occupancy, RecordedRequest, Service, Settings};

impl ClusterState {
    /// `None` until the cluster is formed.
    #[must_use]
    pub const fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster_id
    }

    /// Index of the last applied log entry.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// The latest proposer time applied; never goes back.
    #[must_use]
    pub const fn time(&self) -> Timestamp {
        self.time
    }

    /// What belongs to the cluster as a whole.
    #[must_use]
    pub const fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&Arc<Service>> {
        self.services.get(&id)
    }

    #[must_use]
    pub fn service_by_name(&self, name: &str) -> Option<&Arc<Service>> {
        self.index.services_by_name.get(name).and_then(|id| self.services.get(id))
    }

    /// The service whose port every node's balancer listens on.
    #[must_use]
    pub fn ingress_owner(&self, protocol: Protocol, port: u16) -> Option<ServiceId> {
        self.index.ingress_ports.get(&(protocol, port)).copied()
    }

    /// The service that has this share of a port.
    #[must_use]
    pub fn route_owner(&self, key: &RouteKey) -> Option<ServiceId> {
        self.index.routes.get(key).map(|(owner, _)| *owner)
    }

    /// Services that share this port, and whether with TLS; one may be named more than once.
    pub fn sharing(&self, listen: u16) -> impl Iterator<Item = (ServiceId, bool)> + use<'_> {
        let first = RouteKey { listen, host: String::new(), path: String::new() };
        self.index.routes.range(first..).take_while(move |(key, _)| key.listen == listen).map(|(_, of)| *of)
    }

    /// Runs that the schedule of this service made, in the order of ids; those being deleted included.
    pub fn runs_of(&self, owner: ServiceId) -> impl Iterator<Item = &Arc<Service>> {
        let first = (owner, ServiceId::from_random(1));
        let last = (owner, ServiceId::from_random(u64::MAX));
        self.index
            .runs
            .range((Bound::Included(first), Bound::Included(last)))
            .filter_map(|(_, run)| self.services.get(run))
    }

    /// Runs of it that are under way.
    pub fn active_runs(&self, owner: ServiceId) -> impl Iterator<Item = &Arc<Service>> {
        self.runs_of(owner).filter(|run| !run.deleting && run.runs_now())
    }

    /// Services whose first instances wait for the one with this name.
    pub(crate) fn waiting_for(&self, name: &str) -> impl Iterator<Item = ServiceId> {
        let first = (name.to_owned(), ServiceId::from_random(1));
        let last = (name.to_owned(), ServiceId::from_random(u64::MAX));
        self.index.waiting.range((Bound::Included(first), Bound::Included(last))).map(|(_, service)| *service)
    }

    /// Whether anything waits for a service it depends on.
    pub(crate) fn does_anything_wait(&self) -> bool {
        !self.index.waiting.is_empty()
    }

    /// The other services that must be away from this one, and by which rule.
    pub(crate) fn repelled_by(&self, name: &str, service: ServiceId) -> Vec<(&Arc<Service>, &Affinity)> {
        let others = self.index.repelling.get(name).into_iter().flatten().filter(|other| **other != service);
        let others = others.filter_map(|other| self.services.get(other));
        let mut found = Vec::new();
        for other in others {
            let rules = other.spec.placement.affinities.iter();
            let rules = rules.filter(|rule| rule.service == name && rule.is_required_away());
            found.extend(rules.map(|rule| (other, rule)));
        }
        found
    }

    /// A spec that the service holds now, or that one of its instances still runs.
    #[must_use]
    pub fn spec(&self, service: ServiceId, generation: Generation) -> Option<&Arc<ServiceSpec>> {
        self.specs.get(&(service, generation))
    }

    /// The spec the instance runs; there is one as long as the instance is known.
    #[must_use]
    pub fn spec_of(&self, instance: &Instance) -> Option<&Arc<ServiceSpec>> {
        self.spec(instance.service, instance.generation)
    }

    /// Whether the instance is as its service should be now: of its generation, or of an earlier
    /// one that runs the same (after going back).
    #[must_use]
    pub fn is_current(&self, instance: &Instance) -> bool {
        self.service(instance.service).is_some_and(|service| {
            instance.generation == service.generation
                || self.spec_of(instance).is_some_and(|spec| spec.runs_like(&service.spec))
        })
    }

    /// Generations that run what the service asks for now: its own, and kept ones with an equal spec.
    pub fn current_generations<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = Generation> + 'a {
        service.holds().filter(move |generation| {
            *generation == service.generation
                || self.spec(service.id, *generation).is_some_and(|spec| spec.runs_like(&service.spec))
        })
    }

    pub fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.instances.values()
    }

    #[must_use]
    pub fn instance_count(&self) -> usize {
        self.instances.len()
    }

    #[must_use]
    pub fn instance(&self, id: InstanceId) -> Option<&Arc<Instance>> {
        self.instances.get(&id)
    }

    /// All records of the service, history included, in the order of slots.
    pub fn instances_of(&self, service: ServiceId) -> impl Iterator<Item = &Arc<Instance>> {
        let first = (service, Slot::Number(0), InstanceId::from_random(1));
        let last = (service, Slot::Node(NodeId::from_random(u64::MAX)), InstanceId::from_random(u64::MAX));
        self.slot_range(first, last)
    }

    /// All records of one slot, history included.
    pub fn instances_in(&self, service: ServiceId, slot: Slot) -> impl Iterator<Item = &Arc<Instance>> {
        let first = (service, slot, InstanceId::from_random(1));
        let last = (service, slot, InstanceId::from_random(u64::MAX));
        self.slot_range(first, last)
    }

    fn slot_range(
        &self,
        first: (ServiceId, Slot, InstanceId),
        last: (ServiceId, Slot, InstanceId),
    ) -> impl Iterator<Item = &Arc<Instance>> {
        self.index
            .slots
            .range((Bound::Included(first), Bound::Included(last)))
            .filter_map(|(_, _, id)| self.instances.get(id))
    }

    /// The node that has the local volumes of the slot.
    #[must_use]
    pub fn home(&self, service: ServiceId, slot: Slot) -> Option<NodeId> {
        self.homes.get(&(service, slot)).copied()
    }

    /// All records placed on the node, ended ones included.
    pub fn instances_on(&self, node: NodeId) -> impl Iterator<Item = &Arc<Instance>> {
        let first = (node, InstanceId::from_random(1));
        let last = (node, InstanceId::from_random(u64::MAX));
        self.index
            .on_node
            .range((Bound::Included(first), Bound::Included(last)))
            .filter_map(|(_, id)| self.instances.get(id))
    }

    /// Instances that are wanted and have no node yet.
    pub fn pending(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.index.pending.iter().filter_map(|id| self.instances.get(id))
    }

    /// Nodes on which something is on its way out, each once.
    pub(crate) fn stopping_nodes(&self) -> impl Iterator<Item = NodeId> {
        let mut last = None;
        let nodes = self.index.stopping.iter().map(|(node, _)| *node);
        nodes.filter(move |node| last.replace(*node) != Some(*node))
    }

    /// Whether room is being made anywhere.
    pub(crate) fn is_anything_stopping(&self) -> bool {
        !self.index.stopping.is_empty()
    }

    /// In the order of ids.
    pub fn configs(&self) -> impl Iterator<Item = &Arc<Config>> {
        self.configs.values()
    }

    #[must_use]
    pub fn config(&self, id: ConfigId) -> Option<&Arc<Config>> {
        self.configs.get(&id)
    }

    #[must_use]
    pub fn config_by_name(&self, name: &str) -> Option<&Arc<Config>> {
        self.configs.get(self.index.configs_by_name.get(name)?)
    }

    /// Who holds a spec that names it, for people.
    #[must_use]
    pub fn config_users(&self, id: ConfigId) -> Vec<String> {
        crate::apply::config_users(self, id).into_iter().collect()
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(&id)
    }

    #[must_use]
    pub fn node_by_name(&self, name: &str) -> Option<&Arc<Node>> {
        self.index.nodes_by_name.get(name).and_then(|id| self.nodes.get(id))
    }

    /// Sum of the reservations of everything that occupies the node.
    #[must_use]
    pub fn reserved(&self, node: NodeId) -> Resources {
        self.occupancy(node).reserved
    }

    /// The same, and how many they are.
    #[must_use]
    pub fn occupancy(&self, node: NodeId) -> Occupancy {
        self.index.occupancy.get(&node).copied().unwrap_or_default()
    }

    /// Host ports in use on all nodes with this address.
    pub fn host_ports(&self, address: &str) -> impl Iterator<Item = (Protocol, u16, InstanceId)> {
        self.index.host_ports.get(address).into_iter().flatten().copied()
    }

    pub(crate) fn host_port_count(&self, address: &str) -> usize {
        self.index.host_ports.get(address).map_or(0, OrdSet::len)
    }

    /// Whether an instance uses the port on any node with this address.
    #[must_use]
    pub fn host_port_in_use(&self, address: &str, protocol: Protocol, port: u16) -> bool {
        let first = (protocol, port, InstanceId::from_random(1));
        let last = (protocol, port, InstanceId::from_random(u64::MAX));
        self.index
            .host_ports
            .get(address)
            .is_some_and(|used| used.range((Bound::Included(first), Bound::Included(last))).next().is_some())
    }

    /// Oldest first.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        self.events.values()
    }

    /// Those that happened after the one with this sequence number, oldest first.
    pub fn events_after(&self, sequence: u64) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        self.events.range((Bound::Excluded(sequence), Bound::Unbounded)).map(|(_, event)| event)
    }

    /// The recorded answer to a request, while it is remembered.
    #[must_use]
    pub fn request(&self, id: &str) -> Option<&RecordedRequest> {
        self.requests.get(id)
    }

    /// `web.3`, or `web.n1` for a global service.
    #[must_use]
    pub fn instance_name(&self, instance: &Instance) -> String {
        let service = self.spec_of(instance).map_or_else(|| instance.service.to_string(), |s| s.name.clone());
        match instance.slot {
            Slot::Number(number) => format!("{service}.{number}"),
            Slot::Node(node) => format!("{service}.{}", self.node_name(node)),
        }
    }

    /// The node's name, or its id when it is unknown.
    #[must_use]
    pub fn node_name(&self, node: NodeId) -> String {
        self.nodes.get(&node).map_or_else(|| node.to_string(), |node| node.description.name.clone())
    }
}

impl Service {
    /// It is a job whose present run is under way.
    #[must_use]
    pub fn runs_now(&self) -> bool {
        self.job.as_ref().is_some_and(|run| run.phase == JobPhase::Running)
    }

    /// Generations whose specs must stay.
    pub fn holds(&self) -> impl Iterator<Item = Generation> {
        self.kept.iter().copied().chain(std::iter::once(self.generation))
    }
}
