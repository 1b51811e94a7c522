//! How many instances a service has when the masters decide it: bounds, targets, and how fast.
//!
//! Invariant: plain values, whole numbers only (they are in specs, and specs are compared); the decision is made
//! in `master/core` (`autoscaler`). What a policy does not say is what users of Kubernetes expect.
//! A change needs no restart of any instance.

mod check;

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Schedule, schedule::Calendar};
use crate::Timestamp;

/// Least number of instances of a policy that does not say.
pub const DEFAULT_MIN: u32 = 1;
/// Nothing is changed while the pressure is within 1 ± this, inclusive (Kubernetes' default).
pub const DEFAULT_TOLERANCE_PERMILLE: u16 = 100;
/// To shrink, the largest wish of this time counts (Kubernetes' default).
pub const DEFAULT_DOWN_WINDOW: Duration = Duration::from_secs(300);
/// In which +100 % or +4 instances may be added, and all may be removed (Kubernetes' defaults).
pub const DEFAULT_RATE_PERIOD: Duration = Duration::from_secs(15);
/// Wish of the short window, in percent of what is ready, from which it is a burst (Knative's default).
pub const DEFAULT_BURST_PERCENT: u32 = 200;
/// How long after the last sign of a burst nothing shrinks (Knative's stable window).
pub const DEFAULT_BURST_WINDOW: Duration = Duration::from_secs(60);
/// How long after its start an instance's CPU says nothing about the load unless it is Ready and has been sampled since
/// (Kubernetes' `--horizontal-pod-autoscaler-cpu-initialization-period`).
pub const DEFAULT_WARM_UP: Duration = Duration::from_secs(300);
/// An instance that lost its readiness later than this after its start has worked once
/// (Kubernetes' `--horizontal-pod-autoscaler-initial-readiness-delay`).
pub const READINESS_DELAY: Duration = Duration::from_secs(30);
/// Of the forecast at its horizon, in thousandths: how often demand should lie below it. Little more than the
/// middle, because the room above a target is there for what cannot be foreseen.
pub const DEFAULT_QUANTILE_PERMILLE: u16 = 550;

/// Bounds, aims and rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutoscalePolicy {
    /// 0 = the service may go to sleep when nothing is asked of it.
    pub min: u32,
    pub max: u32,
    pub mode: AutoscaleMode,
    /// At most one of each metric.
    pub targets: Vec<Target>,
    /// Requests a second that one instance serves at a load of 100 %, in thousandths.
    #[serde(default)]
    pub capacity_milli: Option<u64>,
    pub combination: Combination,
    /// Growing begins above 1000 + this, in thousandths of the target.
    pub tolerance_up_permille: u16,
    /// Shrinking begins below 1000 − this.
    pub tolerance_down_permille: u16,
    pub up: ScaleRules,
    pub down: ScaleRules,
    /// Nothing is changed for this long after a change; zero = no such time.
    pub cooldown: Duration,
    pub burst: BurstPolicy,
    /// Least number when it runs at all.
    pub activation: u32,
    pub warm_up: Duration,
    /// Higher minimums at certain times.
    pub floors: Vec<ScheduledFloor>,
    pub forecast: ForecastPolicy,
}

/// What decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum AutoscaleMode {
    /// What is measured now.
    Reactive,
    /// What is foreseen; what is measured only while no forecast has proved itself.
    Predictive,
    /// The larger of both.
    #[default]
    Hybrid,
    /// The floors only.
    Schedule,
    /// Nothing: the number stays as it is.
    Off,
}

/// A metric, and where it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub metric: Metric,
    /// In thousandths of the metric's unit.
    pub value_milli: u64,
}

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Metric {
    /// Percent of the reservation (without one: of the limit), on average.
    Cpu,
    Memory,
    /// Requests a second for each instance.
    Requests,
    /// Requests (in mode tcp: connections) under way for each instance.
    InFlight,
    /// Milliseconds that 95 of 100 requests stay below.
    LatencyP95,
    /// Percent of what the instances can serve, see `capacity_milli`.
    Load,
    /// A number from elsewhere that instances share.
    External {
        name: String,
        spread: Spread,
    },
}

/// What the target of a number from elsewhere is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Spread {
    /// The number itself: twice the target asks for twice the instances.
    Whole,
    /// Its share of one instance.
    Each,
}

/// Which side of the formula a metric is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Side {
    /// Weighed with α.
    Usage,
    /// Weighed with β.
    Load,
}

/// One number from several metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Combination {
    /// Each proposes, the largest proposal wins (Kubernetes).
    #[default]
    Largest,
    /// pressure = α·usage/target + β·load/target, α and β normalised over the sides that have a target; of several
    /// metrics on one side the one furthest above its target counts.
    Weighted { alpha_permille: u32, beta_permille: u32 },
}

/// How fast in one direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleRules {
    /// Growing: the smallest wish of this time counts; shrinking: the largest.
    pub window: Duration,
    pub select: RateSelect,
    /// None = as fast as it likes.
    pub policies: Vec<RatePolicy>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RateSelect {
    /// The policy that allows most.
    #[default]
    Max,
    /// The policy that allows least.
    Min,
    /// Never in this direction.
    Disabled,
}

/// So much within so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RatePolicy {
    pub amount: RateAmount,
    pub period: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RateAmount {
    Instances(u32),
    /// Of what there were at the beginning of the period.
    Percent(u32),
}

/// When a short window decides, and nothing shrinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BurstPolicy {
    /// The wish of the short window against what is ready; zero = never.
    pub threshold_percent: u32,
    /// From the last time it was above the threshold.
    pub window: Duration,
}

/// At least `min` instances from each time of the line on, for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledFloor {
    /// `0 8 * * mon-fri`.
    pub cron: String,
    /// IANA name; empty = UTC.
    pub time_zone: String,
    pub lasts: Duration,
    pub min: u32,
}

/// How far, and how sure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForecastPolicy {
    pub quantile_permille: u16,
    /// `None` = the start-up time as it was measured, and one period of decisions.
    pub horizon: Option<Duration>,
    /// It is made and told, but moves nothing.
    pub only: bool,
}

impl AutoscalePolicy {
    /// At most `max` instances, every default, no target yet.
    #[must_use]
    pub fn new(max: u32) -> Self {
        Self {
            min: DEFAULT_MIN,
            max,
            mode: AutoscaleMode::default(),
            targets: Vec::new(),
            capacity_milli: None,
            combination: Combination::default(),
            tolerance_up_permille: DEFAULT_TOLERANCE_PERMILLE,
            tolerance_down_permille: DEFAULT_TOLERANCE_PERMILLE,
            up: ScaleRules::up(),
            down: ScaleRules::down(),
            cooldown: Duration::ZERO,
            burst: BurstPolicy::default(),
            activation: 1,
            warm_up: DEFAULT_WARM_UP,
            floors: Vec::new(),
            forecast: ForecastPolicy::default(),
        }
    }

    /// The same with one more target, in the metric's unit.
    #[must_use]
    pub fn with(mut self, metric: Metric, value: u64) -> Self {
        self.targets.push(Target { metric, value_milli: value.saturating_mul(1000) });
        self
    }
}

impl ScaleRules {
    /// At once, +100 % or +4 in 15 s, whichever is more.
    #[must_use]
    pub fn up() -> Self {
        let period = DEFAULT_RATE_PERIOD;
        let amounts = [RateAmount::Percent(100), RateAmount::Instances(4)];
        let policies = amounts.map(|amount| RatePolicy { amount, period }).into();
        Self { window: Duration::ZERO, select: RateSelect::Max, policies }
    }

    /// To the largest wish of five minutes.
    #[must_use]
    pub fn down() -> Self {
        let policy = RatePolicy { amount: RateAmount::Percent(100), period: DEFAULT_RATE_PERIOD };
        Self { window: DEFAULT_DOWN_WINDOW, select: RateSelect::Max, policies: vec![policy] }
    }
}

impl Default for BurstPolicy {
    fn default() -> Self {
        Self { threshold_percent: DEFAULT_BURST_PERCENT, window: DEFAULT_BURST_WINDOW }
    }
}

impl Default for ForecastPolicy {
    fn default() -> Self {
        Self { quantile_permille: DEFAULT_QUANTILE_PERMILLE, horizon: None, only: false }
    }
}

impl ScheduledFloor {
    /// Whether it holds at this moment; a line that this version does not understand never does.
    #[must_use]
    pub fn holds(&self, now: Timestamp) -> bool {
        let calendar = Calendar::of(&self.schedule()).ok();
        let began = calendar.and_then(|calendar| calendar.latest(now));
        began.is_some_and(|began| now.since(began) < self.lasts)
    }

    fn schedule(&self) -> Schedule {
        Schedule { time_zone: self.time_zone.clone(), ..Schedule::new(self.cron.clone()) }
    }
}

impl AutoscaleMode {
    /// As files and tables spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reactive => "reactive",
            Self::Predictive => "predictive",
            Self::Hybrid => "hybrid",
            Self::Schedule => "schedule",
            Self::Off => "off",
        }
    }

    /// All of them, as they are listed to users.
    pub const ALL: [Self; 5] = [Self::Reactive, Self::Predictive, Self::Hybrid, Self::Schedule, Self::Off];

    /// Whether forecasts are made at all.
    #[must_use]
    pub const fn foresees(self) -> bool {
        matches!(self, Self::Predictive | Self::Hybrid)
    }
}

impl Metric {
    #[must_use]
    pub const fn side(&self) -> Side {
        match self {
            Self::Cpu | Self::Memory => Side::Usage,
            Self::Requests | Self::InFlight | Self::LatencyP95 | Self::Load | Self::External { .. } => {
                Side::Load
            }
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Requests => "requests",
            Self::InFlight => "in_flight",
            Self::LatencyP95 => "latency_p95",
            Self::Load => "load",
            Self::External { name, .. } => name,
        })
    }
}
