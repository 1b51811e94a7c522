//! Tables over one probe; what all three do to an instance is in `tests/probes.rs`.

use std::time::Duration;

use super::*;

const BEGAN: Timestamp = Timestamp::from_unix_ms(1_000_000);

fn probe(retries: u32, successes: u32, start_period: u64) -> Probe {
    let start_period = Duration::from_secs(start_period);
    Probe { retries, successes, start_period, ..Probe::new(ProbeTest::Tcp { port: 80 }) }
}

/// The verdict after each of these results, one a second.
fn verdicts(kind: ProbeKind, probe: &Probe, results: &str) -> String {
    let (mut track, mut now, mut said) = (Track::default(), BEGAN, String::new());
    for result in results.chars() {
        now = now + Duration::from_secs(1);
        let outcome = match result {
            '+' => ProbeOutcome::Passed,
            '-' => ProbeOutcome::Failed("no".to_owned()),
            _ => ProbeOutcome::Unknown,
        };
        track.take(kind, probe, BEGAN, outcome, now);
        said.push(match track.verdict {
            None => '?',
            Some(true) => '+',
            Some(false) => '-',
        });
    }
    said
}

#[test]
fn passes_and_failures_in_a_row_count() {
    use ProbeKind::{Liveness, Readiness, Startup};
    for (kind, probe, results, expected) in [
        (Readiness, probe(3, 1, 0), "+--+---+", "++++++-+"),
        (Readiness, probe(1, 3, 0), "++-+++", "??---+"),
        (Readiness, probe(2, 1, 60), "--", "?-"),
        (Liveness, probe(2, 1, 0), "+-+--", "++++-"),
        (Liveness, probe(2, 1, 4), "-----", "????-"),
        // Who has once passed has started.
        (Liveness, probe(2, 1, 60), "-+--", "?++-"),
        (Startup, probe(3, 1, 3), "--+", "??+"),
        (Startup, probe(1, 1, 0), "-", "-"),
        // An engine that is away says nothing of the container.
        (Liveness, probe(2, 1, 0), "+-   -", "+++++-"),
    ] {
        assert_eq!(verdicts(kind, &probe, results), expected, "{kind:?} {results}");
    }
}

#[test]
fn a_test_is_due_after_its_interval_and_sooner_at_first() {
    use ProbeKind::{Liveness, Readiness};
    let given = probe(3, 1, 30);
    let at = |seconds: u64| BEGAN + Duration::from_secs(seconds);
    for (kind, passed, begun, next) in [
        (Liveness, false, None, 0),
        (Liveness, false, Some(5), 6),
        (Liveness, true, Some(5), 15),
        (Liveness, false, Some(30), 40),
        (Readiness, false, Some(500), 501),
        (Readiness, true, Some(500), 510),
    ] {
        let track = Track { passed, begun_at: begun.map(at), ..Track::default() };
        assert_eq!(track.next_at(kind, &given, BEGAN), at(next), "{kind:?} {passed} {begun:?}");
    }
}

#[test]
fn what_is_about_another_container_changes_nothing() {
    let probes = Probes { readiness: Some(probe(1, 1, 0)), ..Probes::default() };
    let mut probing = Probing::default();
    let result = |container: &str, outcome| ProbeResult {
        instance: InstanceId::from_random(1),
        container: container.to_owned(),
        kind: ProbeKind::Readiness,
        outcome,
    };
    probing.take(&probes, result("a", ProbeOutcome::Passed), BEGAN);
    probing.watch("a", BEGAN, false, BEGAN);
    assert_eq!(probing.due(&probes, BEGAN).0, [ProbeKind::Readiness]);
    assert_eq!(probing.due(&probes, BEGAN).0, [], "it is under way");
    probing.take(&probes, result("b", ProbeOutcome::Passed), BEGAN);
    assert_eq!(probing.serves(&probes), None);
    probing.take(&probes, result("a", ProbeOutcome::Passed), BEGAN);
    assert_eq!(probing.serves(&probes), Some(true));
    probing.watch("a", BEGAN + Duration::from_secs(9), false, BEGAN + Duration::from_secs(9));
    assert_eq!(probing.serves(&probes), None, "it was started anew");
}

/// Else a clock that is ahead would keep probes from beginning.
#[test]
fn an_engine_whose_clock_is_ahead_delays_nothing() {
    let probes = Probes { liveness: Some(probe(1, 1, 0)), ..Probes::default() };
    let mut probing = Probing::default();
    probing.watch("a", BEGAN + Duration::from_secs(3600), false, BEGAN);
    assert_eq!(probing.due(&probes, BEGAN).0, [ProbeKind::Liveness]);
}
