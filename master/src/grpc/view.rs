//! State → wire: objects as the API shows them, with what follows from other objects.
//!
//! Invariant: a view is a function of the object and one state; nothing is cached. A view of an
//! object that the state no longer holds (a deletion, told by a watch) is as complete as can be.

use skein_common::{
    Revision, Violations,
    event::{Event, Severity, Subject},
    instance::{Author, Desired, Instance, Phase, Slot, Transition},
    node::Node,
    service::{Calendar, Mode},
};
use skein_master_core::{ClusterState, orchestrator::rehearsal::Move, state::Service};
use skein_proto::{convert::timestamp_to_wire, v1};

use crate::store::{Member, Role};

/// The etag of an object that was last changed at this revision.
#[must_use]
pub fn etag(revision: Revision) -> String {
    revision.to_string()
}

/// The revision behind an etag; empty = no check.
pub fn parse_etag(text: &str, found: &mut Violations) -> Option<Revision> {
    if text.is_empty() {
        return None;
    }
    let revision = text.parse().ok().map(Revision);
    if revision.is_none() {
        found.add("etag", format!("{text:?} is not an etag of this cluster"));
    }
    revision
}

#[must_use]
pub fn rebalance_move(state: &ClusterState, one: &Move) -> v1::RebalanceMove {
    let shift = &one.shift;
    v1::RebalanceMove {
        instance_id: shift.instance.to_string(),
        instance_name: one.name.clone(),
        service_id: one.service.to_string(),
        from_node_id: shift.from.to_string(),
        from_node_name: state.node_name(shift.from),
        to_node_id: shift.to.to_string(),
        to_node_name: state.node_name(shift.to),
        gain_percent: shift.gain_percent,
        reason: shift.reason.clone(),
        start_first: one.start_first,
    }
}

#[must_use]
pub fn service(state: &ClusterState, service: &Service) -> v1::Service {
    v1::Service {
        id: service.id.to_string(),
        spec: Some(service.spec.as_ref().into()),
        generation: service.generation.0,
        deleting: service.deleting,
        status: Some(status(state, service)),
        created_at: Some(timestamp_to_wire(service.created_at)),
        updated_at: Some(timestamp_to_wire(service.updated_at)),
        created_revision: service.created_revision.0,
        modified_revision: service.modified_revision.0,
        etag: etag(service.modified_revision),
        rollout: service.rollout.as_ref().map(v1::Rollout::from),
        job: service.job.as_ref().map(v1::JobRun::from),
        schedule: schedule(state, service),
        owner_id: service.owner.map(|owner| owner.to_string()).unwrap_or_default(),
        scheduled_for: service.scheduled_for.map(timestamp_to_wire),
        waits_for_dependencies: service.waits,
        virtual_address: service.address.map(|address| address.to_string()).unwrap_or_default(),
        current_generations: state.current_generations(service).map(|generation| generation.0).collect(),
    }
}

/// The present spec, then the kept ones, newest first.
#[must_use]
pub fn generations(state: &ClusterState, service: &Service) -> Vec<v1::ServiceGeneration> {
    let mut held: Vec<_> = service.holds().collect();
    held.sort_unstable_by(|one, next| next.cmp(one));
    let wanted = |generation| {
        let runs =
            |instance: &&std::sync::Arc<Instance>| instance.generation == generation && instance.is_live();
        u32::try_from(state.instances_of(service.id).filter(runs).count()).unwrap_or(u32::MAX)
    };
    held.into_iter()
        .filter_map(|generation| {
            Some(v1::ServiceGeneration {
                generation: generation.0,
                spec: Some(state.spec(service.id, generation)?.as_ref().into()),
                instances: wanted(generation),
            })
        })
        .collect()
}

fn schedule(state: &ClusterState, service: &Service) -> Option<v1::ScheduleStatus> {
    let (known, schedule) = (service.schedule?, service.spec.schedule.as_ref()?);
    let calendar = Calendar::of(schedule).ok().filter(|_| !schedule.suspend && !service.deleting);
    let active = state.active_runs(service.id).count();
    Some(v1::ScheduleStatus {
        next: calendar.and_then(|calendar| calendar.after(known.decided())).map(timestamp_to_wire),
        last: known.last.map(timestamp_to_wire),
        active: u32::try_from(active).unwrap_or(u32::MAX),
    })
}

/// Counts of the service's instances now.
fn status(state: &ClusterState, service: &Service) -> v1::ServiceStatus {
    let mut status = v1::ServiceStatus::default();
    let (mut live, mut complaint) = (0, String::new());
    for instance in state.instances_of(service.id) {
        let phase = instance.observed.progress.phase;
        // What is being stopped serves on for a while and is no longer part of the service.
        let wanted = instance.desired == Desired::Run && !instance.lost;
        let runs = wanted && phase.is_running();
        live += u32::from(instance.is_live());
        status.running += u32::from(runs);
        status.ready += u32::from(wanted && instance.is_ready());
        status.updated += u32::from(runs && state.is_current(instance));
        let done = service.spec.mode.is_job()
            && state.is_current(instance)
            && instance.observed.exit_code == Some(0);
        status.completed += u32::from(done && phase == Phase::Stopped && !instance.lost);
        status.pending += u32::from(instance.is_live() && instance.node.is_none());
        if let Some(text) = complaint_of(instance) {
            complaint = format!("{}: {text}", state.instance_name(instance));
        }
    }
    // Records that went with their node.
    let done = service.job.as_ref().map_or(0, |run| run.done.len());
    status.completed += u32::try_from(done).unwrap_or(u32::MAX);
    status.desired = match service.spec.mode {
        _ if service.deleting || service.schedule.is_some() => 0,
        Mode::Replicated { replicas } => replicas,
        Mode::Job { completions, .. } => completions,
        Mode::GlobalJob => live + status.completed,
        // How many nodes pass the filters is the planner's to say; it keeps one instance for each.
        Mode::Global => live,
    };
    if status.ready < status.desired {
        status.message = complaint;
    }
    status
}

/// Why an instance is not where it should be; `None` when it has nothing to say.
fn complaint_of(instance: &Instance) -> Option<&str> {
    let observed = &instance.observed;
    let text = match observed.progress.phase {
        Phase::Pending => &instance.explanation,
        Phase::Ready if !instance.is_ready() => &observed.message,
        Phase::Running | Phase::Ready | Phase::Draining | Phase::Stopping | Phase::Stopped => return None,
        _ if observed.message.is_empty() => &instance.explanation,
        _ => &observed.message,
    };
    (!text.is_empty()).then_some(text)
}

#[must_use]
pub fn instance(state: &ClusterState, instance: &Instance) -> v1::Instance {
    let spec = state.spec_of(instance);
    v1::Instance {
        id: instance.id.to_string(),
        name: state.instance_name(instance),
        service_id: instance.service.to_string(),
        service_name: spec.map(|spec| spec.name.clone()).unwrap_or_default(),
        slot: match instance.slot {
            Slot::Number(number) => number,
            Slot::Node(_) => 0,
        },
        generation: instance.generation.0,
        node_id: instance.node.map(|node| node.to_string()).unwrap_or_default(),
        node_name: instance.node.map(|node| state.node_name(node)).unwrap_or_default(),
        desired: v1::Desired::from(instance.desired).into(),
        observed: Some((&instance.observed).into()),
        endpoints: endpoints(state, instance),
        lost: instance.lost,
        explanation: instance.explanation.clone(),
        created_at: Some(timestamp_to_wire(instance.created_at)),
        created_revision: instance.created_revision.0,
        modified_revision: instance.modified_revision.0,
        image: spec.map(|spec| spec.container.image.clone()).unwrap_or_default(),
        devices: instance.devices.iter().map(v1::DeviceShare::from).collect(),
    }
}

fn endpoints(state: &ClusterState, instance: &Instance) -> Vec<v1::Endpoint> {
    let Some(node) = instance.node.and_then(|node| state.node(node)) else { return Vec::new() };
    let endpoint = |port: &skein_common::instance::PortBinding| v1::Endpoint {
        address: node.description.address.clone(),
        port: port.host_port.into(),
        container_port: port.container_port.into(),
        protocol: v1::Protocol::from(port.protocol).into(),
    };
    instance.ports.iter().map(endpoint).collect()
}

#[must_use]
pub fn node(state: &ClusterState, node: &Node) -> v1::Node {
    let occupying = state.instances_on(node.id).filter(|instance| instance.occupies().is_some()).count();
    v1::Node {
        id: node.id.to_string(),
        description: Some((&node.description).into()),
        labels: node.labels.clone().into_iter().collect(),
        availability: v1::Availability::from(node.availability).into(),
        liveness: v1::Liveness::from(node.liveness).into(),
        liveness_at: Some(timestamp_to_wire(node.liveness_at)),
        liveness_reason: node.liveness_reason.clone(),
        drain_by: node.drain_by.map(timestamp_to_wire),
        reserved_by_instances: Some(state.reserved(node.id).into()),
        instances: u32::try_from(occupying).unwrap_or(u32::MAX),
        created_at: Some(timestamp_to_wire(node.created_at)),
        created_revision: node.created_revision.0,
        modified_revision: node.modified_revision.0,
        etag: etag(node.modified_revision),
    }
}

#[must_use]
pub fn event(event: &Event) -> v1::Event {
    v1::Event {
        sequence: event.sequence,
        revision: event.revision.0,
        at: Some(timestamp_to_wire(event.at)),
        severity: match event.severity {
            Severity::Info => v1::Severity::Info.into(),
            Severity::Warning => v1::Severity::Warning.into(),
        },
        reason: event.reason.clone(),
        subject: Some(subject(&event.subject)),
        message: event.message.clone(),
        actor: event.actor.clone(),
    }
}

fn subject(subject: &Subject) -> v1::Subject {
    let (kind, id, name, service_id) = match subject {
        Subject::Cluster => ("cluster", String::new(), String::new(), String::new()),
        Subject::Service { id, name } => ("service", id.to_string(), name.clone(), String::new()),
        Subject::Instance { id, service, name } => {
            ("instance", id.to_string(), name.clone(), service.to_string())
        }
        Subject::Node { id, name } => ("node", id.to_string(), name.clone(), String::new()),
    };
    v1::Subject { kind: kind.to_owned(), id, name, service_id }
}

/// Whether an event is about the object with this id or name; a service also means its instances.
#[must_use]
pub fn is_about(event: &Event, reference: &str) -> bool {
    match &event.subject {
        Subject::Cluster => reference == "cluster",
        Subject::Service { id, name } => name == reference || id.to_string() == reference,
        Subject::Node { id, name } => name == reference || id.to_string() == reference,
        Subject::Instance { id, service, name } => {
            let of_service = name.rsplit_once('.').is_some_and(|(service, _)| service == reference);
            name == reference || of_service || id.to_string() == reference || service.to_string() == reference
        }
    }
}

#[must_use]
pub fn member(member: &Member, leader: Option<&str>) -> v1::Member {
    v1::Member {
        id: member.id,
        name: member.name.clone(),
        api_address: member.api_address.clone(),
        cluster_address: member.cluster_address.clone(),
        role: match member.role {
            Role::Voter => v1::MemberRole::Voter.into(),
            Role::Learner => v1::MemberRole::Learner.into(),
        },
        leader: leader == Some(member.name.as_str()),
        matched_index: member.matched,
    }
}

#[must_use]
pub fn transition(state: &ClusterState, instance: &Instance, step: &Transition) -> v1::InstanceEvent {
    v1::InstanceEvent {
        at: Some(timestamp_to_wire(step.at)),
        revision: step.revision.0,
        attempt: step.progress.attempt,
        phase: v1::Phase::from(step.progress.phase).into(),
        desired: v1::Desired::from(step.desired).into(),
        ready: step.ready,
        cause: step.cause.to_string(),
        actor: match (step.author, instance.node) {
            (Author::User, _) => "user".to_owned(),
            (Author::Agent, Some(node)) => format!("node {}", state.node_name(node)),
            (Author::Agent, None) | (Author::Masters, _) => "masters".to_owned(),
        },
    }
}
