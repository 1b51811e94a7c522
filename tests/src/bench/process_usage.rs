//! What a process costs, as the kernel accounts it.
//!
//! Deliberately not here: whose process it is (`process`).

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use tokio::time::{self, Instant};

/// `sysconf(_SC_CLK_TCK)` of every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Proportional set size in megabytes: shared pages count by their share.
///
/// # Errors
/// When there is no such process, or it may not be looked at.
pub fn memory(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("Pss")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().context("Pss")?;
    Ok(kib * 1024.0 / 1e6)
}

/// CPU in percent of one core, over this time.
///
/// # Errors
/// When there is no such process.
pub async fn cpu(pid: u32, over: Duration) -> Result<f64> {
    let (begin, before) = (Instant::now(), spent(pid)?);
    time::sleep(over).await; // polls: nothing, measures what is used meanwhile
    Ok((spent(pid)? - before) / begin.elapsed().as_secs_f64() * 100.0)
}

/// Seconds of one core that it has used so far.
///
/// # Errors
/// When there is no such process.
pub fn spent(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("stat")?;
    // The name in parentheses may contain anything; utime and stime are the 12th and 13th after it.
    let (_, rest) = text.rsplit_once(')').context("stat")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut field = || -> Result<f64> { Ok(fields.next().context("stat")?.parse()?) };
    Ok((field()? + field()?) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_process_has_a_size_and_a_load() {
        let own = std::process::id();
        assert!(memory(own).expect("its memory") > 0.1);
        assert!(cpu(own, Duration::ZERO).await.is_ok());
    }
}
