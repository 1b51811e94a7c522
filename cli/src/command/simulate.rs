//! `skein simulate`: what the masters' own scheduler and autoscaler would do, without a cluster.
//!
//! Invariant: the same input and seed give the same placements; only the times differ.
//! Deliberately not here: the decisions (`skein-master-core`).

mod autoscale;
mod replay;
mod table;
mod trace;

use std::path::PathBuf;

use serde_json::json;
use skein_common::placement::Strategy;

use self::{
    replay::{Protocol, Replay, Report},
    trace::Trace,
};
use crate::{
    failure::Failure,
    output::{Format, pretty, yaml},
    terminal::Terminal,
};

/// Ask the scheduler or the autoscaler what would happen, without a cluster
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Placement(Args),
    Autoscale(autoscale::Args),
}

/// Place instances of a trace on nodes of a trace, and show how well they fill them
///
/// Nodes: columns sn,cpu_milli,memory_mib,gpu,model or gpu_model,gpu_capacity_num,cpu_num,node_name.
/// Instances: columns name,cpu_milli,memory_mib,num_gpu,gpu_milli[,gpu_spec][,qos], or instance_sn,app_name,
/// cpu_request,gpu_request,memory_request,… , or cpu,memory,instances_num,job_id,task_id. Which it is, is seen by
/// the names in the first line; other columns are left out. Instances never end: the question is how many fit.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    skein simulate placement --nodes nodes.csv --instances instances.csv --strategy balanced\n  \
    skein simulate placement --nodes nodes.csv --instances instances.csv --fgd-protocol --seed 3 --json")]
pub struct Args {
    /// CSV file of the machines
    #[arg(long, value_name = "FILE")]
    nodes: PathBuf,
    /// CSV file of what they shall run
    #[arg(long, value_name = "FILE")]
    instances: PathBuf,
    /// What makes one node better than another: spread, binpack or balanced
    #[arg(long, value_name = "STRATEGY", default_value_t = Strategy::Spread)]
    strategy: Strategy,
    /// Shuffle the instances and repeat some until 130 % of all GPUs have been asked for
    #[arg(long)]
    fgd_protocol: bool,
    /// Of the shuffle
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// The figures as JSON; the same as --output json
    #[arg(long)]
    json: bool,
}

/// # Errors
/// When a file cannot be read, or standard output is closed.
pub fn run(terminal: &Terminal, format: Format, command: &Command) -> Result<(), Failure> {
    let args = match command {
        Command::Placement(args) => args,
        Command::Autoscale(args) => return autoscale::run(terminal, format, args),
    };
    let trace = Trace::read(&args.nodes, &args.instances).map_err(Failure::Usage)?;
    let protocol = args.fgd_protocol.then_some(Protocol { seed: args.seed });
    let report = Replay::new(&trace, protocol).run(args.strategy);
    let text = match if args.json { Format::Json } else { format } {
        Format::Json | Format::Name => pretty(&figures(&report)),
        Format::Yaml => yaml::render(&figures(&report)),
        Format::Table | Format::Wide => table::render(&trace, &report),
    };
    Ok(terminal.print(&text)?)
}

/// The names are a contract for scripts.
fn figures(report: &Report) -> serde_json::Value {
    let round = |value: f64| (value * 100.0).round() / 100.0;
    json!({
        "gpu_allocated_percent_at_100": report.gpu_percent_at_100.map(round),
        "gpu_allocated_percent_at_130": report.gpu_percent_at_130.map(round),
        "cpu_allocated_percent": round(report.usage.cpu_millis.percent()),
        "rejected": report.rejected,
        "placements_per_second": report.placements_per_second.round(),
        "p50_us": round(report.p50_us),
        "p99_us": round(report.p99_us),
    })
}

#[cfg(test)]
mod tests;
