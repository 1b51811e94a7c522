//! `skein job`: what runs to its end, now or by a schedule.

use std::cmp::Reverse;

use serde_json::Value;
use skein_common::Timestamp;
use skein_proto::v1::{JobPhase, JobRun, ScheduleControl, Service};

use super::each;
use crate::{
    app::App,
    failure::Failure,
    live::{self, Source},
    output::{
        Column, Row, column, json,
        service::{is_run, name},
        text, wide,
    },
    progress::{self, Goal, WaitArgs},
};

/// List jobs, run them now, suspend and resume their schedules
///
/// A job is a service with deploy.mode replicated-job or global-job. With x-skein.schedule it has no instances
/// of its own: each due time makes a run, a service named JOB-TIME, which other commands understand too.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Ls(LsArgs),
    Run(RunArgs),
    History(HistoryArgs),
    Suspend(SuspendArgs),
    Resume(ResumeArgs),
}

/// List jobs: their schedule, the next time, and how the last run went
#[derive(Debug, clap::Args)]
#[command(visible_alias = "list", after_help = "Examples:\n  skein job ls\n  skein job ls -o wide")]
pub struct LsArgs {
    /// Show it again whenever something changes
    #[arg(long, short)]
    pub watch: bool,
}

/// Run a job now, and wait until it has completed
///
/// A job with a schedule gets one more run, whatever else runs. Another job is run anew when it is over.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  skein job run shop_backup\n  skein job run shop_backup --detach")]
pub struct RunArgs {
    /// Name or id of a job
    #[arg(value_name = "JOB")]
    pub job: String,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// List the runs of a job that are kept, the latest first
///
/// Three completed ones and a failed one are kept, unless the schedule says otherwise.
#[derive(Debug, clap::Args)]
#[command(
    visible_alias = "runs",
    after_help = "\
Examples:
  skein job history shop_backup
  skein logs shop_backup-20261123t2115      what one of them wrote"
)]
pub struct HistoryArgs {
    /// Name or id of a job
    #[arg(value_name = "JOB")]
    pub job: String,
    /// Show it again whenever something changes
    #[arg(long, short)]
    pub watch: bool,
}

/// Begin no more runs until the schedule is resumed
///
/// Runs under way go on. Times that pass meanwhile are not made up for.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  skein job suspend shop_backup")]
pub struct SuspendArgs {
    /// Names or ids of jobs
    #[arg(required = true, value_name = "JOB")]
    pub jobs: Vec<String>,
}

/// Begin runs again, from the next due time on
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  skein job resume shop_backup")]
pub struct ResumeArgs {
    /// Names or ids of jobs
    #[arg(required = true, value_name = "JOB")]
    pub jobs: Vec<String>,
}

/// # Errors
/// Whatever the command ends with.
pub async fn run(app: &App, command: Command) -> Result<(), Failure> {
    match command {
        Command::Ls(args) => live::list(app, args.watch, Source::Services, || list(app)).await,
        Command::Run(args) => run_now(app, &args).await,
        Command::History(args) => {
            live::list(app, args.watch, Source::Services, || history(app, &args.job)).await
        }
        Command::Suspend(args) => control(app, &args.jobs, ScheduleControl::Suspend, "suspended").await,
        Command::Resume(args) => control(app, &args.jobs, ScheduleControl::Resume, "resumed").await,
    }
}

async fn list(app: &App) -> Result<Vec<Job>, Failure> {
    let all = app.api.services(&[]).await?;
    let (runs, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_run);
    let jobs = others.into_iter().filter(|service| service.job.is_some() || service.schedule.is_some());
    let with_run = |service: Service| {
        let own = runs.iter().filter(|run| run.owner_id == service.id);
        let latest = own.max_by_key(|run| order_of_runs(run)).unwrap_or(&service);
        Job { latest: latest.job.clone(), service }
    };
    let mut jobs: Vec<Job> = jobs.map(with_run).collect();
    jobs.sort_by_key(Row::name);
    Ok(jobs)
}

async fn run_now(app: &App, args: &RunArgs) -> Result<(), Failure> {
    let run = app.api.run_job(&args.job).await?;
    app.print_done(&run, &format!("{} begins", name(&run)))?;
    progress::wait(app, vec![Goal::running(&run)], &args.wait).await
}

async fn history(app: &App, job: &str) -> Result<Vec<Run>, Failure> {
    let job = app.api.service(job).await?;
    let mut runs = app.api.runs(&job.id).await?;
    // The one run of a job without a schedule is the job itself.
    if job.job.is_some() {
        runs.push(job);
    }
    runs.sort_by_key(|run| Reverse(order_of_runs(run)));
    Ok(runs.into_iter().map(Run).collect())
}

async fn control(app: &App, jobs: &[String], control: ScheduleControl, what: &str) -> Result<(), Failure> {
    each(app, jobs, |job| async move {
        let service = app.api.control_schedule(&job, control).await?;
        app.print_done(&service, &format!("{} {what}", name(&service)))
    })
    .await?;
    Ok(())
}

/// By the time they were due, then as they were made.
pub fn order_of_runs(run: &Service) -> (Option<Timestamp>, u64) {
    (text::instant(run.scheduled_for.as_ref()), run.created_revision)
}

fn phase(run: &JobRun) -> String {
    text::enum_word(run.phase().as_str_name(), "JOB_PHASE_")
}

fn time(at: Option<&prost_types::Timestamp>) -> String {
    text::instant(at).map(text::second).unwrap_or_default()
}

/// A job and its present or latest run.
struct Job {
    service: Service,
    latest: Option<JobRun>,
}

impl Row for Job {
    const COLUMNS: &'static [Column] = &[
        column("NAME"),
        column("SCHEDULE"),
        wide("TIME ZONE"),
        column("NEXT"),
        column("LAST"),
        column("RUNNING"),
        column("LATEST"),
        column("MESSAGE"),
    ];

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        let schedule = self.service.spec.as_ref().and_then(|spec| spec.schedule.clone());
        let state = self.service.schedule.unwrap_or_default();
        let runs = self.latest.as_ref().is_some_and(|run| run.phase() == JobPhase::Running);
        let active = if schedule.is_some() { state.active } else { u32::from(runs) };
        let suspended = schedule.as_ref().is_some_and(|schedule| schedule.suspend);
        let next = if suspended { "suspended".to_owned() } else { time(state.next.as_ref()) };
        vec![
            name(&self.service).to_owned(),
            schedule.as_ref().map(|schedule| schedule.cron.clone()).unwrap_or_default(),
            schedule.map(|schedule| schedule.time_zone).unwrap_or_default(),
            next,
            time(state.last.as_ref()),
            active.to_string(),
            self.latest.as_ref().map(phase).unwrap_or_default(),
            self.latest.as_ref().map(|run| run.reason.clone()).unwrap_or_default(),
        ]
    }

    fn name(&self) -> String {
        name(&self.service).to_owned()
    }

    fn json(&self) -> Value {
        json::of_message("Service", &self.service)
    }
}

/// A run of a job.
struct Run(Service);

impl Row for Run {
    const COLUMNS: &'static [Column] = &[
        column("RUN"),
        wide("ID"),
        column("DUE"),
        column("PHASE"),
        column("DONE"),
        column("STARTED"),
        column("TOOK"),
        column("MESSAGE"),
    ];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let status = self.0.status.clone().unwrap_or_default();
        let run = self.0.job.clone().unwrap_or_default();
        let started = text::instant(run.started_at.as_ref());
        let ended = text::instant(run.finished_at.as_ref()).unwrap_or(now);
        let message = if run.reason.is_empty() { status.message } else { run.reason.clone() };
        vec![
            name(&self.0).to_owned(),
            self.0.id.clone(),
            time(self.0.scheduled_for.as_ref()),
            if self.0.deleting { "being-removed".to_owned() } else { phase(&run) },
            format!("{}/{}", status.completed, status.desired),
            started.map(text::second).unwrap_or_default(),
            started.map(|started| text::duration(ended.since(started))).unwrap_or_default(),
            message,
        ]
    }

    fn name(&self) -> String {
        name(&self.0).to_owned()
    }

    fn json(&self) -> Value {
        json::of_message("Service", &self.0)
    }
}
