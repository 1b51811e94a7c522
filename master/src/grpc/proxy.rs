//! Calls that only the leader can answer, handed on by whoever was asked.
//!
//! Invariant: one hop. A call that was handed on carries a mark; a master that gets a marked call
//! and does not lead says NO_LEADER instead of handing it on again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::timeout;
use tonic::{
    Request,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use crate::{
    leadership::{Leading, Seat},
    status::CallError,
    store::{Leadership, Store},
};

const MARK: &str = "skein-handed-on";
/// An election is over within this, as for commands (`store.propose`).
const LEADER_WITHIN: Duration = Duration::from_millis(1500);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Who answers a call.
#[derive(Debug)]
pub enum Answerer {
    Here(Arc<Leading>),
    /// The leader's API. Hand the call on with [`hand_on`].
    There(Channel),
}

/// Who answers, before a connection is chosen.
enum Found {
    Here(Arc<Leading>),
    /// Address of the leader's API.
    There(String),
}

/// The way to the leader.
#[derive(Debug, Clone)]
pub struct Proxy {
    store: Store,
    seat: Seat,
    /// The connection to the last leader, by its address.
    channel: Arc<Mutex<Option<(String, Channel)>>>,
}

impl Proxy {
    #[must_use]
    pub fn new(store: Store, seat: Seat) -> Self {
        Self { store, seat, channel: Arc::default() }
    }

    /// Who answers this call.
    pub async fn answerer<T>(&self, request: &Request<T>) -> Result<Answerer, CallError> {
        match self.find(request).await? {
            Found::Here(leading) => Ok(Answerer::Here(leading)),
            Found::There(address) => Ok(Answerer::There(self.channel(address)?)),
        }
    }

    /// As [`Proxy::answerer`], over a connection of its own: a caller of a stream that does not read
    /// fills its connection's window, and would hold up every other call on it.
    pub async fn answerer_apart<T>(&self, request: &Request<T>) -> Result<Answerer, CallError> {
        match self.find(request).await? {
            Found::Here(leading) => Ok(Answerer::Here(leading)),
            Found::There(address) => Ok(Answerer::There(dial(&address)?)),
        }
    }

    async fn find<T>(&self, request: &Request<T>) -> Result<Found, CallError> {
        if let Some(leading) = self.seat.taken().await {
            return Ok(Found::Here(leading));
        }
        if request.metadata().contains_key(MARK) {
            return Err(CallError::NoLeader);
        }
        let mut leadership = self.store.leadership();
        let known = leadership.wait_for(|seen| seen.is_self || api_address(seen).is_some());
        let seen = match timeout(LEADER_WITHIN, known).await {
            Ok(Ok(seen)) => seen.clone(),
            Ok(Err(_)) | Err(_) => return Err(CallError::NoLeader),
        };
        if seen.is_self {
            return self.seat.taken().await.map(Found::Here).ok_or(CallError::NoLeader);
        }
        api_address(&seen).map(|address| Found::There(address.to_owned())).ok_or(CallError::NoLeader)
    }

    fn channel(&self, address: String) -> Result<Channel, CallError> {
        let mut cached = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, channel)) = cached.as_ref().filter(|(known, _)| *known == address) {
            return Ok(channel.clone());
        }
        let channel = dial(&address)?;
        *cached = Some((address, channel.clone()));
        Ok(channel)
    }
}

/// Unknown for a moment after the cluster is formed (see `leadership::announce`).
fn api_address(seen: &Leadership) -> Option<&str> {
    seen.leader.as_ref().map(|leader| leader.api_address.as_str()).filter(|address| !address.is_empty())
}

fn dial(address: &str) -> Result<Channel, CallError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| CallError::NoLeader)?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .tcp_nodelay(true);
    Ok(endpoint.connect_lazy())
}

/// The call as it is handed on.
pub fn hand_on<T>(body: T) -> Request<T> {
    let mut request = Request::new(body);
    request.metadata_mut().insert(MARK, MetadataValue::from_static("1"));
    request
}
