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

use crate::{ClusterState, drain::Drains, state::Change};

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

/// Instances whose nodes have to be looked at because of these changes. Too many are harmless.
pub fn concerned<'a>(changes: impl Iterator<Item = &'a Change>) -> Vec<(NodeId, InstanceId)> {
    let told = changes.filter_map(|change| match change {
        Change::Instance { instance, deleted } if *deleted || !is_known_to_agent(instance) => {
            instance.node.map(|node| (node, instance.id))
        }
        _ => None,
    });
    told.collect()
}

/// The agent has reported on it and is to go on: this change came from the agent itself.
fn is_known_to_agent(instance: &Instance) -> bool {
    instance.desired == Desired::Run && instance.observed.progress.phase > Phase::Assigned
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
    use skein_common::instance::{News, Progress};

    use super::*;
    use crate::{
        CommandKind,
        command::Report,
        testing::{Cluster, replicated},
    };

    #[test]
    fn what_ended_is_not_to_run_again() {
        let mut cluster = Cluster::new(1);
        let web = cluster.create(replicated("web", 1));
        cluster.step();
        let (node, id) = (cluster.node("n1"), cluster.live(web)[0].id);
        for (phase, desired) in [
            (Phase::Ready, Desired::Run),
            // Completed, or about to be replaced: wanted, and over.
            (Phase::Stopped, Desired::Stop),
        ] {
            let observed = Observed::of(Progress { attempt: 1, phase }, cluster.now);
            let report = Report { node, instance: id, news: News::Observed(observed) };
            cluster.apply(CommandKind::Observe { reports: vec![report] });
            assert_eq!(cluster.state.instance(id).unwrap().desired, Desired::Run);
            let set = Told::new(node, 7).everything(&cluster.state, &Drains::default());
            let AssignmentContent::Full(set) = set.content else { panic!("a whole set") };
            assert_eq!(set[0].desired, desired, "{phase}");
        }
    }

    #[test]
    fn two_messages_from_one_revision_are_two_generations() {
        let mut cluster = Cluster::new(1);
        let web = cluster.create(replicated("web", 2));
        let before = cluster.state.clone();
        cluster.step();
        let ids: Vec<_> = cluster.live(web).iter().map(|instance| instance.id).collect();
        let (mut told, drains) = (Told::new(cluster.node("n1"), 7), Drains::default());
        let mut held = told.everything(&before, &drains).generation;
        for instance in ids.clone() {
            let update = told.difference(&cluster.state, &drains, [instance]).unwrap();
            let AssignmentContent::Delta { from, upserts, .. } = update.content else { panic!("a delta") };
            assert_eq!((from, upserts.len()), (held, 1));
            assert!(update.generation > held, "an agent takes generation {held} for a repeat");
            held = update.generation;
        }
        assert_eq!(told.difference(&cluster.state, &drains, ids), None);
        assert!(told.everything(&cluster.state, &drains).generation > held);
    }
}
