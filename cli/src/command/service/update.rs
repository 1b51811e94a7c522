//! `skein service update`: single fields of a spec, changed in place.
//!
//! Invariant: what is not named stays; a change that someone else made meanwhile is not lost, the
//! new spec is read and the change is made to that.

use std::time::Duration;

use skein_proto::{
    convert::duration_to_wire,
    v1::{
        FailureAction, ReplicatedMode, Resources, Service, ServiceSpec, UpdateOrder, UpdatePolicy,
        service_spec::Mode,
    },
};

use crate::{
    app::App,
    compose::amount::{parse_bytes, parse_cpu_millis, parse_duration, parse_permille},
    failure::Failure,
    output::service::name,
    progress::{self, Goal, WaitArgs},
};

/// How often a change is made to a spec that others change at the same time.
const MOST_TRIES: usize = 5;

/// Change single settings of a service and replace its instances as its update policy says
///
/// What a Compose file says comes back with the next skein apply.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  skein service update shop_web --image nginx:1.28
  skein service update shop_web --env MODE=fast --env-rm DEBUG
  skein service update shop_web --image nginx:1.28 --update-order start-first --update-parallelism 2")]
pub struct Args {
    /// Name or id of a service
    #[arg(value_name = "SERVICE")]
    pub service: String,
    #[command(flatten)]
    pub change: Change,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = true)]
pub struct Change {
    /// Image of the container
    #[arg(long)]
    pub image: Option<String>,
    /// Number of instances
    #[arg(long, value_name = "N")]
    pub replicas: Option<u32>,
    /// Set an environment variable
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub env: Vec<(String, String)>,
    /// Remove an environment variable
    #[arg(long, value_name = "NAME")]
    pub env_rm: Vec<String>,
    /// Set a label of the service; no instance is replaced
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub label: Vec<(String, String)>,
    /// Remove a label of the service
    #[arg(long, value_name = "NAME")]
    pub label_rm: Vec<String>,
    /// Add a placement constraint
    #[arg(long, value_name = "CONSTRAINT")]
    pub constraint: Vec<String>,
    /// Remove a placement constraint, spelled as skein service inspect shows it
    #[arg(long, value_name = "CONSTRAINT")]
    pub constraint_rm: Vec<String>,
    /// 0 to 100; who is placed first, and who may be displaced
    #[arg(long, value_name = "N")]
    pub priority: Option<u32>,
    /// At most this many processors; 0 = no limit
    #[arg(long, value_name = "CPUS", value_parser = parse_cpu_millis)]
    pub limit_cpu: Option<u64>,
    /// At most this much memory, such as 512M; 0 = no limit
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub limit_memory: Option<u64>,
    /// Processors that are set aside
    #[arg(long, value_name = "CPUS", value_parser = parse_cpu_millis)]
    pub reserve_cpu: Option<u64>,
    /// Memory that is set aside
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub reserve_memory: Option<u64>,
    /// Instances replaced at a time; 0 = all at once
    #[arg(long, value_name = "N")]
    pub update_parallelism: Option<u32>,
    /// Which comes first
    #[arg(long, value_name = "ORDER", value_enum)]
    pub update_order: Option<Order>,
    /// Between two replacements
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub update_delay: Option<Duration>,
    /// How long a new instance is watched for failures
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub update_monitor: Option<Duration>,
    /// Part of the instances that may fail, from 0 to 1
    #[arg(long, value_name = "PART", value_parser = parse_part)]
    pub update_max_failure_ratio: Option<u16>,
    /// What becomes of a rollout that fails
    #[arg(long, value_name = "ACTION", value_enum)]
    pub update_failure_action: Option<Action>,
    /// Instances that go first and wait to be promoted; 0 = none
    #[arg(long, value_name = "N")]
    pub canary: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    StopFirst,
    StartFirst,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Action {
    Pause,
    Continue,
    Rollback,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

fn parse_part(text: &str) -> Result<u16, String> {
    parse_permille(text).ok_or_else(|| format!("{text:?} is not a part from 0 to 1, such as 0.25"))
}

/// # Errors
/// What the cluster refuses, or that it does not come true in time.
pub async fn run(app: &App, args: &Args) -> Result<(), Failure> {
    let service = change(app, args).await?;
    app.print_done(&service, &format!("{} updated", name(&service)))?;
    progress::wait(app, vec![Goal::running(&service)], &args.wait).await
}

async fn change(app: &App, args: &Args) -> Result<Service, Failure> {
    let mut tries = 0;
    loop {
        tries += 1;
        let known = app.api.service(&args.service).await?;
        let mut spec = known.spec.clone().unwrap_or_default();
        args.change.make(&mut spec)?;
        match Box::pin(app.api.update(&known.id, spec, &known.etag)).await {
            Err(failure) if failure.is_conflict() && tries < MOST_TRIES => {}
            answer => return answer,
        }
    }
}

impl Change {
    fn make(&self, spec: &mut ServiceSpec) -> Result<(), Failure> {
        if let Some(replicas) = self.replicas {
            match &mut spec.mode {
                Some(Mode::Replicated(mode)) => mode.replicas = Some(replicas),
                None => spec.mode = Some(Mode::Replicated(ReplicatedMode { replicas: Some(replicas) })),
                Some(_) => {
                    return Err(Failure::Usage(format!("{} has no number of replicas", spec.name)));
                }
            }
        }
        spec.labels.extend(self.label.iter().cloned());
        spec.labels.retain(|name, _| !self.label_rm.contains(name));
        let container = spec.container.get_or_insert_default();
        if let Some(image) = &self.image {
            container.image.clone_from(image);
        }
        container.environment.extend(self.env.iter().cloned());
        container.environment.retain(|name, _| !self.env_rm.contains(name));
        self.place(spec);
        self.limit(spec);
        self.roll(spec.update.get_or_insert_default());
        Ok(())
    }

    fn place(&self, spec: &mut ServiceSpec) {
        let placement = spec.placement.get_or_insert_default();
        placement.constraints.retain(|known| !self.constraint_rm.contains(known));
        placement.constraints.extend(self.constraint.iter().cloned());
        placement.priority = self.priority.or(placement.priority);
    }

    fn limit(&self, spec: &mut ServiceSpec) {
        let set = |amounts: &mut Resources, cpu: Option<u64>, memory: Option<u64>| {
            amounts.cpu_millis = cpu.unwrap_or(amounts.cpu_millis);
            amounts.memory_bytes = memory.unwrap_or(amounts.memory_bytes);
        };
        let resources = spec.resources.get_or_insert_default();
        set(resources.limit.get_or_insert_default(), self.limit_cpu, self.limit_memory);
        set(resources.reservation.get_or_insert_default(), self.reserve_cpu, self.reserve_memory);
    }

    fn roll(&self, update: &mut UpdatePolicy) {
        update.parallelism = self.update_parallelism.or(update.parallelism);
        if let Some(order) = self.update_order {
            update.set_order(match order {
                Order::StopFirst => UpdateOrder::StopFirst,
                Order::StartFirst => UpdateOrder::StartFirst,
            });
        }
        if let Some(action) = self.update_failure_action {
            update.set_failure_action(match action {
                Action::Pause => FailureAction::Pause,
                Action::Continue => FailureAction::Continue,
                Action::Rollback => FailureAction::Rollback,
            });
        }
        update.delay = self.update_delay.map(duration_to_wire).or(update.delay);
        update.monitor = self.update_monitor.map(duration_to_wire).or(update.monitor);
        if let Some(permille) = self.update_max_failure_ratio {
            update.max_failure_permille = permille.into();
        }
        update.canary = self.canary.unwrap_or(update.canary);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn change_of(line: &str) -> Change {
        let cli = Cli::try_parse_from(format!("skein service update web {line}").split_whitespace());
        match cli.unwrap().command {
            Some(Command::Service(super::super::Command::Update(args))) => args.change,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_named_stays() {
        let mut spec = ServiceSpec::default();
        change_of(
            "--image a --env A=1 --env B=x=y --label t=1 --replicas 3 --constraint x --limit-memory 1G",
        )
        .make(&mut spec)
        .unwrap();
        change_of(
            "--env-rm A --update-order start-first --update-max-failure-ratio 0.5 --canary 1 --priority 9",
        )
        .make(&mut spec)
        .unwrap();
        change_of("--reserve-cpu 0.5 --constraint y --constraint-rm x").make(&mut spec).unwrap();
        let container = spec.container.clone().unwrap();
        assert_eq!(container.image, "a");
        assert_eq!(container.environment, [("B".to_owned(), "x=y".to_owned())].into());
        assert_eq!(spec.labels, [("t".to_owned(), "1".to_owned())].into());
        assert_eq!(spec.mode, Some(Mode::Replicated(ReplicatedMode { replicas: Some(3) })));
        let placement = spec.placement.clone().unwrap();
        assert_eq!((placement.constraints, placement.priority), (vec!["y".to_owned()], Some(9)));
        let resources = spec.resources.unwrap();
        assert_eq!(resources.limit.map(|limit| limit.memory_bytes), Some(1 << 30));
        assert_eq!(resources.reservation.map(|reserved| reserved.cpu_millis), Some(500));
        let update = spec.update.unwrap();
        assert_eq!(
            (update.order(), update.max_failure_permille, update.canary),
            (UpdateOrder::StartFirst, 500, 1)
        );
        spec.mode = Some(Mode::Global(Default::default()));
        assert!(change_of("--replicas 3").make(&mut spec).is_err());
    }

    #[test]
    fn something_must_change() {
        for line in
            ["", "--env A", "--update-order sideways", "--limit-memory lots", "--update-max-failure-ratio 2"]
        {
            let words = format!("skein service update web {line}");
            assert!(Cli::try_parse_from(words.split_whitespace()).is_err(), "{line}");
        }
    }
}
