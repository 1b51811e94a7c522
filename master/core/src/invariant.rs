//! What must hold in every state, recomputed from the objects alone.
//!
//! For tests, the simulator and a doctor command; the masters never need it to decide.
//! Invariant: nothing here uses the code that maintains the indexes.

use std::collections::{BTreeMap, BTreeSet};

use skein_common::{
    InstanceId, NodeId, Resources, ServiceId,
    instance::{Desired, Instance, Phase, Slot},
    placement::WHOLE_MILLIS,
    service::{Protocol, Publish, Route, ScheduleState},
};

use crate::{
    apply::MAX_EVENTS,
    state::{ClusterState, Index, Service},
};

/// A rule that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("index {name} differs from what the objects say")]
    Index { name: &'static str },
    #[error("{kind} {name:?} belongs to two objects")]
    SharedName { kind: &'static str, name: String },
    #[error("slot {slot} of service {service} has live instances {first} and {second}")]
    TwoLive { service: ServiceId, slot: Slot, first: InstanceId, second: InstanceId },
    #[error("instance {instance} is on node {node}, which does not exist")]
    UnknownNode { instance: InstanceId, node: NodeId },
    #[error("instance {instance} runs a spec that is not kept")]
    UnknownSpec { instance: InstanceId },
    #[error("instance {instance} outlives its service without having been lost")]
    Orphan { instance: InstanceId },
    #[error("instance {instance} is {phase} and its node is {node:?}")]
    PhaseWithoutNode { instance: InstanceId, phase: Phase, node: Option<NodeId> },
    #[error("instance {instance} was never placed, is not wanted, and is still kept")]
    Useless { instance: InstanceId },
    #[error("specs are kept that nothing uses: {count}")]
    UnusedSpecs { count: usize },
    #[error("events {first}..={last} are not {count} without gaps")]
    Events { first: u64, last: u64, count: usize },
    #[error("node {node}: {reserved:?} reserved of {allocatable:?}")]
    Overcommitted { node: NodeId, reserved: Resources, allocatable: Resources },
    #[error("{address}: port {port}/{protocol} is used by {first} and {second}")]
    PortShared { address: String, protocol: Protocol, port: u16, first: InstanceId, second: InstanceId },
    #[error("node {node}: {millis} thousandths of {name} {device} are given away")]
    DeviceShared { node: NodeId, name: String, device: u16, millis: u32 },
    #[error("instance {placed} was placed while {before} of its slot may still run")]
    PlacedTooEarly { placed: InstanceId, before: InstanceId },
    #[error("run {run} outlives the service it is a run of")]
    RunWithoutOwner { run: ServiceId },
    #[error("service {service} has a schedule and a run of its own, or neither")]
    ScheduleAndRun { service: ServiceId },
    #[error("{what} of {object} went back")]
    WentBack { what: &'static str, object: String },
}

/// Rules that hold in every state.
#[must_use]
pub fn check(state: &ClusterState) -> Vec<Broken> {
    let mut broken = Vec::new();
    check_index(state, &mut broken);
    check_names(state, &mut broken);
    check_slots(state, &mut broken);
    check_instances(state, &mut broken);
    check_specs(state, &mut broken);
    check_runs(state, &mut broken);
    check_events(state, &mut broken);
    broken
}

/// Rules that hold as long as no node shrinks and no node moves to another's address: the
/// planner never places beyond what a node has.
#[must_use]
pub fn check_capacity(state: &ClusterState) -> Vec<Broken> {
    let mut broken = Vec::new();
    for node in state.nodes() {
        let (reserved, allocatable) = (state.reserved(node.id), node.allocatable());
        if allocatable.lacking(reserved).is_some() {
            broken.push(Broken::Overcommitted { node: node.id, reserved, allocatable });
        }
        let mut shares: BTreeMap<(&str, u16), u32> = BTreeMap::new();
        let there = state.instances_on(node.id).filter(|instance| instance.occupies().is_some());
        for share in there.flat_map(|instance| &instance.devices) {
            *shares.entry((&share.name, share.device)).or_default() += u32::from(share.millis);
        }
        let over = shares.into_iter().filter(|(_, millis)| *millis > u32::from(WHOLE_MILLIS));
        broken.extend(over.map(|((name, device), millis)| Broken::DeviceShared {
            node: node.id,
            name: name.to_owned(),
            device,
            millis,
        }));
    }
    for (address, used) in &state.index.host_ports {
        let used: Vec<_> = used.iter().copied().collect();
        for pair in used.windows(2) {
            let ((protocol, port, first), (protocol2, port2, second)) = (pair[0], pair[1]);
            if (protocol, port) == (protocol2, port2) {
                broken.push(Broken::PortShared { address: address.clone(), protocol, port, first, second });
            }
        }
    }
    broken
}

/// Rules between a state and a later one.
#[must_use]
pub fn check_step(before: &ClusterState, after: &ClusterState) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut forward = |holds: bool, what: &'static str, object: &dyn std::fmt::Display| {
        if !holds {
            broken.push(Broken::WentBack { what, object: object.to_string() });
        }
    };
    forward(before.revision <= after.revision, "revision", &"the cluster");
    forward(before.time <= after.time, "time", &"the cluster");
    forward(before.last_event <= after.last_event, "last event", &"the cluster");
    for (old, new) in before.instances().filter_map(|old| Some((old, after.instance(old.id)?))) {
        forward(old.observed.clock() <= new.observed.clock(), "progress", &old.id);
        forward(old.desired <= new.desired, "desired", &old.id);
        forward(!old.lost || new.lost, "lost", &old.id);
        forward(old.node.is_none() || old.node == new.node, "node", &old.id);
        forward(
            (old.service, old.slot, old.generation) == (new.service, new.slot, new.generation),
            "slot",
            &old.id,
        );
        let revived =
            old.observed.progress.phase.is_terminal() && old.observed.progress != new.observed.progress;
        forward(!revived, "terminal phase", &old.id);
    }
    broken.extend(after.instances().filter_map(|new| placed_too_early(before, after, new)));
    let mut forward = |holds: bool, what: &'static str, object: &dyn std::fmt::Display| {
        if !holds {
            broken.push(Broken::WentBack { what, object: object.to_string() });
        }
    };
    for (old, new) in before.services().filter_map(|old| Some((old, after.service(old.id)?))) {
        forward(old.generation <= new.generation, "generation", &old.id);
        forward(!old.deleting || new.deleting, "deleting", &old.id);
        let decided = |service: &Service| service.schedule.map(ScheduleState::decided);
        forward(new.schedule.is_none() || decided(old) <= decided(new), "schedule", &old.id);
        let waits_again = !old.waits && new.waits && old.generation == new.generation;
        forward(!waits_again, "release", &old.id);
    }
    for (old, new) in before.nodes().filter_map(|old| Some((old, after.node(old.id)?))) {
        forward(old.incarnation <= new.incarnation, "incarnation", &old.id);
    }
    broken
}

/// Stop first: whoever is placed finds its slot left by all others, or they were lost with their node.
fn placed_too_early(before: &ClusterState, after: &ClusterState, new: &Instance) -> Option<Broken> {
    let was_placed = before.instance(new.id).is_some_and(|old| old.node.is_some());
    if was_placed || new.node.is_none() {
        return None;
    }
    let other = after
        .instances()
        .filter(|other| (other.service, other.slot) == (new.service, new.slot) && other.id != new.id)
        .filter(|other| Some(other.id) != new.beside)
        .find(|other| other.occupies().is_some() && !other.lost)?;
    Some(Broken::PlacedTooEarly { placed: new.id, before: other.id })
}

fn check_index(state: &ClusterState, broken: &mut Vec<Broken>) {
    let (kept, told) = (&state.index, recompute(state));
    for (name, equal) in [
        ("services_by_name", kept.services_by_name == told.services_by_name),
        ("nodes_by_name", kept.nodes_by_name == told.nodes_by_name),
        ("ingress_ports", kept.ingress_ports == told.ingress_ports),
        ("routes", kept.routes == told.routes),
        ("repelling", kept.repelling == told.repelling),
        ("runs", kept.runs == told.runs),
        ("waiting", kept.waiting == told.waiting),
        ("spec_users", kept.spec_users == told.spec_users),
        ("slots", kept.slots == told.slots),
        ("on_node", kept.on_node == told.on_node),
        ("stopping", kept.stopping == told.stopping),
        ("pending", kept.pending == told.pending),
        ("occupancy", kept.occupancy == told.occupancy),
        ("host_ports", kept.host_ports == told.host_ports),
        ("requests_by_time", kept.requests_by_time == told.requests_by_time),
    ] {
        if !equal {
            broken.push(Broken::Index { name });
        }
    }
}

fn recompute(state: &ClusterState) -> Index {
    let mut index = Index {
        services_by_name: state.services().map(|service| (service.spec.name.clone(), service.id)).collect(),
        nodes_by_name: state.nodes().map(|node| (node.description.name.clone(), node.id)).collect(),
        slots: state.instances().map(|i| (i.service, i.slot, i.id)).collect(),
        on_node: state.instances().filter_map(|i| Some((i.node?, i.id))).collect(),
        requests_by_time: state.requests.iter().map(|(id, request)| (request.at, id.clone())).collect(),
        ..Index::default()
    };
    for service in state.services() {
        index.runs.extend(service.owner.map(|owner| (owner, service.id)));
        let awaited = service.spec.depends_on.iter().filter(|_| service.waits);
        index.waiting.extend(awaited.map(|dependency| (dependency.service.clone(), service.id)));
        for rule in service.spec.placement.affinities.iter().filter(|rule| rule.is_required_away()) {
            index.repelling.entry(rule.service.clone()).or_default().insert(service.id);
        }
        for port in &service.spec.ports {
            if let Publish::Ingress { port: Some(number) } = port.publish {
                index.ingress_ports.insert((port.protocol, number), service.id);
            }
        }
        for (key, has_tls) in service.spec.routes.iter().flat_map(Route::takes) {
            index.routes.insert(key, (service.id, has_tls));
        }
    }
    for instance in state.instances() {
        *index.spec_users.entry((instance.service, instance.generation)).or_default() += 1;
        if instance.node.is_none() && instance.desired == Desired::Run {
            index.pending.insert(instance.id);
        }
        let Some(node) = instance.occupies() else { continue };
        if instance.desired > Desired::Run {
            index.stopping.insert((node, instance.id));
        }
        let reservation = state.spec_of(instance).map_or(Resources::ZERO, |spec| spec.resources.reservation);
        let occupancy = index.occupancy.entry(node).or_default();
        occupancy.reserved = occupancy.reserved.saturating_add(reservation);
        occupancy.instances += 1;
        occupancy.pids += state.spec_of(instance).and_then(|spec| spec.resources.pids).map_or(0, u64::from);
        let Some(node) = state.node(node) else { continue };
        for port in &instance.ports {
            let used = index.host_ports.entry(node.description.address.clone()).or_default();
            used.insert((port.protocol, port.host_port, instance.id));
        }
    }
    index
}

fn check_names(state: &ClusterState, broken: &mut Vec<Broken>) {
    let mut seen = BTreeSet::new();
    for service in state.services().filter(|service| !seen.insert(service.spec.name.clone())) {
        broken.push(Broken::SharedName { kind: "service name", name: service.spec.name.clone() });
    }
    let mut seen = BTreeSet::new();
    for node in state.nodes().filter(|node| !seen.insert(node.description.name.clone())) {
        broken.push(Broken::SharedName { kind: "node name", name: node.description.name.clone() });
    }
}

/// One live instance a slot, and perhaps one that was started beside it.
fn check_slots(state: &ClusterState, broken: &mut Vec<Broken>) {
    let mut live: BTreeMap<_, Vec<&Instance>> = BTreeMap::new();
    for instance in state.instances().filter(|instance| instance.is_live()) {
        live.entry((instance.service, instance.slot)).or_default().push(instance);
    }
    for ((service, slot), sharing) in live {
        for pair in sharing.windows(2) {
            let related = pair[0].beside == Some(pair[1].id) || pair[1].beside == Some(pair[0].id);
            if sharing.len() > 2 || !related {
                broken.push(Broken::TwoLive { service, slot, first: pair[0].id, second: pair[1].id });
            }
        }
    }
}

fn check_instances(state: &ClusterState, broken: &mut Vec<Broken>) {
    for instance in state.instances() {
        let (id, phase) = (instance.id, instance.observed.progress.phase);
        if let Some(node) = instance.node.filter(|node| state.node(*node).is_none()) {
            broken.push(Broken::UnknownNode { instance: id, node });
        }
        if state.spec_of(instance).is_none() {
            broken.push(Broken::UnknownSpec { instance: id });
        }
        if state.service(instance.service).is_none() && !instance.lost {
            broken.push(Broken::Orphan { instance: id });
        }
        if (phase == Phase::Pending) != instance.node.is_none() {
            broken.push(Broken::PhaseWithoutNode { instance: id, phase, node: instance.node });
        }
        if instance.node.is_none() && instance.desired != Desired::Run {
            broken.push(Broken::Useless { instance: id });
        }
    }
}

fn check_specs(state: &ClusterState, broken: &mut Vec<Broken>) {
    let held = state.services().flat_map(|service| service.holds().map(|kept| (service.id, kept)));
    let run = state.instances().map(|instance| (instance.service, instance.generation));
    let used: BTreeSet<_> = held.chain(run).collect();
    let count = state.specs.keys().filter(|key| !used.contains(key)).count();
    if count > 0 {
        broken.push(Broken::UnusedSpecs { count });
    }
}

/// A job has a run or a schedule that makes runs; a run has an owner.
fn check_runs(state: &ClusterState, broken: &mut Vec<Broken>) {
    for service in state.services() {
        if service.owner.is_some_and(|owner| state.service(owner).is_none()) {
            broken.push(Broken::RunWithoutOwner { run: service.id });
        }
        let has_schedule = service.schedule.is_some();
        let expected = (service.spec.schedule.is_some(), service.spec.mode.is_job() && !has_schedule);
        if (has_schedule, service.job.is_some()) != expected {
            broken.push(Broken::ScheduleAndRun { service: service.id });
        }
    }
}

fn check_events(state: &ClusterState, broken: &mut Vec<Broken>) {
    let count = state.events.len();
    let first = state.events.get_min().map_or(state.last_event + 1, |(sequence, _)| *sequence);
    let last = state.last_event;
    let whole = u64::try_from(count).is_ok_and(|count| first + count == last + 1);
    if !whole || count > MAX_EVENTS {
        broken.push(Broken::Events { first, last, count });
    }
}
