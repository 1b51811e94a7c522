//! A master that does what the test says, message by message, over real gRPC.
//!
//! Invariant: every wait ends: with what was waited for, or with a panic that says what came
//! instead.

use std::{collections::BTreeMap, future::Future, path::Path, time::Duration};

use skein_agent::{
    agent::{Agent, AgentConfig, AgentHandle},
    runtime::{ContainerRuntime, fake::FakeRuntime},
    worker::Holdings,
};
use skein_common::{
    ClusterId, InstanceId, Resources, ServiceId,
    assignment::{Assignment, AssignmentContent, AssignmentUpdate, Known},
    instance::{Desired, InstanceReport, News, Phase},
    node::Platform,
    service::{ContainerSpec, Generation, ResourceRequirements, RestartPolicy},
};
use skein_proto::{
    convert::{Hello, duration_to_wire},
    v1::{
        self,
        agent_service_server::{AgentService, AgentServiceServer},
        session_request, session_response,
    },
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of sessions whose heartbeats are not what the test is about.
pub const CALM: Duration = Duration::from_secs(20);

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

pub struct Master {
    pub address: String,
    sessions: mpsc::Receiver<Session>,
    pushes: mpsc::Receiver<Streaming<v1::PushLogsRequest>>,
    server: JoinHandle<()>,
}

struct Desk {
    sessions: mpsc::Sender<Session>,
    pushes: mpsc::Sender<Streaming<v1::PushLogsRequest>>,
}

#[tonic::async_trait]
impl AgentService for Desk {
    type SessionStream = ReceiverStream<Result<v1::SessionResponse, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbound, messages) = mpsc::channel(16);
        let session = Session { inbound: request.into_inner(), outbound, term: 0, generation: 0 };
        self.sessions.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn fetch_config(
        &self,
        _: Request<v1::FetchConfigRequest>,
    ) -> Result<Response<v1::FetchConfigResponse>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    type ServeExecStream = ReceiverStream<Result<v1::ServeExecResponse, Status>>;

    async fn serve_exec(
        &self,
        _: Request<Streaming<v1::ServeExecRequest>>,
    ) -> Result<Response<Self::ServeExecStream>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn push_logs(
        &self,
        request: Request<Streaming<v1::PushLogsRequest>>,
    ) -> Result<Response<v1::PushLogsResponse>, Status> {
        let _ = self.pushes.send(request.into_inner()).await;
        // The test ends it by dropping the stream's master.
        std::future::pending().await
    }
}

impl Master {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sessions, accepted) = mpsc::channel(16);
        let (pushes, pushed) = mpsc::channel(16);
        let serve = Server::builder()
            .add_service(AgentServiceServer::new(Desk { sessions, pushes }))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { serve.await.unwrap() });
        Self { address, sessions: accepted, pushes: pushed, server }
    }

    /// The next stream, and the Hello on it.
    pub async fn greeted(&mut self) -> (Session, Hello) {
        let mut session = within("a session", self.sessions.recv()).await.unwrap();
        match session.next().await {
            Some(session_request::Message::Hello(hello)) => (session, hello.try_into().unwrap()),
            other => panic!("a Hello comes first, not {other:?}"),
        }
    }

    /// A session with the leader of `term`.
    pub async fn welcomed(&mut self, term: u64) -> Session {
        let (mut session, _) = self.greeted().await;
        session.welcome(term, CALM).await;
        session
    }

    pub async fn pushed(&mut self) -> Streaming<v1::PushLogsRequest> {
        within("pushed logs", self.pushes.recv()).await.unwrap()
    }

    /// Its process dies.
    pub fn kill(self) {
        self.server.abort();
    }
}

pub struct Session {
    inbound: Streaming<v1::SessionRequest>,
    outbound: mpsc::Sender<Result<v1::SessionResponse, Status>>,
    term: u64,
    generation: u64,
}

impl Session {
    /// `None` when the agent ended it.
    pub async fn next(&mut self) -> Option<session_request::Message> {
        let message = within("a message of the agent", self.inbound.message()).await.ok()??;
        Some(message.message.expect("content"))
    }

    pub async fn send(&self, message: impl Into<Option<session_response::Message>>) {
        let message = v1::SessionResponse { message: message.into() };
        self.outbound.send(Ok(message)).await.expect("an agent that listens");
    }

    pub async fn welcome(&mut self, term: u64, interval: Duration) {
        self.term = term;
        let welcome = v1::Welcome {
            cluster_id: cluster().to_string(),
            session_id: "0000000000001".to_owned(),
            term,
            heartbeat_interval: Some(duration_to_wire(interval)),
            masters: Vec::new(),
        };
        self.send(session_response::Message::Welcome(welcome)).await;
    }

    pub async fn set(&mut self, assignments: Vec<Assignment>) {
        self.generation += 10;
        self.update(self.generation, AssignmentContent::Full(assignments)).await;
    }

    pub async fn delta(&mut self, from: u64, upsert: Assignment) {
        self.generation += 10;
        let content = AssignmentContent::Delta { from, upserts: vec![upsert], removals: Vec::new() };
        self.update(self.generation, content).await;
    }

    async fn update(&self, generation: u64, content: AssignmentContent) {
        let update = AssignmentUpdate { term: self.term, generation, content };
        self.send(session_response::Message::from(&update)).await;
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Reads reports until this was told of an instance.
    pub async fn wait_told(&mut self, instance: InstanceId, attempt: u32, phase: Phase) {
        let mut seen = Vec::new();
        while let Some(message) = self.next().await {
            let session_request::Message::Report(report) = message else { continue };
            for report in report.instances {
                let report = InstanceReport::try_from(report).unwrap();
                if progress(&report.news) == Some((attempt, phase)) && report.instance == instance {
                    return;
                }
                seen.push(report);
            }
        }
        panic!("the session ended before {instance} was told as {attempt} {phase}: {seen:?}");
    }

    /// Reads reports until this left no trace.
    pub async fn wait_gone(&mut self, instance: InstanceId) {
        while let Some(message) = self.next().await {
            let session_request::Message::Report(report) = message else { continue };
            let mut reports = report.instances.into_iter().map(|one| InstanceReport::try_from(one).unwrap());
            if reports.any(|report| report.instance == instance && report.news == News::Gone) {
                return;
            }
        }
        panic!("the session ended before {instance} was gone");
    }

    /// Reads until the agent ends the session.
    pub async fn wait_ended(&mut self) {
        while self.next().await.is_some() {}
    }
}

pub fn progress(news: &News) -> Option<(u32, Phase)> {
    match news {
        News::Observed(observed) => Some((observed.progress.attempt, observed.progress.phase)),
        News::Gone => None,
    }
}

pub fn cluster() -> ClusterId {
    ClusterId::from_random(77)
}

pub fn id(number: u64) -> InstanceId {
    InstanceId::from_random(number)
}

pub fn assignment(number: u64, desired: Desired) -> Assignment {
    Assignment {
        instance: id(number),
        service: ServiceId::from_random(9),
        service_name: "web".to_owned(),
        slot: u32::try_from(number).unwrap(),
        generation: Generation(1),
        desired,
        container: ContainerSpec { stop_grace: Duration::from_secs(1), ..ContainerSpec::new("web:1") },
        resources: ResourceRequirements::default(),
        restart: RestartPolicy::default(),
        ports: Vec::new(),
        devices: Vec::new(),
        attempt: 1,
        known: Known::default(),
    }
}

pub async fn agent(masters: &[&Master], folder: &Path, engine: &FakeRuntime) -> AgentHandle {
    agent_on(masters, folder, engine.clone()).await
}

pub async fn agent_on<R: ContainerRuntime>(masters: &[&Master], folder: &Path, engine: R) -> AgentHandle {
    let config = AgentConfig {
        name: "n1".to_owned(),
        masters: masters.iter().map(|master| master.address.clone()).collect(),
        data_dir: Some(folder.to_owned()),
        address: "127.0.0.1".to_owned(),
        labels: BTreeMap::new(),
        capacity: Resources { cpu_millis: 1000, memory_bytes: 1 << 30 },
        reserved: Resources::ZERO,
        platform: Platform::default(),
        generic: Vec::new(),
        proxy: None,
        names: None,
        metrics: None,
    };
    Agent::start(config, engine).await.unwrap()
}

/// Until the agent itself holds this.
pub async fn wait_held(agent: &AgentHandle, number: u64, attempt: u32, phase: Phase) {
    let is_so = |held: &Holdings| held.news.get(&id(number)).and_then(progress) == Some((attempt, phase));
    let mut holdings = agent.holdings();
    within(&format!("instance {number} at {attempt} {phase}"), holdings.wait_for(is_so)).await.unwrap();
}
