//! `skein apply`: a Compose file becomes services; what has not changed stays untouched.
//!
//! Invariant: nothing is sent before the whole file is known to be right, and, on a dry run or
//! before the first change, the cluster has not refused any of it for its form.

use std::{collections::HashMap, path::PathBuf};

use skein_common::config::ConfigSpec;
use skein_proto::v1::{ApplyResult, Service, ServiceSpec};

use super::config;

use crate::{
    app::App,
    compose::{Diagnostic, STACK_LABEL, Stack, StackService},
    compose_files,
    failure::Failure,
    output::service::{is_run, name},
    progress::{self, Goal, WaitArgs},
    terminal::printable,
};

const DEPENDENCIES: &str = "spec.depends_on";

/// Create or change the services of a Compose file
///
/// The file is read the way `docker stack deploy` reads it. Its services are named STACK_SERVICE; the stack is
/// named by --name, else by `name:` in the file, else by its folder. Services that have not changed are left alone.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  skein apply -f compose.yaml                 wait until everything runs
  skein apply -f compose.yaml --dry-run       say what would change
  skein apply -f compose.yaml --prune         also remove services that are no longer in the file
  skein apply -f compose.yaml --plan-etag ETAG   only what skein plan showed
  cat compose.yaml | skein apply -f - --name shop")]
pub struct Args {
    /// The Compose file, - for standard input; of several, later ones go over earlier ones
    #[arg(long, short, value_name = "FILE", required = true)]
    pub file: Vec<PathBuf>,
    /// Name of the stack
    #[arg(long, value_name = "STACK")]
    pub name: Option<String>,
    #[command(flatten)]
    pub options: Options,
}

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Remove services of the stack that are not in the file
    #[arg(long)]
    pub prune: bool,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Only what skein plan showed: fails when the services have changed since it printed this
    #[arg(long, value_name = "ETAG", default_value = "", hide_default_value = true)]
    pub plan_etag: String,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// # Errors
/// When the file is wrong, the cluster refuses it, or it does not come true in time.
pub async fn run(app: &App, args: Args) -> Result<(), Failure> {
    Box::pin(deploy(app, &args.file, args.name.as_deref(), &args.options)).await
}

/// # Errors
/// As [`run`].
pub async fn deploy(
    app: &App,
    files: &[PathBuf],
    stack: Option<&str>,
    options: &Options,
) -> Result<(), Failure> {
    let stack = compose_files::read(app, files, stack)?;
    let missing = config::missing(app, &stack).await?;
    // One bad service must not leave half a stack behind.
    let mut refused = Vec::new();
    for service in &stack.services {
        match app.api.apply(ServiceSpec::from(&config::rehearsable(&service.spec, &missing)), true).await {
            Ok(answer) => {
                warn_at_deploy(app, &service.spec.name, &answer.warnings);
                if options.dry_run {
                    let verb = verb(answer.result());
                    app.terminal.print_line(&format!("{} would be {verb}", service.spec.name))?;
                }
            }
            // The order in the files is right; the cluster compares it with the one of before.
            Err(failure) if is_of_order(&failure) => {}
            Err(failure) => refused.extend(violations(failure, &stack, service)?),
        }
    }
    if !refused.is_empty() {
        return Err(Failure::File(refused));
    }
    if options.dry_run {
        for config in &missing {
            app.terminal.print_line(&format!("config {} would be created", config.name))?;
        }
        return dry_prune(app, &stack, options).await;
    }
    let etags = planned(app, &stack, &missing, options).await?;
    config::make(app, &missing).await?;
    let mut goals = Vec::new();
    for service in &stack.services {
        let etag = etags.get(&service.spec.name).map_or("", String::as_str);
        let answer = app.api.apply_at(ServiceSpec::from(&service.spec), etag).await?;
        let applied = answer.service.clone().unwrap_or_default();
        app.print_done(&applied, &format!("{} {}", service.spec.name, verb(answer.result())))?;
        goals.push(Goal::running(&applied));
    }
    if options.prune {
        for service in surplus(app, &stack).await? {
            let deleted = app.api.delete_service(&service.id).await?;
            app.print_done(&deleted, &format!("{} being removed", name(&service)))?;
            goals.push(Goal::Removed { id: service.id.clone(), name: name(&service).to_owned() });
        }
    }
    progress::wait(app, goals, &options.wait).await?;
    config::prune(app, &stack.name, &stack.configs.iter().map(|one| one.spec.name.as_str()).collect()).await
}

/// The etags of the services as they were planned on, unless that does not matter.
async fn planned(
    app: &App,
    stack: &Stack,
    missing: &[ConfigSpec],
    options: &Options,
) -> Result<HashMap<String, String>, Failure> {
    if options.plan_etag.is_empty() {
        return Ok(HashMap::new());
    }
    let specs = stack.services.iter().map(|service| config::rehearsable(&service.spec, missing));
    let specs = specs.map(|spec| ServiceSpec::from(&spec)).collect();
    let surplus = if options.prune { surplus(app, stack).await? } else { Vec::new() };
    let remove = surplus.into_iter().map(|service| service.id).collect();
    Ok(app.api.plan(specs, remove, &options.plan_etag).await?.etags)
}

/// What is accepted and cannot run as the cluster is now.
pub fn warn(app: &App, service: &str, warnings: &[String]) {
    for warning in warnings {
        app.terminal.say(&format!("warning: {service}: {}", printable(warning)));
    }
}

/// What the files themselves say is not news: services that are waited for may be yet to come.
pub fn warn_at_deploy(app: &App, service: &str, warnings: &[String]) {
    let news = warnings.iter().filter(|warning| !warning.starts_with(DEPENDENCIES));
    warn(app, service, &news.cloned().collect::<Vec<_>>());
}

const fn verb(result: ApplyResult) -> &'static str {
    match result {
        ApplyResult::Created => "created",
        ApplyResult::Updated => "updated",
        ApplyResult::Unchanged => "unchanged",
        ApplyResult::Unspecified => "applied",
    }
}

fn is_of_order(failure: &Failure) -> bool {
    let Failure::Refused(refusal) = failure else { return false };
    !refusal.fields.is_empty() && refusal.fields.iter().all(|(field, _)| field.starts_with(DEPENDENCIES))
}

/// Field violations of the cluster at the places of the file they came from.
///
/// # Errors
/// Any other failure as it is.
pub fn violations(
    failure: Failure,
    stack: &Stack,
    service: &StackService,
) -> Result<Vec<Diagnostic>, Failure> {
    match failure {
        Failure::Refused(refusal) if !refusal.fields.is_empty() => {
            let fields = refusal.fields.into_iter();
            Ok(fields.map(|(field, message)| stack.place(service, &field, message)).collect())
        }
        other => Err(other),
    }
}

/// Services of the stack that the file does not name.
///
/// # Errors
/// When they cannot be listed.
pub async fn surplus(app: &App, stack: &Stack) -> Result<Vec<Service>, Failure> {
    let mut services = app.api.services(&[(STACK_LABEL, &stack.name)]).await?;
    services.retain(|service| {
        !service.deleting
            && !is_run(service)
            && !stack.services.iter().any(|known| known.spec.name == name(service))
    });
    Ok(services)
}

async fn dry_prune(app: &App, stack: &Stack, options: &Options) -> Result<(), Failure> {
    if options.prune {
        for service in surplus(app, stack).await? {
            app.terminal.print_line(&format!("{} would be removed", name(&service)))?;
        }
    }
    Ok(())
}
