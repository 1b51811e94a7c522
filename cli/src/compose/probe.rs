//! `x-skein.probes`: what the agent asks of a container.
//!
//! Invariant: what is left out is filled in as the API does it.

use skein_common::service::{Probe, ProbeKind, ProbeTest, Probes};

use super::{
    diagnostic::Report,
    field::{Field, Section},
    keys,
    origin::Origins,
    yaml::Value,
};

pub fn read(field: &Field<'_>, origins: &mut Origins, report: &mut Report) -> Probes {
    let Some(section) = field.section(keys::PROBES, report) else { return Probes::default() };
    let mut read = |kind: ProbeKind| {
        let field = section.get(kind.name())?;
        origins.add(format!("spec.container.probes.{}", kind.name()), &field.path, field.node.at);
        probe(&field, report)
    };
    Probes {
        startup: read(ProbeKind::Startup),
        readiness: read(ProbeKind::Readiness),
        liveness: read(ProbeKind::Liveness),
    }
}

fn probe(field: &Field<'_>, report: &mut Report) -> Option<Probe> {
    let section = field.section(keys::PROBE, report)?;
    let mut probe = Probe::new(test(field, &section, report)?);
    let start_interval = section.get("start_interval").and_then(|field| field.duration(report));
    for (key, duration) in [
        ("interval", &mut probe.interval),
        ("timeout", &mut probe.timeout),
        ("start_period", &mut probe.start_period),
    ] {
        if let Some(field) = section.get(key) {
            *duration = field.duration(report)?;
        }
    }
    probe.start_interval = start_interval.unwrap_or(probe.start_interval.min(probe.interval));
    for (key, count) in [("retries", &mut probe.retries), ("successes", &mut probe.successes)] {
        if let Some(field) = section.get(key) {
            *count = field.count(1, report)?;
        }
    }
    Some(probe)
}

/// Exactly one of `http`, `tcp`, `grpc`, `exec`.
fn test(field: &Field<'_>, section: &Section<'_>, report: &mut Report) -> Option<ProbeTest> {
    let mut tests = ["http", "tcp", "grpc", "exec"].iter().filter_map(|key| Some((*key, section.get(key)?)));
    let (Some((key, test)), None) = (tests.next(), tests.next()) else {
        field.error(report, "expected exactly one of http, tcp, grpc, exec");
        return None;
    };
    match key {
        "http" => http(&test, report),
        "grpc" => grpc(&test, report),
        "tcp" => port(&test, report).map(|port| ProbeTest::Tcp { port }),
        _ => test.words(report).map(ProbeTest::Exec),
    }
}

/// A port, or `{ port, path, headers }`.
fn http(field: &Field<'_>, report: &mut Report) -> Option<ProbeTest> {
    let whole =
        |port| ProbeTest::Http { port, path: "/".to_owned(), headers: std::collections::BTreeMap::new() };
    if !matches!(field.node.value, Value::Map(_)) {
        return port(field, report).map(whole);
    }
    let section = field.section(keys::PROBE_HTTP, report)?;
    let path = section.get("path").and_then(|field| field.text(report));
    let headers = section.get("headers").and_then(|field| field.pairs(report)).unwrap_or_default();
    Some(ProbeTest::Http {
        port: required_port(field, &section, report)?,
        path: path.unwrap_or_else(|| "/".to_owned()),
        headers: headers.into_iter().map(|(name, value, _)| (name, value.unwrap_or_default())).collect(),
    })
}

/// A port, or `{ port, service }`.
fn grpc(field: &Field<'_>, report: &mut Report) -> Option<ProbeTest> {
    if !matches!(field.node.value, Value::Map(_)) {
        return port(field, report).map(|port| ProbeTest::Grpc { port, service: String::new() });
    }
    let section = field.section(keys::PROBE_GRPC, report)?;
    let service = section.get("service").and_then(|field| field.text(report)).unwrap_or_default();
    Some(ProbeTest::Grpc { port: required_port(field, &section, report)?, service })
}

fn required_port(field: &Field<'_>, section: &Section<'_>, report: &mut Report) -> Option<u16> {
    let Some(field) = section.get("port") else {
        field.error(report, "port is required: one of the container");
        return None;
    };
    port(&field, report)
}

fn port(field: &Field<'_>, report: &mut Report) -> Option<u16> {
    field.integer(1, u16::MAX.into(), report).and_then(|port| u16::try_from(port).ok())
}
