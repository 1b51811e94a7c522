//! Flags, environment and file → one checked configuration, before anything is opened.
//!
//! Invariant: every setting has one name in all three places (`--data-dir`, `SKEIN_AGENT_DATA_DIR`,
//! `data-dir = ...`); a flag wins over the environment, that over the file. What is wrong is named
//! with what is allowed, all of it at once.
//! Deliberately not here: what the settings do.

mod amount;
mod generic;

use std::{
    collections::BTreeMap,
    error::Error,
    ffi::OsString,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
};

use clap::{Parser, Subcommand, ValueEnum};
use serde::Deserialize;
use skein_common::Resources;

use self::amount::{Bytes, Cores};
use crate::{
    agent::AgentConfig,
    names::NamesConfig,
    proxy::ProxyConfig,
    runtime::docker::{DockerRuntime, InvalidHost},
    usage,
};

/// `EX_USAGE`: wrong usage or configuration.
pub const EXIT_USAGE: u8 = 64;
const DEFAULT_DATA_DIR: &str = "/var/lib/skein/agent";
const DEFAULT_DOCKER: &str = "unix:///var/run/docker.sock";
const MAX_NAME: usize = 63;
/// A thread carries tens of thousands of requests a second; the cores are for containers.
const DEFAULT_PROXY_THREADS_MAX: usize = 4;
const MAX_PROXY_THREADS: usize = 256;
const RESERVED_LABELS: &str = "io.skein.";

/// Skein's agent: runs containers on this node for the masters, and reports.
///
/// It needs Docker and the address of at least one master; everything else has a default.
/// Containers go on when the agent ends, and when no master can be reached; an agent that starts
/// again finds them by their labels. Several agents may share a Docker daemon, each with its own
/// data folder.
#[derive(Debug, Parser)]
#[command(name = "skein-agent", version, about, long_about)]
struct CommandLine {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs the agent until SIGTERM or SIGINT; containers go on.
    #[command(after_help = "Example:\n  \
        skein-agent run --name n1 --masters 10.0.0.1:7070,10.0.0.2:7070,10.0.0.3:7070 \\\n    \
        --advertise-address 10.0.0.11 --label zone=a --reserve-memory 512MiB --reserve-cpu 0.5")]
    Run(Box<Run>),
    /// Removes what an agent that has ended for good left on this machine beside its containers and its folder: the
    /// addresses of services on the loopback interface.
    #[command(after_help = "Example:\n  skein-agent uninstall --data-dir /var/lib/skein/agent")]
    Uninstall {
        /// The folder of the agent
        #[arg(long, env = "SKEIN_AGENT_DATA_DIR", value_name = "FOLDER", default_value = DEFAULT_DATA_DIR)]
        data_dir: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Run {
    /// TOML file with any of these settings, named as the flags are.
    #[arg(long, env = "SKEIN_AGENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// What can be set.
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Settings {
    /// Name of this node, unique in the cluster: 1 to 63 of a-z A-Z 0-9 _ . -
    /// [default: the host name]
    #[arg(long, env = "SKEIN_AGENT_NAME")]
    name: Option<String>,
    /// API addresses of the masters; one that answers is enough, it knows the others.
    #[arg(long, env = "SKEIN_AGENT_MASTERS", value_name = "HOST:PORT,...")]
    masters: Option<String>,
    /// Folder of the node's identity and checkpoint; created when missing, one agent each
    /// [default: /var/lib/skein/agent]
    #[arg(long, env = "SKEIN_AGENT_DATA_DIR", value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Address or host name under which the node's ports are reached, without a port.
    #[arg(long, env = "SKEIN_AGENT_ADVERTISE_ADDRESS", value_name = "HOST")]
    advertise_address: Option<String>,
    /// Label of the node for placement constraints, e.g. zone=a; may be repeated.
    #[arg(long = "label", env = "SKEIN_AGENT_LABELS", value_name = "KEY=VALUE", value_delimiter = ',')]
    #[serde(rename = "labels")]
    label: Vec<String>,
    /// Devices of a generic resource, perhaps with their model: gpu=2, gpu=4:A100, licence=8;
    /// may be repeated.
    #[arg(
        long = "resource",
        env = "SKEIN_AGENT_RESOURCES",
        value_name = "NAME=COUNT[:MODEL]",
        value_delimiter = ','
    )]
    #[serde(rename = "resources")]
    resource: Vec<String>,
    /// File behind a device of a resource, handed to whoever is given that device: gpu:0=/dev/dri/card0;
    /// devices are numbered from 0; may be repeated, also for one device.
    #[arg(
        long = "device",
        env = "SKEIN_AGENT_DEVICES",
        value_name = "RESOURCE:NUMBER=PATH",
        value_delimiter = ','
    )]
    #[serde(rename = "devices")]
    device: Vec<String>,
    /// Container engine: unix:///path or tcp://host:port [default: unix:///var/run/docker.sock]
    #[arg(long, env = "SKEIN_AGENT_DOCKER_HOST", value_name = "URL")]
    docker_host: Option<String>,
    /// Memory that containers shall not reserve: 512MiB, 2GiB [default: 0]
    #[arg(long, env = "SKEIN_AGENT_RESERVE_MEMORY", value_name = "AMOUNT")]
    reserve_memory: Option<Bytes>,
    /// CPU that containers shall not reserve, in cores: 0.5, 2 [default: 0]
    #[arg(long, env = "SKEIN_AGENT_RESERVE_CPU", value_name = "CORES")]
    reserve_cpu: Option<Cores>,
    /// Address at which this node listens on the published ports of services; give each of several
    /// agents on one machine its own [default: 0.0.0.0]
    #[arg(long, env = "SKEIN_AGENT_INGRESS_ADDRESS", value_name = "ADDRESS")]
    ingress_address: Option<IpAddr>,
    /// Threads of the balancer behind published ports; 0 = this node listens on none
    /// [default: one a core, at most 4]
    #[arg(long, env = "SKEIN_AGENT_PROXY_THREADS", value_name = "COUNT")]
    proxy_threads: Option<usize>,
    /// Address of this node's name server, which containers are told of: an IPv4 address, bridge (the engine's own) or
    /// off (no names, no virtual addresses of services); give each of several agents on one machine its own
    /// [default: bridge]
    #[arg(long, env = "SKEIN_AGENT_DNS_ADDRESS", value_name = "ADDRESS")]
    dns_address: Option<String>,
    /// Address and port at which Prometheus may read /metrics: 127.0.0.1:7080, 0.0.0.0:7080. It tells
    /// names of services and figures, to whoever asks [default: not served]
    #[arg(long, env = "SKEIN_AGENT_METRICS_ADDRESS", value_name = "ADDRESS:PORT")]
    metrics_address: Option<SocketAddr>,
    /// [default: text]
    #[arg(long, env = "SKEIN_AGENT_LOG_FORMAT", value_enum)]
    log_format: Option<LogFormat>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// What was asked for on the command line.
#[derive(Debug)]
pub struct Config {
    pub agent: AgentConfig,
    pub runtime: DockerRuntime,
    pub log_format: LogFormat,
}

/// What the program is to do.
#[derive(Debug)]
pub enum Asked {
    Run(Box<Config>),
    /// The agent with this folder is no more.
    Uninstall(PathBuf),
}

impl Asked {
    /// From arguments, the environment, and the file they name.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn parse<A: Into<OsString> + Clone>(
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self, ConfigError> {
        match CommandLine::try_parse_from(arguments)?.command {
            Verb::Run(run) => run.config().map(|config| Self::Run(Box::new(config))),
            Verb::Uninstall { data_dir } => Ok(Self::Uninstall(data_dir)),
        }
    }
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// clap's own text; also help and version, which are no errors.
    #[error("{0}")]
    Usage(#[from] clap::Error),
    #[error("cannot read {}", file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("{}: {message}", file.display())]
    File { file: PathBuf, message: String },
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
}

impl Run {
    fn config(self) -> Result<Config, ConfigError> {
        let settings = match self.config {
            Some(file) => self.settings.or(read(file)?),
            None => self.settings,
        };
        settings.check()
    }
}

impl ConfigError {
    /// Prints what is wrong (or the help that was asked for); answers the exit code.
    #[must_use]
    pub fn tell(&self) -> u8 {
        match self {
            Self::Usage(error) => {
                let _ = error.print();
                if error.use_stderr() { EXIT_USAGE } else { 0 }
            }
            other => {
                eprintln!("skein-agent: {}", with_causes(other));
                EXIT_USAGE
            }
        }
    }
}

/// An error and what it comes from, in one line.
#[must_use]
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn read(file: PathBuf) -> Result<Settings, ConfigError> {
    match fs::read_to_string(&file) {
        Ok(text) => {
            toml::from_str(&text).map_err(|error| ConfigError::File { message: error.to_string(), file })
        }
        Err(source) => Err(ConfigError::Read { file, source }),
    }
}

impl Settings {
    /// These, and for what is not set those.
    fn or(self, other: Self) -> Self {
        Self {
            name: self.name.or(other.name),
            masters: self.masters.or(other.masters),
            data_dir: self.data_dir.or(other.data_dir),
            advertise_address: self.advertise_address.or(other.advertise_address),
            label: if self.label.is_empty() { other.label } else { self.label },
            resource: if self.resource.is_empty() { other.resource } else { self.resource },
            device: if self.device.is_empty() { other.device } else { self.device },
            docker_host: self.docker_host.or(other.docker_host),
            reserve_memory: self.reserve_memory.or(other.reserve_memory),
            reserve_cpu: self.reserve_cpu.or(other.reserve_cpu),
            ingress_address: self.ingress_address.or(other.ingress_address),
            proxy_threads: self.proxy_threads.or(other.proxy_threads),
            dns_address: self.dns_address.or(other.dns_address),
            metrics_address: self.metrics_address.or(other.metrics_address),
            log_format: self.log_format.or(other.log_format),
        }
    }

    fn check(self) -> Result<Config, ConfigError> {
        let mut wrong = Vec::new();
        let name = self.name.clone().or_else(|| sysinfo::System::host_name().ok()).unwrap_or_default();
        check_name(&name, &mut wrong);
        let masters = check_masters(self.masters.as_deref().unwrap_or_default(), &mut wrong);
        let address = check_address(self.advertise_address.as_deref().unwrap_or_default(), &mut wrong);
        let labels = check_labels(&self.label, &mut wrong);
        let generic = generic::check(&self.resource, &mut wrong);
        let devices = generic::check_devices(&self.device, &generic, &mut wrong);
        let (capacity, platform) = usage::capacity();
        let proxy = self.check_proxy(&mut wrong);
        let names = check_names(self.dns_address.as_deref(), &mut wrong);
        let reserved = self.check_reserved(capacity, &mut wrong);
        let host = self.docker_host.as_deref().unwrap_or(DEFAULT_DOCKER);
        let runtime = DockerRuntime::new(host)
            .map(|runtime| runtime.on_node(&name).with_devices(devices))
            .map_err(|error: InvalidHost| wrong.push(format!("docker-host: {error}")));
        let (Ok(runtime), true) = (runtime, wrong.is_empty()) else {
            return Err(ConfigError::Invalid(wrong));
        };
        let data_dir = self.data_dir.unwrap_or_else(|| DEFAULT_DATA_DIR.into());
        let agent = AgentConfig {
            name,
            masters,
            data_dir: Some(data_dir),
            address,
            labels,
            capacity,
            reserved,
            platform,
            generic,
            proxy,
            names,
            metrics: self.metrics_address,
        };
        Ok(Config { agent, runtime, log_format: self.log_format.unwrap_or_default() })
    }

    fn check_proxy(&self, wrong: &mut Vec<String>) -> Option<ProxyConfig> {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = self.proxy_threads.unwrap_or_else(|| cores.min(DEFAULT_PROXY_THREADS_MAX));
        if threads > MAX_PROXY_THREADS {
            wrong.push(format!("proxy-threads: {threads} is more than {MAX_PROXY_THREADS}"));
        }
        let ingress = self.ingress_address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        (threads > 0).then_some(ProxyConfig { ingress, threads })
    }

    fn check_reserved(&self, capacity: Resources, wrong: &mut Vec<String>) -> Resources {
        let reserved = Resources {
            cpu_millis: self.reserve_cpu.map_or(0, |cores| cores.0),
            memory_bytes: self.reserve_memory.map_or(0, |bytes| bytes.0),
        };
        if reserved.memory_bytes > capacity.memory_bytes {
            let (asked, there) = (Bytes(reserved.memory_bytes), Bytes(capacity.memory_bytes));
            wrong.push(format!("reserve-memory: {asked} is more than the machine's {there}"));
        }
        if reserved.cpu_millis > capacity.cpu_millis {
            let (asked, there) = (Cores(reserved.cpu_millis), Cores(capacity.cpu_millis));
            wrong.push(format!("reserve-cpu: {asked} is more than the machine's {there} cores"));
        }
        reserved
    }
}

fn check_names(text: Option<&str>, wrong: &mut Vec<String>) -> Option<NamesConfig> {
    match text.unwrap_or("bridge") {
        "off" => None,
        "bridge" => Some(NamesConfig { address: None }),
        text => match text.parse::<Ipv4Addr>() {
            Ok(address) if !address.is_loopback() && !address.is_unspecified() => {
                Some(NamesConfig { address: Some(address) })
            }
            _ => {
                wrong.push(format!(
                    "dns-address: {text:?} is neither bridge nor off nor an IPv4 address that containers can reach"
                ));
                None
            }
        },
    }
}

fn check_name(name: &str, wrong: &mut Vec<String>) {
    let valid = (1..=MAX_NAME).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if !valid {
        wrong.push(format!("name: {name:?} is not a name: 1 to {MAX_NAME} of a-z A-Z 0-9 _ . -"));
    }
}

fn check_masters(text: &str, wrong: &mut Vec<String>) -> Vec<String> {
    let masters: Vec<String> =
        text.split(',').map(str::trim).filter(|master| !master.is_empty()).map(ToOwned::to_owned).collect();
    if masters.is_empty() {
        wrong.push("masters: the API address HOST:PORT of at least one master is required".to_owned());
    }
    for master in masters.iter().filter(|master| !is_host_port(master)) {
        wrong.push(format!("masters: {master:?} is not HOST:PORT, e.g. 10.0.0.1:7070"));
    }
    masters
}

fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && is_host(host) && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

fn is_host(text: &str) -> bool {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let is_name = text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    bare.parse::<IpAddr>().is_ok() || (is_name && !text.is_empty())
}

fn check_address(text: &str, wrong: &mut Vec<String>) -> String {
    if !is_host(text) {
        wrong.push(format!(
            "advertise-address: {text:?} is neither an IP address nor a host name (no port), e.g. 10.0.0.11"
        ));
    }
    text.to_owned()
}

fn check_labels(labels: &[String], wrong: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut checked = BTreeMap::new();
    for label in labels.iter().map(|label| label.trim()).filter(|label| !label.is_empty()) {
        match label.split_once('=') {
            Some((key, _)) if key.starts_with(RESERVED_LABELS) => {
                wrong.push(format!("label: {label:?}: keys that begin with {RESERVED_LABELS} are reserved"));
            }
            Some((key, value)) if !key.is_empty() => {
                if checked.insert(key.to_owned(), value.to_owned()).is_some() {
                    wrong.push(format!("label: {key} is there twice"));
                }
            }
            _ => wrong.push(format!("label: {label:?} is not KEY=VALUE, e.g. zone=a")),
        }
    }
    checked
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: &[&str] = &["--name", "n1", "--masters", "m1:7070", "--advertise-address", "10.0.0.1"];

    fn parse(arguments: &[&str]) -> Result<Config, ConfigError> {
        match Asked::parse(["skein-agent", "run"].iter().chain(arguments))? {
            Asked::Run(config) => Ok(*config),
            Asked::Uninstall(folder) => panic!("{folder:?}"),
        }
    }

    #[test]
    fn little_is_required() {
        let agent = parse(&FINE[2..]).unwrap().agent;
        assert_eq!(agent.data_dir, Some(DEFAULT_DATA_DIR.into()));
        assert_eq!(agent.reserved, Resources::ZERO);
        assert!(agent.capacity.memory_bytes > 0 && agent.capacity.cpu_millis > 0);
    }

    #[test]
    fn everything_can_be_said() {
        let more = [
            "--label",
            "zone=a",
            "--label",
            "disk=ssd",
            "--reserve-memory",
            "16MiB",
            "--reserve-cpu",
            "0.25",
        ];
        let agent = parse(&[FINE, &more].concat()).unwrap().agent;
        assert_eq!(
            agent.labels,
            BTreeMap::from([("zone".into(), "a".into()), ("disk".into(), "ssd".into())])
        );
        assert_eq!(agent.reserved, Resources { cpu_millis: 250, memory_bytes: 16 << 20 });
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_allowed() {
        for (arguments, key, allowed) in [
            (&["--masters", "m1"][..], "masters", "HOST:PORT"),
            (&["--masters", ""], "masters", "required"),
            (&["--name", "n 1"], "name", "a-z"),
            (&["--advertise-address", "10.0.0.1:80"], "advertise-address", "no port"),
            (&["--label", "zone"], "label", "KEY=VALUE"),
            (&["--label", "io.skein.node=x"], "label", "reserved"),
            (&["--label", "a=1", "--label", "a=2"], "label", "twice"),
            (&["--docker-host", "ssh://x"], "docker-host", "unix://"),
            (&["--reserve-memory", "lots"], "--reserve-memory", "512MiB"),
            (&["--reserve-memory", "900000TiB"], "reserve-memory", "machine's"),
            (&["--reserve-cpu", "many"], "--reserve-cpu", "0.5"),
            (&["--reserve-cpu", "100000"], "reserve-cpu", "machine's"),
            (&["--log-format", "xml"], "--log-format", "json"),
            (&["--dns-address", "127.0.0.1"], "dns-address", "bridge"),
            (&["--dns-address", "::1"], "dns-address", "off"),
            (&["--colour"], "--colour", "Usage"),
        ] {
            let fine: Vec<_> =
                FINE.chunks(2).filter(|pair| pair[0] != arguments[0]).flatten().copied().collect();
            let error = parse(&[&fine, arguments].concat()).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(key) && text.contains(allowed), "{arguments:?}: {text}");
        }
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_has_no_unknown_keys() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        fs::write(&file, "name = 'n9'\nlabels = ['zone=b']\nreserve-cpu = '0.5'\n").unwrap();
        let flags = [FINE, &["--config", file.to_str().unwrap()]].concat();
        let agent = parse(&flags).unwrap().agent;
        assert_eq!(agent.name, "n1");
        assert_eq!(agent.labels, BTreeMap::from([("zone".into(), "b".into())]));
        assert_eq!(agent.reserved.cpu_millis, 500);
        fs::write(&file, "nmae = 'n9'\n").unwrap();
        let error = parse(&flags).unwrap_err().to_string();
        assert!(error.contains("nmae") && error.contains("data-dir"), "{error}");
    }
}
