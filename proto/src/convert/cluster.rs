//! Settings of the cluster, written by users: every violation is collected, by field path.

use skein_common::{
    Violations,
    cluster::{
        ClusterConfig, NetworkingConfig, RebalanceConfig, RebalanceGoal, RebalanceRun, SchedulingConfig,
        ScoreWeights, Weight,
    },
};

use super::{duration_from_wire, duration_to_wire, placement, timestamp_to_wire};
use crate::v1;

impl TryFrom<v1::ClusterConfig> for ClusterConfig {
    type Error = Violations;

    fn try_from(wire: v1::ClusterConfig) -> Result<Self, Violations> {
        let mut found = Violations::default();
        let scheduling = wire.scheduling.map(|wire| scheduling(&mut found, wire)).unwrap_or_default();
        let networking = wire.networking.map(|wire| networking(&mut found, &wire)).unwrap_or_default();
        let config = Self { scheduling, networking };
        found.0.extend(config.violations().0);
        found.into_result(config)
    }
}

fn scheduling(found: &mut Violations, wire: v1::SchedulingConfig) -> SchedulingConfig {
    SchedulingConfig {
        strategy: placement::strategy(found, "config.scheduling.strategy", wire.strategy),
        weights: wire.weights.map(|wire| weights(found, &wire)).unwrap_or_default(),
        // What is too large is kept as the largest, which is refused.
        preemption_gap: wire.preemption_gap.map(|gap| u8::try_from(gap).unwrap_or(u8::MAX)),
        rebalance: wire.rebalance.map(|wire| rebalance(found, &wire)).unwrap_or_default(),
    }
}

fn networking(found: &mut Violations, wire: &v1::NetworkingConfig) -> NetworkingConfig {
    let text = &wire.service_addresses;
    let field = "config.networking.service_addresses";
    let service_addresses = if text.is_empty() { None } else { placement::read(found, field, text) };
    NetworkingConfig { service_addresses }
}

fn weights(found: &mut Violations, wire: &v1::ScoreWeights) -> ScoreWeights {
    let mut read = |name: &str, text: &str| -> Option<Weight> {
        let field = format!("config.scheduling.weights.{name}");
        if text.is_empty() {
            return None;
        }
        placement::read(found, &field, text)
    };
    ScoreWeights {
        priority: read("priority", &wire.priority),
        resources: read("resources", &wire.resources),
        constraints: read("constraints", &wire.constraints),
        utilisation: read("utilisation", &wire.utilisation),
    }
}

fn rebalance(found: &mut Violations, wire: &v1::RebalanceConfig) -> RebalanceConfig {
    let interval = wire.interval.and_then(|interval| {
        let field = "config.scheduling.rebalance.interval";
        duration_from_wire(field, interval).map_err(|error| found.add(field, error.to_string())).ok()
    });
    RebalanceConfig {
        enabled: wire.enabled,
        interval,
        min_gain_percent: wire.min_gain_percent,
        max_moves: wire.max_moves,
    }
}

impl From<&ClusterConfig> for v1::ClusterConfig {
    fn from(config: &ClusterConfig) -> Self {
        let scheduling = &config.scheduling;
        let text = |weight: Option<Weight>| weight.map(|weight| weight.to_string()).unwrap_or_default();
        let weights = scheduling.weights;
        let rebalance = scheduling.rebalance;
        let scheduling = v1::SchedulingConfig {
            strategy: placement::strategy_to_wire(scheduling.strategy).into(),
            weights: (weights != ScoreWeights::default()).then(|| v1::ScoreWeights {
                priority: text(weights.priority),
                resources: text(weights.resources),
                constraints: text(weights.constraints),
                utilisation: text(weights.utilisation),
            }),
            preemption_gap: scheduling.preemption_gap.map(u32::from),
            rebalance: (rebalance != RebalanceConfig::default()).then(|| v1::RebalanceConfig {
                enabled: rebalance.enabled,
                interval: rebalance.interval.map(duration_to_wire),
                min_gain_percent: rebalance.min_gain_percent,
                max_moves: rebalance.max_moves,
            }),
        };
        let networking = v1::NetworkingConfig {
            service_addresses: config
                .networking
                .service_addresses
                .map(|network| network.to_string())
                .unwrap_or_default(),
        };
        Self { scheduling: Some(scheduling), networking: Some(networking) }
    }
}

impl From<v1::RebalanceGoal> for RebalanceGoal {
    fn from(wire: v1::RebalanceGoal) -> Self {
        match wire {
            v1::RebalanceGoal::Unspecified | v1::RebalanceGoal::Even => Self::Even,
            v1::RebalanceGoal::Consolidate => Self::Consolidate,
        }
    }
}

impl From<RebalanceGoal> for v1::RebalanceGoal {
    fn from(goal: RebalanceGoal) -> Self {
        match goal {
            RebalanceGoal::Even => Self::Even,
            RebalanceGoal::Consolidate => Self::Consolidate,
        }
    }
}

impl From<&RebalanceRun> for v1::RebalanceRun {
    fn from(run: &RebalanceRun) -> Self {
        Self {
            goal: v1::RebalanceGoal::from(run.goal).into(),
            service_id: run.service.map(|service| service.to_string()).unwrap_or_default(),
            cause: run.cause.clone(),
            started_at: Some(timestamp_to_wire(run.started_at)),
            moves: run.moves,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_comes_back_as_it_was() {
        let mut config = ClusterConfig::default();
        for _ in 0..2 {
            assert_eq!(ClusterConfig::try_from(v1::ClusterConfig::from(&config)), Ok(config.clone()));
            config = config.effective();
        }
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let wire = v1::ClusterConfig {
            scheduling: Some(v1::SchedulingConfig {
                strategy: 9,
                weights: Some(v1::ScoreWeights { resources: "much".to_owned(), ..Default::default() }),
                preemption_gap: Some(1_000),
                rebalance: Some(v1::RebalanceConfig {
                    interval: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
                    max_moves: Some(0),
                    ..Default::default()
                }),
            }),
            networking: Some(v1::NetworkingConfig { service_addresses: "10.0.0.1/8".to_owned() }),
        };
        let found = ClusterConfig::try_from(wire).unwrap_err();
        let fields: Vec<_> = found.0.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "config.scheduling.strategy",
                "config.scheduling.weights.resources",
                "config.scheduling.rebalance.interval",
                "config.networking.service_addresses",
                "config.scheduling.preemption_gap",
                "config.scheduling.rebalance.max_moves",
            ]
        );
    }
}
