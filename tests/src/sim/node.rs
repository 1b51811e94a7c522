//! A machine: its engine, and the agent's shell around the agent's core.
//!
//! Invariant: what the shell does here is what `skein-agent` does: one look when it starts, one
//! `reconcile` after every input; the checkpoint is written a little later, but before a new leader
//! is obeyed and before the end of an instance or a new attempt is told.
//! Deliberately not here: decisions (`skein_agent_core`), what goes wrong (`chaos`).

use std::{collections::BTreeSet, sync::Arc};

use skein_agent_core::{
    Action, Checkpoint, ContainerStatus, Finished, Glance, Health, Look, NodeState, ProbeOutcome,
    ProbeResult, ProbeRun, RuntimeError, Sequence, Success, Verdict,
};
use skein_common::{
    InstanceId, NodeId, Timestamp,
    assignment::{AssignmentContent, AssignmentUpdate},
    instance::{InstanceReport, News, Progress},
    node::NodeDescription,
    service::ProbeKind,
};

use super::{
    Event, World,
    balancers::Balancer,
    check,
    engine::Engine,
    network::{Message, StreamId, Way},
};

const HEARTBEAT: u64 = 2_000;
const SILENCE: u64 = 3 * HEARTBEAT;
const RELIST: u64 = 30_000;
const MASTERS: u64 = 3;

#[derive(Debug)]
pub struct Node {
    pub id: NodeId,
    pub name: String,
    pub description: Arc<NodeDescription>,
    /// Milliseconds its clock is ahead of the truth's, plus a constant.
    pub skew: u64,
    pub powered: bool,
    /// No message passes in this direction.
    pub cut: [bool; 2],
    pub engine: Engine,
    /// Counts starts of the agent: what began in an earlier life has no one to return to.
    pub life: u64,
    pub agent: Option<Agent>,
    pub checkpoint: Checkpoint,
    /// Highest term ever obeyed, as seen from outside.
    pub obeyed: u64,
}

#[derive(Debug)]
pub struct Agent {
    pub core: NodeState,
    sequence: u64,
    pub stream: Option<Open>,
    hint: Option<usize>,
    /// Changed since the Hello and not told: a report must not overtake the Welcome.
    untold: BTreeSet<InstanceId>,
    /// A write of the checkpoint is to come.
    storing: bool,
    /// When it is to be woken, by the truth's clock: probes would have it woken ever more often.
    waking: Option<u64>,
    pub balancer: Balancer,
}

#[derive(Debug)]
pub struct Open {
    pub id: StreamId,
    pub welcomed: bool,
    heard: u64,
    /// Generation obeyed last in this stream.
    generation: Option<u64>,
}

impl Agent {
    fn draw(&mut self) -> Sequence {
        self.sequence += 1;
        Sequence(self.sequence)
    }
}

impl World {
    /// The clock of a node.
    pub(super) fn node_time(&self, node: usize) -> Timestamp {
        self.wall(self.nodes[node].skew)
    }

    /// The agent as long as it is in that life.
    pub(super) fn agent(&mut self, node: usize, life: u64) -> Option<&mut Agent> {
        let node = &mut self.nodes[node];
        if node.life == life { node.agent.as_mut() } else { None }
    }

    pub(super) fn start_agent(&mut self, index: usize) {
        let now = self.node_time(index);
        let node = &mut self.nodes[index];
        if !node.powered || node.agent.is_some() {
            return;
        }
        node.life += 1;
        let life = node.life;
        let core = NodeState::restore(check::reread(&node.checkpoint), now);
        node.agent = Some(Agent {
            core,
            sequence: 0,
            stream: None,
            hint: None,
            untold: BTreeSet::new(),
            storing: false,
            waking: None,
            balancer: Balancer::default(),
        });
        self.note(format!("{} agent starts", self.nodes[index].name));
        self.after(0, 20, Event::Relist { node: index, life });
        self.after(0, 300, Event::Dial { node: index, life });
        self.after(0, HEARTBEAT, Event::Beat { node: index, life });
    }

    pub(super) fn crash_agent(&mut self, node: usize) {
        let Some(agent) = self.nodes[node].agent.take() else { return };
        self.nodes[node].life += 1;
        if let Some(open) = agent.stream.filter(|_| self.nodes[node].powered) {
            self.send(open.id, Way::ToMaster, Message::Closed);
        }
    }

    pub(super) fn dial(&mut self, node: usize, life: u64) {
        let Some(agent) = self.agent(node, life).filter(|agent| agent.stream.is_none()) else { return };
        let hint = agent.hint.take();
        let master = hint.unwrap_or_else(|| self.dice.index(3));
        let id = self.network.open(node, life, master);
        let (heard, incarnation) = (self.now, life);
        // What is told is on disk.
        self.store(node, life);
        let Some(agent) = self.agent(node, life) else { return };
        agent.stream = Some(Open { id, welcomed: false, heard, generation: None });
        agent.untold.clear();
        let term = agent.core.assignments().term();
        let held: Vec<InstanceId> = agent.core.held().collect();
        let held = held
            .into_iter()
            .filter_map(|instance| Some(InstanceReport { instance, news: agent.core.news(instance)? }))
            .collect();
        self.send(id, Way::ToMaster, Message::Hello { incarnation, term, held });
    }

    /// Ends the stream and dials again a little later.
    pub(super) fn hang_up(&mut self, node: usize, life: u64) {
        let Some(open) = self.agent(node, life).and_then(|agent| agent.stream.take()) else { return };
        self.send(open.id, Way::ToMaster, Message::Closed);
        self.after(10, 1_500, Event::Dial { node, life });
    }

    pub(super) fn beat(&mut self, node: usize, life: u64) {
        let now = self.now;
        let Some(agent) = self.agent(node, life) else { return };
        let open = agent.stream.as_ref().map(|open| (open.id, open.welcomed, now - open.heard > SILENCE));
        match open {
            Some((_, _, true)) => self.hang_up(node, life),
            Some((id, true, false)) => self.send(id, Way::ToMaster, Message::Heartbeat),
            Some((_, false, false)) | None => {}
        }
        self.after(HEARTBEAT, HEARTBEAT + 1, Event::Beat { node, life });
    }

    pub(super) fn agent_receives(&mut self, stream: StreamId, message: Message) {
        let Some((node, life)) = self.network.streams.get(&stream).map(|known| (known.node, known.life))
        else {
            return;
        };
        let now = self.now;
        let open = self.agent(node, life).and_then(|agent| agent.stream.as_mut());
        let Some(open) = open.filter(|open| open.id == stream) else { return };
        open.heard = now;
        match message {
            // Said once.
            Message::Welcome { .. } if open.welcomed => {}
            Message::Welcome { term } => self.welcomed(node, life, term),
            Message::Redirect { leader } => {
                if let Some(agent) = self.agent(node, life) {
                    agent.hint = leader;
                }
                self.hang_up(node, life);
            }
            // The first word of a leader is Welcome.
            Message::Assign(_) if !open.welcomed => self.hang_up(node, life),
            Message::Assign(update) => self.assigned(node, life, stream, update),
            Message::Endpoints(_) if !open.welcomed => self.hang_up(node, life),
            Message::Endpoints(update) => self.told_endpoints(node, life, stream, update),
            Message::Closed => self.hang_up(node, life),
            Message::HeartbeatAnswer => {}
            Message::Hello { .. }
            | Message::Heartbeat
            | Message::Report(_)
            | Message::Resync
            | Message::EndpointsApplied { .. } => {}
        }
    }

    fn welcomed(&mut self, node: usize, life: u64, term: u64) {
        let Some(agent) = self.agent(node, life) else { return };
        if agent.core.begin_session(term).is_err() {
            self.note(format!("{} refuses term {term}", self.nodes[node].name));
            return self.hang_up(node, life);
        }
        if let Some(open) = &mut agent.stream {
            open.welcomed = true;
        }
        self.obeys(node, term);
        self.begin_balancing(node, life);
        self.store(node, life);
        self.turn(node, life);
    }

    fn obeys(&mut self, node: usize, term: u64) {
        let known = self.nodes[node].obeyed;
        if term < known {
            self.fail(format!("{} obeys term {term} after {known}", self.nodes[node].name));
        }
        self.nodes[node].obeyed = known.max(term);
    }

    fn assigned(&mut self, node: usize, life: u64, stream: StreamId, update: AssignmentUpdate) {
        let (term, generation) = (update.term, update.generation);
        let full = matches!(update.content, AssignmentContent::Full(_));
        let Some(agent) = self.agent(node, life) else { return };
        match agent.core.assign(update) {
            Verdict::Accepted => {
                let open = agent.stream.as_mut().map(|open| open.generation.replace(generation));
                if let Some(Some(before)) = open
                    && (generation < before || (generation == before && !full))
                {
                    let name = &self.nodes[node].name;
                    self.fail(format!("{name} obeys generation {generation} after {before}"));
                }
                self.obeys(node, term);
                self.turn(node, life);
            }
            Verdict::Known => {}
            Verdict::LowerTerm { .. } => self.hang_up(node, life),
            Verdict::Gap { .. } => self.send(stream, Way::ToMaster, Message::Resync),
        }
    }

    /// The newest state comes to the disk.
    pub(super) fn store(&mut self, node: usize, life: u64) {
        let Some(agent) = self.agent(node, life) else { return };
        agent.storing = false;
        let checkpoint = agent.core.checkpoint();
        self.nodes[node].checkpoint = checkpoint;
    }

    /// One pass of the agent, and what follows from it.
    pub(super) fn turn(&mut self, node: usize, life: u64) {
        let now = self.node_time(node);
        let Some(agent) = self.agent(node, life) else { return };
        let plan = agent.core.reconcile(now);
        agent.untold.extend(&plan.changed);
        let stream = agent.stream.as_ref().filter(|open| open.welcomed).map(|open| open.id);
        let told = if stream.is_some() { std::mem::take(&mut agent.untold) } else { BTreeSet::new() };
        let news = |instance: InstanceId| Some(InstanceReport { instance, news: agent.core.news(instance)? });
        let news: Vec<_> = told.into_iter().filter_map(news).collect();
        let storing = std::mem::replace(&mut agent.storing, true);
        let checkpoint = &self.nodes[node].checkpoint;
        let insists = news.iter().any(|report| !is_repeatable(checkpoint, report));
        if insists {
            self.store(node, life);
        } else if !storing {
            self.after(1, 300, Event::Store { node, life });
        }
        if let Some(stream) = stream.filter(|_| !news.is_empty()) {
            self.send(stream, Way::ToMaster, Message::Report(news));
        }
        for action in plan.actions {
            self.begin(node, life, action);
        }
        for run in plan.probes {
            self.probe(node, life, run);
        }
        let Some(at) = plan.wake_at else { return };
        let (wait, truth) = (at.unix_ms().saturating_sub(now.unix_ms()), self.now);
        let Some(agent) = self.agent(node, life) else { return };
        if agent.waking.is_none_or(|known| known < truth || known > truth + wait) {
            agent.waking = Some(truth + wait);
            self.after(wait, wait + 1, Event::Wake { node, life });
        }
    }

    pub(super) fn wake(&mut self, node: usize, life: u64) {
        let Some(agent) = self.agent(node, life) else { return };
        agent.waking = None;
        self.turn(node, life);
    }

    /// What is asked while trouble lasts may fail, or not be asked at all.
    fn probe(&mut self, node: usize, life: u64, run: ProbeRun) {
        let failing = match run.kind {
            ProbeKind::Readiness => 40,
            ProbeKind::Startup | ProbeKind::Liveness if self.illness => 25,
            ProbeKind::Startup | ProbeKind::Liveness => 0,
        };
        let outcome = match (self.calm, self.nodes[node].engine.unavailable) {
            (true, _) => ProbeOutcome::Passed,
            (false, true) => ProbeOutcome::Unknown,
            (false, false) if self.dice.percent(failing) => ProbeOutcome::Failed("503".to_owned()),
            (false, false) => ProbeOutcome::Passed,
        };
        let ProbeRun { instance, container, kind, .. } = run;
        if kind != ProbeKind::Readiness && matches!(outcome, ProbeOutcome::Failed(_)) {
            self.unhealthy.insert(container.clone());
        }
        let result = ProbeResult { instance, container, kind, outcome };
        self.after(1, 900, Event::Probed { node, life, result });
    }

    pub(super) fn probed(&mut self, node: usize, life: u64, result: ProbeResult) {
        let now = self.node_time(node);
        let Some(agent) = self.agent(node, life) else { return };
        agent.core.probed(result, now);
        self.turn(node, life);
    }

    fn begin(&mut self, node: usize, life: u64, action: Action) {
        let slow = if self.nodes[node].engine.slow { 40 } else { 1 };
        let most = match &action {
            Action::Pull { .. } => 3_000,
            Action::Create { .. } | Action::Start { .. } => 120,
            Action::Stop { grace, .. } => u64::try_from(grace.as_millis()).unwrap_or(10_000),
            Action::Remove { .. } => 60,
        };
        self.after(5, most * slow, Event::Effect { node, life, action });
    }

    /// The engine does it, whether its client still lives or not.
    pub(super) fn take_effect(&mut self, node: usize, life: u64, action: Action) {
        if !self.nodes[node].powered {
            return;
        }
        self.check_action(node, &action);
        if let Action::Start { container, .. } = &action
            && self.nodes[node].life != life
        {
            self.late_starts.insert(container.clone());
        }
        let now = self.node_time(node);
        let outcome = self.nodes[node].engine.perform(&action, now, &mut self.dice);
        self.note(format!(
            "{} {} → {}",
            self.nodes[node].name,
            check::tell(&action),
            check::tell_end(&outcome)
        ));
        if let (Action::Start { container, .. }, Ok(_)) = (&action, &outcome)
            && self.nodes[node].engine.has_check(container)
        {
            let container = container.clone();
            self.after(200, 4_000, Event::HealthCheck { node, container });
        }
        if let (Action::Start { container, instance }, Ok(_)) = (&action, &outcome) {
            self.begin_job(node, *instance, container.clone());
            if self.nodes[node].engine.is_crashing(container) {
                self.after(50, 3_000, Event::CrashOnStart { node, container: container.clone() });
            }
        }
        let touched = match (&action, &outcome) {
            (Action::Create { .. }, Ok(Success::Created(id))) => Some(id.clone()),
            (Action::Start { container, .. } | Action::Stop { container, .. }, Ok(_)) => {
                Some(container.clone())
            }
            (Action::Remove { container, .. }, Ok(_)) => Some(container.clone()),
            _ => None,
        };
        if let Some((instance, container)) = action.instance().zip(touched) {
            self.notify(node, instance, container);
        }
        self.after(0, 15, Event::Answer { node, life, action, outcome });
    }

    pub(super) fn answered(
        &mut self,
        node: usize,
        life: u64,
        action: Action,
        outcome: Result<Success, RuntimeError>,
    ) {
        let Some(agent) = self.agent(node, life) else { return };
        let at = agent.draw();
        let glance = match (&action, &outcome) {
            (Action::Start { instance, container } | Action::Stop { instance, container, .. }, Ok(_)) => {
                self.glance(node, life, *instance, container)
            }
            _ => None,
        };
        let finished = Box::new(Finished { action, at, outcome, look: None });
        self.after(0, 15, Event::Finish { node, life, glance, finished });
    }

    pub(super) fn finished(&mut self, node: usize, life: u64, glance: Option<Glance>, finished: Finished) {
        let now = self.node_time(node);
        let Some(agent) = self.agent(node, life) else { return };
        if let Some(glance) = glance {
            agent.core.glance(glance);
        }
        agent.core.finish(finished, now);
        self.turn(node, life);
    }

    /// One container as it is now; `None` when the engine does not answer.
    fn glance(&mut self, node: usize, life: u64, instance: InstanceId, container: &str) -> Option<Glance> {
        let at = self.agent(node, life)?.draw();
        let engine = &self.nodes[node].engine;
        let (container, found) = (container.to_owned(), engine.containers.get(container).cloned());
        (!engine.unavailable).then_some(Glance { at, instance, container, found })
    }

    pub(super) fn look_at(&mut self, node: usize, life: u64, instance: InstanceId, container: &str) {
        if let Some(glance) = self.glance(node, life, instance, container) {
            self.after(0, 15, Event::Glanced { node, life, glance });
        }
    }

    pub(super) fn glanced(&mut self, node: usize, life: u64, glance: Glance) {
        let Some(agent) = self.agent(node, life) else { return };
        agent.core.glance(glance);
        self.turn(node, life);
    }

    /// Lists all containers; again a little later, when the engine does not answer.
    pub(super) fn list(&mut self, node: usize, life: u64) {
        let Some(agent) = self.agent(node, life) else { return };
        let at = agent.draw();
        let engine = &self.nodes[node].engine;
        if engine.unavailable {
            return self.after(300, 700, Event::List { node, life });
        }
        let look = Look { at, only: None, containers: engine.list(None) };
        self.after(0, 15, Event::Listed { node, life, look });
    }

    pub(super) fn listed(&mut self, node: usize, life: u64, look: Look) {
        let Some(agent) = self.agent(node, life) else { return };
        agent.core.look(look);
        self.turn(node, life);
    }

    /// The net under the events.
    pub(super) fn relist(&mut self, node: usize, life: u64) {
        if self.agent(node, life).is_some() {
            self.list(node, life);
            self.after(RELIST, RELIST + 1, Event::Relist { node, life });
        }
    }

    /// The engine tells whoever listens that something changed; now and then that is lost.
    pub(super) fn notify(&mut self, node: usize, instance: InstanceId, container: String) {
        let life = self.nodes[node].life;
        if self.calm || !self.dice.percent(2) {
            self.after(0, 40, Event::LookAt { node, life, instance, container });
        }
    }

    /// After an outage: the agent's event stream says `Reconnected`.
    pub(super) fn engine_returns(&mut self, node: usize) {
        let life = self.nodes[node].life;
        self.nodes[node].engine.unavailable = false;
        if let Some(agent) = self.agent(node, life) {
            agent.core.engine_is_back();
        }
        self.list(node, life);
    }

    pub(super) fn crash_on_start(&mut self, node: usize, container: &str) {
        let now = self.node_time(node);
        let engine = &mut self.nodes[node].engine;
        let running = engine.containers.get(container).filter(|each| each.status.is_running());
        let Some(instance) = running.map(|each| each.instance) else { return };
        engine.exit(container, 1, now);
        self.notify(node, instance, container.to_owned());
    }

    pub(super) fn check_health(&mut self, node: usize, container: &str) {
        let unhealthy = !self.calm && self.dice.percent(8);
        let health = if unhealthy { Health::Unhealthy { output: "503".to_owned() } } else { Health::Healthy };
        if unhealthy {
            self.unhealthy.insert(container.to_owned());
        }
        let engine = &mut self.nodes[node].engine;
        engine.check_health(container, health);
        let known = engine.containers.get(container);
        let running = known.filter(|each| matches!(each.status, ContainerStatus::Running { .. }));
        if let Some(instance) = running.map(|each| each.instance) {
            self.notify(node, instance, container.to_owned());
        }
    }

    #[must_use]
    pub(super) fn any_master(&mut self) -> usize {
        usize::try_from(self.dice.range(0..MASTERS)).unwrap_or(0)
    }
}

/// Whether an agent that knows no more than its checkpoint would come to say so again.
fn is_repeatable(checkpoint: &Checkpoint, report: &InstanceReport) -> bool {
    match &report.news {
        News::Observed(observed) => {
            let Progress { attempt, phase } = observed.progress;
            let known = checkpoint.records.get(&report.instance).map_or(1, |record| record.attempt());
            !phase.is_terminal() && attempt <= known
        }
        News::Gone => false,
    }
}
