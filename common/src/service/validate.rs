//! The limits of a spec. Every violation is reported, by protobuf field path.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Algorithm, BalanceMode, BalancePolicy, BalanceTimeouts as Timeouts, ContainerSpec, Disruption,
    FailureAction, HashBy, HealthTest, MAX_HOLD, MAX_INSTANCE_WEIGHT, MAX_RETRIES, MAX_SCHEDULED_NAME,
    MAX_TRUSTED, MAX_WEIGHTS, MIN_CHECK_INTERVAL, Mode, Mount, MountKind, PortSpec, Publish,
    ResourceRequirements, RestartCondition, ServiceSpec, UpdatePolicy, Upstream, order, route,
};
use crate::Violations;

/// Docker's container name is `skein-<service>-<slot>-<instance>-<attempt>`; this keeps it short.
const MAX_NAME: usize = 63;
const MAX_REPLICAS: u32 = 100_000;
const MAX_PORTS: usize = 64;
/// What one plan of the masters can place.
const MAX_GANG: u32 = 4_096;
/// Specs travel through the log: one must stay small against a log batch.
const MAX_TEXT_BYTES: usize = 256 * 1024;
/// Docker refuses less (its own bound for the memory limit).
const MIN_MEMORY_LIMIT: u64 = 6 * 1024 * 1024;
/// The kernel's (`PID_MAX_LIMIT`).
const MAX_PIDS: u32 = 1 << 22;
/// Labels of the orchestrator itself.
pub const RESERVED_LABELS: &str = "io.skein.";

impl ServiceSpec {
    /// Everything that is wrong with this spec; empty when it is valid.
    #[must_use]
    pub fn violations(&self) -> Violations {
        let mut found = Violations::default();
        check_name(&self.name, &mut found);
        if let Mode::Replicated { replicas } = self.mode
            && replicas > MAX_REPLICAS
        {
            found.add(
                "spec.mode.replicated.replicas",
                format!("{replicas} is more than the limit of {MAX_REPLICAS}"),
            );
        }
        if let Mode::Job { completions, .. } = self.mode
            && !(1..=MAX_REPLICAS).contains(&completions)
        {
            found.add(
                "spec.mode.job.completions",
                format!("{completions} is not between 1 and {MAX_REPLICAS}"),
            );
        }
        if self.mode.is_job() && self.restart.condition == RestartCondition::Any {
            found.add("spec.restart.condition", "a job ends: use on-failure or none");
        }
        check_job(self, &mut found);
        order::check(self, &mut found);
        check_container(&self.container, &mut found);
        check_resources(self.resources, &mut found);
        self.placement.check(&mut found);
        check_ports(&self.ports, &mut found);
        check_update("update", &self.update, &mut found);
        if let Some(rollback) = &self.rollback {
            check_update("rollback", rollback, &mut found);
        }
        check_balance(&self.balance, &mut found);
        route::check(self, &mut found);
        if let Some(autoscale) = &self.autoscale {
            autoscale.check_for(self, &mut found);
        }
        if self.disruption == Some(Disruption::MaxUnavailable(0)) {
            found.add("spec.max_unavailable", "0 would allow neither rollout nor drain: at least 1");
        }
        found
    }
}

fn check_job(spec: &ServiceSpec, found: &mut Violations) {
    if spec.job.gang {
        match spec.mode {
            Mode::Job { completions, parallelism } if (1..completions).contains(&parallelism) => {
                found.add(
                    "spec.mode.job.parallelism",
                    "a gang runs all its slots at once: 0, or as many as completions",
                );
            }
            Mode::Job { completions, .. } if completions > MAX_GANG => {
                found.add("spec.mode.job.completions", format!("a gang has at most {MAX_GANG} slots"));
            }
            Mode::Job { .. } => {}
            _ => found.add("spec.job_policy.gang", "only a replicated job is placed as a gang"),
        }
    }
    let Some(schedule) = &spec.schedule else { return };
    if !spec.mode.is_job() {
        found.add(
            "spec.schedule",
            format!("a {} service never ends: only a job has a schedule", spec.mode.name()),
        );
    }
    if spec.name.len() > MAX_SCHEDULED_NAME {
        found.add(
            "spec.name",
            format!("runs are called <name>-<time>: with a schedule at most {MAX_SCHEDULED_NAME} characters"),
        );
    }
    for (position, port) in spec.ports.iter().enumerate() {
        if matches!(port.publish, Publish::Ingress { port: Some(_) }) {
            found.add(
                format!("spec.ports[{position}].published_port"),
                "runs of a schedule cannot share a published port: leave it out, or use host mode",
            );
        }
    }
    schedule.check_form(found);
}

/// A failed rollback has nothing left to go back to, and canaries are for what is new.
fn check_update(name: &str, policy: &UpdatePolicy, found: &mut Violations) {
    if policy.max_failure_permille > 1000 {
        let field = format!("spec.{name}.max_failure_permille");
        found.add(field, format!("{} is more than 1000", policy.max_failure_permille));
    }
    if name == "rollback" && policy.failure_action == FailureAction::Rollback {
        found.add("spec.rollback.failure_action", "a rollback that fails can pause or continue");
    }
    if name == "rollback" && policy.canary > 0 {
        found.add("spec.rollback.canary", "a rollback has no canaries");
    }
}

fn check_balance(policy: &BalancePolicy, found: &mut Violations) {
    if policy.retries > MAX_RETRIES {
        found.add("spec.balance.retries", format!("{} is more than {MAX_RETRIES}", policy.retries));
    }
    if policy.limits.in_flight == 0 {
        found.add("spec.balance.max_in_flight", "0 would let nothing through: at least 1");
    }
    check_shares(policy, found);
    let Timeouts { connect, request, idle, drain: _, hold: _ } = policy.timeouts;
    for (name, timeout) in [("connect", connect), ("request", request), ("idle", idle)] {
        if timeout.is_zero() {
            found.add(format!("spec.balance.{name}_timeout"), "0 would let nothing through: more than 0");
        }
    }
    if policy.ejection.failures > 0 && policy.ejection.time.is_zero() {
        found.add("spec.balance.ejection_time", "is zero: set ejection_failures to 0 to switch ejection off");
    }
    if policy.mode == BalanceMode::Http && policy.send_proxy {
        found.add("spec.balance.send_proxy", "in mode http requests say who asks (Forwarded): use mode tcp");
    }
    if policy.proxy_from.len() > MAX_TRUSTED {
        found.add(
            "spec.balance.proxy_from",
            format!("{} ranges, more than {MAX_TRUSTED}", policy.proxy_from.len()),
        );
    }
    let Algorithm::ConsistentHash { by } = &policy.algorithm else { return };
    if policy.mode == BalanceMode::Tcp && *by != HashBy::Source {
        found.add("spec.balance.hash_by", "in mode tcp only the source is known: use mode http");
    }
    if let HashBy::Header(name) | HashBy::Cookie(name) = by
        && (name.is_empty()
            || !name.bytes().all(|byte| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&byte)))
    {
        found.add("spec.balance.hash_by", format!("{name:?} is not a name"));
    }
}

fn check_shares(policy: &BalancePolicy, found: &mut Violations) {
    if policy.weights.len() > MAX_WEIGHTS {
        found.add("spec.balance.weights", format!("{} are more than {MAX_WEIGHTS}", policy.weights.len()));
    }
    for (position, rule) in policy.weights.iter().enumerate() {
        let field = |leaf: &str| format!("spec.balance.weights[{position}].{leaf}");
        if rule.label.is_empty() {
            found.add(field("label"), "is required: the label of a node");
        }
        if rule.weight > MAX_INSTANCE_WEIGHT {
            found.add(field("weight"), format!("{} is more than {MAX_INSTANCE_WEIGHT}", rule.weight));
        }
    }
    if let Some(permille) = policy.canary_permille.filter(|permille| *permille > 1_000) {
        found.add("spec.balance.canary_permille", format!("{permille} is more than 1000, which is all"));
    }
    if policy.timeouts.hold.is_some_and(|hold| hold > MAX_HOLD) {
        found.add("spec.balance.hold_timeout", format!("more than {} s", MAX_HOLD.as_secs()));
    }
    if policy.affinity.is_some_and(|time| time < Duration::from_secs(1)) {
        found.add("spec.balance.affinity", "at least 1 s");
    }
    if policy.affinity.is_some() && matches!(policy.algorithm, Algorithm::ConsistentHash { .. }) {
        found.add(
            "spec.balance.affinity",
            "consistent_hash keeps clients where they are by itself: use one of them",
        );
    }
    let Some(check) = &policy.check else { return };
    if check.interval < MIN_CHECK_INTERVAL {
        let least = MIN_CHECK_INTERVAL.as_millis();
        found.add("spec.balance.check.interval", format!("at least {least} ms"));
    }
    if check.timeout.is_zero() {
        found.add("spec.balance.check.timeout", "more than 0");
    }
    for (leaf, count) in [("fall", check.fall), ("rise", check.rise)] {
        if count == 0 {
            found.add(format!("spec.balance.check.{leaf}"), "at least 1");
        }
    }
    let Some(path) = &check.path else { return };
    if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        found.add("spec.balance.check.path", format!("{path:?} is not a path: it begins with /"));
    }
    if policy.upstream == Upstream::H2c {
        found.add("spec.balance.check.path", "instances that speak h2c only can be checked by connecting");
    }
}

/// What the engine would refuse only on the node.
fn check_process(container: &ContainerSpec, found: &mut Violations) {
    let hostname = &container.hostname;
    let valid = hostname.len() <= MAX_NAME
        && hostname.chars().all(|c| c.is_ascii_alphanumeric() || "-._{} \"".contains(c));
    if !valid {
        found.add("spec.container.hostname", format!("{hostname:?} is not a host name"));
    }
    for (position, line) in container.extra_hosts.iter().enumerate() {
        if line.split_once(':').is_none_or(|(name, address)| name.is_empty() || address.is_empty()) {
            found.add(
                format!("spec.container.extra_hosts[{position}]"),
                format!("{line:?} is not name:address"),
            );
        }
    }
    for (position, server) in container.dns.iter().enumerate() {
        if server.parse::<std::net::IpAddr>().is_err() {
            found.add(format!("spec.container.dns[{position}]"), format!("{server:?} is not an address"));
        }
    }
    for (position, limit) in container.ulimits.iter().enumerate() {
        let above = limit.hard != -1 && (limit.soft == -1 || limit.soft > limit.hard);
        if limit.name.is_empty() || above {
            found.add(
                format!("spec.container.ulimits[{position}]"),
                format!(
                    "{:?} {}:{}: a name is required, and soft must not be above hard",
                    limit.name, limit.soft, limit.hard
                ),
            );
        }
    }
}

fn check_name(name: &str, found: &mut Violations) {
    let valid = name.len() <= MAX_NAME
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if !valid {
        found.add(
            "spec.name",
            format!(
                "{name:?} is not a name: 1 to {MAX_NAME} of a-z A-Z 0-9 _ . - starting with a letter or digit"
            ),
        );
    }
}

fn check_container(container: &ContainerSpec, found: &mut Violations) {
    if container.image.is_empty() || container.image.contains(char::is_whitespace) {
        found.add("spec.container.image", "an image reference such as nginx:1.27 is required");
    }
    if !container.working_dir.is_empty() && !container.working_dir.starts_with('/') {
        found.add(
            "spec.container.working_dir",
            format!("{:?} is not an absolute path", container.working_dir),
        );
    }
    for (position, mount) in container.configs.iter().enumerate() {
        mount.check(&format!("spec.container.configs[{position}]"), found);
    }
    for name in container.environment.keys() {
        if name.is_empty() || name.contains(['=', '\0']) {
            found.add("spec.container.environment", format!("{name:?} is not a variable name"));
        }
    }
    for name in container.labels.keys().filter(|name| name.starts_with(RESERVED_LABELS)) {
        found.add(
            "spec.container.labels",
            format!("{name:?}: labels that begin with {RESERVED_LABELS} are reserved"),
        );
    }
    let text: usize = container
        .environment
        .iter()
        .chain(&container.labels)
        .map(|(name, value)| name.len() + value.len())
        .sum::<usize>()
        + container.command.iter().chain(&container.entrypoint).map(String::len).sum::<usize>();
    if text > MAX_TEXT_BYTES {
        found.add(
            "spec.container",
            format!("environment, labels and command hold {text} bytes, more than {MAX_TEXT_BYTES}"),
        );
    }
    check_mounts(&container.mounts, found);
    check_process(container, found);
    container.probes.check(found);
    match container.healthcheck.as_ref().map(|check| &check.test) {
        Some(HealthTest::Exec(words)) if words.is_empty() => {
            found.add(
                "spec.container.healthcheck.exec",
                "a program is required; use `disabled` to switch the image's check off",
            );
        }
        Some(HealthTest::Shell(line)) if line.is_empty() => {
            found.add(
                "spec.container.healthcheck.shell",
                "a command is required; use `disabled` to switch the image's check off",
            );
        }
        _ => {}
    }
}

fn check_mounts(mounts: &[Mount], found: &mut Violations) {
    let mut targets = BTreeSet::new();
    for (position, mount) in mounts.iter().enumerate() {
        let field = |name: &str| format!("spec.container.mounts[{position}].{name}");
        if !mount.target.starts_with('/') {
            found.add(field("target"), format!("{:?} is not an absolute path", mount.target));
        }
        if !targets.insert(mount.target.as_str()) {
            found.add(field("target"), format!("{:?} is mounted twice", mount.target));
        }
        mount.options.check(mount.kind, &field("options"), found);
        match mount.kind {
            MountKind::Bind if !mount.source.starts_with('/') => {
                found.add(field("source"), format!("{:?} is not an absolute path of the node", mount.source));
            }
            MountKind::Tmpfs if !mount.source.is_empty() => {
                found.add(field("source"), "a tmpfs has no source");
            }
            MountKind::Bind | MountKind::Volume | MountKind::Tmpfs => {}
        }
    }
}

fn check_resources(resources: ResourceRequirements, found: &mut Violations) {
    let ResourceRequirements { reservation, limit, pids } = resources;
    if let Some(pids) = pids.filter(|pids| !(1..=MAX_PIDS).contains(pids)) {
        found.add("spec.resources.pids", format!("{pids} is not between 1 and {MAX_PIDS}"));
    }
    if limit.memory_bytes != 0 && limit.memory_bytes < MIN_MEMORY_LIMIT {
        found.add(
            "spec.resources.limit.memory_bytes",
            format!("at least {MIN_MEMORY_LIMIT} (6 MiB), Docker's minimum"),
        );
    }
    if limit.memory_bytes != 0 && reservation.memory_bytes > limit.memory_bytes {
        found.add("spec.resources.reservation.memory_bytes", "more than the limit");
    }
    if limit.cpu_millis != 0 && reservation.cpu_millis > limit.cpu_millis {
        found.add("spec.resources.reservation.cpu_millis", "more than the limit");
    }
}

fn check_ports(ports: &[PortSpec], found: &mut Violations) {
    if ports.len() > MAX_PORTS {
        found.add("spec.ports", format!("{} ports, more than {MAX_PORTS}", ports.len()));
    }
    let mut published = BTreeSet::new();
    for (position, port) in ports.iter().enumerate() {
        if port.container_port == 0 {
            found.add(format!("spec.ports[{position}].container_port"), "1 to 65535 is required");
        }
        let outside = match port.publish {
            Publish::Ingress { port } => port,
            Publish::Host { port } => Some(port),
        };
        if outside == Some(0) {
            found
                .add(format!("spec.ports[{position}].published_port"), "1 to 65535 is required in host mode");
        } else if let Some(number) = outside
            && !published.insert((number, port.protocol))
        {
            found.add(
                format!("spec.ports[{position}].published_port"),
                format!("{number}/{} is published twice", port.protocol),
            );
        }
    }
}
