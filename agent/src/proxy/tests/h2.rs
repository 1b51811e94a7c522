//! HTTP/2 and gRPC, with a real tonic server behind and a real tonic client before the balancer.

use std::{
    net::Ipv4Addr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response as HttpResponse, body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use skein_common::service::{Algorithm, BalancePolicy, Upstream};
use skein_proto::v1::{
    self,
    agent_service_client::AgentServiceClient,
    agent_service_server::{AgentService, AgentServiceServer},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{
    Stream, StreamExt,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{
    Code, Request as Call, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server},
};

use super::{Rig, TestEndpoint, http};

/// Answers with its number, counts calls, echoes streams.
struct Echo {
    number: u64,
    calls: Arc<AtomicU64>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AgentService for Echo {
    type SessionStream = Answers<v1::SessionResponse>;
    type ServeExecStream = Answers<v1::ServeExecResponse>;

    async fn session(
        &self,
        _: Call<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    /// A stream of the client's.
    async fn push_logs(
        &self,
        call: Call<Streaming<v1::PushLogsRequest>>,
    ) -> Result<Response<v1::PushLogsResponse>, Status> {
        let mut stream = call.into_inner();
        while stream.message().await?.is_some() {
            self.calls.fetch_add(1, SeqCst);
        }
        Ok(Response::new(v1::PushLogsResponse {}))
    }

    /// One call.
    async fn fetch_config(
        &self,
        call: Call<v1::FetchConfigRequest>,
    ) -> Result<Response<v1::FetchConfigResponse>, Status> {
        self.calls.fetch_add(1, SeqCst);
        match call.into_inner().node_id.as_str() {
            "fail" => Err(Status::data_loss("as asked")),
            _ => Ok(Response::new(v1::FetchConfigResponse { content: self.number.to_string().into() })),
        }
    }

    /// Both ways: one answer for each message.
    async fn serve_exec(
        &self,
        call: Call<Streaming<v1::ServeExecRequest>>,
    ) -> Result<Response<Self::ServeExecStream>, Status> {
        self.calls.fetch_add(1, SeqCst);
        let answers = call.into_inner().map(|message| message.map(|_| v1::ServeExecResponse::default()));
        Ok(Response::new(Box::pin(answers)))
    }
}

/// A tonic server behind the balancer.
async fn grpc(number: u64) -> (TestEndpoint, Arc<AtomicU64>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let endpoint = TestEndpoint::at(number, listener.local_addr().unwrap());
    let calls = Arc::<AtomicU64>::default();
    let service = AgentServiceServer::new(Echo { number, calls: Arc::clone(&calls) });
    let server = Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    (endpoint, calls)
}

fn h2c() -> BalancePolicy {
    BalancePolicy { upstream: Upstream::H2c, algorithm: Algorithm::RoundRobin, ..http() }
}

async fn client(rig: &Rig) -> AgentServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", rig.port)).unwrap();
    AgentServiceClient::new(endpoint.connect().await.unwrap())
}

async fn who(client: &mut AgentServiceClient<Channel>) -> Result<String, Status> {
    let answer = client.fetch_config(v1::FetchConfigRequest::default()).await?;
    Ok(String::from_utf8_lossy(&answer.into_inner().content).into_owned())
}

#[tokio::test]
async fn calls_on_one_connection_are_shared_among_instances() {
    let ((one, first), (two, second)) = (grpc(1).await, grpc(2).await);
    let rig = Rig::start(h2c(), &[&one, &two]).await;
    let mut client = client(&rig).await;
    for _ in 0..10 {
        who(&mut client).await.unwrap();
    }
    assert_eq!((first.load(SeqCst), second.load(SeqCst)), (5, 5));
    // More at once than one connection to an instance carries.
    let calls: Vec<_> = (0..300)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { who(&mut client).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!((first.load(SeqCst), second.load(SeqCst)), (155, 155));
    let failed =
        client.fetch_config(v1::FetchConfigRequest { node_id: "fail".into(), ..Default::default() }).await;
    let failed = failed.unwrap_err();
    assert_eq!((failed.code(), failed.message()), (Code::DataLoss, "as asked"), "an instance's own answer");
    rig.stop().await;
}

#[tokio::test]
async fn streams_pass_both_ways_and_a_drain_waits_for_them() {
    let ((one, first), (two, _)) = (grpc(1).await, grpc(2).await);
    let mut rig = Rig::start(h2c(), &[&one]).await;
    let mut client = client(&rig).await;
    let parts = (0..50).map(|_| v1::PushLogsRequest::default()).collect::<Vec<_>>();
    client.push_logs(tokio_stream::iter(parts)).await.unwrap();
    assert_eq!(first.load(SeqCst), 50);

    let (messages, outgoing) = mpsc::channel(1);
    messages.send(v1::ServeExecRequest::default()).await.unwrap();
    let mut stream = client.serve_exec(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    // Its instance leaves: new calls go elsewhere, the stream goes on, and the leader is told so.
    let mut applied = rig.handle.begin_session().await;
    rig.serve(&[&two]).await;
    assert_eq!(who(&mut client).await.unwrap(), "2");
    assert_eq!(applied.wait_for(|now| now.generation == 2).await.unwrap().busy, [one.instance]);
    for _ in 0..20 {
        messages.send(v1::ServeExecRequest::default()).await.unwrap();
        assert!(stream.message().await.unwrap().is_some());
    }
    drop(messages);
    assert!(stream.message().await.unwrap().is_none(), "the end of the stream passes, with its status");
    applied.wait_for(|now| now.busy.is_empty()).await.unwrap();
    rig.stop().await;
}

#[tokio::test]
async fn who_gives_up_a_request_frees_its_instance() {
    let (one, two) = (TestEndpoint::start(1).await, TestEndpoint::start_h2(2).await);
    let mut rig = Rig::start(http(), &[&one]).await;
    let mut applied = rig.handle.begin_session().await;
    let mut sender = http2(rig.port).await;
    for (endpoint, upstream) in [(&one, Upstream::Http1), (&two, Upstream::H2c)] {
        rig.policy.upstream = upstream;
        rig.serve(&[endpoint]).await;
        let asking = tokio::spawn(sender.send_request(request("/hang")));
        while endpoint.served() == 0 {
            tokio::task::yield_now().await;
        }
        rig.serve(&[]).await;
        let generation = rig.generation;
        let now = applied.wait_for(|now| now.generation == generation).await.unwrap().clone();
        assert_eq!(now.busy, [endpoint.instance]);
        asking.abort();
        applied.wait_for(|now| now.busy.is_empty()).await.unwrap();
    }
    rig.stop().await;
}

#[tokio::test]
async fn without_instances_a_call_is_told_so_in_its_own_words() {
    let (one, _) = grpc(1).await;
    let mut policy = h2c();
    policy.timeouts.connect = std::time::Duration::from_millis(50);
    let mut rig = Rig::start(policy, &[]).await;
    let mut client = client(&rig).await;
    let refused = who(&mut client).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "skein: web: no instance is ready"));
    rig.serve(&[&one]).await;
    assert_eq!(who(&mut client).await.unwrap(), "1", "on the same connection");
    rig.stop().await;
}

type Sender = http2::SendRequest<Empty<Bytes>>;

async fn http2(port: u16) -> Sender {
    let stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn get(sender: &mut Sender, request: Request<Empty<Bytes>>) -> (u16, String) {
    let answer: HttpResponse<Incoming> = sender.send_request(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

fn request(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://shop.example{path}")).body(Empty::new()).unwrap()
}

#[tokio::test]
async fn each_side_speaks_its_own_version() {
    let (one, two) = (TestEndpoint::start(1).await, TestEndpoint::start_h2(2).await);
    let mut rig = Rig::start(http(), &[&one]).await;
    let mut sender = http2(rig.port).await;
    let mut asked = request("/headers");
    asked.headers_mut().append("cookie", "a=1".parse().unwrap());
    asked.headers_mut().append("cookie", "b=2".parse().unwrap());
    asked.headers_mut().append("te", "trailers".parse().unwrap());
    let (status, headers) = get(&mut sender, asked).await;
    assert_eq!(status, 200);
    for expected in [
        "host: shop.example\n",
        "x-forwarded-host: shop.example\n",
        "cookie: a=1; b=2\n",
        "x-forwarded-for: 127.0.0.1\n",
    ] {
        assert!(headers.contains(expected), "{expected:?} is missing in\n{headers}");
    }
    assert!(!headers.contains("te: "), "{headers}");

    rig.policy.upstream = Upstream::H2c;
    rig.serve(&[&two]).await;
    let (status, headers) = rig.get("/headers").await;
    assert_eq!(status, 200);
    assert!(headers.contains("x-forwarded-host: web\n") && !headers.contains("\nhost: "), "{headers}");
    assert_eq!(get(&mut sender, request("/who")).await, (200, "2".to_owned()));
    let body = "x".repeat(300_000);
    let post = format!(
        "POST /echo HTTP/1.1\r\nhost: web\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let (status, echoed) = rig.ask(&post).await;
    assert_eq!((status, echoed.matches('x').count()), (200, body.len()));
    rig.stop().await;
}

#[tokio::test]
async fn a_flood_of_resets_harms_nobody_else() {
    let one = TestEndpoint::start(1).await;
    let rig = Rig::start(http(), &[&one]).await;
    for _ in 0..3 {
        let mut sender = http2(rig.port).await;
        for _ in 0..2_000 {
            if sender.ready().await.is_err() {
                break;
            }
            drop(sender.send_request(request("/hang")));
            tokio::task::yield_now().await;
        }
    }
    let mut other = http2(rig.port).await;
    assert_eq!(get(&mut other, request("/who")).await, (200, "1".to_owned()));
    assert_eq!(rig.get("/who").await, (200, "1".to_owned()));
    rig.stop().await;
}
