//! One node: what it was told, what it remembers, what it sees, and what follows.
//!
//! Invariant: level-triggered and idempotent: any input may come twice, late or not at all;
//! [`NodeState::reconcile`] looks at everything and returns only what is not under way.
//! Nothing is done before the engine was listed once.
//! Deliberately not here: time limits, concurrency, disks (the shell).

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use serde::{Deserialize, Serialize};
use skein_common::{
    InstanceId, Timestamp,
    assignment::AssignmentUpdate,
    instance::{News, Phase},
};

use crate::{
    action::{Action, Finished, Success},
    assignments::{Assignments, Verdict},
    backoff,
    container::{ContainerStatus, RuntimeError, SeenContainer},
    image::Images,
    lifecycle::{self, Goal, Next, Situation},
    probe::{ProbeResult, ProbeRun},
    record::{Ending, Record},
    seen::{Glance, Look, Seen},
};

/// What survives the agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Checkpoint {
    pub assignments: Assignments,
    pub records: BTreeMap<InstanceId, Record>,
}

/// Everything an agent decides from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeState {
    assignments: Assignments,
    records: BTreeMap<InstanceId, Record>,
    seen: Seen,
    images: Images,
    /// Instances with a step under way.
    busy: BTreeSet<InstanceId>,
    /// What `news` answered before and does not any more.
    forgotten: Vec<InstanceId>,
}

/// What one pass decided.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// Tests of containers, each to be answered with [`NodeState::probed`].
    pub probes: Vec<ProbeRun>,
    /// Reconcile again then, if nothing happens before.
    pub wake_at: Option<Timestamp>,
    /// Instances whose `news` changed since the last pass.
    pub changed: Vec<InstanceId>,
}

impl NodeState {
    /// Goes on where a checkpoint left off.
    #[must_use]
    pub fn restore(checkpoint: Checkpoint, now: Timestamp) -> Self {
        let Checkpoint { assignments, mut records } = checkpoint;
        let assignments = assignments.remembered();
        for (instance, record) in &mut records {
            record.remember(assignments.get(*instance).map(|assignment| &assignment.restart), now);
        }
        Self { assignments, records, ..Self::default() }
    }

    /// What has to survive, now.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { assignments: self.assignments.clone(), records: self.records.clone() }
    }

    #[must_use]
    pub const fn assignments(&self) -> &Assignments {
        &self.assignments
    }

    /// Containers of an instance, lowest attempt first.
    #[must_use]
    pub fn containers(&self, instance: InstanceId) -> &[SeenContainer] {
        self.seen.containers(instance)
    }

    /// What there is to say of an instance; `None` when there is nothing (any more).
    #[must_use]
    pub fn news(&self, instance: InstanceId) -> Option<News> {
        let record = self.records.get(&instance)?;
        Some(if record.gone { News::Gone } else { News::Observed(record.observed()) })
    }

    /// All instances of which there is news.
    pub fn held(&self) -> impl Iterator<Item = InstanceId> {
        self.records.keys().copied()
    }

    /// See [`Assignments::begin_session`].
    ///
    /// # Errors
    /// The verdict, when a later leader has been obeyed.
    pub fn begin_session(&mut self, term: u64) -> Result<(), Verdict> {
        self.assignments.begin_session(term)
    }

    pub fn assign(&mut self, update: AssignmentUpdate) -> Verdict {
        self.assignments.apply(update)
    }

    /// The engine was asked and answered.
    pub fn look(&mut self, look: Look) {
        self.seen.absorb(look);
    }

    /// The engine was asked for one container. After a step, give this before [`Self::finish`].
    pub fn glance(&mut self, glance: Glance) {
        self.seen.glance(glance);
    }

    /// A test came to its end.
    pub fn probed(&mut self, result: ProbeResult, now: Timestamp) {
        let assignment = self.assignments.get(result.instance);
        if let (Some(record), Some(assignment)) = (self.records.get_mut(&result.instance), assignment) {
            record.probing.take(&assignment.container.probes, result, now);
        }
    }

    /// The engine answers again: what waited for it waits no longer.
    pub fn engine_is_back(&mut self) {
        for record in self.records.values_mut() {
            record.retry.reset();
        }
    }

    /// A step came to its end.
    pub fn finish(&mut self, finished: Finished, now: Timestamp) {
        let Finished { action, at, outcome, look } = finished;
        let Some(instance) = action.instance() else {
            if let Action::Pull { image } = &action {
                self.finish_pull(image, outcome, now);
            }
            return;
        };
        self.busy.remove(&instance);
        self.seen.touch(at, instance);
        match outcome {
            Ok(success) => self.succeed(&action, at, success),
            Err(error) => self.fail(&action, at, &error, now),
        }
        if let Some(look) = look {
            self.seen.absorb(look);
        }
        let moved = self.has_moved(&action);
        if let Some(record) = self.records.get_mut(&instance) {
            if moved {
                record.retry.reset();
            } else {
                record.retry.fail(backoff::ENGINE, now);
            }
        }
    }

    fn finish_pull(&mut self, image: &str, outcome: Result<Success, RuntimeError>, now: Timestamp) {
        match outcome {
            Ok(_) => self.images.pulled(image),
            Err(error) => self.images.failed(image, &error.to_string(), now),
        }
    }

    fn succeed(&mut self, action: &Action, at: crate::Sequence, success: Success) {
        match (action, success) {
            (Action::Create { assignment, attempt }, Success::Created(id)) => {
                self.images.present(&assignment.container.image);
                let (instance, attempt) = (assignment.instance, *attempt);
                if let Some(record) = self.records.get_mut(&instance) {
                    record.container_made(&id);
                }
                let status = ContainerStatus::Created;
                self.seen.add(at, SeenContainer { id, instance, attempt, status, address: None });
            }
            (Action::Remove { instance, container }, _) => self.seen.remove(at, *instance, container),
            // What these did is in the look that comes with them.
            (Action::Pull { .. } | Action::Create { .. } | Action::Start { .. } | Action::Stop { .. }, _) => {
            }
        }
    }

    fn fail(&mut self, action: &Action, at: crate::Sequence, error: &RuntimeError, now: Timestamp) {
        let Some(record) = action.instance().and_then(|instance| self.records.get_mut(&instance)) else {
            return;
        };
        match (action, error) {
            // A start of an earlier life of the agent was first.
            (Action::Start { instance, container }, _) if self.seen.runs(*instance, container) => {}
            // Nothing is known to have happened: later again.
            (_, RuntimeError::Unavailable(_)) => record.set_obstacle(&error.to_string(), now),
            (Action::Create { assignment, .. }, RuntimeError::Image { reason, .. }) => {
                self.images.missing(&assignment.container.image, reason, now);
            }
            (Action::Create { .. } | Action::Start { .. }, RuntimeError::Rejected(reason)) => {
                record.reject(reason, now);
            }
            (
                Action::Start { instance, container }
                | Action::Stop { instance, container, .. }
                | Action::Remove { instance, container },
                RuntimeError::NotFound(_),
            ) => self.seen.remove(at, *instance, container),
            (Action::Create { .. } | Action::Start { .. }, _) => {
                let cause = error.to_string();
                record.ending = Some(Ending { exit_code: None, failure: true, cause, finished_at: None });
            }
            (Action::Stop { .. } | Action::Remove { .. } | Action::Pull { .. }, _) => {
                record.set_obstacle(&error.to_string(), now);
            }
        }
    }

    /// Whether the step led to where the next decision is another one.
    fn has_moved(&self, action: &Action) -> bool {
        let status = |instance: &InstanceId, id: &str| {
            let containers = self.seen.containers(*instance);
            containers.iter().find(|container| container.id == id).map(|container| &container.status)
        };
        match action {
            Action::Pull { .. } => true,
            Action::Create { assignment, attempt } => {
                let containers = self.seen.containers(assignment.instance);
                let record = self.records.get(&assignment.instance);
                containers.iter().any(|container| container.attempt == *attempt)
                    || record.is_none_or(|record| record.ending.is_some() || record.phase().is_terminal())
                    || self.images.is_missing(&assignment.container.image)
            }
            Action::Start { instance, container } => {
                let record = self.records.get(instance);
                status(instance, container) != Some(&ContainerStatus::Created)
                    || record.is_none_or(|record| record.ending.is_some() || record.phase().is_terminal())
            }
            Action::Stop { instance, container, .. } => {
                !status(instance, container).is_some_and(ContainerStatus::is_running)
            }
            Action::Remove { instance, container } => status(instance, container).is_none(),
        }
    }

    /// Everything that is to be done now and is not under way.
    pub fn reconcile(&mut self, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        if self.seen.is_complete() {
            self.enroll(now);
            let instances: Vec<InstanceId> = self.records.keys().copied().collect();
            for instance in instances {
                self.decide(instance, now, &mut plan);
            }
            let assignments = self.assignments.iter();
            self.images.keep(&assignments.map(|each| each.container.image.as_str()).collect());
        }
        for (instance, record) in &mut self.records {
            if record.take_changed() {
                plan.changed.push(*instance);
            }
        }
        plan.changed.append(&mut self.forgotten);
        plan
    }

    /// A record for everything assigned or seen.
    fn enroll(&mut self, now: Timestamp) {
        for assignment in self.assignments.iter() {
            let record = match self.records.entry(assignment.instance) {
                Entry::Vacant(vacant) => vacant.insert(Record::new(assignment.attempt, now)),
                Entry::Occupied(known) => {
                    let record = known.into_mut();
                    record.adopt(assignment.attempt, now);
                    record
                }
            };
            record.recall(assignment.attempt, &assignment.known, now);
        }
        for (instance, containers) in self.seen.instances() {
            if let Some(highest) = containers.last() {
                self.records.entry(instance).or_insert_with(|| Record::new(highest.attempt, now));
            }
        }
    }

    fn decide(&mut self, instance: InstanceId, now: Timestamp, plan: &mut Plan) {
        let Some(record) = self.records.get_mut(&instance) else { return };
        let assignment = self.assignments.get(instance);
        if let Some(assignment) = assignment {
            record.stop_grace = assignment.container.stop_grace;
        }
        let goal = Goal::of(assignment, self.assignments.is_authoritative());
        let probes = assignment.map(|assignment| &assignment.container.probes);
        let situation = Situation { goal, probes, containers: self.seen.containers(instance), now };
        lifecycle::observe(record, &situation);
        let next = match self.busy.contains(&instance) {
            true => Next::Wait(None),
            false => lifecycle::next(record, &situation, |image| self.images.need(image, now)),
        };
        let (probes, next_probe) = lifecycle::probe(record, &situation);
        plan.probes.extend(probes);
        plan.wake_at = earliest(plan.wake_at, next_probe);
        match next {
            Next::Act(action) => {
                self.busy.insert(instance);
                plan.actions.push(action);
            }
            Next::Pull => {
                if let Goal::Run(assignment) = goal {
                    let image = assignment.container.image.clone();
                    self.images.pulling(&image);
                    plan.actions.push(Action::Pull { image });
                }
            }
            Next::Wait(until) => plan.wake_at = earliest(plan.wake_at, until),
            Next::Forget => {
                self.records.remove(&instance);
                self.forgotten.push(instance);
            }
        }
    }
}

/// Whether these news can wait for company: a step of the same attempt that usually takes
/// milliseconds. It is told with the next news or heartbeat.
#[must_use]
pub fn is_passing(before: Option<&News>, now: &News) -> bool {
    let News::Observed(now) = now else { return false };
    if !matches!(now.progress.phase, Phase::Assigned | Phase::Creating | Phase::Starting) {
        return false;
    }
    match before {
        None => now.message.is_empty(),
        Some(News::Gone) => false,
        Some(News::Observed(before)) => {
            before.progress.attempt == now.progress.attempt && before.message == now.message
        }
    }
}

fn earliest(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use skein_common::instance::{Observed, Progress};

    use super::*;

    fn at(attempt: u32, phase: Phase, message: &str) -> News {
        let message = message.to_owned();
        News::Observed(Observed {
            message,
            ..Observed::of(Progress { attempt, phase }, Timestamp::default())
        })
    }

    #[test]
    fn only_steps_that_pass_by_themselves_can_wait() {
        use Phase::{Assigned, Creating, Pulling, Ready, Running, Starting, Stopping};
        for (before, now, can_wait) in [
            (None, at(1, Assigned, ""), true),
            (None, at(1, Creating, ""), true),
            (Some(at(1, Assigned, "")), at(1, Starting, ""), true),
            (Some(at(2, Creating, "exit code 1")), at(2, Starting, "exit code 1"), true),
            (Some(at(1, Creating, "")), at(1, Creating, "the engine does not answer"), false),
            (Some(at(1, Assigned, "")), at(1, Pulling, ""), false),
            (Some(at(1, Starting, "")), at(1, Running, ""), false),
            (Some(at(1, Starting, "")), at(1, Ready, ""), false),
            // It serves no more: that is urgent.
            (Some(at(1, Ready, "")), at(2, Starting, ""), false),
            (Some(at(1, Ready, "")), at(1, Stopping, ""), false),
            (Some(at(1, Starting, "")), News::Gone, false),
        ] {
            assert_eq!(is_passing(before.as_ref(), &now), can_wait, "{before:?} → {now:?}");
        }
    }
}
