//! What happened to one instance: the story that `skein instance events` tells.
//!
//! Invariant: bounded, and written by `apply` alone, so it survives failover like the instance itself.
//! Only what differs is kept: steps on the way to running are one entry, the latest.
//! Deliberately not here: what happened to others (`event`).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Desired, Phase, Progress};
use crate::{Revision, Timestamp};

/// Entries kept of one instance; the oldest go first, but the very first stays.
pub const MAX_TRANSITIONS: usize = 16;
/// Bytes of a cause.
const MAX_CAUSE: usize = 160;

/// Who wrote a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Author {
    User,
    /// That of the instance's node.
    Agent,
    /// A controller of the leader.
    Masters,
}

/// One step of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// The masters' clock.
    pub at: Timestamp,
    pub revision: Revision,
    pub progress: Progress,
    pub desired: Desired,
    /// Ready and serving.
    pub ready: bool,
    pub author: Author,
    /// Why; empty when there is nothing to say.
    pub cause: Box<str>,
}

/// The steps of one instance, the oldest first. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History(Arc<Vec<Transition>>);

impl History {
    pub fn iter(&self) -> impl Iterator<Item = &Transition> {
        self.0.iter()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// With one step more.
    #[must_use]
    pub fn and(&self, mut next: Transition) -> Self {
        if next.cause.len() > MAX_CAUSE {
            let end = next.cause.floor_char_boundary(MAX_CAUSE);
            next.cause = next.cause[..end].into();
        }
        let replaces = self.0.last().is_some_and(|last| last.is_on_the_way_to(&next));
        let kept = self.0.len() - usize::from(replaces);
        // The first tells where it all began.
        let dropped = (kept + 1).saturating_sub(MAX_TRANSITIONS);
        let mut all = Vec::with_capacity(kept + 1 - dropped);
        all.extend(self.0.iter().take(kept).take(1).cloned());
        all.extend(self.0.iter().take(kept).skip(1 + dropped).cloned());
        all.push(next);
        Self(Arc::new(all))
    }
}

impl Transition {
    /// A step of the same attempt towards running that says nothing by itself.
    fn is_on_the_way_to(&self, next: &Self) -> bool {
        let (from, to) = (self.progress, next.progress);
        from.attempt == to.attempt
            && (Phase::Pulling..=Phase::Running).contains(&from.phase)
            && to.phase <= Phase::Ready
            && self.desired == next.desired
            && self.cause.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(revision: u64, attempt: u32, phase: Phase, cause: &str) -> Transition {
        Transition {
            at: Timestamp::from_unix_ms(revision),
            revision: Revision(revision),
            progress: Progress { attempt, phase },
            desired: Desired::Run,
            ready: phase == Phase::Ready,
            author: Author::Agent,
            cause: cause.into(),
        }
    }

    #[test]
    fn the_way_to_running_is_one_step_and_causes_stay() {
        let mut history = History::default();
        for (revision, (attempt, phase, cause)) in (1..).zip([
            (1, Phase::Assigned, ""),
            (1, Phase::Pulling, ""),
            (1, Phase::Starting, "no such image"),
            (1, Phase::Running, ""),
            (1, Phase::Ready, ""),
            (2, Phase::Assigned, "exit code 1"),
            (2, Phase::Ready, ""),
        ]) {
            history = history.and(step(revision, attempt, phase, cause));
        }
        let told: Vec<_> = history.iter().map(|one| (one.revision.0, one.progress.phase)).collect();
        let expected = [
            (1, Phase::Assigned),
            (3, Phase::Starting),
            (5, Phase::Ready),
            (6, Phase::Assigned),
            (7, Phase::Ready),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn it_is_bounded_and_keeps_its_beginning() {
        let mut history = History::default();
        for attempt in 1..100 {
            history = history.and(step(attempt.into(), attempt, Phase::Assigned, &"x".repeat(1000)));
            assert!(history.len() <= MAX_TRANSITIONS);
        }
        let revisions: Vec<_> = history.iter().map(|one| one.revision.0).collect();
        assert_eq!((revisions[0], revisions[1], revisions[15]), (1, 85, 99));
        assert!(history.iter().all(|one| one.cause.len() == MAX_CAUSE));
    }
}
