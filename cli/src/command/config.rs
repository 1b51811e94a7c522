//! `skein config`, and the configs that stacks bring along.
//!
//! Invariant: a stack's configs are made before the services that mount them and pruned after; what a
//! service still names, now or in a generation it can go back to, the cluster keeps.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
    path::PathBuf,
};

use skein_common::{
    config::{ConfigMount, ConfigSpec},
    service::ServiceSpec,
};
use skein_proto::v1::{self, Config};
use tonic::Code;

use super::each;
use crate::{
    app::App,
    compose::{STACK_LABEL, Stack},
    failure::Failure,
};

/// Look after configs: files that services mount
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Ls(LsArgs),
    Inspect(InspectArgs),
    Create(CreateArgs),
    Rm(RmArgs),
}

/// List configs
#[derive(Debug, clap::Args)]
#[command(visible_alias = "list", after_help = "Example:\n  skein config ls")]
pub struct LsArgs {}

/// Show one config: who uses it, and what is in it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  skein config inspect app.conf
  skein config inspect app.conf --content > app.conf")]
pub struct InspectArgs {
    /// Name or id
    pub config: String,
    /// Only what is in it, as it is
    #[arg(long)]
    pub content: bool,
}

/// Create a config
///
/// Its content never changes: for another content create another config and change the services that use it.
/// Compose files do that by themselves.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  skein config create app.conf ./app.conf
  generate | skein config create app.conf -
  skein config create --label team=web app.conf ./app.conf")]
pub struct CreateArgs {
    /// Unique in the cluster
    pub name: String,
    /// The file, - for standard input; at most 500 KiB
    pub file: PathBuf,
    /// A label, any number of times
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
}

/// Remove configs that no service uses
#[derive(Debug, clap::Args)]
#[command(visible_alias = "remove", after_help = "Example:\n  skein config rm app.conf")]
pub struct RmArgs {
    /// Names or ids
    #[arg(required = true)]
    pub configs: Vec<String>,
}

/// # Errors
/// Whatever the command ends with.
pub async fn run(app: &App, command: Command) -> Result<(), Failure> {
    match command {
        Command::Ls(LsArgs {}) => {
            let mut configs = app.api.configs().await?;
            configs.sort_by(|one, other| name(one).cmp(name(other)));
            app.print_list(&configs)
        }
        Command::Inspect(args) => {
            let config = app.api.config(&args.config).await?;
            match config.spec {
                Some(spec) if args.content => Ok(app.terminal.print_bytes(&spec.content)?),
                _ => app.print_one(&config),
            }
        }
        Command::Create(args) => create(app, args).await,
        Command::Rm(args) => each(app, &args.configs, |config| async move {
            app.api.delete_config(&config).await?;
            Ok(app.terminal.print_line(&format!("{config} removed"))?)
        })
        .await
        .map(drop),
    }
}

pub fn name(config: &Config) -> &str {
    config.spec.as_ref().map_or("", |spec| spec.name.as_str())
}

async fn create(app: &App, args: CreateArgs) -> Result<(), Failure> {
    let file = args.file.display();
    let content = if args.file.as_os_str() == "-" {
        let mut content = Vec::new();
        std::io::stdin().read_to_end(&mut content).map(|_| content)
    } else {
        std::fs::read(app.folder.join(&args.file))
    };
    let content = content.map_err(|error| Failure::Usage(format!("{file}: {error}")))?;
    let labels: BTreeMap<String, String> = args
        .label
        .iter()
        .map(|label| label.split_once('=').unwrap_or((label, "")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let spec = ConfigSpec { name: args.name, labels, content: content.into() };
    let made = app.api.create_config(v1::ConfigSpec::from(&spec)).await?;
    app.print_done(&made, &format!("{} created", spec.name))
}

/// Configs of the stack that are still to be made.
///
/// # Errors
/// When one exists with another content, at the place of the file it came from.
pub async fn missing(app: &App, stack: &Stack) -> Result<Vec<ConfigSpec>, Failure> {
    let (mut missing, mut refused) = (Vec::new(), Vec::new());
    for config in &stack.configs {
        match app.api.config(&config.spec.name).await {
            Ok(known) => {
                let same = known.spec.is_some_and(|known| known.content == config.spec.content[..]);
                if !same {
                    let name = &config.spec.name;
                    let message = format!(
                        "the config {name} exists with another content, and configs never change: name it \
                         otherwise, or leave name: out, then each content has a name of its own"
                    );
                    refused.push(stack.finding(config.at, &config.path, message));
                }
            }
            Err(failure) if failure.is_not_found() => missing.push(config.spec.clone()),
            Err(failure) => return Err(failure),
        }
    }
    if refused.is_empty() { Ok(missing) } else { Err(Failure::File(refused)) }
}

/// What is sent to ask what would be: configs that are still to be made cannot be named yet.
pub fn rehearsable(spec: &ServiceSpec, missing: &[ConfigSpec]) -> ServiceSpec {
    let names: BTreeSet<&str> = missing.iter().map(|config| config.name.as_str()).collect();
    let mut spec = spec.clone();
    spec.container.configs.retain(|mount: &ConfigMount| !names.contains(mount.config.as_str()));
    spec.routes.retain(|route| !route.configs().any(|config| names.contains(config.config.as_str())));
    spec
}

/// Makes them.
///
/// # Errors
/// The first that the cluster refuses.
pub async fn make(app: &App, missing: &[ConfigSpec]) -> Result<(), Failure> {
    for spec in missing {
        match app.api.create_config(v1::ConfigSpec::from(spec)).await {
            Ok(made) => app.print_done(&made, &format!("config {} created", spec.name))?,
            // Somebody deployed the same file just now.
            Err(Failure::Refused(refusal)) if refusal.code == Code::AlreadyExists => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

/// Removes the stack's configs but these; those that are still named stay, and are tried again by the
/// next deployment.
///
/// # Errors
/// When they cannot be listed.
pub async fn prune(app: &App, stack: &str, keep: &BTreeSet<&str>) -> Result<(), Failure> {
    let configs = match app.api.configs().await {
        // Masters older than configs have none.
        Err(Failure::Refused(refusal)) if refusal.code == Code::Unimplemented => return Ok(()),
        configs => configs?,
    };
    for config in configs {
        let Some(spec) = &config.spec else { continue };
        let is_ours = spec.labels.get(STACK_LABEL).is_some_and(|label| label == stack);
        if !is_ours || keep.contains(spec.name.as_str()) {
            continue;
        }
        match app.api.delete_config(&config.id).await {
            Ok(()) => app.print_done(&config, &format!("config {} removed", spec.name))?,
            Err(Failure::Refused(_)) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}
