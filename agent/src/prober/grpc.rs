//! The question of `grpc.health.v1`, whose two messages are written out here.

use std::net::SocketAddr;

use tonic::{client::Grpc, codegen::http::uri::PathAndQuery, transport::Endpoint};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// SERVING is well; anything else says why not.
pub(super) async fn check(target: SocketAddr, service: &str) -> Result<(), String> {
    // Says more than a failed call about a port that nobody listens on.
    super::connect(target).await?;
    let endpoint = Endpoint::from_shared(format!("http://{target}")).map_err(|error| error.to_string())?;
    let channel = endpoint.connect().await.map_err(|_| format!("{target} does not answer in HTTP/2"))?;
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| error.to_string())?;
    let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    match client.unary(request, path, codec).await {
        Ok(answer) => match answer.into_inner().status() {
            ServingStatus::Serving => Ok(()),
            ServingStatus::NotServing => Err("NOT_SERVING".to_owned()),
            ServingStatus::ServiceUnknown => Err("SERVICE_UNKNOWN".to_owned()),
            ServingStatus::Unknown => Err("UNKNOWN".to_owned()),
        },
        Err(status) => Err(format!("{:?}: {}", status.code(), status.message())),
    }
}
