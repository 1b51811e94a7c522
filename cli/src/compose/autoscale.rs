//! `x-skein.autoscale`: how many instances the masters keep.
//!
//! Invariant: what is left out is the API's default; numbers are read exactly, in thousandths.

use std::time::Duration;

use skein_common::{
    Violations,
    service::{
        AutoscaleMode, AutoscalePolicy, Combination, DEFAULT_RATE_PERIOD, Metric, RateAmount, RatePolicy,
        RateSelect, ScaleRules, ScheduledFloor,
    },
};

use super::{
    Diagnostic,
    diagnostic::{Position, Report},
    field::{Field, Section},
    keys,
    origin::Origins,
    yaml::{self, Value},
};

/// Of a policy by itself that names none.
const MAX_ALONE: u32 = 100_000;

/// A policy by itself: its keys at the top of the file, or below `x-skein.autoscale` or `autoscale`.
///
/// # Errors
/// Everything that is wrong with it, with its line and column.
pub fn policy(name: &str, text: &str) -> Result<AutoscalePolicy, Vec<Diagnostic>> {
    let mut report = Report::new(vec![name.to_owned()]);
    let policy = alone(text, &mut report);
    let wrong = report.errors() > 0;
    let found = report.into_diagnostics();
    policy.filter(|_| !wrong).ok_or(found)
}

fn alone(text: &str, report: &mut Report) -> Option<AutoscalePolicy> {
    let root = match yaml::parse(text, 0) {
        Ok((Some(root), problems)) if problems.is_empty() => root,
        Ok((None, _)) => {
            report.error_of_file("the file is empty");
            return None;
        }
        Ok((_, problems)) => {
            for problem in problems {
                report.error(problem.at, "", problem.message);
            }
            return None;
        }
        Err(problem) => {
            report.error(problem.at, "", problem.message);
            return None;
        }
    };
    let mut field = Field { path: String::new(), at: Position::start_of(0), node: &root };
    for key in ["x-skein", "autoscale"] {
        if let Some(inner) = field.map().and_then(|section| section.get(key)) {
            field = inner;
        }
    }
    let mut origins = Origins::default();
    let policy = read_with(&field, Some(MAX_ALONE), &mut origins, report)?;
    let mut found = Violations::default();
    policy.check("spec.autoscale", &mut found);
    for violation in found.0 {
        if let Some(origin) = origins.find(&violation.field) {
            report.error(origin.at, &origin.path, violation.description);
        }
    }
    Some(policy)
}

/// The policy, with the place of everything the cluster may complain of.
pub fn read(field: &Field<'_>, origins: &mut Origins, report: &mut Report) -> Option<AutoscalePolicy> {
    let policy = read_with(field, None, origins, report)?;
    field.warn(
        report,
        "is checked and kept, but nothing follows it in this version: the service has its replicas; try the policy \
         with skein simulate autoscale",
    );
    Some(policy)
}

fn read_with(
    field: &Field<'_>,
    max: Option<u32>,
    origins: &mut Origins,
    report: &mut Report,
) -> Option<AutoscalePolicy> {
    origins.add("spec.autoscale", &field.path, field.node.at);
    let section = field.section(keys::AUTOSCALE, report)?;
    for (key, field) in section.all() {
        origins.add(format!("spec.autoscale.{key}"), &field.path, field.node.at);
    }
    let max = match (section.get("max"), max) {
        (Some(max), _) => max.count(1, report)?,
        (None, Some(max)) => max,
        (None, None) => {
            field.error(report, "max is required: the largest number of instances");
            return None;
        }
    };
    let mut policy = AutoscalePolicy::new(max);
    for (key, into) in [("min", &mut policy.min), ("activation", &mut policy.activation)] {
        if let Some(given) = section.get(key).and_then(|field| field.count(0, report)) {
            *into = given;
        }
    }
    let modes = AutoscaleMode::ALL.map(|mode| (mode.name(), mode));
    policy.mode = section.get("mode").and_then(|field| field.choice(&modes, report)).unwrap_or_default();
    if let Some(field) = section.get("targets") {
        targets(&field, &mut policy, origins, report);
    }
    policy.capacity_milli = section.get("capacity").and_then(|field| milli(&field, "", report));
    combination(&section, &mut policy, report);
    tolerance(&section, &mut policy, report);
    if let Some(field) = section.get("up") {
        rules(&field, &mut policy.up, report);
    }
    if let Some(field) = section.get("down") {
        rules(&field, &mut policy.down, report);
    }
    duration(&section, "cooldown", &mut policy.cooldown, report);
    duration(&section, "warm_up", &mut policy.warm_up, report);
    if let Some(field) = section.get("burst") {
        burst(&field, &mut policy, report);
    }
    for item in section.get("floors").map(|field| field.one_or_more()).unwrap_or_default() {
        policy.floors.extend(floor(&item, policy.floors.len(), origins, report));
    }
    if let Some(field) = section.get("forecast") {
        forecast(&field, &mut policy, report);
    }
    check_times(&policy, origins, report);
    Some(policy)
}

/// Lines and zones are wrong at their place of the file.
fn check_times(policy: &AutoscalePolicy, origins: &Origins, report: &mut Report) {
    let mut found = Violations::default();
    policy.check_times("spec.autoscale", &mut found);
    for violation in found.0 {
        if let Some(origin) = origins.find(&violation.field) {
            report.error(origin.at, &origin.path, violation.description);
        }
    }
}

fn targets(field: &Field<'_>, policy: &mut AutoscalePolicy, origins: &mut Origins, report: &mut Report) {
    let Some(section) = field.section(keys::AUTOSCALE_TARGETS, report) else { return };
    for (key, metric, unit) in [
        ("cpu", Metric::Cpu, "%"),
        ("memory", Metric::Memory, "%"),
        ("requests", Metric::Requests, ""),
        ("in_flight", Metric::InFlight, ""),
        ("load", Metric::Load, "%"),
    ] {
        let Some(field) = section.get(key) else { continue };
        origins.add(format!("spec.autoscale.targets.{key}"), &field.path, field.node.at);
        if let Some(value_milli) = milli(&field, unit, report) {
            policy.targets.push(skein_common::service::Target { metric, value_milli });
        }
    }
    if let Some(field) = section.get("latency_p95") {
        origins.add("spec.autoscale.targets.latency_p95", &field.path, field.node.at);
        if let Some(latency) = field.duration(report) {
            let value_milli = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            policy.targets.push(skein_common::service::Target { metric: Metric::LatencyP95, value_milli });
        }
    }
}

/// `combine: max` or `weighted`; `alpha` or `beta` alone mean weighted, and leave the rest of 1 to the other.
fn combination(section: &Section<'_>, policy: &mut AutoscalePolicy, report: &mut Report) {
    let choices = [("max", false), ("weighted", true)];
    let weighted = section.get("combine").and_then(|field| field.choice(&choices, report));
    let mut weight = |key: &str| {
        let milli = section.get(key).and_then(|field| milli(&field, "", report))?;
        Some(u32::try_from(milli).unwrap_or(u32::MAX))
    };
    let (alpha, beta) = (weight("alpha"), weight("beta"));
    let rest = |one: u32| 1000u32.saturating_sub(one);
    let (alpha_permille, beta_permille) = match (alpha, beta) {
        (Some(alpha), Some(beta)) => (alpha, beta),
        (Some(alpha), None) => (alpha, rest(alpha)),
        (None, Some(beta)) => (rest(beta), beta),
        (None, None) if weighted == Some(true) => (500, 500),
        (None, None) => return,
    };
    if weighted == Some(false) {
        if let Some(field) = section.get("combine") {
            field.error(report, "alpha and beta are nothing to max: leave them out, or combine: weighted");
        }
        return;
    }
    policy.combination = Combination::Weighted { alpha_permille, beta_permille };
}

/// One for both directions, or `{ up, down }`.
fn tolerance(section: &Section<'_>, policy: &mut AutoscalePolicy, report: &mut Report) {
    let Some(field) = section.get("tolerance") else { return };
    let (up, down) = if matches!(field.node.value, Value::Map(_)) {
        let Some(section) = field.section(keys::AUTOSCALE_TOLERANCE, report) else { return };
        let up = section.get("up").and_then(|field| part(&field, report));
        (up, section.get("down").and_then(|field| part(&field, report)))
    } else {
        let both = part(&field, report);
        (both, both)
    };
    policy.tolerance_up_permille = up.unwrap_or(policy.tolerance_up_permille);
    policy.tolerance_down_permille = down.unwrap_or(policy.tolerance_down_permille);
}

/// A part of 1, in thousandths; a percentage says the same.
fn part(field: &Field<'_>, report: &mut Report) -> Option<u16> {
    let percentage = matches!(&field.node.value, Value::Scalar(scalar) if scalar.text.trim().ends_with('%'));
    let milli = milli(field, "%", report)? / if percentage { 100 } else { 1 };
    Some(u16::try_from(milli).unwrap_or(u16::MAX))
}

fn rules(field: &Field<'_>, rules: &mut ScaleRules, report: &mut Report) {
    let Some(section) = field.section(keys::SCALE_RULES, report) else { return };
    duration(&section, "window", &mut rules.window, report);
    let selects = [("max", RateSelect::Max), ("min", RateSelect::Min), ("disabled", RateSelect::Disabled)];
    if let Some(select) = section.get("select").and_then(|field| field.choice(&selects, report)) {
        rules.select = select;
    }
    let Some(field) = section.get("policies") else { return };
    rules.policies = field.one_or_more().iter().filter_map(|item| rate(item, report)).collect();
}

/// `{ instances, period }` or `{ percent, period }`.
fn rate(item: &Field<'_>, report: &mut Report) -> Option<RatePolicy> {
    let section = item.section(keys::RATE_POLICY, report)?;
    let amount = match (section.get("instances"), section.get("percent")) {
        (Some(number), None) => RateAmount::Instances(number.count(1, report)?),
        (None, Some(percent)) => RateAmount::Percent(whole_percent(&percent, report)?),
        _ => {
            item.error(report, "expected either instances or percent");
            return None;
        }
    };
    let mut period = DEFAULT_RATE_PERIOD;
    duration(&section, "period", &mut period, report);
    Some(RatePolicy { amount, period })
}

/// `off`, or `{ threshold, window }`.
fn burst(field: &Field<'_>, policy: &mut AutoscalePolicy, report: &mut Report) {
    if !matches!(field.node.value, Value::Map(_)) {
        if field.choice(&[("off", ()), ("false", ())], report).is_some() {
            policy.burst.threshold_percent = 0;
        }
        return;
    }
    let Some(section) = field.section(keys::BURST, report) else { return };
    if let Some(percent) = section.get("threshold").and_then(|field| whole_percent(&field, report)) {
        policy.burst.threshold_percent = percent;
    }
    duration(&section, "window", &mut policy.burst.window, report);
}

fn floor(
    item: &Field<'_>,
    position: usize,
    origins: &mut Origins,
    report: &mut Report,
) -> Option<ScheduledFloor> {
    let section = item.section(keys::FLOOR, report)?;
    origins.add(format!("spec.autoscale.floors[{position}]"), &item.path, item.node.at);
    for (key, wire) in [("cron", "cron"), ("time_zone", "time_zone"), ("for", "lasts"), ("min", "min")] {
        if let Some(field) = section.get(key) {
            origins.add(format!("spec.autoscale.floors[{position}].{wire}"), &field.path, field.node.at);
        }
    }
    let (Some(cron), Some(lasts), Some(min)) = (section.get("cron"), section.get("for"), section.get("min"))
    else {
        item.error(report, "cron, for and min are required: when it begins, how long it lasts, how many");
        return None;
    };
    Some(ScheduledFloor {
        cron: cron.text(report)?,
        time_zone: section.get("time_zone").and_then(|field| field.text(report)).unwrap_or_default(),
        lasts: lasts.duration(report)?,
        min: min.count(0, report)?,
    })
}

fn forecast(field: &Field<'_>, policy: &mut AutoscalePolicy, report: &mut Report) {
    let Some(section) = field.section(keys::FORECAST, report) else { return };
    if let Some(quantile) = section.get("quantile").and_then(|field| field.permille(report)) {
        policy.forecast.quantile_permille = quantile;
    }
    policy.forecast.horizon = section.get("horizon").and_then(|field| field.duration(report));
    policy.forecast.only = section.get("only").and_then(|field| field.boolean(report)).unwrap_or_default();
}

/// `200%` or `200`.
fn whole_percent(field: &Field<'_>, report: &mut Report) -> Option<u32> {
    let milli = milli(field, "%", report)?;
    Some(u32::try_from(milli.div_ceil(1000)).unwrap_or(u32::MAX))
}

/// A number that is not negative, in thousandths; `unit` may follow it.
fn milli(field: &Field<'_>, unit: &str, report: &mut Report) -> Option<u64> {
    let example = if unit.is_empty() { "12.5" } else { "80%" };
    let scalar = field.scalar(&format!("a number such as {example}"), report)?;
    let text = scalar.text.trim();
    let bare = if unit.is_empty() { text } else { text.strip_suffix(unit).unwrap_or(text).trim_end() };
    let (whole, fraction) = bare.split_once('.').unwrap_or((bare, ""));
    let digits = |part: &str| part.len() <= 12 && part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        field.error(report, format!("{text:?} is not a number such as {example}"));
        return None;
    }
    let thousandths: String = fraction.chars().chain("000".chars()).take(3).collect();
    let milli = whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(thousandths.parse().ok()?)?;
    Some(milli)
}

fn duration(section: &Section<'_>, key: &str, into: &mut Duration, report: &mut Report) {
    if let Some(given) = section.get(key).and_then(|field| field.duration(report)) {
        *into = given;
    }
}
