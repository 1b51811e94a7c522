//! From what is asked for to what is done: activation, burst, windows, cooldown, rates, bounds, in this order.
//!
//! Invariant: each step that changes the number is told, with the number before it; bounds come last and hold always.

use skein_common::{
    Timestamp,
    service::{RateAmount, RateSelect, ScaleRules},
};

use super::{
    Burst, Decision, LimitKind, Question, Reason,
    quantity::{self, MOST},
};

pub struct Limits<'a> {
    question: &'a Question<'a>,
    decision: &'a mut Decision,
}

impl<'a> Limits<'a> {
    pub fn new(question: &'a Question<'a>, decision: &'a mut Decision) -> Self {
        decision.burst = question.memory.burst;
        Self { question, decision }
    }

    /// Nothing is known: what there is stays, within the bounds.
    pub fn bounds_only(&mut self) {
        self.decision.reason = Reason::MetricsBroken;
        let current = self.question.current;
        // Nobody wakes it without a metric; only a least number that has been raised meanwhile does.
        if current > 0 || self.question.asleep && self.question.policy.min > 0 {
            self.decision.replicas = self.bounded(current);
        }
    }

    pub fn apply(&mut self, wish: u32) {
        let Question { policy, current, .. } = *self.question;
        self.decision.reason = Reason::Within;
        let active = if wish > 0 && wish < policy.activation { policy.activation } else { wish };
        self.told(LimitKind::Activation, wish, active);
        self.decision.wish = Some(active);
        let burst = self.burst(active);
        self.told(LimitKind::Burst, active, burst);
        let steady = self.steady(burst);
        let cool = if self.cools_down() && steady != current { current } else { steady };
        self.told(LimitKind::Cooldown, steady, cool);
        let allowed = self.rated(cool);
        self.decision.replicas = self.bounded(allowed);
        if let Some(burst) = &mut self.decision.burst {
            burst.most = burst.most.max(self.decision.replicas);
        }
    }

    /// Above the threshold the short window decides, and until it has been below for the whole window nothing shrinks.
    fn burst(&mut self, wish: u32) -> u32 {
        let Question { policy, now, memory, .. } = *self.question;
        let threshold = u64::from(policy.burst.threshold_percent);
        let short = self.decision.proposals.iter().filter_map(|proposal| proposal.burst).max();
        let short = short.filter(|_| threshold > 0);
        let ready = u64::from(self.question.signals.ready.max(1));
        let sign = short.is_some_and(|short| u64::from(short) * 100 >= threshold * ready);
        let lasts = |burst: &Burst| now.since(burst.seen) <= policy.burst.window;
        let before = memory.burst.filter(|burst| threshold > 0 && (sign || lasts(burst)));
        self.decision.burst =
            if sign { Some(Burst { seen: now, most: before.map_or(0, |burst| burst.most) }) } else { before };
        match self.decision.burst {
            Some(burst) => wish.max(burst.most).max(short.unwrap_or_default()),
            None => wish,
        }
    }

    /// The smallest wish of the window to grow, the largest to shrink. A burst does not wait.
    fn steady(&mut self, wish: u32) -> u32 {
        let Question { policy, current, memory, now, .. } = *self.question;
        let smallest = memory.wishes_of(policy.up.window, now).chain([wish]).min().unwrap_or(wish);
        let smallest = if self.decision.burst.is_some() { wish } else { smallest };
        let largest = memory.wishes_of(policy.down.window, now).chain([wish]).max().unwrap_or(wish);
        let steady = current.max(smallest).min(largest.max(smallest));
        let kind = if steady > wish { LimitKind::DownWindow } else { LimitKind::UpWindow };
        self.told(kind, wish, steady);
        steady
    }

    fn cools_down(&self) -> bool {
        let Question { policy, memory, now, .. } = *self.question;
        memory.steps.iter().any(|step| now.since(step.at) < policy.cooldown)
    }

    fn rated(&mut self, wish: u32) -> u32 {
        let Question { policy, current, .. } = *self.question;
        let (limit, kind) = if wish > current {
            (wish.min(self.most(&policy.up).max(current)), LimitKind::UpRate)
        } else {
            (wish.max(self.fewest(&policy.down).min(current)), LimitKind::DownRate)
        };
        // From sleep it may always wake.
        let limit = if current == 0 && wish > 0 { limit.max(wish.min(policy.activation)) } else { limit };
        self.told(kind, wish, limit);
        limit
    }

    fn most(&self, rules: &ScaleRules) -> u32 {
        let limits = rules.policies.iter().map(|policy| {
            let start = self.start(policy.period);
            let most = match policy.amount {
                RateAmount::Instances(number) => start.saturating_add(i64::from(number)),
                RateAmount::Percent(percent) => {
                    start.saturating_add(start.saturating_mul(i64::from(percent)).saturating_add(99) / 100)
                }
            };
            count(most)
        });
        match rules.select {
            RateSelect::Max => limits.max().unwrap_or(MOST),
            RateSelect::Min => limits.min().unwrap_or(MOST),
            RateSelect::Disabled => 0,
        }
    }

    fn fewest(&self, rules: &ScaleRules) -> u32 {
        let limits = rules.policies.iter().map(|policy| {
            let start = self.start(policy.period);
            let fewest = match policy.amount {
                RateAmount::Instances(number) => start - i64::from(number),
                RateAmount::Percent(percent) => start.saturating_mul(100 - i64::from(percent)) / 100,
            };
            count(fewest)
        });
        match rules.select {
            RateSelect::Max => limits.min().unwrap_or(0),
            RateSelect::Min => limits.max().unwrap_or(0),
            RateSelect::Disabled => MOST,
        }
    }

    /// How many there were when the period began.
    fn start(&self, period: std::time::Duration) -> i64 {
        let Question { current, memory, now, .. } = *self.question;
        memory.before(current, period, now).max(0)
    }

    fn bounded(&mut self, wish: u32) -> u32 {
        let least = self.question.least();
        // Asleep is below a minimum of 1 only where the policy's minimum is 0.
        let bounded = wish.clamp(least, self.question.policy.max.max(least));
        let kind = if bounded > wish { LimitKind::Min } else { LimitKind::Max };
        self.told(kind, wish, bounded);
        bounded
    }

    /// The last limit is the reason of the result, but metrics that cannot be read are a better one.
    fn told(&mut self, kind: LimitKind, from: u32, to: u32) {
        if from == to {
            return;
        }
        self.decision.limits.push(super::Limit { kind, from, to });
        if self.decision.reason != Reason::MetricsBroken || matches!(kind, LimitKind::Min | LimitKind::Max) {
            self.decision.reason = Reason::Limited(kind);
        }
    }
}

fn count(number: i64) -> u32 {
    u32::try_from(number.clamp(0, i64::from(quantity::MOST))).unwrap_or(MOST)
}

impl Decision {
    pub(super) fn hold(current: u32, now: Timestamp) -> Self {
        Self {
            at: now,
            from: current,
            replicas: current,
            wish: None,
            reason: Reason::Within,
            proposals: Vec::new(),
            limits: Vec::new(),
            burst: None,
        }
    }

    pub(super) fn because(self, reason: Reason) -> Self {
        Self { reason, ..self }
    }
}
