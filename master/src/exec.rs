//! Commands in running containers: the leader asks the instance's agent for a stream and ties it to
//! the caller's.
//!
//! Invariant: nothing is kept but a few messages in either direction; a caller that does not read
//! holds up its command, and that alone. A call that is given up, by whomever, ends the agent's
//! stream, and so the command. Every wait before the command runs has a limit.
//! Deliberately not here: what runs (`agent/src/exec.rs`), terminals (`skein exec`).

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use skein_common::{
    Violations,
    instance::{Desired, Instance},
};
use skein_master_core::ClusterState;
use skein_proto::{
    STDIN_PIECE, STDIN_WINDOW,
    v1::{
        self, exec_request, exec_response::Message as Said, instance_service_client::InstanceServiceClient,
    },
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, transport::Channel};

use crate::{
    clock,
    grpc::{
        proxy::{Answerer, Proxy, hand_on},
        read,
    },
    leadership::Leading,
    status::{CallError, SessionError},
    store::Store,
};

/// Messages on their way, each way; a message is some ten KiB.
const QUEUE: usize = 4;
/// A caller says what it wants within this.
const SAID_WITHIN: Duration = Duration::from_secs(5);
/// An agent that was asked opens its stream within this.
const OPENED_WITHIN: Duration = Duration::from_secs(5);
/// Its engine starts the command within this; the agent's own limits are shorter.
const STARTED_WITHIN: Duration = Duration::from_secs(60);
/// Calls at once on one master.
const MAX_CALLS: usize = 64;
const MAX_ARGUMENTS: usize = 1024;
const MAX_COMMAND_BYTES: usize = 128 * 1024;

type Answer = Result<v1::ExecResponse, Status>;
type Order = Result<v1::ServeExecResponse, Status>;
pub type ExecStream = Pin<Box<dyn Stream<Item = Answer> + Send>>;

/// Why a command does not run, or no longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecError {
    #[error("{name} does not run: it is {phase}")]
    NotRunning { name: String, phase: String },
    #[error("{name} has no running instance")]
    NoneRunning { name: String },
    #[error("{node}, the node of {name}, {why}")]
    Unreachable { name: String, node: String, why: &'static str },
    #[error("{0}")]
    Refused(String),
    #[error("the connection to {peer} was lost; whether the command still runs is not known")]
    Lost { peer: String },
}

/// An agent's stream for one command.
#[derive(Debug)]
struct AgentStream {
    said: Streaming<v1::ServeExecRequest>,
    orders: mpsc::Sender<Order>,
}

/// Streams that agents have been asked for, by their ids.
#[derive(Debug, Default)]
pub struct ExecDesk(Mutex<HashMap<String, oneshot::Sender<AgentStream>>>);

impl ExecDesk {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<AgentStream>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an agent's stream to the call that waits for it; answers with what that call orders.
    pub async fn receive(
        &self,
        mut said: Streaming<v1::ServeExecRequest>,
    ) -> Result<ReceiverStream<Order>, CallError> {
        let first = timeout(SAID_WITHIN, said.message()).await;
        let id = first.ok().and_then(Result::ok).flatten().map(|first| first.stream_id).unwrap_or_default();
        let waiting = self.lock().remove(&id);
        let waiting = waiting.ok_or(SessionError::UnknownExecStream { id })?;
        let (orders, stream) = mpsc::channel(QUEUE);
        // A caller that gave up meanwhile: the orders end at once.
        let _gone = waiting.send(AgentStream { said, orders });
        Ok(ReceiverStream::new(stream))
    }
}

/// Exec, on whichever master it is called.
#[derive(Debug)]
pub struct ExecCalls {
    store: Store,
    proxy: Proxy,
    permits: Arc<Semaphore>,
}

impl ExecCalls {
    #[must_use]
    pub fn new(store: Store, proxy: Proxy) -> Self {
        Self { store, proxy, permits: Arc::new(Semaphore::new(MAX_CALLS)) }
    }

    /// Starts one call.
    pub async fn exec(&self, request: Request<Streaming<v1::ExecRequest>>) -> Result<ExecStream, CallError> {
        let permit = self.permits.clone().try_acquire_owned();
        let permit = permit.map_err(|_| CallError::TooMany { what: "commands", limit: MAX_CALLS })?;
        let answers: ExecStream = match self.proxy.answerer_apart(&request).await? {
            Answerer::There(channel) => Box::pin(pass_on(channel, request.into_inner()).await?),
            Answerer::Here(leading) => {
                let mut requests = request.into_inner();
                let start = first(&mut requests).await?;
                self.store.linearize().await?;
                Box::pin(begin(&leading, start, requests).await?)
            }
        };
        Ok(Box::pin(answers.inspect(move |_| {
            // Given back with the stream.
            let _held = &permit;
        })))
    }
}

/// Has the leader answer.
async fn pass_on(
    channel: Channel,
    mut requests: Streaming<v1::ExecRequest>,
) -> Result<impl Stream<Item = Answer>, CallError> {
    let (orders, stream) = mpsc::channel(QUEUE);
    let credit = Arc::new(Credit::default());
    let mut client = InstanceServiceClient::new(channel);
    let sending = {
        let credit = credit.clone();
        async move {
            let orders = Orders { queue: orders, credit: &credit };
            orders.all_of(&mut requests).await
        }
    };
    // Runs as long as the answers are read, and no longer.
    let mut sending = Box::pin(sending);
    let call = client.exec(hand_on(ReceiverStream::new(stream)));
    let call = tokio::select! {
        call = call => call,
        never = &mut sending => match never {},
    };
    let answers = call.map_err(not_handed_on)?.into_inner();
    let answers = answers.map(move |answer| {
        credit.note(answer.as_ref().ok());
        answer.map_err(|status| Status::from(not_handed_on(status)))
    });
    Ok(WithSender { answers, sending })
}

/// Answers, and what is sent for them meanwhile.
struct WithSender<A> {
    answers: A,
    sending: Pin<Box<dyn Future<Output = Infallible> + Send>>,
}

impl<A: Stream + Unpin> Stream for WithSender<A> {
    type Item = A::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<A::Item>> {
        let this = &mut *self;
        let Poll::Pending = this.sending.as_mut().poll(context);
        Pin::new(&mut this.answers).poll_next(context)
    }
}

/// How many bytes of stdin may be on their way: the transport's window must never be full, or the end
/// of the stream would wait behind it.
#[derive(Debug)]
struct Credit(Semaphore);

impl Default for Credit {
    fn default() -> Self {
        Self(Semaphore::new(STDIN_WINDOW))
    }
}

impl Credit {
    /// What the other side has passed on may be sent again.
    fn note(&self, answer: Option<&v1::ExecResponse>) {
        if let Some(Said::StdinTaken(bytes)) = answer.and_then(|answer| answer.message.as_ref()) {
            let bytes = usize::try_from(*bytes).unwrap_or(usize::MAX);
            // No peer makes the window larger than it is.
            let missing = STDIN_WINDOW.saturating_sub(self.0.available_permits());
            self.0.add_permits(bytes.min(missing));
        }
    }

    async fn take(&self, bytes: usize) {
        if let Ok(permits) = self.0.acquire_many(u32::try_from(bytes).unwrap_or(u32::MAX)).await {
            permits.forget();
        }
    }
}

/// The way to whoever runs the command.
struct Orders<'a, T> {
    queue: mpsc::Sender<T>,
    credit: &'a Credit,
}

impl<T: From<Wished>> Orders<'_, T> {
    /// What the caller sends. Never ends: who has nothing more to send still reads.
    async fn all_of(self, requests: &mut Streaming<v1::ExecRequest>) -> Infallible {
        while let Ok(Some(request)) = requests.message().await {
            match request.message {
                Some(exec_request::Message::Stdin(bytes)) => self.stdin(bytes).await,
                message => self.send(message).await,
            }
        }
        self.send(Some(exec_request::Message::StdinEnd(v1::StdinEnd {}))).await;
        std::future::pending().await
    }

    async fn stdin(&self, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(STDIN_PIECE));
            self.credit.take(piece.len()).await;
            self.send(Some(exec_request::Message::Stdin(piece))).await;
        }
    }

    /// One that is gone is noticed by its silence.
    async fn send(&self, message: Option<exec_request::Message>) {
        let _gone = self.queue.send(Wished(v1::ExecRequest { message }).into()).await;
    }
}

/// One request, for the leader or for an agent.
struct Wished(v1::ExecRequest);

impl From<Wished> for v1::ExecRequest {
    fn from(Wished(request): Wished) -> Self {
        request
    }
}

impl From<Wished> for Order {
    fn from(Wished(request): Wished) -> Self {
        Ok(v1::ServeExecResponse { request: Some(request) })
    }
}

/// The leader's own words, or that it is gone: before it heard of the call, or later.
fn not_handed_on(status: Status) -> CallError {
    let mut cause = std::error::Error::source(&status);
    if cause.is_none() {
        return CallError::Forwarded(status);
    }
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return CallError::NoLeader;
        }
        cause = error.source();
    }
    ExecError::Lost { peer: "the leader".to_owned() }.into()
}

/// What the caller wants run.
async fn first(requests: &mut Streaming<v1::ExecRequest>) -> Result<v1::ExecStart, CallError> {
    let message = timeout(SAID_WITHIN, requests.message()).await;
    let message = message.ok().map(|first| first.map_err(CallError::Forwarded)).transpose()?.flatten();
    let mut found = Violations::default();
    let Some(exec_request::Message::Start(start)) = message.and_then(|first| first.message) else {
        found.add("start", "must be the first message");
        return Err(found.into());
    };
    if start.command.first().is_none_or(String::is_empty) {
        found.add("start.command", "is required");
    }
    let bytes: usize = start.command.iter().map(String::len).sum();
    if start.command.len() > MAX_ARGUMENTS || bytes > MAX_COMMAND_BYTES {
        let limits = format!("at most {MAX_ARGUMENTS} arguments of together {MAX_COMMAND_BYTES} bytes");
        found.add("start.command", limits);
    }
    if start.environment.keys().any(|name| name.is_empty() || name.contains(['=', '\0'])) {
        found.add("start.environment", "a name is neither empty nor does it contain `=`");
    }
    if found.0.is_empty() { Ok(start) } else { Err(found.into()) }
}

/// The instance a target means.
fn find(leading: &Leading, state: &ClusterState, target: &str) -> Result<Arc<Instance>, CallError> {
    if let Ok(instance) = read::instance(state, target) {
        return running(state, instance);
    }
    if let Ok(service) = read::service(state, target) {
        let candidates = state.instances_of(service.id).filter(|instance| is_up(instance));
        let is_away =
            |instance: &Instance| instance.node.and_then(|node| leading.sessions.of(node)).is_none();
        let first =
            candidates.min_by_key(|instance| (is_away(instance), instance.slot, instance.id)).cloned();
        return first.ok_or_else(|| ExecError::NoneRunning { name: target.to_owned() }.into());
    }
    let service = target.rsplit_once('.').map_or(target, |(service, _)| service);
    let service = read::service(state, service)?;
    let named = state.instances_of(service.id).filter(|one| state.instance_name(one) == target);
    // The one that runs; else the newest, to say why not.
    let best = named.max_by_key(|one| (is_up(one), one.created_revision)).cloned();
    match best {
        Some(instance) => running(state, instance),
        None => Ok(read::instance(state, target)?),
    }
}

fn is_up(instance: &Instance) -> bool {
    instance.observed.progress.phase.is_running() && instance.desired != Desired::Remove && !instance.lost
}

fn running(state: &ClusterState, instance: Arc<Instance>) -> Result<Arc<Instance>, CallError> {
    if instance.observed.progress.phase.is_running() {
        return Ok(instance);
    }
    let phase = instance.observed.progress.to_string();
    Err(ExecError::NotRunning { name: state.instance_name(&instance), phase }.into())
}

/// Until the command runs; then the rest on a task of the leader's.
async fn begin(
    leading: &Arc<Leading>,
    start: v1::ExecStart,
    requests: Streaming<v1::ExecRequest>,
) -> Result<ReceiverStream<Answer>, CallError> {
    let state = leading.store.snapshot();
    let instance = find(leading, &state, &start.target)?;
    let name = state.instance_name(&instance);
    let node = instance.node.map(|node| state.node_name(node)).unwrap_or_default();
    tracing::info!(instance = name, node, program = start.command.first(), tty = start.tty, "a command");
    let mut agent = open(leading, &instance, &name, &node).await?;
    let message = Some(exec_request::Message::Start(start));
    let lost = || CallError::from(ExecError::Lost { peer: node.clone() });
    send(&agent.orders, v1::ExecRequest { message }).await.map_err(|_| lost())?;
    let begun = tokio::select! {
        begun = timeout(STARTED_WITHIN, agent.said.message()) => begun,
        () = leading.stopped() => return Err(CallError::Stopping),
    };
    let late = "did not start the command in time";
    let begun =
        begun.map_err(|_| ExecError::Unreachable { name: name.clone(), node: node.clone(), why: late })?;
    let begun = begun.ok().flatten().ok_or_else(lost)?;
    if !begun.error.is_empty() {
        return Err(ExecError::Refused(begun.error).into());
    }
    let (caller, answers) = mpsc::channel(QUEUE);
    let started = v1::ExecStarted {
        instance_id: instance.id.to_string(),
        instance_name: name,
        node_name: node.clone(),
    };
    // The queue is empty.
    let _ = caller.try_send(Ok(v1::ExecResponse { message: Some(Said::Started(started)) }));
    let relay = Relay { caller, requests, agent, node };
    leading.tracker().spawn(relay.run(leading.clone()));
    Ok(ReceiverStream::new(answers))
}

/// Asks the instance's session for a stream, and waits for it.
async fn open(
    leading: &Leading,
    instance: &Instance,
    name: &str,
    node: &str,
) -> Result<AgentStream, CallError> {
    let unreachable = |why| ExecError::Unreachable { name: name.to_owned(), node: node.to_owned(), why };
    let session = instance.node.and_then(|node| leading.sessions.of(node));
    let session = session.ok_or_else(|| unreachable("is not connected"))?;
    let stream_id = format!("{:016x}", clock::random());
    let (sender, opened) = oneshot::channel();
    leading.exec.lock().insert(stream_id.clone(), sender);
    let forget = Forget { leading, stream_id: &stream_id };
    let start = v1::StartExec { stream_id: stream_id.clone(), instance_id: instance.id.to_string() };
    if !session.ask_exec(start) {
        return Err(unreachable("is asked for too many commands at once").into());
    }
    let opened = tokio::select! {
        opened = timeout(OPENED_WITHIN, opened) => opened,
        () = leading.stopped() => return Err(CallError::Stopping),
    };
    drop(forget);
    opened.ok().and_then(Result::ok).ok_or_else(|| unreachable("did not answer").into())
}

/// A stream that is no longer waited for, however the wait ended.
struct Forget<'a> {
    leading: &'a Leading,
    stream_id: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.leading.exec.lock().remove(self.stream_id);
    }
}

async fn send(orders: &mpsc::Sender<Order>, request: v1::ExecRequest) -> Result<(), ()> {
    orders.send(Ok(v1::ServeExecResponse { request: Some(request) })).await.map_err(|_| ())
}

/// A caller and an agent that talk.
struct Relay {
    caller: mpsc::Sender<Answer>,
    requests: Streaming<v1::ExecRequest>,
    agent: AgentStream,
    node: String,
}

impl Relay {
    /// Until the command, the caller, the agent or leadership ends.
    async fn run(self, leading: Arc<Leading>) {
        let Self { caller, mut requests, agent: AgentStream { mut said, orders }, node } = self;
        let credit = Credit::default();
        let orders = Orders { queue: orders, credit: &credit };
        let last = tokio::select! {
            last = output(&mut said, &caller, &credit, &node) => last,
            never = orders.all_of(&mut requests) => match never {},
            () = caller.closed() => return,
            () = leading.stopped() => {
                let _ = caller.try_send(Err(CallError::Stopping.into()));
                return;
            }
        };
        let Err(error) = last else { return };
        tokio::select! {
            _ = caller.send(Err(error.into())) => {}
            () = leading.stopped() => {}
        }
    }
}

/// What the command writes, up to its exit.
async fn output(
    said: &mut Streaming<v1::ServeExecRequest>,
    caller: &mpsc::Sender<Answer>,
    credit: &Credit,
    node: &str,
) -> Result<(), CallError> {
    loop {
        let message = said.message().await.ok().flatten();
        let message = message.ok_or_else(|| ExecError::Lost { peer: node.to_owned() })?;
        if !message.error.is_empty() {
            return Err(ExecError::Refused(message.error).into());
        }
        let Some(response) = message.response else { continue };
        credit.note(Some(&response));
        let is_last = matches!(response.message, Some(Said::Exit(_)));
        if caller.send(Ok(response)).await.is_err() || is_last {
            return Ok(());
        }
    }
}
