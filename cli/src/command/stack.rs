//! `skein stack`: all services of one Compose file, by the label they share.

use std::{collections::BTreeSet, path::PathBuf};

use skein_proto::v1::{Instance, Service};

use super::apply;
use crate::{
    app::App,
    compose::STACK_LABEL,
    compose_files,
    failure::Failure,
    live::{self, Source},
    output::{
        self, Format,
        service::{StackSummary, is_run, name},
    },
    progress::{self, Goal, WaitArgs},
};

/// Deploy, list and remove the services of a Compose file together
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Deploy(DeployArgs),
    Config(ConfigArgs),
    Ls(LsArgs),
    /// List the instances of a stack
    Ps(OneArgs),
    /// List the services of a stack
    Services(OneArgs),
    Rm(RmArgs),
}

/// Create or change a stack from a Compose file
///
/// The same as skein apply, spelled as `docker stack deploy` is.
#[derive(Debug, clap::Args)]
#[command(
    visible_alias = "up",
    after_help = "\
Examples:
  skein stack deploy -c compose.yaml shop
  skein stack deploy -c compose.yaml --prune shop     also remove services that are no longer in the file"
)]
pub struct DeployArgs {
    /// The Compose file, - for standard input; of several, later ones go over earlier ones
    #[arg(long, short, value_name = "FILE", required = true)]
    pub compose_file: Vec<PathBuf>,
    /// Name of the stack
    pub name: String,
    #[command(flatten)]
    pub options: apply::Options,
}

/// Show Compose files as they are understood: merged, variables replaced
///
/// Nothing is sent. What is shown can be deployed again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  skein stack config -c compose.yaml
  skein stack config -c compose.yaml -c production.yaml > whole.yaml")]
pub struct ConfigArgs {
    /// The Compose file, - for standard input; of several, later ones go over earlier ones
    #[arg(long, short, value_name = "FILE", required = true)]
    pub compose_file: Vec<PathBuf>,
    /// Name of the stack, where the files do not say it
    #[arg(long, value_name = "STACK")]
    pub name: Option<String>,
}

/// List stacks
#[derive(Debug, clap::Args)]
#[command(visible_alias = "list", after_help = "Example:\n  skein stack ls")]
pub struct LsArgs {
    /// Show it again whenever something changes
    #[arg(long, short)]
    pub watch: bool,
}

/// List what belongs to a stack
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  skein stack services shop\n  skein stack ps shop --watch")]
pub struct OneArgs {
    /// Name of the stack
    pub name: String,
    /// Show it again whenever something changes
    #[arg(long, short)]
    pub watch: bool,
}

/// Remove all services of stacks
///
/// Containers are asked to stop and have their grace period. Volumes are kept.
#[derive(Debug, clap::Args)]
#[command(visible_aliases = ["remove", "down"], after_help = "Example:\n  skein stack rm shop")]
pub struct RmArgs {
    /// Names of stacks
    #[arg(required = true)]
    pub names: Vec<String>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// # Errors
/// Whatever the command ends with.
pub async fn run(app: &App, command: Command) -> Result<(), Failure> {
    match command {
        Command::Deploy(args) => {
            Box::pin(apply::deploy(app, &args.compose_file, Some(&args.name), &args.options)).await
        }
        Command::Config(args) => config(app, &args),
        Command::Ls(args) => {
            live::list(app, args.watch, Source::Services, || async {
                Ok(StackSummary::of(&app.api.services(&[(STACK_LABEL, "")]).await?))
            })
            .await
        }
        Command::Services(args) => {
            live::list(app, args.watch, Source::Services, || services(app, &args.name)).await
        }
        Command::Ps(args) => {
            live::list(app, args.watch, Source::Instances, || instances(app, &args.name)).await
        }
        Command::Rm(args) => remove(app, &args).await,
    }
}

fn config(app: &App, args: &ConfigArgs) -> Result<(), Failure> {
    let document = compose_files::read(app, &args.compose_file, args.name.as_deref())?.document();
    let text = match app.format {
        Format::Json => output::pretty(&document),
        _ => output::yaml::render(&document),
    };
    Ok(app.terminal.print(&text)?)
}

async fn services(app: &App, stack: &str) -> Result<Vec<Service>, Failure> {
    let mut found = app.api.services(&[(STACK_LABEL, stack)]).await?;
    // They belong to the job whose schedule made them, and go with it.
    found.retain(|service| !is_run(service));
    if found.is_empty() {
        return Err(Failure::Failed(format!("there is no stack {stack}\nnext: skein stack ls")));
    }
    Ok(found)
}

async fn instances(app: &App, stack: &str) -> Result<Vec<Instance>, Failure> {
    let mut found = Vec::new();
    for service in services(app, stack).await? {
        found.extend(app.api.instances(&service.id, "").await?);
    }
    super::service::sort(&mut found);
    Ok(found)
}

async fn remove(app: &App, args: &RmArgs) -> Result<(), Failure> {
    let mut goals = Vec::new();
    let mut found = Vec::new();
    for stack in &args.names {
        found.extend(services(app, stack).await?);
    }
    for service in found {
        let deleted = app.api.delete_service(&service.id).await?;
        app.print_done(&deleted, &format!("{} being removed", name(&service)))?;
        goals.push(Goal::Removed { id: service.id.clone(), name: name(&service).to_owned() });
    }
    progress::wait(app, goals, &args.wait).await?;
    for stack in &args.names {
        super::config::prune(app, stack, &BTreeSet::new()).await?;
    }
    Ok(())
}
