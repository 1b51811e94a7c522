//! Write requests → checked values; every complaint at once.
//!
//! Invariant: what comes out has been checked whole; nothing here looks at the state.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use skein_common::{
    Revision, Violations,
    cluster::{ClusterConfig, RebalanceGoal},
    node::Availability,
    rollout::RolloutControl,
    service::{Generation, ServiceSpec},
};
use skein_proto::{convert::duration_from_wire, v1};

use super::write::{Checks, Write};

type Checked<T> = Result<T, Violations>;

/// What `Checks` has complained about never gets here: `Checks::write` refused it.
fn present<T>(value: Option<T>) -> Checked<T> {
    value.ok_or_else(Violations::default)
}

pub fn create_service(wire: v1::CreateServiceRequest) -> Checked<(Arc<ServiceSpec>, Write)> {
    let mut checks = Checks::default();
    let spec = checks.spec(wire.spec);
    let write = checks.write(wire.request_id, wire.validate_only, &("create_service", &spec))?;
    Ok((present(spec)?, write))
}

type Update = (String, Arc<ServiceSpec>, Option<Revision>, Write);

pub fn update_service(wire: v1::UpdateServiceRequest) -> Checked<Update> {
    let mut checks = Checks::default();
    let reference = checks.reference("service", wire.service);
    let spec = checks.spec(wire.spec);
    let expected = checks.etag(&wire.etag);
    let body = ("update_service", &reference, &spec, expected);
    let write = checks.write(wire.request_id, wire.validate_only, &body)?;
    Ok((reference, present(spec)?, expected, write))
}

pub fn apply_service(wire: v1::ApplyServiceRequest) -> Checked<(Arc<ServiceSpec>, Option<Revision>, Write)> {
    let mut checks = Checks::default();
    let spec = checks.spec(wire.spec);
    let expected = checks.etag(&wire.etag);
    let write = checks.write(wire.request_id, wire.validate_only, &("apply_service", &spec, expected))?;
    Ok((present(spec)?, expected, write))
}

pub fn scale_service(wire: v1::ScaleServiceRequest) -> Checked<(String, u32, Option<Revision>, Write)> {
    let mut checks = Checks::default();
    let reference = checks.reference("service", wire.service);
    let replicas = checks.required("replicas", wire.replicas);
    let expected = checks.etag(&wire.etag);
    let body = ("scale_service", &reference, replicas, expected);
    let write = checks.write(wire.request_id, wire.validate_only, &body)?;
    Ok((reference, present(replicas)?, expected, write))
}

pub fn control_rollout(
    wire: v1::ControlRolloutRequest,
) -> Checked<(String, RolloutControl, Option<Revision>, Write)> {
    let mut checks = Checks::default();
    let reference = checks.reference("service", wire.service);
    let to = (wire.to_generation != 0).then_some(Generation(wire.to_generation));
    let control = match v1::RolloutControl::try_from(wire.control) {
        Ok(v1::RolloutControl::Pause) => Some(RolloutControl::Pause),
        Ok(v1::RolloutControl::Resume) => Some(RolloutControl::Resume),
        Ok(v1::RolloutControl::Promote) => Some(RolloutControl::Promote),
        Ok(v1::RolloutControl::Undo) => Some(RolloutControl::Undo { to }),
        Ok(v1::RolloutControl::Unspecified) | Err(_) => None,
    };
    let control = checks.required("control", control);
    if to.is_some() && !matches!(control, Some(RolloutControl::Undo { .. })) {
        checks.add("to_generation", "belongs to ROLLOUT_CONTROL_UNDO only");
    }
    let expected = checks.etag(&wire.etag);
    let body = ("control_rollout", &reference, control, expected);
    let write = checks.write(wire.request_id, wire.validate_only, &body)?;
    Ok((reference, present(control)?, expected, write))
}

pub fn run_job(wire: v1::RunJobRequest) -> Checked<(String, Option<Revision>, Write)> {
    let mut checks = Checks::default();
    let reference = checks.reference("service", wire.service);
    let expected = checks.etag(&wire.etag);
    let body = ("run_job", &reference, expected);
    let write = checks.write(wire.request_id, wire.validate_only, &body)?;
    Ok((reference, expected, write))
}

/// Whether it is to be suspended.
pub fn control_schedule(
    wire: v1::ControlScheduleRequest,
) -> Checked<(String, bool, Option<Revision>, Write)> {
    let mut checks = Checks::default();
    let reference = checks.reference("service", wire.service);
    let suspend = match v1::ScheduleControl::try_from(wire.control) {
        Ok(v1::ScheduleControl::Suspend) => Some(true),
        Ok(v1::ScheduleControl::Resume) => Some(false),
        Ok(v1::ScheduleControl::Unspecified) | Err(_) => None,
    };
    let suspend = checks.required("control", suspend);
    let expected = checks.etag(&wire.etag);
    let body = ("control_schedule", &reference, suspend, expected);
    let write = checks.write(wire.request_id, wire.validate_only, &body)?;
    Ok((reference, present(suspend)?, expected, write))
}

pub fn delete_service(wire: v1::DeleteServiceRequest) -> Checked<(String, Option<Revision>, Write)> {
    let mut checks = Checks::default();
    let reference = checks.reference("service", wire.service);
    let expected = checks.etag(&wire.etag);
    let body = ("delete_service", &reference, expected);
    let write = checks.write(wire.request_id, wire.validate_only, &body)?;
    Ok((reference, expected, write))
}

/// What an UpdateNode asks for.
#[derive(Debug)]
pub struct NodeUpdate {
    pub reference: String,
    pub availability: Option<Availability>,
    pub labels: Option<BTreeMap<String, String>>,
    pub drain_within: Option<Duration>,
    pub expected: Option<Revision>,
}

pub fn update_node(wire: v1::UpdateNodeRequest) -> Checked<(NodeUpdate, Write)> {
    let mut checks = Checks::default();
    let reference = checks.reference("node", wire.node);
    let availability = match v1::Availability::try_from(wire.availability) {
        Ok(known) => known.into(),
        Err(unknown) => {
            checks.add("availability", unknown.to_string());
            None
        }
    };
    let labels = wire.labels.map(|labels| labels.labels.into_iter().collect::<BTreeMap<_, _>>());
    if labels.as_ref().is_some_and(|labels| labels.keys().any(String::is_empty)) {
        checks.add("labels", "a label needs a name");
    }
    let drain_within = wire.drain_within.and_then(|within| {
        duration_from_wire("drain_within", within)
            .map_err(|error| checks.add("drain_within", error.to_string()))
            .ok()
    });
    if drain_within.is_some() && availability != Some(Availability::Drained) {
        checks.add("drain_within", "only a drain has a time: set availability to drained");
    }
    let expected = checks.etag(&wire.etag);
    let body = ("update_node", &reference, availability, &labels, drain_within, expected);
    let write = checks.write(wire.request_id, wire.validate_only, &body)?;
    Ok((NodeUpdate { reference, availability, labels, drain_within, expected }, write))
}

pub fn delete_node(wire: v1::DeleteNodeRequest) -> Checked<(String, bool, Option<Revision>, Write)> {
    let mut checks = Checks::default();
    let reference = checks.reference("node", wire.node);
    let expected = checks.etag(&wire.etag);
    let body = ("delete_node", &reference, wire.force, expected);
    let write = checks.write(wire.request_id, wire.validate_only, &body)?;
    Ok((reference, wire.force, expected, write))
}

type Configuration = (Arc<ClusterConfig>, Option<Revision>, Write);

pub fn update_cluster_config(wire: v1::UpdateClusterConfigRequest) -> Checked<Configuration> {
    let mut checks = Checks::default();
    let config = checks.required("config", wire.config).and_then(|wire| checks.config(wire));
    let expected = checks.etag(&wire.etag);
    let body = ("update_cluster_config", &config, expected);
    let write = checks.write(wire.request_id, wire.validate_only, &body)?;
    Ok((present(config)?, expected, write))
}

/// What a Rebalance asks for.
#[derive(Debug)]
pub struct Rebalance {
    pub service: Option<String>,
    pub goal: RebalanceGoal,
}

pub fn rebalance(wire: v1::RebalanceRequest) -> Checked<(Rebalance, Write)> {
    let mut checks = Checks::default();
    let goal = v1::RebalanceGoal::try_from(wire.goal).ok().map(RebalanceGoal::from);
    let goal = checks.required("goal", goal);
    let service = (!wire.service.is_empty()).then_some(wire.service);
    let write = checks.write(wire.request_id, wire.dry_run, &("rebalance", &service, goal))?;
    Ok((Rebalance { service, goal: present(goal)? }, write))
}

/// Wanted labels in one order, as the filter of a page token.
#[must_use]
pub fn labels(wanted: &HashMap<String, String>) -> String {
    let mut pairs: Vec<_> = wanted.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.sort();
    pairs.join("\n")
}
