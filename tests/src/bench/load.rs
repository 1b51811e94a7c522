//! Clients that write one thing after another, as fast as they are answered.
//!
//! Invariant: a client has one write under way; only answered writes count.

use std::{future::Future, time::Duration};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use tokio::{task::JoinSet, time::Instant};

/// Microseconds that the histogram tells apart, up to a minute.
const LONGEST_MICROS: u64 = 60_000_000;

/// Something that can be written to.
pub trait Writer: Send + 'static {
    /// Writes the value; returns when it is durable.
    fn write(&mut self, value: &str) -> impl Future<Output = Result<()>> + Send;
}

/// What came of it.
#[derive(Debug)]
pub struct Load {
    pub per_second: f64,
    pub median: Duration,
    pub slowest_hundredth: Duration,
}

/// Lets all writers write for this long.
///
/// # Errors
/// The first write that failed.
pub async fn run<W: Writer>(writers: Vec<W>, time: Duration, value_bytes: usize) -> Result<Load> {
    let start = Instant::now();
    let end = start + time;
    let mut tasks = JoinSet::new();
    for (number, writer) in writers.into_iter().enumerate() {
        tasks.spawn(write_until(writer, number, end, value_bytes));
    }
    let mut all = Histogram::<u64>::new_with_max(LONGEST_MICROS, 3)?;
    while let Some(done) = tasks.join_next().await {
        all.add(done.context("a writer")??)?;
    }
    let micros = |quantile| Duration::from_micros(all.value_at_quantile(quantile));
    let written = u32::try_from(all.len()).map(f64::from).unwrap_or(f64::MAX);
    Ok(Load {
        per_second: written / start.elapsed().as_secs_f64(),
        median: micros(0.5),
        slowest_hundredth: micros(0.99),
    })
}

async fn write_until<W: Writer>(
    mut writer: W,
    number: usize,
    end: Instant,
    value_bytes: usize,
) -> Result<Histogram<u64>> {
    let mut times = Histogram::new_with_max(LONGEST_MICROS, 3)?;
    let mut sequence = 0_u64;
    loop {
        let begin = Instant::now();
        if begin >= end {
            return Ok(times);
        }
        sequence += 1;
        writer.write(&format!("{sequence:>12}-{number:>0$}", value_bytes.saturating_sub(13))).await?;
        times.saturating_record(u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
}
