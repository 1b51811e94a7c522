//! Datagrams through the balancer: who sends some talks with one endpoint for as long as both go on.
//!
//! Invariant: a session belongs to one source and one endpoint and holds a lease of it; at most [`MAX_SESSIONS`] of a
//! port are open on a thread, each with a bounded silence. An endpoint that left gets no new datagram; what it still has
//! to answer it may, for [`LINGER`]. A datagram that cannot be passed on is dropped, as networks do.
//! Deliberately not here: which ports (`balancer`), who of the endpoints (`agent/core`, `balance`).

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdUdpSocket},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use skein_agent_core::balance::{Ending, Load, key};
use skein_common::{InstanceId, service::Algorithm};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    io::Interest,
    net::UdpSocket,
    task::{self, AbortHandle},
    time,
};
use tokio_util::sync::CancellationToken;

use super::front::{Front, Held, Wish};

/// Of one port on one thread: each is a socket.
const MAX_SESSIONS: usize = 4096;
/// Sources that fall silent are forgotten after this, or after the service's idle timeout when that is shorter.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Whom nobody answers may be anybody: a source is easily made up.
const UNANSWERED_MAX: Duration = Duration::from_secs(10);
/// For an answer of an endpoint that has left.
const LINGER: Duration = Duration::from_secs(1);
const SWEEP_EVERY: Duration = Duration::from_millis(100);
const LARGEST_DATAGRAM: usize = 64 << 10;
/// After a receive that failed.
const PAUSE: Duration = Duration::from_millis(100);

thread_local! {
    /// What is received is sent on before anybody else receives: one for all sessions of a thread.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; LARGEST_DATAGRAM]);
}

/// A socket that other threads have too: the kernel keeps each source with one of them.
pub(crate) fn bind(address: SocketAddr) -> io::Result<StdUdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Serves one port until `stop`.
pub(crate) async fn serve(socket: StdUdpSocket, front: Arc<Front>, stop: CancellationToken) {
    let socket = match UdpSocket::from_std(socket) {
        Ok(socket) => Rc::new(socket),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(service = front.name, error, "a published port is not served");
            return;
        }
    };
    let mut sessions =
        Sessions { front, socket: Rc::clone(&socket), open: HashMap::new(), leaving: Vec::new() };
    let mut sweep = time::interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            ready = socket.readable() => match ready.and_then(|()| sessions.receive()) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => time::sleep(PAUSE).await,
                _ => {}
            },
            _ = sweep.tick(), if !sessions.is_empty() => sessions.sweep(Instant::now()),
        }
    }
}

/// All sessions of a port on one thread.
struct Sessions {
    front: Arc<Front>,
    socket: Rc<UdpSocket>,
    open: HashMap<SocketAddr, Session>,
    /// Their sources talk with somebody else by now.
    leaving: Vec<Session>,
}

/// One source and its endpoint.
struct Session {
    endpoint: Rc<UdpSocket>,
    instance: InstanceId,
    load: Arc<Load>,
    talk: Rc<Talk>,
    idle: Duration,
    /// When its endpoint was found to have left.
    left: Option<Instant>,
    answers: AbortHandle,
}

/// How it goes on.
#[derive(Debug)]
struct Talk {
    moved: Cell<Instant>,
    is_answered: Cell<bool>,
    /// The last datagram of the source has no answer yet.
    is_waiting: Cell<bool>,
    /// Nobody listens at the endpoint.
    is_refused: Cell<bool>,
}

impl Talk {
    const fn begin(now: Instant) -> Self {
        Self {
            moved: Cell::new(now),
            is_answered: Cell::new(false),
            is_waiting: Cell::new(false),
            is_refused: Cell::new(false),
        }
    }

    /// Nothing more is to be expected. `left`: since when its endpoint is none any more.
    fn is_over(&self, idle: Duration, left: Option<Instant>, now: Instant) -> bool {
        let patience = if self.is_answered.get() { idle } else { idle.min(UNANSWERED_MAX) };
        let lingered = left.is_some_and(|left| !self.is_waiting.get() || now.duration_since(left) >= LINGER);
        lingered || self.is_refused.get() || now.duration_since(self.moved.get()) >= patience
    }
}

impl Sessions {
    fn is_empty(&self) -> bool {
        self.open.is_empty() && self.leaving.is_empty()
    }

    /// Passes one datagram on.
    fn receive(&mut self) -> io::Result<()> {
        BUFFER.with_borrow_mut(|buffer| {
            let (length, source) = self.socket.try_recv_from(buffer)?;
            self.pass(source, buffer.get(..length).unwrap_or_default(), Instant::now());
            Ok(())
        })
    }

    fn pass(&mut self, source: SocketAddr, datagram: &[u8], now: Instant) {
        let failed = self.retire(source, now);
        if !self.open.contains_key(&source) {
            match self.begin(source, failed, now) {
                Ok(session) => drop(self.open.insert(source, session)),
                Err(reason) => {
                    tracing::debug!(service = self.front.name, %source, reason, "a datagram was dropped");
                    return;
                }
            }
        }
        let Some(session) = self.open.get(&source) else { return };
        session.talk.moved.set(now);
        session.talk.is_waiting.set(true);
        // Straight to the kernel: the runtime does not know of a new socket yet that it can be written to, and a session's
        // first datagram would be lost. What the kernel has no room for is lost, as on any network.
        if SockRef::from(&*session.endpoint).send(datagram).is_ok() {
            session.load.received(datagram.len());
        }
    }

    /// Ends the session of this source when its endpoint is gone; answers which endpoint refused it.
    fn retire(&mut self, source: SocketAddr, now: Instant) -> Option<InstanceId> {
        let session = self.open.get(&source)?;
        let (is_refused, is_closed) = (session.talk.is_refused.get(), session.load.is_closed());
        if !is_refused && !is_closed {
            return None;
        }
        let mut session = self.open.remove(&source)?;
        let instance = session.instance;
        if is_refused {
            return Some(instance);
        }
        session.left = session.left.or(Some(now));
        self.leaving.push(session);
        None
    }

    fn begin(
        &self,
        source: SocketAddr,
        failed: Option<InstanceId>,
        now: Instant,
    ) -> Result<Session, &'static str> {
        if self.open.len() + self.leaving.len() >= MAX_SESSIONS {
            return Err("too many sources");
        }
        let key = match &self.front.state().policy.algorithm {
            Algorithm::ConsistentHash { .. } => Some(key(source.ip().to_canonical().to_string().as_bytes())),
            Algorithm::RoundRobin | Algorithm::Random | Algorithm::LeastRequests | Algorithm::Adaptive => {
                None
            }
        };
        let wish = Wish { key, wanted: None };
        let held = self.front.try_lease(wish, failed.as_slice()).or_else(|error| match failed {
            // There is nobody else.
            Some(_) => self.front.try_lease(wish, &[]),
            None => Err(error),
        });
        let held = held.map_err(|_| "no instance takes it")?;
        let endpoint = connect(held.endpoint().address).map_err(|_| "no socket")?;
        let endpoint = Rc::new(endpoint);
        let talk = Rc::new(Talk::begin(now));
        let (instance, load) = (held.endpoint().instance, Arc::clone(held.load()));
        let idle = held.policy().timeouts.idle.min(IDLE_MAX);
        let back = Back { socket: Rc::clone(&self.socket), source, talk: Rc::clone(&talk) };
        let answers = task::spawn_local(back.answers(Rc::clone(&endpoint), held)).abort_handle();
        Ok(Session { endpoint, instance, load, talk, idle, left: None, answers })
    }

    fn sweep(&mut self, now: Instant) {
        let stays = |session: &mut Session| {
            if session.left.is_none() && session.load.is_closed() {
                session.left = Some(now);
            }
            !session.talk.is_over(session.idle, session.left, now)
        };
        self.open.retain(|_, session| stays(session));
        self.leaving.retain_mut(stays);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The lease goes with it.
        self.answers.abort();
    }
}

/// The way back to a source.
struct Back {
    socket: Rc<UdpSocket>,
    source: SocketAddr,
    talk: Rc<Talk>,
}

impl Back {
    /// Passes answers back until nobody listens at the endpoint, or it is aborted.
    async fn answers(self, endpoint: Rc<UdpSocket>, mut held: Held) {
        loop {
            // A refusal makes a socket ready for errors, not for reading.
            let received = match endpoint.ready(Interest::READABLE | Interest::ERROR).await {
                Ok(ready) if ready.is_error() => Err(io::ErrorKind::ConnectionRefused.into()),
                Ok(_) => BUFFER.with_borrow_mut(|buffer| self.pass(&endpoint, buffer)),
                Err(error) => Err(error),
            };
            match received {
                Ok(length) => {
                    held.note(Ending::Connected);
                    held.load().sent(length);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    held.note(Ending::Unreachable);
                    return self.talk.is_refused.set(true);
                }
            }
        }
    }

    fn pass(&self, endpoint: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
        let length = endpoint.try_recv(buffer)?;
        self.talk.moved.set(Instant::now());
        self.talk.is_answered.set(true);
        self.talk.is_waiting.set(false);
        let _ = self.socket.try_send_to(buffer.get(..length).unwrap_or_default(), self.source);
        Ok(length)
    }
}

fn connect(endpoint: SocketAddr) -> io::Result<UdpSocket> {
    // Docker's proxy answers from 127.0.0.1 whatever loopback address was asked, and a connected socket hears only whom
    // it has asked.
    let mut endpoint = endpoint;
    if endpoint.is_ipv4() && endpoint.ip().is_loopback() {
        endpoint.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let any = match endpoint {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = StdUdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(endpoint)?;
    UdpSocket::from_std(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_when_nothing_more_is_to_come() {
        let (idle, start) = (Duration::from_secs(30), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        // answered, waiting, refused, when its endpoint left; now; over
        for (answered, waiting, refused, left, now, expected) in [
            (false, true, false, None, 9_999, false),
            (false, true, false, None, 10_000, true),
            (true, true, false, None, 29_999, false),
            (true, false, false, None, 30_000, true),
            (true, false, true, None, 0, true),
            (true, false, false, Some(0), 0, true),
            (true, true, false, Some(500), 1_499, false),
            (true, true, false, Some(500), 1_500, true),
        ] {
            let talk = Talk::begin(start);
            talk.is_answered.set(answered);
            talk.is_waiting.set(waiting);
            talk.is_refused.set(refused);
            let over = talk.is_over(idle, left.map(at), at(now));
            assert_eq!(over, expected, "{talk:?}, left {left:?}, at {now}");
        }
    }
}
