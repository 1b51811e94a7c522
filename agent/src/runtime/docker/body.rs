//! What a container is created from, in the engine's terms.
//!
//! Invariant: pure; the same configuration always gives the same body. Restarts are ours
//! (policy `no`), and every limit the spec leaves open that could exhaust the node is set.
//! Deliberately not here: the call itself (`docker`).

use std::{collections::HashMap, time::Duration};

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount as EngineMount, MountType,
    PortBinding as EnginePort, PortMap, RestartPolicy, RestartPolicyNameEnum,
};
use skein_common::{
    Resources,
    instance::PortBinding,
    service::{ContainerSpec, HealthTest, Healthcheck, Mount, MountKind},
};

use super::{
    super::{ContainerConfig, Identity, Owner},
    labels,
};

/// Every address of the node: the balancers of other nodes come in through any of them. Only
/// IPv4, because each address costs a proxy process of the engine's.
const HOST_ADDRESS: &str = "0.0.0.0";
/// A fork bomb must not take the node along; no sane service comes near (podman's is 2,048).
const PIDS_LIMIT: i64 = 4096;
/// What the engine may keep of a container's output.
const LOG_MAX_SIZE: &str = "10m";
const LOG_MAX_FILES: &str = "3";
/// The kernel's scheduling period; a quota instead of the engine's `NanoCpus`, which refuses
/// more cores than the node has. A limit above that is simply none.
const CPU_PERIOD_MICROS: i64 = 100_000;
/// The kernel takes no smaller quota.
const CPU_QUOTA_MIN_MICROS: i64 = 1000;
/// The kernel's bounds of a weight. What reserves nothing weighs least, as in Kubernetes:
/// then the sum of weights follows the reservations, and each gets what was set aside for it.
const CPU_SHARES: std::ops::RangeInclusive<i64> = 2..=262_144;
const CPU_SHARES_PER_CORE: u64 = 1024;
/// Linux's limit of a host name is 64 bytes.
const LONGEST_HOSTNAME: usize = 63;

pub(super) fn body(owner: Owner, config: &ContainerConfig) -> ContainerCreateBody {
    let spec = &config.container;
    let mut all_labels: HashMap<_, _> =
        spec.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    labels::write(&mut all_labels, owner, &config.identity);
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        hostname: Some(hostname(owner, &config.identity)),
        entrypoint: some_words(&spec.entrypoint),
        cmd: some_words(&spec.command),
        env: Some(environment(owner, config)),
        labels: Some(all_labels),
        user: some_text(&spec.user),
        working_dir: some_text(&spec.working_dir),
        healthcheck: spec.healthcheck.as_ref().map(healthcheck),
        stop_signal: some_text(&spec.stop_signal),
        stop_timeout: Some(i64::from(whole_seconds(spec.stop_grace))),
        exposed_ports: Some(config.ports.iter().map(port_key).collect()),
        host_config: Some(host_config(spec, config)),
        ..ContainerCreateBody::default()
    }
}

/// Rounded up: the engine knows seconds only, and 0 means SIGKILL at once.
pub(super) fn whole_seconds(grace: Duration) -> i32 {
    let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

fn host_config(spec: &ContainerSpec, config: &ContainerConfig) -> HostConfig {
    let limit = config.resources.limit;
    HostConfig {
        port_bindings: Some(port_map(&config.ports)),
        mounts: Some(spec.mounts.iter().map(mount).collect()),
        cpu_period: (limit.cpu_millis > 0).then_some(CPU_PERIOD_MICROS),
        cpu_quota: (limit.cpu_millis > 0).then(|| cpu_quota(limit)),
        cpu_shares: Some(cpu_shares(config.resources.reservation)),
        memory: (limit.memory_bytes > 0).then(|| signed(limit.memory_bytes)),
        // Memory and swap together: no swap on top of the limit.
        memory_swap: (limit.memory_bytes > 0).then(|| signed(limit.memory_bytes)),
        pids_limit: Some(PIDS_LIMIT),
        init: Some(false),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), LOG_MAX_SIZE.to_owned()),
                ("max-file".to_owned(), LOG_MAX_FILES.to_owned()),
            ])),
        }),
        ..HostConfig::default()
    }
}

/// The user's variables, and who the container is; ours win.
fn environment(owner: Owner, config: &ContainerConfig) -> Vec<String> {
    let identity = &config.identity;
    let ours = [
        ("SKEIN_SERVICE", identity.service_name.clone()),
        ("SKEIN_SLOT", identity.slot.to_string()),
        ("SKEIN_INSTANCE", identity.instance.to_string()),
        ("SKEIN_NODE", owner.node.to_string()),
    ];
    let is_ours = |name: &str| ours.iter().any(|(our, _)| *our == name);
    let users = config.container.environment.iter().filter(|(name, _)| !is_ours(name));
    users
        .map(|(name, value)| format!("{name}={value}"))
        .chain(ours.iter().map(|(name, value)| format!("{name}={value}")))
        .collect()
}

/// `web-3`; of a global service `web-<node>`. What a host name cannot hold becomes `-`.
fn hostname(owner: Owner, identity: &Identity) -> String {
    let place = if identity.slot == 0 { owner.node.to_string() } else { identity.slot.to_string() };
    let service: String =
        identity.service_name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let room = LONGEST_HOSTNAME.saturating_sub(place.len() + 1);
    let service = service.get(..room).unwrap_or(&service).trim_matches('-');
    format!("{service}-{place}")
}

fn healthcheck(check: &Healthcheck) -> HealthConfig {
    let test = match &check.test {
        HealthTest::Disabled => {
            return HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() };
        }
        HealthTest::Exec(words) => std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect(),
        HealthTest::Shell(line) => vec!["CMD-SHELL".to_owned(), line.clone()],
    };
    HealthConfig {
        test: Some(test),
        interval: Some(nanos(check.interval)),
        timeout: Some(nanos(check.timeout)),
        retries: Some(i64::from(check.retries)),
        start_period: Some(nanos(check.start_period)),
        ..HealthConfig::default()
    }
}

/// Zero keeps the engine's default; it refuses anything else below a millisecond.
fn nanos(duration: Duration) -> i64 {
    if duration.is_zero() {
        return 0;
    }
    i64::try_from(duration.max(Duration::from_millis(1)).as_nanos()).unwrap_or(i64::MAX)
}

fn mount(mount: &Mount) -> EngineMount {
    EngineMount {
        typ: Some(match mount.kind {
            MountKind::Bind => MountType::BIND,
            MountKind::Volume => MountType::VOLUME,
            MountKind::Tmpfs => MountType::TMPFS,
        }),
        source: some_text(&mount.source),
        target: Some(mount.target.clone()),
        read_only: Some(mount.read_only),
        ..EngineMount::default()
    }
}

fn port_key(binding: &PortBinding) -> String {
    format!("{}/{}", binding.container_port, binding.protocol)
}

fn port_map(bindings: &[PortBinding]) -> PortMap {
    let mut map = PortMap::new();
    for binding in bindings {
        map.entry(port_key(binding)).or_default().get_or_insert_default().push(EnginePort {
            host_ip: Some(HOST_ADDRESS.to_owned()),
            host_port: Some(binding.host_port.to_string()),
        });
    }
    map
}

fn cpu_quota(limit: Resources) -> i64 {
    let micros = limit.cpu_millis.saturating_mul(CPU_PERIOD_MICROS.unsigned_abs()) / 1000;
    signed(micros).max(CPU_QUOTA_MIN_MICROS)
}

fn cpu_shares(reservation: Resources) -> i64 {
    let shares = reservation.cpu_millis.saturating_mul(CPU_SHARES_PER_CORE) / 1000;
    signed(shares).clamp(*CPU_SHARES.start(), *CPU_SHARES.end())
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

fn some_text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn some_words(words: &[String]) -> Option<Vec<String>> {
    (!words.is_empty()).then(|| words.to_vec())
}
