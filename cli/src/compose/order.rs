//! `depends_on`: which services the others wait for. The masters order them; here they are checked.
//!
//! Invariant: an order exists, or the circle that prevents it has been reported; services that do
//! not depend on each other keep the order of the file.

use std::collections::{BTreeMap, BTreeSet};

use skein_common::service::{self, DependencyCondition};

use super::{StackService, diagnostic::Report, extension::Names, field::Field, keys, yaml::Value};

/// What a service waits for before its first instances start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// Its name in the file.
    pub service: String,
    pub condition: Condition,
}

impl Dependency {
    /// As the cluster knows it.
    pub fn in_cluster(&self, names: &Names<'_>) -> service::Dependency {
        let condition = match self.condition {
            Condition::Started => DependencyCondition::Started,
            Condition::Healthy => DependencyCondition::Healthy,
            Condition::Completed => DependencyCondition::CompletedSuccessfully,
        };
        service::Dependency { service: names.full(&self.service), condition }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// One of its instances runs.
    Started,
    /// All its instances are Ready.
    Healthy,
    /// The job has ended well.
    Completed,
}

const CONDITIONS: [(&str, Condition); 3] = [
    ("service_started", Condition::Started),
    ("service_healthy", Condition::Healthy),
    ("service_completed_successfully", Condition::Completed),
];

/// `[db, cache]`, or a map from names to conditions.
pub fn read(field: &Field<'_>, services: &BTreeSet<String>, report: &mut Report) -> Vec<Dependency> {
    let mut found = Vec::new();
    if matches!(field.node.value, Value::List(_)) {
        for item in field.items(report).unwrap_or_default() {
            let Some(service) = item.text(report) else { continue };
            if is_known(&item, &service, services, report) {
                found.push(Dependency { service, condition: Condition::Started });
            }
        }
        return found;
    }
    let Some(section) = field.free_section(report) else { return found };
    for (name, field) in section.all() {
        let Some(part) = field.section(keys::DEPENDENCY, report) else { continue };
        let is_required = part.get("required").is_none_or(|field| field.boolean(report).unwrap_or(true));
        if !is_required && !services.contains(name) {
            continue;
        }
        let condition = match part.get("condition") {
            None => Some(Condition::Started),
            Some(field) => field.choice(&CONDITIONS, report),
        };
        if is_known(&field, name, services, report)
            && let Some(condition) = condition
        {
            found.push(Dependency { service: name.to_owned(), condition });
        }
    }
    found
}

fn is_known(field: &Field<'_>, name: &str, services: &BTreeSet<String>, report: &mut Report) -> bool {
    if services.contains(name) {
        return true;
    }
    let near = keys::nearest(name, services.iter().map(String::as_str));
    let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    field.error(report, format!("there is no service {name} in the files{hint}"));
    false
}

/// Only a job ends.
pub fn check(services: &[StackService], report: &mut Report) {
    let jobs: BTreeMap<&str, bool> =
        services.iter().map(|service| (service.key.as_str(), service.spec.mode.is_job())).collect();
    for service in services {
        for dependency in &service.depends_on {
            let is_job = jobs.get(dependency.service.as_str()).copied().unwrap_or(false);
            let Some(origin) = service.origins.find("depends_on") else { continue };
            if dependency.condition == Condition::Completed && !is_job {
                let name = &dependency.service;
                report.error(
                    origin.at,
                    &origin.path,
                    format!("{name} never completes: it is no job, set its deploy.mode to replicated-job"),
                );
            }
        }
    }
}

/// Every service behind those that it depends on.
pub fn sort(services: Vec<StackService>, report: &mut Report) -> Vec<StackService> {
    let mut open: Vec<StackService> = services;
    let mut done = BTreeSet::new();
    let mut sorted = Vec::with_capacity(open.len());
    while !open.is_empty() {
        let is_free = |service: &StackService| {
            service.depends_on.iter().all(|dependency| done.contains(&dependency.service))
        };
        let Some(position) = open.iter().position(is_free) else {
            tell_circle(&open, report);
            sorted.append(&mut open);
            break;
        };
        let service = open.remove(position);
        done.insert(service.key.clone());
        sorted.push(service);
    }
    sorted
}

/// Among services none of which is free, following what each waits for leads into a circle.
fn tell_circle(open: &[StackService], report: &mut Report) {
    let by_name: BTreeMap<&str, &StackService> =
        open.iter().map(|service| (service.key.as_str(), service)).collect();
    let mut way: Vec<&str> = Vec::new();
    let mut at = open.first();
    while let Some(service) = at {
        if let Some(start) = way.iter().position(|name| *name == service.key) {
            let circle = way.get(start..).unwrap_or_default().join(" -> ");
            let origin = service.origins.find("depends_on").or_else(|| service.origins.find("spec"));
            let message = format!("{circle} -> {}: each would wait for the other", service.key);
            match origin {
                Some(origin) => report.error(origin.at, &origin.path, message),
                None => report.error_of_file(message),
            }
            return;
        }
        way.push(&service.key);
        let waited_for =
            service.depends_on.iter().find_map(|dependency| by_name.get(dependency.service.as_str()));
        at = waited_for.copied();
    }
}
