//! One agent's session: Hello, Welcome, the whole set, then increments, heartbeats and reports.
//!
//! Invariant: an agent is told nothing before its node is registered and its session entered the
//! registry, so no change falls between the set and the first increment. What it reports is handed
//! on in order. A message that breaks the contract ends this session and nothing else.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use skein_common::{
    InstanceId, SessionId,
    assignment::AssignmentUpdate,
    instance::{Desired, InstanceReport, News},
    load::LoadReport,
    node::Liveness,
    usage::{HostUsage, InstanceUsage},
};
use skein_master_core::{
    Command, CommandKind,
    command::{Actor, Report},
    endpoints::ToldEndpoints,
    told::Told,
};
use skein_proto::{
    AGENT_PROTOCOL, InvalidMessage, MAX_MESSAGE_BYTES,
    convert::{Hello, duration_to_wire},
    v1::{self, session_request, session_response::Message},
};
use tokio::time::{sleep_until, timeout};
use tonic::Streaming;

use super::{masters, registry::Mailbox};
use crate::{
    clock,
    leadership::Leading,
    outbox::{NotQueued, Outbox},
    status::{CallError, SessionError, end_of_stream},
};

/// An agent that connects says Hello within this.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Heartbeats that may be missed.
const MISSED: u32 = 3;
/// Longest text of a report that is kept: it goes through the log.
const MAX_TEXT_BYTES: usize = 4096;

type Inbound = Streaming<v1::SessionRequest>;

/// Why a session ends.
#[derive(Debug)]
pub enum End {
    /// The agent is gone; there is nobody to tell.
    Gone,
    Failed(CallError),
}

impl<E: Into<CallError>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl End {
    fn not_queued(why: NotQueued) -> Self {
        match why {
            NotQueued::Gone => Self::Gone,
            NotQueued::Slow => SessionError::NotReading.into(),
        }
    }
}

/// The stream of an agent that has been let in.
struct Session<'a> {
    leading: Arc<Leading>,
    outbox: &'a Outbox<v1::SessionResponse>,
    entry: Entry,
    told: Told,
    told_endpoints: ToldEndpoints,
    /// By which entry of the book its balancer goes.
    heard_number: u64,
    interval: Duration,
    last_heard: Instant,
}

/// The node's place in the registry; given up when the session ends, however it ends.
struct Entry {
    leading: Arc<Leading>,
    mailbox: Arc<Mailbox>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.leading.sessions.leave(&self.mailbox) {
            self.leading.drains.lost(self.mailbox.node);
            self.leading.usage.forget(self.mailbox.node);
            self.leading.load.forget(self.mailbox.node);
        }
    }
}

/// Serves one stream until it ends.
pub async fn serve(
    leading: Arc<Leading>,
    outbox: &Outbox<v1::SessionResponse>,
    mut inbound: Inbound,
) -> Result<(), End> {
    let hello = greet(&leading, &mut inbound).await?;
    register(&leading, &hello).await?;
    let mut session = Session::enter(leading, outbox, &hello)?;
    session.open(hello).await?;
    session.attend(&mut inbound).await
}

/// The Hello of an agent that may come in.
async fn greet(leading: &Leading, inbound: &mut Inbound) -> Result<Hello, End> {
    let late = |_| SessionError::NoHello { within: HELLO_WITHIN };
    let first = timeout(HELLO_WITHIN, inbound.message()).await.map_err(late)?;
    let first = first.map_err(|status| end_of_stream(status).map_or(End::Gone, End::Failed))?;
    let Some(session_request::Message::Hello(wire)) = first.ok_or(End::Gone)?.message else {
        return Err(SessionError::NoHello { within: HELLO_WITHIN }.into());
    };
    let hello = Hello::try_from(wire)?;
    if hello.protocol != AGENT_PROTOCOL {
        return Err(SessionError::OtherProtocol { ours: AGENT_PROTOCOL, theirs: hello.protocol }.into());
    }
    if let Some(theirs) = hello.cluster_id.filter(|theirs| *theirs != leading.cluster_id) {
        let (ours, theirs) = (leading.cluster_id.to_string(), theirs.to_string());
        return Err(SessionError::OtherCluster { ours, theirs }.into());
    }
    if hello.term > leading.term {
        return Err(SessionError::OldTerm { theirs: hello.term, ours: leading.term }.into());
    }
    Ok(hello)
}

/// Writes down what the agent says of its machine, unless that is known: after a change of leader
/// all agents come back and none of them has news.
async fn register(leading: &Leading, hello: &Hello) -> Result<(), CallError> {
    let known = leading.store.snapshot().node(hello.node_id).is_some_and(|node| {
        node.incarnation == hello.incarnation
            && node.liveness == Liveness::Ready
            && node.description == hello.description
    });
    if known {
        return Ok(());
    }
    let kind = CommandKind::RegisterNode {
        id: hello.node_id,
        description: Arc::new(hello.description.clone()),
        incarnation: hello.incarnation,
    };
    let command = Command { request: None, at: clock::now(), actor: Actor::Agent(hello.node_id), kind };
    leading.store.propose(command).await?.outcome?;
    Ok(())
}

impl<'a> Session<'a> {
    fn enter(
        leading: Arc<Leading>,
        outbox: &'a Outbox<v1::SessionResponse>,
        hello: &Hello,
    ) -> Result<Self, SessionError> {
        let session = SessionId::from_random(clock::random());
        let mailbox =
            Arc::new(Mailbox::new(session, hello.node_id, hello.incarnation, hello.description.balances));
        leading.sessions.enter(mailbox.clone())?;
        let agents = leading.store.snapshot().node_count().max(leading.sessions.len());
        let (node, term) = (hello.node_id, leading.term);
        Ok(Self {
            interval: leading.liveness.heartbeat(agents),
            told: Told::new(node, term),
            told_endpoints: ToldEndpoints::new(term),
            heard_number: 0,
            entry: Entry { leading: leading.clone(), mailbox },
            last_heard: Instant::now(),
            outbox,
            leading,
        })
    }

    /// Welcome, the whole set, and what the Hello told.
    async fn open(&mut self, hello: Hello) -> Result<(), End> {
        self.leading.heard.mark(hello.node_id);
        self.send(Message::Welcome(v1::Welcome {
            cluster_id: self.leading.cluster_id.to_string(),
            session_id: self.entry.mailbox.session.to_string(),
            term: self.leading.term,
            heartbeat_interval: Some(duration_to_wire(self.interval)),
            masters: masters(&self.leading.store),
        }))
        .await?;
        self.tell_everything().await?;
        let gone = self.removed_and_not_held(&hello.instances);
        self.report(hello.instances.into_iter().chain(gone)).await
    }

    /// What was to be removed and left no trace on the node: the agent cannot know to say so.
    fn removed_and_not_held(&self, held: &[InstanceReport]) -> Vec<InstanceReport> {
        let held: BTreeSet<_> = held.iter().map(|report| report.instance).collect();
        let state = self.leading.store.snapshot();
        let gone = state
            .instances_on(self.entry.mailbox.node)
            .filter(|instance| instance.desired == Desired::Remove && !held.contains(&instance.id))
            .map(|instance| InstanceReport { instance: instance.id, news: News::Gone });
        gone.collect()
    }

    async fn attend(&mut self, inbound: &mut Inbound) -> Result<(), End> {
        let patience = self.interval * MISSED;
        let silence = sleep_until((self.last_heard + patience).into());
        tokio::pin!(silence);
        loop {
            tokio::select! {
                message = inbound.message() => match message {
                    Ok(Some(message)) => self.receive(message).await?,
                    Ok(None) => return Err(End::Gone),
                    Err(status) => return Err(end_of_stream(status).map_or(End::Gone, End::Failed)),
                },
                () = self.entry.mailbox.woken() => self.empty_inbox().await?,
                // Fires once in `patience`, not with every message: there are thousands of these.
                () = &mut silence => {
                    if self.last_heard.elapsed() >= patience {
                        return Err(SessionError::Silent { silence: patience }.into());
                    }
                    silence.as_mut().reset((self.last_heard + patience).into());
                }
            }
        }
    }

    async fn receive(&mut self, wire: v1::SessionRequest) -> Result<(), End> {
        self.last_heard = Instant::now();
        self.leading.heard.mark(self.entry.mailbox.node);
        match wire.message.ok_or(SessionError::Empty)? {
            session_request::Message::Hello(_) => Err(SessionError::SecondHello.into()),
            session_request::Message::Heartbeat(heartbeat) => self.beat(heartbeat).await,
            session_request::Message::Report(report) => {
                let reports = report.instances.into_iter().map(InstanceReport::try_from);
                self.report(reports.collect::<Result<Vec<_>, InvalidMessage>>()?).await
            }
            session_request::Message::EndpointsApplied(applied) => {
                let busy = applied.busy_instance_ids.iter().map(|id| instance_id(id));
                let busy = busy.collect::<Result<BTreeSet<_>, InvalidMessage>>()?;
                if let Some(number) = self.told_endpoints.heard(applied.generation) {
                    self.heard_number = number;
                }
                let node = self.entry.mailbox.node;
                self.leading.drains.heard(node, self.heard_number, busy);
                Ok(())
            }
            session_request::Message::Resync(resync) => {
                let node = self.entry.mailbox.node;
                tracing::info!(%node, reason = resync.reason, "an agent asks for its whole set");
                self.tell_everything().await
            }
        }
    }

    async fn beat(&mut self, wire: v1::Heartbeat) -> Result<(), End> {
        let host = wire.host.map(HostUsage::try_from).transpose()?;
        let instances = wire.instances.into_iter().map(InstanceUsage::try_from);
        let instances = instances.collect::<Result<Vec<_>, InvalidMessage>>()?;
        self.leading.usage.record(self.entry.mailbox.node, host, instances);
        if let Some(load) = wire.load.map(LoadReport::try_from).transpose()? {
            self.leading.load.record(self.entry.mailbox.node, load);
        }
        self.send(Message::Heartbeat(v1::HeartbeatAnswer { term: self.leading.term })).await
    }

    async fn report(&self, reports: impl IntoIterator<Item = InstanceReport>) -> Result<(), End> {
        let node = self.entry.mailbox.node;
        let reports: Vec<_> = reports
            .into_iter()
            .map(|report| Report { node, instance: report.instance, news: shortened(report.news) })
            .collect();
        // Waits while the observer is behind: then the agent is not read from either.
        if self.leading.reports.send(reports).await { Ok(()) } else { Err(CallError::Stopping.into()) }
    }

    async fn empty_inbox(&mut self) -> Result<(), End> {
        let inbox = self.entry.mailbox.take();
        if inbox.replaced {
            return Err(SessionError::Replaced.into());
        }
        for start in inbox.logs {
            self.send(Message::StartLogs(start)).await?;
        }
        for start in inbox.execs {
            self.send(Message::StartExec(start)).await?;
        }
        let state = self.leading.store.snapshot();
        if state.node(self.entry.mailbox.node).is_none() {
            return Err(SessionError::NodeRemoved.into());
        }
        let update = if inbox.everything {
            self.told.difference_of_all(&state, &self.leading.drains.lock())
        } else {
            self.told.difference(&state, &self.leading.drains.lock(), inbox.changed)
        };
        if let Some(update) = update {
            self.tell(&update).await?;
        }
        let endpoints =
            inbox.endpoints.then(|| self.told_endpoints.difference(&self.leading.endpoints.lock())).flatten();
        match endpoints {
            Some(update) => self.send_bounded(Message::Endpoints((&update).into())).await,
            None => Ok(()),
        }
    }

    async fn tell_everything(&mut self) -> Result<(), End> {
        let state = self.leading.store.snapshot();
        // Removed before this session was in the registry, so nobody could tell it.
        if state.node(self.entry.mailbox.node).is_none() {
            return Err(SessionError::NodeRemoved.into());
        }
        let update = self.told.everything(&state, &self.leading.drains.lock());
        self.tell(&update).await?;
        if !self.entry.mailbox.balances {
            return Ok(());
        }
        let update = self.told_endpoints.everything(&self.leading.endpoints.lock());
        self.send_bounded(Message::Endpoints((&update).into())).await
    }

    async fn tell(&self, update: &AssignmentUpdate) -> Result<(), End> {
        self.send_bounded(Message::from(update)).await
    }

    async fn send_bounded(&self, message: Message) -> Result<(), End> {
        let bytes = message.encoded_len();
        if bytes >= MAX_MESSAGE_BYTES {
            return Err(SessionError::Oversized { bytes, limit: MAX_MESSAGE_BYTES }.into());
        }
        self.send(message).await
    }

    async fn send(&self, message: Message) -> Result<(), End> {
        let message = v1::SessionResponse { message: Some(message) };
        self.outbox.send(message, self.interval * MISSED).await.map_err(End::not_queued)
    }
}

fn instance_id(text: &str) -> Result<InstanceId, InvalidMessage> {
    let field = "busy_instance_ids";
    text.parse().map_err(|error: skein_common::id::ParseIdError| InvalidMessage::Invalid {
        field,
        reason: error.to_string(),
    })
}

fn shortened(news: News) -> News {
    match news {
        News::Observed(mut observed) if observed.message.len() > MAX_TEXT_BYTES => {
            let end = observed.message.floor_char_boundary(MAX_TEXT_BYTES);
            observed.message.truncate(end);
            News::Observed(observed)
        }
        other => other,
    }
}
