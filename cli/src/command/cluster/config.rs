//! `skein cluster config`: settings of the whole cluster, and which of them were set.
//!
//! Invariant: one table of keys says how each is read, written and shown; what is wrong is said by
//! the masters, by field path.

use std::time::Duration;

use serde_json::Value;
use skein_common::Timestamp;
use skein_proto::{
    convert::{duration_from_wire, duration_to_wire},
    v1::{
        ClusterConfig, GetClusterConfigResponse, NetworkingConfig, RebalanceConfig, SchedulingConfig,
        ScoreWeights, Strategy,
    },
};

use crate::{
    app::App,
    failure::Failure,
    output::{Column, Format, Row, column, json, text},
};

/// Show the settings of the whole cluster, or change some
///
/// What is not set follows the defaults. Keys: scheduling.strategy (spread, binpack, balanced; of services that
/// do not say), scheduling.weights.priority|resources|constraints|utilisation (decimal numbers),
/// scheduling.preemption_gap (1 to 100), scheduling.rebalance.enabled (true, false), .interval (10m),
/// .min_gain_percent, .max_moves, networking.service_addresses (10.254.0.0/16).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  skein cluster config
  skein cluster config --set scheduling.rebalance.enabled=true --set scheduling.rebalance.max_moves=2
  skein cluster config --set scheduling.strategy=binpack
  skein cluster config --unset scheduling.strategy")]
pub struct Args {
    /// Set this
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Follow the default again
    #[arg(long, value_name = "KEY")]
    pub unset: Vec<String>,
}

struct Key {
    name: &'static str,
    read: fn(&ClusterConfig) -> Option<String>,
    /// `None` = follow the default.
    write: fn(&mut ClusterConfig, Option<&str>) -> Result<(), String>,
}

/// A key of the weights.
macro_rules! weight {
    ($name:literal, $field:ident) => {
        Key {
            name: $name,
            read: |config| {
                let weights = config.scheduling.as_ref()?.weights.as_ref()?;
                Some(weights.$field.clone()).filter(|text| !text.is_empty())
            },
            write: |config, text| {
                let weights = scheduling(config).weights.get_or_insert_with(ScoreWeights::default);
                weights.$field = text.unwrap_or_default().to_owned();
                Ok(())
            },
        }
    };
}

/// A key of the rebalancing.
macro_rules! rebalance {
    ($name:literal, $field:ident) => {
        Key {
            name: $name,
            read: |config| Some(config.scheduling.as_ref()?.rebalance.as_ref()?.$field?.to_string()),
            write: |config, text| {
                rebalancing(config).$field = parsed(text)?;
                Ok(())
            },
        }
    };
}

const KEYS: &[Key] = &[
    Key { name: "scheduling.strategy", read: read_strategy, write: write_strategy },
    weight!("scheduling.weights.priority", priority),
    weight!("scheduling.weights.resources", resources),
    weight!("scheduling.weights.constraints", constraints),
    weight!("scheduling.weights.utilisation", utilisation),
    Key {
        name: "scheduling.preemption_gap",
        read: |config| Some(config.scheduling.as_ref()?.preemption_gap?.to_string()),
        write: |config, text| {
            scheduling(config).preemption_gap = parsed(text)?;
            Ok(())
        },
    },
    rebalance!("scheduling.rebalance.enabled", enabled),
    Key { name: "scheduling.rebalance.interval", read: read_interval, write: write_interval },
    rebalance!("scheduling.rebalance.min_gain_percent", min_gain_percent),
    rebalance!("scheduling.rebalance.max_moves", max_moves),
    Key {
        name: "networking.service_addresses",
        read: |config| {
            Some(config.networking.as_ref()?.service_addresses.clone()).filter(|text| !text.is_empty())
        },
        write: |config, text| {
            let networking = config.networking.get_or_insert_with(NetworkingConfig::default);
            networking.service_addresses = text.unwrap_or_default().to_owned();
            Ok(())
        },
    },
];

fn scheduling(config: &mut ClusterConfig) -> &mut SchedulingConfig {
    config.scheduling.get_or_insert_with(SchedulingConfig::default)
}

fn rebalancing(config: &mut ClusterConfig) -> &mut RebalanceConfig {
    scheduling(config).rebalance.get_or_insert_with(RebalanceConfig::default)
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(text: Option<&str>) -> Result<Option<T>, String> {
    text.map(|text| text.parse().map_err(|error: T::Err| format!("{text:?}: {error}"))).transpose()
}

fn read_strategy(config: &ClusterConfig) -> Option<String> {
    let strategy = config.scheduling.as_ref()?.strategy();
    let word = text::enum_word(strategy.as_str_name(), "STRATEGY_").to_lowercase();
    (strategy != Strategy::Unspecified).then_some(word)
}

fn write_strategy(config: &mut ClusterConfig, text: Option<&str>) -> Result<(), String> {
    let strategy = match text {
        None => Strategy::Unspecified,
        Some("spread") => Strategy::Spread,
        Some("binpack") => Strategy::Binpack,
        Some("balanced") => Strategy::Balanced,
        Some(other) => return Err(format!("{other:?}: use spread, binpack or balanced")),
    };
    scheduling(config).set_strategy(strategy);
    Ok(())
}

fn read_interval(config: &ClusterConfig) -> Option<String> {
    let interval = config.scheduling.as_ref()?.rebalance.as_ref()?.interval?;
    duration_from_wire("interval", interval)
        .ok()
        .map(|interval| humantime::format_duration(interval).to_string())
}

fn write_interval(config: &mut ClusterConfig, text: Option<&str>) -> Result<(), String> {
    let interval: Option<Duration> = text
        .map(|text| humantime::parse_duration(text).map_err(|error| format!("{text:?}: {error}")))
        .transpose()?;
    rebalancing(config).interval = interval.map(duration_to_wire);
    Ok(())
}

/// # Errors
/// Whatever the command ends with.
pub async fn run(app: &App, args: &Args) -> Result<(), Failure> {
    let known = app.api.cluster_config().await?;
    if args.set.is_empty() && args.unset.is_empty() {
        return show(app, &known);
    }
    let config = changed(known.config.clone().unwrap_or_default(), args)?;
    let answer = app.api.set_cluster_config(config, &known.etag).await?;
    let now = GetClusterConfigResponse {
        config: answer.config,
        effective: answer.effective,
        etag: answer.etag,
        rebalance: known.rebalance,
    };
    show(app, &now)
}

fn changed(mut config: ClusterConfig, args: &Args) -> Result<ClusterConfig, Failure> {
    let usage = |text: String| Failure::Usage(text);
    for pair in &args.set {
        let (name, value) = pair.split_once('=').ok_or_else(|| {
            usage(format!("--set {pair}: use KEY=VALUE; --unset KEY follows the default again"))
        })?;
        (key(name)?.write)(&mut config, Some(value)).map_err(|why| usage(format!("{name}: {why}")))?;
    }
    for name in &args.unset {
        (key(name)?.write)(&mut config, None).map_err(|why| usage(format!("{name}: {why}")))?;
    }
    Ok(config)
}

fn key(name: &str) -> Result<&'static Key, Failure> {
    KEYS.iter().find(|key| key.name == name).ok_or_else(|| {
        let known: Vec<_> = KEYS.iter().map(|key| key.name).collect();
        Failure::Usage(format!("there is no setting {name:?}: use {}", known.join(", ")))
    })
}

fn show(app: &App, known: &GetClusterConfigResponse) -> Result<(), Failure> {
    if matches!(app.format, Format::Json | Format::Yaml) {
        return app.print_one(&Whole(known.clone()));
    }
    let (set, effective) =
        (known.config.clone().unwrap_or_default(), known.effective.clone().unwrap_or_default());
    let settings = KEYS.iter().map(|key| Setting {
        name: key.name,
        value: (key.read)(&effective).unwrap_or_default(),
        is_set: (key.read)(&set).is_some(),
    });
    app.print_list(&settings.collect::<Vec<_>>())
}

struct Whole(GetClusterConfigResponse);

impl Row for Whole {
    const COLUMNS: &'static [Column] = &[];

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        Vec::new()
    }

    fn name(&self) -> String {
        self.0.etag.clone()
    }

    fn json(&self) -> Value {
        json::of_message("GetClusterConfigResponse", &self.0)
    }
}

struct Setting {
    name: &'static str,
    value: String,
    is_set: bool,
}

impl Row for Setting {
    const COLUMNS: &'static [Column] = &[column("KEY"), column("VALUE"), column("FROM")];

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        let from = if self.is_set { "set" } else { "default" };
        vec![self.name.to_owned(), self.value.clone(), from.to_owned()]
    }

    fn name(&self) -> String {
        format!("{}={}", self.name, self.value)
    }

    fn json(&self) -> Value {
        Value::String(Row::name(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_as_it_was_written() {
        for (key, text) in
            KEYS.iter().zip(["binpack", "5", "2.5", "7", "0.1", "20", "true", "2m", "15", "3", "10.0.0.0/8"])
        {
            let mut config = ClusterConfig::default();
            assert_eq!((key.read)(&config), None, "{}", key.name);
            (key.write)(&mut config, Some(text)).unwrap();
            assert_eq!((key.read)(&config).as_deref(), Some(text), "{}", key.name);
            (key.write)(&mut config, None).unwrap();
            assert_eq!((key.read)(&config), None, "{}", key.name);
        }
    }

    #[test]
    fn wrong_words_are_usage() {
        for (set, unset) in [
            ("scheduling.strategy=tight", ""),
            ("scheduling.rebalance.enabled=yes", ""),
            ("scheduling.rebalance.interval=soon", ""),
            ("scheduling.preemption_gap", ""),
            ("colour=red", ""),
            ("", "colour"),
        ] {
            let list = |text: &str| if text.is_empty() { vec![] } else { vec![text.to_owned()] };
            let args = Args { set: list(set), unset: list(unset) };
            assert!(
                matches!(changed(ClusterConfig::default(), &args), Err(Failure::Usage(_))),
                "{set}{unset}"
            );
        }
    }
}
