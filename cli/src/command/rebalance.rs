//! `skein rebalance`: moves instances to where they do better.

use std::time::Duration;

use serde_json::Value;
use skein_common::Timestamp;
use skein_proto::v1::{RebalanceGoal, RebalanceMove, RebalanceResponse};
use tokio::time::{Instant, sleep_until};

use crate::{
    app::App,
    failure::Failure,
    output::{Column, Format, Row, column, json},
    progress::WaitArgs,
};

/// Between two looks at whether it is done.
const PAUSE: Duration = Duration::from_millis(500);

/// Move instances to where they do better
///
/// Each service is spread again as it asks, and the load made even over the nodes, a few moves at a time: the new
/// instance is ready before the old one stops, where its service allows. Services with local volumes stay with
/// their data. Nothing is moved unless it is worth it (see skein cluster config, scheduling.rebalance).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  skein rebalance --dry-run
  skein rebalance
  skein rebalance --service shop_web --detach
  skein rebalance --consolidate             empty the nodes that others have room for
  skein rebalance --stop                    begin no further move")]
pub struct Args {
    /// Only show the moves
    #[arg(long)]
    pub dry_run: bool,
    /// Move this service only
    #[arg(long, value_name = "SERVICE", default_value = "", hide_default_value = true)]
    pub service: String,
    /// Empty nodes that others have room for, instead of spreading
    #[arg(long)]
    pub consolidate: bool,
    /// Begin no further move of the rebalancing under way
    #[arg(long, conflicts_with_all = ["dry_run", "service", "consolidate"])]
    pub stop: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// # Errors
/// Whatever the command ends with.
pub async fn run(app: &App, args: Args) -> Result<(), Failure> {
    if args.stop {
        let stopped = app.api.stop_rebalance().await?;
        let said =
            if stopped { "stopped; what has begun is finished" } else { "no rebalancing is under way" };
        return Ok(app.terminal.print_line(said)?);
    }
    let goal = if args.consolidate { RebalanceGoal::Consolidate } else { RebalanceGoal::Even };
    let answer = app.api.rebalance(&args.service, goal, args.dry_run).await?;
    show(app, &answer)?;
    if args.dry_run || args.wait.detach || answer.run.is_none() {
        return Ok(());
    }
    app.on_interrupt("goes on in the cluster; end it with: skein rebalance --stop".to_owned());
    wait(app, args.wait.wait_timeout).await
}

fn show(app: &App, answer: &RebalanceResponse) -> Result<(), Failure> {
    if matches!(app.format, Format::Json | Format::Yaml) {
        return app.print_one(&Whole(answer.clone()));
    }
    if answer.moves.is_empty() {
        app.terminal.note("nothing to move: no move gains enough");
        return Ok(());
    }
    app.print_list(&answer.moves)
}

/// Until it is done.
async fn wait(app: &App, longest: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + longest;
    let mut moves = 0;
    loop {
        let Some(run) = app.api.cluster_config().await?.rebalance else {
            app.terminal.note("balanced");
            return Ok(());
        };
        if run.moves > moves {
            moves = run.moves;
            app.terminal.note(&format!("{moves} moves begun"));
        }
        let next = Instant::now() + PAUSE;
        if next > deadline {
            return Err(Failure::NotConverged("still moving; skein events shows how it goes on".to_owned()));
        }
        sleep_until(next).await;
    }
}

struct Whole(RebalanceResponse);

impl Row for Whole {
    const COLUMNS: &'static [Column] = &[];

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        Vec::new()
    }

    fn name(&self) -> String {
        String::new()
    }

    fn json(&self) -> Value {
        json::of_message("RebalanceResponse", &self.0)
    }
}

impl Row for RebalanceMove {
    const COLUMNS: &'static [Column] =
        &[column("INSTANCE"), column("FROM"), column("TO"), column("GAIN"), column("ORDER"), column("WHY")];

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        let order = if self.start_first { "start first" } else { "stop first" };
        vec![
            self.instance_name.clone(),
            self.from_node_name.clone(),
            self.to_node_name.clone(),
            format!("{} %", self.gain_percent),
            order.to_owned(),
            self.reason.clone(),
        ]
    }

    fn name(&self) -> String {
        self.instance_name.clone()
    }

    fn json(&self) -> Value {
        json::of_message("RebalanceMove", self)
    }
}
