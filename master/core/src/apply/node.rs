//! Nodes: what their agents say at Hello and what users decide about them.
//!
//! Invariant: a name belongs to one node id until that node is deleted; an incarnation never
//! goes back. A Hello is as good as a heartbeat: it makes the node Ready.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use skein_common::{
    NodeId, Revision, Violations,
    event::Severity,
    node::{Availability, Liveness, Node, NodeDescription},
};

use super::{
    Answer, Step, check_etag, job, precondition,
    progress::{self, Input, Next},
    rebalance,
};
use crate::{
    command::{ObjectKind, Outcome, Rejection},
    state::ClusterState,
};

/// Larger amounts are nonsense, and sums of them could overflow: 1 EiB, 10^12 cores.
const MAX_MEMORY_BYTES: u64 = 1 << 60;
const MAX_CPU_MILLIS: u64 = 1_000_000_000_000_000;
const MAX_NAME: usize = 253;

pub(super) fn register(
    step: &mut Step<'_>,
    id: NodeId,
    description: &Arc<NodeDescription>,
    incarnation: u64,
) -> Answer {
    check_description(description)?;
    check_name_is_free(step.state, id, &description.name)?;
    match step.state.nodes.get(&id).cloned() {
        None => join(step, id, description, incarnation),
        Some(node) if incarnation < node.incarnation => {
            return Err(precondition(format!(
                "node {} has registered with incarnation {}, later than {incarnation}: two agents share one data folder, or one was restored from a copy",
                node.description.name, node.incarnation
            )));
        }
        Some(node) => rejoin(step, &node, description, incarnation),
    }
    Ok(Outcome::Node(id))
}

fn join(step: &mut Step<'_>, id: NodeId, description: &NodeDescription, incarnation: u64) {
    let node = Node {
        id,
        description: description.clone(),
        labels: BTreeMap::new(),
        availability: Availability::Active,
        drain_by: None,
        liveness: Liveness::Ready,
        liveness_at: step.state.time,
        liveness_reason: String::new(),
        incarnation,
        created_at: step.state.time,
        created_revision: step.state.revision,
        modified_revision: step.state.revision,
    };
    let message = format!("node {} joined at {}", description.name, description.address);
    step.put_node(node.clone());
    step.node_event(Severity::Info, "NodeJoined", &node, message);
    rebalance::welcome(step, id, "joined");
}

fn rejoin(step: &mut Step<'_>, before: &Node, description: &NodeDescription, incarnation: u64) {
    let mut node = Node { description: description.clone(), incarnation, ..before.clone() };
    if node.liveness != Liveness::Ready {
        node.liveness = Liveness::Ready;
        node.liveness_at = step.state.time;
        node.liveness_reason.clear();
    }
    if node == *before {
        return;
    }
    step.put_node(node.clone());
    if before.liveness != Liveness::Ready {
        let message = format!("node {} is back", node.description.name);
        step.node_event(Severity::Info, "NodeReady", &node, message);
        if before.liveness == Liveness::Down {
            rebalance::welcome(step, node.id, "is back");
        }
    }
}

pub(super) fn update(
    step: &mut Step<'_>,
    id: NodeId,
    expected: Option<Revision>,
    availability: Option<Availability>,
    labels: Option<&BTreeMap<String, String>>,
    drain_within: Option<Duration>,
) -> Answer {
    let before = step.state.nodes.get(&id).cloned().ok_or_else(|| not_found(id))?;
    check_etag(ObjectKind::Node, expected, before.modified_revision)?;
    let mut node = Node::clone(&before);
    if let Some(availability) = availability {
        node.availability = availability;
        let within = drain_within.filter(|_| availability == Availability::Drained);
        node.drain_by = within.map(|within| step.state.time + within);
    }
    node.labels = labels.cloned().unwrap_or(node.labels);
    if node == *before {
        return Ok(Outcome::Node(id));
    }
    step.put_node(node.clone());
    if node.availability != before.availability {
        let (reason, does) = match node.availability {
            Availability::Active => ("NodeActivated", "takes instances again"),
            Availability::Paused => ("NodePaused", "keeps its instances and takes no new ones"),
            Availability::Drained => ("NodeDrained", "is drained: its instances move away"),
        };
        let message = format!("node {} {does}", node.description.name);
        step.node_event(Severity::Info, reason, &node, message);
        if node.availability == Availability::Active {
            rebalance::welcome(step, id, "takes instances again");
        }
    }
    if node.labels != before.labels {
        let message = format!("node {} has new labels", node.description.name);
        step.node_event(Severity::Info, "NodeLabelled", &node, message);
    }
    Ok(Outcome::Node(id))
}

pub(super) fn delete(step: &mut Step<'_>, id: NodeId, expected: Option<Revision>, force: bool) -> Answer {
    let node = step.state.nodes.get(&id).cloned().ok_or_else(|| not_found(id))?;
    check_etag(ObjectKind::Node, expected, node.modified_revision)?;
    if !force {
        check_idle(step.state, &node)?;
    }
    let records: Vec<_> = step.state.instances_on(id).cloned().collect();
    for instance in records {
        job::keep_result(step, instance.id);
        if progress::next(instance.observed.progress, instance.desired, Input::NodeRemoved) == Next::Forgotten
        {
            step.drop_instance(instance.id);
        }
    }
    // A global service's instance that waits for this very node has no other home.
    let waiting: Vec<_> = step.state.pending().filter(|i| waits_for(i.slot, id)).map(|i| i.id).collect();
    for instance in waiting {
        step.drop_instance(instance);
    }
    let message = format!("node {} removed from the cluster", node.description.name);
    step.drop_node(id);
    step.node_event(Severity::Info, "NodeRemoved", &node, message);
    Ok(Outcome::Node(id))
}

fn waits_for(slot: skein_common::instance::Slot, node: NodeId) -> bool {
    slot == skein_common::instance::Slot::Node(node)
}

/// Down, and nothing lives there but instances of global services, which end with it.
fn check_idle(state: &ClusterState, node: &Node) -> Result<(), Rejection> {
    let name = &node.description.name;
    if node.liveness != Liveness::Down {
        return Err(precondition(format!(
            "node {name} is {:?}: stop its agent and wait until it is Down, or use force",
            node.liveness
        )));
    }
    let live = state
        .instances_on(node.id)
        .filter(|instance| instance.is_live())
        .filter(|i| !state.service(i.service).is_some_and(|s| s.spec.mode.is_per_node()))
        .count();
    if live > 0 {
        return Err(precondition(format!(
            "node {name} still holds {live} instances that have not been replaced: wait, or use force"
        )));
    }
    Ok(())
}

fn check_description(description: &NodeDescription) -> Result<(), Rejection> {
    let mut found = Violations::default();
    let name = &description.name;
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        found.add("description.name", format!("1 to {MAX_NAME} characters without blanks are required"));
    }
    if description.address.is_empty() || description.address.chars().any(char::is_whitespace) {
        found.add("description.address", "the address that leads to this node's ports is required");
    }
    if description.capacity.memory_bytes > MAX_MEMORY_BYTES {
        found.add("description.capacity.memory_bytes", format!("more than {MAX_MEMORY_BYTES}"));
    }
    if description.capacity.cpu_millis > MAX_CPU_MILLIS {
        found.add("description.capacity.cpu_millis", format!("more than {MAX_CPU_MILLIS}"));
    }
    found.into_result(()).map_err(|violations| Rejection::Invalid { violations: violations.0 })
}

fn check_name_is_free(state: &ClusterState, id: NodeId, name: &str) -> Result<(), Rejection> {
    let Some(owner) = state.node_by_name(name).filter(|owner| owner.id != id) else { return Ok(()) };
    let idle = owner.liveness == Liveness::Down && !state.instances_on(owner.id).any(|i| i.is_live());
    Err(precondition(if idle {
        format!(
            "the name {name} belongs to node {}, which is down and runs nothing: remove it first (skein node rm {name})",
            owner.id
        )
    } else {
        format!(
            "the name {name} belongs to node {}, which is in use: start this agent with another name",
            owner.id
        )
    }))
}

fn not_found(id: NodeId) -> Rejection {
    Rejection::NotFound { kind: ObjectKind::Node, id: id.to_string() }
}
