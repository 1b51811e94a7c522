//! AgentService: hands streams of agents to the leader's sessions and log desk.

use std::time::Duration;

use skein_common::{config::Content, service::Route};
use skein_master_core::ClusterState;
use skein_proto::v1::{self, agent_service_server::AgentService, session_response::Message};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Answer, Api};
use crate::{
    outbox::{Delivery, outbox},
    sessions::{self, SESSION_QUEUE},
    status::CallError,
};

#[tonic::async_trait]
impl AgentService for Api {
    type SessionStream = Delivery<v1::SessionResponse>;

    async fn session(&self, request: Request<Streaming<v1::SessionRequest>>) -> Answer<Self::SessionStream> {
        let (outbox, delivery) = outbox(SESSION_QUEUE);
        match self.seat.taken().await {
            Some(leading) => sessions::start(leading, request.into_inner(), outbox),
            None => {
                let redirect = sessions::redirect(&self.store);
                let message = v1::SessionResponse { message: Some(Message::Redirect(redirect)) };
                // The queue is empty, so this cannot fail; dropping the outbox ends the stream.
                let _ = outbox.send(message, Duration::ZERO).await;
            }
        }
        Ok(Response::new(delivery))
    }

    async fn push_logs(
        &self,
        request: Request<Streaming<v1::PushLogsRequest>>,
    ) -> Answer<v1::PushLogsResponse> {
        let leading = self.seat.taken().await.ok_or(CallError::NoLeader)?;
        leading.logs.receive(request.into_inner(), leading.stopped()).await?;
        Ok(Response::new(v1::PushLogsResponse {}))
    }

    async fn fetch_config(
        &self,
        request: Request<v1::FetchConfigRequest>,
    ) -> Answer<v1::FetchConfigResponse> {
        let request = request.into_inner();
        let leading = self.seat.taken().await.ok_or(CallError::NoLeader)?;
        let state = leading.store.snapshot();
        let content = config_of(&state, &request).ok_or_else(|| {
            Status::permission_denied("neither an instance of this node nor a route names this config")
        })?;
        Ok(Response::new(v1::FetchConfigResponse { content: content.to_vec().into() }))
    }

    type ServeExecStream = ReceiverStream<Result<v1::ServeExecResponse, Status>>;

    async fn serve_exec(
        &self,
        request: Request<Streaming<v1::ServeExecRequest>>,
    ) -> Answer<Self::ServeExecStream> {
        let leading = self.seat.taken().await.ok_or(CallError::NoLeader)?;
        Ok(Response::new(leading.exec.receive(request.into_inner()).await?))
    }
}

/// A node is given what its own instances name, and certificates of routes, which every node serves; nothing else.
fn config_of(state: &ClusterState, request: &v1::FetchConfigRequest) -> Option<Content> {
    let (node, id) = (request.node_id.parse().ok()?, request.config_id.parse().ok()?);
    if request.instance_id.is_empty() {
        let is_routed = state.node(node).is_some()
            && state
                .services()
                .flat_map(|service| &service.spec.routes)
                .flat_map(Route::configs)
                .any(|config| config.id == Some(id));
        return state.config(id).filter(|_| is_routed).map(|config| config.spec.content.clone());
    }
    let instance = state.instance(request.instance_id.parse().ok()?)?;
    let spec = state.spec_of(instance).filter(|_| instance.node == Some(node))?;
    let is_named = spec.container.configs.iter().any(|mount| mount.id == Some(id));
    state.config(id).filter(|_| is_named).map(|config| config.spec.content.clone())
}
