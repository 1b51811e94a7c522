//! InstanceService: decode, call, encode.

use std::sync::Arc;

use skein_common::{NodeId, Revision, ServiceId, instance::Instance};
use skein_master_core::{ClusterState, Rejection, state::Change};
use skein_proto::v1::{self, instance_service_server::InstanceService, watch_instances_response::Message};
use tonic::{Request, Response, Streaming};

use super::{
    Answer, Api, explain,
    page::PageRequest,
    read, view,
    watch::{Snapshot, Topic, change_type},
};
use crate::{exec::ExecStream, logs::LogStream, outbox::Delivery, status::CallError, store::ChangeBatch};

#[tonic::async_trait]
impl InstanceService for Api {
    async fn get_instance(
        &self,
        request: Request<v1::GetInstanceRequest>,
    ) -> Answer<v1::GetInstanceResponse> {
        let request = request.into_inner();
        let state = read::state(&self.store, request.consistency).await?;
        let instance = read::instance(&state, &request.instance).map_err(CallError::from)?;
        Ok(Response::new(v1::GetInstanceResponse { instance: Some(view::instance(&state, &instance)) }))
    }

    async fn list_instances(
        &self,
        request: Request<v1::ListInstancesRequest>,
    ) -> Answer<v1::ListInstancesResponse> {
        let request = request.into_inner();
        let filter = format!("{}\n{}", request.service, request.node);
        let page =
            PageRequest::decode(request.page_size, &request.page_token, &filter).map_err(CallError::from)?;
        let state = read::state(&self.store, request.consistency).await?;
        let topic = InstanceTopic::look(&state, &request.service, &request.node).map_err(CallError::from)?;
        let page = page.cut(topic.instances_after(&state, page.after), |instance| instance.id.get());
        Ok(Response::new(v1::ListInstancesResponse {
            instances: page.items.into_iter().map(|instance| view::instance(&state, instance)).collect(),
            next_page_token: page.next_token,
            revision: state.revision().0,
        }))
    }

    type WatchInstancesStream = Delivery<v1::WatchInstancesResponse>;

    async fn watch_instances(
        &self,
        request: Request<v1::WatchInstancesRequest>,
    ) -> Answer<Self::WatchInstancesStream> {
        let request = request.into_inner();
        let topic =
            read::find(&self.store, |state| InstanceTopic::look(state, &request.service, &request.node))
                .await?;
        Ok(Response::new(self.watches.start(request.after_revision, topic).await?))
    }

    async fn list_instance_events(
        &self,
        request: Request<v1::ListInstanceEventsRequest>,
    ) -> Answer<v1::ListInstanceEventsResponse> {
        let request = request.into_inner();
        let state = read::state(&self.store, request.consistency).await?;
        let instance = read::instance(&state, &request.instance).map_err(CallError::from)?;
        let events = instance.history.iter().map(|step| view::transition(&state, &instance, step));
        Ok(Response::new(v1::ListInstanceEventsResponse { events: events.collect() }))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answer<v1::ExplainResponse> {
        let request = request.into_inner();
        let state = read::state(&self.store, request.consistency).await?;
        Ok(Response::new(explain::explain(&state, &request).map_err(CallError::from)?))
    }

    type StreamLogsStream = LogStream;

    async fn stream_logs(&self, request: Request<v1::StreamLogsRequest>) -> Answer<Self::StreamLogsStream> {
        Ok(Response::new(self.logs.stream(request).await?))
    }

    type ExecStream = ExecStream;

    async fn exec(&self, request: Request<Streaming<v1::ExecRequest>>) -> Answer<Self::ExecStream> {
        Ok(Response::new(self.exec.exec(request).await?))
    }
}

/// Instances: all, those of a service, those on a node, or both.
struct InstanceTopic {
    service: Option<ServiceId>,
    node: Option<NodeId>,
}

impl InstanceTopic {
    fn look(state: &ClusterState, service: &str, node: &str) -> Result<Self, Rejection> {
        let service = read::filter(service, |name| read::service(state, name))?;
        let node = read::filter(node, |name| read::node(state, name))?;
        Ok(Self { service: service.map(|service| service.id), node: node.map(|node| node.id) })
    }

    fn is_about(&self, instance: &Instance) -> bool {
        self.service.is_none_or(|service| instance.service == service)
            && self.node.is_none_or(|node| instance.node == Some(node))
    }

    /// Those that match, in the order of ids, behind `after`.
    fn instances_after<'a>(
        &self,
        state: &'a ClusterState,
        after: Option<u64>,
    ) -> impl Iterator<Item = &'a Arc<Instance>> {
        let all: Box<dyn Iterator<Item = &'a Arc<Instance>>> = match (self.service, self.node) {
            (Some(service), _) => Box::new(state.instances_of(service)),
            (None, Some(node)) => Box::new(state.instances_on(node)),
            (None, None) => Box::new(state.instances()),
        };
        let mut matching: Vec<_> = all
            .filter(|instance| after.is_none_or(|after| instance.id.get() > after) && self.is_about(instance))
            .collect();
        matching.sort_unstable_by_key(|instance| instance.id);
        matching.into_iter()
    }
}

impl Topic for InstanceTopic {
    type Message = v1::WatchInstancesResponse;

    fn snapshot<'a>(&'a self, state: &'a ClusterState) -> Snapshot<'a, Self::Message> {
        let matching = self.instances_after(state, None);
        Box::new(matching.map(|instance| message(Message::Snapshot(view::instance(state, instance)))))
    }

    fn changes(&self, state: &ClusterState, batch: &ChangeBatch) -> Option<Self::Message> {
        let changed = batch.changes.iter().filter_map(|change| match change {
            Change::Instance { instance, deleted } if self.is_about(instance) => Some(v1::InstanceChange {
                r#type: change_type(*deleted),
                instance: Some(view::instance(state, instance)),
            }),
            _ => None,
        });
        let changes: Vec<_> = changed.collect();
        let wire = v1::InstanceChanges { revision: batch.revision.0, changes };
        (!wire.changes.is_empty()).then(|| message(Message::Changes(wire)))
    }

    fn synced(&self, revision: Revision) -> Self::Message {
        message(Message::Synced(v1::Synced { revision: revision.0 }))
    }

    fn bookmark(&self, revision: Revision) -> Self::Message {
        message(Message::Bookmark(v1::Bookmark { revision: revision.0 }))
    }
}

const fn message(message: Message) -> v1::WatchInstancesResponse {
    v1::WatchInstancesResponse { message: Some(message) }
}
