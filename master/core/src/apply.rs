//! Command → state. One arm a family, one call an arm.
//!
//! # Determinism
//! No clock, no random, no environment, no map with random order, no I/O, no floats: every
//! master that applies the same log holds the same state, for ever. Times and ids travel in the
//! command. Old commands must keep their meaning; a new meaning is a new variant.
//!
//! Invariant: total. A command is applied whole or ends in a [`Rejection`] that changed nothing
//! (parts of a plan or of a report that no longer fit are skipped: they are conclusions, not wishes).

mod cluster;
mod config;
mod devices;
mod job;
mod judge;
mod node;
mod observe;
mod plan;
pub mod progress;
mod rebalance;
mod request;
mod rollout;
mod routes;
mod schedule;
mod service;

use std::{collections::BTreeSet, sync::Arc};

use skein_common::{
    InstanceId, NodeId, Revision, ServiceId,
    event::{Event, Severity, Subject},
    instance::{Author, Instance, Transition},
    node::Node,
};

use crate::{
    command::{Actor, Command, CommandKind, ObjectKind, Outcome, Rejection},
    state::{Applied, Change, ClusterState, Service, Settings},
};

/// Events kept; the oldest go first.
pub const MAX_EVENTS: usize = 10_000;

pub(crate) use config::users as config_users;

type Answer = Result<Outcome, Rejection>;

/// One command being applied: the state, and the changes so far.
struct Step<'a> {
    state: &'a mut ClusterState,
    actor: &'a Actor,
    changes: Vec<Change>,
}

impl ClusterState {
    /// Applies the log entry at `revision`. Total: whatever the command says, it ends in an
    /// outcome or a [`Rejection`], the same on every master.
    pub fn apply(&mut self, revision: Revision, command: &Command) -> Applied {
        self.revision = revision;
        self.time = self.time.max(command.at);
        request::evict(self);
        if let Some(outcome) = request::answered(self, command.request.as_ref()) {
            return Applied { outcome, changes: Vec::new() };
        }
        let mut step = Step { state: self, actor: &command.actor, changes: Vec::new() };
        let outcome = step.dispatch(&command.kind);
        let changes = last_of_each(step.changes);
        request::record(self, command.request.as_ref(), &outcome);
        Applied { outcome, changes }
    }
}

impl Step<'_> {
    fn dispatch(&mut self, kind: &CommandKind) -> Answer {
        match kind {
            CommandKind::FormCluster { id } => cluster::form(self, *id),
            CommandKind::CreateService { id, spec } => service::create(self, *id, spec),
            CommandKind::UpdateService { id, expected, spec } => service::update(self, *id, *expected, spec),
            CommandKind::ScaleService { id, expected, replicas } => {
                service::scale(self, *id, *expected, *replicas)
            }
            CommandKind::DeleteService { id, expected } => service::delete(self, *id, *expected),
            CommandKind::ControlRollout { id, expected, control } => {
                rollout::control(self, *id, *expected, *control)
            }
            CommandKind::RunJob { id, expected, run } => schedule::run_now(self, *id, *expected, *run),
            CommandKind::ControlSchedule { id, expected, suspend } => {
                schedule::control(self, *id, *expected, *suspend)
            }
            CommandKind::CreateConfig { id, spec } => config::create(self, *id, spec),
            CommandKind::DeleteConfig { id } => config::delete(self, *id),
            CommandKind::RegisterNode { id, description, incarnation } => {
                node::register(self, *id, description, *incarnation)
            }
            CommandKind::UpdateNode { id, expected, availability, labels, drain_within } => {
                node::update(self, *id, *expected, *availability, labels.as_ref(), *drain_within)
            }
            CommandKind::DeleteNode { id, expected, force } => node::delete(self, *id, *expected, *force),
            CommandKind::Observe { reports } => observe::observe(self, reports),
            CommandKind::JudgeNodes { verdicts } => judge::judge(self, verdicts),
            CommandKind::Plan(plan) => plan::apply(self, plan),
            CommandKind::ConfigureCluster { expected, config } => cluster::configure(self, *expected, config),
            CommandKind::Rebalance { goal, service } => rebalance::begin(self, *goal, *service),
            CommandKind::StopRebalance => rebalance::stop(self),
        }
    }

    fn put_service(&mut self, mut service: Service) {
        service.modified_revision = self.state.revision;
        service.address = self.state.address_for(&service);
        let service = Arc::new(service);
        self.state.put_service(service.clone());
        self.changes.push(Change::Service { service, deleted: false });
    }

    fn drop_service(&mut self, id: ServiceId) {
        let dropped = self.state.drop_service(id);
        self.changes.extend(dropped.map(|service| Change::Service { service, deleted: true }));
    }

    fn put_node(&mut self, mut node: Node) {
        node.modified_revision = self.state.revision;
        let node = Arc::new(node);
        self.state.put_node(node.clone());
        self.changes.push(Change::Node { node, deleted: false });
    }

    fn drop_node(&mut self, id: NodeId) {
        let dropped = self.state.drop_node(id);
        self.changes.extend(dropped.map(|node| Change::Node { node, deleted: true }));
    }

    fn put_instance(&mut self, mut instance: Instance) {
        instance.modified_revision = self.state.revision;
        self.note_transition(&mut instance);
        let instance = Arc::new(instance);
        self.state.put_instance(instance.clone());
        self.changes.push(Change::Instance { instance, deleted: false });
    }

    /// The story of an instance has one writer: whatever put it.
    fn note_transition(&self, instance: &mut Instance) {
        let before = self.state.instances.get(&instance.id);
        let marks = |one: &Instance| (one.observed.progress, one.desired, one.observed.is_ready(), one.lost);
        if before.is_some_and(|before| marks(before) == marks(instance)) {
            return;
        }
        let is_wish = before.is_some_and(|before| before.desired != instance.desired);
        let cause = match (is_wish, instance.observed.exit_code) {
            (true, _) => instance.explanation.clone(),
            (false, Some(code)) if instance.observed.message.is_empty() => format!("exit code {code}"),
            (false, _) if before.is_none() => instance.explanation.clone(),
            (false, _) => instance.observed.message.clone(),
        };
        let author = match self.actor {
            Actor::User => Author::User,
            Actor::Agent(_) => Author::Agent,
            // Reports of agents travel in the observer's commands.
            Actor::Controller(name) if name == "observer" => Author::Agent,
            Actor::Controller(_) => Author::Masters,
        };
        instance.history = instance.history.and(Transition {
            at: self.state.time,
            revision: self.state.revision,
            progress: instance.observed.progress,
            desired: instance.desired,
            ready: instance.observed.is_ready(),
            author,
            cause: cause.into(),
        });
    }

    fn drop_instance(&mut self, id: InstanceId) {
        let dropped = self.state.drop_instance(id);
        self.changes.extend(dropped.map(|instance| Change::Instance { instance, deleted: true }));
    }

    fn put_settings(&mut self, settings: Settings) {
        self.state.settings = Arc::new(settings);
        self.changes.push(Change::Settings(self.state.settings.clone()));
    }

    fn event(&mut self, severity: Severity, reason: &str, subject: Subject, message: String) {
        let event = Arc::new(Event {
            sequence: self.state.last_event.saturating_add(1),
            revision: self.state.revision,
            at: self.state.time,
            severity,
            reason: reason.to_owned(),
            subject,
            message,
            actor: self.actor_name(),
        });
        self.state.put_event(event.clone(), MAX_EVENTS);
        self.changes.push(Change::Event(event));
    }

    fn service_event(&mut self, severity: Severity, reason: &str, service: &Service, message: String) {
        let subject = Subject::Service { id: service.id, name: service.spec.name.clone() };
        self.event(severity, reason, subject, message);
    }

    fn node_event(&mut self, severity: Severity, reason: &str, node: &Node, message: String) {
        let subject = Subject::Node { id: node.id, name: node.description.name.clone() };
        self.event(severity, reason, subject, message);
    }

    fn instance_event(&mut self, severity: Severity, reason: &str, instance: &Instance, message: String) {
        let name = self.state.instance_name(instance);
        let subject = Subject::Instance { id: instance.id, service: instance.service, name };
        self.event(severity, reason, subject, message);
    }

    fn actor_name(&self) -> String {
        match self.actor {
            Actor::User => "user".to_owned(),
            Actor::Agent(node) => format!("node {}", self.state.node_name(*node)),
            Actor::Controller(name) => name.clone(),
        }
    }
}

/// Refuses a change that was made against an older state of the object.
fn check_etag(kind: ObjectKind, expected: Option<Revision>, current: Revision) -> Result<(), Rejection> {
    match expected {
        Some(expected) if expected != current => Err(Rejection::StaleEtag { kind, current }),
        _ => Ok(()),
    }
}

fn precondition(message: impl Into<String>) -> Rejection {
    Rejection::FailedPrecondition { message: message.into() }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum ChangeKey {
    Service(ServiceId),
    Instance(InstanceId),
    Node(NodeId),
    Event(u64),
    Settings,
}

fn key(change: &Change) -> ChangeKey {
    match change {
        Change::Service { service, .. } => ChangeKey::Service(service.id),
        Change::Instance { instance, .. } => ChangeKey::Instance(instance.id),
        Change::Node { node, .. } => ChangeKey::Node(node.id),
        Change::Event(event) => ChangeKey::Event(event.sequence),
        Change::Settings(_) => ChangeKey::Settings,
    }
}

/// An object touched twice by one command is told once, as it is at the end.
fn last_of_each(changes: Vec<Change>) -> Vec<Change> {
    if changes.len() < 2 {
        return changes;
    }
    let mut seen = BTreeSet::new();
    let mut kept: Vec<_> = changes.into_iter().rev().filter(|change| seen.insert(key(change))).collect();
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests;
