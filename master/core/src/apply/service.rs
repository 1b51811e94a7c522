//! Services as users change them.
//!
//! Invariant: names and published ports are unique among all services, those being deleted
//! included; a generation never goes back.

use std::{collections::BTreeSet, sync::Arc};

use skein_common::{
    FieldViolation, Revision, ServiceId,
    event::Severity,
    service::{Generation, JobRun, Mode, Protocol, Publish, ScheduleState, ServiceSpec},
};

use super::{Answer, Step, check_etag, config, precondition, rollout, routes, schedule};
use crate::{
    command::{ObjectKind, Outcome, Rejection},
    state::{ClusterState, Service},
};

pub(super) fn create(step: &mut Step<'_>, id: ServiceId, spec: &Arc<ServiceSpec>) -> Answer {
    check_spec(spec)?;
    let spec = &config::resolve(step.state, spec)?;
    check_free(step.state, id, &spec.name)?;
    check_published(step.state, id, spec)?;
    check_no_circle(step.state, spec)?;
    let at = step.state.time;
    let has_schedule = spec.schedule.is_some();
    let service = Service {
        id,
        spec: spec.clone(),
        generation: Generation(1),
        deleting: false,
        kept: Vec::new(),
        rollout: None,
        job: (spec.mode.is_job() && !has_schedule).then(|| JobRun::begin(Generation(1), at)),
        schedule: has_schedule.then(|| ScheduleState::begin(at)),
        owner: None,
        scheduled_for: None,
        waits: !spec.depends_on.is_empty() && !has_schedule,
        address: None,
        created_at: step.state.time,
        updated_at: step.state.time,
        created_revision: step.state.revision,
        modified_revision: step.state.revision,
    };
    let message = format!("service {} created: {}", spec.name, wanted(spec));
    step.put_service(service.clone());
    step.service_event(Severity::Info, "ServiceCreated", &service, message);
    Ok(Outcome::Service(id))
}

pub(super) fn update(
    step: &mut Step<'_>,
    id: ServiceId,
    expected: Option<Revision>,
    spec: &Arc<ServiceSpec>,
) -> Answer {
    let service = changeable(step.state, id, expected)?;
    check_no_run(step.state, &service)?;
    check_spec(spec)?;
    let spec = &config::resolve(step.state, spec)?;
    check_same_identity(&service.spec, spec)?;
    check_published(step.state, id, spec)?;
    check_no_circle(step.state, spec)?;
    if service.spec == *spec {
        return Ok(Outcome::Service(id));
    }
    let at = step.state.time;
    let (updated, message) = if service.spec.runs_like(spec) {
        let message = format!("service {} updated in place: {}", spec.name, wanted(spec));
        let waits = service.waits && !spec.depends_on.is_empty();
        (Service { spec: spec.clone(), waits, updated_at: at, ..service.clone() }, message)
    } else {
        let updated = rollout::begin(step, &service, spec.clone(), false);
        let generation = updated.generation;
        let message = format!("service {} updated to generation {generation}: {}", spec.name, wanted(spec));
        (updated, message)
    };
    let service = schedule::follow(&service, updated, at);
    step.put_service(service.clone());
    step.service_event(Severity::Info, "ServiceUpdated", &service, message);
    Ok(Outcome::Service(id))
}

pub(super) fn scale(step: &mut Step<'_>, id: ServiceId, expected: Option<Revision>, replicas: u32) -> Answer {
    let service = changeable(step.state, id, expected)?;
    let Some(before) = service.spec.replicas() else {
        return Err(precondition(format!(
            "service {} is {}: it has no replicas to scale",
            service.spec.name,
            service.spec.mode.name()
        )));
    };
    let mut spec = ServiceSpec::clone(&service.spec);
    spec.mode = Mode::Replicated { replicas };
    check_spec(&spec)?;
    if before == replicas {
        return Ok(Outcome::Service(id));
    }
    let message = format!("service {} scaled from {before} to {replicas}", spec.name);
    let service = Service { spec: Arc::new(spec), updated_at: step.state.time, ..service };
    step.put_service(service.clone());
    step.service_event(Severity::Info, "ServiceScaled", &service, message);
    Ok(Outcome::Service(id))
}

/// Repeated deletes change nothing.
pub(super) fn delete(step: &mut Step<'_>, id: ServiceId, expected: Option<Revision>) -> Answer {
    let service = step.state.services.get(&id).ok_or_else(|| not_found(id))?;
    if service.deleting {
        return Ok(Outcome::Service(id));
    }
    check_etag(ObjectKind::Service, expected, service.modified_revision)?;
    let service = Service { deleting: true, updated_at: step.state.time, ..Service::clone(service) };
    let message = format!("service {} is being deleted", service.spec.name);
    step.put_service(service.clone());
    step.service_event(Severity::Info, "ServiceDeleting", &service, message);
    // Its runs go with it.
    let runs: Vec<_> = step.state.runs_of(id).map(|run| run.id).collect();
    for run in runs {
        delete(step, run, None)?;
    }
    Ok(Outcome::Service(id))
}

/// The service, when it may be changed by someone who saw `expected`.
pub(super) fn changeable(
    state: &ClusterState,
    id: ServiceId,
    expected: Option<Revision>,
) -> Result<Service, Rejection> {
    let service = state.services.get(&id).ok_or_else(|| not_found(id))?;
    if service.deleting {
        return Err(being_deleted(&service.spec.name));
    }
    check_etag(ObjectKind::Service, expected, service.modified_revision)?;
    Ok(Service::clone(service))
}

/// Defence in depth: the API has checked it before.
fn check_spec(spec: &ServiceSpec) -> Result<(), Rejection> {
    let violations = spec.violations().0;
    if violations.is_empty() { Ok(()) } else { Err(Rejection::Invalid { violations }) }
}

/// A run is as its schedule's service was when it began.
pub(super) fn check_no_run(state: &ClusterState, service: &Service) -> Result<(), Rejection> {
    let Some(owner) = service.owner else { return Ok(()) };
    let owner = state.services.get(&owner).map_or_else(|| owner.to_string(), |owner| owner.spec.name.clone());
    Err(precondition(format!(
        "{} is a run of {owner} and cannot be changed: change {owner}, and its later runs follow",
        service.spec.name
    )))
}

/// Services that wait for each other would wait for ever.
fn check_no_circle(state: &ClusterState, spec: &ServiceSpec) -> Result<(), Rejection> {
    for (position, dependency) in spec.depends_on.iter().enumerate() {
        let mut seen = BTreeSet::new();
        let mut open = vec![dependency.service.as_str()];
        while let Some(name) = open.pop() {
            if name == spec.name {
                let field = format!("spec.depends_on[{position}].service");
                let description = format!(
                    "{} waits, directly or not, for {}: each would wait for the other",
                    dependency.service, spec.name
                );
                return Err(Rejection::Invalid { violations: vec![FieldViolation { field, description }] });
            }
            if seen.insert(name) {
                let known = state.service_by_name(name).into_iter();
                open.extend(
                    known.flat_map(|service| &service.spec.depends_on).map(|next| next.service.as_str()),
                );
            }
        }
    }
    Ok(())
}

fn check_free(state: &ClusterState, id: ServiceId, name: &str) -> Result<(), Rejection> {
    match state.service_by_name(name) {
        Some(service) if service.deleting => Err(being_deleted(name)),
        Some(_) => Err(exists(name)),
        // Spec users: instances of a service that is gone may still wait for their lost node.
        None if state.services.contains_key(&id) || state.instances_of(id).next().is_some() => {
            Err(exists(&id.to_string()))
        }
        None => Ok(()),
    }
}

fn check_same_identity(before: &ServiceSpec, after: &ServiceSpec) -> Result<(), Rejection> {
    if before.name != after.name {
        return Err(precondition(format!(
            "spec.name cannot change from {:?} to {:?}: create a new service",
            before.name, after.name
        )));
    }
    if std::mem::discriminant(&before.mode) == std::mem::discriminant(&after.mode) {
        return Ok(());
    }
    Err(precondition(format!(
        "spec.mode cannot change from {} to {}: create a new service",
        before.mode.name(),
        after.mode.name()
    )))
}

pub(super) fn check_published(
    state: &ClusterState,
    id: ServiceId,
    spec: &ServiceSpec,
) -> Result<(), Rejection> {
    let named = |id: ServiceId| state.services.get(&id).map(|service| service.spec.name.clone());
    for (position, port) in spec.ports.iter().enumerate() {
        let Publish::Ingress { port: Some(number) } = port.publish else { continue };
        let sharer = state.sharing(number).map(|(owner, _)| owner).find(|owner| *owner != id);
        if let Some(name) = sharer.filter(|_| port.protocol == Protocol::Tcp).and_then(named) {
            return Err(precondition(format!(
                "spec.ports[{position}].published_port: {number}/tcp is shared by routes, of service {name} among others"
            )));
        }
        let owner = state.ingress_owner(port.protocol, number).filter(|owner| *owner != id);
        if let Some(owner) = owner.and_then(|owner| state.services.get(&owner)) {
            return Err(precondition(format!(
                "spec.ports[{position}].published_port: {number}/{} is published by service {}",
                port.protocol, owner.spec.name
            )));
        }
    }
    routes::check(state, id, spec)
}

fn wanted(spec: &ServiceSpec) -> String {
    match spec.mode {
        Mode::Replicated { replicas } => format!("{replicas} × {}", spec.container.image),
        Mode::Job { completions, .. } => format!("{completions} runs of {}", spec.container.image),
        Mode::Global => format!("{} on every matching node", spec.container.image),
        Mode::GlobalJob => format!("one run of {} on every matching node", spec.container.image),
    }
}

fn not_found(id: ServiceId) -> Rejection {
    Rejection::NotFound { kind: ObjectKind::Service, id: id.to_string() }
}

fn exists(name: &str) -> Rejection {
    Rejection::AlreadyExists { kind: ObjectKind::Service, name: name.to_owned() }
}

fn being_deleted(name: &str) -> Rejection {
    precondition(format!("service {name} is being deleted: its instances are still stopping"))
}
