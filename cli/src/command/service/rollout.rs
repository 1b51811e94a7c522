//! `skein service rollback|promote|pause|resume|history`: a user's word on a rollout.

use serde_json::Value;
use skein_common::Timestamp;
use skein_proto::v1::{RolloutControl, Service, ServiceGeneration, ServiceSpec};

use crate::{
    app::App,
    difference,
    failure::Failure,
    output::{Column, Row, column, json, service::name, wide},
    progress::{self, Goal, WaitArgs},
};

/// Go back to an earlier spec of a service
///
/// It has the replicas of now. Instances that still run the earlier spec are not restarted.
#[derive(Debug, clap::Args)]
#[command(
    visible_alias = "undo",
    after_help = "\
Examples:
  skein service rollback shop_web                to the spec before
  skein service history shop_web                 which there are
  skein service rollback shop_web --to 3"
)]
pub struct RollbackArgs {
    /// Name or id of a service
    #[arg(value_name = "SERVICE")]
    pub service: String,
    /// The generation to go back to; without it the one before
    #[arg(long, value_name = "GENERATION")]
    pub to: Option<u64>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// Go on after the canaries of a rollout
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  skein service promote shop_web")]
pub struct PromoteArgs {
    /// Name or id of a service
    #[arg(value_name = "SERVICE")]
    pub service: String,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// Replace nothing more until the rollout is resumed
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  skein service pause shop_web")]
pub struct PauseArgs {
    /// Name or id of a service
    #[arg(value_name = "SERVICE")]
    pub service: String,
}

/// Go on with a paused rollout; earlier failures are forgotten
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  skein service resume shop_web")]
pub struct ResumeArgs {
    /// Name or id of a service
    #[arg(value_name = "SERVICE")]
    pub service: String,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// List the specs that a service has and had, and what changed between them
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  skein service history shop_web\n  skein service history shop_web -o yaml"
)]
pub struct HistoryArgs {
    /// Name or id of a service
    #[arg(value_name = "SERVICE")]
    pub service: String,
}

/// # Errors
/// When there is nothing to go back to, or it does not come true in time.
pub async fn rollback(app: &App, args: &RollbackArgs) -> Result<(), Failure> {
    let service =
        app.api.control_rollout(&args.service, RolloutControl::Undo, args.to.unwrap_or_default()).await?;
    let target = args.to.map(|generation| format!(" to generation {generation}")).unwrap_or_default();
    app.print_done(&service, &format!("{} going back{target}", name(&service)))?;
    follow(app, &service, &args.wait).await
}

/// # Errors
/// When no rollout waits for it.
pub async fn promote(app: &App, args: &PromoteArgs) -> Result<(), Failure> {
    let service = app.api.control_rollout(&args.service, RolloutControl::Promote, 0).await?;
    app.print_done(&service, &format!("{} promoted", name(&service)))?;
    follow(app, &service, &args.wait).await
}

/// # Errors
/// When no rollout is under way.
pub async fn pause(app: &App, args: &PauseArgs) -> Result<(), Failure> {
    let service = app.api.control_rollout(&args.service, RolloutControl::Pause, 0).await?;
    app.print_done(&service, &format!("{} paused", name(&service)))
}

/// # Errors
/// When no rollout is paused.
pub async fn resume(app: &App, args: &ResumeArgs) -> Result<(), Failure> {
    let service = app.api.control_rollout(&args.service, RolloutControl::Resume, 0).await?;
    app.print_done(&service, &format!("{} resumed", name(&service)))?;
    follow(app, &service, &args.wait).await
}

async fn follow(app: &App, service: &Service, wait: &WaitArgs) -> Result<(), Failure> {
    progress::wait(app, vec![Goal::running(service)], wait).await
}

/// # Errors
/// When there is no such service.
pub async fn history(app: &App, args: &HistoryArgs) -> Result<(), Failure> {
    let generations = app.api.generations(&args.service).await?;
    let specs: Vec<Value> = generations.iter().map(|kept| spec(kept.spec.as_ref())).collect();
    let entry = |(position, kept): (usize, ServiceGeneration)| Entry {
        is_present: position == 0,
        changes: match (specs.get(position + 1), specs.get(position)) {
            (Some(before), Some(now)) => {
                difference::between(before, now).iter().map(difference::Difference::line).collect()
            }
            _ => Vec::new(),
        },
        kept,
    };
    let entries: Vec<Entry> = generations.into_iter().enumerate().map(entry).collect();
    app.print_list(&entries)
}

fn spec(spec: Option<&ServiceSpec>) -> Value {
    spec.map(|spec| json::with_field_names("ServiceSpec", spec)).unwrap_or_default()
}

/// A kept generation and what it changed.
struct Entry {
    kept: ServiceGeneration,
    is_present: bool,
    /// Against the generation before.
    changes: Vec<String>,
}

impl Row for Entry {
    const COLUMNS: &'static [Column] =
        &[column("GENERATION"), column("INSTANCES"), column("IMAGE"), wide("PRESENT"), column("CHANGED")];

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        let container = self.kept.spec.as_ref().and_then(|spec| spec.container.as_ref());
        let mark = if self.is_present { "*" } else { "" };
        vec![
            format!("{}{mark}", self.kept.generation),
            self.kept.instances.to_string(),
            container.map(|container| container.image.clone()).unwrap_or_default(),
            self.is_present.to_string(),
            self.changes.join(", "),
        ]
    }

    fn name(&self) -> String {
        self.kept.generation.to_string()
    }

    fn json(&self) -> Value {
        json::of_message("ServiceGeneration", &self.kept)
    }
}
