//! `x-skein.schedule`: when a job runs by itself.
//!
//! Invariant: a line or a zone that is none is an error at its place in the file.

use skein_common::{
    Violations,
    service::{Concurrency, MissedRuns, Schedule},
};

use super::{diagnostic::Report, field::Field, keys, origin::Origins, yaml::Value};

/// A cron line, or a map with one.
pub fn read(field: &Field<'_>, origins: &mut Origins, report: &mut Report) -> Option<Schedule> {
    let schedule = if matches!(field.node.value, Value::Map(_)) {
        whole(field, origins, report)?
    } else {
        Schedule::new(field.text(report)?)
    };
    let mut found = Violations::default();
    schedule.check_times(&mut found);
    for violation in found.0 {
        if let Some(origin) = origins.find(&violation.field) {
            report.error(origin.at, &origin.path, violation.description);
        }
    }
    Some(schedule)
}

fn whole(field: &Field<'_>, origins: &mut Origins, report: &mut Report) -> Option<Schedule> {
    let section = field.section(keys::SCHEDULE, report)?;
    let Some(line) = section.get("cron") else {
        field.error(report, "cron is required: a line such as \"30 2 * * *\", or @daily");
        return None;
    };
    for key in ["cron", "time_zone", "starting_deadline", "keep_completed", "keep_failed"] {
        if let Some(field) = section.get(key) {
            origins.add(format!("spec.schedule.{key}"), &field.path, field.node.at);
        }
    }
    let mut schedule = Schedule::new(line.text(report)?);
    let concurrency =
        [("allow", Concurrency::Allow), ("forbid", Concurrency::Forbid), ("replace", Concurrency::Replace)];
    let missed = [("run_once", MissedRuns::RunOnce), ("skip", MissedRuns::Skip)];
    let choice = section.get("concurrency").and_then(|field| field.choice(&concurrency, report));
    schedule.concurrency = choice.unwrap_or_default();
    schedule.missed =
        section.get("missed").and_then(|field| field.choice(&missed, report)).unwrap_or_default();
    schedule.time_zone = section.get("time_zone").and_then(|field| field.text(report)).unwrap_or_default();
    schedule.starting_deadline = section.get("starting_deadline").and_then(|field| field.duration(report));
    schedule.suspend = section.get("suspend").and_then(|field| field.boolean(report)).unwrap_or_default();
    let completed = section.get("keep_completed").and_then(|field| field.count(0, report));
    schedule.keep_completed = completed.unwrap_or(schedule.keep_completed);
    let failed = section.get("keep_failed").and_then(|field| field.count(0, report));
    schedule.keep_failed = failed.unwrap_or(schedule.keep_failed);
    Some(schedule)
}
