//! A demand over time, from a CSV file.
//!
//! Invariant: at least two values, all of them numbers that are not negative, one every step; the step is that of the
//! first two lines, and at most a minute.

use std::{fs, path::Path, time::Duration};

use skein_common::Timestamp;

const MINUTE: Duration = Duration::from_secs(60);
/// Two years of minutes.
const MAX_STEPS: usize = 1_100_000;

/// One demand a step.
pub struct Series {
    pub start: Timestamp,
    pub step: Duration,
    /// Per minute.
    pub demand: Vec<f64>,
}

impl Series {
    /// # Errors
    /// What is wrong, with file and line.
    pub fn read(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let text = fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
        Self::parse(&text).map_err(|(line, what)| format!("{name}:{line}: {what}"))
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut rows = Vec::new();
        for (index, line) in text.lines().enumerate().skip(1) {
            if line.trim().is_empty() {
                continue;
            }
            rows.push(row(line).map_err(|what| (index + 1, what))?);
            if rows.len() > MAX_STEPS {
                return Err((index + 1, format!("more than {MAX_STEPS} values")));
            }
        }
        let [(start, _), (second, _), ..] = rows[..] else {
            return Err((1, "two values at least, below a line of names".to_owned()));
        };
        let step = second.since(start);
        if step.is_zero() {
            return Err((3, "not later than the line before".to_owned()));
        }
        let values: Vec<f64> = rows.into_iter().map(|(_, value)| value).collect();
        let parts = step.as_secs().div_ceil(MINUTE.as_secs()).max(1);
        if u64::try_from(values.len()).unwrap_or(u64::MAX).saturating_mul(parts) > MAX_STEPS as u64 {
            return Err((3, format!("more than {MAX_STEPS} minutes")));
        }
        let parts = u32::try_from(parts).unwrap_or(1);
        Ok(Self { start, step: step / parts, demand: fill(&values, parts) })
    }
}

/// Steps of a minute on straight lines between the values.
fn fill(values: &[f64], parts: u32) -> Vec<f64> {
    if parts == 1 {
        return values.to_vec();
    }
    let between = |pair: &[f64]| {
        let (from, to) = (pair[0], pair[1]);
        (0..parts).map(move |part| from + (to - from) * f64::from(part) / f64::from(parts))
    };
    values.windows(2).flat_map(between).collect()
}

fn row(line: &str) -> Result<(Timestamp, f64), String> {
    let mut columns = line.split(',').map(str::trim);
    let (Some(at), Some(value), None) = (columns.next(), columns.next(), columns.next()) else {
        return Err(format!("{line:?} is not timestamp,value"));
    };
    let number: f64 = value.parse().map_err(|_| format!("{value:?} is not a number"))?;
    if !number.is_finite() || number < 0.0 {
        return Err(format!("{value} is not a demand: a number that is not negative"));
    }
    Ok((timestamp(at)?, number))
}

/// `2018-02-14 00:28:07`, the same with T and Z, or seconds since 1970.
fn timestamp(text: &str) -> Result<Timestamp, String> {
    let wrong = || format!("{text:?} is not a time such as 2018-02-14 00:28:07");
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Timestamp::from_unix_ms(u64::from(seconds) * 1000));
    }
    let time = humantime::parse_rfc3339_weak(text).map_err(|_| wrong())?;
    let since = time.duration_since(std::time::UNIX_EPOCH).map_err(|_| wrong())?;
    Ok(Timestamp::from_unix_ms(u64::try_from(since.as_millis()).map_err(|_| wrong())?))
}
