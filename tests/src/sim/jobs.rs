//! Jobs in the simulator: a user who has them, containers that end by themselves, and the rules of jobs.
//!
//! Invariant: a due time is run at most once, and decided on soon after a leader is there; a slot that is
//! done is not begun again in the same run.
//! Deliberately not here: that jobs come to an end once all is healed (`check`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use skein_common::{
    InstanceId, ServiceId, Timestamp,
    instance::{Desired, Phase, Slot},
    service::{
        Calendar, Concurrency, ContainerSpec, Generation, MissedRuns, Mode, RestartCondition, Schedule,
        ServiceSpec,
    },
};
use skein_master_core::{Applied, ClusterState, Command, CommandKind, state::Change};

use super::{Event, World, user::Wish};

const NAMES: [&str; 3] = ["batch", "nightly", "ring"];
/// Masters' clocks differ, and a plan takes its time to commit.
const PATIENCE: Duration = Duration::from_secs(12);

/// What is known of jobs, beside the state.
#[derive(Debug, Default)]
pub struct Jobs {
    /// Runs that due times made.
    due: BTreeSet<(ServiceId, Timestamp)>,
    /// Slots that were seen to be done.
    done: BTreeMap<(ServiceId, Generation, Slot), InstanceId>,
}

impl World {
    pub(super) fn think_of_jobs(&mut self) -> Option<Wish> {
        if self.jobs.is_none() || !self.dice.percent(40) {
            return None;
        }
        let name = NAMES[self.dice.index(NAMES.len())];
        let Some(known) = self.user.expected.get(name).cloned() else {
            return Some(Wish::Create(self.imagine_job(name)));
        };
        let name = name.to_owned();
        Some(match self.dice.range(0..100) {
            0..35 => Wish::RunJob { name },
            35..60 => {
                let suspend = known.schedule.as_ref().map(|schedule| !schedule.suspend);
                suspend.map_or(Wish::RunJob { name: name.clone() }, |suspend| Wish::Suspend { name, suspend })
            }
            60..85 => {
                let mut spec = ServiceSpec::clone(&known);
                spec.container.command = vec![format!("v{}", self.user.answered)];
                Wish::Update(Arc::new(spec))
            }
            _ => Wish::Delete { name },
        })
    }

    fn imagine_job(&mut self, name: &str) -> Arc<ServiceSpec> {
        let completions = u32::try_from(self.dice.range(1..5)).unwrap_or(1);
        let parallelism = if name == "ring" { 0 } else { u32::try_from(self.dice.range(0..3)).unwrap_or(0) };
        let container = ContainerSpec { stop_grace: Duration::from_secs(3), ..ContainerSpec::new("plain:1") };
        let mut spec = ServiceSpec::new(name, container);
        spec.mode = Mode::Job { completions, parallelism };
        spec.restart.condition =
            if self.dice.percent(50) { RestartCondition::OnFailure } else { RestartCondition::None };
        spec.job.backoff_limit = 4;
        spec.job.gang = name == "ring";
        spec.resources.reservation.cpu_millis = 100;
        if name == "nightly" {
            let policies = [Concurrency::Allow, Concurrency::Forbid, Concurrency::Replace];
            let skip = self.dice.percent(30);
            spec.schedule = Some(Schedule {
                concurrency: policies[self.dice.index(policies.len())],
                missed: if skip { MissedRuns::Skip } else { MissedRuns::RunOnce },
                keep_completed: 2,
                ..Schedule::new("*/15 * * * * *")
            });
        }
        Arc::new(spec)
    }

    /// Peace needs schedules that rest; whether one was not suspended yet.
    pub(super) fn suspend_one(&mut self) -> bool {
        let is_due = |spec: &&Arc<ServiceSpec>| spec.schedule.as_ref().is_some_and(|s| !s.suspend);
        let Some(name) = self.user.expected.values().find(is_due).map(|spec| spec.name.clone()) else {
            return false;
        };
        if self.user.open.is_none() {
            self.ask(Wish::Suspend { name, suspend: true });
        }
        true
    }

    /// Its container ends by itself after a while.
    pub(super) fn begin_job(&mut self, node: usize, instance: InstanceId, container: String) {
        let known = self.jobs.as_ref().and_then(|_| self.raft.state.instance(instance));
        let spec = known.and_then(|instance| self.raft.state.spec_of(instance));
        if spec.is_some_and(|spec| spec.mode.is_job()) {
            self.after(200, 9_000, Event::JobEnds { node, container });
        }
    }

    pub(super) fn end_job(&mut self, node: usize, container: &str) {
        let now = self.node_time(node);
        let fails = !self.calm && self.dice.percent(15);
        let engine = &mut self.nodes[node].engine;
        let running = engine.containers.get(container).filter(|each| each.status.is_running());
        let Some(instance) = running.map(|each| each.instance) else { return };
        engine.exit(container, i64::from(fails), now);
        self.notify(node, instance, container.to_owned());
    }

    pub(super) fn broken_jobs(
        &mut self,
        before: &ClusterState,
        command: &Command,
        applied: &Applied,
    ) -> Option<String> {
        let mut jobs = self.jobs.take()?;
        let broken = jobs.run_twice(before, command, applied).or_else(|| jobs.done_again(before, applied));
        self.jobs = Some(jobs);
        broken.or_else(|| self.forgotten_time())
    }

    /// A leader that has been there for a while has decided on every time that has come.
    fn forgotten_time(&self) -> Option<String> {
        let leader = self.raft.leader?;
        let since = self.masters[leader].leads.as_ref()?.since;
        let now = self.master_time(leader).max(self.raft.state.time());
        if Duration::from_millis(self.now - since) < PATIENCE {
            return None;
        }
        self.raft.state.services().filter(|service| !service.deleting).find_map(|service| {
            let schedule = service.spec.schedule.as_ref().filter(|schedule| !schedule.suspend)?;
            let due = Calendar::of(schedule).ok()?.after(service.schedule?.decided())?;
            (due + PATIENCE < now).then(|| format!("{} was due at {due} and it is {now}", service.spec.name))
        })
    }
}

impl Jobs {
    fn run_twice(&mut self, before: &ClusterState, command: &Command, applied: &Applied) -> Option<String> {
        let CommandKind::Plan(plan) = &command.kind else { return None };
        applied.changes.iter().find_map(|change| {
            let Change::Service { service, .. } = change else { return None };
            let due = (service.owner?, service.scheduled_for?);
            let is_new = before.service(service.id).is_none();
            let by_time = plan.schedules.iter().any(|step| step.run == service.id);
            (is_new && by_time && !self.due.insert(due))
                .then(|| format!("{} is run twice", service.spec.name))
        })
    }

    fn done_again(&mut self, before: &ClusterState, applied: &Applied) -> Option<String> {
        applied.changes.iter().find_map(|change| {
            let Change::Instance { instance, deleted: false } = change else { return None };
            let run = before.service(instance.service)?.job.as_ref()?;
            let key = (instance.service, instance.generation, instance.slot);
            let observed = &instance.observed;
            let done = observed.progress.phase == Phase::Stopped && observed.exit_code == Some(0);
            if done
                && instance.desired == Desired::Run
                && !instance.lost
                && run.generation == instance.generation
            {
                self.done.entry(key).or_insert(instance.id);
                return None;
            }
            let first = self.done.get(&key).filter(|first| **first != instance.id)?;
            let begins = before.instance(instance.id).is_none();
            begins.then(|| {
                format!(
                    "slot {} of {} is begun again after {first} was done",
                    instance.slot, instance.service
                )
            })
        })
    }
}
