//! Policies: what is refused, and what changes without a restart.

use super::*;
use crate::Violations;

fn asked() -> PlacementPolicy {
    PlacementPolicy {
        spread: vec![TopologySpread {
            key: TopologyKey::Label("zone".to_owned()),
            max_skew: 1,
            min_domains: 0,
        }],
        generic: vec![GenericRequest { name: "gpu".to_owned(), count: 1, millis: 500, models: Vec::new() }],
        ..PlacementPolicy::default()
    }
}

#[test]
fn all_violations_are_told_at_once() {
    let mut policy = asked();
    policy.priority = 101;
    policy.max_replicas_per_node = Some(0);
    policy.spread[0].max_skew = 0;
    policy.generic.push(GenericRequest { count: 0, millis: 1_001, ..policy.generic[0].clone() });
    policy.affinities.push(Affinity {
        service: String::new(),
        key: TopologyKey::Node,
        direction: Direction::Away,
        weight: Some(101),
    });
    let mut found = Violations::default();
    policy.check(&mut found);
    let fields: Vec<_> =
        found.0.iter().map(|violation| violation.field.trim_start_matches("spec.placement.")).collect();
    assert_eq!(
        fields,
        [
            "priority",
            "max_replicas_per_node",
            "spread[0].max_skew",
            "affinities[0].service",
            "affinities[0].weight",
            "generic[1].name",
            "generic[1].count",
            "generic[1].millis",
        ]
    );
}

#[test]
fn only_what_must_hold_asks_for_a_restart() {
    let mut other = asked();
    other.priority = 90;
    other.strategy = Some(Strategy::Binpack);
    other.preferences.push(TopologyKey::Node);
    assert!(asked().holds_like(&other));
    other.spread.clear();
    assert!(!asked().holds_like(&other));
}

#[test]
fn keys_and_strategies_read_as_they_are_written() {
    for text in ["node", "node.pool", "node.labels.zone"] {
        assert_eq!(text.parse::<TopologyKey>().map(|key| key.to_string()).as_deref(), Ok(text));
    }
    assert!("zone".parse::<TopologyKey>().is_err());
    assert_eq!("balanced".parse(), Ok(Strategy::Balanced));
    assert!("random".parse::<Strategy>().is_err());
}
