//! One port of one service as this node serves it: its endpoints now, and the requests that wait for one.
//!
//! Invariant: what is configured is a value that is swapped whole; a request goes on with the value it began with. At
//! most `limits.pending` requests wait, and none longer than the connect timeout.

use std::{
    cell::RefCell,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use rand::RngExt;
use skein_agent_core::balance::{
    Asked, Dice, Ending, Endpoint, EndpointSet, Lease, Load, NoEndpoint, RetryBudget,
};
use skein_common::{
    InstanceId,
    load::{FrontLoad, InstanceLoad},
    service::{ActiveCheck, BalancePolicy},
};
use tokio::{sync::Notify, time};

use super::{clients::Clients, meter::MeasuredInstance};

thread_local! {
    /// Each thread of the proxy throws its own.
    static DICE: RefCell<Dice> = RefCell::new(Dice::seeded(rand::rng().random()));
}

/// Endpoints that left and were not reported; without masters nobody asks.
const DEPARTED_MAX: usize = 1024;

/// Where a request would go if it could choose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Of what the policy hashes by.
    pub(crate) key: Option<u64>,
    /// The endpoint that its client had.
    pub(crate) wanted: Option<u64>,
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
    /// Of policies with affinity, in mode tcp.
    pub(crate) clients: Clients,
    waiting: AtomicU32,
    refused: AtomicU64,
    connections: AtomicU64,
    connected: AtomicU32,
    /// Endpoints no more, whose last requests no report has told yet.
    departed: Mutex<Vec<(InstanceId, Arc<Load>)>>,
    /// What reports have told.
    told: Mutex<FrontLoad>,
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
            refused: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            connected: AtomicU32::new(0),
            clients: Clients::default(),
            departed: Mutex::default(),
            told: Mutex::default(),
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
        // In this order: who finds an endpoint closed finds the new set.
        let state = self.state.load();
        let stays =
            |load: &Arc<Load>| state.set.members().iter().any(|member| Arc::ptr_eq(&member.load, load));
        let left: Vec<(InstanceId, Arc<Load>)> = before
            .set
            .members()
            .iter()
            .filter(|member| !stays(&member.load))
            .map(|member| (member.endpoint.instance, Arc::clone(&member.load)))
            .collect();
        left.iter().for_each(|(_, load)| load.close());
        self.freed.notify_waiters();
        self.remember(&left);
        left
    }

    /// From now on none.
    pub(crate) fn leave(&self) -> Vec<(InstanceId, Arc<Load>)> {
        let policy = self.state.load().policy.clone();
        self.update(&policy, &[])
    }

    fn remember(&self, left: &[(InstanceId, Arc<Load>)]) {
        let mut departed = lock(&self.departed);
        departed.extend(left.iter().cloned());
        let surplus = departed.len().saturating_sub(DEPARTED_MAX);
        departed.drain(..surplus);
    }

    /// A client has connected; until what is returned goes.
    pub(crate) fn connected(self: &Arc<Self>) -> Connected {
        self.connections.fetch_add(1, Relaxed);
        self.connected.fetch_add(1, Relaxed);
        Connected(Arc::clone(self))
    }

    /// What belongs to no endpoint, since the port is served.
    pub(crate) fn load(&self) -> FrontLoad {
        FrontLoad {
            waiting: self.waiting.load(Relaxed),
            refused: self.refused.load(Relaxed),
            connections: self.connections.load(Relaxed),
            connected: self.connected.load(Relaxed),
        }
    }

    /// What happened since this was asked last.
    pub(crate) fn news(&self) -> (FrontLoad, Vec<InstanceLoad>) {
        let load = self.load();
        let told = std::mem::replace(&mut *lock(&self.told), load);
        let front = FrontLoad {
            refused: load.refused.saturating_sub(told.refused),
            connections: load.connections.saturating_sub(told.connections),
            ..load
        };
        let now = self.now();
        let news = |instance, load: &Load| {
            // Before its counts: what ends meanwhile is told as ended.
            let (in_flight, out) = (load.in_flight(), load.out(now));
            InstanceLoad { instance, in_flight, out, counts: load.news() }
        };
        let state = self.state.load();
        let mut instances: Vec<InstanceLoad> =
            state.set.members().iter().map(|member| news(member.endpoint.instance, &member.load)).collect();
        lock(&self.departed).retain(|(instance, load)| {
            let news = news(*instance, load);
            let stays = news.in_flight > 0;
            instances.push(news);
            stays
        });
        instances.retain(|load| !load.is_zero());
        instances.sort_by_key(|load| load.instance);
        (front, instances)
    }

    /// Its endpoints, each since it is one.
    pub(crate) fn measured(&self) -> Vec<MeasuredInstance> {
        let (state, now) = (self.state.load(), self.now());
        let measured = state.set.members().iter().map(|member| MeasuredInstance {
            instance: member.endpoint.instance,
            in_flight: member.load.in_flight(),
            out: member.load.out(now),
            counts: member.load.counts(),
            latency_sum: member.load.latency_sum(),
        });
        measured.collect()
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
        wish: Wish,
        tried: &[InstanceId],
    ) -> Result<Held, NoEndpoint> {
        match self.try_lease(wish, tried) {
            Err(NoEndpoint::Busy) if !tried.is_empty() => Err(NoEndpoint::Busy),
            Err(why) => self.wait(wish, tried, why).await,
            Ok(held) => Ok(held),
        }
    }

    pub(crate) fn try_lease(self: &Arc<Self>, wish: Wish, tried: &[InstanceId]) -> Result<Held, NoEndpoint> {
        self.try_lease_from(self.state.load_full(), wish, tried)
    }

    /// From this state or, when an endpoint it chooses has left since, from the newest.
    pub(crate) fn try_lease_from(
        self: &Arc<Self>,
        mut state: Arc<FrontState>,
        wish: Wish,
        tried: &[InstanceId],
    ) -> Result<Held, NoEndpoint> {
        loop {
            match self.lease_of(&state, wish, tried) {
                Err(NoEndpoint::Superseded) => {
                    let newer = self.state.load_full();
                    if Arc::ptr_eq(&state, &newer) {
                        return Err(NoEndpoint::Superseded);
                    }
                    state = newer;
                }
                leased => return leased,
            }
        }
    }

    /// From this state, which may be an old one by now.
    fn lease_of(
        self: &Arc<Self>,
        state: &Arc<FrontState>,
        wish: Wish,
        tried: &[InstanceId],
    ) -> Result<Held, NoEndpoint> {
        let Wish { key, wanted } = wish;
        let asked = Asked { now: self.now(), key, wanted, tried, limit: state.policy.limits.in_flight };
        let lease = DICE.with_borrow_mut(|dice| state.set.choose(&state.policy.algorithm, &asked, dice))?;
        if tried.is_empty() {
            self.budget.earn();
        }
        let state = Arc::clone(state);
        Ok(Held { lease, state, taken: Instant::now(), is_noted: false, front: Freeing(Arc::clone(self)) })
    }

    async fn wait(
        self: &Arc<Self>,
        wish: Wish,
        tried: &[InstanceId],
        why: NoEndpoint,
    ) -> Result<Held, NoEndpoint> {
        let (pending, patience) = (self.state.load().policy.limits.pending, self.patience(why));
        let Some(_place) = Place::take(&self.waiting, pending) else {
            self.refused.fetch_add(1, Relaxed);
            return Err(why);
        };
        let coming = async {
            loop {
                let freed = self.freed.notified();
                if let Ok(held) = self.try_lease(wish, tried) {
                    return held;
                }
                freed.await;
            }
        };
        time::timeout(patience, coming).await.map_err(|_| {
            self.refused.fetch_add(1, Relaxed);
            why
        })
    }

    /// Takes note of a check of a member of this state, which may be an old one by now.
    pub(crate) fn checked(&self, state: &FrontState, index: usize, is_well: bool, check: &ActiveCheck) {
        // A round that was under way when checks were switched off.
        if self.state.load().policy.check.is_none() {
            return;
        }
        let Some(turned) = state.set.checked(index, is_well, (check.fall, check.rise), self.now()) else {
            return;
        };
        let Endpoint { instance, address, .. } = turned;
        if is_well {
            tracing::info!(service = self.name, %instance, %address, "an instance passes its checks again");
            self.freed.notify_waiters();
        } else {
            tracing::warn!(service = self.name, %instance, %address, "an instance fails its checks; it gets no requests");
        }
    }

    /// Nobody is out for a check any more.
    pub(crate) fn end_checks(&self) {
        self.state.load().set.end_checks();
        self.freed.notify_waiters();
    }

    /// How long a request waits that finds no endpoint.
    fn patience(&self, why: NoEndpoint) -> Duration {
        let timeouts = self.state.load().policy.timeouts;
        match why {
            NoEndpoint::None => timeouts.hold.unwrap_or(timeouts.connect),
            NoEndpoint::Busy | NoEndpoint::Superseded => timeouts.connect,
        }
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
    /// Names the endpoint to its client.
    pub(crate) fn mark(&self) -> u64 {
        self.lease.mark()
    }

    /// The endpoint's counters.
    pub(crate) const fn load(&self) -> &Arc<Load> {
        self.lease.load()
    }

    pub(crate) const fn endpoint(&self) -> &Endpoint {
        &self.lease.endpoint
    }

    pub(crate) fn policy(&self) -> &BalancePolicy {
        &self.state.policy
    }

    /// The endpoint has answered, or has not; a stream may go on after it.
    pub(crate) fn note(&mut self, ending: Ending) {
        if std::mem::replace(&mut self.is_noted, true) {
            return;
        }
        let (took, now, rule) = (self.taken.elapsed(), self.front.0.now(), self.state.policy.ejection);
        if self.state.set.note(&self.lease, ending, took, now, rule) {
            let Endpoint { instance, address, .. } = self.lease.endpoint;
            tracing::warn!(service = self.front.0.name, %instance, %address, "an instance keeps failing; it gets no requests for a while");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.note(Ending::Abandoned);
    }
}

impl Drop for Freeing {
    fn drop(&mut self) {
        if self.0.waiting.load(Relaxed) > 0 {
            self.0.freed.notify_one();
        }
    }
}

/// A client's connection, counted.
#[derive(Debug)]
pub(crate) struct Connected(Arc<Front>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connected.fetch_sub(1, Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of a bounded number of places to wait in.
struct Place<'a>(&'a AtomicU32);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicU32, limit: u32) -> Option<Self> {
        let taken = waiting.fetch_update(Relaxed, Relaxed, |count| (count < limit).then_some(count + 1));
        // Not then_some: a place that nobody took would be given back.
        taken.is_ok().then(|| Self(waiting))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
