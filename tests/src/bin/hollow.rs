//! Agents without containers, by the thousand, in one process.
//!
//! Runs until it is killed. Numbers make names and ids, so the same numbers are the same nodes.

use clap::Parser;
use skein_tests::hollow::{self, Flock};

#[derive(Debug, Parser)]
#[command(about = "Load masters with agents whose container engines only pretend")]
struct Arguments {
    /// API addresses of the masters, host:port.
    #[arg(long, value_delimiter = ',', required = true)]
    masters: Vec<String>,
    /// How many.
    #[arg(long, default_value_t = 1_000)]
    agents: usize,
    /// Number of the first one.
    #[arg(long, default_value_t = 0)]
    first: usize,
    /// Thousandths of a core that each node has.
    #[arg(long, default_value_t = 64_000)]
    cpu_millis: u64,
    /// Bytes that each node has.
    #[arg(long, default_value_t = 256 << 30)]
    memory_bytes: u64,
}

#[tokio::main]
async fn main() {
    let Arguments { masters, agents, first, cpu_millis, memory_bytes } = Arguments::parse();
    let applied = None;
    hollow::run(Flock { masters, agents, first, cpu_millis, memory_bytes, applied }).await;
}
