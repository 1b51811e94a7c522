//! The state as snapshots hold it: the objects only. Indexes are rebuilt on the way in, so an
//! index may change its shape without touching stored data.
//!
//! Invariant: a field here is never renamed or removed; a new one gets `#[serde(default)]`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skein_common::{
    ClusterId, NodeId, Revision, ServiceId, Timestamp,
    config::Config,
    event::Event,
    instance::{Instance, Slot},
    node::Node,
    service::{Generation, ServiceSpec},
};

use super::{ClusterState, RecordedRequest, Service, Settings};

#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    cluster_id: Option<ClusterId>,
    revision: Revision,
    time: Timestamp,
    services: Vec<Arc<Service>>,
    /// Those that instances run and their service no longer holds are only here.
    specs: Vec<StoredSpec>,
    nodes: Vec<Arc<Node>>,
    instances: Vec<Arc<Instance>>,
    events: Vec<Arc<Event>>,
    last_event: u64,
    requests: Vec<(String, RecordedRequest)>,
    #[serde(default)]
    settings: Arc<Settings>,
    #[serde(default)]
    homes: Vec<(ServiceId, Slot, NodeId)>,
    #[serde(default)]
    configs: Vec<Arc<Config>>,
}

#[derive(Serialize, Deserialize)]
struct StoredSpec {
    service: ServiceId,
    generation: Generation,
    spec: Arc<ServiceSpec>,
}

impl From<ClusterState> for Stored {
    fn from(state: ClusterState) -> Self {
        let specs = state.specs.iter().map(|((service, generation), spec)| StoredSpec {
            service: *service,
            generation: *generation,
            spec: spec.clone(),
        });
        Self {
            cluster_id: state.cluster_id,
            revision: state.revision,
            time: state.time,
            services: state.services.values().cloned().collect(),
            specs: specs.collect(),
            nodes: state.nodes.values().cloned().collect(),
            instances: state.instances.values().cloned().collect(),
            events: state.events.values().cloned().collect(),
            last_event: state.last_event,
            settings: state.settings,
            homes: state.homes.iter().map(|((service, slot), node)| (*service, *slot, *node)).collect(),
            requests: state.requests.iter().map(|(id, request)| (id.clone(), request.clone())).collect(),
            configs: state.configs.values().cloned().collect(),
        }
    }
}

impl From<Stored> for ClusterState {
    fn from(stored: Stored) -> Self {
        let mut state = Self {
            cluster_id: stored.cluster_id,
            revision: stored.revision,
            time: stored.time,
            last_event: stored.last_event,
            settings: stored.settings,
            ..Self::default()
        };
        // Specs and nodes first: the indexes of instances look them up.
        state.specs.extend(stored.specs.into_iter().map(|s| ((s.service, s.generation), s.spec)));
        stored.configs.into_iter().for_each(|config| state.put_config(config));
        stored.services.into_iter().for_each(|service| state.put_service(service));
        stored.nodes.into_iter().for_each(|node| state.put_node(node));
        stored.instances.into_iter().for_each(|instance| state.put_instance(instance));
        state.homes.extend(stored.homes.into_iter().map(|(service, slot, node)| ((service, slot), node)));
        state.events.extend(stored.events.into_iter().map(|event| (event.sequence, event)));
        stored.requests.into_iter().for_each(|(id, request)| state.put_request(id, request));
        state
    }
}
