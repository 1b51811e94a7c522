//! Skein's own probes of a container: has it started, may it receive traffic, must it be restarted.
//!
//! Invariant: durations and counts are the ones in force; what a user left out was filled in at the door.
//! Deliberately not here: Docker's HEALTHCHECK (`service`), when a probe is due (`agent/core`).

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::Violations;

/// Between two probes (Kubernetes' figure).
pub const DEFAULT_PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// Of one probe (Kubernetes' figure).
pub const DEFAULT_PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Failures in a row that count (Kubernetes' and Docker's figure).
pub const DEFAULT_PROBE_RETRIES: u32 = 3;
/// Between two probes of what is just starting; at most the interval.
pub const DEFAULT_PROBE_START_INTERVAL: Duration = Duration::from_secs(1);
/// More often than this a probe is load.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);
/// A test that hangs keeps its place among those under way.
const MAX_TIMEOUT: Duration = Duration::from_secs(10 * 60);
const MAX_COUNT: u32 = 1_000;
const MAX_HEADERS: usize = 32;
/// Of a path, a header, a service's name, the words of a program together.
const MAX_TEXT: usize = 4_096;

/// What is asked of a container while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Probes {
    /// Passes once; until then the others wait. Failing for good ends the attempt.
    pub startup: Option<Probe>,
    /// Ready only while it passes; nothing happens to the container when it does not.
    pub readiness: Option<Probe>,
    /// Failing for good ends the attempt: stopped with grace, restarted by policy.
    pub liveness: Option<Probe>,
}

/// One question, asked again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub test: ProbeTest,
    /// From the beginning of one test to the next.
    pub interval: Duration,
    /// A test that takes longer has failed.
    pub timeout: Duration,
    /// Failures in a row that count as one.
    pub retries: u32,
    /// Passes in a row after a failure; 1 but for readiness.
    pub successes: u32,
    /// Failures of startup and liveness within this time after the process began do not count, before
    /// the first pass.
    pub start_period: Duration,
    /// Between two tests before the first pass, while failures do not count.
    pub start_interval: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeTest {
    /// GET; 200 to 399 passes, redirects are not followed.
    Http { port: u16, path: String, headers: BTreeMap<String, String> },
    /// A connection can be opened.
    Tcp { port: u16 },
    /// `grpc.health.v1.Health/Check` answers SERVING; an empty service is the whole server.
    Grpc { port: u16, service: String },
    /// A program in the container ends with 0.
    Exec(Vec<String>),
}

/// Which of the three probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    pub const ALL: [Self; 3] = [Self::Startup, Self::Readiness, Self::Liveness];

    /// As the API and Compose files spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
        }
    }
}

impl Probes {
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.startup.is_none() && self.readiness.is_none() && self.liveness.is_none()
    }

    #[must_use]
    pub const fn get(&self, kind: ProbeKind) -> Option<&Probe> {
        match kind {
            ProbeKind::Startup => self.startup.as_ref(),
            ProbeKind::Readiness => self.readiness.as_ref(),
            ProbeKind::Liveness => self.liveness.as_ref(),
        }
    }

    pub(super) fn check(&self, found: &mut Violations) {
        for kind in ProbeKind::ALL {
            if let Some(probe) = self.get(kind) {
                probe.check(kind, found);
            }
        }
    }
}

impl Probe {
    /// With everything as it is when nothing is said.
    #[must_use]
    pub const fn new(test: ProbeTest) -> Self {
        Self {
            test,
            interval: DEFAULT_PROBE_INTERVAL,
            timeout: DEFAULT_PROBE_TIMEOUT,
            retries: DEFAULT_PROBE_RETRIES,
            successes: 1,
            start_period: Duration::ZERO,
            start_interval: DEFAULT_PROBE_START_INTERVAL,
        }
    }

    fn check(&self, kind: ProbeKind, found: &mut Violations) {
        let field = |name: &str| format!("spec.container.probes.{}.{name}", kind.name());
        for (name, duration, least, most) in [
            ("interval", self.interval, MIN_INTERVAL, MAX_DURATION),
            ("timeout", self.timeout, Duration::from_millis(1), MAX_TIMEOUT),
            ("start_interval", self.start_interval, MIN_INTERVAL, MAX_DURATION),
            ("start_period", self.start_period, Duration::ZERO, MAX_DURATION),
        ] {
            if !(least..=most).contains(&duration) {
                found.add(field(name), format!("{duration:?} is not between {least:?} and {most:?}"));
            }
        }
        for (name, count) in [("retries", self.retries), ("successes", self.successes)] {
            if !(1..=MAX_COUNT).contains(&count) {
                found.add(field(name), format!("{count} is not between 1 and {MAX_COUNT}"));
            }
        }
        if kind != ProbeKind::Readiness && self.successes > 1 {
            found.add(field("successes"), "only a readiness probe needs more than 1");
        }
        self.test.check(&field, found);
    }
}

impl ProbeTest {
    /// The port it goes to.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        match self {
            Self::Http { port, .. } | Self::Tcp { port } | Self::Grpc { port, .. } => Some(*port),
            Self::Exec(_) => None,
        }
    }

    /// As the API and Compose files spell it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Tcp { .. } => "tcp",
            Self::Grpc { .. } => "grpc",
            Self::Exec(_) => "exec",
        }
    }

    fn check(&self, field: &impl Fn(&str) -> String, found: &mut Violations) {
        let name = self.name();
        if self.port() == Some(0) {
            found.add(field(&format!("{name}.port")), "a port of the container, 1 to 65535, is required");
        }
        match self {
            Self::Http { path, headers, .. } => {
                let plain = path.bytes().all(|byte| byte.is_ascii_graphic());
                if !path.starts_with('/') || !plain || path.len() > MAX_TEXT {
                    found.add(field("http.path"), format!("{path:?} is not a path such as /healthz"));
                }
                check_headers(headers, &field("http.headers"), found);
            }
            Self::Grpc { service, .. } if service.len() > MAX_TEXT => {
                found.add(field("grpc.service"), format!("longer than {MAX_TEXT} bytes"));
            }
            Self::Exec(words) if words.first().is_none_or(String::is_empty) => {
                found.add(field("exec"), "a program is required");
            }
            Self::Exec(words) if words.iter().map(String::len).sum::<usize>() > MAX_TEXT => {
                found.add(field("exec"), format!("longer than {MAX_TEXT} bytes"));
            }
            Self::Tcp { .. } | Self::Grpc { .. } | Self::Exec(_) => {}
        }
    }
}

/// Names are tokens of RFC 9110; a value that holds a line end would be a header of its own.
fn check_headers(headers: &BTreeMap<String, String>, field: &str, found: &mut Violations) {
    if headers.len() > MAX_HEADERS {
        found.add(field, format!("{} headers, more than {MAX_HEADERS}", headers.len()));
    }
    for (name, value) in headers {
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(token) || name.len() > MAX_TEXT {
            found.add(field, format!("{name:?} is not the name of a header"));
        }
        if value.len() > MAX_TEXT || !value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            found.add(field, format!("{name}: the value is too long or holds more than plain text"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(kind: ProbeKind, change: impl FnOnce(&mut Probe)) -> Vec<String> {
        let mut probe = Probe::new(ProbeTest::Tcp { port: 80 });
        change(&mut probe);
        let mut probes = Probes::default();
        match kind {
            ProbeKind::Startup => probes.startup = Some(probe),
            ProbeKind::Readiness => probes.readiness = Some(probe),
            ProbeKind::Liveness => probes.liveness = Some(probe),
        }
        let mut found = Violations::default();
        probes.check(&mut found);
        found.0.into_iter().map(|violation| violation.field).collect()
    }

    fn http(path: &str, header: (&str, &str)) -> ProbeTest {
        let headers = BTreeMap::from([(header.0.to_owned(), header.1.to_owned())]);
        ProbeTest::Http { port: 80, path: path.to_owned(), headers }
    }

    #[test]
    fn every_violation_names_its_field() {
        use ProbeKind::{Liveness, Readiness, Startup};
        type Change = fn(&mut Probe);
        let cases: [(ProbeKind, Change, Option<&str>); 14] = [
            (Startup, |_| {}, None),
            (Readiness, |probe| probe.successes = 3, None),
            (Liveness, |probe| probe.test = http("/a?b=c", ("X-Key", "a b")), None),
            (Startup, |probe| probe.test = ProbeTest::Exec(vec!["true".to_owned()]), None),
            (Liveness, |probe| probe.successes = 2, Some("liveness.successes")),
            (Startup, |probe| probe.interval = Duration::ZERO, Some("startup.interval")),
            (Startup, |probe| probe.timeout = Duration::from_secs(1 << 20), Some("startup.timeout")),
            (Readiness, |probe| probe.retries = 0, Some("readiness.retries")),
            (Readiness, |probe| probe.test = ProbeTest::Tcp { port: 0 }, Some("readiness.tcp.port")),
            (Readiness, |probe| probe.test = http("x", ("A", "b")), Some("readiness.http.path")),
            (Readiness, |probe| probe.test = http("/a b", ("A", "b")), Some("readiness.http.path")),
            (Readiness, |probe| probe.test = http("/", ("A:", "b")), Some("readiness.http.headers")),
            (Readiness, |probe| probe.test = http("/", ("A", "b\r\nC: d")), Some("readiness.http.headers")),
            (Liveness, |probe| probe.test = ProbeTest::Exec(Vec::new()), Some("liveness.exec")),
        ];
        for (position, (kind, change, expected)) in cases.into_iter().enumerate() {
            let expected: Vec<_> =
                expected.iter().map(|name| format!("spec.container.probes.{name}")).collect();
            assert_eq!(fields(kind, change), expected, "case {position}");
        }
    }
}
