//! The only place where an agent is wired together: identity, worker, session, sampler, logs.
//!
//! Invariant: every task is in one tracker and ends on one token; when [`AgentHandle::stop`]
//! returns none is left, and every container goes on. An agent is a value: thousands live in
//! one process, with the engine in memory and nothing on disk.
//! Deliberately not here: flags (`config`), signals (`main`).

use std::{collections::BTreeMap, error::Error, io, net::SocketAddr, path::PathBuf, sync::Arc};

use futures_util::FutureExt;
use rand::RngExt;
use skein_agent_core::Checkpoint;
use skein_common::{
    NodeId, Resources,
    node::{NodeDescription, Platform},
    placement::GenericResource,
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

pub use crate::session::Connection;
use crate::{
    checkpoint::{self, Loaded},
    exec::ExecServer,
    files::Files,
    identity::{Identity, OpenIdentityError},
    logs::LogPusher,
    metrics,
    names::{Askers, NameServer, Names, NamesConfig},
    proxy::{Balancer, FetchCertificate, ProxyConfig},
    runtime::ContainerRuntime,
    session::{Parts, Session, SessionConfig},
    usage::{DEFAULT_INTERVAL, HostSampler, UsageReport, UsageSampler},
    worker::{Holdings, Worker, WorkerHandle},
};

/// `EX_IOERR`: the data cannot be used.
const EXIT_DATA: u8 = 74;
const EXIT_USAGE: u8 = 64;
/// `EX_SOFTWARE`: an invariant of the agent does not hold.
const EXIT_INTERNAL: u8 = 70;

/// Checked by whoever makes it (`config`).
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Unique in the cluster.
    pub name: String,
    /// `host:port` of the API of at least one master.
    pub masters: Vec<String>,
    /// `None` = nothing is kept, and the machine is not measured: an agent among thousands.
    pub data_dir: Option<PathBuf>,
    /// Where the node's ports are reached, without port.
    pub address: String,
    pub labels: BTreeMap<String, String>,
    pub capacity: Resources,
    pub reserved: Resources,
    pub platform: Platform,
    /// GPUs, licences, …
    pub generic: Vec<GenericResource>,
    /// `None` = this node listens on no published port.
    pub proxy: Option<ProxyConfig>,
    /// `None` = containers reach services by their published ports only.
    pub names: Option<NamesConfig>,
    /// Where `/metrics` is served.
    pub metrics: Option<SocketAddr>,
}

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartAgentError {
    #[error(transparent)]
    Identity(#[from] OpenIdentityError),
    #[error("the checkpoint cannot be read")]
    Checkpoint(#[source] io::Error),
}

impl StartAgentError {
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            // Another --data-dir is what helps.
            Self::Identity(OpenIdentityError::InUse(_)) => EXIT_USAGE,
            Self::Identity(_) | Self::Checkpoint(_) => EXIT_DATA,
        }
    }
}

/// A task of the agent ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("a task of the agent ended by itself; its panic is in the log")]
pub struct TaskDied;

impl TaskDied {
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        EXIT_INTERNAL
    }
}

/// A running agent. Dropping it leaves the tasks running; call [`AgentHandle::stop`].
#[derive(Debug)]
pub struct AgentHandle {
    node: NodeId,
    stop: CancellationToken,
    tracker: TaskTracker,
    worker: WorkerHandle,
    connection: watch::Receiver<Connection>,
}

/// Starts agents.
#[derive(Debug)]
pub struct Agent;

impl Agent {
    /// Starts one; returns when its folder is locked and its tasks run.
    ///
    /// # Errors
    /// [`StartAgentError`] when the folder cannot be used.
    pub async fn start<R: ContainerRuntime>(
        config: AgentConfig,
        runtime: R,
    ) -> Result<AgentHandle, StartAgentError> {
        let bits = rand::rng().random();
        let (identity, checkpoint) = match config.data_dir.clone() {
            Some(folder) => tokio::task::spawn_blocking(move || open(&folder, bits))
                .await
                .map_err(|panicked| StartAgentError::Checkpoint(io::Error::other(panicked)))??,
            None => (Identity::in_memory(NodeId::from_random(bits)), None),
        };
        Ok(wire(config, Arc::new(runtime), identity, checkpoint))
    }
}

fn open(folder: &std::path::Path, bits: u64) -> Result<(Identity, Option<Checkpoint>), StartAgentError> {
    let identity = Identity::open(folder, bits)?;
    let checkpoint = match checkpoint::load(folder).map_err(StartAgentError::Checkpoint)? {
        Loaded::Absent => None,
        Loaded::Found(checkpoint) => Some(*checkpoint),
        Loaded::SetAside { to, reason } => {
            let error = &reason as &dyn Error;
            let to = to.display();
            tracing::warn!(error, %to, "the checkpoint is set aside; going on from what the engine shows");
            None
        }
    };
    Ok((identity, checkpoint))
}

fn wire<R: ContainerRuntime>(
    config: AgentConfig,
    runtime: Arc<R>,
    identity: Identity,
    checkpoint: Option<Checkpoint>,
) -> AgentHandle {
    let (node, incarnation) = (identity.node, identity.incarnation);
    let span = tracing::info_span!("agent", node = config.name);
    span.in_scope(|| tracing::info!(%node, incarnation, cluster = ?identity.cluster, "started"));
    let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
    let (connection, connected) = watch::channel(Connection::default());
    let files = Files::new(config.data_dir.as_deref(), node, connected);
    let certificates = files.clone();
    let (worker, handle) = span.in_scope(|| Worker::new(Arc::clone(&runtime), identity, checkpoint, files));
    let usage = match &config.data_dir {
        Some(data_dir) => {
            let host = HostSampler::new(data_dir.clone());
            let (sampler, usage) =
                UsageSampler::new(Arc::clone(&runtime), handle.running(), host, DEFAULT_INTERVAL);
            tracker.spawn(sampler.run(stop.clone()).instrument(span.clone()));
            usage
        }
        None => watch::channel(UsageReport::default()).1,
    };
    let logs = LogPusher::new(Arc::clone(&runtime), handle.clone(), tracker.clone(), stop.clone());
    let exec = ExecServer::new(Arc::clone(&runtime), handle.clone(), tracker.clone(), stop.clone());
    let names = config.names.filter(|_| config.proxy.is_some());
    let names = names.and_then(|names| Some((names, Names::open(node)?)));
    if let Some((config, names)) = &names {
        let askers = Askers::new(handle.addresses());
        let server = NameServer::new(*config, names.clone(), askers, Arc::clone(&runtime));
        tracker.spawn(server.run(stop.clone()).instrument(span.clone()));
    }
    let balancer = config.proxy.map(|proxy| {
        let (mut balancer, handle) = Balancer::new(proxy, stop.clone());
        if let Some((config, names)) = names {
            balancer = balancer.with_names(names, config);
        }
        let fetch = FetchCertificate::new(move |id| {
            let files = certificates.clone();
            async move { files.certificate(id).await }.boxed()
        });
        tracker.spawn(balancer.with_certificates(fetch).run().instrument(span.clone()));
        handle
    });
    if let Some(address) = config.metrics {
        let meter = balancer.as_ref().map(|balancer| Arc::clone(balancer.meter()));
        tracker.spawn(metrics::serve(address, meter, stop.clone()).instrument(span.clone()));
    }
    let session = SessionConfig {
        masters: config.masters.clone(),
        node,
        incarnation,
        description: description(config),
    };
    let parts = Parts { worker: handle.clone(), usage, logs, exec, balancer };
    let (session, connection) = Session::new(session, runtime, parts, connection);
    // Should one of these end by itself, a panic, then the agent ends and is started anew: half an
    // agent would look alive.
    for task in [worker.run(stop.clone()).boxed(), session.run(stop.clone()).boxed()] {
        let ends_all = stop.clone().drop_guard();
        let task = async move {
            task.await;
            drop(ends_all);
        };
        tracker.spawn(task.instrument(span.clone()));
    }
    tracker.close();
    AgentHandle { node, stop, tracker, worker: handle, connection }
}

fn description(config: AgentConfig) -> NodeDescription {
    NodeDescription {
        name: config.name,
        address: config.address,
        labels: config.labels,
        capacity: config.capacity,
        reserved: config.reserved,
        platform: config.platform,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_version: String::new(),
        generic: config.generic,
        balances: config.proxy.is_some(),
        pids: crate::usage::capacity::pids(),
    }
}

impl AgentHandle {
    /// Ends all tasks; containers go on.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tracker.wait().await;
    }

    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// What the node holds, live.
    #[must_use]
    pub fn holdings(&self) -> watch::Receiver<Holdings> {
        self.worker.holdings()
    }

    /// To which leader it is connected, live.
    #[must_use]
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }

    /// Highest term obeyed.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.worker.term()
    }

    /// Ends when a task of the agent ended by itself, which none should.
    pub async fn failed(&self) -> TaskDied {
        self.stop.cancelled().await;
        TaskDied
    }
}
