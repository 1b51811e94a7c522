//! The one owner of what the agent decides from: takes in what happens, lets the core decide,
//! has it carried out, and publishes what became of it.
//!
//! Invariant: nothing else touches the state; every input is followed by one `reconcile` over
//! everything that is ready; nothing is polled, and nobody is waited for: steps, looks and writes
//! run beside it. Ending the worker leaves every container as it is.
//! Deliberately not here: decisions (`agent/core`), streams to masters (`session`).

mod engine_watch;
mod holdings;
mod journal;
mod news_log;

use std::{collections::BTreeSet, io, sync::Arc};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use skein_agent_core::{Checkpoint, NodeState, ProbeResult, Verdict};
use skein_common::{ClusterId, ConfigId, InstanceId, assignment::AssignmentUpdate};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

pub use self::holdings::Holdings;
use self::{
    engine_watch::{EngineWatch, Sight},
    holdings::Publisher,
    journal::Journal,
    news_log::NewsLog,
};
use crate::{
    clock::Clock,
    executor::{Done, Executor},
    files::Files,
    identity::Identity,
    names::Addresses,
    prober::Prober,
    runtime::{ContainerRuntime, Owner},
    usage::RunningContainer,
};

/// One session asks one thing at a time, and a few readers of logs.
const REQUESTS: usize = 16;
/// Inputs taken together before the core decides, so that a flood cannot postpone it.
const INPUTS_AT_ONCE: usize = 256;

/// Why a leader is not obeyed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("the leader's term is {offered}, and one of term {obeyed} has been obeyed")]
    LowerTerm { obeyed: u64, offered: u64 },
    #[error("it is a master of cluster {offered}, and this node belongs to {own}")]
    OtherCluster { own: ClusterId, offered: ClusterId },
    #[error("the cluster's id cannot be kept")]
    Identity(#[source] io::Error),
    #[error("the agent is ending")]
    Ending,
}

#[derive(Debug)]
enum WorkerRequest {
    Join { cluster: ClusterId, term: u64, reply: oneshot::Sender<Result<(), JoinError>> },
    Assign { update: AssignmentUpdate, reply: oneshot::Sender<Verdict> },
    Containers { instance: InstanceId, reply: oneshot::Sender<Vec<String>> },
}

/// The way to the worker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    requests: mpsc::Sender<WorkerRequest>,
    holdings: watch::Receiver<Holdings>,
    running: watch::Receiver<Arc<[RunningContainer]>>,
    addresses: watch::Receiver<Addresses>,
    term: watch::Receiver<u64>,
    cluster: watch::Receiver<Option<ClusterId>>,
}

impl WorkerHandle {
    /// A leader welcomed this node. Answers when its term and cluster are on disk.
    ///
    /// # Errors
    /// [`JoinError`]: this leader is not to be obeyed.
    pub async fn join(&self, cluster: ClusterId, term: u64) -> Result<(), JoinError> {
        self.ask(|reply| WorkerRequest::Join { cluster, term, reply }).await.unwrap_or(Err(JoinError::Ending))
    }

    /// What the leader of this session tells; `None` when the agent ends.
    pub async fn assign(&self, update: AssignmentUpdate) -> Option<Verdict> {
        self.ask(|reply| WorkerRequest::Assign { update, reply }).await
    }

    /// The engine's ids of an instance's containers, latest attempt first.
    pub async fn containers(&self, instance: InstanceId) -> Vec<String> {
        self.ask(|reply| WorkerRequest::Containers { instance, reply }).await.unwrap_or_default()
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> WorkerRequest) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.ok()?;
        answer.await.ok()
    }

    #[must_use]
    pub fn holdings(&self) -> watch::Receiver<Holdings> {
        self.holdings.clone()
    }

    /// For the sampler.
    #[must_use]
    pub fn running(&self) -> watch::Receiver<Arc<[RunningContainer]>> {
        self.running.clone()
    }

    /// Whose container has which address.
    pub(crate) fn addresses(&self) -> watch::Receiver<Addresses> {
        self.addresses.clone()
    }

    /// Highest term obeyed.
    #[must_use]
    pub fn term(&self) -> u64 {
        *self.term.borrow()
    }

    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        *self.cluster.borrow()
    }
}

pub(crate) struct Worker<R> {
    runtime: Arc<R>,
    identity: Identity,
    clock: Clock,
    state: NodeState,
    requests: mpsc::Receiver<WorkerRequest>,
    /// `None` until the cluster is known: whose containers to look for is not known before.
    engine: Option<Engine<R>>,
    wake_at: Option<Instant>,
    journal: Journal,
    /// Answers that wait for a version of the checkpoint.
    unanswered: Vec<(u64, oneshot::Sender<Result<(), JoinError>>)>,
    publisher: Publisher,
    news_log: NewsLog,
    files: Files,
    /// Configs that assignments name; `None` before anything is known.
    kept: Option<BTreeSet<ConfigId>>,
    term: watch::Sender<u64>,
    cluster: watch::Sender<Option<ClusterId>>,
}

struct Engine<R> {
    executor: Executor<R>,
    watch: EngineWatch<R>,
    steps: FuturesUnordered<BoxFuture<'static, Done>>,
    prober: Prober<R>,
    tests: FuturesUnordered<BoxFuture<'static, ProbeResult>>,
}

enum Input {
    Step(Done),
    Probed(ProbeResult),
    Sight(Sight),
    /// `None`: nobody is left who could ask.
    Request(Option<WorkerRequest>),
    Written,
    Timer,
}

impl<R: ContainerRuntime> Engine<R> {
    fn new(runtime: &Arc<R>, owner: Owner, files: Files) -> Self {
        let executor = Executor::new(Arc::clone(runtime), owner, files);
        let watch = EngineWatch::new(executor.clone(), runtime.events(owner));
        let prober = Prober::new(Arc::clone(runtime));
        Self { executor, watch, steps: FuturesUnordered::new(), prober, tests: FuturesUnordered::new() }
    }

    async fn next(engine: Option<&mut Self>) -> Input {
        match engine {
            Some(engine) => tokio::select! {
                biased;
                Some(done) = engine.steps.next() => Input::Step(done),
                sight = engine.watch.next() => Input::Sight(sight),
                Some(result) = engine.tests.next() => Input::Probed(result),
            },
            None => std::future::pending().await,
        }
    }
}

impl<R: ContainerRuntime> Worker<R> {
    /// Goes on from a checkpoint, when there is one.
    pub(crate) fn new(
        runtime: Arc<R>,
        identity: Identity,
        checkpoint: Option<Checkpoint>,
        files: Files,
    ) -> (Self, WorkerHandle) {
        let clock = Clock::start();
        let knows = checkpoint.is_some() || identity.cluster.is_none();
        let state = NodeState::restore(checkpoint.unwrap_or_default(), clock.now());
        let (requests, received) = mpsc::channel(REQUESTS);
        let mut worker = Self {
            engine: None,
            clock,
            requests: received,
            wake_at: None,
            journal: Journal::new(identity.folder()),
            unanswered: Vec::new(),
            publisher: Publisher::new(),
            news_log: NewsLog::default(),
            files,
            kept: None,
            term: watch::Sender::new(state.assignments().term()),
            cluster: watch::Sender::new(identity.cluster),
            runtime,
            identity,
            state,
        };
        worker.news_log.remember(&worker.state);
        worker.watch_engine();
        worker.turn();
        if knows {
            worker.publisher.complete();
        }
        let handle = WorkerHandle {
            requests,
            holdings: worker.publisher.holdings(),
            running: worker.publisher.running(),
            addresses: worker.publisher.addresses(),
            term: worker.term.subscribe(),
            cluster: worker.cluster.subscribe(),
        };
        (worker, handle)
    }

    /// Until `stop`; the checkpoint is then up to date.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                input = self.next() => self.take(input),
            }
            for _ in 1..INPUTS_AT_ONCE {
                let Some(input) = self.next().now_or_never() else { break };
                self.take(input);
            }
            self.turn();
        }
        let Self { journal, state, .. } = self;
        journal.close(|| state.checkpoint()).await;
    }

    /// Dropping the future loses nothing.
    async fn next(&mut self) -> Input {
        let journal_at = self.journal.wake_at();
        let wake_at =
            self.wake_at.map_or(journal_at, |at| Some(journal_at.map_or(at, |other| at.min(other))));
        let timer = async {
            match wake_at {
                Some(at) => time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            request = self.requests.recv(), if !self.requests.is_closed() => Input::Request(request),
            input = Engine::next(self.engine.as_mut()) => input,
            () = self.journal.written() => Input::Written,
            () = timer => Input::Timer,
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Step(done) => self.finish(done),
            Input::Sight(sight) => self.see(sight),
            Input::Probed(result) => self.state.probed(result, self.clock.now()),
            Input::Request(Some(request)) => self.answer(request),
            // `turn` does what these are about.
            Input::Request(None) | Input::Written => {}
            Input::Timer => self.wake_at = None,
        }
    }

    fn finish(&mut self, done: Done) {
        if let Some(glance) = done.glance {
            self.state.glance(glance);
        }
        let now = self.clock.now();
        self.state.finish(done.finished, now);
    }

    fn see(&mut self, sight: Sight) {
        match sight {
            Sight::Listed(look) => self.listed(look),
            Sight::Back(look) => {
                self.state.engine_is_back();
                self.listed(look);
            }
            Sight::Glanced(glance) => self.state.glance(glance),
            Sight::Nothing => {}
        }
    }

    fn listed(&mut self, look: skein_agent_core::Look) {
        self.state.look(look);
        if !self.publisher.is_complete() {
            self.turn();
            self.publisher.complete();
        }
    }

    fn answer(&mut self, request: WorkerRequest) {
        match request {
            WorkerRequest::Join { cluster, term, reply } => match self.join(cluster, term) {
                Ok(version) => self.unanswered.push((version, reply)),
                Err(error) => drop(reply.send(Err(error))),
            },
            WorkerRequest::Assign { update, reply } => {
                let verdict = self.state.assign(update);
                if verdict == Verdict::Accepted {
                    self.journal.note();
                    self.keep_files();
                }
                let _gone = reply.send(verdict);
            }
            WorkerRequest::Containers { instance, reply } => {
                let containers = self.state.containers(instance).iter().rev();
                let _gone = reply.send(containers.map(|container| container.id.clone()).collect());
            }
        }
    }

    /// What no assignment names goes from the disk.
    fn keep_files(&mut self) {
        let assigned = self.state.assignments().iter();
        let ids: BTreeSet<_> =
            assigned.flat_map(|each| each.container.configs.iter().filter_map(|mount| mount.id)).collect();
        if self.kept.as_ref() != Some(&ids) {
            self.files.keep_only(ids.clone());
            self.kept = Some(ids);
        }
    }

    /// The version of the checkpoint that has to be on disk before this leader is obeyed.
    fn join(&mut self, cluster: ClusterId, term: u64) -> Result<u64, JoinError> {
        match self.identity.cluster {
            Some(own) if own != cluster => return Err(JoinError::OtherCluster { own, offered: cluster }),
            Some(_) => {}
            None => {
                // Once in the life of a node: worth waiting for.
                self.identity.join(cluster).map_err(JoinError::Identity)?;
                tracing::info!(%cluster, node = %self.identity.node, "joined the cluster");
                self.cluster.send_replace(Some(cluster));
                self.watch_engine();
            }
        }
        let known = self.state.assignments().term();
        if self.state.begin_session(term).is_err() {
            return Err(JoinError::LowerTerm { obeyed: known, offered: term });
        }
        self.term.send_replace(term);
        if term > known {
            self.journal.note();
            return Ok(self.journal.insist());
        }
        Ok(0)
    }

    fn watch_engine(&mut self) {
        if let (None, Some(cluster)) = (&self.engine, self.identity.cluster) {
            let owner = Owner { cluster, node: self.identity.node };
            self.engine = Some(Engine::new(&self.runtime, owner, self.files.clone()));
        }
    }

    /// Decides, and sets going what follows.
    fn turn(&mut self) {
        let plan = self.state.reconcile(self.clock.now());
        if let Some(Engine { executor, steps, prober, tests, .. }) = &self.engine {
            for action in plan.actions {
                steps.push(executor.clone().carry_out(action).boxed());
            }
            for gone in plan.changed.iter().filter(|instance| self.state.news(**instance).is_none()) {
                prober.forget(*gone);
            }
            for run in plan.probes {
                tests.push(prober.clone().run(run).boxed());
            }
        }
        self.wake_at = plan.wake_at.map(|at| self.clock.instant(at));
        if !plan.changed.is_empty() {
            self.journal.note();
            if self.publisher.hold_back(&self.state, &plan.changed, self.journal.version()) {
                self.journal.insist();
            }
            self.news_log.note(&self.state, &plan.changed);
            self.publisher.publish_addresses(&self.state);
        }
        self.publisher.publish(&self.state, &plan.changed, self.journal.settled());
        self.journal.write(|| self.state.checkpoint());
        let settled = self.journal.settled();
        for (_, reply) in self.unanswered.extract_if(.., |(version, _)| *version <= settled) {
            let _gone = reply.send(Ok(()));
        }
    }
}

#[cfg(test)]
mod tests;
