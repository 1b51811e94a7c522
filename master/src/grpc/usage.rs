//! UsageService: answered from the leader's memory; a follower asks the leader.

use skein_proto::v1::{self, usage_service_client::UsageServiceClient, usage_service_server::UsageService};
use tonic::{Request, Response};

use super::{
    Answer, Api,
    proxy::{Answerer, hand_on},
    read,
};
use crate::status::CallError;

#[tonic::async_trait]
impl UsageService for Api {
    async fn list_node_usage(
        &self,
        request: Request<v1::ListNodeUsageRequest>,
    ) -> Answer<v1::ListNodeUsageResponse> {
        match self.proxy.answerer(&request).await? {
            Answerer::There(channel) => {
                UsageServiceClient::new(channel).list_node_usage(hand_on(request.into_inner())).await
            }
            Answerer::Here(leading) => Ok(Response::new(v1::ListNodeUsageResponse {
                nodes: leading.usage.nodes(&self.store.snapshot()),
            })),
        }
    }

    async fn list_instance_usage(
        &self,
        request: Request<v1::ListInstanceUsageRequest>,
    ) -> Answer<v1::ListInstanceUsageResponse> {
        match self.proxy.answerer(&request).await? {
            Answerer::There(channel) => {
                UsageServiceClient::new(channel).list_instance_usage(hand_on(request.into_inner())).await
            }
            Answerer::Here(leading) => {
                let state = self.store.snapshot();
                let service = read::filter(&request.into_inner().service, |name| read::service(&state, name));
                let service = service.map_err(CallError::from)?.map(|service| service.id);
                let instances = leading.usage.instances(&state, service);
                Ok(Response::new(v1::ListInstanceUsageResponse { instances }))
            }
        }
    }
}
