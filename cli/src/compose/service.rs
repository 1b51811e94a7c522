//! One entry under `services` into a [`ServiceSpec`].
//!
//! Invariant: a spec that is returned without an error in the report passes
//! [`ServiceSpec::violations`].

use std::{collections::BTreeSet, time::Duration};

use skein_common::placeholder;
use skein_common::service::{
    ContainerSpec, DEFAULT_STOP_GRACE, HealthTest, Healthcheck, RestartCondition, ServiceSpec,
};

use super::{
    STACK_LABEL, StackService,
    configs::{self, Configs},
    deploy,
    diagnostic::Report,
    environment, extension,
    field::{Field, Section},
    keys,
    networks::{self, Networks},
    order,
    origin::Origins,
    ports, process, routes,
    volumes::{self, Volumes},
};

/// What every service of a file is read with.
pub struct Surroundings<'a> {
    pub stack: &'a str,
    /// Names of all services of the files.
    pub services: &'a BTreeSet<String>,
    pub files: &'a environment::Files<'a>,
    pub volumes: &'a Volumes,
    pub configs: &'a Configs,
    pub networks: &'a Networks,
}

/// The service, or `None` when it is no map at all.
pub fn read(
    key: &str,
    field: &Field<'_>,
    around: &Surroundings<'_>,
    report: &mut Report,
) -> Option<StackService> {
    let errors_before = report.errors();
    let section = field.section(keys::SERVICE, report)?;
    let mut origins = Origins::default();
    origins.add("spec", &field.path, field.at);
    for (name, spec_field) in [
        ("image", "spec.container.image"),
        ("entrypoint", "spec.container.entrypoint"),
        ("command", "spec.container.command"),
        ("environment", "spec.container.environment"),
        ("labels", "spec.container.labels"),
        ("user", "spec.container.user"),
        ("working_dir", "spec.container.working_dir"),
        ("healthcheck", "spec.container.healthcheck"),
        ("stop_signal", "spec.container.stop_signal"),
        ("stop_grace_period", "spec.container.stop_grace"),
    ] {
        if let Some(found) = section.get(name) {
            origins.add(spec_field, &found.path, found.node.at);
        }
    }
    if section.get("image").is_none() {
        report.error(field.at, &field.path, "image is required");
    }
    let container = container(&section, around, &mut origins, report);
    let mut spec = ServiceSpec {
        labels: std::iter::once((STACK_LABEL.to_owned(), around.stack.to_owned())).collect(),
        ports: section
            .get("ports")
            .map(|field| ports::read(&field, &mut origins, report))
            .unwrap_or_default(),
        ..ServiceSpec::new(format!("{}_{key}", around.stack), container)
    };
    if let Some(field) = section.get("networks") {
        networks::check_attachments(&field, around.networks, report);
    }
    if let Some(field) = section.get("deploy") {
        deploy::read(&field, &mut spec, &mut origins, report);
    }
    restart(&section, &mut spec, report);
    if let Some(field) = section.get("pids_limit") {
        origins.add("spec.resources.pids", &field.path, field.node.at);
        spec.resources.pids = deploy::pids(&field, report);
    }
    if let Some(field) = section.get("x-skein") {
        let own = spec.name.clone();
        let names = extension::Names { stack: around.stack, services: around.services, own: &own };
        extension::read(&field, &mut spec, &names, &mut origins, report);
        if let Some(routes) = field.map().and_then(|section| section.get("routes")) {
            routes::read(&routes, &mut spec, around.configs, &mut origins, report);
        }
    }
    if report.errors() == errors_before {
        report_violations(&spec, &origins, report);
    }
    let depends_on = match section.get("depends_on") {
        Some(field) => {
            origins.add("depends_on", &field.path, field.node.at);
            origins.add("spec.depends_on", &field.path, field.node.at);
            order::read(&field, around.services, report)
        }
        None => Vec::new(),
    };
    let names = extension::Names { stack: around.stack, services: around.services, own: "" };
    spec.depends_on = depends_on.iter().map(|each| each.in_cluster(&names)).collect();
    Some(StackService { key: key.to_owned(), spec, depends_on, origins })
}

/// What the cluster would refuse, at the place where it was written.
fn report_violations(spec: &ServiceSpec, origins: &Origins, report: &mut Report) {
    for violation in spec.violations().0 {
        match origins.find(&violation.field) {
            Some(origin) => report.error(origin.at, &origin.path, violation.description),
            None => report.error_of_file(format!("{}: {}", violation.field, violation.description)),
        }
    }
}

fn container(
    section: &Section<'_>,
    around: &Surroundings<'_>,
    origins: &mut Origins,
    report: &mut Report,
) -> ContainerSpec {
    let text = |key: &str, report: &mut Report| {
        section.get(key).and_then(|field| field.text(report)).unwrap_or_default()
    };
    let words = |key: &str, report: &mut Report| {
        section.get(key).and_then(|field| field.words(report)).unwrap_or_default()
    };
    let mut container = ContainerSpec {
        entrypoint: words("entrypoint", report),
        command: words("command", report),
        environment: environment::read(section, around.files, report),
        labels: section.get("labels").map(|field| labels(&field, report)).unwrap_or_default(),
        user: text("user", report),
        working_dir: text("working_dir", report),
        mounts: volumes::mounts(section, around.volumes, around.files, origins, report),
        configs: configs::mounts(section, around.configs, origins, report),
        healthcheck: section.get("healthcheck").and_then(|field| healthcheck(&field, report)),
        stop_signal: text("stop_signal", report),
        stop_grace: duration(section, "stop_grace_period", report).unwrap_or(DEFAULT_STOP_GRACE),
        ..ContainerSpec::new(text("image", report))
    };
    process::read(section, &mut container, origins, report);
    for (key, texts) in [
        ("environment", container.environment.values().collect::<Vec<_>>()),
        ("hostname", vec![&container.hostname]),
        ("volumes", container.mounts.iter().map(|mount| &mount.source).collect()),
    ] {
        let Some(field) = section.get(key) else { continue };
        for name in texts.into_iter().filter_map(|text| placeholder::unknown(text)) {
            field.warn(report, format!("nobody fills in {{{{{name}}}}}: it stays as it is"));
        }
    }
    container
}

/// `restart` counts where `deploy.restart_policy` is absent, as it does in `docker stack deploy`.
fn restart(section: &Section<'_>, spec: &mut ServiceSpec, report: &mut Report) {
    let Some(field) = section.get("restart") else { return };
    let has_policy = section
        .get("deploy")
        .and_then(|field| field.free_section(&mut Report::default()))
        .is_some_and(|deploy| deploy.get("restart_policy").is_some());
    let Some(text) = field.text(report) else { return };
    let attempts = text.strip_prefix("on-failure:").map(str::parse::<u32>);
    match (text.as_str(), attempts) {
        ("no" | "false" | "always" | "unless-stopped" | "on-failure", _) | (_, Some(Ok(_))) if has_policy => {
            field.warn(report, "ignored: deploy.restart_policy is set");
        }
        ("no" | "false", _) => field.warn(
            report,
            "ignored, as docker stack deploy does: set deploy.restart_policy.condition: none instead",
        ),
        ("always" | "unless-stopped", _) => {}
        ("on-failure", _) => spec.restart.condition = RestartCondition::OnFailure,
        (_, Some(Ok(attempts))) => {
            spec.restart.condition = RestartCondition::OnFailure;
            spec.restart.max_attempts = Some(attempts).filter(|attempts| *attempts > 0);
        }
        _ => {
            field.error(report, format!("{text:?} is not one of no, always, unless-stopped, on-failure[:N]"));
        }
    }
}

/// Labels in either spelling.
pub fn labels(field: &Field<'_>, report: &mut Report) -> std::collections::BTreeMap<String, String> {
    let pairs = field.pairs(report).unwrap_or_default();
    pairs.into_iter().map(|(name, value, _)| (name, value.unwrap_or_default())).collect()
}

fn duration(section: &Section<'_>, key: &str, report: &mut Report) -> Option<Duration> {
    section.get(key)?.duration(report)
}

fn healthcheck(field: &Field<'_>, report: &mut Report) -> Option<Healthcheck> {
    let section = field.section(keys::HEALTHCHECK, report)?;
    let disable = section.get("disable").and_then(|field| field.boolean(report)).unwrap_or(false);
    let test = match section.get("test") {
        Some(test) if disable => {
            test.error(report, "test and disable: true contradict each other");
            None
        }
        Some(test) => health_test(&test, report),
        None if disable => Some(HealthTest::Disabled),
        None => {
            field.error(report, "test is required: times alone cannot change the image's own check yet");
            None
        }
    };
    let retries = section.get("retries").and_then(|field| field.integer(0, 1_000_000, report));
    Some(Healthcheck {
        interval: duration(&section, "interval", report).unwrap_or_default(),
        timeout: duration(&section, "timeout", report).unwrap_or_default(),
        retries: retries.and_then(|retries| u32::try_from(retries).ok()).unwrap_or_default(),
        start_period: duration(&section, "start_period", report).unwrap_or_default(),
        start_interval: start_interval(&section, report),
        test: test?,
    })
}

fn start_interval(section: &Section<'_>, report: &mut Report) -> Duration {
    let Some(field) = section.get("start_interval") else { return Duration::ZERO };
    field.warn(report, "Docker before 25 does not know it and keeps to interval; a probe of x-skein does");
    field.duration(report).unwrap_or_default()
}

fn health_test(field: &Field<'_>, report: &mut Report) -> Option<HealthTest> {
    if field.scalar("", &mut Report::default()).is_some() {
        return field.text(report).map(HealthTest::Shell);
    }
    let words = field.texts(report)?;
    match words.split_first().map(|(kind, rest)| (kind.as_str(), rest)) {
        Some(("NONE", [])) => Some(HealthTest::Disabled),
        Some(("CMD", rest)) if !rest.is_empty() => Some(HealthTest::Exec(rest.to_vec())),
        Some(("CMD-SHELL", [line])) => Some(HealthTest::Shell(line.clone())),
        _ => {
            field.error(
                report,
                "expected [CMD, program, argument...], [CMD-SHELL, line], [NONE] or one line of text",
            );
            None
        }
    }
}
