//! `x-skein.balance`: how requests are shared among the instances.
//!
//! Invariant: what is left out is the API's default.

use skein_common::service::{
    ActiveCheck, Algorithm, BalanceMode, BalancePolicy, DEFAULT_WEIGHT, HashBy, NodeWeight, Upstream,
};

use super::{
    diagnostic::Report,
    field::{Field, Section},
    keys,
    yaml::Value,
};

pub fn read(field: &Field<'_>, report: &mut Report) -> BalancePolicy {
    let mut policy = BalancePolicy::default();
    let Some(section) = field.section(keys::BALANCE, report) else { return policy };
    let modes = [("tcp", BalanceMode::Tcp), ("http", BalanceMode::Http)];
    if let Some(mode) = section.get("mode").and_then(|field| field.choice(&modes, report)) {
        policy.mode = mode;
    }
    algorithm(&section, &mut policy, report);
    edge(&section, &mut policy, report);
    shares(&section, &mut policy, report);
    policy.affinity = section.get("affinity").and_then(|field| field.duration(report));
    policy.check = section.get("check").and_then(|field| check(&field, report));
    for (key, count) in [
        ("max_in_flight", &mut policy.limits.in_flight),
        ("max_pending", &mut policy.limits.pending),
        ("retries", &mut policy.retries),
    ] {
        if let Some(given) = section.get(key).and_then(|field| field.count(0, report)) {
            *count = given;
        }
    }
    if let Some(ejection) = section.get("ejection").and_then(|field| field.section(keys::EJECTION, report)) {
        if let Some(failures) = ejection.get("failures").and_then(|field| field.count(0, report)) {
            policy.ejection.failures = failures;
        }
        duration(&ejection, "time", &mut policy.ejection.time, report);
    }
    duration(&section, "slow_start", &mut policy.slow_start, report);
    if let Some(timeouts) = section.get("timeouts").and_then(|field| field.section(keys::TIMEOUTS, report)) {
        duration(&timeouts, "connect", &mut policy.timeouts.connect, report);
        duration(&timeouts, "request", &mut policy.timeouts.request, report);
        duration(&timeouts, "idle", &mut policy.timeouts.idle, report);
        duration(&timeouts, "drain", &mut policy.timeouts.drain, report);
        policy.timeouts.hold = timeouts.get("hold").and_then(|field| field.duration(report));
    }
    policy
}

/// What instances speak, and who tells whom for whom a connection is.
fn edge(section: &Section<'_>, policy: &mut BalancePolicy, report: &mut Report) {
    let upstreams = [("http1", Upstream::Http1), ("h2c", Upstream::H2c)];
    if let Some(upstream) = section.get("upstream").and_then(|field| field.choice(&upstreams, report)) {
        policy.upstream = upstream;
    }
    if let Some(send) = section.get("send_proxy").and_then(|field| field.boolean(report)) {
        policy.send_proxy = send;
    }
    for item in section.get("proxy_from").map(|field| field.one_or_more()).unwrap_or_default() {
        let Some(text) = item.text(report) else { continue };
        match text.parse() {
            Ok(range) => policy.proxy_from.push(range),
            Err(error) => item.error(report, format!("{text:?}: {error}")),
        }
    }
}

/// Weights by node label, and what canaries get.
fn shares(section: &Section<'_>, policy: &mut BalancePolicy, report: &mut Report) {
    policy.canary_permille = section.get("canary_share").and_then(|field| field.permille(report));
    let rules = section.get("weights").and_then(|field| field.items(report)).unwrap_or_default();
    for rule in &rules {
        let Some(rule) = rule.section(keys::NODE_WEIGHT, report) else { continue };
        let Some(label) = rule.get("label") else { continue };
        let weight = rule.get("weight").and_then(|field| field.count(0, report)).unwrap_or(DEFAULT_WEIGHT);
        let text = label.text(report).unwrap_or_default();
        match text.split_once('=') {
            Some((name, value)) => {
                policy.weights.push(NodeWeight { label: name.to_owned(), value: value.to_owned(), weight });
            }
            None => label.error(report, "expected a node's label: NAME=VALUE"),
        }
    }
}

/// `tcp`, a path, or a section.
fn check(field: &Field<'_>, report: &mut Report) -> Option<ActiveCheck> {
    let mut check = ActiveCheck::default();
    if !matches!(field.node.value, Value::Map(_)) {
        let text = field.text(report)?;
        check.path = (text != "tcp").then_some(text);
        return Some(check);
    }
    let section = field.section(keys::ACTIVE_CHECK, report)?;
    check.path = section.get("path").and_then(|field| field.text(report));
    duration(&section, "interval", &mut check.interval, report);
    duration(&section, "timeout", &mut check.timeout, report);
    for (key, count) in [("fall", &mut check.fall), ("rise", &mut check.rise)] {
        if let Some(given) = section.get(key).and_then(|field| field.count(1, report)) {
            *count = given;
        }
    }
    Some(check)
}

/// `consistent_hash` goes by `hash_by`: source, path, or `{ header }` or `{ cookie }`.
fn algorithm(section: &Section<'_>, policy: &mut BalancePolicy, report: &mut Report) {
    let by = section.get("hash_by").and_then(|field| hash_by(&field, report)).unwrap_or(HashBy::Source);
    let algorithms = [
        ("round_robin", Algorithm::RoundRobin),
        // The share of a weight, evenly interleaved: the same.
        ("weighted", Algorithm::RoundRobin),
        ("random", Algorithm::Random),
        ("least_requests", Algorithm::LeastRequests),
        ("adaptive", Algorithm::Adaptive),
        ("consistent_hash", Algorithm::ConsistentHash { by }),
    ];
    if let Some(algorithm) = section.get("algorithm").and_then(|field| field.choice(&algorithms, report)) {
        policy.algorithm = algorithm;
    }
}

fn hash_by(field: &Field<'_>, report: &mut Report) -> Option<HashBy> {
    if !matches!(field.node.value, Value::Map(_)) {
        return field.choice(&[("source", HashBy::Source), ("path", HashBy::Path)], report);
    }
    let section = field.section(keys::HASH_BY, report)?;
    let header = section.get("header").and_then(|field| field.text(report)).map(HashBy::Header);
    let by =
        header.or_else(|| section.get("cookie").and_then(|field| field.text(report)).map(HashBy::Cookie));
    if by.is_none() {
        field.error(report, "expected source, path, { header: NAME } or { cookie: NAME }");
    }
    by
}

fn duration(section: &Section<'_>, key: &str, into: &mut std::time::Duration, report: &mut Report) {
    if let Some(given) = section.get(key).and_then(|field| field.duration(report)) {
        *into = given;
    }
}
