//! Autoscaling policies. Written by users, so every violation is collected.
//!
//! Invariant: a number that is none (NaN, infinite, negative, too large) is a violation, never a guess.

use std::time::Duration;

use skein_common::{
    Violations,
    service::{
        AutoscaleMode, AutoscalePolicy, BurstPolicy, Combination, DEFAULT_RATE_PERIOD, ForecastPolicy,
        Metric, RateAmount, RatePolicy, RateSelect, ScaleRules, ScheduledFloor, Spread, Target,
    },
};

use super::{duration_to_wire, service::Door};
use crate::v1;

/// Larger numbers lose their thousandths.
const MAX_NUMBER: f64 = 1e12;

/// The policy in `field`, such as `spec.autoscale`.
pub(super) fn autoscale_policy(door: &mut Door<'_>, at: &str, wire: v1::AutoscalePolicy) -> AutoscalePolicy {
    let defaults = AutoscalePolicy::new(wire.max);
    let tolerance = door.tolerance(&format!("{at}.tolerance"), wire.tolerance);
    let up = door.tolerance(&format!("{at}.tolerance_up"), wire.tolerance_up).or(tolerance);
    let down = door.tolerance(&format!("{at}.tolerance_down"), wire.tolerance_down).or(tolerance);
    let duration = |door: &mut Door<'_>, leaf: &str, wire, default| {
        door.duration(&format!("{at}.{leaf}"), wire).unwrap_or(default)
    };
    AutoscalePolicy {
        min: wire.min.unwrap_or(defaults.min),
        max: wire.max,
        mode: mode(door, at, wire.mode),
        targets: wire.targets.map(|wire| targets(door, &format!("{at}.targets"), wire)).unwrap_or_default(),
        capacity_milli: door.milli(&format!("{at}.capacity"), wire.capacity),
        combination: combination(door, at, wire.combination, wire.alpha, wire.beta),
        tolerance_up_permille: up.unwrap_or(defaults.tolerance_up_permille),
        tolerance_down_permille: down.unwrap_or(defaults.tolerance_down_permille),
        up: wire.up.map_or(defaults.up, |wire| rules(door, &format!("{at}.up"), wire, ScaleRules::up())),
        down: wire
            .down
            .map_or(defaults.down, |wire| rules(door, &format!("{at}.down"), wire, ScaleRules::down())),
        cooldown: duration(door, "cooldown", wire.cooldown, defaults.cooldown),
        burst: BurstPolicy {
            threshold_percent: wire.burst_threshold_percent.unwrap_or(defaults.burst.threshold_percent),
            window: duration(door, "burst_window", wire.burst_window, defaults.burst.window),
        },
        activation: wire.activation.unwrap_or(defaults.activation),
        warm_up: duration(door, "warm_up", wire.warm_up, defaults.warm_up),
        floors: (0..).zip(wire.floors).map(|(position, wire)| floor(door, at, position, wire)).collect(),
        forecast: wire.forecast.map(|wire| forecast(door, at, wire)).unwrap_or_default(),
    }
}

impl TryFrom<v1::AutoscalePolicy> for AutoscalePolicy {
    type Error = Violations;

    /// A policy by itself, in a field called `policy`.
    fn try_from(wire: v1::AutoscalePolicy) -> Result<Self, Violations> {
        let mut found = Violations::default();
        let policy = autoscale_policy(&mut Door { found: &mut found }, "policy", wire);
        policy.check("policy", &mut found);
        policy.check_times("policy", &mut found);
        found.into_result(policy)
    }
}

impl Door<'_> {
    /// A number of something, in thousandths.
    fn milli(&mut self, field: &str, number: Option<f64>) -> Option<u64> {
        let number = number?;
        if !(0.0..=MAX_NUMBER).contains(&number) {
            self.found.add(field, format!("{number} is not a number from 0 to {MAX_NUMBER}"));
            return None;
        }
        // Not 0 by rounding: that would be another complaint.
        let milli = if number > 0.0 { (number * 1000.0).round().max(1.0) } else { 0.0 };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Some(milli as u64)
    }

    fn permille(&mut self, field: &str, number: Option<f64>) -> Option<u32> {
        let milli = self.milli(field, number)?;
        u32::try_from(milli).map_err(|_| self.found.add(field, "is more than anyone needs")).ok()
    }

    fn tolerance(&mut self, field: &str, number: Option<f64>) -> Option<u16> {
        let permille = self.permille(field, number)?;
        u16::try_from(permille).map_err(|_| self.found.add(field, "is more than 10")).ok()
    }
}

fn mode(door: &mut Door<'_>, at: &str, number: i32) -> AutoscaleMode {
    match door.known(&format!("{at}.mode"), number, v1::AutoscaleMode::try_from(number)) {
        Some(v1::AutoscaleMode::Reactive) => AutoscaleMode::Reactive,
        Some(v1::AutoscaleMode::Predictive) => AutoscaleMode::Predictive,
        Some(v1::AutoscaleMode::Schedule) => AutoscaleMode::Schedule,
        Some(v1::AutoscaleMode::Off) => AutoscaleMode::Off,
        Some(v1::AutoscaleMode::Hybrid | v1::AutoscaleMode::Unspecified) | None => AutoscaleMode::Hybrid,
    }
}

fn targets(door: &mut Door<'_>, at: &str, wire: v1::AutoscaleTargets) -> Vec<Target> {
    let latency = door.duration(&format!("{at}.latency_p95"), wire.latency_p95);
    let latency_ms = latency.map(|latency| latency.as_secs_f64() * 1000.0);
    let mut found: Vec<Target> = [
        (Metric::Cpu, wire.cpu_percent),
        (Metric::Memory, wire.memory_percent),
        (Metric::Requests, wire.requests_per_second),
        (Metric::InFlight, wire.in_flight),
        (Metric::LatencyP95, latency_ms),
        (Metric::Load, wire.load_percent),
    ]
    .into_iter()
    .filter_map(|(metric, value)| {
        let value_milli = door.milli(&format!("{at}.{metric}"), value)?;
        Some(Target { metric, value_milli })
    })
    .collect();
    for external in wire.external {
        let field = format!("{at}.external[{}]", external.name);
        let (spread, value) = match external.target {
            Some(v1::external_target::Target::Value(value)) => (Spread::Whole, value),
            Some(v1::external_target::Target::AverageValue(value)) => (Spread::Each, value),
            None => {
                door.found.add(field, "value or average_value is required");
                continue;
            }
        };
        let metric = Metric::External { name: external.name, spread };
        found.extend(door.milli(&field, Some(value)).map(|value_milli| Target { metric, value_milli }));
    }
    found
}

fn combination(
    door: &mut Door<'_>,
    at: &str,
    number: i32,
    alpha: Option<f64>,
    beta: Option<f64>,
) -> Combination {
    use v1::AutoscaleCombination as Wire;
    let known = door.known(&format!("{at}.combination"), number, Wire::try_from(number));
    let alpha = door.permille(&format!("{at}.alpha"), alpha);
    let beta = door.permille(&format!("{at}.beta"), beta);
    let weighted = |alpha, beta| Combination::Weighted { alpha_permille: alpha, beta_permille: beta };
    let rest = |one: u32| 1000u32.saturating_sub(one);
    match (known, alpha, beta) {
        (Some(Wire::Max), ..) | (Some(Wire::Unspecified) | None, None, None) => Combination::Largest,
        (_, Some(alpha), Some(beta)) => weighted(alpha, beta),
        (_, Some(alpha), None) => weighted(alpha, rest(alpha)),
        (_, None, Some(beta)) => weighted(rest(beta), beta),
        (Some(Wire::Weighted), None, None) => weighted(500, 500),
    }
}

fn rules(door: &mut Door<'_>, at: &str, wire: v1::ScaleRules, defaults: ScaleRules) -> ScaleRules {
    let known = v1::RateSelect::try_from(wire.select);
    let select = match door.known(&format!("{at}.select"), wire.select, known) {
        Some(v1::RateSelect::Min) => RateSelect::Min,
        Some(v1::RateSelect::Disabled) => RateSelect::Disabled,
        Some(v1::RateSelect::Max | v1::RateSelect::Unspecified) | None => RateSelect::Max,
    };
    let policies: Vec<RatePolicy> = (0..)
        .zip(wire.policies)
        .filter_map(|(position, wire): (usize, v1::RatePolicy)| {
            let field = format!("{at}.policies[{position}]");
            let period = door.duration(&format!("{field}.period"), wire.period);
            let amount = match wire.amount {
                Some(v1::rate_policy::Amount::Instances(number)) => RateAmount::Instances(number),
                Some(v1::rate_policy::Amount::Percent(number)) => RateAmount::Percent(number),
                None => {
                    door.found.add(field, "instances or percent is required");
                    return None;
                }
            };
            Some(RatePolicy { amount, period: period.unwrap_or(DEFAULT_RATE_PERIOD) })
        })
        .collect();
    ScaleRules {
        window: door.duration(&format!("{at}.window"), wire.window).unwrap_or(defaults.window),
        select,
        policies: if policies.is_empty() { defaults.policies } else { policies },
    }
}

fn floor(door: &mut Door<'_>, at: &str, position: usize, wire: v1::ScheduledFloor) -> ScheduledFloor {
    let field = format!("{at}.floors[{position}].lasts");
    ScheduledFloor {
        cron: wire.cron,
        time_zone: wire.time_zone,
        lasts: door.duration(&field, wire.lasts).unwrap_or(Duration::ZERO),
        min: wire.min,
    }
}

fn forecast(door: &mut Door<'_>, at: &str, wire: v1::ForecastPolicy) -> ForecastPolicy {
    let defaults = ForecastPolicy::default();
    let quantile = door.tolerance(&format!("{at}.forecast.quantile"), wire.quantile);
    ForecastPolicy {
        quantile_permille: quantile.unwrap_or(defaults.quantile_permille),
        horizon: door.duration(&format!("{at}.forecast.horizon"), wire.horizon),
        only: wire.only,
    }
}

/// Exact below 2^53.
#[allow(clippy::cast_precision_loss)]
fn number(milli: u64) -> f64 {
    milli as f64 / 1000.0
}

impl From<&AutoscalePolicy> for v1::AutoscalePolicy {
    fn from(policy: &AutoscalePolicy) -> Self {
        let (combination, weights) = match policy.combination {
            Combination::Largest => (v1::AutoscaleCombination::Max, None),
            Combination::Weighted { alpha_permille, beta_permille } => {
                (v1::AutoscaleCombination::Weighted, Some((alpha_permille, beta_permille)))
            }
        };
        Self {
            min: Some(policy.min),
            max: policy.max,
            mode: v1::AutoscaleMode::from(policy.mode).into(),
            targets: (!policy.targets.is_empty()).then(|| targets_to_wire(&policy.targets)),
            capacity: policy.capacity_milli.map(number),
            combination: combination.into(),
            alpha: weights.map(|(alpha, _)| number(alpha.into())),
            beta: weights.map(|(_, beta)| number(beta.into())),
            tolerance: None,
            tolerance_up: Some(number(policy.tolerance_up_permille.into())),
            tolerance_down: Some(number(policy.tolerance_down_permille.into())),
            up: Some((&policy.up).into()),
            down: Some((&policy.down).into()),
            cooldown: Some(duration_to_wire(policy.cooldown)),
            burst_threshold_percent: Some(policy.burst.threshold_percent),
            burst_window: Some(duration_to_wire(policy.burst.window)),
            activation: Some(policy.activation),
            warm_up: Some(duration_to_wire(policy.warm_up)),
            floors: policy
                .floors
                .iter()
                .map(|floor| v1::ScheduledFloor {
                    cron: floor.cron.clone(),
                    time_zone: floor.time_zone.clone(),
                    lasts: Some(duration_to_wire(floor.lasts)),
                    min: floor.min,
                })
                .collect(),
            forecast: Some(v1::ForecastPolicy {
                quantile: Some(number(policy.forecast.quantile_permille.into())),
                horizon: policy.forecast.horizon.map(duration_to_wire),
                only: policy.forecast.only,
            }),
        }
    }
}

impl From<AutoscaleMode> for v1::AutoscaleMode {
    fn from(mode: AutoscaleMode) -> Self {
        match mode {
            AutoscaleMode::Reactive => Self::Reactive,
            AutoscaleMode::Predictive => Self::Predictive,
            AutoscaleMode::Hybrid => Self::Hybrid,
            AutoscaleMode::Schedule => Self::Schedule,
            AutoscaleMode::Off => Self::Off,
        }
    }
}

fn targets_to_wire(targets: &[Target]) -> v1::AutoscaleTargets {
    let mut wire = v1::AutoscaleTargets::default();
    for target in targets {
        let value = number(target.value_milli);
        match &target.metric {
            Metric::Cpu => wire.cpu_percent = Some(value),
            Metric::Memory => wire.memory_percent = Some(value),
            Metric::Requests => wire.requests_per_second = Some(value),
            Metric::InFlight => wire.in_flight = Some(value),
            Metric::LatencyP95 => {
                wire.latency_p95 = Some(duration_to_wire(Duration::from_micros(target.value_milli)));
            }
            Metric::Load => wire.load_percent = Some(value),
            Metric::External { name, spread } => wire.external.push(v1::ExternalTarget {
                name: name.clone(),
                target: Some(match spread {
                    Spread::Whole => v1::external_target::Target::Value(value),
                    Spread::Each => v1::external_target::Target::AverageValue(value),
                }),
            }),
        }
    }
    wire
}

impl From<&ScaleRules> for v1::ScaleRules {
    fn from(rules: &ScaleRules) -> Self {
        let select = match rules.select {
            RateSelect::Max => v1::RateSelect::Max,
            RateSelect::Min => v1::RateSelect::Min,
            RateSelect::Disabled => v1::RateSelect::Disabled,
        };
        let policy = |policy: &RatePolicy| v1::RatePolicy {
            amount: Some(match policy.amount {
                RateAmount::Instances(number) => v1::rate_policy::Amount::Instances(number),
                RateAmount::Percent(number) => v1::rate_policy::Amount::Percent(number),
            }),
            period: Some(duration_to_wire(policy.period)),
        };
        Self {
            window: Some(duration_to_wire(rules.window)),
            select: select.into(),
            policies: rules.policies.iter().map(policy).collect(),
        }
    }
}
