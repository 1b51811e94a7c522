//! Makes the tests the core asks for.
//!
//! Invariant: every test ends, with an answer or with its time limit, and says so; waiting for a turn
//! is not counted against the container, and neither is an engine that does not answer. What it
//! says is short.
//! Deliberately not here: when to test, and what follows (`agent/core/probe`).

mod grpc;
mod http;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use skein_agent_core::{ProbeOutcome, ProbeResult, ProbeRun, RuntimeError};
use skein_common::{
    InstanceId,
    service::{Probe, ProbeKind, ProbeTest},
};
use tokio::{net::TcpStream, sync::Semaphore, time};

use crate::runtime::ContainerRuntime;

/// Connections at the same time, each a file descriptor for a moment.
const CONNECTIONS_AT_ONCE: usize = 256;
/// Programs at the same time: each makes the engine start a process.
const PROGRAMS_AT_ONCE: usize = 32;
/// To end a program that takes too long.
const END_LIMIT: Duration = Duration::from_secs(3);
/// A cause is read by people, stored by masters and told with every report.
const LONGEST_CAUSE: usize = 256;

/// The engine's ids of a container and of a program in it.
type Hanging = BTreeMap<(InstanceId, ProbeKind), (String, String)>;

/// Cheap to clone.
pub(crate) struct Prober<R> {
    runtime: Arc<R>,
    shared: Arc<Shared>,
}

struct Shared {
    connections: Semaphore,
    programs: Semaphore,
    /// Programs that did not end in time: no second one is started beside them.
    hanging: Mutex<Hanging>,
}

impl<R> Clone for Prober<R> {
    fn clone(&self) -> Self {
        Self { runtime: Arc::clone(&self.runtime), shared: Arc::clone(&self.shared) }
    }
}

impl<R: ContainerRuntime> Prober<R> {
    pub(crate) fn new(runtime: Arc<R>) -> Self {
        let shared = Shared {
            connections: Semaphore::new(CONNECTIONS_AT_ONCE),
            programs: Semaphore::new(PROGRAMS_AT_ONCE),
            hanging: Mutex::default(),
        };
        Self { runtime, shared: Arc::new(shared) }
    }

    pub(crate) async fn run(self, run: ProbeRun) -> ProbeResult {
        let outcome = match run.probe() {
            Some(probe) => self.test(probe, &run).await,
            None => ProbeOutcome::Unknown,
        };
        let outcome = match outcome {
            ProbeOutcome::Failed(cause) => ProbeOutcome::Failed(short(&cause)),
            outcome => outcome,
        };
        let ProbeRun { instance, container, kind, .. } = run;
        ProbeResult { instance, container, kind, outcome }
    }

    async fn test(&self, probe: &Probe, run: &ProbeRun) -> ProbeOutcome {
        if let ProbeTest::Exec(words) = &probe.test {
            let _turn = self.shared.programs.acquire().await;
            return self.program(probe, run, words).await;
        }
        let Some(target) = run.target else {
            let port = probe.test.port().unwrap_or_default();
            return ProbeOutcome::Failed(format!("no way leads to port {port} of the container"));
        };
        let _turn = self.shared.connections.acquire().await;
        match time::timeout(probe.timeout, ask(&probe.test, target)).await {
            Ok(Ok(())) => ProbeOutcome::Passed,
            Ok(Err(cause)) => ProbeOutcome::Failed(cause),
            Err(_) => ProbeOutcome::Failed(format!("no answer within {:?}", probe.timeout)),
        }
    }

    async fn program(&self, probe: &Probe, run: &ProbeRun, words: &[String]) -> ProbeOutcome {
        let key = (run.instance, run.kind);
        let known = self.hanging().get(&key).cloned();
        if let Some((_, exec)) = known.filter(|(container, _)| *container == run.container) {
            match self.runtime.exec_runs(&exec).await {
                Ok(true) => return ProbeOutcome::Failed("the program before has not ended yet".to_owned()),
                Ok(false) => drop(self.hanging().remove(&key)),
                Err(_) => return ProbeOutcome::Unknown,
            }
        }
        let exec = match self.runtime.prepare_exec(&run.container, words).await {
            Ok(exec) => exec,
            Err(error) => return of_engine(&error),
        };
        match time::timeout(probe.timeout, self.runtime.run_exec(&exec)).await {
            Ok(Ok(end)) if end.exit_code == 0 => ProbeOutcome::Passed,
            Ok(Ok(end)) => {
                let said = end.output.trim();
                let separator = if said.is_empty() { "" } else { ": " };
                ProbeOutcome::Failed(format!("exit code {}{separator}{said}", end.exit_code))
            }
            Ok(Err(error)) => of_engine(&error),
            Err(_) => {
                // Where the agent may; else the next test finds it running.
                let _ended = time::timeout(END_LIMIT, self.runtime.end_exec(&exec)).await;
                self.hanging().insert(key, (run.container.clone(), exec));
                ProbeOutcome::Failed(format!("no end within {:?}", probe.timeout))
            }
        }
    }

    /// Nothing is left of the instance.
    pub(crate) fn forget(&self, instance: InstanceId) {
        self.hanging().retain(|(hanging, _), _| *hanging != instance);
    }

    fn hanging(&self) -> MutexGuard<'_, Hanging> {
        self.shared.hanging.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A program that cannot be found is the container's fault; an engine that is away is not, and a
/// container that is gone is noticed by others.
fn of_engine(error: &RuntimeError) -> ProbeOutcome {
    match error {
        RuntimeError::Rejected(reason) | RuntimeError::Failed(reason) => ProbeOutcome::Failed(reason.clone()),
        RuntimeError::Unavailable(_) | RuntimeError::NotFound(_) | RuntimeError::Image { .. } => {
            ProbeOutcome::Unknown
        }
    }
}

async fn ask(test: &ProbeTest, target: SocketAddr) -> Result<(), String> {
    match test {
        ProbeTest::Http { path, headers, .. } => http::get(target, path, headers).await,
        ProbeTest::Tcp { .. } => connect(target).await.map(drop),
        ProbeTest::Grpc { service, .. } => grpc::check(target, service).await,
        ProbeTest::Exec(_) => Err("is no connection".to_owned()),
    }
}

async fn connect(target: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(target).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("{target} refused the connection"),
        _ => format!("{target}: {error}"),
    })
}

/// On one line.
fn short(cause: &str) -> String {
    let mut line: String =
        cause.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_CAUSE).collect();
    line.truncate(line.floor_char_boundary(LONGEST_CAUSE));
    line.trim().to_owned()
}

#[cfg(test)]
mod tests;
