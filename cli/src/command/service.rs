//! `skein service`: what runs, where, how many.

mod rollout;
mod update;

use skein_proto::v1::{Instance, Phase};

use super::each;
use crate::{
    app::App,
    failure::Failure,
    live::{self, Source},
    output::{
        Format, instance,
        service::{is_run, name},
    },
    progress::{self, Goal, WaitArgs},
};

/// List, inspect, scale and remove services
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Ls(LsArgs),
    Ps(PsArgs),
    Inspect(InspectArgs),
    Scale(ScaleArgs),
    Update(Box<update::Args>),
    Rollback(rollout::RollbackArgs),
    History(rollout::HistoryArgs),
    Promote(rollout::PromoteArgs),
    Pause(rollout::PauseArgs),
    Resume(rollout::ResumeArgs),
    Rm(RmArgs),
}

/// List services
#[derive(Debug, clap::Args)]
#[command(
    visible_alias = "list",
    after_help = "\
Examples:
  skein service ls
  skein service ls --watch
  skein service ls -o wide                  also stack, generation, updated
  skein service ls -o name                  for scripts
  skein service ls --label skein.stack=shop"
)]
pub struct LsArgs {
    /// Only services with this label (KEY or KEY=VALUE); all of them when given more than once
    #[arg(long, value_name = "LABEL")]
    pub label: Vec<String>,
    /// Also the runs that schedules of jobs made
    #[arg(long)]
    pub runs: bool,
    /// Show it again whenever something changes
    #[arg(long, short)]
    pub watch: bool,
}

/// List the instances of services: node, phase, endpoints, and why one does not run
///
/// Instances that ended as wished are hidden unless --all is given.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  skein service ps shop_web
  skein service ps shop_web --watch
  skein service ps shop_web -o wide         also image, generation, exit code, container")]
pub struct PsArgs {
    /// Names or ids of services
    #[arg(required = true, value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Also instances that have been stopped
    #[arg(long, short)]
    pub all: bool,
    /// Show it again whenever something changes
    #[arg(long, short)]
    pub watch: bool,
}

/// Show all there is to know about services
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  skein service inspect shop_web
  skein service inspect shop_web -o json | jq .spec.container.image")]
pub struct InspectArgs {
    /// Names or ids of services
    #[arg(required = true, value_name = "SERVICE")]
    pub services: Vec<String>,
}

/// Set the number of instances of services
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  skein service scale shop_web=5
  skein service scale shop_web=5 shop_worker=0 --detach")]
pub struct ScaleArgs {
    /// SERVICE=REPLICAS; 0 puts a service at rest
    #[arg(required = true, value_name = "SERVICE=N", value_parser = parse_scale)]
    pub services: Vec<(String, u32)>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// Stop and remove services
///
/// Containers are asked to stop and have their grace period. Volumes are kept.
#[derive(Debug, clap::Args)]
#[command(visible_alias = "remove", after_help = "Example:\n  skein service rm shop_web shop_worker")]
pub struct RmArgs {
    /// Names or ids of services
    #[arg(required = true, value_name = "SERVICE")]
    pub services: Vec<String>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

fn parse_scale(text: &str) -> Result<(String, u32), String> {
    let (name, replicas) = text.rsplit_once('=').ok_or("expected SERVICE=REPLICAS, such as web=5")?;
    let replicas = replicas.parse().map_err(|_| format!("{replicas:?} is not a number of replicas"))?;
    if name.is_empty() {
        Err("the name of the service is missing".to_owned())
    } else {
        Ok((name.to_owned(), replicas))
    }
}

/// # Errors
/// Whatever the command ends with.
pub async fn run(app: &App, command: Command) -> Result<(), Failure> {
    match command {
        Command::Ls(args) => {
            let labels: Vec<(&str, &str)> =
                args.label.iter().map(|label| label.split_once('=').unwrap_or((label, ""))).collect();
            live::list(app, args.watch, Source::Services, || async {
                let mut services = app.api.services(&labels).await?;
                services.retain(|service| args.runs || !is_run(service));
                services.sort_by(|a, b| name(a).cmp(name(b)));
                Ok(services)
            })
            .await
        }
        Command::Ps(args) => ps(app, &args).await,
        Command::Inspect(args) => {
            let found =
                each(app, &args.services, |service| async move { app.api.service(&service).await }).await?;
            if let ([service], Format::Table | Format::Wide | Format::Yaml | Format::Json) =
                (found.as_slice(), app.format)
            {
                return app.print_one(service);
            }
            app.print_list(&found)
        }
        Command::Scale(args) => scale(app, &args).await,
        Command::Update(args) => update::run(app, &args).await,
        Command::Rollback(args) => rollout::rollback(app, &args).await,
        Command::History(args) => rollout::history(app, &args).await,
        Command::Promote(args) => rollout::promote(app, &args).await,
        Command::Pause(args) => rollout::pause(app, &args).await,
        Command::Resume(args) => rollout::resume(app, &args).await,
        Command::Rm(args) => {
            let removed = each(app, &args.services, |service| async move {
                let deleted = app.api.delete_service(&service).await?;
                app.print_done(&deleted, &format!("{} being removed", name(&deleted)))?;
                Ok(Goal::Removed { id: deleted.id.clone(), name: name(&deleted).to_owned() })
            })
            .await?;
            progress::wait(app, removed, &args.wait).await
        }
    }
}

async fn ps(app: &App, args: &PsArgs) -> Result<(), Failure> {
    live::list(app, args.watch, Source::Instances, || async {
        let mut found = Vec::new();
        for service in &args.services {
            // A service that is not there is an error, one without instances is not.
            let service = app.api.service(service).await?;
            found.extend(app.api.instances(&service.id, "").await?);
            // A job with a schedule has them in its runs.
            if service.schedule.is_some() {
                for run in app.api.runs(&service.id).await? {
                    found.extend(app.api.instances(&run.id, "").await?);
                }
            }
        }
        if !args.all && matches!(app.format, Format::Table | Format::Wide) {
            found.retain(|shown| instance::is_wanted(shown) || instance::phase(shown) != Phase::Stopped);
        }
        sort(&mut found);
        Ok(found)
    })
    .await
}

/// By slot, the newest of a slot first.
pub fn sort(instances: &mut [Instance]) {
    instances.sort_by(|a, b| {
        let key = |instance: &Instance| (instance.service_name.clone(), instance.slot, instance.name.clone());
        key(a).cmp(&key(b)).then(b.created_revision.cmp(&a.created_revision))
    });
}

async fn scale(app: &App, args: &ScaleArgs) -> Result<(), Failure> {
    let names: Vec<String> = args.services.iter().map(|(name, _)| name.clone()).collect();
    let scaled = each(app, &names, |wanted| async move {
        let replicas =
            args.services.iter().find(|(name, _)| *name == wanted).map_or(1, |(_, replicas)| *replicas);
        let service = app.api.scale(&wanted, replicas).await?;
        app.print_done(&service, &format!("{} scaled to {replicas}", name(&service)))?;
        Ok(Goal::running(&service))
    })
    .await?;
    progress::wait(app, scaled, &args.wait).await
}
