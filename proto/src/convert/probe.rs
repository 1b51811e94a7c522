//! Probes, written by users: every violation is collected, by field path.

use std::time::Duration;

use skein_common::service::{
    DEFAULT_PROBE_INTERVAL, DEFAULT_PROBE_RETRIES, DEFAULT_PROBE_START_INTERVAL, DEFAULT_PROBE_TIMEOUT,
    Probe, ProbeKind, ProbeTest, Probes,
};

use super::{duration_to_wire, service::Door};
use crate::v1;

pub(super) fn probes(door: &mut Door<'_>, wire: v1::Probes) -> Probes {
    let mut read = |kind, wire: Option<v1::Probe>| wire.and_then(|wire| probe(door, kind, wire));
    Probes {
        startup: read(ProbeKind::Startup, wire.startup),
        readiness: read(ProbeKind::Readiness, wire.readiness),
        liveness: read(ProbeKind::Liveness, wire.liveness),
    }
}

fn probe(door: &mut Door<'_>, kind: ProbeKind, wire: v1::Probe) -> Option<Probe> {
    let field = |name: &str| format!("spec.container.probes.{}.{name}", kind.name());
    let Some(test) = wire.test else {
        door.found.add(field("test"), "is required: http, tcp, grpc or exec");
        return None;
    };
    let test = test_from_wire(door, &field, test);
    let mut duration = |name: &str, wire| door.duration(&field(name), wire);
    let interval = duration("interval", wire.interval).unwrap_or(DEFAULT_PROBE_INTERVAL);
    let usual = DEFAULT_PROBE_START_INTERVAL.min(interval);
    Some(Probe {
        test,
        interval,
        timeout: duration("timeout", wire.timeout).unwrap_or(DEFAULT_PROBE_TIMEOUT),
        retries: or_usual(wire.retries, DEFAULT_PROBE_RETRIES),
        successes: or_usual(wire.successes, 1),
        start_period: duration("start_period", wire.start_period).unwrap_or_default(),
        start_interval: duration("start_interval", wire.start_interval).unwrap_or(usual),
    })
}

fn or_usual(count: u32, usual: u32) -> u32 {
    if count == 0 { usual } else { count }
}

fn test_from_wire(door: &mut Door<'_>, field: &impl Fn(&str) -> String, wire: v1::probe::Test) -> ProbeTest {
    match wire {
        v1::probe::Test::Http(http) => ProbeTest::Http {
            port: door.port(&field("http.port"), http.port),
            path: if http.path.is_empty() { "/".to_owned() } else { http.path },
            headers: http.headers.into_iter().collect(),
        },
        v1::probe::Test::Tcp(tcp) => ProbeTest::Tcp { port: door.port(&field("tcp.port"), tcp.port) },
        v1::probe::Test::Grpc(grpc) => {
            ProbeTest::Grpc { port: door.port(&field("grpc.port"), grpc.port), service: grpc.service }
        }
        v1::probe::Test::Exec(line) => ProbeTest::Exec(line.words),
    }
}

impl From<&Probes> for v1::Probes {
    fn from(probes: &Probes) -> Self {
        Self {
            startup: probes.startup.as_ref().map(v1::Probe::from),
            readiness: probes.readiness.as_ref().map(v1::Probe::from),
            liveness: probes.liveness.as_ref().map(v1::Probe::from),
        }
    }
}

impl From<&Probe> for v1::Probe {
    fn from(probe: &Probe) -> Self {
        let duration = |value: Duration| Some(duration_to_wire(value));
        Self {
            test: Some((&probe.test).into()),
            interval: duration(probe.interval),
            timeout: duration(probe.timeout),
            retries: probe.retries,
            successes: probe.successes,
            start_period: (!probe.start_period.is_zero()).then(|| duration_to_wire(probe.start_period)),
            start_interval: duration(probe.start_interval),
        }
    }
}

impl From<&ProbeTest> for v1::probe::Test {
    fn from(test: &ProbeTest) -> Self {
        match test {
            ProbeTest::Http { port, path, headers } => Self::Http(v1::HttpProbe {
                port: (*port).into(),
                path: path.clone(),
                headers: headers.clone().into_iter().collect(),
            }),
            ProbeTest::Tcp { port } => Self::Tcp(v1::TcpProbe { port: (*port).into() }),
            ProbeTest::Grpc { port, service } => {
                Self::Grpc(v1::GrpcProbe { port: (*port).into(), service: service.clone() })
            }
            ProbeTest::Exec(words) => Self::Exec(v1::CommandLine { words: words.clone() }),
        }
    }
}
