//! State → what one node has been told: the whole set, then what differs.
//!
//! Invariant: `told` is what the agent holds if it got every message; an agent that did not says so
//! (Resync, or a new session) and gets the whole set again. An assignment never changes but in its
//! `desired`, which is Stop for what has ended: ports and generation are chosen once, so a difference is one comparison.

use std::collections::BTreeMap;

use skein_common::{
    InstanceId, NodeId,
    assignment::{Assignment, AssignmentContent, AssignmentUpdate, Known},
    instance::{Desired, Instance, Observed, Phase, Slot},
};
use skein_master_core::{ClusterState, drain::Drains};

/// What one node has been told.
#[derive(Debug)]
pub struct Told {
    node: NodeId,
    term: u64,
    /// Counts messages, not revisions: two may follow from one revision, because the state is ahead
    /// of the feed that says where to look, and the agent takes a number it knows for a repeat.
    generation: u64,
    desired: BTreeMap<InstanceId, Desired>,
}

impl Told {
    #[must_use]
    pub const fn new(node: NodeId, term: u64) -> Self {
        Self { node, term, generation: 0, desired: BTreeMap::new() }
    }

    /// Everything the node shall hold.
    pub fn everything(&mut self, state: &ClusterState, drains: &Drains) -> AssignmentUpdate {
        let held = state.instances_on(self.node);
        let assignments: Vec<_> = held.filter_map(|instance| assignment(state, drains, instance)).collect();
        self.desired = assignments.iter().map(|one| (one.instance, one.desired)).collect();
        self.generation += 1;
        AssignmentUpdate {
            term: self.term,
            generation: self.generation,
            content: AssignmentContent::Full(assignments),
        }
    }

    /// What differs for these instances; `None` when nothing does.
    pub fn difference(
        &mut self,
        state: &ClusterState,
        drains: &Drains,
        instances: impl IntoIterator<Item = InstanceId>,
    ) -> Option<AssignmentUpdate> {
        let (mut upserts, mut removals) = (Vec::new(), Vec::new());
        for id in instances {
            let held = state.instance(id).filter(|instance| instance.node == Some(self.node));
            match held.and_then(|instance| assignment(state, drains, instance)) {
                Some(one) if self.desired.insert(id, one.desired) != Some(one.desired) => upserts.push(one),
                None if self.desired.remove(&id).is_some() => removals.push(id),
                Some(_) | None => {}
            }
        }
        if upserts.is_empty() && removals.is_empty() {
            return None;
        }
        let from = self.generation;
        self.generation += 1;
        let content = AssignmentContent::Delta { from, upserts, removals };
        Some(AssignmentUpdate { term: self.term, generation: self.generation, content })
    }

    /// What differs at all.
    pub fn difference_of_all(&mut self, state: &ClusterState, drains: &Drains) -> Option<AssignmentUpdate> {
        let mut all: Vec<_> = self.desired.keys().copied().collect();
        all.extend(state.instances_on(self.node).map(|instance| instance.id));
        all.sort_unstable();
        all.dedup();
        self.difference(state, drains, all)
    }
}

fn assignment(state: &ClusterState, drains: &Drains, instance: &Instance) -> Option<Assignment> {
    let spec = state.spec_of(instance)?;
    Some(Assignment {
        instance: instance.id,
        service: instance.service,
        service_name: spec.name.clone(),
        slot: match instance.slot {
            Slot::Number(number) => number,
            Slot::Node(_) => 0,
        },
        generation: instance.generation,
        desired: effective(instance, drains),
        container: spec.container.clone(),
        resources: spec.resources,
        restart: spec.restart,
        ports: instance.ports.clone(),
        devices: instance.devices.clone(),
        attempt: instance.observed.progress.attempt,
        known: known(&instance.observed),
    })
}

fn known(observed: &Observed) -> Known {
    Known {
        was_ready: observed.progress.phase == Phase::Ready,
        readiness: observed.readiness,
        restarts: observed.restarts.clone(),
    }
}

/// An instance that ended is not to run again, whatever was wanted of it: an agent that lost its
/// checkpoint does not know that it ended.
///
/// One that is to stop goes on until no balancer sends it requests.
fn effective(instance: &Instance, drains: &Drains) -> Desired {
    match instance.desired {
        Desired::Stop | Desired::Remove if !drains.may_stop(instance) => Desired::Run,
        Desired::Run if instance.observed.progress.phase.is_terminal() => Desired::Stop,
        desired => desired,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skein_common::{
        ClusterId, Resources, Revision, ServiceId, Timestamp,
        instance::{News, Progress},
        node::{NodeDescription, Platform},
        service::{Generation, Mode, ServiceSpec},
    };
    use skein_master_core::{
        Command, CommandKind,
        command::{Actor, NewInstance, Plan, Report},
    };
    use skein_proto::v1;

    use super::*;

    fn spec() -> ServiceSpec {
        let container = v1::ContainerSpec { image: "web:1".to_owned(), ..Default::default() };
        let wire =
            v1::ServiceSpec { name: "web".to_owned(), container: Some(container), ..Default::default() };
        ServiceSpec { mode: Mode::Replicated { replicas: 2 }, ..ServiceSpec::try_from(wire).unwrap() }
    }

    fn description() -> NodeDescription {
        NodeDescription {
            name: "n1".to_owned(),
            address: "127.0.0.1".to_owned(),
            labels: BTreeMap::new(),
            capacity: Resources { cpu_millis: 1_000, memory_bytes: 1 << 30 },
            reserved: Resources::ZERO,
            platform: Platform::default(),
            agent_version: String::new(),
            runtime_version: String::new(),
            generic: Vec::new(),
            balances: false,
            pids: 0,
        }
    }

    /// One node with these instances, all made by one revision.
    fn state(node: NodeId, instances: &[InstanceId]) -> ClusterState {
        let service = ServiceId::from_random(1);
        let new = |(number, id): (u32, &InstanceId)| NewInstance {
            id: *id,
            service,
            slot: Slot::Number(number),
            generation: Generation(1),
            placed: Some((node, Vec::new())),
            devices: Vec::new(),
            not_before: Timestamp::default(),
            failures: 0,
            beside: None,
            moves_to: None,
            explanation: String::new(),
        };
        let plan = Plan { create: (1..).zip(instances).map(new).collect(), ..Plan::default() };
        let description = Arc::new(description());
        let mut state = ClusterState::default();
        for (revision, kind) in (1..).zip([
            CommandKind::FormCluster { id: ClusterId::from_random(1) },
            CommandKind::RegisterNode { id: node, description, incarnation: 1 },
            CommandKind::CreateService { id: service, spec: Arc::new(spec()) },
            CommandKind::Plan(plan),
        ]) {
            let command = Command { request: None, at: Timestamp::default(), actor: Actor::User, kind };
            state.apply(Revision(revision), &command).outcome.unwrap();
        }
        state
    }

    #[test]
    fn what_ended_is_not_to_run_again() {
        let (node, id) = (NodeId::from_random(1), InstanceId::from_random(1));
        let mut state = state(node, &[id]);
        for (phase, desired) in [
            (Phase::Ready, Desired::Run),
            // Completed, or about to be replaced: wanted, and over.
            (Phase::Stopped, Desired::Stop),
        ] {
            let observed = Observed::of(Progress { attempt: 1, phase }, Timestamp::default());
            let report = Report { node, instance: id, news: News::Observed(observed) };
            let kind = CommandKind::Observe { reports: vec![report] };
            let command = Command { request: None, at: Timestamp::default(), actor: Actor::User, kind };
            state.apply(Revision(state.revision().0 + 1), &command).outcome.unwrap();
            assert_eq!(state.instance(id).unwrap().desired, Desired::Run);
            let set = Told::new(node, 7).everything(&state, &Drains::default());
            let AssignmentContent::Full(set) = set.content else { panic!("a whole set") };
            assert_eq!(set[0].desired, desired, "{phase}");
        }
    }

    #[test]
    fn two_messages_from_one_revision_are_two_generations() {
        let (node, [first, second]) = (NodeId::from_random(1), [1, 2].map(InstanceId::from_random));
        let state = state(node, &[first, second]);
        let mut told = Told::new(node, 7);
        let mut held = told.everything(&ClusterState::default(), &Drains::default()).generation;
        for instance in [first, second] {
            let update = told.difference(&state, &Drains::default(), [instance]).unwrap();
            let AssignmentContent::Delta { from, upserts, .. } = update.content else { panic!("a delta") };
            assert_eq!((from, upserts.len()), (held, 1));
            assert!(update.generation > held, "an agent takes generation {held} for a repeat");
            held = update.generation;
        }
        assert_eq!(told.difference(&state, &Drains::default(), [first, second]), None);
        assert!(told.everything(&state, &Drains::default()).generation > held);
    }
}
