//! `skein instance`: single placements of slots, by id or by a name such as `web.3`.
//!
//! Invariant: of several instances with one name (a replaced one is kept for its logs) the newest is meant.

use skein_common::InstanceId;
use skein_proto::v1::Instance;

use crate::{
    app::App,
    failure::Failure,
    live::{self, Source},
};

/// Look at instances: where each is, what happened to it
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Ls(LsArgs),
    Inspect(OneArgs),
    Events(EventsArgs),
}

/// List instances of all services
#[derive(Debug, clap::Args)]
#[command(
    visible_alias = "list",
    after_help = "Examples:\n  skein instance ls\n  skein instance ls --node n1 --watch"
)]
pub struct LsArgs {
    /// Only on this node
    #[arg(long, value_name = "NODE", default_value = "")]
    pub node: String,
    /// Only of this service
    #[arg(long, value_name = "SERVICE", default_value = "")]
    pub service: String,
    /// Show it again whenever something changes
    #[arg(long, short)]
    pub watch: bool,
}

/// Show one instance whole
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  skein instance inspect shop_web.3")]
pub struct OneArgs {
    /// Name (shop_web.3) or id
    pub instance: String,
}

/// Tell what happened to an instance: every step with its cause and who took it
///
/// The last 16 steps are kept with the instance, and outlive leaders.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  skein instance events shop_web.3\n  skein instance events shop_web.3 -o wide"
)]
pub struct EventsArgs {
    /// Name (shop_web.3) or id
    pub instance: String,
}

/// # Errors
/// Whatever the command ends with.
pub async fn run(app: &App, command: Command) -> Result<(), Failure> {
    match command {
        Command::Ls(args) => {
            live::list(app, args.watch, Source::Instances, || async {
                let mut found = app.api.instances(&args.service, &args.node).await?;
                super::service::sort(&mut found);
                Ok(found)
            })
            .await
        }
        Command::Inspect(args) => app.print_one(&find(app, &args.instance).await?),
        Command::Events(args) => {
            let instance = find(app, &args.instance).await?;
            app.print_list(&app.api.instance_events(&instance.id).await?)
        }
    }
}

async fn find(app: &App, reference: &str) -> Result<Instance, Failure> {
    if reference.parse::<InstanceId>().is_ok() {
        match app.api.instance(reference).await {
            Err(failure) if failure.is_not_found() => {}
            found => return found,
        }
    }
    let missing = || Failure::Failed(format!("there is no instance {reference}\nnext: skein instance ls"));
    let (service, _) = reference.rsplit_once('.').ok_or_else(missing)?;
    let instances = match app.api.instances(service, "").await {
        Err(failure) if failure.is_not_found() => return Err(missing()),
        instances => instances?,
    };
    let named = instances.into_iter().filter(|instance| instance.name == reference);
    named.max_by_key(|instance| instance.created_revision).ok_or_else(missing)
}
