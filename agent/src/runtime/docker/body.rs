//! What a container is created from, in the engine's terms.
//!
//! Invariant: pure; the same configuration always gives the same body. Restarts are ours
//! (policy `no`), and every limit the spec leaves open that could exhaust the node is set.
//! Deliberately not here: the call itself (`docker`).

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    time::Duration,
};

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount as EngineMount,
    MountBindOptions, MountTmpfsOptions, MountType, MountVolumeOptions, MountVolumeOptionsDriverConfig,
    PortBinding as EnginePort, PortMap, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use skein_common::{
    Resources,
    instance::PortBinding,
    service::{ContainerSpec, DEFAULT_PIDS, HealthTest, Healthcheck, Mount, MountKind, MountOptions, Ulimit},
};

use super::{
    super::{ContainerConfig, FileMount, Identity, Owner},
    devices::{self, DevicePaths},
    labels,
};

/// Every address of the node: the balancers of other nodes come in through any of them. Only
/// IPv4, because each address costs a proxy process of the engine's.
const HOST_ADDRESS: &str = "0.0.0.0";
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
/// Of volumes that name none.
const LOCAL_DRIVER: &str = "local";
/// Linux's limit of a host name is 64 bytes.
const LONGEST_HOSTNAME: usize = 63;
const NDOTS: &str = "ndots:0";

pub(super) fn body(
    owner: Owner,
    config: &ContainerConfig,
    devices: &DevicePaths,
    resolver: Option<Ipv4Addr>,
) -> ContainerCreateBody {
    let spec = &config.container;
    let mut all_labels: HashMap<_, _> =
        spec.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    labels::write(&mut all_labels, owner, &config.identity);
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        hostname: Some(some_text(&spec.hostname).unwrap_or_else(|| hostname(owner, &config.identity))),
        tty: Some(spec.tty),
        open_stdin: Some(spec.stdin_open),
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
        host_config: Some(HostConfig {
            devices: Some(devices::mappings(&config.devices, devices)),
            dns: some_words(&servers(spec, resolver)),
            dns_options: some_words(&resolver_options(spec, resolver)),
            ..host_config(spec, config)
        }),
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
        mounts: Some(spec.mounts.iter().map(mount).chain(config.files.iter().map(file)).collect()),
        cpu_period: (limit.cpu_millis > 0).then_some(CPU_PERIOD_MICROS),
        cpu_quota: (limit.cpu_millis > 0).then(|| cpu_quota(limit)),
        cpu_shares: Some(cpu_shares(config.resources.reservation)),
        memory: (limit.memory_bytes > 0).then(|| signed(limit.memory_bytes)),
        // Memory and swap together: no swap on top of the limit.
        memory_swap: (limit.memory_bytes > 0).then(|| signed(limit.memory_bytes)),
        pids_limit: Some(config.resources.pids.unwrap_or(DEFAULT_PIDS).into()),
        init: Some(spec.init),
        readonly_rootfs: Some(spec.read_only),
        cap_add: some_words(&spec.cap_add),
        cap_drop: some_words(&spec.cap_drop),
        group_add: some_words(&spec.groups),
        extra_hosts: some_words(&spec.extra_hosts),
        dns_search: some_words(&spec.dns_search),
        sysctls: Some(spec.sysctls.clone().into_iter().collect()),
        ulimits: Some(spec.ulimits.iter().map(ulimit).collect()),
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

/// Whoever names servers wants those.
fn servers(spec: &ContainerSpec, resolver: Option<Ipv4Addr>) -> Vec<String> {
    match resolver {
        Some(resolver) if spec.dns.is_empty() => vec![resolver.to_string()],
        _ => spec.dns.clone(),
    }
}

/// A name is asked for as it is before the machine's search domains are tried: `web` is no question for others.
fn resolver_options(spec: &ContainerSpec, resolver: Option<Ipv4Addr>) -> Vec<String> {
    let mut options = spec.dns_options.clone();
    let says_so = options.iter().any(|option| option.starts_with("ndots:"));
    if resolver.is_some() && spec.dns.is_empty() && !says_so {
        options.push(NDOTS.to_owned());
    }
    options
}

/// The user's variables, and who the container is; ours win.
fn environment(owner: Owner, config: &ContainerConfig) -> Vec<String> {
    let identity = &config.identity;
    let mut ours = [
        ("SKEIN_SERVICE", identity.service_name.clone()),
        ("SKEIN_SLOT", identity.slot.to_string()),
        ("SKEIN_INSTANCE", identity.instance.to_string()),
        ("SKEIN_NODE", owner.node.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec();
    ours.extend(devices::environment(&config.devices));
    let is_ours = |name: &str| ours.iter().any(|(our, _)| our == name);
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
        start_interval: Some(nanos(check.start_interval)),
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
        bind_options: bind_options(&mount.options),
        volume_options: volume_options(&mount.options),
        tmpfs_options: tmpfs_options(&mount.options),
        ..EngineMount::default()
    }
}

fn bind_options(options: &MountOptions) -> Option<MountBindOptions> {
    let propagation = some_text(&options.propagation)?.parse().ok();
    Some(MountBindOptions { propagation, ..MountBindOptions::default() })
}

fn volume_options(options: &MountOptions) -> Option<MountVolumeOptions> {
    let has_driver = !options.driver.is_empty() || !options.driver_options.is_empty();
    let is_plain = !options.no_copy && options.subpath.is_empty() && options.labels.is_empty();
    if is_plain && !has_driver {
        return None;
    }
    let map = |pairs: &BTreeMap<String, String>| pairs.clone().into_iter().collect::<HashMap<_, _>>();
    Some(MountVolumeOptions {
        no_copy: Some(options.no_copy),
        subpath: some_text(&options.subpath),
        labels: Some(map(&options.labels)),
        driver_config: has_driver.then(|| MountVolumeOptionsDriverConfig {
            name: Some(some_text(&options.driver).unwrap_or_else(|| LOCAL_DRIVER.to_owned())),
            options: Some(map(&options.driver_options)),
        }),
    })
}

fn tmpfs_options(options: &MountOptions) -> Option<MountTmpfsOptions> {
    (options.size_bytes > 0 || options.mode > 0).then(|| MountTmpfsOptions {
        size_bytes: (options.size_bytes > 0).then(|| signed(options.size_bytes)),
        mode: (options.mode > 0).then(|| i64::from(options.mode)),
        ..MountTmpfsOptions::default()
    })
}

fn ulimit(limit: &Ulimit) -> ResourcesUlimits {
    ResourcesUlimits { name: Some(limit.name.clone()), soft: Some(limit.soft), hard: Some(limit.hard) }
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

/// Read-only, whoever the process is.
fn file(file: &FileMount) -> EngineMount {
    EngineMount {
        typ: Some(MountType::BIND),
        source: Some(file.source.to_string_lossy().into_owned()),
        target: Some(file.target.clone()),
        read_only: Some(true),
        ..EngineMount::default()
    }
}

#[cfg(test)]
mod tests {
    use skein_common::{ClusterId, InstanceId, NodeId, ServiceId, service::Generation};

    use super::*;

    fn identity(service_name: &str, slot: u32) -> Identity {
        Identity {
            instance: InstanceId::from_random(3),
            attempt: 1,
            service: ServiceId::from_random(4),
            service_name: service_name.to_owned(),
            slot,
            generation: Generation(1),
        }
    }

    #[test]
    fn host_names_are_short_and_speak() {
        let owner = Owner { cluster: ClusterId::from_random(1), node: NodeId::from_random(2) };
        let long = "a".repeat(63);
        for (service, slot, expected) in [
            ("web", 3, "web-3".to_owned()),
            ("web", 0, format!("web-{}", owner.node)),
            ("shop_web.v2", 1, "shop-web-v2-1".to_owned()),
            ("web.", 1, "web-1".to_owned()),
            (long.as_str(), 7, format!("{}-7", "a".repeat(61))),
        ] {
            let hostname = hostname(owner, &identity(service, slot));
            assert!(hostname.len() <= LONGEST_HOSTNAME, "{hostname}");
            assert_eq!(hostname, expected);
        }
    }

    #[test]
    fn grace_is_rounded_up_to_seconds() {
        for (ms, seconds) in [(0, 0), (1, 1), (1000, 1), (1001, 2), (u64::MAX, i32::MAX)] {
            assert_eq!(whole_seconds(Duration::from_millis(ms)), seconds, "{ms} ms");
        }
    }

    #[test]
    fn shares_follow_the_reservation_and_quota_the_limit() {
        let cpu = |cpu_millis| Resources { cpu_millis, memory_bytes: 0 };
        for (millis, shares) in [(0, 2), (1, 2), (250, 256), (1000, 1024), (u64::MAX, 262_144)] {
            assert_eq!(cpu_shares(cpu(millis)), shares, "{millis}");
        }
        for (millis, quota) in [(1, 1000), (500, 50_000), (64_000, 6_400_000)] {
            assert_eq!(cpu_quota(cpu(millis)), quota, "{millis}");
        }
    }

    #[test]
    fn checks_keep_the_engines_defaults_where_they_say_nothing() {
        let check = |test, interval| Healthcheck {
            test,
            interval,
            timeout: Duration::ZERO,
            retries: 0,
            start_period: Duration::ZERO,
            start_interval: Duration::ZERO,
        };
        let shell = healthcheck(&check(HealthTest::Shell("true".to_owned()), Duration::ZERO));
        assert_eq!(shell.test, Some(vec!["CMD-SHELL".to_owned(), "true".to_owned()]));
        assert_eq!((shell.interval, shell.timeout, shell.retries), (Some(0), Some(0), Some(0)));
        let exec = healthcheck(&check(HealthTest::Exec(vec!["true".to_owned()]), Duration::from_micros(1)));
        assert_eq!(exec.test, Some(vec!["CMD".to_owned(), "true".to_owned()]));
        assert_eq!(exec.interval, Some(1_000_000), "less is refused by the engine");
        let disabled = healthcheck(&check(HealthTest::Disabled, Duration::from_secs(1)));
        assert_eq!((disabled.test, disabled.interval), (Some(vec!["NONE".to_owned()]), None));
    }

    #[test]
    fn options_of_mounts_are_passed_on() {
        let made = |options| {
            mount(&Mount {
                kind: MountKind::Volume,
                source: "data".to_owned(),
                target: "/data".to_owned(),
                read_only: false,
                options,
            })
        };
        let plain = made(MountOptions::default());
        assert_eq!((plain.bind_options, plain.volume_options, plain.tmpfs_options), (None, None, None));
        let driver_options = BTreeMap::from([("type".to_owned(), "nfs".to_owned())]);
        let volume = made(MountOptions { driver_options, ..MountOptions::default() }).volume_options;
        let driver = volume.and_then(|volume| volume.driver_config).expect("a driver");
        assert_eq!(driver.name.as_deref(), Some("local"));
        assert_eq!(driver.options.and_then(|options| options.get("type").cloned()).as_deref(), Some("nfs"));
        let tmpfs = made(MountOptions { size_bytes: 9, ..MountOptions::default() }).tmpfs_options;
        assert_eq!(tmpfs.map(|tmpfs| (tmpfs.size_bytes, tmpfs.mode)), Some((Some(9), None)));
    }

    #[test]
    fn one_port_may_lead_from_several() {
        use skein_common::service::Protocol::{Tcp, Udp};
        let binding =
            |container_port, host_port, protocol| PortBinding { container_port, host_port, protocol };
        let map = port_map(&[binding(53, 1, Tcp), binding(53, 2, Udp), binding(53, 3, Tcp)]);
        let ports = |key: &str| -> Vec<_> {
            map[key].iter().flatten().filter_map(|port| port.host_port.as_deref()).collect()
        };
        assert_eq!((ports("53/tcp"), ports("53/udp")), (vec!["1", "3"], vec!["2"]));
    }
}
