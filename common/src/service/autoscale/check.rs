//! The limits of a policy. Every violation is reported, by protobuf field path.

use std::{collections::BTreeSet, time::Duration};

use super::{AutoscaleMode, AutoscalePolicy, Combination, Metric, RateAmount, RateSelect, ScaleRules};
use crate::{
    Violations,
    service::{
        Mode, ServiceSpec,
        schedule::{Calendar, NoCalendar},
    },
};

const MAX_INSTANCES: u32 = 100_000;
/// Longer memories of wishes are not kept.
const MAX_WINDOW: Duration = Duration::from_secs(3_600);
const MAX_FLOORS: usize = 64;
const MAX_EXTERNAL: usize = 16;
const MAX_POLICIES: usize = 8;

impl AutoscalePolicy {
    /// What is wrong whatever its service is, by path below `at` (such as `spec.autoscale`).
    pub fn check(&self, at: &str, found: &mut Violations) {
        let mut bad = |leaf: &str, text: String| found.add(format!("{at}.{leaf}"), text);
        if self.max == 0 {
            bad("max", "is required: at least 1".into());
        } else if self.max > MAX_INSTANCES {
            bad("max", format!("{} is more than {MAX_INSTANCES}", self.max));
        } else if self.min > self.max {
            bad("min", format!("{} is more than max, {}", self.min, self.max));
        }
        if self.activation == 0 || (self.activation > self.max && self.max > 0) {
            bad("activation", format!("{} is not between 1 and max", self.activation));
        }
        if !(1..=999).contains(&self.forecast.quantile_permille) {
            bad("forecast.quantile", "is not between 0 and 1, such as 0.9".into());
        }
        if self.forecast.horizon == Some(Duration::ZERO) {
            bad("forecast.horizon", "0 is no horizon: more than 0".into());
        }
        if self.forecast.horizon.is_some_and(|horizon| horizon > MAX_WINDOW) {
            bad("forecast.horizon", "is longer than an hour".into());
        }
        if self.capacity_milli == Some(0) {
            bad("capacity", "0 serves nothing: more than 0".into());
        }
        if let Combination::Weighted { alpha_permille: 0, beta_permille: 0 } = self.combination {
            bad("alpha", "alpha and beta are both 0: nothing would ever be decided".into());
        }
        if self.tolerance_up_permille > 10_000 {
            bad("tolerance_up", "is more than 10".into());
        }
        if self.tolerance_down_permille > 1_000 {
            bad("tolerance_down", "is more than 1".into());
        }
        if self.cooldown > MAX_WINDOW * 24 {
            bad("cooldown", "is longer than a day".into());
        }
        if self.burst.threshold_percent != 0 && self.burst.threshold_percent <= 100 {
            bad("burst.threshold_percent", "must be above 100 %, or 0 for never".into());
        }
        if self.burst.window > MAX_WINDOW {
            bad("burst.window", "is longer than an hour".into());
        }
        self.check_targets(at, found);
        check_rules(&self.up, &format!("{at}.up"), found);
        check_rules(&self.down, &format!("{at}.down"), found);
        self.check_floors(at, found);
    }

    fn check_targets(&self, at: &str, found: &mut Violations) {
        let mut seen = BTreeSet::new();
        for target in &self.targets {
            let field = match &target.metric {
                Metric::External { name, .. } if name.is_empty() => {
                    found.add(format!("{at}.targets.external"), "a name is required");
                    continue;
                }
                Metric::External { name, .. } => format!("{at}.targets.external[{name}]"),
                metric => format!("{at}.targets.{metric}"),
            };
            if target.value_milli == 0 {
                found.add(field.clone(), "a target of 0 can never be met: more than 0");
            }
            if !seen.insert(target.metric.to_string()) {
                found.add(field, "stands twice");
            }
        }
        if self.targets.len() > MAX_EXTERNAL {
            found.add(format!("{at}.targets"), format!("more than {MAX_EXTERNAL}"));
        }
        let goes_by_them =
            matches!(self.mode, AutoscaleMode::Reactive | AutoscaleMode::Predictive | AutoscaleMode::Hybrid);
        if goes_by_them && self.targets.is_empty() {
            let text = format!("mode {} needs a target, such as cpu: 70%", self.mode.name());
            found.add(format!("{at}.targets"), text);
        }
        if self.mode == AutoscaleMode::Schedule && self.floors.is_empty() {
            found.add(format!("{at}.floors"), "mode schedule goes by nothing else: at least one");
        }
        if let Combination::Weighted { alpha_permille, beta_permille } = self.combination {
            let weight = |target: &super::Target| match target.metric.side() {
                super::Side::Usage => alpha_permille,
                super::Side::Load => beta_permille,
            };
            if alpha_permille + beta_permille > 0
                && !self.targets.is_empty()
                && self.targets.iter().all(|target| weight(target) == 0)
            {
                found.add(format!("{at}.targets"), "alpha or beta is 0, and no target is on the other side");
            }
        }
    }

    fn check_floors(&self, at: &str, found: &mut Violations) {
        if self.floors.len() > MAX_FLOORS {
            found.add(format!("{at}.floors"), format!("more than {MAX_FLOORS}"));
        }
        for (position, floor) in self.floors.iter().enumerate() {
            if floor.min > self.max {
                let text = format!("{} is more than max, {}", floor.min, self.max);
                found.add(format!("{at}.floors[{position}].min"), text);
            }
            if floor.lasts.is_zero() {
                found.add(format!("{at}.floors[{position}].lasts"), "0 would never hold: more than 0");
            }
            if floor.cron.trim().is_empty() {
                let text = "a cron line such as \"0 8 * * mon-fri\" is required";
                found.add(format!("{at}.floors[{position}].cron"), text);
            }
        }
    }

    /// What is wrong with the lines and zones. Only where a policy comes in, as with schedules of jobs: what a
    /// line may say differs between versions.
    pub fn check_times(&self, at: &str, found: &mut Violations) {
        for (position, floor) in self.floors.iter().enumerate() {
            if floor.cron.trim().is_empty() {
                continue;
            }
            if let Err(error) = Calendar::of(&floor.schedule()) {
                let leaf = match error {
                    NoCalendar::Line { .. } | NoCalendar::Never { .. } => "cron",
                    NoCalendar::Zone { .. } => "time_zone",
                };
                found.add(format!("{at}.floors[{position}].{leaf}"), error.to_string());
            }
        }
    }

    /// What is wrong with it for this service.
    pub(in crate::service) fn check_for(&self, spec: &ServiceSpec, found: &mut Violations) {
        self.check("spec.autoscale", found);
        if !matches!(spec.mode, Mode::Replicated { .. }) {
            let text = format!("a {} service has no replicas to scale", spec.mode.name());
            found.add("spec.autoscale", text);
        }
        let bounds = [spec.resources.reservation, spec.resources.limit];
        for target in &self.targets {
            let missing = match &target.metric {
                Metric::Cpu if bounds.iter().all(|bound| bound.cpu_millis == 0) => {
                    "is a share of the reservation: set resources.reservations.cpus, or a limit"
                }
                Metric::Memory if bounds.iter().all(|bound| bound.memory_bytes == 0) => {
                    "is a share of the reservation: set resources.reservations.memory, or a limit"
                }
                Metric::Load if self.capacity_milli.is_none() => {
                    "is a share of what one instance serves: set capacity, in requests a second"
                }
                Metric::External { .. } => "has no source in this version; only Evaluate can be told it",
                _ => continue,
            };
            found.add(format!("spec.autoscale.targets.{}", target.metric), missing);
        }
    }
}

fn check_rules(rules: &ScaleRules, at: &str, found: &mut Violations) {
    if rules.window > MAX_WINDOW {
        found.add(format!("{at}.window"), "is longer than an hour");
    }
    if rules.policies.len() > MAX_POLICIES {
        found.add(format!("{at}.policies"), format!("more than {MAX_POLICIES}"));
    }
    if rules.select == RateSelect::Disabled {
        return;
    }
    for (position, policy) in rules.policies.iter().enumerate() {
        let (RateAmount::Instances(amount) | RateAmount::Percent(amount)) = policy.amount;
        if amount == 0 {
            found.add(format!("{at}.policies[{position}]"), "0 allows nothing: use select: disabled");
        }
        if policy.period.is_zero() || policy.period > MAX_WINDOW {
            let text = "is not between a moment and an hour";
            found.add(format!("{at}.policies[{position}].period"), text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{RatePolicy, ScheduledFloor, Spread, Target};
    use super::*;
    use crate::{Timestamp, service::ContainerSpec};

    fn policy() -> AutoscalePolicy {
        AutoscalePolicy::new(9).with(Metric::Requests, 10)
    }

    fn findings(policy: &AutoscalePolicy) -> String {
        let mut found = Violations::default();
        policy.check("policy", &mut found);
        policy.check_times("policy", &mut found);
        found.to_string()
    }

    #[test]
    fn what_cannot_be_is_named_by_its_path() {
        type Spoil = fn(&mut AutoscalePolicy);
        let floor = || ScheduledFloor {
            cron: "0 8 * * *".into(),
            time_zone: "Europe/Berlin".into(),
            lasts: Duration::from_secs(60),
            min: 3,
        };
        assert_eq!(findings(&AutoscalePolicy { floors: vec![floor()], ..policy() }), "");
        let table: [(Spoil, &str); 19] = [
            (|p| p.max = 0, "policy.max"),
            (|p| p.max = 200_000, "policy.max"),
            (|p| p.min = 10, "policy.min"),
            (|p| p.activation = 0, "policy.activation"),
            (|p| p.activation = 10, "policy.activation"),
            (|p| p.targets[0].value_milli = 0, "policy.targets.requests"),
            (|p| p.targets.push(p.targets[0].clone()), "policy.targets.requests"),
            (|p| p.targets.clear(), "policy.targets"),
            (|p| p.mode = AutoscaleMode::Schedule, "policy.floors"),
            (|p| p.capacity_milli = Some(0), "policy.capacity"),
            (
                |p| p.combination = Combination::Weighted { alpha_permille: 0, beta_permille: 0 },
                "policy.alpha",
            ),
            (
                |p| p.combination = Combination::Weighted { alpha_permille: 1000, beta_permille: 0 },
                "policy.targets",
            ),
            (|p| p.burst.threshold_percent = 100, "policy.burst.threshold_percent"),
            (|p| p.forecast.quantile_permille = 1000, "policy.forecast.quantile"),
            (|p| p.forecast.horizon = Some(Duration::ZERO), "policy.forecast.horizon"),
            (|p| p.tolerance_down_permille = 1001, "policy.tolerance_down"),
            (
                |p| {
                    let amount = RateAmount::Percent(0);
                    p.up.policies = vec![RatePolicy { amount, period: Duration::from_secs(1) }];
                },
                "policy.up.policies[0]",
            ),
            (|p| p.down.window = Duration::from_secs(3601), "policy.down.window"),
            (
                |p| {
                    let metric = Metric::External { name: String::new(), spread: Spread::Whole };
                    p.targets.push(Target { metric, value_milli: 1 });
                },
                "policy.targets.external",
            ),
        ];
        for (spoil, path) in table {
            let mut policy = policy();
            spoil(&mut policy);
            let found = findings(&policy);
            assert!(found.contains(&format!("{path}: ")), "{path}: {found}");
        }
        type SpoilFloor = fn(&mut ScheduledFloor);
        let table: [(SpoilFloor, &str); 5] = [
            (|f| f.min = 10, "min"),
            (|f| f.lasts = Duration::ZERO, "lasts"),
            (|f| f.cron = String::new(), "cron"),
            (|f| f.cron = "0 25 * * *".into(), "cron"),
            (|f| f.time_zone = "Europe/Atlantis".into(), "time_zone"),
        ];
        for (spoil, leaf) in table {
            let mut floors = vec![floor(), floor()];
            spoil(&mut floors[1]);
            let found = findings(&AutoscalePolicy { floors, ..policy() });
            assert!(found.contains(&format!("policy.floors[1].{leaf}: ")), "{leaf}: {found}");
        }
    }

    #[test]
    fn a_service_must_have_what_its_targets_are_shares_of() {
        let mut spec = ServiceSpec::new("web", ContainerSpec::new("nginx"));
        for (metric, expected) in [
            (Metric::Cpu, "resources.reservations.cpus"),
            (Metric::Memory, "resources.reservations.memory"),
            (Metric::Load, "capacity"),
            (Metric::External { name: "queue".into(), spread: Spread::Each }, "no source"),
        ] {
            spec.autoscale = Some(AutoscalePolicy::new(3).with(metric, 70));
            let found = spec.violations().to_string();
            assert!(found.contains("spec.autoscale.targets.") && found.contains(expected), "{found}");
        }
        spec.resources.limit.cpu_millis = 500;
        spec.autoscale = Some(AutoscalePolicy::new(3).with(Metric::Cpu, 70));
        assert_eq!(spec.violations().to_string(), "");
        spec.mode = Mode::Global;
        assert!(spec.violations().to_string().contains("spec.autoscale: "));
    }

    #[test]
    fn a_floor_holds_from_its_time_on_for_a_while() {
        let floor = ScheduledFloor {
            cron: "0 8 * * mon-fri".into(),
            time_zone: "Europe/Berlin".into(),
            lasts: Duration::from_secs(2 * 3600),
            min: 3,
        };
        // Monday 2024-07-01, 08:00 in Berlin.
        let eight = Timestamp::from_unix_ms(1_719_813_600_000);
        for (minutes, holds) in [(-1i64, false), (0, true), (119, true), (120, false), (24 * 60, true)] {
            let ms = i64::try_from(eight.unix_ms()).unwrap() + minutes * 60_000;
            let now = Timestamp::from_unix_ms(u64::try_from(ms).unwrap());
            assert_eq!(floor.holds(now), holds, "{minutes}");
        }
        assert!(!ScheduledFloor { cron: "what".into(), ..floor }.holds(eight));
    }
}
