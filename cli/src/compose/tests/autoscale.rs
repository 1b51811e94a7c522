//! Policies of autoscaling, and what is said about wrong ones.

use std::time::Duration;

use skein_common::service::*;

use super::{findings, stack};

fn policy(text: &str) -> AutoscalePolicy {
    let text = format!(
        "services:\n  web:\n    image: x\n    deploy: {{ resources: {{ limits: {{ cpus: '1', memory: 1G }} }} }}\n    \
         x-skein:\n      autoscale: {text}\n"
    );
    stack(&text).services.remove(0).spec.autoscale.unwrap()
}

#[test]
fn a_short_policy_has_the_defaults() {
    let expected = AutoscalePolicy::new(10).with(Metric::Cpu, 70);
    assert_eq!(policy("{ max: 10, targets: { cpu: 70% } }"), expected);
    assert_eq!(policy("{ max: 10, targets: { cpu: 70 } }"), expected);
}

#[test]
fn everything_can_be_said() {
    let read = policy(
        "{ min: 0, max: 40, mode: predictive, capacity: 12.5, alpha: 0.7, tolerance: { up: 5%, down: 0.2 }, \
         targets: { cpu: 70%, memory: 80.5%, requests: 100, in_flight: 8, latency_p95: 250ms, load: 80% }, \
         up: { window: 3s, policies: [{ instances: 2, period: 30s }, { percent: 50% }], select: min }, \
         down: { select: disabled }, cooldown: 1m, burst: off, activation: 2, warm_up: 20s, \
         floors: { cron: '0 8 * * mon-fri', time_zone: Europe/Berlin, for: 10h, min: 4 }, \
         forecast: { quantile: 0.95, horizon: 2m, only: true } }",
    );
    let secs = Duration::from_secs;
    let mut expected = AutoscalePolicy {
        min: 0,
        mode: AutoscaleMode::Predictive,
        capacity_milli: Some(12_500),
        combination: Combination::Weighted { alpha_permille: 700, beta_permille: 300 },
        tolerance_up_permille: 50,
        tolerance_down_permille: 200,
        up: ScaleRules {
            window: secs(3),
            select: RateSelect::Min,
            policies: vec![
                RatePolicy { amount: RateAmount::Instances(2), period: secs(30) },
                RatePolicy { amount: RateAmount::Percent(50), period: DEFAULT_RATE_PERIOD },
            ],
        },
        cooldown: secs(60),
        activation: 2,
        warm_up: secs(20),
        floors: vec![ScheduledFloor {
            cron: "0 8 * * mon-fri".into(),
            time_zone: "Europe/Berlin".into(),
            lasts: secs(36_000),
            min: 4,
        }],
        forecast: ForecastPolicy { quantile_permille: 950, horizon: Some(secs(120)), only: true },
        ..AutoscalePolicy::new(40)
    };
    expected.down.select = RateSelect::Disabled;
    expected.burst.threshold_percent = 0;
    let metrics =
        [Metric::Cpu, Metric::Memory, Metric::Requests, Metric::InFlight, Metric::Load, Metric::LatencyP95];
    for (metric, value_milli) in metrics.into_iter().zip([70_000, 80_500, 100_000, 8_000, 80_000, 250_000]) {
        expected.targets.push(Target { metric, value_milli });
    }
    assert_eq!(read, expected);
}

#[test]
fn what_is_wrong_with_a_policy_is_said_at_its_place() {
    for (text, expected) in [
        ("{ min: 2 }", "x-skein.autoscale: max is required"),
        ("{ min: 3, max: 2, targets: { requests: 1 } }", "x-skein.autoscale.min: 3 is more than max, 2"),
        ("{ max: 2 }", "mode hybrid needs a target"),
        ("{ max: 2, targets: { requests: 0 } }", "targets.requests: a target of 0"),
        ("{ max: 2, targets: { requests: -3 } }", "targets.requests: \"-3\" is not a number"),
        ("{ max: 2, targets: { requests: .nan } }", "targets.requests: \".nan\" is not a number"),
        ("{ max: 2, targets: { speed: 3 } }", "targets.speed: unknown key"),
        ("{ max: 2, alpha: 0, beta: 0, targets: { requests: 1 } }", "alpha: alpha and beta are both 0"),
        ("{ max: 2, mode: schedule, floors: [{ cron: '0 25 * * *', for: 1h, min: 1 }] }", "floors[0].cron: "),
        ("{ max: 2, targets: { cpu: 70% } }", "resources.reservations.cpus"),
        ("{ max: 2, mode: fast, targets: { requests: 1 } }", "mode: "),
    ] {
        let text = format!("services:\n  web:\n    image: x\n    x-skein:\n      autoscale: {text}\n");
        let found = findings(&text);
        assert!(found.contains(expected), "{found}\n{expected}");
        assert!(found.contains("5:") || found.contains("4:"), "{found}");
    }
}
