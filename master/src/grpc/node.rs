//! NodeService: decode, call, encode.

use skein_common::{Revision, node::Node};
use skein_master_core::{ClusterState, CommandKind, state::Change};
use skein_proto::v1::{self, node_service_server::NodeService, watch_nodes_response::Message};
use tonic::{Request, Response};

use super::{
    Answer, Api, decode,
    page::PageRequest,
    read, view,
    watch::{Snapshot, Topic, change_type},
};
use crate::{outbox::Delivery, status::CallError, store::ChangeBatch};

#[tonic::async_trait]
impl NodeService for Api {
    async fn get_node(&self, request: Request<v1::GetNodeRequest>) -> Answer<v1::GetNodeResponse> {
        let request = request.into_inner();
        let state = read::state(&self.store, request.consistency).await?;
        let node = read::node(&state, &request.node).map_err(CallError::from)?;
        Ok(Response::new(v1::GetNodeResponse { node: Some(view::node(&state, &node)) }))
    }

    async fn list_nodes(&self, request: Request<v1::ListNodesRequest>) -> Answer<v1::ListNodesResponse> {
        let request = request.into_inner();
        let page =
            PageRequest::decode(request.page_size, &request.page_token, "").map_err(CallError::from)?;
        let state = read::state(&self.store, request.consistency).await?;
        let rest = state.nodes().skip_while(|node| page.after.is_some_and(|after| node.id.get() <= after));
        let page = page.cut(rest, |node| node.id.get());
        Ok(Response::new(v1::ListNodesResponse {
            nodes: page.items.into_iter().map(|node| view::node(&state, node)).collect(),
            next_page_token: page.next_token,
            revision: state.revision().0,
        }))
    }

    async fn update_node(&self, request: Request<v1::UpdateNodeRequest>) -> Answer<v1::UpdateNodeResponse> {
        let (update, write) = decode::update_node(request.into_inner()).map_err(CallError::from)?;
        let decode::NodeUpdate { reference, availability, labels, drain_within, expected } = update;
        let id = read::find(&self.store, |state| read::node(state, &reference)).await?.id;
        let kind = CommandKind::UpdateNode { id, expected, availability, labels, drain_within };
        let written = write.run(&self.store, kind).await?;
        let node = read::node(&written.state, &id.to_string()).map_err(CallError::from)?;
        Ok(Response::new(v1::UpdateNodeResponse { node: Some(view::node(&written.state, &node)) }))
    }

    async fn delete_node(&self, request: Request<v1::DeleteNodeRequest>) -> Answer<v1::DeleteNodeResponse> {
        let (reference, force, expected, write) =
            decode::delete_node(request.into_inner()).map_err(CallError::from)?;
        match read::find(&self.store, |state| read::node(state, &reference)).await {
            Ok(node) => {
                let kind = CommandKind::DeleteNode { id: node.id, expected, force };
                write.run(&self.store, kind).await?;
            }
            // A repeat, and the node has gone since.
            Err(_) if write.answered(&self.store.snapshot()).is_some() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Response::new(v1::DeleteNodeResponse {}))
    }

    type WatchNodesStream = Delivery<v1::WatchNodesResponse>;

    async fn watch_nodes(&self, request: Request<v1::WatchNodesRequest>) -> Answer<Self::WatchNodesStream> {
        Ok(Response::new(self.watches.start(request.into_inner().after_revision, NodeTopic).await?))
    }
}

/// All nodes.
struct NodeTopic;

impl Topic for NodeTopic {
    type Message = v1::WatchNodesResponse;

    fn snapshot<'a>(&'a self, state: &'a ClusterState) -> Snapshot<'a, Self::Message> {
        Box::new(state.nodes().map(|node| message(Message::Snapshot(view::node(state, node)))))
    }

    fn changes(&self, state: &ClusterState, batch: &ChangeBatch) -> Option<Self::Message> {
        let change = |node: &Node, deleted: bool| v1::NodeChange {
            r#type: change_type(deleted),
            node: Some(view::node(state, node)),
        };
        let changed = batch.changes.iter().filter_map(|one| match one {
            Change::Node { node, deleted } => Some(change(node, *deleted)),
            _ => None,
        });
        let changes: Vec<_> = changed.collect();
        let wire = v1::NodeChanges { revision: batch.revision.0, changes };
        (!wire.changes.is_empty()).then(|| message(Message::Changes(wire)))
    }

    fn synced(&self, revision: Revision) -> Self::Message {
        message(Message::Synced(v1::Synced { revision: revision.0 }))
    }

    fn bookmark(&self, revision: Revision) -> Self::Message {
        message(Message::Bookmark(v1::Bookmark { revision: revision.0 }))
    }
}

const fn message(message: Message) -> v1::WatchNodesResponse {
    v1::WatchNodesResponse { message: Some(message) }
}
