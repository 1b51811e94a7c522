//! What probes say of a container, and when each is due again.
//!
//! Invariant: pure; at most one test of a kind is under way; what is not about the container that
//! runs now changes nothing. Nothing is probed before its process began, so a pull never counts.
//! Deliberately not here: the tests themselves (`agent/src/prober`), what a verdict leads to (`lifecycle`).

use std::{net::SocketAddr, sync::Arc};

use skein_common::{
    InstanceId, Timestamp,
    assignment::Assignment,
    service::{Probe, ProbeKind, ProbeTest, Probes, Protocol},
};

use crate::container::SeenContainer;

/// A test to be made now. Its result has to come, whatever happens: see [`ProbeResult`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeRun {
    pub instance: InstanceId,
    /// The engine's id.
    pub container: String,
    pub kind: ProbeKind,
    pub assignment: Arc<Assignment>,
    /// Where to go; `None` for a program in the container, or when no way leads to the port.
    pub target: Option<SocketAddr>,
}

/// What became of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    pub instance: InstanceId,
    pub container: String,
    pub kind: ProbeKind,
    pub outcome: ProbeOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    Passed,
    /// Why, in a few words.
    Failed(String),
    /// The test could not be made; that says nothing of the container.
    Unknown,
}

impl ProbeRun {
    /// What to test; `None` when the assignment has no such probe, which it has.
    #[must_use]
    pub fn probe(&self) -> Option<&Probe> {
        self.assignment.container.probes.get(self.kind)
    }
}

/// How the probes of one container stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Probing {
    of: Option<Life>,
    startup: Track,
    readiness: Track,
    liveness: Track,
}

/// One life of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Life {
    /// The engine's id.
    container: String,
    /// By the engine's clock.
    started_at: Timestamp,
    /// By the agent's, or what comes close.
    began: Timestamp,
}

/// How one probe stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Track {
    /// When the last test began.
    begun_at: Option<Timestamp>,
    under_way: bool,
    /// Has ever passed.
    passed: bool,
    passes: u32,
    /// In a row, of those that count.
    failures: u32,
    /// The last verdict; `None` = there is none yet.
    verdict: Option<bool>,
    /// Why the last test failed; empty when it passed.
    cause: String,
}

impl Probing {
    /// Begins anew for another container or another life of it.
    pub(crate) fn watch(
        &mut self,
        container: &str,
        started_at: Timestamp,
        has_started: bool,
        now: Timestamp,
    ) {
        let same = |life: &Life| life.container == container && life.started_at == started_at;
        if !self.of.as_ref().is_some_and(same) {
            let life = Life { container: container.to_owned(), started_at, began: started_at.min(now) };
            *self = Self { of: Some(life), ..Self::default() };
        }
        if has_started {
            self.startup.verdict = Some(true);
        }
    }

    pub(crate) fn has_started(&self, probes: &Probes) -> bool {
        probes.startup.is_none() || self.startup.verdict == Some(true)
    }

    /// Whether it may receive traffic; `None` = not known yet.
    pub(crate) fn serves(&self, probes: &Probes) -> Option<bool> {
        if probes.readiness.is_none() { Some(true) } else { self.readiness.verdict }
    }

    /// Why the attempt has to end.
    pub(crate) fn fatal(&self, probes: &Probes) -> Option<String> {
        [ProbeKind::Startup, ProbeKind::Liveness].into_iter().find_map(|kind| {
            let track = self.track(kind);
            let failed = probes.get(kind).is_some() && track.verdict == Some(false);
            failed.then(|| format!("{} probe: {}", kind.name(), track.cause))
        })
    }

    /// What keeps it from being ready, as far as probes know.
    pub(crate) fn complaint(&self, probes: &Probes) -> String {
        let kind = if self.has_started(probes) { ProbeKind::Readiness } else { ProbeKind::Startup };
        let track = self.track(kind);
        let wanting = probes.get(kind).is_some() && track.verdict != Some(true) && !track.cause.is_empty();
        if wanting { format!("{} probe: {}", kind.name(), track.cause) } else { String::new() }
    }

    /// Tests that are to begin now, and when the next one is due.
    pub(crate) fn due(&mut self, probes: &Probes, now: Timestamp) -> (Vec<ProbeKind>, Option<Timestamp>) {
        let Some(began) = self.of.as_ref().map(|life| life.began) else { return (Vec::new(), None) };
        let has_started = self.has_started(probes);
        let (mut now_due, mut next) = (Vec::new(), None::<Timestamp>);
        for kind in ProbeKind::ALL {
            let Some(probe) = probes.get(kind) else { continue };
            if (kind == ProbeKind::Startup) == has_started {
                continue;
            }
            let track = self.track_mut(kind);
            if track.under_way {
                continue;
            }
            let at = track.next_at(kind, probe, began);
            if at <= now {
                track.under_way = true;
                track.begun_at = Some(now);
                now_due.push(kind);
            } else {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        (now_due, next)
    }

    /// Takes a result in, unless it is about another container.
    pub(crate) fn take(&mut self, probes: &Probes, result: ProbeResult, now: Timestamp) {
        let Some(life) = self.of.as_ref().filter(|life| life.container == result.container) else { return };
        let (began, Some(probe)) = (life.began, probes.get(result.kind)) else { return };
        self.track_mut(result.kind).take(result.kind, probe, began, result.outcome, now);
    }

    const fn track(&self, kind: ProbeKind) -> &Track {
        match kind {
            ProbeKind::Startup => &self.startup,
            ProbeKind::Readiness => &self.readiness,
            ProbeKind::Liveness => &self.liveness,
        }
    }

    const fn track_mut(&mut self, kind: ProbeKind) -> &mut Track {
        match kind {
            ProbeKind::Startup => &mut self.startup,
            ProbeKind::Readiness => &mut self.readiness,
            ProbeKind::Liveness => &mut self.liveness,
        }
    }
}

impl Track {
    fn next_at(&self, kind: ProbeKind, probe: &Probe, began: Timestamp) -> Timestamp {
        let Some(last) = self.begun_at else { return began };
        let excused = !self.passed && is_excused(kind, probe, began, last);
        last + if excused { probe.start_interval } else { probe.interval }
    }

    fn take(
        &mut self,
        kind: ProbeKind,
        probe: &Probe,
        began: Timestamp,
        outcome: ProbeOutcome,
        now: Timestamp,
    ) {
        self.under_way = false;
        match outcome {
            ProbeOutcome::Unknown => {}
            ProbeOutcome::Passed => {
                self.passed = true;
                self.failures = 0;
                self.passes = self.passes.saturating_add(1);
                self.cause.clear();
                if self.passes >= probe.successes {
                    self.verdict = Some(true);
                }
            }
            ProbeOutcome::Failed(cause) => {
                self.passes = 0;
                self.cause = cause;
                if self.passed || kind == ProbeKind::Readiness || !is_excused(kind, probe, began, now) {
                    self.failures = self.failures.saturating_add(1);
                }
                if self.failures >= probe.retries {
                    self.verdict = Some(false);
                }
            }
        }
    }
}

/// Whether failures before the first pass do not count at this time. What has never been ready
/// cannot become less so.
fn is_excused(kind: ProbeKind, probe: &Probe, began: Timestamp, at: Timestamp) -> bool {
    kind == ProbeKind::Readiness || at.since(began) < probe.start_period
}

/// The container's own address tells the truth: the engine's proxy behind a published port takes
/// connections that nobody in the container accepts.
pub(crate) fn target(test: &ProbeTest, container: &SeenContainer, of: &Assignment) -> Option<SocketAddr> {
    let port = test.port()?;
    let published = || {
        let leads = |binding: &&skein_common::instance::PortBinding| {
            binding.container_port == port && binding.protocol == Protocol::Tcp
        };
        of.ports.iter().find(leads).map(|binding| ([127, 0, 0, 1], binding.host_port).into())
    };
    container.address.map(|address| SocketAddr::new(address, port)).or_else(published)
}

#[cfg(test)]
mod tests;
