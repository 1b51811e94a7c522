//! `skein top`: who uses how much, as last measured.

use std::{collections::HashMap, time::Duration};

use serde_json::{Value, json};
use skein_common::Timestamp;
use skein_proto::v1::{Instance, InstanceUsage, NodeUsage};

use crate::{
    app::App,
    failure::Failure,
    live::{self, Source},
    output::{Column, Format, Row, column, json, text, wide},
};

/// Show what nodes and instances use, the hungriest first
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  skein top                             nodes, then instances
  skein top nodes --watch
  skein top instances --service shop_web"
)]
pub struct Args {
    #[command(subcommand)]
    pub what: Option<What>,
}

#[derive(Debug, clap::Subcommand)]
pub enum What {
    Nodes(NodesArgs),
    Instances(InstancesArgs),
}

/// What machines use
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  skein top nodes --watch")]
pub struct NodesArgs {
    #[command(flatten)]
    pub repeat: Repeat,
}

/// What containers use
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  skein top instances --service shop_web --watch")]
pub struct InstancesArgs {
    /// Only of this service, by name or id
    #[arg(long, value_name = "SERVICE", default_value = "", hide_default_value = true)]
    pub service: String,
    #[command(flatten)]
    pub repeat: Repeat,
}

#[derive(Debug, clap::Args)]
pub struct Repeat {
    /// Show it again and again
    #[arg(long, short)]
    pub watch: bool,
    /// How often with --watch
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    pub interval: Duration,
}

/// # Errors
/// Whatever the command ends with.
pub async fn run(app: &App, args: Args) -> Result<(), Failure> {
    match args.what {
        Some(What::Nodes(args)) => {
            live::list(app, args.repeat.watch, Source::Every(args.repeat.interval), || nodes(app)).await
        }
        Some(What::Instances(args)) => {
            let source = Source::Every(args.repeat.interval);
            live::list(app, args.repeat.watch, source, || instances(app, &args.service)).await
        }
        None => {
            let (nodes, instances) = (nodes(app).await?, instances(app, "").await?);
            if app.format == Format::Json {
                let value = json!({
                    "nodes": nodes.iter().map(Row::json).collect::<Vec<_>>(),
                    "instances": instances.iter().map(Row::json).collect::<Vec<_>>(),
                });
                return Ok(app.terminal.print(&crate::output::pretty(&value))?);
            }
            app.print_list(&nodes)?;
            if matches!(app.format, Format::Table | Format::Wide) {
                app.terminal.print_line("")?;
            }
            app.print_list(&instances)
        }
    }
}

async fn nodes(app: &App) -> Result<Vec<NodeUsage>, Failure> {
    let mut found = app.api.node_usage().await?;
    let cpu = |node: &NodeUsage| node.usage.as_ref().map_or(0, |usage| usage.cpu_millis);
    found.sort_by(|a, b| cpu(b).cmp(&cpu(a)).then_with(|| a.node_name.cmp(&b.node_name)));
    Ok(found)
}

impl Row for NodeUsage {
    const COLUMNS: &'static [Column] = &[
        column("NODE"),
        column("CPU"),
        column("CPU%"),
        column("MEMORY"),
        column("MEM%"),
        column("LOAD"),
        column("DISK%"),
        column("RECEIVE"),
        column("TRANSMIT"),
        wide("ID"),
        column("MEASURED"),
    ];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let usage = self.usage.unwrap_or_default();
        vec![
            self.node_name.clone(),
            format!("{}/{}", text::cores(usage.cpu_millis), text::cores(usage.cpu_total_millis)),
            text::percent(usage.cpu_millis, usage.cpu_total_millis),
            format!("{}/{}", text::bytes(usage.memory_bytes), text::bytes(usage.memory_total_bytes)),
            text::percent(usage.memory_bytes, usage.memory_total_bytes),
            format!("{:.2}", usage.load_one),
            text::percent(usage.disk_bytes, usage.disk_total_bytes),
            format!("{}/s", text::bytes(usage.network_receive_rate)),
            format!("{}/s", text::bytes(usage.network_transmit_rate)),
            self.node_id.clone(),
            format!("{} ago", text::age(usage.at.as_ref(), now)),
        ]
    }

    fn name(&self) -> String {
        self.node_name.clone()
    }

    fn json(&self) -> Value {
        json::of_message("NodeUsage", self)
    }
}

/// A sample with the names that people know.
struct InstanceRow {
    usage: InstanceUsage,
    instance: Option<Instance>,
}

async fn instances(app: &App, service: &str) -> Result<Vec<InstanceRow>, Failure> {
    let usage = app.api.instance_usage(service).await?;
    let known = app.api.instances(service, "").await?;
    let mut known: HashMap<String, Instance> =
        known.into_iter().map(|instance| (instance.id.clone(), instance)).collect();
    let mut found: Vec<InstanceRow> = usage
        .into_iter()
        .map(|usage| InstanceRow { instance: known.remove(&usage.instance_id), usage })
        .collect();
    found.sort_by(|a, b| b.usage.cpu_millis.cmp(&a.usage.cpu_millis).then_with(|| a.name().cmp(&b.name())));
    Ok(found)
}

impl Row for InstanceRow {
    const COLUMNS: &'static [Column] = &[
        column("INSTANCE"),
        column("NODE"),
        column("CPU"),
        column("MEMORY"),
        column("RECEIVE"),
        column("TRANSMIT"),
        wide("ID"),
        column("MEASURED"),
    ];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        vec![
            self.name(),
            self.instance.as_ref().map(|instance| instance.node_name.clone()).unwrap_or_default(),
            text::cores(self.usage.cpu_millis),
            text::bytes(self.usage.memory_bytes),
            format!("{}/s", text::bytes(self.usage.network_receive_rate)),
            format!("{}/s", text::bytes(self.usage.network_transmit_rate)),
            self.usage.instance_id.clone(),
            format!("{} ago", text::age(self.usage.at.as_ref(), now)),
        ]
    }

    fn name(&self) -> String {
        self.instance
            .as_ref()
            .map_or_else(|| self.usage.instance_id.clone(), |instance| instance.name.clone())
    }

    fn json(&self) -> Value {
        json::of_message("InstanceUsage", &self.usage)
    }
}
