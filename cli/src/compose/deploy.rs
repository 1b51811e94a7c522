//! `deploy`: how many, where, with what, and what happens when one ends.

use skein_common::{
    Resources,
    service::{
        DEFAULT_PIDS, DEFAULT_REPLICAS, Mode, ResourceRequirements, RestartCondition, RestartPolicy,
        ServiceSpec,
    },
};

use super::{
    STACK_LABEL,
    diagnostic::Report,
    field::{Field, Section},
    keys,
    origin::Origins,
    placement, rollout, service,
};

pub fn read(field: &Field<'_>, spec: &mut ServiceSpec, origins: &mut Origins, report: &mut Report) {
    let Some(section) = field.section(keys::DEPLOY, report) else { return };
    mode(&section, spec, origins, report);
    if let Some(field) = section.get("labels") {
        for (name, value) in service::labels(&field, report) {
            if name == STACK_LABEL {
                field.error(report, format!("the label {STACK_LABEL} is set by the stack itself"));
            } else {
                spec.labels.insert(name, value);
            }
        }
    }
    if let Some(field) = section.get("resources") {
        spec.resources = resources(&field, origins, report);
        generic_resources(&field, spec, origins, report);
    }
    if let Some(field) = section.get("restart_policy") {
        origins.add("spec.restart", &field.path, field.node.at);
        spec.restart = restart(&field, spec.restart.condition, report);
    }
    if let Some(field) = section.get("placement") {
        origins.add("spec.placement", &field.path, field.node.at);
        placement::read(&field, &mut spec.placement, origins, report);
    }
    if let Some(field) = section.get("update_config") {
        origins.add("spec.update", &field.path, field.node.at);
        spec.update = rollout::read(&field, false, report);
    }
    if let Some(field) = section.get("rollback_config") {
        origins.add("spec.rollback", &field.path, field.node.at);
        spec.rollback = Some(rollout::read(&field, true, report));
    }
}

/// Replicas of a job are how often it has to end well; how many run at a time says `x-skein.job`.
fn mode(section: &Section<'_>, spec: &mut ServiceSpec, origins: &mut Origins, report: &mut Report) {
    let kind = section.get("mode").and_then(|field| {
        let kind = field.text(report)?;
        let known = matches!(kind.as_str(), "replicated" | "global" | "replicated-job" | "global-job");
        if !known {
            let known = "replicated, global, replicated-job, global-job";
            field.error(report, format!("{kind:?} is not one of {known}"));
        }
        known.then_some(kind)
    });
    let kind = kind.as_deref().unwrap_or("replicated");
    let replicas = section.get("replicas").and_then(|field| {
        origins.add("spec.mode", &field.path, field.node.at);
        if kind.starts_with("global") {
            field.error(report, format!("a {kind} service has one instance on every node: remove replicas"));
            return None;
        }
        let replicas = field.integer(0, u64::from(u32::MAX), report)?;
        u32::try_from(replicas).ok()
    });
    let replicas = replicas.unwrap_or(DEFAULT_REPLICAS);
    spec.mode = match kind {
        "global" => Mode::Global,
        "global-job" => Mode::GlobalJob,
        "replicated-job" => Mode::Job { completions: replicas, parallelism: 0 },
        _ => Mode::Replicated { replicas },
    };
    if spec.mode.is_job() {
        spec.restart.condition = RestartCondition::OnFailure;
    }
}

fn resources(field: &Field<'_>, origins: &mut Origins, report: &mut Report) -> ResourceRequirements {
    let mut found = ResourceRequirements::default();
    let Some(section) = field.section(keys::RESOURCES, report) else { return found };
    origins.add("spec.resources", &field.path, field.node.at);
    let limits = section.get("limits").and_then(|field| field.free_section(&mut Report::default()));
    if let Some(field) = limits.and_then(|limits| limits.get("pids")) {
        origins.add("spec.resources.pids", &field.path, field.node.at);
        found.pids = pids(&field, report);
    }
    for (key, keys, spec_field, amount) in [
        ("limits", keys::LIMIT, "spec.resources.limit", &mut found.limit),
        ("reservations", keys::RESERVATION, "spec.resources.reservation", &mut found.reservation),
    ] {
        let Some(part) = section.get(key).and_then(|field| field.section(keys, report)) else { continue };
        let (cpus, memory) = (part.get("cpus"), part.get("memory"));
        for (name, field) in [("cpu_millis", &cpus), ("memory_bytes", &memory)] {
            if let Some(field) = field {
                origins.add(format!("{spec_field}.{name}"), &field.path, field.node.at);
            }
        }
        *amount = Resources {
            cpu_millis: cpus.and_then(|field| field.cpu_millis(report)).unwrap_or_default(),
            memory_bytes: memory.and_then(|field| field.bytes(report)).unwrap_or_default(),
        };
    }
    found
}

/// Docker's 0 and -1 are no limit at all, which one service must not have of a node.
pub fn pids(field: &Field<'_>, report: &mut Report) -> Option<u32> {
    match field.signed(report)? {
        0 | -1 => {
            field.warn(report, format!("there is no container without a limit: it may have {DEFAULT_PIDS}"));
            None
        }
        number => u32::try_from(number).ok().or_else(|| {
            field.error(report, format!("{number} is no number of processes"));
            None
        }),
    }
}

/// Reported by [`resources`] where they are not what they should be.
fn generic_resources(field: &Field<'_>, spec: &mut ServiceSpec, origins: &mut Origins, report: &mut Report) {
    let mut ignored = Report::default();
    let reservations = field.free_section(&mut ignored).and_then(|section| section.get("reservations"));
    let reservations = reservations.and_then(|field| field.free_section(&mut ignored));
    let Some(field) = reservations.and_then(|section| section.get("generic_resources")) else { return };
    origins.add("spec.placement.generic", &field.path, field.node.at);
    spec.placement.generic = placement::generic_resources(&field, report);
}

fn restart(field: &Field<'_>, usual: RestartCondition, report: &mut Report) -> RestartPolicy {
    let Some(section) = field.section(keys::RESTART, report) else { return RestartPolicy::default() };
    let conditions = [
        ("any", RestartCondition::Any),
        ("on-failure", RestartCondition::OnFailure),
        ("none", RestartCondition::None),
    ];
    let condition = section.get("condition").and_then(|field| field.choice(&conditions, report));
    let attempts =
        section.get("max_attempts").and_then(|field| field.integer(0, u64::from(u32::MAX), report));
    RestartPolicy {
        condition: condition.unwrap_or(usual),
        delay: section.get("delay").and_then(|field| field.duration(report)),
        // As in Docker, 0 is no bound; `condition: none` is how to have no restart.
        max_attempts: attempts
            .and_then(|attempts| u32::try_from(attempts).ok())
            .filter(|attempts| *attempts > 0),
        window: section.get("window").and_then(|field| field.duration(report)).unwrap_or_default(),
    }
}
