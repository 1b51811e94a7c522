//! Connections to endpoints that wait for their next request.
//!
//! Invariant: of one thread, so nothing is locked; a connection is here only between two requests, never while an answer
//! is under way. At most [`IDLE_MAX`] wait for one endpoint, none longer than [`IDLE_FOR`].

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task, time};

use super::body::RequestBody;

/// For one endpoint, on one thread.
const IDLE_MAX: usize = 256;
/// Less than most servers wait, so that it is seldom theirs to close.
const IDLE_FOR: Duration = Duration::from_secs(4);
/// An answer's head; the same bound as for requests.
const MAX_HEAD_BYTES: usize = 64 << 10;

pub(crate) type Sender = SendRequest<RequestBody>;

#[derive(Default)]
pub(crate) struct Upstreams {
    idle: RefCell<HashMap<SocketAddr, Vec<(Sender, Instant)>>>,
}

/// Why an endpoint cannot be connected to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("no connection within {0:?}")]
    Late(Duration),
    #[error("the connection was refused or broke")]
    Failed(#[source] io::Error),
    #[error("the connection ended at once")]
    Handshake(#[source] hyper::Error),
}

impl Upstreams {
    /// A connection that has served before and is open as far as is known.
    pub(crate) fn take(&self, address: SocketAddr) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        let waiting = idle.get_mut(&address)?;
        while let Some((sender, _)) = waiting.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    /// Its answer has been read to the end.
    pub(crate) fn give_back(&self, address: SocketAddr, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let waiting = idle.entry(address).or_default();
        if waiting.len() < IDLE_MAX {
            waiting.push((sender, Instant::now()));
        }
    }

    /// Closes what has waited too long.
    pub(crate) fn sweep(&self, now: Instant) {
        self.idle.borrow_mut().retain(|_, waiting| {
            waiting.retain(|(_, since)| now.duration_since(*since) < IDLE_FOR);
            !waiting.is_empty()
        });
    }
}

/// A new connection; its task ends with it.
pub(crate) async fn connect(address: SocketAddr, limit: Duration) -> Result<Sender, ConnectError> {
    let stream = time::timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| ConnectError::Late(limit))?
        .map_err(ConnectError::Failed)?;
    stream.set_nodelay(true).map_err(ConnectError::Failed)?;
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ConnectError::Handshake)?;
    task::spawn_local(async move {
        // How it ended is told to whoever waits for an answer.
        let _ = connection.with_upgrades().await;
    });
    Ok(sender)
}
