//! Docker's timestamps: RFC 3339 text with up to nine decimals, read to milliseconds.
//!
//! Invariant: text that is no such timestamp, or lies before 1970 (Docker's
//! `0001-01-01T00:00:00Z` means "never"), gives `None`.
//! Deliberately not here: a date library; these two shapes are all the engine writes.

use skein_common::Timestamp;

/// Reads `2026-11-23T15:01:01.007123456Z` or the same with an offset such as `+01:00`.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    let (date, time) = text.split_once('T')?;
    let zone_at = time.find(['Z', '+', '-'])?;
    let (time, zone) = time.split_at(zone_at);
    let seconds = days(date)? * 86_400 + second_of_day(time)? - offset_seconds(zone)?;
    let unix_ms = seconds.checked_mul(1000)?.checked_add(millis(time)?)?;
    u64::try_from(unix_ms).ok().map(Timestamp::from_unix_ms)
}

/// Days since 1970-01-01 (days-from-civil after Howard Hinnant).
fn days(date: &str) -> Option<i64> {
    let mut parts = date.split('-');
    let (year, month, day) = (number(parts.next()?)?, number(parts.next()?)?, number(parts.next()?)?);
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=31).contains(&day) || year > 9999 {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

fn second_of_day(time: &str) -> Option<i64> {
    let whole = time.split('.').next()?;
    let mut parts = whole.split(':');
    let (hour, minute, second) = (number(parts.next()?)?, number(parts.next()?)?, number(parts.next()?)?);
    let valid = parts.next().is_none() && hour < 24 && minute < 60 && second <= 60;
    valid.then_some(hour * 3600 + minute * 60 + second)
}

fn millis(time: &str) -> Option<i64> {
    let Some((_, decimals)) = time.split_once('.') else { return Some(0) };
    let read = number(decimals.get(..decimals.len().min(3))?)?;
    let missing = 3_usize.saturating_sub(decimals.len());
    Some(read * 10_i64.pow(u32::try_from(missing).ok()?))
}

fn offset_seconds(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let seconds = number(hours)? * 3600 + number(minutes)? * 60;
    Some(if zone.starts_with('-') { -seconds } else { seconds })
}

fn number(digits: &str) -> Option<i64> {
    let valid = !digits.is_empty() && digits.len() <= 9 && digits.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_docker_writes() {
        for (text, unix_ms) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T00:00:00.5Z", Some(951_782_400_500)),
            ("2026-11-23T15:01:01.007123456Z", Some(1_795_446_061_007)),
            ("2026-11-23T16:01:01.007+01:00", Some(1_795_446_061_007)),
            ("2026-11-23T10:31:01.007-04:30", Some(1_795_446_061_007)),
            ("0001-01-01T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-11-23T24:00:00Z", None),
            ("2026-11-23 15:01:01Z", None),
            ("2026-11-23T15:01Z", None),
            ("", None),
            ("T", None),
            ("ünlesbarTZ", None),
        ] {
            assert_eq!(parse(text).map(Timestamp::unix_ms), unix_ms, "{text}");
        }
    }

    #[test]
    fn what_we_print_we_read() {
        for unix_ms in [0, 1, 951_782_399_999, 1_709_164_800_000, 1_795_446_061_007, 4_102_444_800_000] {
            let at = Timestamp::from_unix_ms(unix_ms);
            assert_eq!(parse(&at.to_string()), Some(at));
        }
    }
}
