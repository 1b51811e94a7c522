//! What one decision leaves to the next.
//!
//! Invariant: bounded; what is older than any window looks back is forgotten. Entries from the future (a clock stepped
//! back) count as of now.

use std::{collections::VecDeque, time::Duration};

use skein_common::Timestamp;

use super::Decision;

/// Longer than any window or period of a policy.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// A wish every five seconds for the longest window.
const MAX_WISHES: usize = 1024;
const MAX_STEPS: usize = 4096;

/// Of one service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    pub wishes: VecDeque<Wish>,
    /// Changes of the number, whoever made them.
    pub steps: VecDeque<Step>,
    pub burst: Option<Burst>,
}

/// What the metrics asked for, before any window or limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    pub at: Timestamp,
    pub replicas: u32,
}

/// The number of replicas was changed by so much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub at: Timestamp,
    pub by: i64,
}

/// The short window decides, and nothing shrinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burst {
    /// When the short window was last above the threshold.
    pub seen: Timestamp,
    /// The most that was decided since it began.
    pub most: u32,
}

impl Memory {
    /// After a decision that is carried out.
    pub fn record(&mut self, decision: &Decision) {
        let now = decision.at;
        if let Some(replicas) = decision.wish {
            self.wishes.push_back(Wish { at: now, replicas });
        }
        let by = i64::from(decision.replicas) - i64::from(decision.from);
        if by != 0 {
            self.steps.push_back(Step { at: now, by });
        }
        self.burst = decision.burst;
        while self.wishes.front().is_some_and(|wish| {
            self.wishes.len() > MAX_WISHES || now.since(wish.at) > Duration::from_secs(3_600)
        }) {
            self.wishes.pop_front();
        }
        while self.steps.front().is_some_and(|step| self.steps.len() > MAX_STEPS || now.since(step.at) > KEPT)
        {
            self.steps.pop_front();
        }
    }

    /// Wishes younger than the window.
    pub fn wishes_of(&self, window: Duration, now: Timestamp) -> impl Iterator<Item = u32> {
        self.wishes.iter().filter(move |wish| now.since(wish.at) < window).map(|wish| wish.replicas)
    }

    /// How many there were a period ago, given how many there are.
    pub fn before(&self, current: u32, period: Duration, now: Timestamp) -> i64 {
        let steps = self.steps.iter().filter(|step| now.since(step.at) < period);
        i64::from(current) - steps.map(|step| step.by).sum::<i64>()
    }
}
