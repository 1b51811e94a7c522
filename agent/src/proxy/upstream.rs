//! Connections to endpoints: those of HTTP/1.1 that wait for their next request, and those of HTTP/2 that many share.
//!
//! Invariant: of one thread, so nothing is locked. A connection of HTTP/1.1 is here only between two requests, never while
//! an answer is under way; at most [`IDLE_MAX`] wait for one endpoint, none longer than [`IDLE_FOR`]. At most
//! [`MAX_STREAMS`] requests share a connection of HTTP/2, and connections to one endpoint are made one after the other.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{self, SendRequest},
        http2,
    },
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, sync::Mutex, task, time};

use super::{body::RequestBody, thread::Local};

/// For one endpoint, on one thread.
const IDLE_MAX: usize = 256;
/// Less than most servers wait, so that it is seldom theirs to close.
const IDLE_FOR: Duration = Duration::from_secs(4);
/// A server of HTTP/2 says before it closes.
const SHARED_IDLE_FOR: Duration = Duration::from_secs(60);
/// An answer's head; the same bound as for requests.
const MAX_HEAD_BYTES: u32 = 64 << 10;
/// Of one connection: what most servers allow.
const MAX_STREAMS: u32 = 100;
/// What an endpoint may send ahead of a slow client, for one request and for all of a connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// While requests are under way, a node that is gone is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The right to send one request.
pub(crate) enum Sender {
    Http1(SendRequest<RequestBody>),
    Http2(Stream),
}

/// One of the requests that share a connection.
pub(crate) struct Stream {
    sender: http2::SendRequest<RequestBody>,
    open: Rc<Cell<u32>>,
}

struct Shared {
    sender: http2::SendRequest<RequestBody>,
    open: Rc<Cell<u32>>,
    /// When it was last given to a request.
    used: Cell<Instant>,
}

/// And since when it waits.
type Idle = (SendRequest<RequestBody>, Instant);

#[derive(Default)]
pub(crate) struct Upstreams {
    idle: RefCell<HashMap<SocketAddr, Vec<Idle>>>,
    shared: RefCell<HashMap<SocketAddr, Vec<Shared>>>,
    connecting: RefCell<HashMap<SocketAddr, Rc<Mutex<()>>>>,
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

impl Sender {
    pub(crate) async fn try_send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match self {
            Self::Http1(sender) => sender.try_send_request(request).await,
            Self::Http2(stream) => stream.sender.try_send_request(request).await,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.open.set(self.open.get().saturating_sub(1));
    }
}

impl Upstreams {
    /// A connection that is open as far as is known and may take one more request.
    pub(crate) fn take(&self, address: SocketAddr, is_h2: bool) -> Option<Sender> {
        if is_h2 { self.share(address) } else { self.take_idle(address) }
    }

    fn take_idle(&self, address: SocketAddr) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        let waiting = idle.get_mut(&address)?;
        while let Some((sender, _)) = waiting.pop() {
            if sender.is_ready() {
                return Some(Sender::Http1(sender));
            }
        }
        None
    }

    /// The one with the fewest requests.
    fn share(&self, address: SocketAddr) -> Option<Sender> {
        let mut shared = self.shared.borrow_mut();
        let connections = shared.get_mut(&address)?;
        connections.retain(|connection| !connection.sender.is_closed());
        let connection = connections.iter().min_by_key(|connection| connection.open.get())?;
        if connection.open.get() >= MAX_STREAMS {
            return None;
        }
        connection.used.set(Instant::now());
        Some(Sender::Http2(connection.stream()))
    }

    /// A new connection, or one that somebody else has made meanwhile; its task ends with it.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        is_h2: bool,
        limit: Duration,
    ) -> Result<Sender, ConnectError> {
        let connected = async {
            if !is_h2 {
                return Ok(Sender::Http1(connect_http1(address).await?));
            }
            let turn = Rc::clone(self.connecting.borrow_mut().entry(address).or_default());
            let _turn = turn.lock().await;
            if let Some(sender) = self.share(address) {
                return Ok(sender);
            }
            let sender = connect_http2(address).await?;
            let shared = Shared { sender, open: Rc::default(), used: Cell::new(Instant::now()) };
            let stream = shared.stream();
            self.shared.borrow_mut().entry(address).or_default().push(shared);
            Ok(Sender::Http2(stream))
        };
        time::timeout(limit, connected).await.map_err(|_| ConnectError::Late(limit))?
    }

    /// Its answer has been read to the end.
    pub(crate) fn give_back(&self, address: SocketAddr, sender: Sender) {
        let Sender::Http1(sender) = sender else { return };
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
        self.shared.borrow_mut().retain(|_, connections| {
            connections.retain(|connection| {
                let waits = now.saturating_duration_since(connection.used.get());
                let is_needed = connection.open.get() > 0 || waits < SHARED_IDLE_FOR;
                is_needed && !connection.sender.is_closed()
            });
            !connections.is_empty()
        });
        self.connecting.borrow_mut().retain(|_, turn| Rc::strong_count(turn) > 1);
    }
}

impl Shared {
    fn stream(&self) -> Stream {
        self.open.set(self.open.get() + 1);
        Stream { sender: self.sender.clone(), open: Rc::clone(&self.open) }
    }
}

async fn connect_http1(address: SocketAddr) -> Result<SendRequest<RequestBody>, ConnectError> {
    let stream = dial(address).await?;
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES as usize)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ConnectError::Handshake)?;
    task::spawn_local(async move {
        // How it ended is told to whoever waits for an answer.
        let _ = connection.with_upgrades().await;
    });
    Ok(sender)
}

async fn connect_http2(address: SocketAddr) -> Result<http2::SendRequest<RequestBody>, ConnectError> {
    let stream = dial(address).await?;
    let (sender, connection) = http2::Builder::new(Local)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD_BYTES)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ConnectError::Handshake)?;
    task::spawn_local(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

async fn dial(address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let stream = TcpStream::connect(address).await.map_err(ConnectError::Failed)?;
    stream.set_nodelay(true).map_err(ConnectError::Failed)?;
    Ok(stream)
}
