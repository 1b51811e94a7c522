//! What holds whatever the signals are.

use proptest::prelude::*;

use super::*;

/// Instances with or without a reading of CPU.
fn samples() -> impl Strategy<Value = Vec<InstanceSample>> {
    let one = ("[RRRUPE]", prop::option::of(0..3_000u64));
    prop::collection::vec(one, 0..9).prop_map(|all| {
        let sample = |(letter, cpu): (String, Option<u64>)| {
            let mut one = instances(&letter).remove(0);
            one.reserved.insert(Metric::Cpu, 1000);
            one.readings.extend(cpu.map(|cpu| (Metric::Cpu, reading(cpu))));
            one
        };
        all.into_iter().map(sample).collect()
    })
}

prop_compose! {
    fn memory()(
        wishes in prop::collection::vec((0..30u32, 0..400u64), 0..5),
        steps in prop::collection::vec((-9..9i64, 0..60u64), 0..4),
        burst in prop::option::of((0..90u64, 0..30u32)),
    ) -> Memory {
        Memory {
            wishes: wishes.into_iter().map(|(replicas, seconds)| Wish { at: ago(seconds), replicas }).collect(),
            steps: steps.into_iter().map(|(by, seconds)| Step { at: ago(seconds), by }).collect(),
            burst: burst.map(|(seconds, most)| Burst { seen: ago(seconds), most }),
        }
    }
}

prop_compose! {
    fn policy()(
        min in 0..6u32, more in 0..20u32, target in 1..200u64, queue_target in 1..5u64,
        weights in prop::option::of(0..1001u32), tolerance in 0..300u16, cooldown in 0..40u64, activation in 1..3u32,
    ) -> AutoscalePolicy {
        let max = (min + more).max(activation);
        let mut policy = AutoscalePolicy::new(max).with(Metric::Cpu, target).with(queue(), queue_target);
        policy.min = min;
        policy.activation = activation;
        policy.tolerance_up_permille = tolerance;
        policy.tolerance_down_permille = tolerance;
        policy.cooldown = Duration::from_secs(cooldown);
        if let Some(alpha_permille) = weights {
            policy.combination = Combination::Weighted { alpha_permille, beta_permille: 1001 - alpha_permille };
        }
        policy
    }
}

proptest! {
    #[test]
    fn it_is_always_within_the_bounds(
        policy in policy(), samples in samples(), wish in prop::option::of(0..60u32), memory in memory(), current in 1..40u32,
    ) {
        let mut signals = Signals::of(samples);
        if let Some(wish) = wish {
            signals = signals.with(queue(), u64::from(wish) * 1000);
        }
        let decision = decide(&Question::new(&policy, current, &signals, &memory, NOW));
        prop_assert!((policy.min..=policy.max).contains(&decision.replicas), "{decision}");
        prop_assert_eq!(decision.clone(), decide(&Question::new(&policy, current, &signals, &memory, NOW)));
        prop_assert!(decision.reason != Reason::Within || decision.limits.is_empty(), "{decision}");
    }

    #[test]
    fn more_load_never_gives_fewer(
        policy in policy(), samples in samples(), wish in 0..60u32, more in 1..60u32, memory in memory(), current in 1..40u32,
        hotter in 1..2_000u64,
    ) {
        let calm = Signals::of(samples.clone()).with(queue(), u64::from(wish) * 1000);
        let mut hot = samples;
        for one in &mut hot {
            if let Some(reading) = one.readings.get_mut(&Metric::Cpu) {
                reading.value_milli += hotter;
            }
        }
        let hot = Signals::of(hot).with(queue(), u64::from(wish + more) * 1000);
        let calm = decide(&Question::new(&policy, current, &calm, &memory, NOW));
        let hot = decide(&Question::new(&policy, current, &hot, &memory, NOW));
        prop_assert!(hot.replicas >= calm.replicas, "{calm}\n{hot}");
    }

    #[test]
    fn a_metric_that_is_not_there_shrinks_nothing(
        policy in policy(), wish in 0..60u32, memory in memory(), current in 1..40u32,
    ) {
        // No instance tells its CPU.
        let signals = asks_for(current, wish);
        let decision = decide(&Question::new(&policy, current, &signals, &memory, NOW));
        prop_assert!(decision.replicas >= current.min(policy.max), "{decision}");
    }
}
