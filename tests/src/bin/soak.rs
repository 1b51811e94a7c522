//! Kills masters, agents and containers at random under a running `scale` loop, lets everything
//! heal, and verifies that nothing was lost, touched or leaked.
//!
//! Invariant: exit 0 only when every check held. The faults follow from `--seed`; when exactly they
//! hit does not. Deliberately not here: the parts (`skein_tests::soak`).

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use skein_tests::soak::{self, Plan};

#[derive(Debug, Parser)]
#[command(about = "Kill everything at random under a running scale loop, then check the damage")]
struct Arguments {
    /// How long faults happen.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Which faults, in which order.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 3)]
    masters: usize,
    #[arg(long, default_value_t = 3)]
    agents: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Ok(time) = Duration::try_from_secs_f64(arguments.minutes * 60.0) else {
        eprintln!("soak: --minutes {}: a positive number, please", arguments.minutes);
        return ExitCode::from(64);
    };
    let plan = Plan { time, seed: arguments.seed, masters: arguments.masters, agents: arguments.agents };
    match Box::pin(soak::run(&plan)).await {
        Ok(report) => {
            println!("{report}");
            if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("soak: {error:?}");
            ExitCode::FAILURE
        }
    }
}
