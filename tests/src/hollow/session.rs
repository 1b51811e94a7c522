//! One hollow agent and its session.
//!
//! Invariant: as the protocol says (`agent.proto`): Hello, Welcome, sets and deltas by term and
//! generation, heartbeats, reports as things happen.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use skein_agent_core::{EndpointTable, NodeState, ProbeOutcome, ProbeResult, ProbeRun, Verdict};
use skein_common::{
    ClusterId, InstanceId, NodeId, Timestamp, assignment::AssignmentUpdate, endpoint::EndpointsUpdate,
    instance::InstanceReport, node::NodeDescription,
};
use skein_proto::{
    convert::{Hello, duration_from_wire},
    v1::{
        self, SessionRequest, SessionResponse, agent_service_client::AgentServiceClient, session_request,
        session_response::Message,
    },
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{self, Instant},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

use super::{AppliedEndpoints, engine::HollowEngine};

const PROTOCOL: u32 = 1;
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages of ours that wait for the stream.
const QUEUE: usize = 16;
const LARGEST_MESSAGE: usize = 64 << 20;
/// Heartbeats that may go unanswered.
const MISSED: u32 = 3;

#[derive(Debug)]
pub(super) struct HollowAgent {
    id: NodeId,
    description: NodeDescription,
    incarnation: u64,
    cluster: Option<ClusterId>,
    core: NodeState,
    engine: HollowEngine,
    untold: BTreeSet<InstanceId>,
    number: usize,
    endpoints: EndpointTable,
    applied: Option<mpsc::UnboundedSender<AppliedEndpoints>>,
}

struct Stream {
    requests: mpsc::Sender<SessionRequest>,
    responses: Streaming<SessionResponse>,
}

impl HollowAgent {
    pub(super) fn new(
        id: NodeId,
        description: NodeDescription,
        number: usize,
        applied: Option<mpsc::UnboundedSender<AppliedEndpoints>>,
    ) -> Self {
        let (mut core, mut engine) = (NodeState::default(), HollowEngine::default());
        core.look(engine.list());
        let incarnation = now().unix_ms();
        let (untold, endpoints) = (BTreeSet::new(), EndpointTable::default());
        Self { id, description, incarnation, cluster: None, core, engine, untold, number, endpoints, applied }
    }

    /// Until the session ends; names the leader when this master is not it.
    pub(super) async fn attend(&mut self, master: &str, dials: &Semaphore) -> Result<Option<String>> {
        let mut stream = {
            let _turn = dials.acquire().await?;
            self.dial(master).await?
        };
        let welcome = match self.hear(&mut stream, DIAL_TIMEOUT).await? {
            Message::Welcome(welcome) => welcome,
            Message::Redirect(redirect) => {
                return Ok(Some(redirect.leader).filter(|leader| !leader.is_empty()));
            }
            _ => bail!("the first word was no Welcome"),
        };
        self.cluster = Some(welcome.cluster_id.parse()?);
        self.endpoints.begin_session();
        if self.core.begin_session(welcome.term).is_err() {
            bail!("term {} is over", welcome.term);
        }
        let interval = welcome.heartbeat_interval.context("heartbeat_interval")?;
        let interval = duration_from_wire("heartbeat_interval", interval)?;
        self.follow(&mut stream, interval).await
    }

    async fn dial(&mut self, master: &str) -> Result<Stream> {
        let endpoint = Endpoint::from_shared(format!("http://{master}"))?.connect_timeout(DIAL_TIMEOUT);
        let channel = endpoint.connect().await?;
        let (requests, outbound) = mpsc::channel(QUEUE);
        self.untold.clear();
        let held: Vec<_> = self.core.held().collect();
        let hello = Hello {
            protocol: PROTOCOL,
            cluster_id: self.cluster,
            node_id: self.id,
            incarnation: self.incarnation,
            term: self.core.assignments().term(),
            description: self.description.clone(),
            instances: held.into_iter().filter_map(|instance| self.report(instance)).collect(),
        };
        send(&requests, session_request::Message::Hello((&hello).into())).await?;
        let mut client = AgentServiceClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
        let answer = client.session(ReceiverStream::new(outbound));
        let responses = time::timeout(DIAL_TIMEOUT, answer).await??.into_inner();
        Ok(Stream { requests, responses })
    }

    async fn hear(&self, stream: &mut Stream, patience: Duration) -> Result<Message> {
        let response = time::timeout(patience, stream.responses.message()).await.context("silence")??;
        response.context("the stream ended")?.message.context("an empty message")
    }

    async fn follow(&mut self, stream: &mut Stream, interval: Duration) -> Result<Option<String>> {
        // Spread over the interval, as agents that started at different times are.
        let phase = interval.mul_f64(rand::random::<f64>());
        let mut beat = time::interval_at(Instant::now() + phase, interval);
        beat.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        self.turn(stream).await?;
        loop {
            tokio::select! {
                response = stream.responses.message() => {
                    heard = Instant::now();
                    let message = response?.context("the stream ended")?.message.context("an empty message")?;
                    if let Message::Redirect(redirect) = message {
                        return Ok(Some(redirect.leader).filter(|leader| !leader.is_empty()));
                    }
                    self.obey(stream, message).await?;
                }
                _ = beat.tick() => {
                    if heard.elapsed() > interval * MISSED {
                        bail!("the leader is silent");
                    }
                    send(&stream.requests, session_request::Message::Heartbeat(v1::Heartbeat::default())).await?;
                }
            }
        }
    }

    async fn obey(&mut self, stream: &Stream, message: Message) -> Result<()> {
        let update: AssignmentUpdate = match message {
            Message::Set(set) => set.try_into()?,
            Message::Delta(delta) => delta.try_into()?,
            Message::Endpoints(update) => return self.balance(stream, update.try_into()?).await,
            Message::Welcome(_)
            | Message::Redirect(_)
            | Message::Heartbeat(_)
            | Message::StartLogs(_)
            | Message::StartExec(_) => {
                return Ok(());
            }
        };
        match self.core.assign(update) {
            Verdict::Accepted => self.turn(stream).await,
            Verdict::Known => Ok(()),
            Verdict::LowerTerm { obeyed, offered } => bail!("term {offered} after {obeyed}"),
            Verdict::Gap { held, from } => {
                let reason = format!("holds {held}, was told from {from}");
                send(&stream.requests, session_request::Message::Resync(v1::Resync { reason })).await
            }
        }
    }

    /// Goes by it at once, with nothing under way.
    async fn balance(&mut self, stream: &Stream, update: EndpointsUpdate) -> Result<()> {
        if self.endpoints.apply(update) != Verdict::Accepted {
            bail!("endpoints that do not follow on those before");
        }
        let services = self.endpoints.services();
        let endpoints = services.flat_map(|service| &service.ports).map(|port| port.endpoints.len()).sum();
        if let Some(applied) = &self.applied {
            let _ = applied.send(AppliedEndpoints { agent: self.number, endpoints, at: Instant::now() });
        }
        let (generation, busy_instance_ids) = (self.endpoints.generation(), Vec::new());
        let told = v1::EndpointsApplied { generation, busy_instance_ids };
        send(&stream.requests, session_request::Message::EndpointsApplied(told)).await
    }

    /// Does everything there is to do, and reports what came of it.
    async fn turn(&mut self, stream: &Stream) -> Result<()> {
        let now = now();
        loop {
            let plan = self.core.reconcile(now);
            self.untold.extend(plan.changed);
            if plan.actions.is_empty() && plan.probes.is_empty() {
                break;
            }
            for action in plan.actions {
                let finished = self.engine.perform(action, now);
                self.core.finish(finished, now);
            }
            for ProbeRun { instance, container, kind, .. } in plan.probes {
                let outcome = ProbeOutcome::Passed;
                self.core.probed(ProbeResult { instance, container, kind, outcome }, now);
            }
        }
        let untold = std::mem::take(&mut self.untold);
        let instances: Vec<_> = untold
            .into_iter()
            .filter_map(|id| self.report(id))
            .map(|r| v1::InstanceReport::from(&r))
            .collect();
        if instances.is_empty() {
            return Ok(());
        }
        send(&stream.requests, session_request::Message::Report(v1::Report { instances })).await
    }

    fn report(&self, instance: InstanceId) -> Option<InstanceReport> {
        Some(InstanceReport { instance, news: self.core.news(instance)? })
    }
}

async fn send(requests: &mpsc::Sender<SessionRequest>, message: session_request::Message) -> Result<()> {
    requests.send(SessionRequest { message: Some(message) }).await.ok().context("the stream ended")
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
