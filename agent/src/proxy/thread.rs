//! The threads that carry traffic, each with a runtime of its own.
//!
//! Invariant: a connection stays on the thread that accepted it, so nothing of it is locked or sent. All threads listen
//! on every published port (SO_REUSEPORT); the kernel shares connections out among them.
//! Deliberately not here: which ports (`balancer`).

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener, UdpSocket},
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use hyper::rt::Executor;
use skein_common::service::BalanceMode;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task, time,
};
use tokio_util::sync::CancellationToken;

use super::{
    client::ClientStream,
    front::{Connected, Front},
    http, introduction,
    site::{Entry, Tls},
    tcp, tls, udp,
    upstream::Upstreams,
};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Of one thread; more wait in the kernel.
const MAX_CONNECTIONS: usize = 20_000;
/// After an accept that failed (no more file descriptors): what is closed meanwhile helps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often connections that wait too long are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Ports to be listened on that a thread has not taken over yet.
const ORDERS: usize = 16;
/// What is under way when the agent ends has this long.
const LAST_REQUESTS: Duration = Duration::from_secs(3);

/// One port to listen on until the token ends.
#[derive(Debug)]
struct Order {
    listener: StdListener,
    entry: Entry,
    stop: CancellationToken,
}

#[derive(Debug)]
enum Work {
    Accept(Order),
    Receive { socket: UdpSocket, front: Arc<Front>, stop: CancellationToken },
}

/// The way to all threads.
#[derive(Debug)]
pub(crate) struct Threads {
    orders: Vec<mpsc::Sender<Work>>,
}

impl Threads {
    /// Starts them; they end on `stop`.
    ///
    /// # Errors
    /// The system gives no thread or no event queue.
    pub(crate) fn start(count: usize, stop: &CancellationToken) -> io::Result<Self> {
        let mut orders = Vec::with_capacity(count);
        for number in 0..count {
            let (sender, receiver) = mpsc::channel(ORDERS);
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let stop = stop.clone();
            thread::Builder::new()
                .name(format!("proxy-{number}"))
                .spawn(move || task::LocalSet::new().block_on(&runtime, run(receiver, stop)))?;
            orders.push(sender);
        }
        Ok(Self { orders })
    }

    /// Listens on `address` on every thread until `stop`.
    ///
    /// # Errors
    /// The address cannot be listened on; then no thread does.
    pub(crate) async fn listen(
        &self,
        address: SocketAddr,
        entry: &Entry,
        stop: &CancellationToken,
    ) -> io::Result<()> {
        let listeners: Vec<StdListener> =
            self.orders.iter().map(|_| bind(address)).collect::<io::Result<_>>()?;
        for (thread, listener) in self.orders.iter().zip(listeners) {
            let order = Order { listener, entry: entry.clone(), stop: stop.clone() };
            thread.send(Work::Accept(order)).await.map_err(|_| ended())?;
        }
        Ok(())
    }

    /// Receives datagrams at `address` on every thread until `stop`.
    ///
    /// # Errors
    /// The address cannot be had; then no thread receives.
    pub(crate) async fn receive(
        &self,
        address: SocketAddr,
        front: &Arc<Front>,
        stop: &CancellationToken,
    ) -> io::Result<()> {
        let sockets: Vec<UdpSocket> =
            self.orders.iter().map(|_| udp::bind(address)).collect::<io::Result<_>>()?;
        for (thread, socket) in self.orders.iter().zip(sockets) {
            let work = Work::Receive { socket, front: Arc::clone(front), stop: stop.clone() };
            thread.send(work).await.map_err(|_| ended())?;
        }
        Ok(())
    }
}

fn ended() -> io::Error {
    io::Error::other("the proxy's thread has ended")
}

/// A port that other threads listen on too. Another process that listens without sharing is an error; one of the same
/// user that shares is not, so ports of agents on one machine must differ by address.
fn bind(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

async fn run(mut orders: mpsc::Receiver<Work>, stop: CancellationToken) {
    let upstreams = Rc::new(Upstreams::default());
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut sweep = time::interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            order = orders.recv() => {
                match order {
                    Some(Work::Accept(order)) => {
                        task::spawn_local(accept(order, Rc::clone(&upstreams), Arc::clone(&permits)));
                    }
                    Some(Work::Receive { socket, front, stop }) => {
                        task::spawn_local(udp::serve(socket, front, stop));
                    }
                    None => break,
                }
            }
            _ = sweep.tick() => upstreams.sweep(Instant::now()),
            () = stop.cancelled() => break,
        }
    }
    let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
    let _ = time::timeout(LAST_REQUESTS, permits.acquire_many(all)).await;
}

async fn accept(order: Order, upstreams: Rc<Upstreams>, permits: Arc<Semaphore>) {
    let Order { listener, entry, stop } = order;
    // Each connection looks at it often: of this thread, so that no other one is in its way.
    let stop = stop.child_token();
    let name = entry.name();
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(name, error, "a published port is not served");
            return;
        }
    };
    let mut is_failing = false;
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(name, error, "connections cannot be accepted");
                }
                time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        is_failing = false;
        let connected = match &entry {
            Entry::Front(front) => Some(front.connected()),
            // Whose it is each request says.
            Entry::Site(_) => None,
        };
        let place = Rc::new(Place { _held: (permit, connected), stop: stop.clone() });
        task::spawn_local(serve(stream, peer, entry.clone(), Rc::clone(&upstreams), place));
    }
}

async fn serve(
    mut stream: TcpStream,
    peer: SocketAddr,
    entry: Entry,
    upstreams: Rc<Upstreams>,
    place: Rc<Place>,
) {
    // Without it answers of several writes wait for each other's acknowledgement.
    let _ = stream.set_nodelay(true);
    let mut source = peer;
    if entry.trusts(peer.ip()) {
        match introduction::hear(&mut stream).await {
            Ok(introduced) => source = introduced.unwrap_or(peer),
            Err(error) => {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "a trusted front balancer did not say for whom it connects; sent away");
                return;
            }
        }
    }
    let stream = match &entry {
        Entry::Front(front) if front.state().policy.mode == BalanceMode::Tcp => {
            return tcp::serve(stream, source, Arc::clone(front)).await;
        }
        Entry::Front(_) => ClientStream::plain(stream),
        Entry::Site(site) => match site.state().tls.clone() {
            Tls::Off => ClientStream::plain(stream),
            Tls::Waiting => return,
            Tls::On(config) => match tls::handshake(stream, config).await {
                Some(stream) => ClientStream::tls(stream),
                None => return,
            },
        },
    };
    http::serve(stream, source, entry, upstreams, place).await;
}

/// One of a thread's connections, for as long as it needs the thread.
#[derive(Debug)]
pub(crate) struct Place {
    _held: (OwnedSemaphorePermit, Option<Connected>),
    stop: CancellationToken,
}

impl Place {
    /// The port is given up: what is under way is finished, and nothing begun.
    pub(crate) async fn closing(&self) {
        self.stop.cancelled().await;
    }
}

/// Runs what belongs to a connection on its thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Local;

impl<F: Future + 'static> Executor<F> for Local {
    fn execute(&self, work: F) {
        drop(task::spawn_local(work));
    }
}
