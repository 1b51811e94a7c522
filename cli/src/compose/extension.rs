//! `x-skein`: what Compose has no key for.
//!
//! Invariant: read strictly: an unknown key is an error, because who writes it means it.

use std::collections::BTreeSet;

use skein_common::{
    placement::{Affinity, Direction, GenericRequest, Strategy, TopologyKey, TopologySpread, WHOLE_MILLIS},
    service::{Disruption, Mode, ServiceSpec},
};

use super::{
    autoscale, balance,
    diagnostic::Report,
    field::{Field, Section},
    keys,
    origin::Origins,
    placement::topology,
    probe, schedule,
    yaml::Value,
};

/// The service's own name, wherever a service is named.
const SELF: &str = "self";
/// A service that is asked for by its name in the file.
pub struct Names<'a> {
    pub stack: &'a str,
    /// Of all services in the files.
    pub services: &'a BTreeSet<String>,
    /// Of the service that asks.
    pub own: &'a str,
}

impl Names<'_> {
    /// The name in the cluster; a name that is not in the files is one of another stack.
    pub fn full(&self, name: &str) -> String {
        match name {
            SELF => self.own.to_owned(),
            _ if self.services.contains(name) => format!("{}_{name}", self.stack),
            _ => name.to_owned(),
        }
    }
}

pub fn read(
    field: &Field<'_>,
    spec: &mut ServiceSpec,
    names: &Names<'_>,
    origins: &mut Origins,
    report: &mut Report,
) {
    let Some(section) = field.section(keys::EXTENSION, report) else { return };
    placement(&section, spec, names, origins, report);
    if let Some(field) = section.get("disruption") {
        origins.add("spec.max_unavailable", &field.path, field.node.at);
        spec.disruption = disruption(&field, report);
    }
    if let Some(field) = section.get("balance") {
        origins.add("spec.balance", &field.path, field.node.at);
        spec.balance = balance::read(&field, report);
    }
    if let Some(field) = section.get("autoscale") {
        spec.autoscale = autoscale::read(&field, origins, report);
    }
    if let Some(field) = section.get("probes") {
        spec.container.probes = probe::read(&field, origins, report);
    }
    if let Some(field) = section.get("canary") {
        origins.add("spec.update.canary", &field.path, field.node.at);
        canary(&field, spec, report);
    }
    if let Some(field) = section.get("job") {
        origins.add("spec.job_policy", &field.path, field.node.at);
        job(&field, spec, report);
    }
    if let Some(field) = section.get("schedule") {
        origins.add("spec.schedule", &field.path, field.node.at);
        spec.schedule = schedule::read(&field, origins, report);
    }
    if let Some(field) = section.get("progress_deadline") {
        origins.add("spec.update.progress_deadline", &field.path, field.node.at);
        if let Some(deadline) = field.duration(report) {
            spec.update.progress_deadline = deadline;
        }
    }
}

fn placement(
    section: &Section<'_>,
    spec: &mut ServiceSpec,
    names: &Names<'_>,
    origins: &mut Origins,
    report: &mut Report,
) {
    let policy = &mut spec.placement;
    if let Some(field) = section.get("priority") {
        origins.add("spec.placement.priority", &field.path, field.node.at);
        let priority = field.integer(0, 100, report).and_then(|priority| u8::try_from(priority).ok());
        policy.priority = priority.unwrap_or(policy.priority);
    }
    let strategies = [Strategy::Spread, Strategy::Binpack, Strategy::Balanced];
    let strategies = strategies.map(|strategy| (strategy.to_string(), strategy));
    let strategies = strategies.each_ref().map(|(name, strategy)| (name.as_str(), *strategy));
    policy.strategy = section.get("strategy").and_then(|field| field.choice(&strategies, report));
    for (key, direction) in [("affinity", Direction::Near), ("anti_affinity", Direction::Away)] {
        for item in section.get(key).map(|field| field.one_or_more()).unwrap_or_default() {
            let position = policy.affinities.len();
            if let Some(affinity) = affinity(&item, direction, names, report) {
                origins.add(format!("spec.placement.affinities[{position}]"), &item.path, item.node.at);
                policy.affinities.push(affinity);
            }
        }
    }
    for item in section.get("spread").map(|field| field.one_or_more()).unwrap_or_default() {
        let position = policy.spread.len();
        if let Some(spread) = spread(&item, report) {
            origins.add(format!("spec.placement.spread[{position}]"), &item.path, item.node.at);
            policy.spread.push(spread);
        }
    }
    for item in section.get("tolerations").map(|field| field.one_or_more()).unwrap_or_default() {
        let position = policy.tolerations.len();
        origins.add(format!("spec.placement.tolerations[{position}]"), &item.path, item.node.at);
        policy.tolerations.extend(item.text(report));
    }
    if let Some(field) = section.get("devices") {
        for (name, field) in field.free_section(report).iter().flat_map(Section::all) {
            let position = policy.generic.len();
            if let Some(request) = device(name, &field, report) {
                origins.add(format!("spec.placement.generic[{position}]"), &field.path, field.at);
                policy.generic.push(request);
            }
        }
    }
}

/// A service's name (required, on the same node), or `{ service, across, weight }`.
fn affinity(
    item: &Field<'_>,
    direction: Direction,
    names: &Names<'_>,
    report: &mut Report,
) -> Option<Affinity> {
    if !matches!(item.node.value, Value::Map(_)) {
        let service = names.full(&item.text(report)?);
        return Some(Affinity { service, key: TopologyKey::Node, direction, weight: None });
    }
    let section = item.section(keys::AFFINITY, report)?;
    let Some(service) = section.get("service") else {
        item.error(report, "service is required: the name of a service, or self");
        return None;
    };
    let key = match section.get("across") {
        Some(field) => topology(&field, report)?,
        None => TopologyKey::Node,
    };
    let weight = match section.get("weight") {
        Some(field) => Some(u8::try_from(field.integer(1, 100, report)?).unwrap_or(u8::MAX)),
        None => None,
    };
    Some(Affinity { service: names.full(&service.text(report)?), key, direction, weight })
}

/// A part of the cluster (with a skew of 1), or `{ across, max_skew, min_domains }`.
fn spread(item: &Field<'_>, report: &mut Report) -> Option<TopologySpread> {
    if !matches!(item.node.value, Value::Map(_)) {
        return Some(TopologySpread { key: topology(item, report)?, max_skew: 1, min_domains: 0 });
    }
    let section = item.section(keys::SPREAD, report)?;
    let Some(across) = section.get("across") else {
        item.error(report, "across is required: node, node.pool or node.labels.NAME");
        return None;
    };
    Some(TopologySpread {
        key: topology(&across, report)?,
        max_skew: section.get("max_skew").map_or(Some(1), |field| field.count(1, report))?,
        min_domains: section.get("min_domains").map_or(Some(0), |field| field.count(0, report))?,
    })
}

/// `gpu: 2`, `gpu: 0.5` (of one device), or `gpu: { count, share, models }`.
fn device(name: &str, field: &Field<'_>, report: &mut Report) -> Option<GenericRequest> {
    let request = |count, millis, models| GenericRequest { name: name.to_owned(), count, millis, models };
    if !matches!(field.node.value, Value::Map(_)) {
        let millis = field.cpu_millis(report)?;
        let whole = millis / u64::from(WHOLE_MILLIS);
        return match (whole, millis % u64::from(WHOLE_MILLIS)) {
            (0, share) if share > 0 => {
                Some(request(1, u16::try_from(share).unwrap_or(WHOLE_MILLIS), Vec::new()))
            }
            (whole, 0) if whole > 0 && whole <= u64::from(u16::MAX) => {
                Some(request(u16::try_from(whole).unwrap_or(u16::MAX), WHOLE_MILLIS, Vec::new()))
            }
            _ => {
                field.error(report, "expected whole devices (2), or a share of one (0.5)");
                None
            }
        };
    }
    let section = field.section(keys::DEVICE, report)?;
    let count =
        section.get("count").map_or(Some(1), |field| field.integer(1, u64::from(u16::MAX), report))?;
    let share = section.get("share").map_or(Some(1000), |field| field.cpu_millis(report))?;
    let models = section.get("models").map(|field| field.one_or_more()).unwrap_or_default();
    let models = models.iter().filter_map(|model| model.text(report)).collect();
    Some(request(u16::try_from(count).unwrap_or(u16::MAX), u16::try_from(share).unwrap_or(u16::MAX), models))
}

fn disruption(field: &Field<'_>, report: &mut Report) -> Option<Disruption> {
    let section = field.section(keys::DISRUPTION, report)?;
    match (section.get("max_unavailable"), section.get("min_available")) {
        (Some(most), None) => most.count(0, report).map(Disruption::MaxUnavailable),
        (None, Some(least)) => least.count(0, report).map(Disruption::MinAvailable),
        _ => {
            field.error(report, "expected either max_unavailable or min_available");
            None
        }
    }
}

fn job(field: &Field<'_>, spec: &mut ServiceSpec, report: &mut Report) {
    let Some(section) = field.section(keys::JOB, report) else { return };
    if !spec.mode.is_job() {
        field.error(report, "belongs to deploy.mode replicated-job or global-job");
        return;
    }
    let at_a_time = section.get("parallelism").and_then(|field| field.count(0, report));
    if let (Mode::Job { parallelism, .. }, Some(at_a_time)) = (&mut spec.mode, at_a_time) {
        *parallelism = at_a_time;
    }
    spec.job.gang = section.get("gang").and_then(|field| field.boolean(report)).unwrap_or_default();
    let limit = section.get("backoff_limit").and_then(|field| field.count(0, report));
    spec.job.backoff_limit = limit.unwrap_or(spec.job.backoff_limit);
    spec.job.active_deadline = section.get("active_deadline").and_then(|field| field.duration(report));
    spec.job.ttl_after_finished = section.get("ttl_after_finished").and_then(|field| field.duration(report));
}

/// A number of instances, or `{ instances, promote: auto|manual }`.
fn canary(field: &Field<'_>, spec: &mut ServiceSpec, report: &mut Report) {
    if !matches!(field.node.value, Value::Map(_)) {
        spec.update.canary = field.count(0, report).unwrap_or_default();
        return;
    }
    let Some(section) = field.section(keys::CANARY, report) else { return };
    spec.update.canary =
        section.get("instances").map_or(Some(1), |field| field.count(0, report)).unwrap_or_default();
    let promote =
        section.get("promote").and_then(|field| field.choice(&[("auto", true), ("manual", false)], report));
    spec.update.auto_promote = promote.unwrap_or_default();
}
