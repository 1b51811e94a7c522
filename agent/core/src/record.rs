//! What the agent remembers of one instance: how far it came, and how often it was restarted.
//!
//! Invariant: `progress` never goes back. The record is the agent's truth across its own
//! restarts; where the engine shows more, the engine is right.
//! Deliberately not here: what to do next (`lifecycle`).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use skein_common::{
    InstanceId, Timestamp,
    assignment::Known,
    instance::{self, Observed, Phase, Progress, Readiness},
    service::{DEFAULT_STOP_GRACE, RestartCondition, RestartPolicy},
};

use crate::{
    backoff::{self, Retry},
    probe::Probing,
    progress::{self, Cause},
};

/// Restarts remembered for a policy with a window; a policy that allows more within its
/// window allows this many.
const MAX_REMEMBERED: u32 = 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    progress: Progress,
    #[serde(default)]
    readiness: Readiness,
    /// Its startup probe has passed.
    #[serde(default)]
    started: bool,
    /// When anything told of it last changed.
    at: Timestamp,
    /// Of the attempt's container; empty when there is none.
    container: String,
    /// When the attempt's process began.
    started_at: Option<Timestamp>,
    /// Of the attempt that ended last.
    exit_code: Option<i64>,
    /// Why the last attempt ended.
    cause: String,
    /// What holds this attempt up, while something does.
    obstacle: String,
    /// The attempt is over, or is being ended, because of this.
    pub(crate) ending: Option<Ending>,
    /// Back-off before the attempt.
    pub(crate) not_before: Timestamp,
    restarts: Restarts,
    /// Known when the assignment is gone.
    pub(crate) stop_grace: Duration,
    /// Nothing is left on the node, and the masters want it so.
    pub(crate) gone: bool,
    /// The attempt's container was removed before it began, to be made again.
    #[serde(default)]
    remade: bool,
    /// The attempt's container, when this life of the agent made it.
    #[serde(skip)]
    made: String,
    /// The masters know this attempt as one that has been Ready.
    #[serde(skip)]
    was_ready: bool,
    #[serde(skip)]
    pub(crate) probing: Probing,
    /// The engine did not do its last step.
    #[serde(skip)]
    pub(crate) retry: Retry,
    /// Since the last `take_changed`.
    #[serde(skip)]
    changed: bool,
}

/// How an attempt came to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ending {
    pub(crate) exit_code: Option<i64>,
    pub(crate) failure: bool,
    pub(crate) cause: String,
    /// When it ended, by the engine's clock; `None` = when it was noticed.
    pub(crate) finished_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Restarts {
    total: u32,
    /// In a row, without a long run between them.
    streak: u32,
    /// Only for policies with a window: when they were, oldest first.
    recent: Vec<Timestamp>,
}

impl Restarts {
    fn within(&self, window: Duration, now: Timestamp) -> u32 {
        if window.is_zero() {
            return self.total;
        }
        let count = self.recent.iter().filter(|at| now.since(**at) < window).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// As the masters keep it.
    fn told(&self, not_before: Timestamp) -> instance::Restarts {
        let newest = self.recent.len().saturating_sub(instance::Restarts::KEPT);
        instance::Restarts {
            total: self.total,
            streak: self.streak,
            in_window: u32::try_from(self.recent.len()).unwrap_or(u32::MAX),
            recent: self.recent.get(newest..).unwrap_or_default().to_vec(),
            not_before,
        }
    }

    /// Those whose time is not known any more count as long as the oldest whose is.
    fn recalled(known: &instance::Restarts) -> Self {
        let oldest = known.recent.first().copied();
        let counted = usize::try_from(known.in_window.min(MAX_REMEMBERED)).unwrap_or_default();
        let unknown = oldest.into_iter().cycle().take(counted.saturating_sub(known.recent.len()));
        let recent = unknown.chain(known.recent.iter().copied()).collect();
        Self { total: known.total, streak: known.streak, recent }
    }

    fn note(&mut self, policy: &RestartPolicy, now: Timestamp) {
        self.total = self.total.saturating_add(1);
        self.streak = self.streak.saturating_add(1);
        if policy.max_attempts.is_some() && !policy.window.is_zero() {
            self.recent.retain(|at| now.since(*at) < policy.window);
            self.recent.push(now);
        }
    }
}

impl Record {
    #[must_use]
    pub fn new(attempt: u32, now: Timestamp) -> Self {
        Self {
            progress: Progress { attempt: attempt.max(1), phase: Phase::Assigned },
            readiness: Readiness::default(),
            started: false,
            at: now,
            container: String::new(),
            started_at: None,
            exit_code: None,
            cause: String::new(),
            obstacle: String::new(),
            ending: None,
            not_before: Timestamp::default(),
            restarts: Restarts::default(),
            stop_grace: DEFAULT_STOP_GRACE,
            gone: false,
            remade: false,
            made: String::new(),
            was_ready: false,
            probing: Probing::default(),
            retry: Retry::default(),
            changed: true,
        }
    }

    #[must_use]
    pub const fn progress(&self) -> Progress {
        self.progress
    }

    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.progress.attempt
    }

    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.progress.phase
    }

    /// As it is told to the masters.
    #[must_use]
    pub fn observed(&self) -> Observed {
        let message = if self.obstacle.is_empty() { &self.cause } else { &self.obstacle };
        Observed {
            container_id: self.container.clone(),
            exit_code: self.exit_code,
            message: message.clone(),
            readiness: self.readiness,
            restarts: self.restarts.told(self.not_before),
            ..Observed::of(self.progress, self.at)
        }
    }

    /// Whether there is something new to tell since the last call.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn touch(&mut self, now: Timestamp) {
        // Reports of one progress are ordered by this time, so it must not go back either.
        self.at = self.at.max(now);
        self.changed = true;
    }

    /// Goes on within its attempt, if this is news to it.
    pub(crate) fn advance(&mut self, cause: Cause, now: Timestamp) {
        let progress = progress::next(self.progress, cause);
        if self.progress != progress {
            self.progress = progress;
            self.touch(now);
        }
    }

    /// Ready, and may receive traffic.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.progress.phase == Phase::Ready && self.readiness.is_serving()
    }

    /// The attempt is Ready; from now on it serves, or does not.
    pub(crate) fn serve(&mut self, serving: bool, now: Timestamp) {
        let readiness = self.readiness.with(serving);
        if self.progress.phase == Phase::Ready && self.readiness != readiness {
            self.readiness = readiness;
            self.touch(now);
        }
    }

    pub(crate) fn mark_started(&mut self) {
        // Of interest to nobody but the checkpoint.
        self.changed |= !self.started;
        self.started = true;
    }

    /// The startup probe has nothing to say any more.
    pub(crate) fn has_started(&self) -> bool {
        self.started || self.was_ready || self.progress.phase >= Phase::Ready
    }

    pub(crate) const fn was_ready(&self) -> bool {
        self.was_ready
    }

    pub(crate) fn show_container(&mut self, container: &str, now: Timestamp) {
        if self.container != container {
            container.clone_into(&mut self.container);
            self.touch(now);
        }
    }

    pub(crate) fn set_obstacle(&mut self, obstacle: &str, now: Timestamp) {
        if self.obstacle != obstacle {
            obstacle.clone_into(&mut self.obstacle);
            self.touch(now);
        }
    }

    pub(crate) fn mark_gone(&mut self, now: Timestamp) {
        if !self.gone {
            self.gone = true;
            self.touch(now);
        }
    }

    pub(crate) fn process_began(&mut self, started_at: Timestamp) {
        self.started_at = Some(started_at);
    }

    /// The attempt's container was made, by this life of the agent.
    pub(crate) fn container_made(&mut self, container: &str) {
        container.clone_into(&mut self.made);
        self.remade = false;
    }

    /// Whether no earlier life of the agent can have asked for this container to be started.
    pub(crate) fn is_own(&self, container: &str) -> bool {
        self.made == container
    }

    /// The attempt goes on with another container.
    pub(crate) fn remake(&mut self) {
        self.remade = true;
    }

    /// Whether the attempt began, so that a container that is gone has vanished.
    pub(crate) fn has_begun(&self) -> bool {
        self.progress.phase >= Phase::Starting && !self.remade
    }

    /// Nothing can be made of it here.
    pub(crate) fn reject(&mut self, reason: &str, now: Timestamp) {
        self.ending = None;
        self.set_obstacle(reason, now);
        self.advance(Cause::Refused, now);
    }

    /// Goes on with a later attempt that others know of: its container, or the masters' word.
    pub(crate) fn adopt(&mut self, attempt: u32, now: Timestamp) {
        self.begin(Cause::Later(attempt), now);
    }

    /// What the masters know of the attempt, should this record have lost it. Often too old, and then
    /// without effect.
    pub(crate) fn recall(&mut self, attempt: u32, known: &Known, now: Timestamp) {
        if self.restarts.total < known.restarts.total {
            self.restarts = Restarts::recalled(&known.restarts);
            self.not_before = self.not_before.max(known.restarts.not_before);
            self.touch(now);
        }
        if attempt != self.progress.attempt || self.progress.phase.is_terminal() {
            return;
        }
        self.was_ready |= known.was_ready;
        if self.readiness < known.readiness {
            let own = self.progress.phase >= Phase::Ready;
            self.readiness = if own { self.readiness.not_before(known.readiness) } else { known.readiness };
            self.touch(now);
        }
    }

    /// Another attempt, if this cause leads to one.
    fn begin(&mut self, cause: Cause, now: Timestamp) {
        let progress = progress::next(self.progress, cause);
        if progress.attempt == self.progress.attempt {
            return;
        }
        self.progress = progress;
        self.readiness = Readiness::default();
        self.started = false;
        self.was_ready = false;
        self.probing = Probing::default();
        self.remade = false;
        self.started_at = None;
        self.ending = None;
        self.obstacle.clear();
        self.container.clear();
        self.touch(now);
    }

    /// It ended and was meant to.
    pub(crate) fn stop(&mut self, ending: Option<Ending>, now: Timestamp) {
        if self.progress.phase.is_terminal() {
            return;
        }
        if let Some(ending) = ending {
            self.exit_code = ending.exit_code.or(self.exit_code);
            self.cause = ending.cause;
        }
        self.ending = None;
        self.obstacle.clear();
        self.advance(Cause::EndedAsWished, now);
    }

    /// It ended though it should run: the next attempt, or the end of the instance.
    pub(crate) fn end_attempt(
        &mut self,
        of: InstanceId,
        ending: Ending,
        policy: &RestartPolicy,
        now: Timestamp,
    ) {
        let ran = self
            .started_at
            .map_or(Duration::ZERO, |started| ending.finished_at.unwrap_or(now).since(started));
        if ran >= backoff::RESTART_FORGIVEN_AFTER {
            self.restarts.streak = 0;
        }
        self.exit_code = ending.exit_code;
        self.cause = ending.cause;
        let again = match policy.condition {
            RestartCondition::Any => true,
            RestartCondition::OnFailure => ending.failure,
            RestartCondition::None => false,
        };
        if !again {
            self.give_up(if ending.failure { Cause::GivenUp } else { Cause::Completed }, now);
        } else if let Some(limit) = self.exhausted(policy, now) {
            self.cause = format!("{}; given up {limit}", self.cause);
            self.give_up(Cause::GivenUp, now);
        } else {
            let wait = backoff::before_restart(policy, self.restarts.streak, of, self.progress.attempt);
            self.not_before = now + wait;
            self.restarts.note(policy, now);
            self.begin(Cause::Restart, now);
        }
    }

    fn give_up(&mut self, cause: Cause, now: Timestamp) {
        self.ending = None;
        self.obstacle.clear();
        self.advance(cause, now);
    }

    /// The limit in words, when it is reached.
    fn exhausted(&self, policy: &RestartPolicy, now: Timestamp) -> Option<String> {
        let limit = policy.max_attempts?;
        if policy.window.is_zero() {
            return (self.restarts.total >= limit).then(|| format!("after {limit} restarts"));
        }
        let restarts = self.restarts.within(policy.window, now);
        (restarts >= limit.min(MAX_REMEMBERED))
            .then(|| format!("after {restarts} restarts within {:?}", policy.window))
    }

    /// After a restart of the agent: everything is told anew, and no wait lasts longer than the
    /// policy's longest, should the clock have been set back meanwhile.
    pub(crate) fn remember(&mut self, policy: Option<&RestartPolicy>, now: Timestamp) {
        self.retry.reset();
        self.made.clear();
        self.was_ready = false;
        self.probing = Probing::default();
        self.changed = true;
        let longest = policy.map(backoff::longest_restart);
        self.not_before = self.not_before.min(now + longest.unwrap_or_default());
    }
}
