//! A cluster in one thread and in virtual time: both pure cores, between them a network, engines
//! and a replicated log as models, and everything that can go wrong, drawn from a seed.
//!
//! A run has two parts. First faults strike while a user gives commands, and rules are checked
//! after every step. Then everything is healed, and the cluster has to converge.
//!
//! Invariant: a seed repeats exactly: no clock, no random but [`dice`], no map with random order.
//! Deliberately not here: gRPC, openraft, Docker, tokio; integration and end-to-end tests run those.

mod balancers;
mod chaos;
mod check;
mod dice;
mod engine;
mod jobs;
mod masters;
mod network;
mod node;
mod raft;
mod rules;
mod user;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::Arc,
};

use skein_agent_core::{Action, Finished, Glance, Look, ProbeResult, RuntimeError, Success};
use skein_common::{
    InstanceId, NodeId, Resources, Timestamp,
    node::{NodeDescription, Platform},
    placement::GenericResource,
};

pub use self::{
    chaos::{ALL, CONTROL_PLANE, Fault},
    dice::Dice,
    user::Wish,
};
use self::{
    engine::Engine,
    jobs::Jobs,
    network::{Message, Network, StreamId, Way},
    node::Node,
    raft::{Master, Raft},
    user::User,
};

/// The truth's clock at the beginning: some day in 2027.
const EPOCH: u64 = 1_800_000_000_000;
/// Every clock is ahead by up to this.
const SKEW: u64 = 4_000;
/// Twice the longest back-off and then some.
const PEACE_LIMIT: u64 = 40 * 60_000;
/// Peace is peace when it lasts.
const STAYS: u64 = 30_000;
const TRACE_LINES: usize = 400;

/// Something that is going to happen.
#[derive(Debug)]
enum Event {
    Deliver { stream: StreamId, way: Way, message: Message },
    Dial { node: usize, life: u64 },
    Beat { node: usize, life: u64 },
    Wake { node: usize, life: u64 },
    Probed { node: usize, life: u64, result: ProbeResult },
    Store { node: usize, life: u64 },
    Effect { node: usize, life: u64, action: Action },
    Answer { node: usize, life: u64, action: Action, outcome: Result<Success, RuntimeError> },
    Finish { node: usize, life: u64, glance: Option<Glance>, finished: Box<Finished> },
    List { node: usize, life: u64 },
    Listed { node: usize, life: u64, look: Look },
    Relist { node: usize, life: u64 },
    LookAt { node: usize, life: u64, instance: InstanceId, container: String },
    Glanced { node: usize, life: u64, glance: Glance },
    HealthCheck { node: usize, container: String },
    JobEnds { node: usize, container: String },
    AgentStarts { node: usize },
    NodeBoots { node: usize },
    NodeHeals { node: usize },
    EngineHeals { node: usize },
    StreamResets,
    Commit { id: u64 },
    Elect { term: u64 },
    StepDown { master: usize, term: u64 },
    MasterStarts { master: usize },
    MasterHeals { master: usize },
    Tick { master: usize, term: u64 },
    PlanAll { master: usize, term: u64 },
    Inbox { master: usize, term: u64, node: usize, instance: InstanceId },
    Tell { master: usize, term: u64, node: usize },
    Feed { master: usize, term: u64 },
    Release { master: usize, term: u64 },
    RequestsEnd { node: usize, life: u64 },
    CrashOnStart { node: usize, container: String },
    UserTurn,
    UserTries { sequence: u64 },
    UserArrives { sequence: u64, master: usize },
    Fault,
    Heal,
    Activate,
    Look4Peace,
}

/// What a run is made of, besides its seed.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub nodes: usize,
    pub faults: &'static [(u64, Fault)],
    /// Mean milliseconds between two faults.
    pub fault_every: u64,
    /// Milliseconds of trouble.
    pub trouble: u64,
    /// Messages are repeated and reordered within a stream.
    pub hostile: bool,
    /// Containers fall ill: startup and liveness probes fail.
    pub illness: bool,
    pub capacity: Resources,
    /// All nodes are agents on one machine: they share its ports.
    pub one_machine: bool,
    /// The user has jobs too, with and without a schedule.
    pub jobs: bool,
    /// Nodes balance, services wait for others, images are bad, users control rollouts.
    pub mixed: bool,
}

impl Settings {
    /// As the seed says.
    #[must_use]
    pub fn drawn(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x5eed);
        let cpu_millis = if dice.percent(20) { 1_500 } else { 8_000 };
        Self {
            nodes: 2 + dice.index(4),
            faults: ALL,
            fault_every: dice.range(400..5_000),
            trouble: dice.range(20_000..120_000),
            hostile: dice.percent(30),
            illness: true,
            capacity: Resources { cpu_millis, memory_bytes: 8 << 30 },
            one_machine: dice.percent(20),
            jobs: false,
            mixed: false,
        }
    }
}

/// What happened in a run that ended well.
#[derive(Debug, Clone, Copy)]
pub struct Summary {
    pub commits: u64,
    pub faults: u64,
    pub answers: u64,
    /// Virtual milliseconds from the healing to peace.
    pub peace_after: u64,
}

/// A run that broke a rule, or found no peace.
#[derive(Debug)]
pub struct Failure {
    pub seed: u64,
    pub at: u64,
    pub broken: String,
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {}: at {} ms: {}", self.seed, self.at, self.broken)?;
        write!(f, "repeat: SKEIN_SIM_SEED={} cargo test -p skein-tests --test sim one_seed", self.seed)
    }
}

impl std::error::Error for Failure {}

/// A cluster and its troubles.
#[derive(Debug)]
pub struct World {
    seed: u64,
    now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
    dice: Dice,
    raft: Raft,
    masters: Vec<Master>,
    master_skew: Vec<u64>,
    nodes: Vec<Node>,
    network: Network,
    user: User,
    faults: &'static [(u64, Fault)],
    fault_every: u64,
    struck: u64,
    commits: u64,
    /// `None` = the user has no jobs.
    jobs: Option<Jobs>,
    unhealthy: BTreeSet<String>,
    illness: bool,
    mixed: bool,
    was_hostile: bool,
    /// When instances were first wanted no longer.
    stop_wished: BTreeMap<InstanceId, u64>,
    /// Containers that an agent had asked to start before it died, and that started afterwards.
    late_starts: BTreeSet<String>,
    calm: bool,
    peace: Option<u64>,
    trace: VecDeque<String>,
    broken: Option<String>,
}

/// One run as the seed says, with jobs among what the user wants.
///
/// # Errors
/// What went wrong, with the trace.
pub fn run_with_jobs(seed: u64) -> Result<Summary, Box<Failure>> {
    let settings = Settings { jobs: true, ..Settings::drawn(seed) };
    let mut world = World::new(seed, settings);
    world.trouble(settings.trouble);
    world.reach_peace()
}

/// One run with a mixture of everything: balancers, order, bad images, controlled rollouts, jobs.
///
/// # Errors
/// What went wrong, with the trace.
pub fn run_mixed(seed: u64) -> Result<Summary, Box<Failure>> {
    let settings = Settings { jobs: seed % 4 != 3, mixed: true, ..Settings::drawn(seed) };
    let mut world = World::new(seed, settings);
    world.trouble(settings.trouble);
    world.reach_peace()
}

/// One run as the seed says.
///
/// # Errors
/// What went wrong, with the trace.
pub fn run(seed: u64) -> Result<Summary, Box<Failure>> {
    let settings = Settings::drawn(seed);
    let mut world = World::new(seed, settings);
    world.trouble(settings.trouble);
    world.reach_peace()
}

impl World {
    #[must_use]
    pub fn new(seed: u64, settings: Settings) -> Self {
        let mut dice = Dice::new(seed);
        let nodes = (0..settings.nodes).map(|index| machine(index, &settings, &mut dice)).collect();
        let masters = (0..3).map(|_| Master { up: true, ..Master::default() }).collect();
        let master_skew = (0..3).map(|_| dice.range(0..SKEW)).collect();
        let latency = if dice.percent(70) { 5 } else { 300 };
        let network = Network::new(settings.hostile, latency);
        let mut world = Self {
            seed,
            now: 0,
            queue: BTreeMap::new(),
            queued: 0,
            dice,
            raft: Raft::default(),
            masters,
            master_skew,
            nodes,
            network,
            user: User::default(),
            faults: settings.faults,
            fault_every: settings.fault_every,
            struck: 0,
            commits: 0,
            jobs: settings.jobs.then(Jobs::default),
            unhealthy: BTreeSet::new(),
            illness: settings.illness,
            mixed: settings.mixed,
            was_hostile: settings.hostile,
            stop_wished: BTreeMap::new(),
            late_starts: BTreeSet::new(),
            calm: false,
            peace: None,
            trace: VecDeque::new(),
            broken: None,
        };
        world.after(0, 1, Event::Elect { term: 0 });
        (0..settings.nodes).for_each(|node| world.start_agent(node));
        world
    }

    /// Faults and wishes for this long.
    pub fn trouble(&mut self, milliseconds: u64) {
        self.after(500, 501, Event::UserTurn);
        self.after(4_000, 4_001, Event::Fault);
        self.at(self.now + milliseconds, Event::Heal);
        while !self.calm && self.broken.is_none() {
            self.step();
        }
    }

    /// A few services, all running; the user says nothing more.
    pub fn settle(&mut self) {
        for turn in 0..4 {
            self.at(5_000 + turn * 5_000, Event::UserTurn);
        }
        self.calm = true;
        self.wait(40_000);
        self.user.silent = true;
        // Updates and drains that are under way come to their end: one instance at a time.
        self.wait(180_000);
        self.calm = false;
    }

    /// Nothing but time, for this long.
    pub fn wait(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds;
        while self.broken.is_none() && self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= end) {
            self.step();
        }
        self.now = self.now.max(end);
    }

    /// Heals everything and waits for peace.
    ///
    /// # Errors
    /// What is still wrong, or went wrong.
    pub fn reach_peace(mut self) -> Result<Summary, Box<Failure>> {
        if !self.calm {
            self.heal();
        }
        let healed = self.now;
        while self.broken.is_none() && self.peace.is_none() {
            if self.now > healed + PEACE_LIMIT {
                let unrest = self.unrest().unwrap_or_default();
                self.fail(format!("no peace: {unrest}"));
            }
            self.step();
        }
        let peace_after = self.now - healed;
        self.wait(STAYS);
        if let Some(unrest) = self.unrest() {
            self.fail(format!("peace did not last: {unrest}"));
        }
        if self.broken.is_none() {
            self.check_replay();
        }
        let summary =
            Summary { commits: self.commits, faults: self.struck, answers: self.user.answered, peace_after };
        self.failure().map_or(Ok(summary), |failure| Err(Box::new(failure)))
    }

    /// What happened last, a line each.
    #[must_use]
    pub fn trace(&self) -> String {
        self.trace.iter().map(|line| format!("{line}\n")).collect()
    }

    /// A rule that was broken.
    #[must_use]
    pub fn failure(self) -> Option<Failure> {
        let broken = self.broken?;
        Some(Failure { seed: self.seed, at: self.now, broken, trace: self.trace.into() })
    }

    fn step(&mut self) {
        match self.queue.pop_first() {
            Some(((at, _), event)) => {
                self.now = at;
                self.happen(event);
            }
            None => self.fail("nothing happens any more".to_owned()),
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { stream, way: Way::ToMaster, message } => self.master_receives(stream, message),
            Event::Deliver { stream, way: Way::ToAgent, message } => self.agent_receives(stream, message),
            Event::Dial { node, life } => self.dial(node, life),
            Event::Beat { node, life } => self.beat(node, life),
            Event::Wake { node, life } => self.wake(node, life),
            Event::Probed { node, life, result } => self.probed(node, life, result),
            Event::Store { node, life } => self.store(node, life),
            Event::Effect { node, life, action } => self.take_effect(node, life, action),
            Event::Answer { node, life, action, outcome } => self.answered(node, life, action, outcome),
            Event::Finish { node, life, glance, finished } => self.finished(node, life, glance, *finished),
            Event::List { node, life } => self.list(node, life),
            Event::Listed { node, life, look } => self.listed(node, life, look),
            Event::Relist { node, life } => self.relist(node, life),
            Event::LookAt { node, life, instance, container } => {
                self.look_at(node, life, instance, &container);
            }
            Event::Glanced { node, life, glance } => self.glanced(node, life, glance),
            Event::HealthCheck { node, container } => self.check_health(node, &container),
            Event::JobEnds { node, container } => self.end_job(node, &container),
            Event::AgentStarts { node } => self.start_agent(node),
            Event::NodeBoots { node } => self.boot(node),
            Event::NodeHeals { node } => self.nodes[node].cut = [false; 2],
            Event::EngineHeals { node } => self.heal_engine(node),
            Event::StreamResets => {
                let node = self.dice.index(self.nodes.len());
                self.reset_stream(node);
            }
            Event::Commit { id } => self.commit(id),
            Event::Elect { term } => self.elect(term),
            Event::StepDown { master, term } => self.step_down(master, term),
            Event::MasterStarts { master } => self.masters[master].up = true,
            Event::MasterHeals { master } => self.masters[master].cut = false,
            Event::Tick { master, term } => self.tick(master, term),
            Event::PlanAll { master, term } => self.plan_all(master, term),
            Event::Inbox { master, term, node, instance } => self.inbox(master, term, node, instance),
            Event::Tell { master, term, node } => self.tell(master, term, node),
            Event::Feed { master, term } => self.fed(master, term),
            Event::Release { master, term } => self.release(master, term),
            Event::RequestsEnd { node, life } => self.say_applied(node, life),
            Event::CrashOnStart { node, container } => self.crash_on_start(node, &container),
            Event::UserTurn => self.user_turn(),
            Event::UserTries { sequence } => self.user_tries(sequence),
            Event::UserArrives { sequence, master } => self.user_arrives(sequence, master),
            Event::Fault => self.fault_turn(),
            Event::Heal => self.heal(),
            Event::Activate => self.activate(),
            Event::Look4Peace => self.look_for_peace(),
        }
    }

    fn look_for_peace(&mut self) {
        self.resume_rollouts();
        // A rollout may have gone back to what cannot run.
        let is_bad = self.repair_one();
        match self.unrest() {
            None if !is_bad => self.peace = Some(self.now),
            _ => self.after(1_000, 1_001, Event::Look4Peace),
        }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.queued += 1;
        self.queue.insert((at, self.queued), event);
    }

    /// After a wait drawn from the range, in milliseconds.
    fn after(&mut self, from: u64, to: u64, event: Event) {
        let wait = self.dice.range(from..to);
        self.at(self.now.saturating_add(wait), event);
    }

    fn wall(&self, skew: u64) -> Timestamp {
        Timestamp::from_unix_ms(EPOCH + self.now + skew)
    }

    fn send(&mut self, stream: StreamId, way: Way, message: Message) {
        let Some(node) = self.network.streams.get(&stream).map(|known| known.node) else { return };
        if !self.nodes[node].powered || self.nodes[node].cut[way as usize] {
            return self.network.break_lane(stream, way);
        }
        // A second Hello would end the stream; that much even a hostile network keeps.
        let copies = if matches!(message, Message::Hello { .. }) { 1 } else { 2 };
        let deliveries = self.network.deliveries(stream, way, self.now, &mut self.dice);
        for at in deliveries.into_iter().take(copies) {
            self.at(at, Event::Deliver { stream, way, message: message.clone() });
        }
    }

    fn note(&mut self, text: String) {
        if self.trace.len() == TRACE_LINES {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:>8} {text}", self.now));
    }

    fn fail(&mut self, broken: String) {
        if self.broken.is_none() {
            self.broken = Some(broken);
        }
    }
}

fn machine(index: usize, settings: &Settings, dice: &mut Dice) -> Node {
    let name = format!("n{}", index + 1);
    let description = NodeDescription {
        name: name.clone(),
        address: format!("10.0.0.{}", if settings.one_machine { 1 } else { index + 1 }),
        labels: BTreeMap::new(),
        capacity: settings.capacity,
        reserved: Resources::ZERO,
        platform: Platform { os: "linux".to_owned(), arch: "amd64".to_owned() },
        agent_version: "sim".to_owned(),
        runtime_version: "model".to_owned(),
        generic: vec![GenericResource { name: "gpu".to_owned(), model: String::new(), count: 1 }],
        // One that does not is waited for by nobody.
        balances: settings.mixed && index != 3,
        pids: 0,
    };
    Node {
        id: NodeId::from_random(dice.bits()),
        name,
        description: Arc::new(description),
        skew: dice.range(0..SKEW),
        powered: true,
        cut: [false; 2],
        engine: Engine::default(),
        life: 0,
        agent: None,
        checkpoint: skein_agent_core::Checkpoint::default(),
        obeyed: 0,
    }
}
