//! `skein logs`: what containers write, from wherever they run.
//!
//! Invariant: following goes on at another master where it was broken off, asks again for
//! instances whose node was away, and takes up instances that are new; every line is shown once.

mod printer;
mod reader;

use std::time::SystemTime;

use skein_common::InstanceId;
use skein_proto::v1::{Service, stream_logs_request::Source};

use self::reader::Reader;
use super::job::order_of_runs;
use crate::{app::App, failure::Failure, output::service::name};

/// Show what the containers of a service or of one instance write
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  skein logs shop_web                    everything that is kept
  skein logs -f shop_web                 and go on with what is written from now on
  skein logs shop_web.3 --tail 20        one instance, the last 20 lines
  skein logs shop_web --since 10m
  skein logs -p shop_web.3               what it wrote before its last restart
  skein logs shop_backup                 the latest run of a job with a schedule
  skein logs shop_backup-20261123t2115   another one of them (see skein job history shop_backup)")]
pub struct Args {
    /// Name or id of a service, or of one instance (shop_web.3)
    #[arg(value_name = "SERVICE|INSTANCE")]
    pub target: String,
    /// Go on with what is written from now on
    #[arg(long, short)]
    pub follow: bool,
    /// What the attempt before the present one wrote
    #[arg(long, short, conflicts_with = "follow")]
    pub previous: bool,
    /// Only the last lines of each instance
    #[arg(long, short = 'n', value_name = "LINES")]
    pub tail: Option<u32>,
    /// Only lines since then: a duration ago (10m) or a time (2026-01-31T12:00:00Z)
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub since: Option<SystemTime>,
    /// Without the instance's name before each line
    #[arg(long)]
    pub no_prefix: bool,
    /// With the time before each line
    #[arg(long, short)]
    pub timestamps: bool,
}

fn parse_since(text: &str) -> Result<SystemTime, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return SystemTime::now().checked_sub(ago).ok_or_else(|| format!("{text} ago is before time began"));
    }
    humantime::parse_rfc3339_weak(text).map_err(|_| {
        format!("{text:?} is neither a duration such as 10m nor a time such as 2026-01-31T12:00:00Z")
    })
}

/// # Errors
/// Whatever the command ends with.
pub async fn run(app: &App, args: Args) -> Result<(), Failure> {
    let source = find(app, &args.target).await?;
    Reader::new(app, &args, source).run().await
}

/// A job with a schedule writes in its runs.
async fn latest_run(app: &App, job: &Service) -> Result<Source, Failure> {
    let runs = app.api.runs(&job.id).await?;
    let Some(run) = runs.into_iter().max_by_key(order_of_runs) else {
        let name = name(job);
        return Err(Failure::Failed(format!("{name} has not run yet\nnext: skein job run {name}")));
    };
    app.terminal.note(&format!("of its latest run, {}", name(&run)));
    Ok(Source::Service(run.id))
}

/// A service by id or name, an instance by id or by a name such as `web.3`.
async fn find(app: &App, target: &str) -> Result<Source, Failure> {
    let not_found = match app.api.service(target).await {
        Ok(service) if service.schedule.is_some() => return latest_run(app, &service).await,
        Ok(service) => return Ok(Source::Service(service.id)),
        Err(failure) if failure.is_not_found() => failure,
        Err(failure) => return Err(failure),
    };
    if target.parse::<InstanceId>().is_ok() {
        match app.api.instance(target).await {
            Ok(instance) => return Ok(Source::Instance(instance.id)),
            Err(failure) if failure.is_not_found() => {}
            Err(failure) => return Err(failure),
        }
    }
    let Some((service, _)) = target.rsplit_once('.') else { return Err(not_found) };
    let instances = match app.api.instances(service, "").await {
        Ok(instances) => instances,
        Err(failure) if failure.is_not_found() => return Err(not_found),
        Err(failure) => return Err(failure),
    };
    let named = instances.into_iter().filter(|instance| instance.name == target);
    let newest = named.max_by_key(|instance| instance.created_revision);
    newest.map(|instance| Source::Instance(instance.id)).ok_or(not_found)
}
