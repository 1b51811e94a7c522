//! Ages, amounts and lists as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skein_common::Timestamp;

pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// From the wire; times before 1970 are 1970.
pub fn instant(wire: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    let wire = wire?;
    let ms = u64::try_from(wire.nanos).unwrap_or(0) / 1_000_000;
    Some(Timestamp::from_unix_ms(
        u64::try_from(wire.seconds).unwrap_or(0).saturating_mul(1000).saturating_add(ms),
    ))
}

pub fn age(since: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    instant(since).map(|since| duration(now.since(since))).unwrap_or_default()
}

/// RFC 3339 in UTC, to the second.
pub fn second(at: Timestamp) -> String {
    let text = at.to_string();
    text.split_once('.').map_or_else(|| text.clone(), |(seconds, _)| format!("{seconds}Z"))
}

/// The two largest units at most: `45s`, `3m`, `5h`, `12d`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `512M`, `1.5G`; powers of 1,024.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];
    for (unit, size) in UNITS {
        if bytes >= size {
            let tenths = bytes.saturating_mul(10) / size;
            return if tenths < 100 && !tenths.is_multiple_of(10) {
                format!("{}.{}{unit}", tenths / 10, tenths % 10)
            } else {
                format!("{}{unit}", tenths / 10)
            };
        }
    }
    format!("{bytes}B")
}

/// Thousandths of a core: `0.25`, `2`.
pub fn cores(millis: u64) -> String {
    let (whole, rest) = (millis / 1000, millis % 1000);
    if rest == 0 {
        return whole.to_string();
    }
    format!("{whole}.{rest:03}").trim_end_matches('0').to_owned()
}

/// `37%`; empty when there is nothing to be a part of.
pub fn percent(part: u64, whole: u64) -> String {
    let percent = part.saturating_mul(100).checked_div(whole);
    percent.map(|percent| format!("{percent}%")).unwrap_or_default()
}

/// `k=v` pairs in order.
pub fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let mut pairs: Vec<String> = pairs.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.sort();
    pairs.join(",")
}

/// `PHASE_READY` → `ready`.
pub fn enum_word(name: &str, prefix: &str) -> String {
    let word = name.strip_prefix(prefix).unwrap_or(name).to_lowercase().replace('_', "-");
    if word == "unspecified" { String::new() } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_people_do() {
        for (seconds, text) in
            [(0, "0s"), (119, "119s"), (120, "2m"), (7_199, "119m"), (7_200, "2h"), (172_800, "2d")]
        {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
        for (amount, text) in
            [(0, "0B"), (1023, "1023B"), (1024, "1K"), (1536, "1.5K"), (512 << 20, "512M"), (3 << 29, "1.5G")]
        {
            assert_eq!(bytes(amount), text);
        }
        for (millis, text) in [(0, "0"), (250, "0.25"), (2000, "2"), (1001, "1.001")] {
            assert_eq!(cores(millis), text);
        }
        assert_eq!((percent(1, 3), percent(1, 0)), ("33%".to_owned(), String::new()));
        assert_eq!(enum_word("PHASE_READY", "PHASE_"), "ready");
        assert_eq!(enum_word("PHASE_UNSPECIFIED", "PHASE_"), "");
    }
}
