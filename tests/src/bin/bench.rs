//! Measures and prints the tables of `make bench`.
//!
//! Invariant: exit 0 when everything could be measured, whatever came of it; 1 otherwise.
//! Deliberately not here: building what is measured (`tests/bench.sh`).

use std::process::ExitCode;

use clap::{Parser, ValueEnum as _};
use skein_tests::bench::{Bench, Plan};

#[derive(Debug, Parser)]
#[command(about = "Measure Skein: each figure is the median of its rounds (least…greatest)")]
struct Arguments {
    /// Which tables; all of them when none is named.
    benches: Vec<Bench>,
    /// One short round of everything.
    #[arg(long)]
    quick: bool,
    /// Rounds of each figure.
    #[arg(long)]
    rounds: Option<usize>,
    /// Clients that write; 1, 16 and 256 in turn when not given.
    #[arg(long)]
    clients: Option<usize>,
    /// Times the leader's machine is killed.
    #[arg(long)]
    kills: Option<usize>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut plan = if arguments.quick { Plan::QUICK } else { Plan::FULL };
    plan.rounds = arguments.rounds.unwrap_or(plan.rounds).max(1);
    plan.kills = arguments.kills.unwrap_or(plan.kills).max(1);
    plan.clients = arguments.clients;
    let benches = match arguments.benches.as_slice() {
        [] => Bench::value_variants(),
        named => named,
    };
    let mut failed = false;
    for bench in benches {
        eprintln!("measuring {bench:?} ...");
        match bench.measure(&plan).await {
            Ok(tables) => tables.iter().for_each(|table| print!("{table}")),
            Err(error) => {
                failed = true;
                eprintln!("{bench:?} could not be measured: {error:?}");
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
