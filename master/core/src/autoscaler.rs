//! How many instances a service should have: a pure function of policy, signals and what was decided before.
//!
//! Invariant: the result is within the policy's bounds unless nothing may be changed at all; a metric that cannot be
//! read never shrinks anything; a forecast only raises; the same question has the same answer.
//! The rules are those of Kubernetes' horizontal autoscaler, the burst window that of Knative.
//! Deliberately not here: who samples, who asks, and what becomes of the answer.

mod decision;
mod forecast;
mod limits;
mod memory;
mod proposal;
mod quantity;
mod signal;
#[cfg(test)]
mod tests;

use std::time::Duration;

use skein_common::{
    Timestamp,
    service::{AutoscaleMode, AutoscalePolicy, Combination, READINESS_DELAY, Side},
};

pub use self::{
    decision::{Decision, Limit, LimitKind, Reason},
    forecast::{Forecaster, Outlook},
    memory::{Burst, Memory, Step, Wish},
    proposal::{Broken, Proposal, Source},
    signal::{Class, Foreseen, InstanceSample, Reading, SampleState, Shared, Signals},
};
use self::{limits::Limits, quantity::Tolerance};

/// All that a decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub policy: &'a AutoscalePolicy,
    /// Replicas wanted now, whatever has become of them.
    pub current: u32,
    /// There are none because the autoscaler, not a user, decided so.
    pub asleep: bool,
    pub signals: &'a Signals,
    pub memory: &'a Memory,
    pub foreseen: Option<&'a Foreseen>,
    pub now: Timestamp,
    /// See [`READINESS_DELAY`].
    pub readiness_delay: Duration,
}

impl<'a> Question<'a> {
    #[must_use]
    pub fn new(
        policy: &'a AutoscalePolicy,
        current: u32,
        signals: &'a Signals,
        memory: &'a Memory,
        now: Timestamp,
    ) -> Self {
        let readiness_delay = READINESS_DELAY;
        Self { policy, current, asleep: false, signals, memory, foreseen: None, now, readiness_delay }
    }

    /// The least number now: the policy's, or that of a floor that holds.
    #[must_use]
    pub fn least(&self) -> u32 {
        let floors = self.policy.floors.iter().filter(|floor| floor.holds(self.now));
        let floor = floors.map(|floor| floor.min).max().unwrap_or_default();
        self.policy.min.max(floor).min(self.policy.max)
    }
}

/// What the metrics ask for together.
enum Asked {
    For(u32),
    /// None of them could be read, or one could not and the others would shrink.
    Unknown,
}

/// How many instances there should be, and why.
#[must_use]
pub fn decide(question: &Question<'_>) -> Decision {
    let policy = question.policy;
    let mut decision = Decision::hold(question.current, question.now);
    if policy.mode == AutoscaleMode::Off {
        return decision.because(Reason::Off);
    }
    if question.current == 0 && policy.min > 0 && !question.asleep {
        return decision.because(Reason::Stopped);
    }
    let measured = policy.mode != AutoscaleMode::Schedule;
    if measured {
        decision.proposals =
            policy.targets.iter().map(|target| proposal::measured(question, target)).collect();
        decision.proposals.extend(proposal::foreseen(question));
    }
    let asked = if measured { combine(question, &decision.proposals) } else { Asked::For(question.least()) };
    let mut limits = Limits::new(question, &mut decision);
    match asked {
        Asked::For(wish) => limits.apply(wish),
        Asked::Unknown => limits.bounds_only(),
    }
    decision
}

fn combine(question: &Question<'_>, proposals: &[Proposal]) -> Asked {
    let broken = proposals.iter().any(|proposal| proposal.replicas.is_err());
    let wish = match question.policy.combination {
        Combination::Largest => largest(question, proposals),
        Combination::Weighted { alpha_permille, beta_permille } => {
            weighted(question, proposals, f64::from(alpha_permille), f64::from(beta_permille))
        }
    };
    match wish {
        None => Asked::Unknown,
        Some(wish) if broken && wish < question.current => Asked::Unknown,
        Some(wish) => Asked::For(wish),
    }
}

/// The largest proposal. A forecast decides alone in mode predictive, but for metrics that it does not stand for.
fn largest(question: &Question<'_>, proposals: &[Proposal]) -> Option<u32> {
    let moves = |proposal: &&Proposal| proposal.moves;
    let foreseen = proposals.iter().filter(moves).find(|proposal| proposal.source == Source::Forecast);
    let stands_for = |proposal: &&Proposal| {
        question.policy.mode == AutoscaleMode::Predictive
            && proposal.source == Source::Measured
            && foreseen.is_some_and(|foreseen| foreseen.metric == proposal.metric)
    };
    let replicas = proposals.iter().filter(moves).filter(|proposal| !stands_for(proposal));
    replicas.filter_map(|proposal| proposal.replicas.ok()).max()
}

/// pressure = α·usage/target + β·load/target, over the sides that can be read; times what is ready.
fn weighted(question: &Question<'_>, proposals: &[Proposal], alpha: f64, beta: f64) -> Option<u32> {
    let side = |side: Side| {
        let measured = proposals.iter().filter(|proposal| proposal.source == Source::Measured);
        let read = measured.filter(|proposal| proposal.replicas.is_ok() && proposal.metric.side() == side);
        read.map(|proposal| proposal.of_ready).max_by(f64::total_cmp)
    };
    let sides = [(alpha, side(Side::Usage)), (beta, side(Side::Load))];
    let weights: f64 =
        sides.iter().filter(|(_, pressure)| pressure.is_some()).map(|(weight, _)| weight).sum();
    let forecast = proposals.iter().find(|proposal| proposal.source == Source::Forecast && proposal.moves);
    let forecast = forecast.and_then(|proposal| proposal.replicas.ok());
    if weights <= 0.0 {
        return forecast;
    }
    let sum: f64 = sides.iter().filter_map(|(weight, pressure)| Some(weight * (*pressure)?)).sum();
    let pressure = sum / weights;
    let ready = question.signals.ready;
    let tolerance = Tolerance::of(question.policy);
    let wish = if question.current > 0 && tolerance.holds(pressure) {
        question.current
    } else {
        // Those that are starting have been asked for already.
        tolerance.keep_direction(
            pressure,
            quantity::ceil(pressure * f64::from(ready.max(1))),
            question.current,
        )
    };
    Some(wish.max(forecast.unwrap_or_default()))
}
