//! How requests are shared out. Written by users, so every violation is collected.

use std::time::Duration;

use skein_common::{
    cidr::Cidr,
    service::{
        ActiveCheck, Algorithm, BalanceLimits, BalanceMode, BalancePolicy, BalanceTimeouts, Ejection, HashBy,
        MAX_HOLD, NodeWeight, Upstream,
    },
};

use super::{duration_to_wire, service::Door};
use crate::v1;

pub(super) fn balance_policy(door: &mut Door<'_>, wire: v1::BalancePolicy) -> BalancePolicy {
    let field = |leaf: &str| format!("spec.balance.{leaf}");
    let defaults = BalancePolicy::default();
    let mode = door.known(&field("mode"), wire.mode, v1::BalanceMode::try_from(wire.mode));
    let mut duration = |leaf: &str, wire, default| door.duration(&field(leaf), wire).unwrap_or(default);
    let ejection = Ejection {
        failures: wire.ejection_failures.unwrap_or(defaults.ejection.failures),
        time: duration("ejection_time", wire.ejection_time, defaults.ejection.time),
    };
    let timeouts = BalanceTimeouts {
        connect: duration("connect_timeout", wire.connect_timeout, defaults.timeouts.connect),
        request: duration("request_timeout", wire.request_timeout, defaults.timeouts.request),
        idle: duration("idle_timeout", wire.idle_timeout, defaults.timeouts.idle),
        drain: duration("drain_timeout", wire.drain_timeout, defaults.timeouts.drain),
        hold: wire.hold_timeout.map(|hold| duration("hold_timeout", Some(hold), MAX_HOLD)),
    };
    let affinity = wire.affinity.map(|time| duration("affinity", Some(time), Duration::ZERO));
    let check = wire.check.map(|wire| check(&mut duration, wire));
    BalancePolicy {
        mode: match mode {
            Some(v1::BalanceMode::Http) => BalanceMode::Http,
            Some(v1::BalanceMode::Tcp | v1::BalanceMode::Unspecified) | None => BalanceMode::Tcp,
        },
        slow_start: duration("slow_start", wire.slow_start, defaults.slow_start),
        algorithm: algorithm(door, wire.algorithm, wire.hash_by),
        ejection,
        limits: BalanceLimits {
            in_flight: wire.max_in_flight.unwrap_or(defaults.limits.in_flight),
            pending: wire.max_pending.unwrap_or(defaults.limits.pending),
        },
        retries: wire.retries.unwrap_or(defaults.retries),
        timeouts,
        upstream: match door.known(&field("upstream"), wire.upstream, v1::Upstream::try_from(wire.upstream)) {
            Some(v1::Upstream::H2c) => Upstream::H2c,
            Some(v1::Upstream::Http1 | v1::Upstream::Unspecified) | None => Upstream::Http1,
        },
        send_proxy: wire.send_proxy,
        proxy_from: trusted(door, &wire.proxy_from),
        weights: wire.weights.into_iter().map(node_weight).collect(),
        // Too large is for the spec to say.
        canary_permille: wire.canary_permille.map(|permille| u16::try_from(permille).unwrap_or(u16::MAX)),
        check,
        affinity,
    }
}

fn node_weight(wire: v1::NodeWeight) -> NodeWeight {
    NodeWeight { label: wire.label, value: wire.value, weight: wire.weight }
}

fn check(
    duration: &mut impl FnMut(&str, Option<prost_types::Duration>, Duration) -> Duration,
    wire: v1::ActiveCheck,
) -> ActiveCheck {
    let defaults = ActiveCheck::default();
    ActiveCheck {
        path: Some(wire.path).filter(|path| !path.is_empty()),
        interval: duration("check.interval", wire.interval, defaults.interval),
        timeout: duration("check.timeout", wire.timeout, defaults.timeout),
        fall: wire.fall.unwrap_or(defaults.fall),
        rise: wire.rise.unwrap_or(defaults.rise),
    }
}

impl From<&ActiveCheck> for v1::ActiveCheck {
    fn from(check: &ActiveCheck) -> Self {
        Self {
            path: check.path.clone().unwrap_or_default(),
            interval: Some(duration_to_wire(check.interval)),
            timeout: Some(duration_to_wire(check.timeout)),
            fall: Some(check.fall),
            rise: Some(check.rise),
        }
    }
}

fn trusted(door: &mut Door<'_>, wire: &[String]) -> Vec<Cidr> {
    let mut found = Vec::with_capacity(wire.len());
    for (position, text) in wire.iter().enumerate() {
        match text.parse() {
            Ok(range) => found.push(range),
            Err(error) => {
                door.found.add(format!("spec.balance.proxy_from[{position}]"), format!("{text:?}: {error}"));
            }
        }
    }
    found
}

fn algorithm(door: &mut Door<'_>, number: i32, hash_by: Option<v1::HashBy>) -> Algorithm {
    use v1::BalanceAlgorithm as Wire;
    match door.known("spec.balance.algorithm", number, Wire::try_from(number)) {
        Some(Wire::RoundRobin) => Algorithm::RoundRobin,
        Some(Wire::Random) => Algorithm::Random,
        Some(Wire::Adaptive) => Algorithm::Adaptive,
        Some(Wire::ConsistentHash) => Algorithm::ConsistentHash {
            by: match hash_by.and_then(|wire| wire.by) {
                Some(v1::hash_by::By::Header(name)) => HashBy::Header(name),
                Some(v1::hash_by::By::Cookie(name)) => HashBy::Cookie(name),
                Some(v1::hash_by::By::Path(_)) => HashBy::Path,
                Some(v1::hash_by::By::Source(_)) | None => HashBy::Source,
            },
        },
        Some(Wire::LeastRequests | Wire::Unspecified) | None => Algorithm::LeastRequests,
    }
}

impl From<&BalancePolicy> for v1::BalancePolicy {
    fn from(policy: &BalancePolicy) -> Self {
        use v1::BalanceAlgorithm as Wire;
        let algorithm = match &policy.algorithm {
            Algorithm::RoundRobin => Wire::RoundRobin,
            Algorithm::Random => Wire::Random,
            Algorithm::LeastRequests => Wire::LeastRequests,
            Algorithm::Adaptive => Wire::Adaptive,
            Algorithm::ConsistentHash { .. } => Wire::ConsistentHash,
        };
        let mode = match policy.mode {
            BalanceMode::Tcp => v1::BalanceMode::Tcp,
            BalanceMode::Http => v1::BalanceMode::Http,
        };
        Self {
            mode: mode.into(),
            algorithm: algorithm.into(),
            hash_by: hash_by(&policy.algorithm),
            ejection_failures: Some(policy.ejection.failures),
            ejection_time: Some(duration_to_wire(policy.ejection.time)),
            slow_start: Some(duration_to_wire(policy.slow_start)),
            max_in_flight: Some(policy.limits.in_flight),
            max_pending: Some(policy.limits.pending),
            retries: Some(policy.retries),
            connect_timeout: Some(duration_to_wire(policy.timeouts.connect)),
            request_timeout: Some(duration_to_wire(policy.timeouts.request)),
            idle_timeout: Some(duration_to_wire(policy.timeouts.idle)),
            drain_timeout: Some(duration_to_wire(policy.timeouts.drain)),
            hold_timeout: policy.timeouts.hold.map(duration_to_wire),
            weights: policy
                .weights
                .iter()
                .map(|rule| v1::NodeWeight {
                    label: rule.label.clone(),
                    value: rule.value.clone(),
                    weight: rule.weight,
                })
                .collect(),
            canary_permille: policy.canary_permille.map(u32::from),
            check: policy.check.as_ref().map(v1::ActiveCheck::from),
            affinity: policy.affinity.map(duration_to_wire),
            upstream: match policy.upstream {
                Upstream::Http1 => v1::Upstream::Http1,
                Upstream::H2c => v1::Upstream::H2c,
            }
            .into(),
            send_proxy: policy.send_proxy,
            proxy_from: policy.proxy_from.iter().map(Cidr::to_string).collect(),
        }
    }
}

fn hash_by(algorithm: &Algorithm) -> Option<v1::HashBy> {
    let Algorithm::ConsistentHash { by } = algorithm else { return None };
    let by = match by {
        HashBy::Source => v1::hash_by::By::Source(true),
        HashBy::Header(name) => v1::hash_by::By::Header(name.clone()),
        HashBy::Cookie(name) => v1::hash_by::By::Cookie(name.clone()),
        HashBy::Path => v1::hash_by::By::Path(true),
    };
    Some(v1::HashBy { by: Some(by) })
}
