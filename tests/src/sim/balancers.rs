//! Every node's balancer in the simulator: what it was told, requests under way, and the rule that a stop waits for it.
//!
//! Invariant: the book of endpoints, what sessions tell of it and who is held back are the real ones
//! (`skein_master_core::{endpoints, drain}`), and so is the table (`skein_agent_core`).
//! Deliberately not here: which endpoint takes a request (`agent/core`, `balance`, has its own tests).

use std::collections::{BTreeMap, BTreeSet};

use skein_agent_core::{EndpointTable, Verdict};
use skein_common::{
    InstanceId,
    assignment::{AssignmentContent, AssignmentUpdate},
    endpoint::EndpointsUpdate,
    instance::{Desired, Instance, Phase},
};
use skein_master_core::{ClusterState, drain, endpoints::touched, state::Change};

use super::{
    Event, World,
    network::{Message, StreamId, Way},
};

/// As `drain::SILENT_LIMIT`, written down once more: a check does not ask what it checks.
const SILENT_LIMIT: u64 = 5_000;
/// Requests that are under way take this long at most.
const LONGEST_REQUEST: u64 = 8_000;

/// One node's balancer.
#[derive(Debug, Default)]
pub struct Balancer {
    table: EndpointTable,
    /// Endpoints no more, and until when their requests are under way.
    busy: BTreeMap<InstanceId, u64>,
}

impl Balancer {
    fn sends_to(&self, instance: InstanceId) -> bool {
        self.endpoints().contains(&instance)
    }

    fn endpoints(&self) -> BTreeSet<InstanceId> {
        let ports = self.table.services().flat_map(|service| &service.ports);
        ports.flat_map(|port| &port.endpoints).map(|endpoint| endpoint.instance).collect()
    }
}

impl World {
    /// What the leader's dispatcher makes of a commit.
    pub(super) fn dispatch_endpoints(&mut self, master: usize, term: u64, changes: &[Change]) {
        let now = self.master_time(master);
        let Some(leader) = self.leader(master, term) else { return };
        let state = leader.state.clone();
        let number = leader.book.write(&state, &touched(&state, changes.iter()));
        for change in changes {
            match change {
                Change::Instance { instance, deleted: true } => leader.drains.forget(instance.id),
                Change::Instance { instance, .. } => {
                    if let Some(instance) = state.instance(instance.id) {
                        leader.drains.look(instance, number, drain::limit(&state, instance), now);
                    }
                }
                _ => {}
            }
        }
        if std::mem::replace(&mut leader.number, number) != number {
            let told = leader.sessions.iter_mut().filter(|(_, session)| session.balances);
            let told: Vec<usize> = told
                .map(|(node, session)| {
                    session.endpoints = true;
                    *node
                })
                .collect();
            for node in told {
                self.after(0, 12, Event::Tell { master, term, node });
            }
        }
        self.release(master, term);
    }

    /// A new leader's first look.
    pub(super) fn look_at_all_endpoints(&mut self, master: usize, term: u64) {
        let now = self.master_time(master);
        let Some(leader) = self.leader(master, term) else { return };
        let state = leader.state.clone();
        leader.number = leader.book.write_all(&state);
        for instance in state.instances() {
            leader.drains.look(instance, leader.number, drain::limit(&state, instance), now);
        }
        self.release(master, term);
    }

    /// Lets agents stop what no balancer holds any more.
    pub(super) fn release(&mut self, master: usize, term: u64) {
        let now = self.master_time(master);
        let Some(leader) = self.leader(master, term).filter(|leader| leader.drains.is_waiting()) else {
            return;
        };
        let released = leader.drains.release(now, &drain::balancers(&leader.state));
        let state = leader.state.clone();
        if let Some(next) = released.next {
            let wait = next.unix_ms().saturating_sub(now.unix_ms());
            self.after(wait, wait + 1, Event::Release { master, term });
        }
        for instance in released.instances.iter().filter_map(|id| state.instance(*id)) {
            let node = instance.node.and_then(|id| self.nodes.iter().position(|node| node.id == id));
            if let Some(node) = node.filter(|_| self.mixed) {
                self.after(0, 8, Event::Inbox { master, term, node, instance: instance.id });
            }
        }
    }

    /// A balancer says by what it goes.
    pub(super) fn balancer_said(
        &mut self,
        master: usize,
        node: usize,
        generation: u64,
        busy: BTreeSet<InstanceId>,
    ) {
        let id = self.nodes[node].id;
        let Some(leader) = self.masters[master].leads.as_deref_mut() else { return };
        let Some(session) = leader.sessions.get_mut(&node) else { return };
        if let Some(number) = session.told_endpoints.heard(generation) {
            session.heard_number = number;
        }
        session.busy.clone_from(&busy);
        leader.drains.heard(id, session.heard_number, busy);
        let term = leader.term;
        self.release(master, term);
    }

    /// A leader welcomed the agent: it will tell everything first.
    pub(super) fn begin_balancing(&mut self, node: usize, life: u64) {
        let Some(agent) = self.agent(node, life) else { return };
        agent.balancer.table.begin_session();
        if self.nodes[node].description.balances {
            self.say_applied(node, life);
        }
    }

    pub(super) fn told_endpoints(
        &mut self,
        node: usize,
        life: u64,
        stream: StreamId,
        update: EndpointsUpdate,
    ) {
        let now = self.now;
        let Some(agent) = self.agent(node, life) else { return };
        let before = agent.balancer.endpoints();
        match agent.balancer.table.apply(update) {
            Verdict::Accepted => {}
            Verdict::Known => return,
            Verdict::Gap { .. } | Verdict::LowerTerm { .. } => {
                return self.send(stream, Way::ToMaster, Message::Resync);
            }
        }
        let after = agent.balancer.endpoints();
        for left in before.difference(&after) {
            if self.dice.percent(50) {
                let until = now + self.dice.range(10..LONGEST_REQUEST);
                let left = *left;
                if let Some(agent) = self.agent(node, life) {
                    agent.balancer.busy.insert(left, until);
                }
                self.at(until, Event::RequestsEnd { node, life });
            }
        }
        self.say_applied(node, life);
    }

    /// To the leader of the present session, as far as there is one.
    pub(super) fn say_applied(&mut self, node: usize, life: u64) {
        let now = self.now;
        let Some(agent) = self.agent(node, life) else { return };
        agent.balancer.busy.retain(|_, until| *until > now);
        let generation = agent.balancer.table.generation();
        let busy = agent.balancer.busy.keys().copied().collect();
        let stream = agent.stream.as_ref().filter(|open| open.welcomed).map(|open| open.id);
        if let Some(stream) = stream {
            self.send(stream, Way::ToMaster, Message::EndpointsApplied { generation, busy });
        }
    }

    /// No stop reaches an agent before every balancer has let go, or its bound has passed.
    pub(super) fn check_stops(&mut self, master: usize, update: &AssignmentUpdate) {
        let (AssignmentContent::Full(told) | AssignmentContent::Delta { upserts: told, .. }) =
            &update.content;
        let Some(leader) = self.masters[master].leads.as_deref() else { return };
        let stops = told.iter().filter(|one| one.desired > Desired::Run).map(|one| one.instance);
        let leaving = stops.filter_map(|id| leader.state.instance(id)).filter(|i| may_serve(i));
        let early = leaving.filter_map(|instance| self.stopped_too_early(master, &leader.state, instance));
        if let Some(early) = early.into_iter().next() {
            self.fail(early);
        }
    }

    fn stopped_too_early(&self, master: usize, state: &ClusterState, instance: &Instance) -> Option<String> {
        let leader = self.masters[master].leads.as_deref()?;
        let id = instance.id;
        let wished = self.stop_wished.get(&id).copied().unwrap_or_default().max(leader.since);
        let waited = self.now - wished;
        let limit = state.service(instance.service)?.spec.balance.timeouts.drain.as_millis();
        for (index, node) in self.nodes.iter().enumerate() {
            let known = state.node(node.id).filter(|known| {
                known.liveness != skein_common::node::Liveness::Down && known.description.balances
            });
            let (Some(_), Some(agent)) = (known, &node.agent) else { continue };
            let name = || state.instance_name(instance);
            if agent.balancer.sends_to(id) && waited < SILENT_LIMIT {
                return Some(format!(
                    "{} is told to stop after {waited} ms, and {} sends it requests",
                    name(),
                    node.name
                ));
            }
            // Messages that overtake each other within a stream say what was under way before.
            let under_way =
                !self.was_hostile && agent.balancer.busy.get(&id).is_some_and(|until| *until > self.now);
            let is_known = leader.sessions.get(&index).is_some_and(|session| {
                session.busy.contains(&id)
                    && agent.stream.as_ref().is_some_and(|open| open.id == session.stream)
            });
            let bound = if is_known { limit } else { limit.min(SILENT_LIMIT.into()) };
            if under_way && !agent.balancer.sends_to(id) && u128::from(waited) < bound {
                return Some(format!(
                    "{} is told to stop after {waited} ms, and {} waits for its answers",
                    name(),
                    node.name
                ));
            }
        }
        None
    }

    /// What this node's balancer goes by, once all is healed.
    pub(super) fn unrest_of_balancer(&self, node: usize) -> Option<String> {
        let (node, state) = (&self.nodes[node], &self.raft.state);
        let agent = node.agent.as_ref().filter(|_| node.description.balances)?;
        let wanted: Vec<_> = state.services().filter_map(|service| state.endpoints_of(service.id)).collect();
        let held: Vec<_> = agent.balancer.table.services().map(|held| (**held).clone()).collect();
        (wanted != held).then(|| format!("{} balances by {held:?} instead of {wanted:?}", node.name))
    }
}

/// Balancers may know it.
fn may_serve(instance: &Instance) -> bool {
    instance.observed.progress.phase == Phase::Ready && !instance.ports.is_empty() && !instance.lost
}
