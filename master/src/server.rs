//! The only wiring place: a configuration becomes a running master.
//!
//! Invariant: nothing is served before the store is open; when [`MasterHandle::stop`] returns, every
//! task has ended and the data folder can be opened again. Limits of both ports are set here.
//! Deliberately not here: flags and files (`config.rs`), signals (`main.rs`).

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use futures_util::TryStreamExt as _;
use skein_master_core::liveness::LivenessConfig;
use skein_proto::v1::{
    agent_service_server::AgentServiceServer, autoscale_service_server::AutoscaleServiceServer,
    balance_service_server::BalanceServiceServer, cluster_service_server::ClusterServiceServer,
    config_service_server::ConfigServiceServer, event_service_server::EventServiceServer,
    instance_service_server::InstanceServiceServer, node_service_server::NodeServiceServer,
    service_service_server::ServiceServiceServer, usage_service_server::UsageServiceServer,
};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    server::NamedService,
    service::Routes,
    transport::{Server, server::TcpIncoming},
};

use crate::{
    config::EXIT_USAGE,
    gather::Gathered,
    grpc::{Api, watch::Watches},
    leadership::{self, RoleKeeper},
    raft::{identity::IdentityError, server::RaftServer},
    store::{FatalHandler, MemberNode, OpenError, Store, StoreOptions, Timing},
};

/// Handing leadership on when stopping.
const TRANSFER_WITHIN: Duration = Duration::from_secs(2);
/// Open calls may finish for this long when stopping.
const DRAIN_WITHIN: Duration = Duration::from_secs(3);
/// A peer that does not answer pings for the sum of these is cut.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls and streams of one connection.
const STREAMS_PER_CONNECTION: u32 = 1024;
/// Calls given up by their callers before a busy master has looked at them; the default of 20 cut
/// the connection, and with it every other call on it, whenever the machine was starved.
const PENDING_RESETS: usize = 256;
/// What a peer may send ahead of our reading, on one stream and on one connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const HEADER_BYTES: u32 = 16 * 1024;
/// A batch of entries is a few frames, each a system call or two, instead of dozens.
const FRAME_BYTES: u32 = 64 * 1024;

/// What one caller may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest request of a user.
    pub request_bytes: usize,
    /// Watches at once.
    pub watches: usize,
    /// How long a watch's reader may leave its queue full.
    pub watch_patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { request_bytes: 2 * 1024 * 1024, watches: 4096, watch_patience: Duration::from_secs(10) }
    }
}

/// How to run one master.
#[derive(Debug, Clone)]
pub struct MasterConfig {
    pub name: String,
    pub data_dir: PathBuf,
    /// Where to listen; port 0 takes a free one.
    pub api_address: SocketAddr,
    pub cluster_address: SocketAddr,
    /// `host:port` under which others reach the API; `None` = where it listens.
    pub advertise_api_address: Option<String>,
    /// Names and cluster addresses of all masters of a new cluster, this one included; empty =
    /// waits to be added.
    pub initial_masters: Vec<(String, String)>,
    pub timing: Timing,
    pub liveness: LivenessConfig,
    pub limits: Limits,
    pub fatal: FatalHandler,
}

impl MasterConfig {
    /// On free ports of the loopback, with defaults for everything else.
    #[must_use]
    pub fn new(name: impl Into<String>, data_dir: impl Into<PathBuf>) -> Self {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            name: name.into(),
            data_dir: data_dir.into(),
            api_address: anywhere,
            cluster_address: anywhere,
            advertise_api_address: None,
            initial_masters: Vec::new(),
            timing: Timing::default(),
            liveness: LivenessConfig::default(),
            limits: Limits::default(),
            fatal: FatalHandler::exit_process(),
        }
    }
}

/// Why a master does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the API's descriptors cannot be served")]
    Reflection(#[from] tonic_reflection::server::Error),
}

impl StartError {
    /// What the process ends with: 64 wrong configuration, 74 unusable data, 70 our own fault, else 1.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Listen { .. } => 1,
            Self::Reflection(_) | Self::Open(OpenError::Raft(_)) => 70,
            Self::Open(OpenError::Timing(_)) => EXIT_USAGE,
            Self::Open(OpenError::Identity(error)) => match error {
                IdentityError::Io { .. } | IdentityError::Corrupt { .. } => 74,
                IdentityError::OtherName { .. }
                | IdentityError::NotInitial { .. }
                | IdentityError::SameId { .. } => EXIT_USAGE,
            },
            Self::Open(OpenError::Folder { .. } | OpenError::Log(_) | OpenError::Snapshot(_)) => 74,
        }
    }
}

/// A master that has its ports, and does nothing yet.
#[derive(Debug)]
pub struct BoundMaster {
    config: MasterConfig,
    api: TcpListener,
    api_address: SocketAddr,
    cluster: TcpListener,
    cluster_address: SocketAddr,
}

/// The way in.
#[derive(Debug)]
pub struct Master;

impl Master {
    /// Listens and runs.
    ///
    /// # Errors
    /// When a port is taken or the data folder cannot be used.
    pub async fn start(config: MasterConfig) -> Result<MasterHandle, StartError> {
        Self::bind(config).await?.start().await
    }

    /// Takes the ports, so that their numbers are known before anybody has to be told.
    ///
    /// # Errors
    /// When a port is taken.
    pub async fn bind(config: MasterConfig) -> Result<BoundMaster, StartError> {
        let (api, api_address) = listen(config.api_address).await?;
        let (cluster, cluster_address) = listen(config.cluster_address).await?;
        Ok(BoundMaster { config, api, api_address, cluster, cluster_address })
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

impl BoundMaster {
    #[must_use]
    pub const fn api_address(&self) -> SocketAddr {
        self.api_address
    }

    #[must_use]
    pub const fn cluster_address(&self) -> SocketAddr {
        self.cluster_address
    }

    /// Replaces the initial masters of the configuration.
    #[must_use]
    pub fn with_initial_masters(mut self, masters: Vec<(String, String)>) -> Self {
        self.config.initial_masters = masters;
        self
    }

    /// This master as the others shall know it.
    fn member(&self) -> MemberNode {
        let config = &self.config;
        let listed = config.initial_masters.iter().find(|(name, _)| *name == config.name);
        MemberNode {
            name: config.name.clone(),
            api_address: config.advertise_api_address.clone().unwrap_or_else(|| self.api_address.to_string()),
            cluster_address: listed.map_or_else(|| self.cluster_address.to_string(), |(_, at)| at.clone()),
        }
    }

    /// Opens the data and runs.
    ///
    /// # Errors
    /// When the data folder cannot be used.
    pub async fn start(self) -> Result<MasterHandle, StartError> {
        let me = self.member();
        let store = Store::open(self.store_options(&me)).await?;
        let (stop_roles, stop_servers) = (CancellationToken::new(), CancellationToken::new());
        let tracker = TaskTracker::new();
        let (keeper, seat) = RoleKeeper::new(store.clone(), self.config.liveness.clone());
        let roles = tokio::spawn(keeper.run(stop_roles.clone()));
        tracker.spawn(leadership::announce(store.clone(), me, stop_servers.clone()));
        let limits = &self.config.limits;
        let watches = Watches::new(
            store.clone(),
            limits.watches,
            limits.watch_patience,
            tracker.clone(),
            stop_servers.clone(),
        );
        let api = Arc::new(Api::new(store.clone(), seat, watches));
        let api = serve(self.api, api_routes(api, limits).await?, stop_servers.clone());
        let cluster = Routes::new(RaftServer::service(store.clone()));
        let cluster = serve(self.cluster, cluster, stop_servers.clone());
        tracing::info!(name = self.config.name, api = %self.api_address, cluster = %self.cluster_address, "master runs");
        Ok(MasterHandle {
            name: self.config.name,
            api_address: self.api_address,
            cluster_address: self.cluster_address,
            store,
            roles,
            servers: [api, cluster],
            tracker,
            stop_roles,
            stop_servers,
        })
    }

    fn store_options(&self, me: &MemberNode) -> StoreOptions {
        let config = &self.config;
        // The same on every initial master: what only one of them knows is announced later.
        let initial = config.initial_masters.iter().map(|(name, cluster_address)| MemberNode {
            name: name.clone(),
            api_address: String::new(),
            cluster_address: cluster_address.clone(),
        });
        let mut options = StoreOptions::new(&config.data_dir, me.clone(), initial.collect());
        options.timing = config.timing.clone();
        options.fatal = config.fatal.clone();
        options
    }
}

async fn api_routes(api: Arc<Api>, limits: &Limits) -> Result<Routes, StartError> {
    let bytes = limits.request_bytes;
    let (health, health_service) = tonic_health::server::health_reporter();
    for name in SERVICES {
        health.set_service_status(*name, tonic_health::ServingStatus::Serving).await;
    }
    let mut routes = Routes::builder();
    routes
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(ServiceServiceServer::from_arc(api.clone()).max_decoding_message_size(bytes))
        .add_service(InstanceServiceServer::from_arc(api.clone()).max_decoding_message_size(bytes))
        .add_service(NodeServiceServer::from_arc(api.clone()).max_decoding_message_size(bytes))
        .add_service(ClusterServiceServer::from_arc(api.clone()).max_decoding_message_size(bytes))
        .add_service(ConfigServiceServer::from_arc(api.clone()).max_decoding_message_size(bytes))
        .add_service(EventServiceServer::from_arc(api.clone()).max_decoding_message_size(bytes))
        .add_service(UsageServiceServer::from_arc(api.clone()).max_decoding_message_size(bytes))
        .add_service(BalanceServiceServer::from_arc(api.clone()).max_decoding_message_size(bytes))
        .add_service(AutoscaleServiceServer::from_arc(api.clone()).max_decoding_message_size(bytes))
        .add_service(
            AgentServiceServer::from_arc(api)
                .max_decoding_message_size(skein_proto::MAX_MESSAGE_BYTES)
                .max_encoding_message_size(skein_proto::MAX_MESSAGE_BYTES),
        );
    Ok(routes.routes())
}

/// What the API port serves; the cluster port's service is described, but not listed.
const SERVICES: &[&str] = &[
    <ServiceServiceServer<Api> as NamedService>::NAME,
    <InstanceServiceServer<Api> as NamedService>::NAME,
    <NodeServiceServer<Api> as NamedService>::NAME,
    <ClusterServiceServer<Api> as NamedService>::NAME,
    <ConfigServiceServer<Api> as NamedService>::NAME,
    <EventServiceServer<Api> as NamedService>::NAME,
    <UsageServiceServer<Api> as NamedService>::NAME,
    <BalanceServiceServer<Api> as NamedService>::NAME,
    <AutoscaleServiceServer<Api> as NamedService>::NAME,
    <AgentServiceServer<Api> as NamedService>::NAME,
];

fn reflection<'b>() -> tonic_reflection::server::Builder<'b> {
    let described = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(skein_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // Each version lists the other, so each must be able to describe it.
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
        .with_service_name("grpc.health.v1.Health")
        .with_service_name("grpc.reflection.v1.ServerReflection")
        .with_service_name("grpc.reflection.v1alpha.ServerReflection");
    SERVICES.iter().fold(described, |builder, name| builder.with_service_name(*name))
}

fn serve(listener: TcpListener, routes: Routes, stop: CancellationToken) -> JoinHandle<()> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).map_ok(Gathered::new);
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
        .http2_max_header_list_size(HEADER_BYTES)
        .add_routes(routes);
    tokio::spawn(async move {
        if let Err(error) = server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await {
            tracing::error!(error = &error as &dyn std::error::Error, "a port is no longer served");
        }
    })
}

/// A running master.
#[derive(Debug)]
pub struct MasterHandle {
    name: String,
    api_address: SocketAddr,
    cluster_address: SocketAddr,
    store: Store,
    roles: JoinHandle<()>,
    servers: [JoinHandle<()>; 2],
    tracker: TaskTracker,
    stop_roles: CancellationToken,
    stop_servers: CancellationToken,
}

impl MasterHandle {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the API listens.
    #[must_use]
    pub const fn api_address(&self) -> SocketAddr {
        self.api_address
    }

    /// Where the other masters reach this one.
    #[must_use]
    pub const fn cluster_address(&self) -> SocketAddr {
        self.cluster_address
    }

    /// The store, for tests and tools in the same process.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Ends gracefully: hands leadership on, redirects the agents, lets calls finish.
    pub async fn stop(self) {
        if self.store.leadership().borrow().is_self && self.store.status().members.len() > 1 {
            match timeout(TRANSFER_WITHIN, self.store.transfer_leadership(None)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "leadership was not handed on");
                }
                Err(_) => tracing::warn!("leadership was not handed on in time"),
            }
        }
        self.halt().await;
    }

    /// Ends without handing anything on, as a crash would, but leaves the folder closed.
    pub async fn halt(self) {
        self.stop_roles.cancel();
        let _ = self.roles.await;
        self.stop_servers.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        for mut server in self.servers {
            if timeout(DRAIN_WITHIN, &mut server).await.is_err() {
                server.abort();
            }
        }
        self.store.shutdown().await;
    }
}
