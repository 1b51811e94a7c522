//! AgentService: hands streams of agents to the leader's sessions and log desk.

use std::time::Duration;

use skein_proto::v1::{self, agent_service_server::AgentService, session_response::Message};
use tonic::{Request, Response, Streaming};

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
}
