//! `skein simulate autoscale`: what the masters' autoscaler would have done with a demand that is known.
//!
//! Invariant: every decision is the core's own (`skein_master_core::autoscaler`); the same input gives the same output.
//! Deliberately not here: reading the series (`series`), drawing (`chart`).

mod chart;
mod replay;
mod series;

use std::{fs, path::PathBuf, time::Duration};

use serde_json::json;
use skein_common::service::{AutoscaleMode, AutoscalePolicy};

use self::{
    replay::{Report, Setting},
    series::Series,
};
use crate::{
    compose,
    failure::Failure,
    output::{Format, pretty, yaml},
    terminal::Terminal,
};

/// Replay a demand through the autoscaler, and show what it would have cost and missed
///
/// The series is a CSV file with a line of names and then timestamp,value; the value is the demand per minute, and what
/// one instance serves is in the same unit. Coarser steps than a minute are filled in between; one decision a step.
/// The policy is what stands below x-skein.autoscale in a Compose file. Its target must be load, cpu or requests.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    skein simulate autoscale --policy policy.yaml --series demand.csv --capacity-per-instance 2000\n  \
    skein simulate autoscale --policy policy.yaml --series demand.csv --capacity-per-instance 5 \
    --start-delay 5m --mode reactive --json --svg demand.svg")]
pub struct Args {
    /// YAML file of the policy
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// CSV file of the demand
    #[arg(long, value_name = "FILE")]
    series: PathBuf,
    /// Demand that one instance serves when it is busy all the time
    #[arg(long, value_name = "NUMBER")]
    capacity_per_instance: f64,
    /// Time from a decision until a new instance serves, such as 90s; a number alone is minutes
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = delay)]
    start_delay: Duration,
    /// Instead of the policy's: reactive, predictive, hybrid, schedule or off
    #[arg(long, value_name = "MODE", value_parser = mode)]
    mode: Option<AutoscaleMode>,
    /// The figures as JSON; the same as --output json
    #[arg(long)]
    json: bool,
    /// Write a chart of demand, capacity and forecast
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn delay(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse::<u32>() {
        Ok(minutes) => Some(Duration::from_secs(60) * minutes),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    let parsed = parsed.ok_or_else(|| format!("{text:?} is not a time such as 90s or 5m"))?;
    if parsed > Duration::from_secs(24 * 3600) {
        return Err("longer than a day".to_owned());
    }
    Ok(parsed)
}

fn mode(text: &str) -> Result<AutoscaleMode, String> {
    let found = AutoscaleMode::ALL.into_iter().find(|mode| mode.name() == text);
    found.ok_or_else(|| {
        let names = AutoscaleMode::ALL.map(AutoscaleMode::name);
        format!("expected one of {}", names.join(", "))
    })
}

/// # Errors
/// When a file cannot be read or says something that is not possible, or standard output is closed.
pub fn run(terminal: &Terminal, format: Format, args: &Args) -> Result<(), Failure> {
    let policy = policy(args)?;
    let series = Series::read(&args.series).map_err(Failure::Usage)?;
    let capacity = args.capacity_per_instance;
    let setting = Setting::new(&policy, capacity, args.start_delay).map_err(Failure::Usage)?;
    let report = replay::run(&setting, &series);
    if let Some(path) = &args.svg {
        let picture = chart::render(&series, &report, capacity);
        fs::write(path, picture).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    }
    let text = match if args.json { Format::Json } else { format } {
        Format::Json | Format::Name => pretty(&figures(&report)),
        Format::Yaml => yaml::render(&figures(&report)),
        Format::Table | Format::Wide => {
            let as_now = AutoscalePolicy { mode: AutoscaleMode::Reactive, ..policy.clone() };
            let setting = Setting::new(&as_now, capacity, args.start_delay).map_err(Failure::Usage)?;
            table(policy.mode, &report, &replay::run(&setting, &series))
        }
    };
    Ok(terminal.print(&text)?)
}

fn policy(args: &Args) -> Result<AutoscalePolicy, Failure> {
    let name = args.policy.display().to_string();
    let text =
        fs::read_to_string(&args.policy).map_err(|error| Failure::Usage(format!("{name}: {error}")))?;
    let mut policy = compose::policy(&name, &text).map_err(|found| {
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        Failure::Usage(lines.join("\n"))
    })?;
    policy.mode = args.mode.unwrap_or(policy.mode);
    Ok(policy)
}

/// The names are a contract for scripts.
fn figures(report: &Report) -> serde_json::Value {
    let round = |value: f64| (value * 10_000.0).round() / 10_000.0;
    json!({
        "unserved_percent": round(report.unserved_percent),
        "minutes_short_percent": round(report.minutes_short_percent),
        "provisioned_over_demand": round(report.provisioned_over_demand),
        "actions": report.actions,
    })
}

/// The chosen mode beside reactive.
fn table(mode: AutoscaleMode, report: &Report, as_now: &Report) -> String {
    let row = |name: &str, report: &Report| {
        format!(
            "{name:<12}{:>10.3} %{:>15.2} %{:>22.3}{:>10}\n",
            report.unserved_percent,
            report.minutes_short_percent,
            report.provisioned_over_demand,
            report.actions
        )
    };
    let mut text = "MODE          UNSERVED    MINUTES SHORT    PROVISIONED/DEMAND   ACTIONS\n".to_owned();
    text += &row(mode.name(), report);
    if mode != AutoscaleMode::Reactive {
        text += &row("reactive", as_now);
    }
    for (model, minutes) in &report.trusted {
        text += &format!("forecast by {model}: {minutes} of {} decisions\n", report.steps);
    }
    if let Some(last) = &report.last {
        text += &format!("last decision: {last}\n");
    }
    text
}

#[cfg(test)]
mod tests;
