//! `skein explain`: why an instance is where it is, or nowhere.

use std::fmt::Write as _;

use skein_proto::v1::{ExplainResponse, Strategy};

use crate::{
    app::App,
    failure::Failure,
    output::{Format, json, pretty, text, yaml},
};

/// Show why something is as it is
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Instance(Args),
}

/// Show which nodes could take an instance, which not and why, and how the best ones score
///
/// It is the scheduler's view of this moment, for one more instance like this one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  skein explain instance shop_web.3\n  \
                        skein explain instance 0c5jk3w2m8q4v --nodes 20 -o json")]
pub struct Args {
    /// Name (web.3) or id
    #[arg(value_name = "INSTANCE")]
    instance: String,
    /// How many of the best nodes
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    nodes: u32,
}

/// # Errors
/// Whatever the command ends with.
pub async fn run(app: &App, command: Command) -> Result<(), Failure> {
    let Command::Instance(args) = command;
    let explained = app.api.explain(&args.instance, args.nodes).await?;
    let value = || json::of_message("ExplainResponse", &explained);
    let text = match app.format {
        Format::Json | Format::Name => pretty(&value()),
        Format::Yaml => yaml::render(&value()),
        Format::Table | Format::Wide => table(&explained),
    };
    Ok(app.terminal.print(&text)?)
}

fn table(explained: &ExplainResponse) -> String {
    let mut told = String::new();
    let place = match explained.node_name.as_str() {
        "" => format!("is nowhere: {}", explained.explanation),
        node => format!("is on {node}"),
    };
    let strategy = text::enum_word(
        Strategy::try_from(explained.strategy).unwrap_or_default().as_str_name(),
        "STRATEGY_",
    );
    let _ = writeln!(told, "{} {place}", explained.instance_name);
    let _ =
        writeln!(told, "strategy {strategy}, priority {}, {} nodes\n", explained.priority, explained.nodes);
    let _ = writeln!(told, "REMOVED  REASON");
    for filter in &explained.filters {
        let rest = if (filter.examples.len() as u64) < u64::from(filter.nodes) { ", …" } else { "" };
        let _ = writeln!(told, "{:<9}{} ({}{rest})", filter.nodes, filter.reason, filter.examples.join(", "));
    }
    let _ = writeln!(told, "\n{:<24}{:>12}{:>14}{:>10}", "BEST NODE", "RESOURCES", "CONSTRAINTS", "FAILURES");
    for node in &explained.best {
        let (resources, constraints) = (node.resources, node.constraints);
        let _ = writeln!(
            told,
            "{:<24}{resources:>12.4}{constraints:>14.1}{:>10}",
            node.node_name, node.recent_failures
        );
    }
    told
}
