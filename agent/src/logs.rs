//! Output of instances, pushed to the master that asked for it.
//!
//! Invariant: bounded: so many streams at once, so many lines on their way in each; a master that
//! does not read stops the reading of the engine, nobody else. A stream ends when either side does.
//! Whoever follows an instance follows it through its restarts.
//! Deliberately not here: who asked (`session`), what a line is (`runtime`).

use std::sync::Arc;

use futures_util::StreamExt;
use skein_common::{
    InstanceId,
    instance::{News, Phase},
};
use skein_proto::{
    convert::{timestamp_from_wire, timestamp_to_wire},
    v1::{self, agent_service_client::AgentServiceClient},
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    runtime::{ContainerRuntime, LogLine, LogQuery, RuntimeError},
    session::connect,
    worker::WorkerHandle,
};

/// Each holds a connection to the engine.
const STREAMS: usize = 32;
/// Lines in one message: up to 64 KiB each, and a message takes 16 MiB.
const LINES: usize = 128;
/// Messages on their way.
const QUEUE: usize = 2;

/// Opens streams. Cheap to clone.
pub(crate) struct LogPusher<R> {
    runtime: Arc<R>,
    worker: WorkerHandle,
    tracker: TaskTracker,
    stop: CancellationToken,
    permits: Arc<Semaphore>,
}

/// One stream.
struct Push<R> {
    runtime: Arc<R>,
    worker: WorkerHandle,
    messages: mpsc::Sender<v1::PushLogsRequest>,
}

impl<R: ContainerRuntime> LogPusher<R> {
    pub(crate) fn new(
        runtime: Arc<R>,
        worker: WorkerHandle,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self { runtime, worker, tracker, stop, permits: Arc::new(Semaphore::new(STREAMS)) }
    }

    /// Answers to the master at this address, over a connection of its own: one that does not read
    /// fills its connection's window, and the session must go on.
    pub(crate) fn start(&self, address: &str, start: v1::StartLogs) {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        let (messages, outgoing) = mpsc::channel(QUEUE);
        let push = Push { runtime: Arc::clone(&self.runtime), worker: self.worker.clone(), messages };
        let (address, stop) = (address.to_owned(), self.stop.clone());
        self.tracker.spawn(async move {
            // A master that cannot be reached gives up the reader by itself.
            let Ok(channel) = connect(&address).await else { return };
            let mut client = AgentServiceClient::new(channel);
            let is_busy = permit.is_err();
            let work = async {
                if is_busy {
                    push.refuse(start.stream_id, "the node pushes too many logs already").await;
                } else {
                    push.run(start).await;
                }
                // The last message is out when the master has answered.
                std::future::pending::<()>().await;
            };
            // Ends the push when the master ends the call.
            tokio::select! {
                () = stop.cancelled() => {}
                _answer = client.push_logs(ReceiverStream::new(outgoing)) => {}
                () = work => {}
            }
            drop(permit);
        });
    }
}

impl<R: ContainerRuntime> Push<R> {
    async fn refuse(self, stream_id: String, error: &str) {
        let last = v1::PushLogsRequest { stream_id, error: error.to_owned(), ..Default::default() };
        let _master_is_gone = self.messages.send(last).await;
    }

    /// Drops the sender at its end, which ends the call.
    async fn run(self, start: v1::StartLogs) {
        let (stream_id, follow) = (start.stream_id.clone(), start.follow && !start.previous);
        let (age, missing) = match start.previous {
            false => (0, "the instance has no container on this node"),
            true => (1, "there is no earlier container of it on this node"),
        };
        let (instance, mut query) = match read(start) {
            Ok(read) => read,
            Err(reason) => return self.refuse(stream_id, &reason).await,
        };
        // At once, even if there is nothing to say: the master waits for the stream.
        let opening = v1::PushLogsRequest { stream_id: stream_id.clone(), ..Default::default() };
        if self.messages.send(opening).await.is_err() {
            return;
        }
        let Some(mut container) = self.worker.containers(instance).await.into_iter().nth(age) else {
            return self.refuse(stream_id, missing).await;
        };
        loop {
            match self.push(&container, query).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.refuse(stream_id, &error.to_string()).await,
            }
            if !follow {
                return;
            }
            // The next attempt's container, from its first line.
            query = LogQuery { follow, ..LogQuery::default() };
            match self.next_container(instance, &container).await {
                Some(next) => container = next,
                None => return,
            }
        }
    }

    /// Answers whether the master still listens.
    async fn push(&self, container: &str, query: LogQuery) -> Result<bool, RuntimeError> {
        let mut lines = self.runtime.logs(container, query).ready_chunks(LINES);
        while let Some(chunk) = lines.next().await {
            let mut failed = None;
            let mut message = v1::PushLogsRequest::default();
            for line in chunk {
                match line {
                    Ok(line) => message.lines.push(to_wire(line)),
                    Err(error) => failed = Some(error),
                }
            }
            if self.messages.send(message).await.is_err() {
                return Ok(false);
            }
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(true)
    }

    /// `None` when there will be no other.
    async fn next_container(&self, instance: InstanceId, before: &str) -> Option<String> {
        let mut holdings = self.worker.holdings();
        let held = holdings.wait_for(|held| match held.news.get(&instance) {
            Some(News::Observed(observed)) => {
                // Only one that has started: an engine may end the log of one that has not.
                let is_other = !observed.container_id.is_empty() && observed.container_id != before;
                is_other && observed.progress.phase >= Phase::Running || observed.progress.phase.is_terminal()
            }
            Some(News::Gone) | None => true,
        });
        let held = tokio::select! {
            held = held => held.ok()?,
            () = self.messages.closed() => return None,
        };
        match held.news.get(&instance)? {
            News::Observed(observed) if observed.container_id != before => {
                Some(observed.container_id.clone()).filter(|id| !id.is_empty())
            }
            News::Observed(_) | News::Gone => None,
        }
    }
}

fn read(start: v1::StartLogs) -> Result<(InstanceId, LogQuery), String> {
    let instance = start.instance_id.parse().map_err(|error| format!("{error}"))?;
    let since = start.since.map(|since| timestamp_from_wire("since", since)).transpose();
    let since = since.map_err(|error| error.to_string())?;
    Ok((instance, LogQuery { follow: start.follow, tail: start.tail, since }))
}

fn to_wire(line: LogLine) -> v1::LogLine {
    let stream = if line.stderr { v1::LogStream::Stderr } else { v1::LogStream::Stdout };
    v1::LogLine { stream: stream.into(), at: Some(timestamp_to_wire(line.at)), line: line.line }
}
