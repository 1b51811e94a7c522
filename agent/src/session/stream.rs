//! One stream to one master, from Hello to its end.
//!
//! Invariant: everything is bounded: what is told is a difference (`telling`), what is received is
//! handed to the worker before the next message is read, every wait has a limit. Whatever a master
//! sends ends this stream at worst.
//! Deliberately not here: whom to dial and when (`dialer`).

use std::time::Duration;

use skein_agent_core::Verdict;
use skein_common::{assignment::AssignmentUpdate, endpoint::EndpointsUpdate};
use skein_proto::{
    InvalidMessage, MAX_MESSAGE_BYTES,
    convert::{Hello, duration_from_wire},
    v1::{self, agent_service_client::AgentServiceClient, session_request, session_response::Message},
};
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::telling::Told;
use crate::{
    exec::ExecServer,
    logs::LogPusher,
    proxy::{Applied, BalancerHandle},
    runtime::ContainerRuntime,
    usage::UsageReport,
    worker::{Holdings, JoinError, WorkerHandle},
};

/// From the Hello to the Welcome: the leader may have to write the node down first.
const WELCOME_LIMIT: Duration = Duration::from_secs(5);
/// Messages the transport has not taken yet.
const OUTBOX: usize = 4;
/// Heartbeats that may be missed.
const MISSED: u32 = 3;
/// What a master may ask for; anything else is taken for the nearest.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("the master cannot be reached")]
    Unreachable(#[source] tonic::transport::Error),
    #[error("no welcome within {WELCOME_LIMIT:?}")]
    NoWelcome,
    #[error("the master does not lead; the leader is {leader:?}")]
    Redirected { leader: String, masters: Vec<String> },
    #[error("the master refused: {}", .0.message())]
    Refused(Status),
    #[error("the master is not obeyed")]
    NotObeyed(#[source] JoinError),
    #[error("the master sent a message of term {sent} in a session of term {term}")]
    OtherTerm { term: u64, sent: u64 },
    #[error("the master sent a malformed message")]
    Malformed(#[from] InvalidMessage),
    #[error("nothing heard from the master for {0:?}")]
    Silent(Duration),
    #[error("the connection broke: {}", .0.message())]
    Broken(Status),
    #[error("the master ended the session")]
    Closed,
    #[error("the agent ends")]
    Ending,
}

/// What a leader said when it let the agent in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Welcome {
    pub(crate) term: u64,
    pub(crate) interval: Duration,
    pub(crate) masters: Vec<String>,
}

/// What a stream works with.
pub(crate) struct Parts<R> {
    pub(crate) worker: WorkerHandle,
    pub(crate) usage: watch::Receiver<UsageReport>,
    pub(crate) logs: LogPusher<R>,
    pub(crate) exec: ExecServer<R>,
    /// `None` = this agent balances nothing.
    pub(crate) balancer: Option<BalancerHandle>,
}

/// A stream on which the agent has been welcomed.
pub(crate) struct Stream<'a, R> {
    parts: &'a mut Parts<R>,
    /// The master's.
    address: &'a str,
    inbound: Streaming<v1::SessionResponse>,
    outbox: mpsc::Sender<v1::SessionRequest>,
    holdings: watch::Receiver<Holdings>,
    welcome: Welcome,
    told: Told,
    /// What `urgent` was when everything was told last.
    told_urgent: u64,
    /// There was more than fits into one message.
    more: bool,
    beat_due: bool,
    /// Asked for, and not answered yet.
    resync: Option<String>,
    /// What the balancer goes by.
    applied: Option<watch::Receiver<Applied>>,
}

/// Says Hello; everything the node holds is told with it.
pub(crate) async fn open<'a, R: ContainerRuntime>(
    channel: Channel,
    address: &'a str,
    hello: Hello,
    parts: &'a mut Parts<R>,
) -> Result<Stream<'a, R>, End> {
    let mut holdings = parts.worker.holdings();
    let held = holdings.borrow_and_update().clone();
    let (told, instances) = Told::everything(&held.news);
    let (outbox, messages) = mpsc::channel(OUTBOX);
    let hello = session_request::Message::Hello(v1::Hello::from(&Hello { instances, ..hello }));
    outbox.try_send(v1::SessionRequest { message: Some(hello) }).map_err(|_| End::Ending)?;
    let mut client = AgentServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let greeted = async {
        let answer = client.session(ReceiverStream::new(messages)).await.map_err(refused)?;
        let mut inbound = answer.into_inner();
        let first = inbound.message().await.map_err(refused)?.ok_or(End::Closed)?;
        Ok::<_, End>((inbound, first))
    };
    let (inbound, first) = time::timeout(WELCOME_LIMIT, greeted).await.map_err(|_| End::NoWelcome)??;
    let welcome = match first.message.ok_or(InvalidMessage::Missing { field: "message" })? {
        Message::Welcome(welcome) => welcome,
        Message::Redirect(v1::Redirect { leader, masters }) => {
            return Err(End::Redirected { leader, masters });
        }
        _ => return Err(invalid("message", "the first one must be a Welcome or a Redirect").into()),
    };
    let cluster = welcome.cluster_id.parse().map_err(|error| invalid("cluster_id", error))?;
    let welcome = read_welcome(welcome)?;
    parts.worker.join(cluster, welcome.term).await.map_err(End::NotObeyed)?;
    let applied = match &parts.balancer {
        Some(balancer) => Some(balancer.begin_session().await),
        None => None,
    };
    // This leader has not heard the last measurement.
    parts.usage.mark_changed();
    Ok(Stream {
        parts,
        address,
        inbound,
        outbox,
        holdings,
        welcome,
        told,
        told_urgent: held.urgent,
        more: false,
        beat_due: false,
        resync: None,
        applied,
    })
}

fn read_welcome(wire: v1::Welcome) -> Result<Welcome, InvalidMessage> {
    let interval = wire.heartbeat_interval.ok_or(InvalidMessage::Missing { field: "heartbeat_interval" })?;
    let interval = duration_from_wire("heartbeat_interval", interval)?;
    Ok(Welcome {
        term: wire.term,
        interval: interval.clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL),
        masters: wire.masters,
    })
}

fn invalid(field: &'static str, reason: impl ToString) -> InvalidMessage {
    InvalidMessage::Invalid { field, reason: reason.to_string() }
}

/// Before the Welcome a status is an answer; a lost connection is one too, to tonic.
fn refused(status: Status) -> End {
    // What a master sent has no source; with one it was made here, of a connection that broke.
    let is_ours = std::error::Error::source(&status).is_some();
    if is_ours || status.code() == tonic::Code::Unavailable {
        End::Broken(status)
    } else {
        End::Refused(status)
    }
}

impl<R: ContainerRuntime> Stream<'_, R> {
    pub(crate) const fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Until it ends. `dice` in 0..1 shifts this agent's heartbeats against the others'.
    pub(crate) async fn serve(mut self, dice: f64) -> End {
        let interval = self.welcome.interval;
        let first_beat = Instant::now() + interval.mul_f64(dice);
        let mut beats = time::interval_at(first_beat, interval);
        beats.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let patience = interval * MISSED;
        let silence = time::sleep(patience);
        tokio::pin!(silence);
        loop {
            let has_something = self.has_something();
            tokio::select! {
                biased;
                message = self.inbound.message() => {
                    silence.as_mut().reset(Instant::now() + patience);
                    let taken = match message {
                        Ok(Some(message)) => self.receive(message).await,
                        Ok(None) => Err(End::Closed),
                        Err(status) => Err(End::Broken(status)),
                    };
                    if let Err(end) = taken {
                        return end;
                    }
                }
                () = &mut silence => return End::Silent(patience),
                permit = self.outbox.clone().reserve_owned(), if has_something => match permit {
                    Ok(permit) => {
                        if let Some(message) = self.next_message() {
                            permit.send(v1::SessionRequest { message: Some(message) });
                        }
                    }
                    Err(_) => return End::Closed,
                },
                changed = self.holdings.changed() => if changed.is_err() {
                    return End::Ending;
                },
                () = changed(&mut self.applied), if !has_something => {}
                _ = beats.tick() => self.beat_due = true,
            }
        }
    }

    fn has_something(&self) -> bool {
        let urgent = self.holdings.borrow().urgent;
        let applied = self.applied.as_ref().is_some_and(|applied| applied.has_changed().unwrap_or(false));
        applied || self.resync.is_some() || self.more || urgent != self.told_urgent || self.beat_due
    }

    /// News first: a heartbeat then carries only figures.
    fn next_message(&mut self) -> Option<session_request::Message> {
        if let Some(message) = self.endpoints_applied() {
            return Some(message);
        }
        if let Some(reason) = self.resync.take() {
            return Some(session_request::Message::Resync(v1::Resync { reason }));
        }
        let (reports, more) = {
            let held = self.holdings.borrow_and_update();
            self.told_urgent = held.urgent;
            self.told.next(&held.news)
        };
        self.more = more;
        if !reports.is_empty() {
            let instances = reports.iter().map(v1::InstanceReport::from).collect();
            return Some(session_request::Message::Report(v1::Report { instances }));
        }
        std::mem::take(&mut self.beat_due).then(|| session_request::Message::Heartbeat(self.heartbeat()))
    }

    fn endpoints_applied(&mut self) -> Option<session_request::Message> {
        let applied = self.applied.as_mut()?;
        if !applied.has_changed().unwrap_or(false) {
            return None;
        }
        let Applied { generation, busy } = &*applied.borrow_and_update();
        Some(session_request::Message::EndpointsApplied(v1::EndpointsApplied {
            generation: *generation,
            busy_instance_ids: busy.iter().map(ToString::to_string).collect(),
        }))
    }

    /// Whatever was measured last; nobody waits for a measurement.
    fn heartbeat(&mut self) -> v1::Heartbeat {
        let balancer = self.parts.balancer.as_ref();
        let load = balancer.map(|balancer| (&balancer.meter().report(crate::usage::now())).into());
        let usage = &mut self.parts.usage;
        if !usage.has_changed().unwrap_or(false) {
            return v1::Heartbeat { load, ..v1::Heartbeat::default() };
        }
        let usage = usage.borrow_and_update();
        v1::Heartbeat {
            host: (usage.host.at.unix_ms() > 0).then(|| (&usage.host).into()),
            instances: usage.instances.iter().map(v1::InstanceUsage::from).collect(),
            load,
        }
    }

    async fn receive(&mut self, wire: v1::SessionResponse) -> Result<(), End> {
        match wire.message.ok_or(InvalidMessage::Missing { field: "message" })? {
            Message::Heartbeat(v1::HeartbeatAnswer { term }) => self.check_term(term),
            Message::Set(set) => self.assign(set.try_into()?).await,
            Message::Delta(delta) => self.assign(delta.try_into()?).await,
            Message::Endpoints(update) => self.balance(update.try_into()?).await,
            Message::StartLogs(start) => {
                self.parts.logs.start(self.address, start);
                Ok(())
            }
            Message::StartExec(start) => {
                self.parts.exec.start(self.address, start);
                Ok(())
            }
            Message::Redirect(v1::Redirect { leader, masters }) => Err(End::Redirected { leader, masters }),
            Message::Welcome(_) => Err(invalid("message", "a second Welcome").into()),
        }
    }

    /// A leader leads in one term; another term means that messages got mixed up.
    fn check_term(&self, sent: u64) -> Result<(), End> {
        let term = self.welcome.term;
        if sent == term { Ok(()) } else { Err(End::OtherTerm { term, sent }) }
    }

    async fn assign(&mut self, update: AssignmentUpdate) -> Result<(), End> {
        self.check_term(update.term)?;
        let verdict = self.parts.worker.assign(update).await.ok_or(End::Ending)?;
        self.heed(verdict)
    }

    async fn balance(&mut self, update: EndpointsUpdate) -> Result<(), End> {
        self.check_term(update.term)?;
        let Some(balancer) = &self.parts.balancer else { return Ok(()) };
        let verdict = balancer.apply(update).await.ok_or(End::Ending)?;
        self.heed(verdict)
    }

    fn heed(&mut self, verdict: Verdict) -> Result<(), End> {
        match verdict {
            Verdict::Accepted | Verdict::Known => Ok(()),
            Verdict::LowerTerm { obeyed, offered } => {
                Err(End::NotObeyed(JoinError::LowerTerm { obeyed, offered }))
            }
            Verdict::Gap { held, from } => {
                self.resync = Some(format!("generation {held} is held, the delta is from {from}"));
                Ok(())
            }
        }
    }
}

/// Ends when the balancer goes by something else; never without a balancer. A change that was seen is told before the
/// next one is waited for (`has_something`).
async fn changed(applied: &mut Option<watch::Receiver<Applied>>) {
    let seen = match applied {
        Some(applied) => applied.changed().await,
        None => std::future::pending().await,
    };
    match (seen, applied) {
        (Ok(()), Some(applied)) => applied.mark_changed(),
        _ => std::future::pending().await,
    }
}
