//! State → what one node has been told: the whole set, then what differs.
//!
//! Invariant: `told` is what the agent holds if it got every message; an agent that did not says so
//! (Resync, or a new session) and gets the whole set again. An assignment never changes but in its
//! `desired`: ports and generation are chosen once, so a difference is one comparison.

use std::collections::BTreeMap;

use skein_common::{
    InstanceId, NodeId,
    assignment::{Assignment, AssignmentContent, AssignmentUpdate},
    instance::{Desired, Instance, Slot},
};
use skein_master_core::ClusterState;

/// What one node has been told.
#[derive(Debug)]
pub struct Told {
    node: NodeId,
    term: u64,
    generation: u64,
    desired: BTreeMap<InstanceId, Desired>,
}

impl Told {
    #[must_use]
    pub const fn new(node: NodeId, term: u64) -> Self {
        Self { node, term, generation: 0, desired: BTreeMap::new() }
    }

    /// Everything the node shall hold.
    pub fn everything(&mut self, state: &ClusterState) -> AssignmentUpdate {
        let held = state.instances_on(self.node);
        let assignments: Vec<_> = held.filter_map(|instance| assignment(state, instance)).collect();
        self.desired = assignments.iter().map(|one| (one.instance, one.desired)).collect();
        self.generation = state.revision().0;
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
        instances: impl IntoIterator<Item = InstanceId>,
    ) -> Option<AssignmentUpdate> {
        let (mut upserts, mut removals) = (Vec::new(), Vec::new());
        for id in instances {
            let held = state.instance(id).filter(|instance| instance.node == Some(self.node));
            match held.and_then(|instance| assignment(state, instance)) {
                Some(one) if self.desired.insert(id, one.desired) != Some(one.desired) => upserts.push(one),
                None if self.desired.remove(&id).is_some() => removals.push(id),
                Some(_) | None => {}
            }
        }
        if upserts.is_empty() && removals.is_empty() {
            return None;
        }
        let from = std::mem::replace(&mut self.generation, state.revision().0);
        let content = AssignmentContent::Delta { from, upserts, removals };
        Some(AssignmentUpdate { term: self.term, generation: self.generation, content })
    }

    /// What differs at all.
    pub fn difference_of_all(&mut self, state: &ClusterState) -> Option<AssignmentUpdate> {
        let mut all: Vec<_> = self.desired.keys().copied().collect();
        all.extend(state.instances_on(self.node).map(|instance| instance.id));
        all.sort_unstable();
        all.dedup();
        self.difference(state, all)
    }
}

fn assignment(state: &ClusterState, instance: &Instance) -> Option<Assignment> {
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
        desired: instance.desired,
        container: spec.container.clone(),
        resources: spec.resources,
        restart: spec.restart,
        ports: instance.ports.clone(),
        attempt: instance.observed.progress.attempt,
    })
}
