//! Sockets of the name server.
//!
//! Invariant: what is ours is answered at once, from memory; what others are asked is bounded in number and time, and
//! nothing a client sends or leaves unsent holds up another.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;
use skein_agent_core::names::{Answer, Zone};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Askers, forward, is_own,
    wire::{self, Parsed, Question},
};

const PORT: u16 = 53;
/// Questions that wait for others, each with a socket.
const WAITING_MAX: usize = 256;
const STREAMS_MAX: usize = 64;
/// Of a stream on which nothing is asked.
const IDLE: Duration = Duration::from_secs(10);
const LONGEST: usize = 4096;
const STREAM_LIMIT: usize = 65_535;
/// After an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens; see the module.
pub(super) struct Server {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
    desk: Arc<Desk>,
}

/// What is needed for answers.
struct Desk {
    own: Ipv4Addr,
    zone: Arc<ArcSwap<Zone>>,
    askers: Askers,
    turn: AtomicUsize,
    waiting: Arc<Semaphore>,
}

impl Server {
    pub(super) async fn bind(own: Ipv4Addr, zone: Arc<ArcSwap<Zone>>, askers: Askers) -> io::Result<Self> {
        Self::bind_at((own, PORT).into(), zone, askers).await
    }

    async fn bind_at(address: SocketAddr, zone: Arc<ArcSwap<Zone>>, askers: Askers) -> io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
        let address = tcp.local_addr()?;
        let udp = Arc::new(UdpSocket::bind(address).await?);
        let own = match address {
            SocketAddr::V4(address) => *address.ip(),
            SocketAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        };
        let waiting = Arc::new(Semaphore::new(WAITING_MAX));
        let desk = Arc::new(Desk { own, zone, askers, turn: AtomicUsize::new(0), waiting });
        Ok(Self { udp, tcp, desk })
    }

    pub(super) async fn run(self, stop: CancellationToken) {
        let (tasks, mut buffer) = (TaskTracker::new(), vec![0; LONGEST]);
        let streams = Arc::new(Semaphore::new(STREAMS_MAX));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                // Errors are of earlier answers that nobody took.
                received = self.udp.recv_from(&mut buffer) => if let Ok((length, peer)) = received {
                    let packet = buffer.get(..length).unwrap_or_default();
                    self.take(packet, peer, &tasks, &stop);
                },
                accepted = self.tcp.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let Ok(place) = Arc::clone(&streams).try_acquire_owned() else { continue };
                        let (desk, stop) = (Arc::clone(&self.desk), stop.clone());
                        tasks.spawn(async move {
                            stop.run_until_cancelled(serve(desk, stream, peer)).await;
                            drop(place);
                        });
                    }
                    Err(_) => time::sleep(ACCEPT_PAUSE).await,
                },
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    fn take(&self, packet: &[u8], peer: SocketAddr, tasks: &TaskTracker, stop: &CancellationToken) {
        let question = match wire::parse(packet) {
            Parsed::Question(question) => question,
            Parsed::Refused(answer) => return self.send(&answer, peer),
            Parsed::Nothing => return,
        };
        let limit = question.udp_limit();
        if let Some(answer) = self.desk.at_once(&question, peer, limit) {
            return self.send(&answer, peer);
        }
        let Ok(place) = Arc::clone(&self.desk.waiting).try_acquire_owned() else {
            return self.send(&question.refused(ResponseCode::ServFail).unwrap_or_default(), peer);
        };
        let (desk, udp, packet) = (Arc::clone(&self.desk), Arc::clone(&self.udp), packet.to_vec());
        let stop = stop.clone();
        tasks.spawn(async move {
            let answered = desk.answer(&question, &packet, peer, limit, false);
            if let Some(Some(answer)) = stop.run_until_cancelled(answered).await {
                let _ = udp.send_to(&answer, peer).await;
            }
            drop(place);
        });
    }

    /// A full buffer loses it, as the network might.
    fn send(&self, answer: &[u8], peer: SocketAddr) {
        if !answer.is_empty() {
            let _ = self.udp.try_send_to(answer, peer);
        }
    }
}

impl Desk {
    /// The answer, when it is known and it is known who asks.
    fn at_once(&self, question: &Question, peer: SocketAddr, limit: usize) -> Option<Vec<u8>> {
        if !is_own(peer.ip(), self.own) {
            self.askers.known(peer.ip())?;
        }
        match self.look_up(question, peer) {
            Answer::NotOurs => None,
            answer => question.answered(&answer, self.turn.fetch_add(1, Relaxed), limit),
        }
    }

    async fn answer(
        &self,
        question: &Question,
        packet: &[u8],
        peer: SocketAddr,
        limit: usize,
        by_tcp: bool,
    ) -> Option<Vec<u8>> {
        let is_own = is_own(peer.ip(), self.own);
        if !is_own {
            self.askers.find(peer.ip()).await;
        }
        let answer = self.look_up(question, peer);
        if answer != Answer::NotOurs {
            return question.answered(&answer, self.turn.fetch_add(1, Relaxed), limit);
        }
        // A resolver of this machine that asks us would be asked again.
        if is_own || !wire::is_near(peer.ip()) {
            return question.refused(ResponseCode::Refused);
        }
        match forward::ask(packet, by_tcp, self.own).await {
            Some(answer) => Some(wire::cut(answer, limit)),
            None => question.refused(ResponseCode::ServFail),
        }
    }

    fn look_up(&self, question: &Question, peer: SocketAddr) -> Answer {
        let zone = self.zone.load();
        let asker = self.askers.known(peer.ip());
        let stack = asker.and_then(|service| zone.stack_of(service));
        zone.answer(stack, &question.name, question.kind)
    }
}

async fn serve(desk: Arc<Desk>, mut stream: TcpStream, peer: SocketAddr) {
    while let Ok(Ok(packet)) = time::timeout(IDLE, forward::read(&mut stream)).await {
        let answer = match wire::parse(&packet) {
            Parsed::Question(question) => {
                let Ok(_place) = desk.waiting.acquire().await else { return };
                desk.answer(&question, &packet, peer, STREAM_LIMIT, true).await
            }
            Parsed::Refused(answer) => Some(answer),
            Parsed::Nothing => return,
        };
        let Some(answer) = answer else { return };
        if !matches!(time::timeout(IDLE, forward::write(&mut stream, &answer)).await, Ok(Ok(()))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
