//! A schedule as times: the one place that knows the cron and the time zone library.
//!
//! Invariant: whole seconds; a calendar that was made has a time to come.

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{Zoned, tz::TimeZone, tz::TimeZoneDatabase};

use super::Schedule;
use crate::Timestamp;

/// From which a line must have a time to come: the choice of a day decides nothing.
const PROBE: Timestamp = Timestamp::from_unix_ms(1_767_225_600_000);

/// The times of a schedule.
#[derive(Debug, Clone)]
pub struct Calendar {
    cron: Cron,
    zone: TimeZone,
}

/// Why a schedule has no times.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoCalendar {
    #[error("{line:?} is no cron line: {reason}")]
    Line { line: String, reason: String },
    #[error("{zone:?} is not a time zone: expected an IANA name such as Europe/Berlin")]
    Zone { zone: String },
    #[error("{line:?} never comes")]
    Never { line: String },
}

impl NoCalendar {
    /// The field of the spec that is wrong.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Line { .. } | Self::Never { .. } => "spec.schedule.cron",
            Self::Zone { .. } => "spec.schedule.time_zone",
        }
    }
}

impl Calendar {
    /// # Errors
    /// When the line or the zone is none, or the line never comes.
    pub fn of(schedule: &Schedule) -> Result<Self, NoCalendar> {
        let line = schedule.cron.trim().to_owned();
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = match parser.parse(&line) {
            Ok(cron) => cron,
            Err(error) => return Err(NoCalendar::Line { line, reason: error.to_string() }),
        };
        let zone = match schedule.time_zone.as_str() {
            "" => TimeZone::UTC,
            name => TimeZoneDatabase::bundled()
                .get(name)
                .map_err(|_| NoCalendar::Zone { zone: name.to_owned() })?,
        };
        let calendar = Self { cron, zone };
        match calendar.after(PROBE) {
            Some(_) => Ok(calendar),
            None => Err(NoCalendar::Never { line }),
        }
    }

    /// The first time after `at`.
    #[must_use]
    pub fn after(&self, at: Timestamp) -> Option<Timestamp> {
        let found = self.cron.find_next_occurrence(&self.zoned(at)?, false).ok()?;
        timestamp(&found)
    }

    /// The last time up to `at`, itself included.
    #[must_use]
    pub fn latest(&self, at: Timestamp) -> Option<Timestamp> {
        let found = self.cron.find_previous_occurrence(&self.zoned(at)?, true).ok()?;
        timestamp(&found)
    }

    /// Whole seconds: the line knows no smaller ones.
    fn zoned(&self, at: Timestamp) -> Option<Zoned> {
        let seconds = i64::try_from(at.unix_ms() / 1000).ok()?;
        Some(jiff::Timestamp::from_second(seconds).ok()?.to_zoned(self.zone.clone()))
    }
}

fn timestamp(zoned: &Zoned) -> Option<Timestamp> {
    let seconds = u64::try_from(zoned.timestamp().as_second()).ok()?;
    Some(Timestamp::from_unix_ms(seconds.checked_mul(1000)?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(text: &str) -> Timestamp {
        let time: jiff::Timestamp = text.parse().expect("a time");
        Timestamp::from_unix_ms(u64::try_from(time.as_millisecond()).expect("after 1970"))
    }

    fn calendar(line: &str, zone: &str) -> Calendar {
        let schedule = Schedule { time_zone: zone.to_owned(), ..Schedule::new(line) };
        Calendar::of(&schedule).unwrap_or_else(|error| panic!("{line} {zone}: {error}"))
    }

    fn times(line: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let calendar = calendar(line, zone);
        let mut now = at(from);
        let mut found = Vec::new();
        for _ in 0..count {
            now = calendar.after(now).expect("another time");
            found.push(now.to_string().replace(":00.000Z", "Z").replace("2026-", ""));
        }
        found
    }

    #[test]
    fn lines_say_when() {
        for (line, from, then) in [
            ("30 2 * * *", "2026-11-23T21:00:00Z", vec!["11-24T02:30Z", "11-25T02:30Z"]),
            ("*/20 9-10 * * *", "2026-11-23T09:45:00Z", vec!["11-23T10:00Z", "11-23T10:20Z", "11-23T10:40Z"]),
            ("0 0 * * mon-fri", "2026-11-27T12:00:00Z", vec!["11-30T00:00Z", "12-01T00:00Z"]),
            // Both day fields restricted: either will do.
            ("0 0 13 * fri", "2026-11-10T00:00:00Z", vec!["11-13T00:00Z", "11-20T00:00Z"]),
            ("0 0 L * *", "2026-11-01T00:00:00Z", vec!["11-30T00:00Z", "12-31T00:00Z"]),
            ("0 12 * feb,nov 1#1", "2026-01-01T00:00:00Z", vec!["02-02T12:00Z", "11-02T12:00Z"]),
            ("@daily", "2026-11-23T00:00:00Z", vec!["11-24T00:00Z"]),
            ("@hourly", "2026-11-23T00:00:00Z", vec!["11-23T01:00Z"]),
            ("*/30 * * * * *", "2026-11-23T00:00:00Z", vec!["11-23T00:00:30.000Z", "11-23T00:01Z"]),
            ("  5 4 * * sun ", "2026-11-23T00:00:00Z", vec!["11-29T04:05Z"]),
            // A leap day, and the zone's own day.
            ("0 0 29 2 *", "2026-11-23T00:00:00Z", vec!["2028-02-29T00:00Z"]),
        ] {
            assert_eq!(times(line, "", from, then.len()), then, "{line}");
        }
    }

    /// Berlin skips 02:00–03:00 on 29 March 2026 and has it twice on 25 October.
    #[test]
    fn daylight_saving_time() {
        let berlin = "Europe/Berlin";
        for (line, from, then) in [
            // Fixed: at the first moment after the gap, and as usual on the next day.
            ("30 2 * * *", "2026-03-28T12:00:00Z", vec!["03-29T01:00Z", "03-30T00:30Z"]),
            ("30 1 * * *", "2026-03-28T12:00:00Z", vec!["03-29T00:30Z", "03-29T23:30Z"]),
            // By the clock on the wall: what does not exist is not made up for.
            ("*/30 * * * *", "2026-03-29T00:00:00Z", vec!["03-29T00:30Z", "03-29T01:00Z", "03-29T01:30Z"]),
            ("30 * * * *", "2026-03-29T00:00:00Z", vec!["03-29T00:30Z", "03-29T01:30Z"]),
            // Fixed: once, at its first occurrence.
            ("30 2 * * *", "2026-10-24T12:00:00Z", vec!["10-25T00:30Z", "10-26T01:30Z"]),
            // By the clock on the wall: both times.
            ("30 * * * *", "2026-10-24T23:45:00Z", vec!["10-25T00:30Z", "10-25T01:30Z", "10-25T02:30Z"]),
        ] {
            assert_eq!(times(line, berlin, from, then.len()), then, "{line} from {from}");
        }
        assert_eq!(times("0 9 * * *", "America/New_York", "2026-07-01T00:00:00Z", 1), ["07-01T13:00Z"]);
        assert_eq!(times("0 9 * * *", "Asia/Kolkata", "2026-07-01T00:00:00Z", 1), ["07-01T03:30Z"]);
    }

    /// Going back from anywhere meets the same times as going forward.
    #[test]
    fn forward_and_backward_agree() {
        for (line, zone) in [
            ("30 2 * * *", "Europe/Berlin"),
            ("*/20 * * * *", "Europe/Berlin"),
            ("15 1-3 * * *", "America/New_York"),
            ("0 0 * * *", "Africa/Cairo"),
            ("0 */6 * * *", "Australia/Lord_Howe"),
            ("0 0 1 * *", ""),
        ] {
            let calendar = calendar(line, zone);
            let mut now = at("2026-01-01T00:00:00Z");
            for _ in 0..1_500 {
                let next = calendar.after(now).expect("another time");
                assert!(next > now, "{line} {zone}: {next} after {now}");
                assert_eq!(calendar.latest(next), Some(next), "{line} {zone}");
                let before = next - Duration::from_secs(1);
                let latest = calendar.latest(before).expect("a time before");
                assert!(latest <= now.max(latest) && latest < next, "{line} {zone}: {latest} before {next}");
                assert_eq!(calendar.after(latest), Some(next), "{line} {zone} after {latest}");
                now = next;
            }
        }
    }

    #[test]
    fn what_is_no_schedule() {
        for (line, zone, field, says) in [
            ("x", "", "spec.schedule.cron", "is no cron line"),
            ("61 * * * *", "", "spec.schedule.cron", "is no cron line"),
            ("* * * *", "", "spec.schedule.cron", "is no cron line"),
            ("* * * * * * *", "", "spec.schedule.cron", "is no cron line"),
            ("@fortnightly", "", "spec.schedule.cron", "is no cron line"),
            ("@reboot", "", "spec.schedule.cron", "is no cron line"),
            ("0 0 30 2 *", "", "spec.schedule.cron", "never comes"),
            ("@daily", "Europe/Bielefeld", "spec.schedule.time_zone", "is not a time zone"),
            ("@daily", "../etc/passwd", "spec.schedule.time_zone", "is not a time zone"),
        ] {
            let schedule = Schedule { time_zone: zone.to_owned(), ..Schedule::new(line) };
            let error = Calendar::of(&schedule).expect_err(line);
            assert_eq!(error.field(), field, "{line}");
            assert!(error.to_string().contains(says), "{line}: {error}");
        }
    }

    #[test]
    fn runs_are_called_by_their_time() {
        for (time, name) in [
            ("2026-11-23T21:15:00Z", "backup-20261123t2115"),
            ("2026-11-23T21:15:07Z", "backup-20261123t211507"),
            ("2026-11-23T21:00:00.250Z", "backup-20261123t2100"),
        ] {
            assert_eq!(Schedule::run_name("backup", at(time)), name);
        }
    }
}
