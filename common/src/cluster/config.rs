//! Settings of the whole cluster. What a user did not set follows the defaults, also when a later
//! version changes them.
//!
//! Invariant: a config that came through the API passed [`ClusterConfig::violations`]; whole numbers
//! only, because it is replicated.
//! Deliberately not here: what the settings do (`master/core`).

use std::{fmt, net::Ipv4Addr, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Violations, network::Ipv4Network, placement::MAX_PRIORITY, placement::Strategy};

/// A cluster that rebalanced more often would never rest.
pub const MIN_REBALANCE_INTERVAL: Duration = Duration::from_secs(10);
/// Of spread, 100 percent is one instance; more than this is a slip.
pub const MAX_MIN_GAIN_PERCENT: u32 = 10_000;
/// 10^15, in thousandths.
const MAX_WEIGHT: Weight = Weight(1_000_000_000_000_000_000);

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterConfig {
    pub scheduling: SchedulingConfig,
    pub networking: NetworkingConfig,
}

/// `None` = the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkingConfig {
    /// Where services have their virtual addresses.
    pub service_addresses: Option<Ipv4Network>,
}

/// `None` = the default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SchedulingConfig {
    /// Of services that do not say.
    pub strategy: Option<Strategy>,
    pub weights: ScoreWeights,
    /// Below this difference of priorities nobody gives way.
    pub preemption_gap: Option<u8>,
    pub rebalance: RebalanceConfig,
}

/// ω₁, ω₂ and ω₃ of the score, and the part that measured utilisation has in the second term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ScoreWeights {
    pub priority: Option<Weight>,
    pub resources: Option<Weight>,
    pub constraints: Option<Weight>,
    /// 0 = only among nodes that score alike.
    pub utilisation: Option<Weight>,
}

/// When the cluster rebalances itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RebalanceConfig {
    /// After a node has joined or come back, and at the interval.
    pub enabled: Option<bool>,
    pub interval: Option<Duration>,
    /// A move that gains less is not made: of load, percent of a node; of spread, an instance is 100.
    pub min_gain_percent: Option<u32>,
    /// Moves under way at a time.
    pub max_moves: Option<u32>,
}

/// In thousandths, written as a decimal number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Weight(pub u64);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no weight: use a number from 0 to 10^15 with at most three decimals")]
pub struct ParseWeightError(String);

impl Weight {
    /// Exponentially apart, so that a higher rule decides.
    pub const PRIORITY: Self = Self(1_000_000_000_000_000);
    pub const RESOURCES: Self = Self(1_000);
    pub const CONSTRAINTS: Self = Self(1_000_000_000);
    pub const UTILISATION: Self = Self(0);

    #[must_use]
    #[allow(clippy::cast_precision_loss)] // scores need no more
    pub fn value(self) -> f64 {
        self.0 as f64 / 1_000.0
    }
}

impl FromStr for Weight {
    type Err = ParseWeightError;

    fn from_str(text: &str) -> Result<Self, ParseWeightError> {
        let error = || ParseWeightError(text.to_owned());
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || decimals.len() > 3 || !digits(whole) || !digits(decimals) {
            return Err(error());
        }
        let whole: u64 = whole.parse().map_err(|_| error())?;
        let part: u64 = format!("{decimals:0<3}").parse().map_err(|_| error())?;
        let weight = whole.checked_mul(1_000).and_then(|whole| whole.checked_add(part)).map(Self);
        weight.filter(|weight| *weight <= MAX_WEIGHT).ok_or_else(error)
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 1_000, self.0 % 1_000);
        if part == 0 {
            return whole.fmt(f);
        }
        f.write_str(format!("{whole}.{part:03}").trim_end_matches('0'))
    }
}

impl SchedulingConfig {
    pub const DEFAULT_PREEMPTION_GAP: u8 = 10;

    #[must_use]
    pub fn strategy(&self) -> Strategy {
        self.strategy.unwrap_or_default()
    }

    #[must_use]
    pub fn preemption_gap(&self) -> u8 {
        self.preemption_gap.unwrap_or(Self::DEFAULT_PREEMPTION_GAP)
    }
}

impl NetworkingConfig {
    /// At the far end of the private range that sites use from the near end: neither Docker (172.17.0.0/16 on) nor
    /// Swarm (10.0.0.0/8 from 10.0.0.0 on) nor Kubernetes (10.96.0.0/12) begins there, and 100.64.0.0/10 belongs to
    /// carriers and to VPNs that drop what does not come from them.
    pub const DEFAULT_SERVICE_ADDRESSES: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 254, 0, 0), 16);
    /// Fewer services could not live, more bits no site has free.
    const PREFIXES: std::ops::RangeInclusive<u8> = 8..=28;

    #[must_use]
    pub fn service_addresses(&self) -> Ipv4Network {
        let (base, prefix) = Self::DEFAULT_SERVICE_ADDRESSES;
        self.service_addresses.unwrap_or_else(|| Ipv4Network::cut(base, prefix))
    }

    fn check(&self, found: &mut Violations) {
        let Some(network) = self.service_addresses else { return };
        let base = network.base();
        let field = "config.networking.service_addresses";
        if !Self::PREFIXES.contains(&network.prefix()) {
            let (least, most) = (Self::PREFIXES.start(), Self::PREFIXES.end());
            found.add(field, format!("{network}: between /{least} and /{most} are allowed"));
        } else if base.is_loopback()
            || base.is_multicast()
            || base.octets()[0] == 0
            || base.octets()[0] >= 240
        {
            found.add(field, format!("{network} cannot be reached from containers; use a private range"));
        }
    }
}

impl ScoreWeights {
    #[must_use]
    pub fn priority(&self) -> Weight {
        self.priority.unwrap_or(Weight::PRIORITY)
    }

    #[must_use]
    pub fn resources(&self) -> Weight {
        self.resources.unwrap_or(Weight::RESOURCES)
    }

    #[must_use]
    pub fn constraints(&self) -> Weight {
        self.constraints.unwrap_or(Weight::CONSTRAINTS)
    }

    #[must_use]
    pub fn utilisation(&self) -> Weight {
        self.utilisation.unwrap_or(Weight::UTILISATION)
    }
}

impl RebalanceConfig {
    pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(600);
    pub const DEFAULT_MIN_GAIN_PERCENT: u32 = 10;
    pub const DEFAULT_MAX_MOVES: u32 = 5;

    #[must_use]
    pub fn enabled(&self) -> bool {
        self.enabled.unwrap_or(false)
    }

    #[must_use]
    pub fn interval(&self) -> Duration {
        self.interval.unwrap_or(Self::DEFAULT_INTERVAL)
    }

    #[must_use]
    pub fn min_gain_percent(&self) -> u32 {
        self.min_gain_percent.unwrap_or(Self::DEFAULT_MIN_GAIN_PERCENT)
    }

    #[must_use]
    pub fn max_moves(&self) -> u32 {
        self.max_moves.unwrap_or(Self::DEFAULT_MAX_MOVES)
    }
}

impl ClusterConfig {
    /// The same with every default written out.
    #[must_use]
    pub fn effective(&self) -> Self {
        let (scheduling, weights) = (&self.scheduling, &self.scheduling.weights);
        let rebalance = &scheduling.rebalance;
        Self {
            scheduling: SchedulingConfig {
                strategy: Some(scheduling.strategy()),
                weights: ScoreWeights {
                    priority: Some(weights.priority()),
                    resources: Some(weights.resources()),
                    constraints: Some(weights.constraints()),
                    utilisation: Some(weights.utilisation()),
                },
                preemption_gap: Some(scheduling.preemption_gap()),
                rebalance: RebalanceConfig {
                    enabled: Some(rebalance.enabled()),
                    interval: Some(rebalance.interval()),
                    min_gain_percent: Some(rebalance.min_gain_percent()),
                    max_moves: Some(rebalance.max_moves()),
                },
            },
            networking: NetworkingConfig { service_addresses: Some(self.networking.service_addresses()) },
        }
    }

    /// Everything that is wrong, by field path.
    #[must_use]
    pub fn violations(&self) -> Violations {
        let mut found = Violations::default();
        let scheduling = &self.scheduling;
        if let Some(gap) = scheduling.preemption_gap.filter(|gap| !(1..=MAX_PRIORITY).contains(gap)) {
            let text = format!("{gap} is not between 1 and {MAX_PRIORITY}: equals never give way");
            found.add("config.scheduling.preemption_gap", text);
        }
        let weights = &scheduling.weights;
        for (name, weight) in [
            ("priority", weights.priority),
            ("resources", weights.resources),
            ("constraints", weights.constraints),
            ("utilisation", weights.utilisation),
        ] {
            if let Some(weight) = weight.filter(|weight| *weight > MAX_WEIGHT) {
                let field = format!("config.scheduling.weights.{name}");
                found.add(field, format!("{weight} is more than {MAX_WEIGHT}"));
            }
        }
        scheduling.rebalance.check(&mut found);
        self.networking.check(&mut found);
        found
    }
}

impl RebalanceConfig {
    fn check(&self, found: &mut Violations) {
        let field = |name: &str| format!("config.scheduling.rebalance.{name}");
        if let Some(interval) = self.interval.filter(|interval| *interval < MIN_REBALANCE_INTERVAL) {
            let text = format!("{interval:?} is less than {MIN_REBALANCE_INTERVAL:?}");
            found.add(field("interval"), text);
        }
        // Without a threshold nothing would ever come to rest.
        if let Some(gain) = self.min_gain_percent.filter(|gain| !(1..=MAX_MIN_GAIN_PERCENT).contains(gain)) {
            let text = format!("{gain} is not between 1 and {MAX_MIN_GAIN_PERCENT}");
            found.add(field("min_gain_percent"), text);
        }
        if self.max_moves == Some(0) {
            found.add(field("max_moves"), "0 would never move anything: set enabled to false instead");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_decimal_numbers() {
        for (text, thousandths, shown) in [
            ("0", Some(0), "0"),
            ("1", Some(1_000), "1"),
            ("0.5", Some(500), "0.5"),
            ("12.040", Some(12_040), "12.04"),
            ("1000000000000000", Some(MAX_WEIGHT.0), "1000000000000000"),
            ("1000000000000000.001", None, ""),
            ("99999999999999999999", None, ""),
            ("", None, ""),
            (".5", None, ""),
            ("-1", None, ""),
            ("1.2345", None, ""),
            ("1e3", None, ""),
        ] {
            let read: Option<Weight> = text.parse().ok();
            assert_eq!(read.map(|weight| weight.0), thousandths, "{text}");
            assert_eq!(read.map(|weight| weight.to_string()).unwrap_or_default(), shown, "{text}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        let config = ClusterConfig {
            scheduling: SchedulingConfig {
                preemption_gap: Some(101),
                weights: ScoreWeights { constraints: Some(Weight(u64::MAX)), ..ScoreWeights::default() },
                rebalance: RebalanceConfig {
                    enabled: Some(true),
                    interval: Some(Duration::from_secs(1)),
                    min_gain_percent: Some(0),
                    max_moves: Some(0),
                },
                ..SchedulingConfig::default()
            },
            networking: NetworkingConfig { service_addresses: "127.0.0.0/8".parse().ok() },
        };
        let fields: Vec<_> = config.violations().0.into_iter().map(|violation| violation.field).collect();
        assert_eq!(
            fields,
            [
                "config.scheduling.preemption_gap",
                "config.scheduling.weights.constraints",
                "config.scheduling.rebalance.interval",
                "config.scheduling.rebalance.min_gain_percent",
                "config.scheduling.rebalance.max_moves",
                "config.networking.service_addresses",
            ]
        );
        assert_eq!(ClusterConfig::default().violations(), Violations::default());
        let effective = ClusterConfig::default().effective();
        assert_eq!(
            (effective.violations(), effective.effective()),
            (Violations::default(), effective.clone())
        );
    }
}
