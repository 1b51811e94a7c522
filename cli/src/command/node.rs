//! `skein node`: the machines.

use std::{collections::HashMap, time::Duration};

use skein_proto::v1::Availability;

use super::each;
use crate::{
    app::App,
    failure::Failure,
    live::{self, Source},
    output::node::name,
    progress::{self, Goal, WaitArgs},
};

/// List, inspect, drain and remove machines
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Ls(LsArgs),
    Ps(PsArgs),
    Inspect(NodesArgs),
    Drain(DrainArgs),
    Activate(ActivateArgs),
    Pause(PauseArgs),
    Label(LabelArgs),
    Rm(RmArgs),
}

/// List nodes
#[derive(Debug, clap::Args)]
#[command(
    visible_alias = "list",
    after_help = "\
Examples:
  skein node ls
  skein node ls -o wide          also platform, versions, labels
  skein node ls --watch

CPU and MEMORY: reserved by instances / available to them."
)]
pub struct LsArgs {
    /// Show it again whenever something changes
    #[arg(long, short)]
    pub watch: bool,
}

/// List the instances on a node
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  skein node ps n1 --watch")]
pub struct PsArgs {
    /// Name or id of a node
    pub node: String,
    /// Show it again whenever something changes
    #[arg(long, short)]
    pub watch: bool,
}

/// Show all there is to know about nodes
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  skein node inspect n1 -o json")]
pub struct NodesArgs {
    /// Names or ids of nodes
    #[arg(required = true, value_name = "NODE")]
    pub nodes: Vec<String>,
}

/// Move everything away from nodes and place nothing new there
///
/// Its instances are replaced on other nodes, no more at a time than their services allow. Undo it with
/// skein node activate.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  skein node drain n2
  skein node drain n2 --deadline 10m     what is left then is stopped, whatever its service allows
  skein node drain n2 --force            all of it at once
  skein node drain n2 --detach")]
pub struct DrainArgs {
    #[command(flatten)]
    pub nodes: NodesArgs,
    /// Stop what is left after this time without regard to disruption limits
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub deadline: Option<Duration>,
    /// Stop everything at once, without regard to disruption limits
    #[arg(long, conflicts_with = "deadline")]
    pub force: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// Let nodes take new instances again
#[derive(Debug, clap::Args)]
#[command(visible_alias = "uncordon", after_help = "Example:\n  skein node activate n2")]
pub struct ActivateArgs {
    #[command(flatten)]
    pub nodes: NodesArgs,
}

/// Place nothing new on nodes; what runs there stays
#[derive(Debug, clap::Args)]
#[command(visible_alias = "cordon", after_help = "Example:\n  skein node pause n2")]
pub struct PauseArgs {
    #[command(flatten)]
    pub nodes: NodesArgs,
}

/// Set or remove labels that placement constraints can ask for
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  skein node label n1 zone=a disk=ssd
  skein node label n1 disk-                remove a label

A service asks for it with deploy.placement.constraints: [node.labels.zone == a].")]
pub struct LabelArgs {
    /// Name or id of a node
    pub node: String,
    /// KEY=VALUE sets a label, KEY- removes one
    #[arg(required = true, value_name = "LABEL", value_parser = parse_label)]
    pub labels: Vec<(String, Option<String>)>,
}

/// Forget nodes
///
/// Refused while a node is up or runs something, unless --force is given.
#[derive(Debug, clap::Args)]
#[command(
    visible_alias = "remove",
    after_help = "\
Examples:
  skein node drain n2 && ssh n2 systemctl stop skein-agent && skein node rm n2
  skein node rm n3 --force                 it is broken and will not come back"
)]
pub struct RmArgs {
    #[command(flatten)]
    pub nodes: NodesArgs,
    /// Also while it is up or holds instances; they are replaced elsewhere
    #[arg(long)]
    pub force: bool,
}

fn parse_label(text: &str) -> Result<(String, Option<String>), String> {
    let label = match text.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => match text.strip_suffix('-') {
            Some(key) => (key.to_owned(), None),
            None => return Err("expected KEY=VALUE, or KEY- to remove one".to_owned()),
        },
    };
    if label.0.is_empty() { Err("the key is missing".to_owned()) } else { Ok(label) }
}

/// # Errors
/// Whatever the command ends with.
pub async fn run(app: &App, command: Command) -> Result<(), Failure> {
    match command {
        Command::Ls(args) => {
            live::list(app, args.watch, Source::Nodes, || async {
                let mut nodes = app.api.nodes().await?;
                nodes.sort_by(|a, b| name(a).cmp(name(b)));
                Ok(nodes)
            })
            .await
        }
        Command::Ps(args) => {
            live::list(app, args.watch, Source::Instances, || async {
                let node = app.api.node(&args.node).await?;
                let mut found = app.api.instances("", &node.id).await?;
                super::service::sort(&mut found);
                Ok(found)
            })
            .await
        }
        Command::Inspect(args) => {
            let found = each(app, &args.nodes, |node| async move { app.api.node(&node).await }).await?;
            match found.as_slice() {
                [node] => app.print_one(node),
                nodes => app.print_list(nodes),
            }
        }
        Command::Drain(args) => {
            let within = if args.force { Some(Duration::ZERO) } else { args.deadline };
            let drained = set(app, &args.nodes, Availability::Drained, within, "draining").await?;
            progress::wait(app, drained, &args.wait).await
        }
        Command::Activate(args) => {
            set(app, &args.nodes, Availability::Active, None, "active").await.map(|_| ())
        }
        Command::Pause(args) => set(app, &args.nodes, Availability::Paused, None, "paused").await.map(|_| ()),
        Command::Label(args) => label(app, &args).await,
        Command::Rm(args) => {
            each(app, &args.nodes.nodes, |node| async move {
                app.api.delete_node(&node, args.force).await?;
                Ok(app.terminal.print_line(&format!("{node} removed"))?)
            })
            .await?;
            Ok(())
        }
    }
}

async fn set(
    app: &App,
    args: &NodesArgs,
    availability: Availability,
    drain_within: Option<Duration>,
    word: &str,
) -> Result<Vec<Goal>, Failure> {
    each(app, &args.nodes, |node| async move {
        let node = app.api.set_availability(&node, availability, drain_within).await?;
        app.print_done(&node, &format!("{} {word}", name(&node)))?;
        Ok(Goal::Drained { id: node.id.clone(), name: name(&node).to_owned() })
    })
    .await
}

async fn label(app: &App, args: &LabelArgs) -> Result<(), Failure> {
    let node = app.api.node(&args.node).await?;
    let mut labels: HashMap<String, String> = node.labels.clone();
    for (key, value) in &args.labels {
        match value {
            Some(value) => labels.insert(key.clone(), value.clone()),
            None => labels.remove(key),
        };
    }
    let node = app.api.set_labels(&node, labels).await?;
    app.print_done(&node, &format!("{} labelled", name(&node)))
}
