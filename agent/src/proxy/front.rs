//! One port of one service as this node serves it: its endpoints now, and the requests that wait for one.
//!
//! Invariant: what is configured is a value that is swapped whole; a request goes on with the value it began with. At
//! most `limits.pending` requests wait, and none longer than the connect timeout.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use rand::RngExt;
use skein_agent_core::balance::{
    Asked, Dice, Endpoint, EndpointSet, Lease, Load, Member, NoEndpoint, Outcome, RetryBudget,
};
use skein_common::{InstanceId, service::BalancePolicy};
use tokio::{sync::Notify, time};

thread_local! {
    /// Each thread of the proxy throws its own.
    static DICE: RefCell<Dice> = RefCell::new(Dice::seeded(rand::rng().random()));
}

/// What the masters say of it.
#[derive(Debug)]
pub(crate) struct FrontState {
    pub(crate) policy: BalancePolicy,
    pub(crate) set: EndpointSet,
}

#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) name: String,
    state: ArcSwap<FrontState>,
    budget: RetryBudget,
    waiting: AtomicU32,
    /// An endpoint has got room, or there is another set.
    freed: Notify,
    began: Instant,
}

/// An endpoint for one request, until the request is over.
#[derive(Debug)]
pub(crate) struct Held {
    lease: Lease,
    state: Arc<FrontState>,
    taken: Instant,
    is_noted: bool,
    /// After the lease: who waits then finds the room.
    front: Freeing,
}

/// Tells those who wait, when it is dropped.
#[derive(Debug)]
struct Freeing(Arc<Front>);

impl Front {
    /// Without endpoints yet.
    pub(crate) fn new(name: String, policy: BalancePolicy) -> Self {
        Self {
            name,
            state: ArcSwap::from_pointee(FrontState { policy, set: EndpointSet::default() }),
            budget: RetryBudget::default(),
            waiting: AtomicU32::new(0),
            freed: Notify::new(),
            began: Instant::now(),
        }
    }

    /// From now on these; one writer (`Balancer`). Who left, with what it still has under way.
    pub(crate) fn update(
        &self,
        policy: &BalancePolicy,
        endpoints: &[Endpoint],
    ) -> Vec<(InstanceId, Arc<Load>)> {
        let before = self.state.load_full();
        let known = before.set.members().iter().map(|member| &member.endpoint);
        if before.policy == *policy && known.eq(endpoints) {
            return Vec::new();
        }
        let set = before.set.succeed(endpoints, policy.slow_start, self.now());
        self.state.store(Arc::new(FrontState { policy: policy.clone(), set }));
        self.freed.notify_waiters();
        let stays =
            |member: &Member| endpoints.iter().any(|endpoint| endpoint.instance == member.endpoint.instance);
        let left = before.set.members().iter().filter(|member| !stays(member));
        left.map(|member| (member.endpoint.instance, Arc::clone(&member.load))).collect()
    }

    /// From now on none.
    pub(crate) fn leave(&self) -> Vec<(InstanceId, Arc<Load>)> {
        let policy = self.state.load().policy.clone();
        self.update(&policy, &[])
    }

    pub(crate) fn state(&self) -> Arc<FrontState> {
        self.state.load_full()
    }

    /// An endpoint for one more request; waits while none is open.
    ///
    /// # Errors
    /// [`NoEndpoint`] when none came in time, or too many wait already.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        key: Option<u64>,
        tried: &[InstanceId],
    ) -> Result<Held, NoEndpoint> {
        let state = self.state.load_full();
        match self.try_lease(state, key, tried) {
            Err(NoEndpoint::Busy) if !tried.is_empty() => Err(NoEndpoint::Busy),
            Err(why) => self.wait(key, tried, why).await,
            Ok(held) => Ok(held),
        }
    }

    fn try_lease(
        self: &Arc<Self>,
        state: Arc<FrontState>,
        key: Option<u64>,
        tried: &[InstanceId],
    ) -> Result<Held, NoEndpoint> {
        let asked = Asked { now: self.now(), key, tried, limit: state.policy.limits.in_flight };
        let lease = DICE.with_borrow_mut(|dice| state.set.choose(&state.policy.algorithm, &asked, dice))?;
        if tried.is_empty() {
            self.budget.earn();
        }
        Ok(Held { lease, state, taken: Instant::now(), is_noted: false, front: Freeing(Arc::clone(self)) })
    }

    async fn wait(
        self: &Arc<Self>,
        key: Option<u64>,
        tried: &[InstanceId],
        why: NoEndpoint,
    ) -> Result<Held, NoEndpoint> {
        let (limits, patience) = {
            let state = self.state.load();
            (state.policy.limits, state.policy.timeouts.connect)
        };
        let _place = Place::take(&self.waiting, limits.pending).ok_or(why)?;
        let coming = async {
            loop {
                let freed = self.freed.notified();
                if let Ok(held) = self.try_lease(self.state.load_full(), key, tried) {
                    return held;
                }
                freed.await;
            }
        };
        time::timeout(patience, coming).await.map_err(|_| why)
    }

    /// Whether one more try of a request may be made. What no instance has seen was no load, and costs nothing.
    pub(crate) fn may_retry(&self, tries: usize, was_sent: bool) -> bool {
        let retries = self.state.load().policy.retries;
        u32::try_from(tries).is_ok_and(|tries| tries <= retries)
            && (!was_sent || self.budget.spend(self.now()))
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Held {
    pub(crate) const fn endpoint(&self) -> &Endpoint {
        &self.lease.endpoint
    }

    pub(crate) fn policy(&self) -> &BalancePolicy {
        &self.state.policy
    }

    /// The endpoint has answered, or has not; a stream may go on after it.
    pub(crate) fn note(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.is_noted, true) {
            return;
        }
        let (took, now, rule) = (self.taken.elapsed(), self.front.0.now(), self.state.policy.ejection);
        if self.state.set.note(&self.lease, outcome, took, now, rule) {
            let Endpoint { instance, address, .. } = self.lease.endpoint;
            tracing::warn!(service = self.front.0.name, %instance, %address, "an instance keeps failing; it gets no requests for a while");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.note(Outcome::Unknown);
    }
}

impl Drop for Freeing {
    fn drop(&mut self) {
        if self.0.waiting.load(Relaxed) > 0 {
            self.0.freed.notify_one();
        }
    }
}

/// One of a bounded number of places to wait in.
struct Place<'a>(&'a AtomicU32);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicU32, limit: u32) -> Option<Self> {
        let taken = waiting.fetch_update(Relaxed, Relaxed, |count| (count < limit).then_some(count + 1));
        taken.is_ok().then_some(Self(waiting))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
