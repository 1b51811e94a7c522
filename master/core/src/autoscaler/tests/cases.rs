//! What others' autoscalers are known to decide, by the names of the public tests of Kubernetes' horizontal autoscaler
//! (`replica_calculator_test`, `horizontal_test`) and of Knative's (`autoscaler_test`).

use super::*;

/// Current, instances, their CPU (−1 = no reading) and reservations, target, tolerance down and up; `None` = broken.
type Usage = (&'static str, u32, &'static str, &'static [i64], u64, (u16, u16), &'static [u64], Option<u32>);

const USAGE: [Usage; 12] = [
    ("ScaleUp", 3, "RRR", &[300, 500, 700], 30, (100, 100), &[1000; 3], Some(5)),
    ("ScaleUpUnreadyNoScale", 3, "RUU", &[400, 500, 700], 30, (100, 100), &[1000; 3], Some(3)),
    ("ScaleUpIgnoresDeletionPods", 2, "RREE", &[500, 700, -1, -1], 30, (100, 100), &[1000; 4], Some(4)),
    (
        "ScaleDownExcludeUnreadyPods",
        5,
        "RRRUU",
        &[100, 300, 500, 250, 250],
        50,
        (100, 100),
        &[1000; 5],
        Some(2),
    ),
    (
        "ScaleDownIgnoresFailedPods",
        5,
        "RRRRREE",
        &[100, 300, 500, 250, 250, -1, -1],
        50,
        (100, 100),
        &[1000; 7],
        Some(3),
    ),
    ("MissingMetricsNoChangeEq", 2, "RR", &[1000, -1], 100, (100, 100), &[1000; 2], Some(2)),
    ("MissingMetricsUnreadyChange", 3, "URR", &[100, 450, -1], 50, (100, 100), &[1000; 3], Some(3)),
    (
        "MissingMetricsScaleDownTargetOver100",
        4,
        "URRR",
        &[200, 100, 100, -1],
        300,
        (100, 100),
        &[1000, 1000, 2000, 2000],
        Some(2),
    ),
    ("EmptyCPURequest", 1, "R", &[200], 100, (100, 100), &[0], None),
    ("ConfigurableTolerance 0%", 3, "RRR", &[909, 1010, 1111], 100, (0, 0), &[900, 1000, 1100], Some(4)),
    (
        "ConfigurableTolerance down 36%",
        3,
        "RRR",
        &[660, 640, 650],
        100,
        (360, 100),
        &[900, 1000, 1100],
        Some(3),
    ),
    (
        "ComputedToleranceAlgImplementation (2)",
        10,
        "RRRRRRRRRR",
        &[150; 10],
        55,
        (100, 100),
        &[400, 200, 310, 290, 302, 298, 301, 299, 300, 300],
        Some(10),
    ),
];

/// What the metrics ask for, without windows and rates.
fn wish(policy: &AutoscalePolicy, current: u32, signals: &Signals) -> Option<u32> {
    let memory = Memory::default();
    decide(&Question::new(policy, current, signals, &memory, NOW)).wish
}

#[test]
fn usage_with_unready_missing_and_ending_instances() {
    for (name, current, states, usage, target, (down, up), reserved, expected) in USAGE {
        let mut samples = instances(states);
        for ((one, usage), reserved) in samples.iter_mut().zip(usage).zip(reserved) {
            one.readings.extend(u64::try_from(*usage).ok().map(|usage| (Metric::Cpu, reading(usage))));
            one.reserved.extend((*reserved > 0).then_some((Metric::Cpu, *reserved)));
        }
        let policy = AutoscalePolicy {
            tolerance_down_permille: down,
            tolerance_up_permille: up,
            ..AutoscalePolicy::new(1000).with(Metric::Cpu, target)
        };
        assert_eq!(wish(&policy, current, &Signals::of(samples)), expected, "{name}");
    }
}

#[test]
fn averages_of_what_instances_tell() {
    for (name, current, states, values, target_milli, expected) in [
        ("ScaleUpCMUnreadyHotCpuNoLessScale", 3, "RRU", vec![50_000, 10_000, 30_000], 15_000, 6),
        ("ToleranceCM", 3, "RRR", vec![20_000, 21_000, 21_000], 20_000, 3),
        ("DuringRollingUpdateWithMaxSurgeCM", 2, "RRR", vec![10_000, 10_000], 17_000, 2),
    ] {
        let mut samples = instances(states);
        for (one, value) in samples.iter_mut().zip(values) {
            one.readings.insert(Metric::Requests, reading(value));
        }
        let mut policy = AutoscalePolicy::new(1000);
        policy.targets.push(Target { metric: Metric::Requests, value_milli: target_milli });
        assert_eq!(wish(&policy, current, &Signals::of(samples)), Some(expected), "{name}");
    }
}

#[test]
fn numbers_of_the_service_as_a_whole() {
    for (name, spread, current, total_milli, target_milli, expected) in [
        ("ScaleDownCMObject", Spread::Whole, 5, 12_000, 20_000, 3),
        ("ScaleUpCMExternal", Spread::Whole, 1, 8_600, 4_400, 2),
        ("ToleranceCMExternal", Spread::Whole, 3, 8_600, 8_888, 3),
        ("ScaleDownPerPodCMObject", Spread::Each, 5, 6_000, 2_000, 3),
        ("ScaleUpPerPodCMExternal", Spread::Each, 3, 8_600, 2_150, 4),
        ("ExternalPerPodMetricReplicaOverflow", Spread::Each, 1, i64::MAX as u64, 1, 2_147_483_647),
    ] {
        let metric = Metric::External { name: "lag".into(), spread };
        let mut policy = AutoscalePolicy::new(u32::MAX);
        policy.targets.push(Target { metric: metric.clone(), value_milli: target_milli });
        let signals = Signals { ready: current, ..Signals::default() }.with(metric, total_milli);
        assert_eq!(wish(&policy, current, &signals), Some(expected), "{name}");
    }
}

#[test]
fn bounds_windows_and_metrics_that_say_nothing() {
    let fast = || {
        let amount = RateAmount::Percent(700);
        let policies = vec![RatePolicy { amount, period: Duration::from_secs(60) }];
        ScaleRules { policies, ..ScaleRules::up() }
    };
    use LimitKind::{DownWindow, Max, Min};
    // Current, min, max, wish, asleep, history (wish, seconds ago), replicas, reason.
    type Row = (u32, u32, u32, Option<u32>, bool, &'static [(u32, u64)], u32, Reason);
    let table: [(&str, Row); 8] = [
        ("ZeroReplicas", (0, 3, 5, None, false, &[], 0, Reason::Stopped)),
        ("MinReplicasDesiredZero", (3, 2, 5, Some(0), false, &[(0, 600)], 2, Reason::Limited(Min))),
        ("UpscaleCapGreaterThanMaxReplicas", (3, 1, 20, Some(60), false, &[], 20, Reason::Limited(Max))),
        (
            "StabilizeDownscale",
            (4, 1, 5, Some(3), false, &[(10, 600), (4, 60)], 4, Reason::Limited(DownWindow)),
        ),
        ("ScaleUpBothMetricsEmpty", (3, 2, 6, None, false, &[], 3, Reason::MetricsBroken)),
        ("ScaleUpFromZeroIgnoresToleranceCMObject", (0, 0, 6, Some(1), true, &[(0, 0)], 1, Reason::Within)),
        (
            "ScaleUpFromZeroWhenMinReplicasIncreased",
            (0, 2, 6, Some(1), true, &[(0, 0)], 2, Reason::Limited(Min)),
        ),
        ("ConvertDesiredReplicasWithRules", (1, 0, 10, Some(0), false, &[], 0, Reason::Within)),
    ];
    for (name, (current, min, max, wish, asleep, history, replicas, reason)) in table {
        let policy = AutoscalePolicy { up: fast(), ..as_told(min, max) };
        let signals = wish.map(|wish| asks_for(current, wish)).unwrap_or_default();
        let mut memory = Memory::default();
        memory.wishes.extend(history.iter().map(|&(replicas, seconds)| Wish { at: ago(seconds), replicas }));
        // From nothing to one: a percentage of nothing is nothing.
        let question = Question { asleep, ..Question::new(&policy, current, &signals, &memory, NOW) };
        let decision = decide(&question);
        assert_eq!((decision.replicas, decision.reason), (replicas, reason), "{name}: {decision}");
    }
}

#[test]
fn windows_of_both_directions() {
    // Up and down window, current, wish, history (wish, minutes ago), result.
    type Row = ((u64, u64), u32, u32, &'static [(u32, u64)], u32);
    let table: [(&str, Row); 5] = [
        ("NormalizeDesiredReplicas: nothing before", ((0, 300), 10, 5, &[], 5)),
        ("NormalizeDesiredReplicas: all too old", ((0, 300), 10, 3, &[(10, 10), (9, 9)], 3)),
        ("NormalizeDesiredReplicasWithBehavior: up", ((300, 0), 1, 7, &[(4, 2), (5, 1)], 4)),
        (
            "NormalizeDesiredReplicasWithBehavior: down",
            ((0, 180), 100, 3, &[(10, 10), (4, 1), (5, 2), (9, 9)], 5),
        ),
        ("NormalizeDesiredReplicasWithBehavior: both", ((300, 300), 2, 3, &[(2, 100), (1, 3)], 2)),
    ];
    for (name, ((up, down), current, wish, history, expected)) in table {
        let mut policy = as_told(0, 1000);
        policy.up.window = Duration::from_secs(up);
        policy.down.window = Duration::from_secs(down);
        let mut memory = Memory::default();
        memory
            .wishes
            .extend(history.iter().map(|&(replicas, minutes)| Wish { at: ago(minutes * 60), replicas }));
        let signals = asks_for(current, wish);
        let decision = decide(&Question::new(&policy, current, &signals, &memory, NOW));
        assert_eq!(decision.replicas, expected, "{name}: {decision}");
    }
}

#[test]
fn rates_of_both_directions() {
    use LimitKind::{DownRate, Min, UpRate};
    let some = |number, period| RatePolicy {
        amount: RateAmount::Instances(number),
        period: Duration::from_secs(period),
    };
    let percent = |number, period| RatePolicy {
        amount: RateAmount::Percent(number),
        period: Duration::from_secs(period),
    };
    let select = RateSelect::Max;
    use skein_common::service::RateSelect;
    // Current, wish, min, policies of the direction, changes (by, seconds ago), result.
    type Row = (u32, u32, u32, Vec<RatePolicy>, &'static [(i64, u64)], u32, Reason);
    let up = Reason::Limited(UpRate);
    let down = Reason::Limited(DownRate);
    let table: [Row; 8] = [
        (10, 500, 1, vec![some(100, 60), percent(100, 60)], &[], 110, up),
        (10, 50, 1, vec![percent(200, 60)], &[], 30, up),
        (100, 2, 1, vec![some(2, 60), percent(1, 60)], &[], 98, down),
        (10, 2, 5, vec![percent(100, 60)], &[], 5, Reason::Limited(Min)),
        (100, 500, 1, vec![percent(200, 120)], &[(9, 79), (5, 40), (1, 1)], 255, up),
        (100, 0, 1, vec![percent(50, 120)], &[(-6, 79), (-4, 40), (-2, 1)], 56, down),
        (10, 5, 1, vec![percent(1000, 120)], &[(-10, 79), (-10, 40), (-10, 1)], 5, Reason::Within),
        (10, 50, 1, vec![], &[], 10, up),
    ];
    for (current, wish, min, policies, changes, expected, reason) in table {
        let mut policy = as_told(min, 1000);
        let rules = if wish > current { &mut policy.up } else { &mut policy.down };
        rules.select = if policies.is_empty() { RateSelect::Disabled } else { select };
        rules.policies = policies;
        let mut memory = Memory::default();
        memory.steps.extend(changes.iter().map(|&(by, seconds)| Step { at: ago(seconds), by }));
        let signals = asks_for(current, wish);
        let decision = decide(&Question::new(&policy, current, &signals, &memory, NOW));
        assert_eq!((decision.replicas, decision.reason), (expected, reason), "{current} {wish}: {decision}");
    }
}

/// Seconds, ready, demand over the long and the short window, and what is decided.
type PanicStep = (u64, u32, Option<(u64, u64)>, Option<u32>);

/// Knative's panic mode: it goes by what is ready, tenfold up and down a step, and remembers no periods.
struct Panic {
    target: u64,
    activation: u32,
    down_percent: u32,
    threshold_percent: u32,
    delay: u64,
    begins_with: Option<u32>,
    steps: &'static [PanicStep],
}

impl Panic {
    const fn of(target: u64, steps: &'static [PanicStep]) -> Self {
        let (activation, down_percent, threshold_percent, delay) = (1, 90, 200, 0);
        Self { target, activation, down_percent, threshold_percent, delay, begins_with: None, steps }
    }

    fn policy(&self) -> AutoscalePolicy {
        let mut policy = AutoscalePolicy { activation: self.activation, ..as_told(0, 100_000) };
        policy.targets[0].value_milli = self.target * 1000;
        let rate = |percent| {
            vec![RatePolicy { amount: RateAmount::Percent(percent), period: Duration::from_secs(1) }]
        };
        policy.up.policies = rate(900);
        policy.down.policies = rate(self.down_percent);
        policy.down.window = Duration::from_secs(self.delay);
        policy.burst.threshold_percent = self.threshold_percent;
        policy
    }
}

#[test]
fn bursts() {
    let table = [
        (
            "ActivationScale",
            Panic {
                activation: 2,
                ..Panic::of(10, &[(0, 1, Some((0, 0)), Some(0)), (0, 1, Some((1, 0)), Some(2))])
            },
        ),
        (
            "UnpanicAfterSlowIncrease",
            Panic::of(
                1,
                &[
                    (0, 10, Some((11, 25)), Some(25)),
                    (30, 40, Some((30, 41)), Some(41)),
                    (62, 55, Some((50, 56)), Some(50)),
                ],
            ),
        ),
        (
            "AutoscalerScale/PanicStableLessThanPanic",
            Panic { begins_with: Some(5), ..Panic::of(1, &[(5, 5, Some((20, 30)), Some(30))]) },
        ),
        (
            "AutoscalerScale/DecreaseNonReachable",
            Panic { down_percent: 100, ..Panic::of(10, &[(0, 100, Some((1, 1)), Some(1))]) },
        ),
        (
            "RateLimitScaleUp",
            Panic::of(10, &[(0, 1, Some((1000, 1001)), Some(10)), (0, 10, Some((1000, 1001)), Some(100))]),
        ),
        (
            "ScaleDownDelay/gradual",
            Panic {
                delay: 300,
                threshold_percent: 10_000,
                ..Panic::of(
                    10,
                    &[
                        (540, 4, Some((40, 40)), Some(4)),
                        (600, 4, Some((30, 30)), Some(4)),
                        (660, 4, Some((0, 0)), Some(4)),
                        (840, 4, Some((0, 0)), Some(3)),
                        (900, 3, Some((0, 0)), Some(0)),
                    ],
                )
            },
        ),
        ("NoDataNoAutoscale", Panic::of(10, &[(0, 1, None, None)])),
    ];
    for (name, panic) in table {
        let policy = panic.policy();
        let burst = panic.begins_with.map(|most| Burst { seen: NOW, most });
        let mut memory = Memory { burst, ..Memory::default() };
        for &(seconds, ready, demand, expected) in panic.steps {
            let mut signals = Signals { ready, ..Signals::default() };
            signals.shared.extend(demand.map(|(long, short)| {
                (queue(), Shared { value_milli: long * 1000, recent_milli: Some(short * 1000) })
            }));
            memory.steps.clear();
            let now = NOW + Duration::from_secs(seconds);
            let decision = decide(&Question::new(&policy, ready, &signals, &memory, now));
            let decided = decision.wish.map(|_| decision.replicas);
            assert_eq!(decided, expected, "{name} at {seconds}: {decision}");
            memory.record(&decision);
        }
    }
}

#[test]
fn what_an_instance_counts_as() {
    let secs = Duration::from_secs;
    let (warm_up, delay) = (secs(120), secs(10));
    let sample = |started: Option<u64>, ready, changed: Option<u64>| InstanceSample {
        ready,
        started: started.map(ago),
        ready_changed: changed.map(ago),
        ..InstanceSample::default()
    };
    let told = |window: u64| Some(Reading { at: Some(NOW), window: secs(window), ..Reading::default() });
    let pending = InstanceSample { state: SampleState::Pending, ..InstanceSample::default() };
    for (one, reading, metric, expected) in [
        (sample(None, false, None), told(60), Metric::Requests, Class::Ready),
        (sample(Some(60), true, Some(30)), told(60), Metric::Cpu, Class::Unready),
        (sample(Some(60), true, Some(60)), told(60), Metric::Cpu, Class::Ready),
        (sample(Some(600), false, Some(540)), told(60), Metric::Cpu, Class::Ready),
        (sample(Some(600), false, Some(595)), told(60), Metric::Cpu, Class::Unready),
        (sample(Some(600), true, Some(5)), None, Metric::Cpu, Class::Missing),
        (pending, None, Metric::Cpu, Class::Unready),
    ] {
        let readings: BTreeMap<_, _> = reading.map(|reading| (metric.clone(), reading)).into_iter().collect();
        let one = InstanceSample { readings, ..one };
        assert_eq!(one.class(&metric, warm_up, delay, NOW), expected, "{one:?}");
    }
}
