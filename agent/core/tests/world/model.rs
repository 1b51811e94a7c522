//! A container engine of a few lines, and a node state that is driven against it by hand.
//!
//! Invariant: no time passes and nothing ends by itself: a test says what happens when.

#![allow(dead_code, clippy::expect_used, clippy::panic)] // each test uses a part of it

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use skein_agent_core::{
    Action, ContainerStatus, Finished, Health, Look, NodeState, Plan, ProbeOutcome, ProbeResult, ProbeRun,
    RuntimeError, SeenContainer, Sequence, Success,
};
use skein_common::{
    InstanceId, ServiceId, Timestamp,
    assignment::{Assignment, AssignmentContent, AssignmentUpdate, Known},
    instance::{Desired, News, Observed, Phase, Progress, Readiness},
    service::{ContainerSpec, Generation, ProbeKind, ResourceRequirements, RestartPolicy},
};

pub const IMAGE: &str = "web:1";
pub const GRACE: Duration = Duration::from_secs(3);

pub fn instance(number: u64) -> InstanceId {
    InstanceId::from_random(number)
}

pub fn assignment(number: u64, desired: Desired, restart: RestartPolicy) -> Assignment {
    Assignment {
        instance: instance(number),
        service: ServiceId::from_random(1),
        service_name: "web".to_owned(),
        slot: 1,
        generation: Generation(1),
        desired,
        container: ContainerSpec { stop_grace: GRACE, ..ContainerSpec::new(IMAGE) },
        resources: ResourceRequirements::default(),
        restart,
        ports: Vec::new(),
        devices: Vec::new(),
        attempt: 1,
        known: Known::default(),
    }
}

/// What the engine does with the next call of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    Create(RuntimeError),
    Start(RuntimeError),
    Stop(RuntimeError),
    Pull(RuntimeError),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Engine {
    pub containers: BTreeMap<String, SeenContainer>,
    pub images: BTreeSet<String>,
    pub faults: Vec<Fault>,
    pub health_on_start: Option<Health>,
    /// Every call, in order.
    pub calls: Vec<String>,
}

impl Engine {
    fn fault(&mut self, which: impl Fn(&Fault) -> Option<RuntimeError>) -> Result<(), RuntimeError> {
        let found = self.faults.iter().position(|fault| which(fault).is_some());
        match found.map(|at| self.faults.remove(at)) {
            Some(Fault::Create(e) | Fault::Start(e) | Fault::Stop(e) | Fault::Pull(e)) => Err(e),
            None => Ok(()),
        }
    }

    pub fn carry_out(&mut self, action: &Action, now: Timestamp) -> Result<Success, RuntimeError> {
        match action {
            Action::Pull { image } => {
                self.calls.push(format!("pull {image}"));
                self.fault(|fault| if let Fault::Pull(e) = fault { Some(e.clone()) } else { None })?;
                self.images.insert(image.clone());
                Ok(Success::Done)
            }
            Action::Create { assignment, attempt } => {
                self.calls.push(format!("create {attempt}"));
                self.fault(|fault| if let Fault::Create(e) = fault { Some(e.clone()) } else { None })?;
                let image = &assignment.container.image;
                if !self.images.contains(image) {
                    return Err(RuntimeError::Image { image: image.clone(), reason: "absent".into() });
                }
                let id = format!("{}-{attempt}", assignment.instance);
                let (instance, attempt) = (assignment.instance, *attempt);
                self.containers.entry(id.clone()).or_insert_with(|| SeenContainer {
                    id: id.clone(),
                    instance,
                    attempt,
                    status: ContainerStatus::Created,
                    address: None,
                });
                Ok(Success::Created(id))
            }
            Action::Start { container, .. } => {
                self.calls.push("start".to_owned());
                self.fault(|fault| if let Fault::Start(e) = fault { Some(e.clone()) } else { None })?;
                let health = self.health_on_start.clone().unwrap_or(Health::Unchecked);
                let Some(known) = self.containers.get_mut(container) else {
                    return Err(RuntimeError::NotFound(container.clone()));
                };
                if !known.status.is_running() {
                    known.status = ContainerStatus::Running { health, started_at: now };
                }
                Ok(Success::Done)
            }
            Action::Stop { container, grace, .. } => {
                self.calls.push(format!("stop {}s", grace.as_secs()));
                self.fault(|fault| if let Fault::Stop(e) = fault { Some(e.clone()) } else { None })?;
                if let Some(known) = self.containers.get_mut(container)
                    && known.status.is_running()
                {
                    known.status = exited(143, now);
                }
                Ok(Success::Done)
            }
            Action::Remove { container, .. } => {
                self.calls.push("remove".to_owned());
                self.containers.remove(container);
                Ok(Success::Done)
            }
        }
    }
}

pub fn exited(exit_code: i64, finished_at: Timestamp) -> ContainerStatus {
    ContainerStatus::Exited { exit_code, oom_killed: false, finished_at, message: String::new() }
}

/// A node and its engine.
#[derive(Debug, Clone)]
pub struct World {
    pub state: NodeState,
    pub engine: Engine,
    pub now: Timestamp,
    pub sequence: u64,
    pub generation: u64,
    pub wake_at: Option<Timestamp>,
    pub under_way: Vec<Action>,
    /// Tests that have begun; each is answered at once by [`World::settle`], unless `hangs`.
    pub probes: Vec<ProbeRun>,
    pub hangs: bool,
    /// Probes that fail.
    pub failing: BTreeSet<ProbeKind>,
    /// When each test began.
    pub probed: Vec<(Timestamp, ProbeKind)>,
    /// The last progress told of each instance, to see that it never goes back.
    pub told: BTreeMap<InstanceId, (Progress, Readiness)>,
}

impl Default for World {
    fn default() -> Self {
        let mut world = Self {
            state: NodeState::default(),
            engine: Engine { images: [IMAGE.to_owned()].into(), ..Engine::default() },
            now: Timestamp::from_unix_ms(1_000_000_000),
            sequence: 0,
            generation: 0,
            wake_at: None,
            under_way: Vec::new(),
            probes: Vec::new(),
            hangs: false,
            failing: BTreeSet::new(),
            probed: Vec::new(),
            told: BTreeMap::new(),
        };
        world.list();
        world
    }
}

impl World {
    /// One node that runs instance 1 under a policy.
    pub fn running(restart: RestartPolicy) -> Self {
        let mut world = Self::default();
        world.set(vec![assignment(1, Desired::Run, restart)]);
        world.settle();
        world
    }

    pub fn draw(&mut self) -> Sequence {
        self.sequence += 1;
        Sequence(self.sequence)
    }

    pub fn look(&mut self, only: Option<InstanceId>) -> Look {
        let at = self.draw();
        let containers = self.engine.containers.values();
        let containers = containers.filter(|each| only.is_none_or(|only| only == each.instance));
        Look { at, only, containers: containers.cloned().collect() }
    }

    pub fn list(&mut self) {
        let look = self.look(None);
        self.state.look(look);
    }

    pub fn set(&mut self, assignments: Vec<Assignment>) {
        self.generation += 1;
        let content = AssignmentContent::Full(assignments);
        self.state.assign(AssignmentUpdate { term: 1, generation: self.generation, content });
    }

    /// One pass; what it decided is under way afterwards.
    pub fn pass(&mut self) -> Plan {
        let plan = self.state.reconcile(self.now);
        self.wake_at = plan.wake_at;
        for action in &plan.actions {
            let clash = self.under_way.iter().any(|other| match (other.instance(), action.instance()) {
                (None, None) => other == action,
                (one, two) => one == two,
            });
            assert!(!clash, "{action:?} while {:?}", self.under_way);
        }
        self.under_way.extend(plan.actions.iter().cloned());
        for run in &plan.probes {
            let same = |other: &ProbeRun| (other.instance, other.kind) == (run.instance, run.kind);
            let twice = self.probes.iter().any(|other| same(other) && other.container == run.container);
            assert!(!twice, "{run:?} is under way");
            self.probed.push((self.now, run.kind));
        }
        self.probes.extend(plan.probes.iter().cloned());
        self.check_progress(&plan.changed);
        plan
    }

    fn check_progress(&mut self, changed: &[InstanceId]) {
        for id in changed {
            match self.state.news(*id) {
                Some(News::Observed(observed)) => {
                    let before = self.told.insert(*id, observed.clock());
                    assert!(
                        before.is_none_or(|before| before <= observed.clock()),
                        "{before:?} → {observed:?}"
                    );
                    assert!(
                        before.is_none_or(
                            |before| !before.0.phase.is_terminal() || before.0 == observed.progress
                        ),
                        "{before:?} was final, then {observed:?}"
                    );
                }
                Some(News::Gone) => {}
                None => drop(self.told.remove(id)),
            }
        }
    }

    /// The first step under way comes to its end.
    pub fn step(&mut self, number: usize) {
        let action = self.under_way.remove(number);
        let outcome = self.engine.carry_out(&action, self.now);
        let at = self.draw();
        let shows = outcome.is_ok() && matches!(action, Action::Start { .. } | Action::Stop { .. });
        let look = action.instance().filter(|_| shows).map(|instance| self.look(Some(instance)));
        self.state.finish(Finished { action, at, outcome, look }, self.now);
    }

    pub fn answer(&mut self, run: ProbeRun) {
        let ProbeRun { instance, container, kind, .. } = run;
        let outcome = if self.failing.contains(&kind) {
            ProbeOutcome::Failed("refused".to_owned())
        } else {
            ProbeOutcome::Passed
        };
        self.state.probed(ProbeResult { instance, container, kind, outcome }, self.now);
    }

    /// Until nothing is to be done at this time.
    pub fn settle(&mut self) {
        for _ in 0..200 {
            self.pass();
            let probes = if self.hangs { Vec::new() } else { std::mem::take(&mut self.probes) };
            if self.under_way.is_empty() && probes.is_empty() {
                return;
            }
            probes.into_iter().for_each(|run| self.answer(run));
            while !self.under_way.is_empty() {
                self.step(0);
            }
        }
        panic!("no fixed point: {:?}", self.engine.calls);
    }

    /// Lets time pass, waking as asked for.
    pub fn pass_time(&mut self, duration: Duration) {
        let until = self.now + duration;
        while let Some(wake_at) = self.wake_at.filter(|at| *at <= until) {
            self.now = self.now.max(wake_at);
            self.settle();
        }
        self.now = until;
        self.settle();
    }

    pub fn exit(&mut self, number: u64, exit_code: i64) {
        let now = self.now;
        self.set_status(number, exited(exit_code, now));
    }

    /// The running container of an instance becomes this, and the engine says so.
    pub fn set_status(&mut self, number: u64, status: ContainerStatus) {
        let id = instance(number);
        let running = |each: &&mut SeenContainer| each.instance == id && each.status.is_running();
        self.engine.containers.values_mut().find(running).expect("a running container").status = status;
        let look = self.look(Some(id));
        self.state.look(look);
    }

    pub fn observed(&self, number: u64) -> Observed {
        match self.state.news(instance(number)) {
            Some(News::Observed(observed)) => observed,
            other => panic!("instance {number}: {other:?}"),
        }
    }

    pub fn progress(&self, number: u64) -> (u32, Phase) {
        let progress = self.observed(number).progress;
        (progress.attempt, progress.phase)
    }

    /// `attempt:status` of each container.
    pub fn shown(&self, number: u64) -> Vec<String> {
        let id = instance(number);
        let containers = self.engine.containers.values().filter(|each| each.instance == id);
        let mut shown: Vec<_> = containers
            .map(|each| match &each.status {
                ContainerStatus::Created => format!("{}:created", each.attempt),
                ContainerStatus::Running { .. } => format!("{}:running", each.attempt),
                ContainerStatus::Exited { .. } => format!("{}:exited", each.attempt),
            })
            .collect();
        shown.sort();
        shown
    }

    pub fn calls(&mut self) -> Vec<String> {
        std::mem::take(&mut self.engine.calls)
    }

    /// The agent ends, and what it knew is gone; the masters know it.
    pub fn lose_data(&mut self) {
        self.state = NodeState::default();
        self.probes.clear();
        self.told.clear();
        self.list();
    }

    /// The agent ends and starts again with this checkpoint; steps under way are lost, whether
    /// the engine did them (`done`) or not.
    pub fn restart_agent(&mut self, done: bool) {
        let checkpoint = self.state.checkpoint();
        for action in std::mem::take(&mut self.under_way) {
            if done {
                let _ = self.engine.carry_out(&action, self.now);
            }
        }
        self.probes.clear();
        self.state = NodeState::restore(checkpoint, self.now);
    }
}
