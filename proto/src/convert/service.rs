//! Specs. Written by users, so every violation is collected, by field path.

use std::time::Duration;

use skein_common::{
    FieldViolation, Resources, Violations,
    config::ConfigMount,
    service::{
        ContainerSpec, DEFAULT_REPLICAS, DEFAULT_STOP_GRACE, Disruption, HealthTest, Healthcheck, Mode,
        Mount, MountKind, MountOptions, PortSpec, Protocol, Publish, ResourceRequirements, RestartCondition,
        RestartPolicy, ServiceSpec, Ulimit,
    },
};

use super::{
    autoscale::autoscale_policy, balance::balance_policy, duration_from_wire, duration_to_wire,
    job::job_policy, probe::probes, route::routes, schedule, update::update_policy,
};
use crate::v1;

/// Collects violations while values are read on.
pub(super) struct Door<'a> {
    pub(super) found: &'a mut Violations,
}

impl Door<'_> {
    pub(super) fn duration(&mut self, field: &str, wire: Option<prost_types::Duration>) -> Option<Duration> {
        wire.and_then(|wire| match duration_from_wire("", wire) {
            Ok(duration) => Some(duration),
            Err(_) => {
                self.found.add(field, "a duration cannot be negative");
                None
            }
        })
    }

    pub(super) fn port(&mut self, field: &str, number: u32) -> u16 {
        u16::try_from(number).unwrap_or_else(|_| {
            self.found.add(field, format!("{number} is more than 65535"));
            // Not reported a second time as missing.
            u16::MAX
        })
    }

    pub(super) fn known<T>(
        &mut self,
        field: &str,
        number: i32,
        value: Result<T, prost::UnknownEnumValue>,
    ) -> Option<T> {
        value.map_err(|_| self.found.add(field, format!("{number} is not a value of this enum"))).ok()
    }
}

impl TryFrom<v1::ServiceSpec> for ServiceSpec {
    type Error = Violations;

    fn try_from(wire: v1::ServiceSpec) -> Result<Self, Violations> {
        let mut found = Violations::default();
        let has_container = wire.container.is_some();
        let mut door = Door { found: &mut found };
        let mode = mode(wire.mode);
        let mut restart_policy = wire.restart.unwrap_or_default();
        if mode.is_job() && restart_policy.condition == i32::from(v1::RestartCondition::Unspecified) {
            restart_policy.condition = v1::RestartCondition::OnFailure.into();
        }
        let spec = Self {
            name: wire.name,
            labels: wire.labels.into_iter().collect(),
            mode,
            container: container(&mut door, wire.container.unwrap_or_default()),
            resources: wire.resources.map(ResourceRequirements::from).unwrap_or_default(),
            restart: restart(&mut door, restart_policy),
            placement: super::placement::policy(door.found, wire.placement.unwrap_or_default()),
            ports: wire
                .ports
                .into_iter()
                .enumerate()
                .map(|(position, port)| port_spec(&mut door, position, port))
                .collect(),
            update: wire.update.map(|wire| update_policy(&mut door, "update", wire)).unwrap_or_default(),
            rollback: wire.rollback.map(|wire| update_policy(&mut door, "rollback", *wire)),
            disruption: wire.disruption.map(Disruption::from),
            job: wire.job_policy.map(|wire| job_policy(&mut door, wire)).unwrap_or_default(),
            schedule: wire.schedule.map(|wire| schedule::schedule(&mut door, wire)),
            depends_on: schedule::dependencies(&mut door, wire.depends_on),
            balance: wire.balance.map(|wire| balance_policy(&mut door, *wire)).unwrap_or_default(),
            routes: routes(&mut door, "spec.routes", wire.routes),
            autoscale: wire.autoscale.map(|wire| autoscale_policy(&mut door, "spec.autoscale", *wire)),
        };
        if let Some(autoscale) = &spec.autoscale {
            autoscale.check_times("spec.autoscale", &mut found);
        }
        if let Some(schedule) = &spec.schedule {
            schedule.check_times(&mut found);
        }
        if has_container {
            found.0.extend(spec.violations().0);
        } else {
            found.add("spec.container", "is required");
            let others = spec.violations().0.into_iter().filter(|v| !v.field.starts_with("spec.container"));
            found.0.extend(others.collect::<Vec<FieldViolation>>());
        }
        found.into_result(spec)
    }
}

fn mode(wire: Option<v1::service_spec::Mode>) -> Mode {
    match wire {
        Some(v1::service_spec::Mode::Global(_)) => Mode::Global,
        Some(v1::service_spec::Mode::GlobalJob(_)) => Mode::GlobalJob,
        Some(v1::service_spec::Mode::Job(mode)) => {
            Mode::Job { completions: mode.completions.unwrap_or(1), parallelism: mode.parallelism }
        }
        Some(v1::service_spec::Mode::Replicated(mode)) => {
            Mode::Replicated { replicas: mode.replicas.unwrap_or(DEFAULT_REPLICAS) }
        }
        None => Mode::Replicated { replicas: DEFAULT_REPLICAS },
    }
}

fn container(door: &mut Door<'_>, wire: v1::ContainerSpec) -> ContainerSpec {
    ContainerSpec {
        image: wire.image,
        entrypoint: wire.entrypoint,
        command: wire.command,
        environment: wire.environment.into_iter().collect(),
        labels: wire.labels.into_iter().collect(),
        user: wire.user,
        working_dir: wire.working_dir,
        mounts: wire
            .mounts
            .into_iter()
            .enumerate()
            .map(|(position, wire)| mount(door, position, wire))
            .collect(),
        healthcheck: wire.healthcheck.and_then(|wire| healthcheck(door, *wire)),
        probes: wire.probes.map(|wire| probes(door, *wire)).unwrap_or_default(),
        stop_signal: wire.stop_signal,
        stop_grace: door.duration("spec.container.stop_grace", wire.stop_grace).unwrap_or(DEFAULT_STOP_GRACE),
        hostname: wire.hostname,
        init: wire.init,
        read_only: wire.read_only,
        tty: wire.tty,
        stdin_open: wire.stdin_open,
        cap_add: wire.cap_add,
        cap_drop: wire.cap_drop,
        groups: wire.groups,
        extra_hosts: wire.extra_hosts,
        dns: wire.dns,
        dns_search: wire.dns_search,
        dns_options: wire.dns_options,
        sysctls: wire.sysctls.into_iter().collect(),
        ulimits: wire.ulimits.into_iter().map(Ulimit::from).collect(),
        configs: wire.configs.into_iter().map(ConfigMount::from).collect(),
    }
}

fn mount(door: &mut Door<'_>, position: usize, wire: v1::Mount) -> Mount {
    let field = format!("spec.container.mounts[{position}].kind");
    let kind = match door.known(&field, wire.kind, v1::MountKind::try_from(wire.kind)) {
        Some(v1::MountKind::Volume) => MountKind::Volume,
        Some(v1::MountKind::Tmpfs) => MountKind::Tmpfs,
        Some(v1::MountKind::Bind) | None => MountKind::Bind,
        Some(v1::MountKind::Unspecified) => {
            door.found.add(field, "is required: bind, volume or tmpfs");
            MountKind::Volume
        }
    };
    Mount {
        kind,
        source: wire.source,
        target: wire.target,
        read_only: wire.read_only,
        options: wire.options.map(MountOptions::from).unwrap_or_default(),
    }
}

fn healthcheck(door: &mut Door<'_>, wire: v1::Healthcheck) -> Option<Healthcheck> {
    let test = match wire.test {
        Some(v1::healthcheck::Test::Exec(line)) => HealthTest::Exec(line.words),
        Some(v1::healthcheck::Test::Shell(line)) => HealthTest::Shell(line),
        Some(v1::healthcheck::Test::Disabled(true)) => HealthTest::Disabled,
        Some(v1::healthcheck::Test::Disabled(false)) | None => {
            door.found.add("spec.container.healthcheck.test", "is required: exec, shell or disabled");
            return None;
        }
    };
    let mut duration = |name: &str, wire| {
        door.duration(&format!("spec.container.healthcheck.{name}"), wire).unwrap_or_default()
    };
    Some(Healthcheck {
        test,
        interval: duration("interval", wire.interval),
        timeout: duration("timeout", wire.timeout),
        start_period: duration("start_period", wire.start_period),
        start_interval: duration("start_interval", wire.start_interval),
        retries: wire.retries,
    })
}

fn restart(door: &mut Door<'_>, wire: v1::RestartPolicy) -> RestartPolicy {
    let known = v1::RestartCondition::try_from(wire.condition);
    let condition = match door.known("spec.restart.condition", wire.condition, known) {
        Some(v1::RestartCondition::OnFailure) => RestartCondition::OnFailure,
        Some(v1::RestartCondition::None) => RestartCondition::None,
        Some(v1::RestartCondition::Any | v1::RestartCondition::Unspecified) | None => RestartCondition::Any,
    };
    RestartPolicy {
        condition,
        delay: door.duration("spec.restart.delay", wire.delay),
        max_attempts: wire.max_attempts,
        window: door.duration("spec.restart.window", wire.window).unwrap_or_default(),
    }
}

fn port_spec(door: &mut Door<'_>, position: usize, wire: v1::PortSpec) -> PortSpec {
    let field = |name: &str| format!("spec.ports[{position}].{name}");
    let published = door.port(&field("published_port"), wire.published_port);
    let mode = door.known(&field("mode"), wire.mode, v1::PublishMode::try_from(wire.mode));
    let protocol = door.known(&field("protocol"), wire.protocol, v1::Protocol::try_from(wire.protocol));
    PortSpec {
        container_port: door.port(&field("container_port"), wire.container_port),
        protocol: protocol.map_or(Protocol::Tcp, Protocol::from),
        publish: match mode {
            Some(v1::PublishMode::Host) => Publish::Host { port: published },
            _ => Publish::Ingress { port: (published != 0).then_some(published) },
        },
    }
}

impl From<v1::Ulimit> for Ulimit {
    fn from(wire: v1::Ulimit) -> Self {
        Self { name: wire.name, soft: wire.soft, hard: wire.hard }
    }
}

impl From<&Ulimit> for v1::Ulimit {
    fn from(limit: &Ulimit) -> Self {
        Self { name: limit.name.clone(), soft: limit.soft, hard: limit.hard }
    }
}

impl From<v1::Protocol> for Protocol {
    fn from(wire: v1::Protocol) -> Self {
        match wire {
            v1::Protocol::Udp => Self::Udp,
            v1::Protocol::Tcp | v1::Protocol::Unspecified => Self::Tcp,
        }
    }
}

impl From<Protocol> for v1::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

impl From<v1::Resources> for Resources {
    fn from(wire: v1::Resources) -> Self {
        Self { cpu_millis: wire.cpu_millis, memory_bytes: wire.memory_bytes }
    }
}

impl From<Resources> for v1::Resources {
    fn from(resources: Resources) -> Self {
        Self { cpu_millis: resources.cpu_millis, memory_bytes: resources.memory_bytes }
    }
}

impl From<v1::ResourceRequirements> for ResourceRequirements {
    fn from(wire: v1::ResourceRequirements) -> Self {
        Self {
            reservation: wire.reservation.unwrap_or_default().into(),
            limit: wire.limit.unwrap_or_default().into(),
            pids: wire.pids,
        }
    }
}

impl From<&ServiceSpec> for v1::ServiceSpec {
    fn from(spec: &ServiceSpec) -> Self {
        Self {
            name: spec.name.clone(),
            labels: spec.labels.clone().into_iter().collect(),
            mode: Some(match spec.mode {
                Mode::Replicated { replicas } => {
                    v1::service_spec::Mode::Replicated(v1::ReplicatedMode { replicas: Some(replicas) })
                }
                Mode::Global => v1::service_spec::Mode::Global(v1::GlobalMode {}),
                Mode::GlobalJob => v1::service_spec::Mode::GlobalJob(v1::GlobalJobMode {}),
                Mode::Job { completions, parallelism } => {
                    let completions = Some(completions);
                    v1::service_spec::Mode::Job(v1::JobMode { completions, parallelism })
                }
            }),
            container: Some((&spec.container).into()),
            resources: Some(v1::ResourceRequirements {
                reservation: Some(spec.resources.reservation.into()),
                limit: Some(spec.resources.limit.into()),
                pids: spec.resources.pids,
            }),
            restart: Some((&spec.restart).into()),
            placement: Some((&spec.placement).into()),
            ports: spec.ports.iter().map(v1::PortSpec::from).collect(),
            update: Some((&spec.update).into()),
            rollback: spec.rollback.as_ref().map(|policy| Box::new(policy.into())),
            disruption: spec.disruption.map(v1::service_spec::Disruption::from),
            job_policy: spec.mode.is_job().then(|| (&spec.job).into()),
            schedule: spec.schedule.as_ref().map(v1::Schedule::from),
            depends_on: spec.depends_on.iter().map(v1::Dependency::from).collect(),
            balance: Some(Box::new((&spec.balance).into())),
            routes: spec.routes.iter().map(v1::Route::from).collect(),
            autoscale: spec.autoscale.as_ref().map(|policy| Box::new(policy.into())),
        }
    }
}

impl From<&ContainerSpec> for v1::ContainerSpec {
    fn from(container: &ContainerSpec) -> Self {
        Self {
            image: container.image.clone(),
            entrypoint: container.entrypoint.clone(),
            command: container.command.clone(),
            environment: container.environment.clone().into_iter().collect(),
            labels: container.labels.clone().into_iter().collect(),
            user: container.user.clone(),
            working_dir: container.working_dir.clone(),
            mounts: container.mounts.iter().map(v1::Mount::from).collect(),
            healthcheck: container.healthcheck.as_ref().map(|check| Box::new(check.into())),
            probes: (!container.probes.is_empty()).then(|| Box::new((&container.probes).into())),
            stop_signal: container.stop_signal.clone(),
            stop_grace: Some(duration_to_wire(container.stop_grace)),
            hostname: container.hostname.clone(),
            init: container.init,
            read_only: container.read_only,
            tty: container.tty,
            stdin_open: container.stdin_open,
            cap_add: container.cap_add.clone(),
            cap_drop: container.cap_drop.clone(),
            groups: container.groups.clone(),
            extra_hosts: container.extra_hosts.clone(),
            dns: container.dns.clone(),
            dns_search: container.dns_search.clone(),
            dns_options: container.dns_options.clone(),
            sysctls: container.sysctls.clone().into_iter().collect(),
            ulimits: container.ulimits.iter().map(v1::Ulimit::from).collect(),
            configs: container.configs.iter().map(v1::ConfigMount::from).collect(),
        }
    }
}

impl From<&Mount> for v1::Mount {
    fn from(mount: &Mount) -> Self {
        let kind = match mount.kind {
            MountKind::Bind => v1::MountKind::Bind,
            MountKind::Volume => v1::MountKind::Volume,
            MountKind::Tmpfs => v1::MountKind::Tmpfs,
        };
        Self {
            kind: kind.into(),
            source: mount.source.clone(),
            target: mount.target.clone(),
            read_only: mount.read_only,
            options: (mount.options != MountOptions::default()).then(|| (&mount.options).into()),
        }
    }
}

impl From<v1::MountOptions> for MountOptions {
    fn from(wire: v1::MountOptions) -> Self {
        Self {
            propagation: wire.propagation,
            no_copy: wire.no_copy,
            subpath: wire.subpath,
            driver: wire.driver,
            driver_options: wire.driver_options.into_iter().collect(),
            labels: wire.labels.into_iter().collect(),
            size_bytes: wire.size_bytes,
            mode: wire.mode,
        }
    }
}

impl From<&MountOptions> for v1::MountOptions {
    fn from(options: &MountOptions) -> Self {
        Self {
            propagation: options.propagation.clone(),
            no_copy: options.no_copy,
            subpath: options.subpath.clone(),
            driver: options.driver.clone(),
            driver_options: options.driver_options.clone().into_iter().collect(),
            labels: options.labels.clone().into_iter().collect(),
            size_bytes: options.size_bytes,
            mode: options.mode,
        }
    }
}

impl From<&Healthcheck> for v1::Healthcheck {
    fn from(check: &Healthcheck) -> Self {
        let duration = |value: Duration| (!value.is_zero()).then(|| duration_to_wire(value));
        Self {
            test: Some(match &check.test {
                HealthTest::Disabled => v1::healthcheck::Test::Disabled(true),
                HealthTest::Exec(words) => {
                    v1::healthcheck::Test::Exec(v1::CommandLine { words: words.clone() })
                }
                HealthTest::Shell(line) => v1::healthcheck::Test::Shell(line.clone()),
            }),
            interval: duration(check.interval),
            timeout: duration(check.timeout),
            retries: check.retries,
            start_period: duration(check.start_period),
            start_interval: duration(check.start_interval),
        }
    }
}

impl From<&RestartPolicy> for v1::RestartPolicy {
    fn from(restart: &RestartPolicy) -> Self {
        let condition = match restart.condition {
            RestartCondition::Any => v1::RestartCondition::Any,
            RestartCondition::OnFailure => v1::RestartCondition::OnFailure,
            RestartCondition::None => v1::RestartCondition::None,
        };
        Self {
            condition: condition.into(),
            delay: restart.delay.map(duration_to_wire),
            max_attempts: restart.max_attempts,
            window: (!restart.window.is_zero()).then(|| duration_to_wire(restart.window)),
        }
    }
}

impl From<&PortSpec> for v1::PortSpec {
    fn from(port: &PortSpec) -> Self {
        let (mode, published) = match port.publish {
            Publish::Ingress { port } => (v1::PublishMode::Ingress, port.unwrap_or(0)),
            Publish::Host { port } => (v1::PublishMode::Host, port),
        };
        Self {
            container_port: port.container_port.into(),
            published_port: published.into(),
            protocol: v1::Protocol::from(port.protocol).into(),
            mode: mode.into(),
        }
    }
}

impl TryFrom<v1::ContainerSpec> for ContainerSpec {
    type Error = Violations;

    /// For containers outside a spec (assignments); limits of users' specs are not checked again.
    fn try_from(wire: v1::ContainerSpec) -> Result<Self, Violations> {
        let mut found = Violations::default();
        let spec = container(&mut Door { found: &mut found }, wire);
        found.into_result(spec)
    }
}

impl TryFrom<v1::RestartPolicy> for RestartPolicy {
    type Error = Violations;

    fn try_from(wire: v1::RestartPolicy) -> Result<Self, Violations> {
        let mut found = Violations::default();
        let policy = restart(&mut Door { found: &mut found }, wire);
        found.into_result(policy)
    }
}
