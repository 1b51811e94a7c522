//! What the planner concluded.
//!
//! Invariant: a part whose premises no longer hold (its object is gone, its slot taken, its node
//! full or away, its predecessor may run on) is skipped; the next pass of the planner sees why and
//! plans anew. So no plan, however old, breaks the rules: one live instance a slot, none placed while
//! another of its slot may run, reservations within the node, a host port used once, `desired` only
//! growing.

use skein_common::{
    InstanceId, NodeId,
    event::Severity,
    instance::{Desired, History, Instance, Observed, PortBinding, Slot},
    node::{Availability, Liveness},
    placement::DeviceShare,
    service::Generation,
    {Resources, ServiceId},
};

use super::{
    Answer, Step, devices, job,
    progress::{self, Input, Next},
    rebalance, rollout, schedule,
};
use crate::{
    command::{Explanation, NewInstance, Outcome, Placement, Plan, Wish},
    state::{ClusterState, Service},
};

/// Ends before beginnings, so that a slot that is given up can be filled by the same plan.
pub(super) fn apply(step: &mut Step<'_>, plan: &Plan) -> Answer {
    plan.desire.iter().for_each(|wish| desire(step, wish));
    plan.forget.iter().for_each(|id| forget(step, *id));
    plan.released.iter().for_each(|release| schedule::release(step, *release));
    let begun = plan.create.iter().filter(|new| create(step, new) && new.moves_to.is_some()).count();
    rebalance::count(step, u32::try_from(begun).unwrap_or(u32::MAX));
    plan.place.iter().for_each(|placement| place(step, placement));
    plan.explain.iter().for_each(|explanation| explain(step, explanation));
    plan.finish.iter().for_each(|service| finish(step, *service));
    plan.jobs.iter().for_each(|conclusion| job::conclude(step, conclusion));
    plan.expire.iter().for_each(|service| job::expire(step, *service));
    plan.schedules.iter().for_each(|due| schedule::conclude(step, due));
    plan.addresses.iter().for_each(|service| address(step, *service));
    plan.rollouts.iter().for_each(|conclusion| rollout::conclude(step, conclusion));
    plan.rebalance.iter().for_each(|conclusion| rebalance::conclude(step, conclusion));
    Ok(Outcome::Done)
}

/// Whatever puts a service gives it an address.
fn address(step: &mut Step<'_>, id: ServiceId) {
    let service = step.state.services.get(&id).filter(|service| service.address.is_none());
    let Some(service) = service.map(|service| Service::clone(service)) else { return };
    if step.state.address_for(&service).is_some() {
        step.put_service(service);
    }
}

fn desire(step: &mut Step<'_>, wish: &Wish) {
    let Some(before) = step.state.instances.get(&wish.instance).cloned() else { return };
    let down =
        before.node.and_then(|node| step.state.node(node)).is_some_and(|n| n.liveness == Liveness::Down);
    if (wish.lost && !down) || (wish.only_live && !before.is_live()) {
        return;
    }
    let mut instance = Instance::clone(&before);
    instance.desired = before.desired.max(wish.desired);
    instance.lost |= wish.lost;
    if instance == *before {
        return;
    }
    if !wish.reason.is_empty() {
        instance.explanation.clone_from(&wish.reason);
    }
    tell(step, &before, wish);
    let is_unwanted = instance.desired > Desired::Run;
    match progress::next(instance.observed.progress, instance.desired, Input::Unwanted) {
        Next::Forgotten if is_unwanted => step.drop_instance(instance.id),
        Next::Forgotten | Next::Stays | Next::Becomes(_) => step.put_instance(instance),
    }
}

fn tell(step: &mut Step<'_>, before: &Instance, wish: &Wish) {
    if !before.is_live() || before.node.is_none() {
        return;
    }
    let name = step.state.instance_name(before);
    if wish.lost {
        let message = format!("{name} is lost: {}", wish.reason);
        step.instance_event(Severity::Warning, "InstanceLost", before, message);
    } else if wish.desired == Desired::Stop {
        let message = format!("{name} is replaced: {}", wish.reason);
        step.instance_event(Severity::Info, "InstanceReplaced", before, message);
    }
}

/// Only what no agent holds any more; whatever has a node is removed through its agent.
fn forget(step: &mut Step<'_>, id: skein_common::InstanceId) {
    let Some(instance) = step.state.instances.get(&id) else { return };
    if instance.node.is_none_or(|node| !step.state.nodes.contains_key(&node)) {
        step.drop_instance(id);
    }
}

/// Whether it was.
fn create(step: &mut Step<'_>, new: &NewInstance) -> bool {
    let wanted = step.state.service(new.service).is_some_and(|service| {
        !service.deleting
            && service.generation == new.generation
            && service.spec.mode.is_per_node() == matches!(new.slot, Slot::Node(_))
    });
    let others = step.state.instances_in(new.service, new.slot).filter(|instance| instance.is_live());
    let taken = others.map(|instance| instance.id).any(|live| Some(live) != new.beside);
    if !wanted || taken || step.state.instances.contains_key(&new.id) {
        return false;
    }
    if let Some((node, ports)) = &new.placed
        && (is_occupied(step.state, new.service, new.slot, new.beside)
            || !fits(step.state, new.service, new.generation, *node, ports, &new.devices))
    {
        return false;
    }
    let at = step.state.time;
    let observed = Observed::first(at);
    let mut instance = Instance {
        id: new.id,
        service: new.service,
        slot: new.slot,
        generation: new.generation,
        node: None,
        ports: Vec::new(),
        devices: Vec::new(),
        desired: Desired::Run,
        observed,
        lost: false,
        explanation: new.explanation.clone(),
        not_before: new.not_before,
        failures: new.failures,
        beside: new.beside,
        moves_to: new.moves_to,
        ready_since: None,
        history: History::default(),
        created_at: at,
        created_revision: step.state.revision,
        modified_revision: step.state.revision,
    };
    if let Some((node, ports)) = &new.placed {
        assign(&mut instance, *node, ports, &new.devices);
    }
    step.put_instance(instance);
    true
}

fn place(step: &mut Step<'_>, placement: &Placement) {
    let Some(before) = step.state.instances.get(&placement.instance).cloned() else { return };
    let waits = before.node.is_none()
        && before.desired == Desired::Run
        && !is_occupied(step.state, before.service, before.slot, before.beside);
    let Placement { node, ports, devices, .. } = placement;
    if !waits || !fits(step.state, before.service, before.generation, *node, ports, devices) {
        return;
    }
    let mut instance = Instance::clone(&before);
    instance.observed.at = step.state.time;
    assign(&mut instance, *node, ports, devices);
    step.put_instance(instance);
}

fn assign(instance: &mut Instance, node: NodeId, ports: &[PortBinding], devices: &[DeviceShare]) {
    instance.node = Some(node);
    instance.ports = ports.to_vec();
    instance.devices = devices.to_vec();
    instance.explanation.clear();
    let progress = &mut instance.observed.progress;
    if let Next::Becomes(placed) = progress::next(*progress, instance.desired, Input::Placed) {
        *progress = placed;
    }
}

/// Whether something of the slot may still run: planned for when its node was down, and the node has
/// come back since.
fn is_occupied(state: &ClusterState, service: ServiceId, slot: Slot, beside: Option<InstanceId>) -> bool {
    let mut others = state.instances_in(service, slot).filter(|other| Some(other.id) != beside);
    others.any(|other| other.occupies().is_some() && !other.lost)
}

fn fits(
    state: &ClusterState,
    service: ServiceId,
    generation: Generation,
    node: NodeId,
    ports: &[PortBinding],
    devices: &[DeviceShare],
) -> bool {
    let Some(node) = state.node(node) else { return false };
    let accepts = node.liveness == Liveness::Ready && node.availability == Availability::Active;
    let free = node.allocatable().saturating_sub(state.reserved(node.id));
    let spec = state.spec(service, generation);
    let wanted = spec.map_or(Resources::ZERO, |spec| spec.resources.reservation);
    let pids = spec.and_then(|spec| spec.resources.pids).map_or(0, u64::from);
    let generic = spec.map_or(&[][..], |spec| &spec.placement.generic);
    let address = &node.description.address;
    accepts
        && free.lacking(wanted).is_none()
        && (pids == 0
            || node.description.pids == 0
            || state.occupancy(node.id).pids.saturating_add(pids) <= node.description.pids)
        && devices::suit(state, node, generic, devices)
        && ports.iter().all(|port| !state.host_port_in_use(address, port.protocol, port.host_port))
}

fn explain(step: &mut Step<'_>, explanation: &Explanation) {
    let Some(before) = step.state.instances.get(&explanation.instance).cloned() else { return };
    if before.node.is_none() && before.explanation != explanation.text {
        step.put_instance(Instance { explanation: explanation.text.clone(), ..Instance::clone(&before) });
    }
}

/// Instances that were lost with their node may outlive their service: they are removed when the
/// node comes back or is deleted.
fn finish(step: &mut Step<'_>, id: ServiceId) {
    let Some(service) = step.state.service(id).cloned() else { return };
    let left =
        step.state.instances_of(id).any(|instance| !instance.lost) || step.state.runs_of(id).next().is_some();
    if !service.deleting || left {
        return;
    }
    step.drop_service(id);
    let message = format!("service {} deleted", service.spec.name);
    step.service_event(Severity::Info, "ServiceDeleted", &service, message);
}
