//! A scripted agent: says what the test tells it to, and nothing by itself.

use std::net::SocketAddr;

use skein_common::{
    InstanceId, NodeId, Timestamp,
    assignment::{AssignmentContent, AssignmentUpdate},
    instance::{Desired, InstanceReport, News, Observed, Phase, Progress},
};
use skein_master_core::testing;
use skein_proto::{
    AGENT_PROTOCOL,
    convert::Hello,
    v1::{self, agent_service_client::AgentServiceClient, session_request, session_response::Message},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Endpoint};

use crate::harness::soon;

pub struct Agent {
    pub hello: Hello,
    out: mpsc::Sender<v1::SessionRequest>,
    inbound: Streaming<v1::SessionResponse>,
}

/// The Hello of a node that has never been seen and runs nothing.
pub fn hello(number: u64) -> Hello {
    Hello {
        protocol: AGENT_PROTOCOL,
        cluster_id: None,
        node_id: NodeId::from_random(number),
        incarnation: 1,
        term: 0,
        description: testing::node(&format!("n{number}")),
        instances: Vec::new(),
    }
}

pub fn report(instance: InstanceId, attempt: u32, phase: Phase) -> InstanceReport {
    let progress = Progress { attempt, phase };
    let at = Timestamp::from_unix_ms(1_700_000_000_000);
    InstanceReport { instance, news: News::Observed(Observed::of(progress, at)) }
}

pub async fn client(address: SocketAddr) -> AgentServiceClient<tonic::transport::Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    AgentServiceClient::new(endpoint.connect().await.unwrap())
}

impl Agent {
    /// Opens a session and says Hello.
    pub async fn connect(address: SocketAddr, hello: Hello) -> Self {
        let (out, queue) = mpsc::channel(64);
        let first = session_request::Message::Hello((&hello).into());
        out.send(v1::SessionRequest { message: Some(first) }).await.unwrap();
        let mut client = client(address).await;
        let inbound = client.session(ReceiverStream::new(queue)).await.unwrap().into_inner();
        Self { hello, out, inbound }
    }

    /// A session that has been welcomed, with what it was told to hold.
    pub async fn join(address: SocketAddr, hello: Hello) -> (Self, AssignmentUpdate) {
        let mut agent = Self::connect(address, hello).await;
        match agent.next().await {
            Ok(Message::Welcome(_)) => {}
            other => panic!("no Welcome: {other:?}"),
        }
        let set = agent.update().await;
        assert!(matches!(set.content, AssignmentContent::Full(_)), "{set:?}");
        (agent, set)
    }

    pub async fn send(&self, message: session_request::Message) {
        // A session that has ended does not take it; what follows shows.
        let _ = self.out.send(v1::SessionRequest { message: Some(message) }).await;
    }

    pub async fn report(&self, reports: &[InstanceReport]) {
        let instances = reports.iter().map(v1::InstanceReport::from).collect();
        self.send(session_request::Message::Report(v1::Report { instances })).await;
    }

    pub async fn beat(&self) {
        self.send(session_request::Message::Heartbeat(v1::Heartbeat::default())).await;
    }

    /// The next message, or how the stream ended.
    pub async fn next(&mut self) -> Result<Message, Status> {
        match soon("a message of the master", self.inbound.message()).await? {
            Some(message) => Ok(message.message.expect("a message with content")),
            None => Err(Status::ok("the end")),
        }
    }

    /// The next assignments.
    pub async fn update(&mut self) -> AssignmentUpdate {
        loop {
            match self.next().await.unwrap() {
                Message::Set(set) => return set.try_into().unwrap(),
                Message::Delta(delta) => return delta.try_into().unwrap(),
                _ => {}
            }
        }
    }

    /// The one instance that the next increment is about.
    pub async fn assigned(&mut self) -> (InstanceId, Desired) {
        match self.update().await.content {
            AssignmentContent::Delta { upserts, .. } if upserts.len() == 1 => {
                (upserts[0].instance, upserts[0].desired)
            }
            other => panic!("not one assignment: {other:?}"),
        }
    }

    /// How the session ends.
    pub async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}
