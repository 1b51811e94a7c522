//! What must hold after every step, and what must have come about once faults have stopped.
//!
//! Invariant: nothing here changes the world, except to say that it failed.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};
use skein_agent_core::{Action, RuntimeError, Success};
use skein_common::{
    InstanceId, Timestamp,
    instance::{Desired, Instance, News, Phase, Slot},
    node::{Availability, Liveness},
    service::{JobPhase, Mode, RestartCondition, ServiceSpec},
};
use skein_master_core::{
    Applied, ClusterState, Command, CommandKind,
    command::{Plan, RebalanceStep, Verdict, Wish},
    invariant, orchestrator,
    orchestrator::Scope,
    state::{Change, Service},
};

use super::{World, rules, user::is_bad};

/// Silence that lets a master give up a node (`LivenessConfig::default`).
const DOWN_AFTER: u64 = 10_000;
/// Silence after which it is late; a new leader knows it as such.
const LATE_AFTER: u64 = 6_000;

/// Through its stored form and back.
///
/// # Panics
/// When it has none: a bug of the core.
#[must_use]
pub fn reread<T: Serialize + DeserializeOwned>(value: &T) -> T {
    #[allow(clippy::expect_used)]
    serde_json::from_slice(&serde_json::to_vec(value).expect("can be stored")).expect("can be loaded")
}

impl World {
    pub(super) fn check_commit(&mut self, before: &ClusterState, command: &Command, applied: &Applied) {
        let of_jobs = self.broken_jobs(before, command, applied);
        let now = self.now;
        for change in &applied.changes {
            if let Change::Instance { instance, .. } = change
                && instance.desired > Desired::Run
            {
                self.stop_wished.entry(instance.id).or_insert(now);
            }
        }
        let after = &self.raft.state;
        let mut broken: Vec<String> = invariant::check(after)
            .into_iter()
            .chain(invariant::check_capacity(after))
            .chain(invariant::check_step(before, after))
            .map(|each| each.to_string())
            .collect();
        broken.extend(self.forgotten_writes());
        broken.extend(of_jobs);
        if let CommandKind::JudgeNodes { verdicts } = &command.kind {
            broken.extend(stale_verdicts(before, after, verdicts));
        }
        broken.extend(rules::broken(before, after));
        if applied.outcome.is_err() && *before != self.raft.state && applied.changes.is_empty() {
            // A refusal may advance time and revision, and remember its request; nothing else.
            let objects =
                |state: &ClusterState| (state.instance_count(), state.node_count(), state.services().count());
            if objects(before) != objects(&self.raft.state) {
                broken.push("a refused command changed objects".to_owned());
            }
        }
        if let Some(first) = broken.first() {
            self.fail(first.clone());
        }
    }

    /// Every acknowledged write survives.
    fn forgotten_writes(&self) -> Option<String> {
        let state = &self.raft.state;
        let known = |name: &str| state.service_by_name(name).filter(|service| !service.deleting);
        for (name, spec) in self.user.expected.iter().filter(|(name, _)| !self.user.doubts(name)) {
            match known(name) {
                None => return Some(format!("service {name} was acknowledged and is gone")),
                Some(service) if service.spec != *spec && !went_back(state, service, spec) => {
                    return Some(format!("service {name} differs from what was acknowledged"));
                }
                Some(_) => {}
            }
        }
        let extra = state.services().filter(|service| !service.deleting).find(|service| {
            let name = &service.spec.name;
            service.owner.is_none() && !self.user.expected.contains_key(name) && !self.user.doubts(name)
        });
        extra.map(|service| format!("service {} was never asked for, or deleted", service.spec.name))
    }

    /// A node is given up only after its silence, or a new leader's grace, as the leader knows it when
    /// it concludes: what it hears while that is being committed is in the next verdict.
    pub(super) fn rash_verdicts(&self, master: usize, verdicts: &[Verdict]) -> Option<String> {
        let leader = self.masters[master].leads.as_ref()?;
        let down = verdicts.iter().filter(|verdict| verdict.liveness == Liveness::Down);
        for verdict in down {
            let heard = leader.heard.get(&verdict.node).copied().unwrap_or(leader.since).max(leader.since);
            let was_late = heard == leader.since && leader.late.contains(&verdict.node);
            let patience = if was_late { DOWN_AFTER - LATE_AFTER } else { DOWN_AFTER };
            if self.now.saturating_sub(heard) < patience {
                let node = self.raft.state.node_name(verdict.node);
                return Some(format!("{node} was given up {} ms after it was heard", self.now - heard));
            }
        }
        None
    }

    /// A process that runs is ended only because the committed state wants it so: never because
    /// a master or an agent died, or a stream broke.
    pub(super) fn check_action(&mut self, node: usize, action: &Action) {
        let (Action::Stop { instance, container, .. } | Action::Remove { instance, container }) = action
        else {
            return self.check_start(node, action);
        };
        let engine = &self.nodes[node].engine;
        let Some(target) = engine.containers.get(container).filter(|each| each.status.is_running()) else {
            return;
        };
        let newest = engine.list(Some(*instance)).iter().map(|each| each.attempt).max();
        let healthy = !matches!(
            target.status,
            skein_agent_core::ContainerStatus::Running {
                health: skein_agent_core::Health::Unhealthy { .. },
                ..
            }
        );
        let Some(known) = self.raft.state.instance(*instance) else { return };
        // Seen before it started: it is made again, because nobody knows how often it will start.
        let is_remade = matches!(action, Action::Remove { .. }) && self.late_starts.contains(container);
        let wanted = known.is_live() && known.node == Some(self.nodes[node].id);
        if wanted
            && healthy
            && !is_remade
            && newest == Some(target.attempt)
            && !self.unhealthy.contains(container)
        {
            let name = self.raft.state.instance_name(known);
            self.fail(format!("{} ends {name}, which is wanted and healthy", self.nodes[node].name));
        }
    }

    /// At most one process of a slot, as long as none of its instances was given up with its node.
    fn check_start(&mut self, node: usize, action: &Action) {
        let Action::Start { instance, container } = action else { return };
        if !self.nodes[node].engine.containers.contains_key(container) {
            return;
        }
        let state = &self.raft.state;
        let Some(starting) = state.instance(*instance) else { return };
        let runs =
            |id: InstanceId| self.nodes.iter().any(|node| node.engine.running().any(|c| c.instance == id));
        let other = state
            .instances_in(starting.service, starting.slot)
            // One of the two was started beside the other: that is what start-first means.
            .filter(|other| starting.beside != Some(other.id) && other.beside != Some(*instance))
            .find(|other| other.id != *instance && !other.lost && !starting.lost && runs(other.id));
        if let Some(other) = other {
            let text = format!(
                "{} starts {} as {instance} while {} runs",
                self.nodes[node].name,
                state.instance_name(starting),
                other.id
            );
            self.fail(text);
        }
    }

    /// What still is not as it should be, once faults have stopped.
    pub(super) fn unrest(&self) -> Option<String> {
        let Some(leader) = self.raft.leader else { return Some("no leader".to_owned()) };
        if self.user.open.is_some() {
            return Some("a user waits for an answer".to_owned());
        }
        let state = &self.raft.state;
        let nodes = self.nodes.iter().enumerate().find_map(|(index, _)| self.unrest_of_node(index));
        let services = || state.services().find_map(|service| self.unrest_of_service(service));
        let now = self.master_time(leader);
        let waits = |i: &&Arc<Instance>| i.node.is_none() && i.not_before > now;
        let backoff = state.instances().find(waits).map(|i| format!("{} waits", state.instance_name(i)));
        let instances =
            || backoff.or_else(|| state.instances().find_map(|instance| unrest_of_instance(state, instance)));
        let missing = || {
            let gone = self.user.expected.keys().find(|name| state.service_by_name(name).is_none());
            gone.map(|name| format!("service {name} is missing"))
        };
        let plan = || {
            let mut ids = || InstanceId::from_random(1);
            let mut plan = orchestrator::plan(state, &Scope::All, self.master_time(leader), &mut ids).plan;
            // Words are brought up to date by the slow full pass, which is not modelled: it would hide
            // a decision that was overlooked.
            plan.explain.clear();
            // It is time to look again, as it will be for ever.
            plan.rebalance.take_if(|step| matches!(step, RebalanceStep::Begin { .. }));
            (!plan.is_empty()).then(|| format!("the planner is not done: {plan:?}"))
        };
        let balancers = (0..self.nodes.len()).find_map(|node| self.unrest_of_balancer(node));
        nodes.or(balancers).or_else(services).or_else(missing).or_else(instances).or_else(plan)
    }

    fn unrest_of_node(&self, index: usize) -> Option<String> {
        let (node, state) = (&self.nodes[index], &self.raft.state);
        let Some(known) = state.node(node.id) else {
            return Some(format!("{} is not registered", node.name));
        };
        if known.liveness != Liveness::Ready || known.availability != Availability::Active {
            return Some(format!("{} is {:?} and {:?}", node.name, known.liveness, known.availability));
        }
        let Some(agent) = &node.agent else { return Some(format!("{} has no agent", node.name)) };
        for container in node.engine.containers.values() {
            let (id, running) = (container.instance, container.status.is_running());
            let Some(instance) = state.instance(id).filter(|instance| instance.node == Some(node.id)) else {
                return Some(format!("{}: container {} is leaked", node.name, container.id));
            };
            let current = instance.is_live() && container.attempt == instance.observed.progress.attempt;
            if running && !current {
                return Some(format!("{}: container {} runs and is not wanted", node.name, container.id));
            }
        }
        for instance in state.instances_on(node.id) {
            let told = agent.core.news(instance.id).map(|news| match news {
                // How it ended may be forgotten with a checkpoint; that it ended is not.
                News::Observed(observed) => {
                    let (known, progress) = (instance.observed.progress, observed.progress);
                    observed.clock() == instance.observed.clock()
                        || (progress.phase.is_terminal() && known.phase.is_terminal())
                }
                News::Gone => false,
            });
            if told != Some(true) {
                let news = agent.core.news(instance.id);
                return Some(format!("{} and the masters disagree on {instance:?}: {news:?}", node.name));
            }
            let runs = node.engine.running().any(|container| container.instance == instance.id);
            // It fails until it is replaced, which may wait for room or for another service.
            let fails = state.spec_of(instance).is_some_and(|spec| is_bad(&spec.container.image));
            if instance.is_live() && !runs && !fails {
                return Some(format!("{}: {} does not run", node.name, instance.id));
            }
        }
        None
    }

    fn unrest_of_service(&self, service: &Service) -> Option<String> {
        let (state, spec) = (&self.raft.state, &service.spec);
        if service.deleting {
            return Some(format!("service {} is still being deleted", spec.name));
        }
        if service.waits {
            let missing = rules::missing(state, service);
            return missing.is_none().then(|| format!("service {} still waits", spec.name));
        }
        if spec.mode.is_job() {
            return unrest_of_job(state, service);
        }
        // One that waits for its back-off names the port or whatever failed before, too.
        let mut placeable =
            state.pending().filter(|instance| !instance.explanation.starts_with("waits until"));
        let crowded = placeable.any(|instance| {
            ["insufficient", "port", "kept for"].iter().any(|reason| instance.explanation.contains(reason))
        });
        let mut held = 0;
        for instance in state.instances_of(service.id).filter(|instance| instance.desired == Desired::Run) {
            held += 1;
            let phase = instance.observed.progress.phase;
            // What took the place of an image that fails may find no room, and it goes on failing.
            let fails = state.spec_of(instance).is_some_and(|spec| is_bad(&spec.container.image));
            let fine = instance.is_ready()
                || is_completed(instance, spec)
                || (crowded && (fails || phase == Phase::Pending));
            if !fine {
                return Some(format!(
                    "{} is {phase}: {}",
                    state.instance_name(instance),
                    instance.explanation
                ));
            }
            if !state.is_current(instance) && !crowded {
                return Some(format!("{} runs an old generation", state.instance_name(instance)));
            }
        }
        let wanted = match spec.mode {
            Mode::Replicated { replicas } => usize::try_from(replicas).unwrap_or(usize::MAX),
            // The simulated user asks for no jobs.
            Mode::Global | Mode::Job { .. } | Mode::GlobalJob => self.nodes.len(),
        };
        // A successor that finds no room waits beside its predecessor.
        let beside = state.instances_of(service.id).filter(|i| {
            i.is_live() && i.beside.is_some_and(|b| state.instance(b).is_some_and(|b| b.is_live()))
        });
        let held = if crowded { held - beside.count() } else { held };
        (held != wanted).then(|| format!("service {} has {held} of {wanted} instances", spec.name))
    }

    /// The log alone makes the state.
    pub(super) fn check_replay(&mut self) {
        let mut state = ClusterState::default();
        for (index, command) in self.raft.log.iter().enumerate() {
            let revision = u64::try_from(index).unwrap_or(u64::MAX).saturating_add(1);
            state.apply(skein_common::Revision(revision), &reread(command));
        }
        if state != self.raft.state {
            self.fail("the log applied again gives another state".to_owned());
        }
    }
}

/// A node that came back (its registration is in the log) is not given up for a silence before that.
fn stale_verdicts(before: &ClusterState, after: &ClusterState, verdicts: &[Verdict]) -> Option<String> {
    verdicts.iter().filter(|verdict| verdict.liveness == Liveness::Down).find_map(|verdict| {
        let (was, is) = (before.node(verdict.node)?, after.node(verdict.node)?);
        let stale = verdict.drawn_from.is_none_or(|revision| revision < was.modified_revision);
        let name = &was.description.name;
        (stale && is.liveness == Liveness::Down && was.liveness != Liveness::Down)
            .then(|| format!("{name} is given up although it registered meanwhile"))
    })
}

/// A job comes to an end, one way or the other; a schedule has been suspended by then.
fn unrest_of_job(state: &ClusterState, service: &Service) -> Option<String> {
    let name = &service.spec.name;
    // One that waits for its back-off will run; one that waits for room may wait for ever.
    let is_crowded_out = |i: &Instance| i.is_live() && i.node.is_none() && i.not_before <= state.time();
    let crowded = || state.instances_of(service.id).any(|i| is_crowded_out(i));
    // What runs of any job comes to its end and makes room.
    let ends = |i: &Instance| {
        i.is_live() && i.node.is_some() && state.spec_of(i).is_some_and(|spec| spec.mode.is_job())
    };
    if service.runs_now() && (!crowded() || state.instances().any(|i| ends(i))) {
        return Some(format!("job {name} still runs"));
    }
    let is_due = service.spec.schedule.as_ref().is_some_and(|schedule| !schedule.suspend);
    is_due.then(|| format!("job {name} goes on for ever"))
}

fn unrest_of_instance(state: &ClusterState, instance: &Instance) -> Option<String> {
    let name = state.instance_name(instance);
    let ended = instance.observed.progress.phase.is_terminal();
    match instance.desired {
        _ if instance.lost => Some(format!("{name} ({}) is still lost", instance.id)),
        Desired::Remove => Some(format!("{name} ({}) is still to be removed", instance.id)),
        Desired::Stop if !ended => Some(format!("{name} ({}) is still to be stopped", instance.id)),
        Desired::Run | Desired::Stop => None,
    }
}

fn is_completed(instance: &Instance, spec: &ServiceSpec) -> bool {
    let phase = instance.observed.progress.phase;
    match spec.restart.condition {
        RestartCondition::Any => false,
        RestartCondition::OnFailure => {
            phase == Phase::Stopped && instance.observed.exit_code.unwrap_or(0) == 0
        }
        RestartCondition::None => matches!(phase, Phase::Stopped | Phase::Failed),
    }
}

/// The acknowledged spec failed and is kept; how many there are is not part of going back.
fn went_back(state: &ClusterState, service: &Service, acknowledged: &ServiceSpec) -> bool {
    let is_rollback = service.rollout.as_ref().is_some_and(|rollout| rollout.is_rollback);
    let kept = service.kept.iter().filter_map(|generation| state.spec(service.id, *generation));
    let mut same = kept.map(|kept| ServiceSpec { mode: acknowledged.mode, ..ServiceSpec::clone(kept) });
    is_rollback && service.spec.mode == acknowledged.mode && same.any(|kept| kept == *acknowledged)
}

/// A live, placed instance is ended only for a reason that the planner's state shows.
#[must_use]
pub fn baseless_ends(before: &ClusterState, plan: &Plan) -> Option<String> {
    plan.desire.iter().find_map(|wish| {
        let instance = before.instance(wish.instance)?;
        let touched = instance.is_live() && instance.node.is_some();
        (touched && !has_reason(before, instance, wish))
            .then(|| format!("the plan ends {} without a reason: {wish:?}", before.instance_name(instance)))
    })
}

fn has_reason(state: &ClusterState, instance: &Instance, wish: &Wish) -> bool {
    let node = instance.node.and_then(|node| state.node(node));
    if node.is_none_or(|node| node.liveness == Liveness::Down || node.availability == Availability::Drained) {
        return true;
    }
    let Some(service) = state.service(instance.service) else { return true };
    if node.is_some_and(|node| !node.satisfies(&service.spec.placement.constraints)) {
        return true;
    }
    let held =
        state.instances_of(service.id).filter(|other| other.desired == Desired::Run && !other.lost).count();
    let too_many = match service.spec.mode {
        Mode::Replicated { replicas } => held > usize::try_from(replicas).unwrap_or(usize::MAX),
        Mode::Global | Mode::Job { .. } | Mode::GlobalJob => false,
    };
    // It was started beside another one, or another one beside it is Ready.
    let pair = state.instances_in(instance.service, instance.slot).any(|other| {
        let successor = other.beside == Some(instance.id) && other.is_ready();
        other.is_live() && (successor || instance.beside == Some(other.id))
    });
    // Who it is for is checked by the scheduler's own tests.
    let gives_way = wish.reason.starts_with("gives way to ") && wish.desired == Desired::Stop;
    let moves = state.settings().rebalance.is_some() && wish.reason.starts_with("moves to node ");
    if gives_way || moves {
        return !wish.lost;
    }
    let is_over = service.job.as_ref().is_some_and(|run| run.phase != JobPhase::Running);
    !wish.lost
        && (service.deleting
            || is_over
            || service.schedule.is_some()
            || too_many
            || pair
            || !state.is_current(instance))
}

/// A plan takes no more slots out of service than the service allows: those may be missing, no others.
#[must_use]
pub fn disruption(before: &ClusterState, plan: &Plan, now: Timestamp) -> Option<String> {
    let actor = skein_master_core::command::Actor::User;
    let command = Command { request: None, at: now, actor, kind: CommandKind::Plan(plan.clone()) };
    let mut after = before.clone();
    after.apply(skein_common::Revision(before.revision().0 + 1), &command);
    before.services().find_map(|service| {
        let Mode::Replicated { replicas } = service.spec.mode else { return None };
        // Where instances come to an end by themselves, slots are neither served nor missed.
        if service.spec.restart.condition != RestartCondition::Any {
            return None;
        }
        let (had, has) = (served(before, service), served(&after, service));
        let stays = |slot: Slot| after.instances_in(service.id, slot).any(|i| i.is_live());
        let mut taken = had.difference(&has).filter(|slot| stays(**slot));
        let taken = taken.any(|slot| !is_forced(before, service, *slot));
        let least = replicas.saturating_sub(service.spec.max_unavailable(replicas));
        let serving = u32::try_from(has.len()).unwrap_or(u32::MAX);
        let broken = taken && !service.deleting && serving < least;
        broken.then(|| format!("a plan leaves {serving} of {replicas} of {}: {plan:?}", service.spec.name))
    })
}

/// Slots with an instance that serves and stays.
fn served(state: &ClusterState, service: &Service) -> BTreeSet<Slot> {
    let is_done = |i: &Instance| {
        i.desired == Desired::Run && state.spec_of(i).is_some_and(|spec| is_completed(i, spec))
    };
    let stays = state.instances_of(service.id).filter(|i| (i.is_ready() && i.is_live()) || is_done(i));
    stays.map(|instance| instance.slot).collect()
}

/// Its node is down, or the time of its drain is over.
fn is_forced(state: &ClusterState, service: &Service, slot: Slot) -> bool {
    let nodes = state.instances_in(service.id, slot).filter_map(|i| state.node(i.node?));
    nodes.into_iter().any(|node| node.liveness == Liveness::Down || node.drain_by.is_some())
}

#[must_use]
pub fn tell(action: &Action) -> String {
    match action {
        Action::Pull { image } => format!("pull {image}"),
        Action::Create { assignment, attempt } => {
            format!(
                "create {}.{} {} attempt {attempt}",
                assignment.service_name, assignment.slot, assignment.instance
            )
        }
        Action::Start { container, .. } => format!("start {container}"),
        Action::Stop { container, .. } => format!("stop {container}"),
        Action::Remove { container, .. } => format!("remove {container}"),
    }
}

#[must_use]
pub fn tell_end(outcome: &Result<Success, RuntimeError>) -> String {
    match outcome {
        Ok(Success::Created(id)) => format!("created {id}"),
        Ok(Success::Done) => "done".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[must_use]
pub fn tell_command(command: &Command, applied: &Applied) -> String {
    let mut text = format!("{:?}", command.kind);
    if let CommandKind::CreateService { spec, .. } | CommandKind::UpdateService { spec, .. } = &command.kind {
        text = format!("put service {} {:?} {:?}", spec.name, spec.mode, spec.container.command);
    }
    if let CommandKind::RegisterNode { description, incarnation, .. } = &command.kind {
        text = format!("register {} incarnation {incarnation}", description.name);
    }
    match &applied.outcome {
        Ok(_) => text,
        Err(rejection) => format!("{text} REJECTED: {rejection}"),
    }
}
