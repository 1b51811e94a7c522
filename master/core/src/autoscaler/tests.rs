//! Decisions by table and by property.

mod cases;
mod properties;

use std::{collections::BTreeMap, time::Duration};

use skein_common::{
    Timestamp,
    service::{AutoscalePolicy, Metric, RateAmount, RatePolicy, ScaleRules, Spread, Target},
};

use super::*;

const NOW: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);

fn ago(seconds: u64) -> Timestamp {
    NOW - Duration::from_secs(seconds)
}

fn queue() -> Metric {
    Metric::External { name: "queue".into(), spread: Spread::Each }
}

/// A policy that wants as many instances as the queue is long, at once, whatever the difference.
fn as_told(min: u32, max: u32) -> AutoscalePolicy {
    AutoscalePolicy {
        min,
        tolerance_up_permille: 0,
        tolerance_down_permille: 0,
        ..AutoscalePolicy::new(max).with(queue(), 1)
    }
}

fn asks_for(ready: u32, wish: u32) -> Signals {
    Signals { ready, ..Signals::default() }.with(queue(), u64::from(wish) * 1000)
}

/// R ready, U running but never ready, P pending, E ending.
fn instances(states: &str) -> Vec<InstanceSample> {
    let one = |letter| InstanceSample {
        ready: letter == 'R',
        state: match letter {
            'P' => SampleState::Pending,
            'E' => SampleState::Ending,
            _ => SampleState::Running,
        },
        ..InstanceSample::default()
    };
    states.chars().map(one).collect()
}

fn reading(value_milli: u64) -> Reading {
    Reading { value_milli, ..Reading::default() }
}

#[test]
fn weighted_pressure_is_alpha_usage_and_beta_load() {
    // 0.6 · 90/60 + 0.4 · 30/20 = 1.5; 0.6 · 90/60 + 0.4 · 5/20 = 1.0; 0.6 · 30/60 + 0.4 · 5/20 = 0.4.
    for (cpu, in_flight, expected) in
        [(Some(900), 120, 6), (Some(900), 20, 4), (Some(300), 20, 2), (None, 240, 12), (None, 20, 4)]
    {
        let mut policy = AutoscalePolicy::new(20).with(Metric::Cpu, 60).with(Metric::InFlight, 20);
        policy.combination = Combination::Weighted { alpha_permille: 600, beta_permille: 400 };
        let mut samples = instances("RRRR");
        for one in &mut samples {
            one.reserved.insert(Metric::Cpu, 1000);
            one.readings.extend(cpu.map(|cpu| (Metric::Cpu, reading(cpu))));
        }
        let signals = Signals::of(samples).with(Metric::InFlight, in_flight * 1000);
        let memory = Memory::default();
        let decision = decide(&Question::new(&policy, 4, &signals, &memory, NOW));
        // Rates: 4 + 4.
        assert_eq!(decision.replicas, expected.min(8), "{cpu:?} {in_flight}: {decision}");
    }
}

#[test]
fn a_floor_and_the_bounds_hold_without_any_metric() {
    let mut policy = as_told(2, 9);
    policy.floors.push(skein_common::service::ScheduledFloor {
        cron: "* * * * *".into(),
        time_zone: String::new(),
        lasts: Duration::from_secs(120),
        min: 5,
    });
    let (signals, memory) = (Signals::default(), Memory::default());
    for (current, expected) in [(1, 5), (3, 5), (7, 7), (12, 9), (0, 0)] {
        let decision = decide(&Question::new(&policy, current, &signals, &memory, NOW));
        assert_eq!(decision.replicas, expected, "{decision}");
    }
    // Asleep, and meanwhile somebody wants some at least.
    let asleep = Question { asleep: true, ..Question::new(&policy, 0, &signals, &memory, NOW) };
    assert_eq!(decide(&asleep).replicas, 5);
    policy.mode = AutoscaleMode::Schedule;
    let decision = decide(&Question::new(&policy, 7, &signals, &memory, NOW));
    assert_eq!(decision.replicas, 5, "{decision}");
}

#[test]
fn a_broken_metric_beside_others_may_grow_but_not_shrink() {
    let policy = as_told(1, 9).with(Metric::Cpu, 50);
    let memory = Memory::default();
    for (wish, expected, reason) in
        [(6, 6, Reason::Within), (2, 4, Reason::MetricsBroken), (4, 4, Reason::Within)]
    {
        let signals = asks_for(4, wish);
        let decision = decide(&Question::new(&policy, 4, &signals, &memory, NOW));
        assert_eq!((decision.replicas, decision.reason), (expected, reason), "{decision}");
    }
}

#[test]
fn rates_beyond_any_number_are_bounds_and_no_more() {
    let mut policy = as_told(1, u32::MAX);
    for rules in [&mut policy.up, &mut policy.down] {
        for rate in &mut rules.policies {
            rate.amount = RateAmount::Percent(u32::MAX);
        }
    }
    let memory = Memory::default();
    for (current, wish) in [(u32::MAX, u32::MAX), (1, u32::MAX), (u32::MAX, 1)] {
        let signals = asks_for(current, wish);
        assert!(decide(&Question::new(&policy, current, &signals, &memory, NOW)).replicas > 0);
    }
}

#[test]
fn a_cooldown_holds_after_any_change() {
    let policy = AutoscalePolicy { cooldown: Duration::from_secs(60), ..as_told(1, 9) };
    let mut memory = Memory::default();
    for (seconds, wish, expected) in [(100, 4, 4), (70, 8, 4), (41, 8, 4), (40, 8, 8), (39, 9, 8)] {
        let signals = asks_for(2, wish);
        let current = if memory.steps.is_empty() { 2 } else { 4 + 4 * u32::from(seconds == 39) };
        let decision = decide(&Question::new(&policy, current, &signals, &memory, ago(seconds)));
        assert_eq!(decision.replicas, expected, "{seconds}: {decision}");
        memory.record(&decision);
    }
}

#[test]
fn a_forecast_only_raises_and_only_when_it_has_proved_itself() {
    let memory = Memory::default();
    let signals = asks_for(4, 4);
    for (mode, need_milli, trusted, only, expected) in [
        (AutoscaleMode::Hybrid, 6_500, true, false, 7),
        (AutoscaleMode::Hybrid, 2_000, true, false, 4),
        (AutoscaleMode::Hybrid, 6_500, false, false, 4),
        (AutoscaleMode::Hybrid, 6_500, true, true, 4),
        (AutoscaleMode::Reactive, 6_500, true, false, 4),
        (AutoscaleMode::Predictive, 6_500, true, false, 7),
        (AutoscaleMode::Predictive, 6_500, false, false, 4),
    ] {
        let mut policy = AutoscalePolicy { mode, ..as_told(1, 9) };
        policy.forecast.only = only;
        let horizon = Duration::from_secs(60);
        let foreseen =
            Foreseen { metric: queue(), need_milli, horizon, model: "season", error_percent: 4.0, trusted };
        let question =
            Question { foreseen: Some(&foreseen), ..Question::new(&policy, 4, &signals, &memory, NOW) };
        let decision = decide(&question);
        assert_eq!(decision.replicas, expected, "{mode:?} {need_milli} {trusted} {only}: {decision}");
    }
}

#[test]
fn a_decision_explains_itself() {
    let policy = as_told(1, 6).with(Metric::Cpu, 70);
    let mut samples = instances("RRU");
    for one in &mut samples {
        one.reserved.insert(Metric::Cpu, 1000);
        one.readings.insert(Metric::Cpu, reading(1400));
    }
    let signals = Signals::of(samples).with(queue(), 20_000);
    let memory = Memory::default();
    let decision = decide(&Question::new(&policy, 3, &signals, &memory, NOW));
    assert_eq!(
        decision.to_string(),
        "3 → 6; queue 6.667 of 1 → 20; cpu 140 of 70 → 4, 1 not ready; \
         the rate for growing: 7 instead of 20; the maximum: 6 instead of 7"
    );
    assert_eq!(decision.alternatives()[3], "without the maximum: 6, not 7");
    assert!(
        decision.alternatives()[0].contains("queue above 1 asks for more"),
        "{:?}",
        decision.alternatives()
    );
    let stopped = decide(&Question::new(&policy, 0, &signals, &memory, NOW));
    assert_eq!(stopped.to_string(), "stays at 0: a user has stopped it");
}
