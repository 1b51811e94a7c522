//! Output of instances: the leader asks the agents' sessions for streams and pairs what they push
//! with the callers that wait for it.
//!
//! Invariant: nothing is kept. A caller that does not read holds up the agents that push to it, and
//! them alone; a stream nobody waits for is refused. An instance whose output cannot be had is one
//! message with `error`; the others go on.
//! Who follows a service gets its later instances too, each from when it runs.

use std::{
    collections::{BTreeSet, HashMap},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use skein_common::{
    InstanceId, ServiceId, Violations,
    instance::{Desired, Instance},
};
use skein_master_core::{ClusterState, state::Change};
use skein_proto::v1::{self, instance_service_client::InstanceServiceClient, stream_logs_request::Source};
use tokio::{
    sync::{Semaphore, mpsc},
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use crate::{
    clock,
    grpc::{
        proxy::{Answerer, Proxy, hand_on},
        read,
    },
    leadership::Leading,
    status::{CallError, SessionError, end_of_stream},
    store::{Feed, Store},
};

/// Lines that wait for a caller.
const QUEUE: usize = 256;
/// An agent that was asked opens its stream within this.
const OPENED_WITHIN: Duration = Duration::from_secs(5);
/// Calls at once on one master.
const MAX_CALLS: usize = 256;
/// Instances of one call.
const MAX_SOURCES: usize = 1000;

type Line = Result<v1::StreamLogsResponse, Status>;
pub type LogStream = Pin<Box<dyn Stream<Item = Line> + Send>>;

/// One instance of one call: who waits, and how its lines are labelled.
#[derive(Debug, Clone)]
struct Sink {
    caller: mpsc::Sender<Line>,
    label: v1::StreamLogsResponse,
}

impl Sink {
    /// `false` when the caller is gone.
    async fn line(&self, line: v1::LogLine) -> bool {
        let response = v1::StreamLogsResponse {
            stream: line.stream,
            at: line.at,
            line: line.line,
            ..self.label.clone()
        };
        self.caller.send(Ok(response)).await.is_ok()
    }

    async fn error(&self, error: String) -> bool {
        self.caller.send(Ok(v1::StreamLogsResponse { error, ..self.label.clone() })).await.is_ok()
    }
}

/// Streams that agents have been asked for, by their ids.
#[derive(Debug, Default)]
pub struct LogDesk(Mutex<HashMap<String, Sink>>);

impl LogDesk {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Sink>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what an agent pushes until it, the caller or leadership ends.
    pub async fn receive(
        &self,
        mut pushed: Streaming<v1::PushLogsRequest>,
        stopped: impl Future<Output = ()>,
    ) -> Result<(), CallError> {
        let Some(first) = message(&mut pushed).await? else { return Ok(()) };
        let sink = self.lock().remove(&first.stream_id);
        let sink = sink.ok_or(SessionError::UnknownLogStream { id: first.stream_id.clone() })?;
        tokio::select! {
            result = hand_over(&sink, first, &mut pushed) => result,
            // The agent's stream ends with this call, whatever it still wants to push.
            () = sink.caller.closed() => Ok(()),
            () = stopped => {
                let _ = sink.caller.try_send(Err(CallError::Stopping.into()));
                Err(CallError::Stopping)
            }
        }
    }
}

async fn message(
    pushed: &mut Streaming<v1::PushLogsRequest>,
) -> Result<Option<v1::PushLogsRequest>, CallError> {
    match pushed.message().await {
        Ok(message) => Ok(message),
        Err(status) => end_of_stream(status).map_or(Ok(None), Err),
    }
}

async fn hand_over(
    sink: &Sink,
    first: v1::PushLogsRequest,
    pushed: &mut Streaming<v1::PushLogsRequest>,
) -> Result<(), CallError> {
    let mut next = Some(first);
    while let Some(push) = next {
        for line in push.lines {
            if !sink.line(line).await {
                return Ok(());
            }
        }
        if !push.error.is_empty() {
            sink.error(push.error).await;
            return Ok(());
        }
        next = message(pushed).await?;
    }
    Ok(())
}

/// StreamLogs, on whichever master it is called.
#[derive(Debug)]
pub struct LogCalls {
    store: Store,
    proxy: Proxy,
    permits: Arc<Semaphore>,
}

impl LogCalls {
    #[must_use]
    pub fn new(store: Store, proxy: Proxy) -> Self {
        Self { store, proxy, permits: Arc::new(Semaphore::new(MAX_CALLS)) }
    }

    /// Starts one call.
    pub async fn stream(&self, request: Request<v1::StreamLogsRequest>) -> Result<LogStream, CallError> {
        let permit = self.permits.clone().try_acquire_owned();
        let permit = permit.map_err(|_| CallError::TooMany { what: "calls for logs", limit: MAX_CALLS })?;
        let lines: LogStream = match self.proxy.answerer_apart(&request).await? {
            Answerer::There(channel) => {
                let call =
                    InstanceServiceClient::new(channel).stream_logs(hand_on(request.into_inner())).await;
                Box::pin(call.map_err(CallError::Forwarded)?.into_inner())
            }
            Answerer::Here(leading) => {
                self.store.linearize().await?;
                Box::pin(start(&leading, request.into_inner())?)
            }
        };
        Ok(Box::pin(lines.inspect(move |_| {
            // Given back with the stream.
            let _held = &permit;
        })))
    }
}

/// Asks all sessions concerned and answers with what they will push.
fn start(leading: &Arc<Leading>, request: v1::StreamLogsRequest) -> Result<ReceiverStream<Line>, CallError> {
    if request.previous && request.follow {
        let mut found = Violations::default();
        found.add("previous", "what has ended cannot be followed");
        return Err(found.into());
    }
    let state = leading.store.snapshot();
    let instances = sources(&state, request.source.as_ref())?;
    if instances.len() > MAX_SOURCES {
        return Err(CallError::TooMany { what: "instances in one call for logs", limit: MAX_SOURCES });
    }
    let (caller, lines) = mpsc::channel(QUEUE.max(instances.len() + 1));
    let follower = Follower::new(leading, &state, &request, &caller, &instances);
    let mut asked = Vec::new();
    for instance in instances {
        if follower.is_some() && instance.node.is_none() {
            continue;
        }
        let sink = Sink { caller: caller.clone(), label: label(&state, &instance) };
        match ask(leading, &instance, sink.clone(), &request) {
            Ok(stream_id) => asked.push(stream_id),
            // There is room for one message of each instance.
            Err(error) => {
                let _ = sink.caller.try_send(Ok(v1::StreamLogsResponse { error, ..sink.label }));
            }
        }
    }
    leading.tracker().spawn(attend(leading.clone(), asked));
    if let Some(follower) = follower {
        leading.tracker().spawn(follower.run());
    }
    Ok(ReceiverStream::new(lines))
}

fn sources(state: &ClusterState, source: Option<&Source>) -> Result<Vec<Arc<Instance>>, CallError> {
    match source {
        Some(Source::Instance(id)) => Ok(vec![read::instance(state, id)?]),
        Some(Source::Service(name)) => {
            let service = read::service(state, name)?.id;
            let instances = state.instances_of(service);
            Ok(instances.filter(|instance| instance.desired != Desired::Remove).cloned().collect())
        }
        None => {
            let mut found = Violations::default();
            found.add("source", "an instance or a service is required");
            Err(found.into())
        }
    }
}

fn label(state: &ClusterState, instance: &Instance) -> v1::StreamLogsResponse {
    v1::StreamLogsResponse {
        instance_id: instance.id.to_string(),
        instance_name: state.instance_name(instance),
        node_name: instance.node.map(|node| state.node_name(node)).unwrap_or_default(),
        ..v1::StreamLogsResponse::default()
    }
}

/// Puts the wish into the session's inbox; the error is for the caller to read.
fn ask(
    leading: &Leading,
    instance: &Instance,
    sink: Sink,
    request: &v1::StreamLogsRequest,
) -> Result<String, String> {
    let node = instance.node.ok_or("it has no node yet")?;
    let session = leading.sessions.of(node).ok_or("its node is not connected")?;
    let stream_id = format!("{:016x}", clock::random());
    let start = v1::StartLogs {
        stream_id: stream_id.clone(),
        instance_id: instance.id.to_string(),
        follow: request.follow,
        tail: request.tail,
        since: request.since,
        previous: request.previous,
    };
    leading.logs.lock().insert(stream_id.clone(), sink);
    if session.ask_logs(start) {
        return Ok(stream_id);
    }
    leading.logs.lock().remove(&stream_id);
    Err("its node is asked for too many logs at once".to_owned())
}

/// Adds the instances that begin to run while a caller follows their service.
struct Follower {
    leading: Arc<Leading>,
    service: ServiceId,
    feed: Feed,
    caller: mpsc::Sender<Line>,
    asked: BTreeSet<InstanceId>,
}

impl Follower {
    fn new(
        leading: &Arc<Leading>,
        state: &ClusterState,
        request: &v1::StreamLogsRequest,
        caller: &mpsc::Sender<Line>,
        instances: &[Arc<Instance>],
    ) -> Option<Self> {
        let Some(Source::Service(name)) = request.source.as_ref().filter(|_| request.follow) else {
            return None;
        };
        let placed = instances.iter().filter(|instance| instance.node.is_some());
        Some(Self {
            leading: leading.clone(),
            service: read::service(state, name).ok()?.id,
            feed: leading.store.feed(state.revision()).ok()?,
            caller: caller.clone(),
            asked: placed.map(|instance| instance.id).collect(),
        })
    }

    /// Until the caller, leadership or the service is gone.
    async fn run(mut self) {
        let (leading, caller) = (self.leading.clone(), self.caller.clone());
        tokio::select! {
            () = self.follow() => {}
            () = caller.closed() => {}
            () = leading.stopped() => {
                let _ = caller.try_send(Err(CallError::Stopping.into()));
            }
        }
    }

    async fn follow(&mut self) {
        while let Ok(batches) = self.feed.next().await {
            for change in batches.iter().flat_map(|batch| &batch.changes) {
                match change {
                    Change::Service { service, deleted: true } if service.id == self.service => return,
                    Change::Instance { instance, deleted: false } if instance.service == self.service => {
                        self.consider(instance);
                    }
                    _ => {}
                }
            }
        }
        // Changes were missed: the caller asks again.
        let _ = self.caller.try_send(Err(CallError::Stopping.into()));
    }

    fn consider(&mut self, instance: &Instance) {
        if !instance.observed.progress.phase.is_running() || self.asked.contains(&instance.id) {
            return;
        }
        let label = label(&self.leading.store.snapshot(), instance);
        let request = v1::StreamLogsRequest { follow: true, ..Default::default() };
        let sink = Sink { caller: self.caller.clone(), label };
        if let Ok(stream_id) = ask(&self.leading, instance, sink, &request) {
            self.asked.insert(instance.id);
            self.leading.tracker().spawn(attend(self.leading.clone(), vec![stream_id]));
        }
    }
}

/// Gives up on agents that open no stream.
async fn attend(leading: Arc<Leading>, asked: Vec<String>) {
    tokio::select! {
        () = sleep(OPENED_WITHIN) => {}
        () = leading.stopped() => {}
    }
    let unopened: Vec<_> = {
        let mut desk = leading.logs.lock();
        asked.iter().filter_map(|stream_id| desk.remove(stream_id)).collect()
    };
    for sink in unopened {
        // Waits for no caller: one that reads has room.
        let error = "its node did not answer".to_owned();
        let _ = sink.caller.try_send(Ok(v1::StreamLogsResponse { error, ..sink.label }));
    }
}
