//! Commands in containers, served to the master that asked over a connection of their own.
//!
//! Invariant: bounded: so many commands at once, so little on its way in each; a master that does
//! not read holds up the command, a command that does not read holds up its caller, nobody else.
//! When the stream ends before the command does, the command is ended.
//! Deliberately not here: who asked (`session`), how a command is run (`runtime`).

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::BoxStream};
use skein_proto::v1::{
    self, agent_service_client::AgentServiceClient, exec_request::Message as Wish,
    exec_response::Message as Said,
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Streaming;

use crate::{
    runtime::{ContainerRuntime, Exec, ExecCommand, ExecOutput, RuntimeError, TerminalSize},
    session::connect,
    worker::WorkerHandle,
};

/// Each holds two connections.
const COMMANDS: usize = 32;
/// Messages on their way; one is at most a piece of output.
const QUEUE: usize = 4;
/// A master that asked says what it wants within this.
const SAID_WITHIN: Duration = Duration::from_secs(10);
/// What ends a line for a program that reads a terminal.
const END_OF_TEXT: &[u8] = &[4];

/// Serves commands.
pub(crate) struct ExecServer<R> {
    runtime: Arc<R>,
    worker: WorkerHandle,
    tracker: TaskTracker,
    stop: CancellationToken,
    permits: Arc<Semaphore>,
}

type Messages = mpsc::Sender<v1::ServeExecRequest>;
type Orders = Streaming<v1::ServeExecResponse>;

/// The stream ended before the command: nobody is left to tell.
struct GivenUp;

impl<R: ContainerRuntime> ExecServer<R> {
    pub(crate) fn new(
        runtime: Arc<R>,
        worker: WorkerHandle,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self { runtime, worker, tracker, stop, permits: Arc::new(Semaphore::new(COMMANDS)) }
    }

    /// Answers to the master at this address.
    pub(crate) fn start(&self, address: &str, start: v1::StartExec) {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        let (runtime, worker) = (Arc::clone(&self.runtime), self.worker.clone());
        let (address, stop) = (address.to_owned(), self.stop.clone());
        self.tracker.spawn(async move {
            // The permit is held to the end.
            let refusal = permit.as_ref().err().map(|_| "the node runs too many commands already");
            let served = serve(&*runtime, &worker, &address, start, refusal);
            tokio::select! {
                () = stop.cancelled() => {}
                () = Box::pin(served) => {}
            }
        });
    }
}

async fn serve<R: ContainerRuntime>(
    runtime: &R,
    worker: &WorkerHandle,
    address: &str,
    start: v1::StartExec,
    refusal: Option<&str>,
) {
    // A master that cannot be reached gives up the caller by itself.
    let Ok(channel) = connect(address).await else { return };
    let (messages, outgoing) = mpsc::channel(QUEUE);
    let first = v1::ServeExecRequest { stream_id: start.stream_id, ..Default::default() };
    if messages.send(first).await.is_err() {
        return;
    }
    let answer = AgentServiceClient::new(channel).serve_exec(ReceiverStream::new(outgoing)).await;
    let Ok(mut orders) = answer.map(tonic::Response::into_inner) else { return };
    let served = match refusal {
        Some(refusal) => Ok(Err(refusal.to_owned())),
        None => run(runtime, worker, &start.instance_id, &messages, &mut orders).await,
    };
    let last = match served {
        Ok(Ok(code)) => said(Said::Exit(v1::ExecExit { code })),
        Ok(Err(error)) => v1::ServeExecRequest { error, ..Default::default() },
        Err(GivenUp) => return,
    };
    if messages.send(last).await.is_ok() {
        // It is out when the master has ended the stream.
        drop(messages);
        while let Ok(Some(_)) = orders.message().await {}
    }
}

const fn said(message: Said) -> v1::ServeExecRequest {
    v1::ServeExecRequest {
        stream_id: String::new(),
        response: Some(v1::ExecResponse { message: Some(message) }),
        error: String::new(),
    }
}

/// Its exit code, or why there is none.
async fn run<R: ContainerRuntime>(
    runtime: &R,
    worker: &WorkerHandle,
    instance: &str,
    messages: &Messages,
    orders: &mut Orders,
) -> Result<Result<i32, String>, GivenUp> {
    let first = timeout(SAID_WITHIN, orders.message()).await;
    let first = first.ok().and_then(Result::ok).flatten().and_then(|order| order.request);
    let Some(Wish::Start(start)) = first.and_then(|request| request.message) else { return Err(GivenUp) };
    let Ok(instance) = instance.parse() else { return Ok(Err("no instance id".to_owned())) };
    let Some(container) = worker.containers(instance).await.into_iter().next() else {
        return Ok(Err("the instance has no container on this node".to_owned()));
    };
    let size = start.size.filter(|_| start.tty).map(size);
    let command = command(start);
    let exec = match runtime.exec(&container, &command).await {
        Ok(exec) => exec,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let Exec { id, output, input } = exec;
    let input = if command.stdin { Some(input) } else { None };
    let started = said(Said::Started(v1::ExecStarted::default()));
    let talk = async {
        messages.send(started).await.map_err(|_| GivenUp)?;
        if let Some(size) = size {
            resize(runtime, &id, size).await;
        }
        tokio::select! {
            end = write(output, messages) => end,
            GivenUp = read(runtime, &id, (input, command.tty), orders, messages) => Err(GivenUp),
            () = messages.closed() => Err(GivenUp),
        }
    };
    match talk.await {
        Ok(Ok(())) => Ok(runtime.exec_exit(&id).await.map_err(|error| error.to_string())),
        Ok(Err(error)) => Ok(Err(error.to_string())),
        Err(GivenUp) => {
            if let Err(error) = runtime.end_exec(&id).await {
                tracing::info!(%instance, %error, "a command was given up and may run on");
            }
            Err(GivenUp)
        }
    }
}

fn command(start: v1::ExecStart) -> ExecCommand {
    let environment = start.environment.into_iter();
    ExecCommand {
        command: start.command,
        tty: start.tty,
        stdin: start.stdin,
        user: start.user,
        working_dir: start.working_dir,
        environment: environment.map(|(name, value)| format!("{name}={value}")).collect(),
    }
}

fn size(wire: v1::TerminalSize) -> TerminalSize {
    let bounded = |cells| u16::try_from(cells).unwrap_or(u16::MAX);
    TerminalSize { columns: bounded(wire.columns), rows: bounded(wire.rows) }
}

/// A terminal of another size is no reason to end.
async fn resize<R: ContainerRuntime>(runtime: &R, exec: &str, size: TerminalSize) {
    if let Err(error) = runtime.resize_exec(exec, size).await {
        tracing::debug!(exec, %error, "not resized");
    }
}

/// What the command writes, to its end.
async fn write(
    mut output: BoxStream<'static, Result<ExecOutput, RuntimeError>>,
    messages: &Messages,
) -> Result<Result<(), RuntimeError>, GivenUp> {
    while let Some(piece) = output.next().await {
        let message = match piece {
            Ok(ExecOutput { stderr: false, bytes }) => said(Said::Stdout(bytes)),
            Ok(ExecOutput { stderr: true, bytes }) => said(Said::Stderr(bytes)),
            Err(error) => return Ok(Err(error)),
        };
        messages.send(message).await.map_err(|_| GivenUp)?;
    }
    Ok(Ok(()))
}

/// What the caller sends, until it is gone.
async fn read<R: ContainerRuntime>(
    runtime: &R,
    exec: &str,
    (mut input, tty): (Option<Box<dyn AsyncWrite + Send + Unpin>>, bool),
    orders: &mut Orders,
    messages: &Messages,
) -> GivenUp {
    while let Ok(Some(order)) = orders.message().await {
        match order.request.and_then(|request| request.message) {
            Some(Wish::Stdin(bytes)) => {
                // A command that reads no more: what it writes and its end still count.
                if let Some(open) = &mut input
                    && open.write_all(&bytes).await.is_err()
                {
                    input = None;
                }
                if messages.send(said(Said::StdinTaken(bytes.len() as u64))).await.is_err() {
                    return GivenUp;
                }
            }
            Some(Wish::StdinEnd(_)) => {
                if let Some(mut open) = input.take() {
                    if tty {
                        let _ = open.write_all(END_OF_TEXT).await;
                    } else {
                        let _ = open.shutdown().await;
                    }
                    // Kept by its other half.
                    drop(open);
                }
            }
            Some(Wish::Resize(wire)) => resize(runtime, exec, size(wire)).await,
            Some(Wish::Start(_)) | None => {}
        }
    }
    GivenUp
}
