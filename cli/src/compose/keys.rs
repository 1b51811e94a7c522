//! Every key of a Compose file that is known, and what becomes of it.
//!
//! Invariant: a key is read, ignored with a warning, or refused with a reason; any other is an
//! error that names the nearest known key. Refused: the container could not work without it, or
//! would be less protected than its author asked for. Ignored: it works all the same, or
//! `docker stack deploy` ignores it too. Keys without effect (`privileged: false`, an empty
//! list) pass in silence.

use super::{
    diagnostic::Report,
    field::Field,
    scalar::Meaning,
    yaml::{Entry, Node, Value},
};

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Read,
    Ignored(&'static str),
    Refused(&'static str),
}

pub type Keys = &'static [(&'static str, Fate)];

use Fate::{Ignored, Read, Refused};

const AS_STACK: &str = "ignored, as docker stack deploy does";
const NOT_STACK: &str = "not read by docker stack deploy and not by Skein";
const LATER: &str = "not supported yet";
const LIMITS: &str = "set deploy.resources.limits instead";

pub const TOP: Keys = &[
    // Every version of the format is read the same way.
    ("version", Read),
    ("name", Read),
    ("services", Read),
    ("volumes", Read),
    ("networks", Read),
    ("configs", Read),
    ("secrets", Ignored("ignored: Skein has no secrets yet, and no service could use them")),
    ("include", Refused("not supported: put the services into one file")),
    ("models", Refused(NOT_STACK)),
];

pub const SERVICE: Keys = &[
    ("annotations", Ignored("ignored: use labels")),
    ("attach", Ignored(AS_STACK)),
    ("blkio_config", Refused(NOT_STACK)),
    ("build", Ignored("ignored: images are built beforehand, as for docker stack deploy")),
    ("cap_add", Read),
    ("cap_drop", Read),
    ("cgroup", Ignored(AS_STACK)),
    ("cgroup_parent", Ignored(AS_STACK)),
    ("cgroupns_mode", Ignored(AS_STACK)),
    ("command", Read),
    ("configs", Read),
    ("container_name", Ignored("ignored: a service can have many containers, which Skein names")),
    ("cpu_count", Refused(LIMITS)),
    ("cpu_percent", Refused(LIMITS)),
    ("cpu_period", Refused(LIMITS)),
    ("cpu_quota", Refused(LIMITS)),
    ("cpu_rt_period", Refused(LIMITS)),
    ("cpu_rt_runtime", Refused(LIMITS)),
    ("cpu_shares", Refused(LIMITS)),
    ("cpus", Refused("set deploy.resources.limits.cpus instead")),
    ("cpuset", Refused(LIMITS)),
    ("credential_spec", Refused("for Windows only")),
    ("depends_on", Read),
    ("deploy", Read),
    ("develop", Ignored(AS_STACK)),
    ("device_cgroup_rules", Refused(NOT_STACK)),
    ("devices", Ignored(AS_STACK)),
    ("dns", Read),
    ("dns_opt", Read),
    ("dns_search", Read),
    ("domainname", Ignored(AS_STACK)),
    ("entrypoint", Read),
    ("env_file", Read),
    ("environment", Read),
    (
        "expose",
        Ignored("ignored: it has no effect in a stack; ports: [TARGET] publishes on a free port of the node"),
    ),
    ("extends", Refused("not supported: use a YAML anchor and <<")),
    ("external_links", Ignored(AS_STACK)),
    ("extra_hosts", Read),
    ("gpus", Refused(NOT_STACK)),
    ("group_add", Read),
    ("healthcheck", Read),
    ("hostname", Read),
    ("image", Read),
    ("init", Read),
    ("ipc", Ignored(AS_STACK)),
    ("isolation", Ignored("ignored: for Windows only")),
    ("label_file", Refused(NOT_STACK)),
    ("labels", Read),
    ("links", Ignored(AS_STACK)),
    ("logging", Ignored("ignored: the node's default log driver is used")),
    ("mac_address", Ignored(AS_STACK)),
    ("mem_limit", Refused("set deploy.resources.limits.memory instead")),
    ("mem_reservation", Refused("set deploy.resources.reservations.memory instead")),
    ("mem_swappiness", Refused(NOT_STACK)),
    ("memswap_limit", Refused(LIMITS)),
    ("network_mode", Ignored(AS_STACK)),
    ("networks", Read),
    ("oom_kill_disable", Refused(NOT_STACK)),
    ("oom_score_adj", Ignored("ignored: not supported yet")),
    ("pid", Ignored(AS_STACK)),
    ("pids_limit", Read),
    ("platform", Ignored("ignored: constrain node.platform.arch in deploy.placement.constraints instead")),
    ("ports", Read),
    ("post_start", Refused(NOT_STACK)),
    ("pre_stop", Refused(NOT_STACK)),
    ("privileged", Ignored(AS_STACK)),
    ("profiles", Refused(NOT_STACK)),
    ("models", Refused(NOT_STACK)),
    ("provider", Refused(NOT_STACK)),
    ("pull_refresh_after", Ignored("ignored: an image is pulled where it is missing")),
    ("pull_policy", Ignored("ignored: an image is pulled where it is missing")),
    ("read_only", Read),
    ("restart", Read),
    ("runtime", Refused(NOT_STACK)),
    ("scale", Refused("set deploy.replicas instead")),
    ("secrets", Refused("Skein has no secrets yet: use environment, or a bind mount")),
    ("security_opt", Ignored(AS_STACK)),
    ("shm_size", Ignored(AS_STACK)),
    ("stdin_open", Read),
    ("stop_grace_period", Read),
    ("stop_signal", Read),
    ("storage_opt", Refused(NOT_STACK)),
    ("sysctls", Read),
    ("tmpfs", Read),
    ("tty", Read),
    ("ulimits", Read),
    ("use_api_socket", Refused(NOT_STACK)),
    ("user", Read),
    ("userns_mode", Ignored(AS_STACK)),
    ("uts", Refused(NOT_STACK)),
    ("volume_driver", Refused("define the volume under the top-level volumes instead")),
    ("volumes", Read),
    ("volumes_from", Refused("define a volume under the top-level volumes and mount it in both services")),
    ("working_dir", Read),
    ("x-skein", Read),
];

pub const DEPLOY: Keys = &[
    ("endpoint_mode", Ignored("ignored: not supported yet")),
    ("labels", Read),
    ("mode", Read),
    ("placement", Read),
    ("replicas", Read),
    ("resources", Read),
    ("restart_policy", Read),
    ("rollback_config", Read),
    ("update_config", Read),
];
pub const PLACEMENT: Keys = &[("constraints", Read), ("max_replicas_per_node", Read), ("preferences", Read)];
pub const UPDATE: Keys = &[
    ("delay", Read),
    ("failure_action", Read),
    ("max_failure_ratio", Read),
    ("monitor", Read),
    ("order", Read),
    ("parallelism", Read),
];
pub const ENV_FILE: Keys = &[
    ("format", Ignored("ignored: every line is taken as it is, as docker stack deploy does")),
    ("path", Read),
    ("required", Read),
];
pub const DEPENDENCY: Keys = &[
    ("condition", Read),
    ("required", Read),
    ("restart", Ignored("ignored: who is waited for may be restarted alone")),
];
pub const PREFERENCE: Keys = &[("spread", Read)];
pub const GENERIC_RESOURCE: Keys = &[("discrete_resource_spec", Read)];
pub const DISCRETE_RESOURCE: Keys = &[("kind", Read), ("value", Read)];
pub const ULIMIT: Keys = &[("hard", Read), ("soft", Read)];
/// Of `x-skein`.
pub const EXTENSION: Keys = &[
    ("affinity", Read),
    ("anti_affinity", Read),
    ("autoscale", Read),
    ("balance", Read),
    ("canary", Read),
    ("devices", Read),
    ("disruption", Read),
    ("job", Read),
    ("priority", Read),
    ("probes", Read),
    ("progress_deadline", Read),
    ("routes", Read),
    ("schedule", Read),
    ("spread", Read),
    ("strategy", Read),
    ("tolerations", Read),
];
pub const AFFINITY: Keys = &[("across", Read), ("service", Read), ("weight", Read)];
pub const SPREAD: Keys = &[("across", Read), ("max_skew", Read), ("min_domains", Read)];
pub const DEVICE: Keys = &[("count", Read), ("models", Read), ("share", Read)];
pub const AUTOSCALE: Keys = &[
    ("activation", Read),
    ("alpha", Read),
    ("beta", Read),
    ("burst", Read),
    ("capacity", Read),
    ("combine", Read),
    ("cooldown", Read),
    ("down", Read),
    ("floors", Read),
    ("forecast", Read),
    ("max", Read),
    ("min", Read),
    ("mode", Read),
    ("targets", Read),
    ("tolerance", Read),
    ("up", Read),
    ("warm_up", Read),
];
pub const AUTOSCALE_TARGETS: Keys = &[
    ("cpu", Read),
    ("in_flight", Read),
    ("latency_p95", Read),
    ("load", Read),
    ("memory", Read),
    ("requests", Read),
];
pub const AUTOSCALE_TOLERANCE: Keys = &[("down", Read), ("up", Read)];
pub const SCALE_RULES: Keys = &[("policies", Read), ("select", Read), ("window", Read)];
pub const RATE_POLICY: Keys = &[("instances", Read), ("percent", Read), ("period", Read)];
pub const BURST: Keys = &[("threshold", Read), ("window", Read)];
pub const FLOOR: Keys = &[("cron", Read), ("for", Read), ("min", Read), ("time_zone", Read)];
pub const FORECAST: Keys = &[("horizon", Read), ("only", Read), ("quantile", Read)];
pub const BALANCE: Keys = &[
    ("affinity", Read),
    ("algorithm", Read),
    ("canary_share", Read),
    ("check", Read),
    ("ejection", Read),
    ("hash_by", Read),
    ("max_in_flight", Read),
    ("max_pending", Read),
    ("mode", Read),
    ("proxy_from", Read),
    ("retries", Read),
    ("send_proxy", Read),
    ("slow_start", Read),
    ("timeouts", Read),
    ("upstream", Read),
    ("weights", Read),
];
pub const NODE_WEIGHT: Keys = &[("label", Read), ("weight", Read)];
pub const ACTIVE_CHECK: Keys =
    &[("fall", Read), ("interval", Read), ("path", Read), ("rise", Read), ("timeout", Read)];
pub const ROUTE: Keys = &[("host", Read), ("listen", Read), ("path", Read), ("port", Read), ("tls", Read)];
pub const ROUTE_TLS: Keys = &[("certificate", Read), ("key", Read), ("redirect", Read)];
pub const EJECTION: Keys = &[("failures", Read), ("time", Read)];
pub const HASH_BY: Keys = &[("cookie", Read), ("header", Read)];
pub const TIMEOUTS: Keys =
    &[("connect", Read), ("drain", Read), ("hold", Read), ("idle", Read), ("request", Read)];
pub const DISRUPTION: Keys = &[("max_unavailable", Read), ("min_available", Read)];
pub const JOB: Keys = &[
    ("active_deadline", Read),
    ("backoff_limit", Read),
    ("gang", Read),
    ("parallelism", Read),
    ("ttl_after_finished", Read),
];
pub const SCHEDULE: Keys = &[
    ("concurrency", Read),
    ("cron", Read),
    ("keep_completed", Read),
    ("keep_failed", Read),
    ("missed", Read),
    ("starting_deadline", Read),
    ("suspend", Read),
    ("time_zone", Read),
];
pub const CANARY: Keys = &[("instances", Read), ("promote", Read)];
pub const RESOURCES: Keys = &[("limits", Read), ("reservations", Read)];
pub const LIMIT: Keys = &[("cpus", Read), ("memory", Read), ("pids", Read)];
pub const RESERVATION: Keys = &[
    ("cpus", Read),
    ("memory", Read),
    ("devices", Refused("use x-skein: { devices: { gpu: 1 } } instead")),
    ("generic_resources", Read),
];
pub const RESTART: Keys = &[("condition", Read), ("delay", Read), ("max_attempts", Read), ("window", Read)];
pub const HEALTHCHECK: Keys = &[
    ("disable", Read),
    ("interval", Read),
    ("retries", Read),
    ("start_interval", Read),
    ("start_period", Read),
    ("test", Read),
    ("timeout", Read),
];
/// Of `x-skein`.
pub const PROBES: Keys = &[("liveness", Read), ("readiness", Read), ("startup", Read)];
pub const PROBE: Keys = &[
    ("exec", Read),
    ("grpc", Read),
    ("http", Read),
    ("interval", Read),
    ("retries", Read),
    ("start_interval", Read),
    ("start_period", Read),
    ("successes", Read),
    ("tcp", Read),
    ("timeout", Read),
];
pub const PROBE_HTTP: Keys = &[("headers", Read), ("path", Read), ("port", Read)];
pub const PROBE_GRPC: Keys = &[("port", Read), ("service", Read)];
pub const PORT: Keys = &[
    ("app_protocol", Ignored(AS_STACK)),
    ("host_ip", Refused("a service listens on every node: remove the address")),
    ("mode", Read),
    ("name", Ignored(AS_STACK)),
    ("protocol", Read),
    ("published", Read),
    ("target", Read),
];
pub const MOUNT: Keys = &[
    ("bind", Read),
    ("cluster", Refused(LATER)),
    ("consistency", Ignored("ignored: it has no effect on Linux")),
    ("image", Refused(LATER)),
    ("read_only", Read),
    ("source", Read),
    ("target", Read),
    ("tmpfs", Read),
    ("type", Read),
    ("volume", Read),
];
pub const MOUNT_BIND: Keys = &[
    ("create_host_path", Ignored("ignored: a path that is not there is an error, as in a stack")),
    ("propagation", Read),
    ("recursive", Refused(LATER)),
    ("selinux", Ignored("ignored: not supported yet")),
];
pub const MOUNT_VOLUME: Keys = &[("labels", Read), ("nocopy", Read), ("subpath", Read)];
pub const MOUNT_TMPFS: Keys = &[("mode", Read), ("size", Read)];
pub const VOLUME: Keys =
    &[("driver", Read), ("driver_opts", Read), ("external", Read), ("labels", Read), ("name", Read)];
pub const CONFIG: Keys = &[
    ("content", Read),
    ("environment", Read),
    ("external", Read),
    ("file", Read),
    ("labels", Read),
    ("name", Read),
    (
        "template_driver",
        Refused("not supported: nothing in a config is filled in; write it with variables of the file"),
    ),
];
pub const CONFIG_MOUNT: Keys =
    &[("gid", Read), ("mode", Read), ("source", Read), ("target", Read), ("uid", Read)];
pub const NETWORK: Keys = &[
    ("attachable", Read),
    ("driver", Read),
    ("driver_opts", Refused(LATER)),
    ("enable_ipv4", Read),
    ("enable_ipv6", Refused(LATER)),
    ("external", Read),
    ("internal", Refused("not supported: all services share one flat network")),
    ("ipam", Refused("not supported: all services share one flat network")),
    ("labels", Read),
    ("name", Read),
];
pub const ATTACHMENT: Keys = &[
    ("aliases", Refused("not supported yet: the names would not resolve")),
    ("driver_opts", Refused(LATER)),
    ("gw_priority", Ignored("ignored: all services share one flat network")),
    ("interface_name", Refused(NOT_STACK)),
    ("ipv4_address", Refused("not supported: addresses are not fixed")),
    ("ipv6_address", Refused("not supported: addresses are not fixed")),
    ("link_local_ips", Refused("not supported: addresses are not fixed")),
    ("mac_address", Ignored(AS_STACK)),
    ("priority", Ignored("ignored: all services share one flat network")),
];

/// Reports every key of a map that is not simply read. Extensions (`x-*`) pass, but for
/// `x-skein`, which is ours and must not be ignored.
pub fn check(entries: &[Entry], path: &str, keys: Keys, report: &mut Report) {
    for entry in entries {
        let at = entry.key_at;
        let path = Field::join(path, &entry.key);
        match keys.iter().find(|(name, _)| *name == entry.key).map(|(_, fate)| *fate) {
            Some(Read) => {}
            Some(_) if is_without_effect(&entry.value) => {}
            Some(Ignored(reason)) => report.warn(at, &path, reason),
            Some(Refused(reason)) => report.error(at, &path, reason),
            None if entry.key == "x-skein" => {
                report.error(at, &path, "x-skein stands in a service: nothing of it is read here");
            }
            None if entry.key.starts_with("x-") => {}
            None => report.error(at, &path, unknown(&entry.key, keys)),
        }
    }
}

fn is_without_effect(node: &Node) -> bool {
    match &node.value {
        Value::List(items) => items.is_empty(),
        Value::Map(entries) => entries.is_empty(),
        Value::Scalar(scalar) => {
            scalar.text.is_empty() || matches!(scalar.meaning(), Meaning::Null | Meaning::Bool(false))
        }
    }
}

fn unknown(key: &str, keys: Keys) -> String {
    if keys == SERVICE && DEPLOY.iter().any(|(name, _)| *name == key) {
        return "unknown key here; it stands under deploy".to_owned();
    }
    match nearest(key, keys.iter().filter(|(_, fate)| *fate == Read).map(|(name, _)| *name)) {
        Some(near) => format!("unknown key; did you mean {near}?"),
        None => {
            let known: Vec<&str> =
                keys.iter().filter(|(_, fate)| *fate == Read).map(|(name, _)| *name).collect();
            format!("unknown key; known here: {}", known.join(", "))
        }
    }
}

/// The candidate that `text` is most likely a misspelling of.
pub fn nearest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = text.to_lowercase().replace('-', "_");
    candidates
        .map(|candidate| (distance(&wanted, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(wanted.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits between two words: insertions, deletions, substitutions, swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (rows[i][j] + usize::from(x != y)).min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_nearest() {
        let names = || SERVICE.iter().map(|(name, _)| *name);
        for (typed, meant) in [
            ("imgae", Some("image")),
            ("enviroment", Some("environment")),
            ("Image", Some("image")),
            ("stop-signal", Some("stop_signal")),
            ("health_check", Some("healthcheck")),
            ("volume", Some("volumes")),
            ("zzz", None),
        ] {
            assert_eq!(nearest(typed, names()), meant, "{typed}");
        }
    }

    /// The keys of a service in the schema of `docker stack deploy` (3.13).
    const STACK_KEYS: &str = "deploy build cap_add cap_drop cgroupns_mode cgroup_parent command configs \
        container_name credential_spec depends_on devices dns dns_search domainname entrypoint env_file environment \
        expose external_links extra_hosts healthcheck hostname image init ipc isolation labels links logging \
        mac_address network_mode networks pid ports privileged read_only restart security_opt shm_size secrets \
        sysctls stdin_open stop_grace_period stop_signal tmpfs tty ulimits oom_score_adj user userns_mode volumes \
        working_dir";

    #[test]
    fn every_key_of_a_stack_has_a_fate() {
        for key in STACK_KEYS.split_whitespace() {
            assert!(SERVICE.iter().any(|(name, _)| *name == key), "{key}");
        }
    }

    #[test]
    fn keys_are_listed_once() {
        for keys in [TOP, SERVICE, DEPLOY, PORT, MOUNT, VOLUME, NETWORK, ATTACHMENT, HEALTHCHECK] {
            for (position, (name, _)) in keys.iter().enumerate() {
                assert!(!keys[..position].iter().any(|(other, _)| other == name), "{name}");
            }
        }
    }
}
