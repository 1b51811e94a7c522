//! The demand, a step at a time, against what the autoscaler had ready for it.
//!
//! Invariant: a decision knows the demand up to its own step only. An instance serves the whole capacity; a new one
//! serves the delay after the decision; what is taken away ends at once, and it is taken from those that serve.

use std::{collections::BTreeMap, collections::VecDeque, time::Duration};

use skein_common::{
    Timestamp,
    service::{AutoscaleMode, AutoscalePolicy, Combination, Metric},
};
use skein_master_core::autoscaler::{Forecaster, Foreseen, Memory, Outlook, Question, Signals, decide};

use super::series::Series;

/// What is replayed.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    pub policy: &'a AutoscalePolicy,
    /// Demand a minute that one instance should have.
    target: f64,
    capacity: f64,
    delay: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    pub unserved_percent: f64,
    pub minutes_short_percent: f64,
    pub provisioned_over_demand: f64,
    pub actions: u64,
    pub steps: usize,
    /// How often each model was trusted.
    pub trusted: BTreeMap<&'static str, u64>,
    /// Of each step: instances that served, and the demand foreseen a delay earlier for it.
    pub ready: Vec<u32>,
    pub foreseen: Vec<Option<f64>>,
    pub last: Option<String>,
}

impl<'a> Setting<'a> {
    /// # Errors
    /// Targets that a demand says nothing about.
    pub fn new(policy: &'a AutoscalePolicy, capacity: f64, delay: Duration) -> Result<Self, String> {
        if !capacity.is_finite() || capacity <= 0.0 {
            return Err(format!("--capacity-per-instance: {capacity} is not a number above 0"));
        }
        let targets: Vec<f64> = policy
            .targets
            .iter()
            .filter_map(|target| {
                let value = float(target.value_milli) / 1000.0;
                match target.metric {
                    Metric::Load | Metric::Cpu => Some(capacity * value / 100.0),
                    // Requests are a second, the demand is a minute's.
                    Metric::Requests => Some(value * 60.0),
                    _ => None,
                }
            })
            .collect();
        let target = targets.iter().copied().reduce(f64::min);
        let by_demand = !matches!(policy.mode, AutoscaleMode::Schedule | AutoscaleMode::Off);
        match target {
            Some(target) if target > 0.0 => Ok(Self { policy, target, capacity, delay }),
            None if !by_demand => Ok(Self { policy, target: capacity, capacity, delay }),
            _ => {
                Err("the policy has no target for load, cpu or requests: a demand says nothing about others"
                    .to_owned())
            }
        }
    }

    /// The policy with the one target that the demand is about.
    fn policy(&self) -> AutoscalePolicy {
        let milli = |number: f64| {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let milli = (number * 1000.0).round().clamp(1.0, 1e18) as u64;
            milli
        };
        let mut policy = AutoscalePolicy { targets: Vec::new(), ..self.policy.clone() };
        if !self.policy.targets.is_empty() {
            policy = policy.with(Metric::Requests, 0);
            policy.targets[0].value_milli = milli(self.target);
        }
        policy.combination = Combination::Largest;
        policy
    }
}

/// Exact below 2^53.
#[allow(clippy::cast_precision_loss)]
fn float(number: u64) -> f64 {
    number as f64
}

/// Instances that serve, and those that will.
struct Fleet {
    ready: u32,
    /// In the order in which they will serve.
    coming: VecDeque<(Timestamp, u32)>,
}

impl Fleet {
    fn advance(&mut self, now: Timestamp) {
        while self.coming.front().is_some_and(|(at, _)| *at <= now) {
            self.ready += self.coming.pop_front().map_or(0, |(_, count)| count);
        }
    }

    fn have(&self) -> u32 {
        self.ready + self.coming.iter().map(|(_, count)| count).sum::<u32>()
    }

    /// What can be taken away: one of a service that runs stays until the others serve.
    fn shrink(&mut self, by: u32, least: u32) -> u32 {
        let cut = by.min(self.ready.saturating_sub(if self.coming.is_empty() { 0 } else { least.max(1) }));
        self.ready -= cut;
        cut
    }
}

pub fn run(setting: &Setting<'_>, series: &Series) -> Report {
    let policy = setting.policy();
    let mut report = Report { steps: series.demand.len(), ..Report::default() };
    let first = series.demand.first().copied().unwrap_or_default();
    let mut fleet = Fleet { ready: ceil(first / setting.target), coming: VecDeque::new() };
    fleet.ready = fleet.ready.clamp(policy.min, policy.max);
    let horizon = policy.forecast.horizon.unwrap_or(setting.delay.max(series.step));
    let mut forecaster = Forecaster::new(series.step, horizon, policy.forecast.quantile_permille);
    let mut memory = Memory::default();
    let (mut unserved, mut provisioned, mut total, mut short) = (0.0, 0.0, 0.0, 0u64);
    for (step, demand) in (0u32..).zip(series.demand.iter().copied()) {
        let now = series.start + series.step * step;
        fleet.advance(now);
        let capacity = f64::from(fleet.ready) * setting.capacity;
        report.ready.push(fleet.ready);
        provisioned += capacity;
        total += demand;
        if demand > capacity {
            unserved += demand - capacity;
            short += 1;
        }
        let outlook = policy.mode.foresees().then(|| forecaster.push(demand));
        report.foreseen.push(outlook.filter(|outlook| outlook.trusted).map(|outlook| outlook.demand));
        if let Some(outlook) = outlook.filter(|outlook| outlook.trusted) {
            *report.trusted.entry(outlook.model).or_default() += 1;
        }
        let foreseen = outlook.map(|outlook| foreseen(&outlook, horizon, setting));
        let signals =
            Signals { ready: fleet.ready, ..Signals::default() }.with(Metric::Requests, milli(demand));
        let asleep = fleet.have() == 0;
        let question = Question {
            asleep,
            foreseen: foreseen.as_ref(),
            ..Question::new(&policy, fleet.have(), &signals, &memory, now)
        };
        let mut decision = decide(&question);
        if decision.replicas > decision.from {
            fleet.coming.push_back((now + setting.delay, decision.replicas - decision.from));
        } else {
            let cut = fleet.shrink(decision.from - decision.replicas, policy.min);
            decision.replicas = decision.from - cut;
        }
        report.actions += u64::from(decision.replicas != decision.from);
        memory.record(&decision);
        if step as usize + 1 == series.demand.len() {
            report.last = Some(decision.to_string());
        }
    }
    report.unserved_percent = percent(unserved, total);
    report.minutes_short_percent = percent(float(short), float(u64::try_from(report.steps).unwrap_or(1)));
    report.provisioned_over_demand = if total > 0.0 { provisioned / total } else { 0.0 };
    report
}

fn foreseen(outlook: &Outlook, horizon: Duration, setting: &Setting<'_>) -> Foreseen {
    Foreseen {
        metric: Metric::Requests,
        need_milli: milli(outlook.demand / setting.target),
        horizon,
        model: outlook.model,
        error_percent: outlook.error_percent,
        trusted: outlook.trusted,
    }
}

fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { 100.0 * part / whole } else { 0.0 }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn ceil(number: f64) -> u32 {
    number.ceil().clamp(1.0, 100_000.0) as u32
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn milli(number: f64) -> u64 {
    (number * 1000.0).round().clamp(0.0, 1e18) as u64
}
