//! Durations, sizes and shares of a processor in Compose's spelling.

use std::time::Duration;

/// Go's `time.ParseDuration`, without signs: `1m30s`, `1.5h`, `300ms`, `0`.
///
/// # Errors
/// What is wrong and what would be accepted.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration: write for example 90s, 1m30s or 500ms");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if let Some(number) = text.strip_prefix('-').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    {
        return Err(format!("-{number} is negative"));
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{text} has no unit: write for example {text}s"));
    }
    let (mut rest, mut total) = (text, 0u128);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let nanos = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(wrong()),
        };
        total = total.checked_add(decimal(number, nanos).ok_or_else(wrong)?).ok_or_else(wrong)?;
        rest = tail;
    }
    if text.is_empty() {
        return Err(wrong());
    }
    // Go's bound: a signed 64-bit number of nanoseconds, 292 years.
    let nanos = u64::try_from(total).ok().filter(|nanos| i64::try_from(*nanos).is_ok()).ok_or_else(wrong)?;
    Ok(Duration::from_nanos(nanos))
}

/// `number` units of `unit` each, rounded down; at most 18 digits on either side of the point.
fn decimal(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.len() <= 18 && part.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    whole.checked_mul(unit)?.checked_add(fraction.checked_mul(unit)? / scale)
}

/// Docker's `RAMInBytes`: `512M`, `1.5g`, `64MiB`, `100kb`, `1024`; all units are powers of 1,024.
///
/// # Errors
/// What is wrong and what would be accepted.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size: write for example 512M, 1.5G or a number of bytes");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let power = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return Err(wrong()),
    };
    let bytes = decimal(number, 1024u128.pow(power)).ok_or_else(wrong)?;
    u64::try_from(bytes).ok().filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(wrong)
}

/// `0.5` processors are 500 thousandths.
///
/// # Errors
/// What is wrong and what would be accepted.
pub fn parse_cpu_millis(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a number of processors: write for example '0.5' or '2'");
    let nano = decimal(text, 1_000_000_000).ok_or_else(wrong)?;
    if nano % 1_000_000 != 0 {
        return Err(format!("{text} is finer than a thousandth of a processor"));
    }
    u64::try_from(nano / 1_000_000).map_err(|_| wrong())
}

/// A part from 0 to 1 in thousandths; what is finer is rounded down.
pub fn parse_permille(text: &str) -> Option<u16> {
    u16::try_from(decimal(text, 1000)?).ok().filter(|permille| *permille <= 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("300ms", 300),
            ("0", 0),
            ("0s", 0),
            ("1h1m1s1ms", 3_661_001),
            (".5s", 500),
            ("1s1s", 2_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for (text, error) in [
            ("10", "has no unit: write for example 10s"),
            ("-1s", "negative"),
            ("", "not a duration"),
            ("s", "not a duration"),
            ("1d", "not a duration"),
            ("1 s", "not a duration"),
            (".s", "not a duration"),
            ("99999999999999999999h", "not a duration"),
            ("9999999h", "not a duration"),
        ] {
            let found = parse_duration(text).expect_err(text);
            assert!(found.contains(error), "{text}: {found}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("512M", 512 << 20),
            ("512mb", 512 << 20),
            ("64MiB", 64 << 20),
            ("1.5g", 3 << 29),
            ("1024", 1024),
            ("10b", 10),
            ("1 k", 1024),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "12X", "-1M", "1e3", "99999P", "99999999999999999999"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn parts() {
        for (text, permille) in [
            ("0", Some(0)),
            ("0.25", Some(250)),
            ("1", Some(1000)),
            ("1.0", Some(1000)),
            ("1.1", None),
            ("-1", None),
            ("x", None),
        ] {
            assert_eq!(parse_permille(text), permille, "{text}");
        }
    }

    #[test]
    fn processors() {
        for (text, millis) in [("0.5", 500), ("2", 2000), ("0.001", 1), (".25", 250), ("1.", 1000)] {
            assert_eq!(parse_cpu_millis(text), Ok(millis), "{text}");
        }
        for text in ["", ".", "half", "-1", "0.0005", "1e3"] {
            assert!(parse_cpu_millis(text).is_err(), "{text}");
        }
    }
}
