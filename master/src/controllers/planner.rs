//! Desired and observed → what should happen next, one plan at a time.
//!
//! Invariant: level-triggered. Changes only narrow what has to be looked at; a slow full pass finds
//! whatever was overlooked. The next plan is made from a state that holds the last one.
//! Deliberately not here: the decisions (`orchestrator`), and any debounce: what arrives while a
//! plan commits is the next batch.

use std::{collections::BTreeMap, error::Error, future, mem, panic, sync::Arc, time::Duration};

use skein_common::{InstanceId, NodeId, Revision, Timestamp};
use skein_master_core::{
    ClusterState, Command, CommandKind,
    command::Actor,
    orchestrator::{self, Planned, Scope},
};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    store::{ChangeBatch, Feed, FeedEnd, Store},
    usage::UsageStore,
};

/// Everything is looked at this often, whatever happened.
const FULL_PASS_EVERY: Duration = Duration::from_secs(30);
/// After a plan that was not committed.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// The leader's planner.
#[derive(Debug)]
pub struct Planner {
    store: Store,
    usage: Arc<UsageStore>,
    dirty: Scope,
    /// When everything has to be looked at again.
    wake_at: Instant,
}

impl Planner {
    #[must_use]
    pub fn new(store: Store, usage: Arc<UsageStore>) -> Self {
        Self { store, usage, dirty: Scope::All, wake_at: Instant::now() + FULL_PASS_EVERY }
    }

    /// Until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = self.follow() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn follow(&mut self) {
        loop {
            // Whatever is not told one by one is looked at whole.
            self.dirty = Scope::All;
            let Ok(mut feed) = self.store.feed(self.store.snapshot().revision()) else { continue };
            loop {
                self.pass().await;
                match self.next(&mut feed).await {
                    Ok(()) => {}
                    Err(FeedEnd::Lagged { .. }) => break,
                    Err(FeedEnd::Closed) => return,
                }
            }
        }
    }

    /// Waits until there is something to look at.
    async fn next(&mut self, feed: &mut Feed) -> Result<(), FeedEnd> {
        while self.dirty.is_nothing() {
            tokio::select! {
                batches = feed.next() => self.mark(&batches?),
                () = sleep_until(self.wake_at) => self.dirty = Scope::All,
            }
        }
        Ok(())
    }

    fn mark(&mut self, batches: &[Arc<ChangeBatch>]) {
        batches.iter().flat_map(|batch| &batch.changes).for_each(|change| self.dirty.add(change));
    }

    /// Plans for what is dirty until there is nothing left to do.
    async fn pass(&mut self) {
        while !self.dirty.is_nothing() {
            let scope = mem::take(&mut self.dirty);
            if scope == Scope::All {
                self.wake_at = Instant::now() + FULL_PASS_EVERY;
            }
            let (planned, now) = decide(self.store.snapshot(), scope.clone(), self.usage.measured()).await;
            let is_cut = planned.wake_at.is_some_and(|at| at <= now);
            if let Some(at) = planned.wake_at.filter(|at| *at > now) {
                self.wake_at = self.wake_at.min(Instant::now() + at.since(now));
            }
            if is_cut && !planned.plan.is_empty() {
                self.dirty = scope.clone();
            }
            if !planned.plan.is_empty() && !self.commit(planned).await {
                self.dirty = Scope::All;
                sleep(RETRY_AFTER).await;
            }
        }
    }

    /// Proposes the plan and waits until this master has applied it.
    async fn commit(&self, planned: Planned) -> bool {
        let kind = CommandKind::Plan(planned.plan);
        let actor = Actor::Controller("planner".to_owned());
        let command = Command { request: None, at: clock::now(), actor, kind };
        match self.store.propose(command).await {
            Ok(committed) => self.applied(committed.revision).await,
            Err(error) => {
                tracing::warn!(error = &error as &dyn Error, "plan not committed; the next pass retries");
                // Perhaps it is in the log: look again only when that is decided.
                let _ = self.store.linearize().await;
                false
            }
        }
    }

    async fn applied(&self, revision: Revision) -> bool {
        self.store.changed().wait_for(|applied| *applied >= revision).await.is_ok()
    }
}

/// One pass over the state, off the threads that serve streams: it may take a while.
async fn decide(
    state: Arc<ClusterState>,
    scope: Scope,
    measured: BTreeMap<NodeId, u16>,
) -> (Planned, Timestamp) {
    // As the core reads it: a leader whose clock is behind goes by the time that was applied.
    let now = clock::now().max(state.time());
    let pass = tokio::task::spawn_blocking(move || {
        let mut ids = || InstanceId::from_random(clock::random());
        orchestrator::plan_measured(&state, &scope, now, &measured, &mut ids)
    });
    match pass.await {
        Ok(planned) => (planned, now),
        Err(error) if error.is_panic() => panic::resume_unwind(error.into_panic()),
        // The runtime is going down, and this task with it.
        Err(_) => future::pending().await,
    }
}
