//! Placement policies, written by users: every violation is collected, by field path.

use std::{fmt::Display, str::FromStr};

use skein_common::{
    Violations,
    placement::{
        Affinity, DEFAULT_PRIORITY, DeviceShare, Direction, GenericRequest, GenericResource, PlacementPolicy,
        Strategy, TopologyKey, TopologySpread, WHOLE_MILLIS,
    },
};

use super::InvalidMessage;
use crate::v1;

/// `None` (and a violation for each) for what cannot be read.
pub(super) fn read<T: FromStr<Err: Display>>(found: &mut Violations, field: &str, text: &str) -> Option<T> {
    text.parse().map_err(|error: T::Err| found.add(field, error.to_string())).ok()
}

/// A number that is too large is kept as the largest, which `check` refuses.
fn small<T: TryFrom<u32>>(number: u32, largest: T) -> T {
    T::try_from(number).unwrap_or(largest)
}

pub(super) fn policy(found: &mut Violations, wire: v1::PlacementPolicy) -> PlacementPolicy {
    let strategy = strategy(found, "spec.placement.strategy", wire.strategy);
    let spread = wire.spread.into_iter().enumerate();
    let affinities = wire.affinities.into_iter().enumerate();
    PlacementPolicy {
        constraints: texts(found, "constraints", &wire.constraints),
        priority: wire.priority.map_or(DEFAULT_PRIORITY, |priority| small(priority, u8::MAX)),
        strategy,
        max_replicas_per_node: wire.max_replicas_per_node,
        spread: spread.filter_map(|(position, wire)| topology_spread(found, position, &wire)).collect(),
        preferences: texts(found, "preferences", &wire.preferences),
        affinities: affinities.filter_map(|(position, wire)| affinity(found, position, wire)).collect(),
        generic: wire.generic.into_iter().map(GenericRequest::from).collect(),
        tolerations: wire.tolerations,
    }
}

fn texts<T: FromStr<Err: Display>>(found: &mut Violations, name: &str, texts: &[String]) -> Vec<T> {
    let texts = texts.iter().enumerate();
    texts
        .filter_map(|(position, text)| read(found, &format!("spec.placement.{name}[{position}]"), text))
        .collect()
}

pub(super) fn strategy(found: &mut Violations, field: &str, wire: i32) -> Option<Strategy> {
    match v1::Strategy::try_from(wire) {
        Ok(v1::Strategy::Unspecified) => None,
        Ok(v1::Strategy::Spread) => Some(Strategy::Spread),
        Ok(v1::Strategy::Binpack) => Some(Strategy::Binpack),
        Ok(v1::Strategy::Balanced) => Some(Strategy::Balanced),
        Err(_) => {
            found.add(field, format!("{wire} is not a value of this enum"));
            None
        }
    }
}

pub(super) const fn strategy_to_wire(strategy: Option<Strategy>) -> v1::Strategy {
    match strategy {
        None => v1::Strategy::Unspecified,
        Some(Strategy::Spread) => v1::Strategy::Spread,
        Some(Strategy::Binpack) => v1::Strategy::Binpack,
        Some(Strategy::Balanced) => v1::Strategy::Balanced,
    }
}

fn topology_spread(
    found: &mut Violations,
    position: usize,
    wire: &v1::TopologySpread,
) -> Option<TopologySpread> {
    let key = read(found, &format!("spec.placement.spread[{position}].key"), &wire.key)?;
    Some(TopologySpread { key, max_skew: wire.max_skew.unwrap_or(1), min_domains: wire.min_domains })
}

fn affinity(found: &mut Violations, position: usize, wire: v1::Affinity) -> Option<Affinity> {
    let field = |name: &str| format!("spec.placement.affinities[{position}].{name}");
    let direction = match v1::AffinityDirection::try_from(wire.direction) {
        Ok(v1::AffinityDirection::Near) => Some(Direction::Near),
        Ok(v1::AffinityDirection::Away) => Some(Direction::Away),
        Ok(v1::AffinityDirection::Unspecified) | Err(_) => {
            found.add(field("direction"), "is required: near or away");
            None
        }
    };
    let key = match wire.key.as_str() {
        "" => Some(TopologyKey::Node),
        text => read(found, &field("key"), text),
    };
    Some(Affinity {
        service: wire.service,
        key: key?,
        direction: direction?,
        weight: wire.weight.map(|weight| small(weight, u8::MAX)),
    })
}

impl From<v1::GenericRequest> for GenericRequest {
    fn from(wire: v1::GenericRequest) -> Self {
        Self {
            name: wire.name,
            count: small(wire.count.unwrap_or(1), 0),
            millis: small(wire.millis.unwrap_or(WHOLE_MILLIS.into()), u16::MAX),
            models: wire.models,
        }
    }
}

impl From<&PlacementPolicy> for v1::PlacementPolicy {
    fn from(policy: &PlacementPolicy) -> Self {
        let strategy = strategy_to_wire(policy.strategy);
        Self {
            constraints: policy.constraints.iter().map(ToString::to_string).collect(),
            priority: Some(policy.priority.into()),
            strategy: strategy.into(),
            max_replicas_per_node: policy.max_replicas_per_node,
            spread: policy.spread.iter().map(v1::TopologySpread::from).collect(),
            preferences: policy.preferences.iter().map(ToString::to_string).collect(),
            affinities: policy.affinities.iter().map(v1::Affinity::from).collect(),
            generic: policy.generic.iter().map(v1::GenericRequest::from).collect(),
            tolerations: policy.tolerations.clone(),
        }
    }
}

impl From<&TopologySpread> for v1::TopologySpread {
    fn from(spread: &TopologySpread) -> Self {
        Self { key: spread.key.to_string(), max_skew: Some(spread.max_skew), min_domains: spread.min_domains }
    }
}

impl From<&Affinity> for v1::Affinity {
    fn from(affinity: &Affinity) -> Self {
        let direction = match affinity.direction {
            Direction::Near => v1::AffinityDirection::Near,
            Direction::Away => v1::AffinityDirection::Away,
        };
        Self {
            service: affinity.service.clone(),
            key: affinity.key.to_string(),
            direction: direction.into(),
            weight: affinity.weight.map(u32::from),
        }
    }
}

impl From<&GenericRequest> for v1::GenericRequest {
    fn from(request: &GenericRequest) -> Self {
        Self {
            name: request.name.clone(),
            count: Some(request.count.into()),
            millis: Some(request.millis.into()),
            models: request.models.clone(),
        }
    }
}

impl From<&GenericResource> for v1::GenericResource {
    fn from(resource: &GenericResource) -> Self {
        Self { name: resource.name.clone(), model: resource.model.clone(), count: resource.count.into() }
    }
}

impl TryFrom<v1::GenericResource> for GenericResource {
    type Error = InvalidMessage;

    fn try_from(wire: v1::GenericResource) -> Result<Self, InvalidMessage> {
        if wire.name.is_empty() {
            return Err(InvalidMessage::Missing { field: "description.generic.name" });
        }
        let count = u16::try_from(wire.count).map_err(|_| {
            InvalidMessage::invalid("description.generic.count", format!("{} is more than 65535", wire.count))
        })?;
        Ok(Self { name: wire.name, model: wire.model, count })
    }
}

impl TryFrom<v1::DeviceShare> for DeviceShare {
    type Error = InvalidMessage;

    fn try_from(wire: v1::DeviceShare) -> Result<Self, InvalidMessage> {
        let number = |number: u32| {
            u16::try_from(number)
                .map_err(|_| InvalidMessage::invalid("devices", format!("{number} is more than 65535")))
        };
        Ok(Self { name: wire.name, device: number(wire.device)?, millis: number(wire.millis)? })
    }
}

impl From<&DeviceShare> for v1::DeviceShare {
    fn from(share: &DeviceShare) -> Self {
        Self { name: share.name.clone(), device: share.device.into(), millis: share.millis.into() }
    }
}
