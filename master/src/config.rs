//! Flags, environment and file → one checked configuration, before a port is opened.
//!
//! Invariant: every setting has one name in all three places (`--api-address`,
//! `SKEIN_MASTER_API_ADDRESS`, `api-address = ...`); a flag wins over the environment, that over the
//! file. What is wrong is named with what is allowed, all of it at once.
//! Deliberately not here: what the settings do.

use std::{
    error::Error,
    ffi::OsString,
    fs, io,
    net::{SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::{Parser, Subcommand, ValueEnum};
use serde::Deserialize;

use crate::{server::MasterConfig, store::Timing};

/// `EX_USAGE`: wrong usage or configuration.
pub const EXIT_USAGE: u8 = 64;
const DEFAULT_API: &str = "127.0.0.1:7070";
const DEFAULT_CLUSTER: &str = "127.0.0.1:7071";
const MAX_NAME: usize = 63;
/// Shorter heartbeats load the machine, longer ones are not what a leader is.
const HEARTBEAT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(10));

/// Skein's master: keeps what should run, and says where.
#[derive(Debug, Parser)]
#[command(name = "skein-master", version, about)]
struct CommandLine {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs a master until SIGTERM or SIGINT.
    Run(Box<Run>),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// TOML file with any of these settings, named as the flags are.
    #[arg(long, env = "SKEIN_MASTER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// What can be set.
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Settings {
    /// Name of this master, unique in the cluster: 1 to 63 of a-z A-Z 0-9 _ . -
    #[arg(long, env = "SKEIN_MASTER_NAME")]
    name: Option<String>,
    /// Folder of the log, the snapshots and the identity; created when missing.
    #[arg(long, env = "SKEIN_MASTER_DATA_DIR", value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Where the API listens [default: 127.0.0.1:7070]
    #[arg(long, env = "SKEIN_MASTER_API_ADDRESS", value_name = "HOST:PORT")]
    api_address: Option<String>,
    /// Where the other masters reach this one [default: 127.0.0.1:7071]
    #[arg(long, env = "SKEIN_MASTER_CLUSTER_ADDRESS", value_name = "HOST:PORT")]
    cluster_address: Option<String>,
    /// Address of the API that others are told [default: the one it listens on]
    #[arg(long, env = "SKEIN_MASTER_ADVERTISE_API_ADDRESS", value_name = "HOST:PORT")]
    advertise_api_address: Option<String>,
    /// All masters of a new cluster with their cluster addresses: m1=host:port,m2=host:port,...
    /// Counts at the first start only; without it the master waits to be added.
    #[arg(long, env = "SKEIN_MASTER_INITIAL_MASTERS", value_name = "NAME=HOST:PORT,...")]
    initial_masters: Option<String>,
    /// A follower that hears no leader for this to twice this long stands for election
    /// [default: 600ms]
    #[arg(long, env = "SKEIN_MASTER_ELECTION_TIMEOUT", value_name = "DURATION")]
    election_timeout: Option<Span>,
    /// Between two heartbeats of the leader [default: 150ms]
    #[arg(long, env = "SKEIN_MASTER_HEARTBEAT_INTERVAL", value_name = "DURATION")]
    heartbeat_interval: Option<Span>,
    /// A node that is silent for this long is given up and its instances are replaced
    /// [default: 10s]
    #[arg(long, env = "SKEIN_MASTER_NODE_DOWN_AFTER", value_name = "DURATION")]
    node_down_after: Option<Span>,
    /// [default: text]
    #[arg(long, env = "SKEIN_MASTER_LOG_FORMAT", value_enum)]
    log_format: Option<LogFormat>,
    /// Allows addresses that are not loopback although nothing is encrypted.
    #[arg(long, env = "SKEIN_MASTER_INSECURE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new(), value_name = "BOOL")]
    insecure: Option<bool>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// A duration as people write it: `150ms`, `10s`, `2m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span(Duration);

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|error| format!("{error}; expected a duration such as 150ms, 10s or 2m"))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What was asked for on the command line.
#[derive(Debug)]
pub struct Config {
    pub master: MasterConfig,
    pub log_format: LogFormat,
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

impl Config {
    /// From arguments, the environment, and the file they name.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn parse<A: Into<OsString> + Clone>(
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self, ConfigError> {
        let Verb::Run(run) = CommandLine::try_parse_from(arguments)?.command;
        let settings = match run.config {
            Some(file) => run.settings.or(read(file)?),
            None => run.settings,
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
                eprintln!("skein-master: {}", with_causes(other));
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
            data_dir: self.data_dir.or(other.data_dir),
            api_address: self.api_address.or(other.api_address),
            cluster_address: self.cluster_address.or(other.cluster_address),
            advertise_api_address: self.advertise_api_address.or(other.advertise_api_address),
            initial_masters: self.initial_masters.or(other.initial_masters),
            election_timeout: self.election_timeout.or(other.election_timeout),
            heartbeat_interval: self.heartbeat_interval.or(other.heartbeat_interval),
            node_down_after: self.node_down_after.or(other.node_down_after),
            log_format: self.log_format.or(other.log_format),
            insecure: self.insecure.or(other.insecure),
        }
    }

    fn check(self) -> Result<Config, ConfigError> {
        let mut wrong = Vec::new();
        let name = self.name.clone().unwrap_or_default();
        check_name("name", &name, &mut wrong);
        if self.data_dir.is_none() {
            wrong.push("data-dir: a folder is required".to_owned());
        }
        let insecure = self.insecure.unwrap_or(false);
        let api = self.api_address.as_deref().unwrap_or(DEFAULT_API);
        let api = check_listen("api-address", api, insecure, &mut wrong);
        let cluster = self.cluster_address.as_deref().unwrap_or(DEFAULT_CLUSTER);
        let cluster = check_listen("cluster-address", cluster, insecure, &mut wrong);
        self.check_advertised(api, &mut wrong);
        let mut master = MasterConfig::new(&name, self.data_dir.clone().unwrap_or_default());
        master.initial_masters = self.check_initial(&name, &mut wrong);
        master.timing = self.check_timing(&mut wrong);
        master.liveness.down_after = self.check_down_after(master.liveness.down_after, &mut wrong);
        master.advertise_api_address = self.advertise_api_address;
        let (Some(api), Some(cluster), true) = (api, cluster, wrong.is_empty()) else {
            return Err(ConfigError::Invalid(wrong));
        };
        (master.api_address, master.cluster_address) = (api, cluster);
        Ok(Config { master, log_format: self.log_format.unwrap_or_default() })
    }

    fn check_advertised(&self, api: Option<SocketAddr>, wrong: &mut Vec<String>) {
        match (&self.advertise_api_address, api) {
            (Some(address), _) if !is_host_port(address) => {
                wrong.push(format!("advertise-api-address: {address:?} is not HOST:PORT"));
            }
            (None, Some(api)) if api.ip().is_unspecified() => wrong.push(format!(
                "advertise-api-address: required, because nobody can be told to connect to {api}"
            )),
            _ => {}
        }
    }

    fn check_initial(&self, name: &str, wrong: &mut Vec<String>) -> Vec<(String, String)> {
        let text = self.initial_masters.as_deref().unwrap_or_default();
        let mut masters: Vec<(String, String)> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some((name, address)) if is_host_port(address) => {
                    check_name("initial-masters", name, wrong);
                    if masters.iter().any(|(known, _)| known == name) {
                        wrong.push(format!("initial-masters: {name} is there twice"));
                    }
                    masters.push((name.to_owned(), address.to_owned()));
                }
                _ => wrong.push(format!("initial-masters: {part:?} is not NAME=HOST:PORT")),
            }
        }
        if !masters.is_empty() && masters.iter().all(|(known, _)| known != name) {
            wrong.push(format!("initial-masters: this master, {name}, must be among them"));
        }
        masters
    }

    fn check_timing(&self, wrong: &mut Vec<String>) -> Timing {
        let mut timing = Timing::default();
        if let Some(Span(heartbeat)) = self.heartbeat_interval {
            if heartbeat < HEARTBEAT.0 || heartbeat > HEARTBEAT.1 {
                wrong.push(format!("heartbeat-interval: {heartbeat:?} is not within 10ms to 10s"));
            }
            timing.heartbeat_ms = millis(heartbeat);
        }
        if let Some(Span(election)) = self.election_timeout {
            timing.election_min_ms = millis(election);
            timing.election_max_ms = timing.election_min_ms.saturating_mul(2);
        }
        if timing.election_min_ms < timing.heartbeat_ms.saturating_mul(3) {
            let least = Duration::from_millis(timing.heartbeat_ms.saturating_mul(3));
            wrong.push(format!(
                "election-timeout: at least three heartbeat-intervals are required, {least:?}"
            ));
        }
        timing
    }

    fn check_down_after(&self, default: Duration, wrong: &mut Vec<String>) -> Duration {
        let Some(Span(after)) = self.node_down_after else { return default };
        if after < Duration::from_secs(1) {
            wrong.push(format!("node-down-after: {after:?} is less than 1s"));
        }
        after
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn check_name(key: &str, name: &str, wrong: &mut Vec<String>) {
    let valid = (1..=MAX_NAME).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if !valid {
        wrong.push(format!("{key}: {name:?} is not a name: 1 to {MAX_NAME} of a-z A-Z 0-9 _ . -"));
    }
}

fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(char::is_whitespace)
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

/// Where to listen: an address of this machine, and loopback unless `insecure`.
fn check_listen(key: &str, text: &str, insecure: bool, wrong: &mut Vec<String>) -> Option<SocketAddr> {
    let resolved = text.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    let Some(address) = resolved else {
        wrong.push(format!("{key}: {text:?} is not HOST:PORT of this machine"));
        return None;
    };
    if !insecure && !address.ip().is_loopback() {
        wrong.push(format!(
            "{key}: {address} is not a loopback address and nothing is encrypted; give --insecure to allow it"
        ));
    }
    Some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Config, ConfigError> {
        Config::parse(["skein-master", "run"].iter().chain(arguments))
    }

    const FINE: &[&str] = &["--name", "m1", "--data-dir", "d"];

    #[test]
    fn defaults_are_on_the_loopback() {
        let config = parse(FINE).unwrap();
        assert_eq!(config.master.api_address.to_string(), DEFAULT_API);
        assert_eq!(config.master.cluster_address.to_string(), DEFAULT_CLUSTER);
        assert_eq!(config.master.timing, Timing::default());
        assert_eq!(config.log_format, LogFormat::Text);
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_allowed() {
        for (arguments, key, allowed) in [
            (&["--api-address", "0.0.0.0:7070"][..], "api-address", "--insecure"),
            (&["--cluster-address", "nowhere"], "cluster-address", "HOST:PORT"),
            (&["--initial-masters", "m1"], "initial-masters", "NAME=HOST:PORT"),
            (&["--initial-masters", "m2=127.0.0.1:1"], "initial-masters", "among them"),
            (&["--initial-masters", "m1=h:1,m1=h:2"], "initial-masters", "twice"),
            (&["--election-timeout", "fast"], "election-timeout", "150ms"),
            (&["--election-timeout", "200ms"], "election-timeout", "450ms"),
            (&["--heartbeat-interval", "1ms"], "heartbeat-interval", "10ms"),
            (&["--node-down-after", "10ms"], "node-down-after", "1s"),
            (&["--log-format", "xml"], "log-format", "json"),
            (&["--colour"], "--colour", "Usage"),
            (&["--api-address", "0.0.0.0:7070", "--insecure"], "advertise-api-address", "required"),
        ] {
            let error = parse(&[FINE, arguments].concat()).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(allowed), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let error = parse(&["--name", "m 1", "--initial-masters", "x"]).unwrap_err().to_string();
        for key in ["name", "data-dir", "initial-masters"] {
            assert!(error.lines().any(|line| line.starts_with(key)), "{error}");
        }
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_has_no_unknown_keys() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("master.toml");
        fs::write(&file, "name = 'm9'\nnode-down-after = '30s'\nlog-format = 'json'\n").unwrap();
        let flags = [FINE, &["--config", file.to_str().unwrap()]].concat();
        let config = parse(&flags).unwrap();
        assert_eq!(config.master.name, "m1");
        assert_eq!(config.master.liveness.down_after, Duration::from_secs(30));
        assert_eq!(config.log_format, LogFormat::Json);
        fs::write(&file, "nmae = 'm9'\n").unwrap();
        let error = parse(&flags).unwrap_err().to_string();
        assert!(error.contains("nmae") && error.contains("data-dir"), "{error}");
    }
}
