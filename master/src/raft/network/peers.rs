//! Connections to the other masters: three to each, kept and shared.
//!
//! Invariant: heartbeats and votes never queue behind replication, and neither behind a snapshot.
//! Connections are made on first use and come back by themselves; nothing here waits for a peer
//! without a deadline.
//! Deliberately not here: what is said on them (`network.rs`, `store/`).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use skein_proto::v1::raft_service_client::RaftServiceClient;
use tonic::{
    Request, Status,
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::raft::{MemberNode, identity::Identity};

pub const FORMATION_KEY: &str = "skein-formation";
pub const MEMBER_KEY: &str = "skein-member";
pub const TARGET_KEY: &str = "skein-target";

/// Largest message between masters: a replication message is kept near 2 MiB, but one command may
/// be as large as [`crate::store::MAX_COMMAND_BYTES`].
pub const MAX_MESSAGE_BYTES: usize = 32 << 20;
/// A dead address is noticed after this; refused connections at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A peer that hangs, or a link that swallows everything, is noticed after the sum.
pub const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);

pub type Client = RaftServiceClient<InterceptedService<Channel, Headers>>;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Replication, and forwarded commands in the other direction.
    Log,
    /// Heartbeats, votes, read indexes, membership.
    Control,
    Snapshot,
}

/// The other masters, by number.
#[derive(Debug, Clone)]
pub struct Peers {
    identity: Identity,
    known: Arc<Mutex<BTreeMap<u64, Peer>>>,
}

/// One other master.
#[derive(Debug, Clone)]
pub struct Peer {
    pub id: u64,
    pub node: MemberNode,
    identity: Identity,
    lanes: Arc<[Channel; 3]>,
    reachable: Arc<AtomicBool>,
}

/// The address of a master is no address.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{address:?} is not an address of master {name:?}: {reason}")]
pub struct InvalidAddress {
    pub name: String,
    pub address: String,
    pub reason: String,
}

impl Peers {
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self { identity, known: Arc::default() }
    }

    /// The member, with the connections it already has unless its address changed.
    pub fn get(&self, id: u64, node: &MemberNode) -> Result<Peer, InvalidAddress> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = known.get(&id)
            && peer.node.cluster_address == node.cluster_address
        {
            return Ok(peer.clone());
        }
        let peer = Peer {
            id,
            node: node.clone(),
            identity: self.identity.clone(),
            lanes: Arc::new([channel(node)?, channel(node)?, channel(node)?]),
            reachable: Arc::new(AtomicBool::new(true)),
        };
        known.insert(id, peer.clone());
        Ok(peer)
    }
}

fn channel(node: &MemberNode) -> Result<Channel, InvalidAddress> {
    let endpoint = Endpoint::from_shared(format!("http://{}", node.cluster_address)).map_err(|error| {
        InvalidAddress {
            name: node.name.clone(),
            address: node.cluster_address.clone(),
            reason: error.to_string(),
        }
    })?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .connect_lazy())
}

impl Peer {
    #[must_use]
    pub fn client(&self, lane: Lane) -> Client {
        let headers = Headers::new(&self.identity, self.id);
        RaftServiceClient::with_interceptor(self.lanes[lane as usize].clone(), headers)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Remembers whether the last call got through; says so once when that changes.
    pub fn observe(&self, result: Result<(), &Status>) {
        let was_reachable = self.reachable.swap(result.is_ok(), Ordering::Relaxed);
        match result {
            Err(status) if was_reachable => {
                tracing::warn!(
                    master = self.node.name,
                    address = self.node.cluster_address,
                    reason = %Reason(status),
                    "master unreachable"
                );
            }
            Ok(()) if !was_reachable => tracing::info!(master = self.node.name, "master reachable again"),
            Ok(()) | Err(_) => {}
        }
    }
}

/// A status with its causes, without the noise of its debug form.
pub struct Reason<'a>(pub &'a Status);

impl std::fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {}", self.0.code(), self.0.message())?;
        let mut source = std::error::Error::source(self.0);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

/// Says who calls whom.
#[derive(Debug, Clone)]
pub struct Headers {
    formation: Option<AsciiMetadataValue>,
    member: AsciiMetadataValue,
    target: AsciiMetadataValue,
}

impl Headers {
    fn new(identity: &Identity, target: u64) -> Self {
        Self {
            formation: identity.formation().and_then(|formation| formation.text().parse().ok()),
            member: identity.id().into(),
            target: target.into(),
        }
    }
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        if let Some(formation) = &self.formation {
            metadata.insert(FORMATION_KEY, formation.clone());
        }
        metadata.insert(MEMBER_KEY, self.member.clone());
        metadata.insert(TARGET_KEY, self.target.clone());
        Ok(request)
    }
}

/// Whether a failed call certainly never reached the peer: no connection could be made.
#[must_use]
pub fn never_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        if cause.is::<tonic::ConnectError>() {
            return true;
        }
        source = cause.source();
    }
    false
}
