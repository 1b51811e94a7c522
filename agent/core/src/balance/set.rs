//! The endpoints of one service as this node holds them, and the lease of one for one request.
//!
//! Invariant: a set never changes; the next one takes over the counters of the endpoints that stay. A lease counts as
//! in flight until it is dropped, whatever becomes of the set.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use skein_common::{InstanceId, service::Ejection};

use super::{
    dice::mix,
    load::{Load, NotTaken},
    meter::Ending,
};

/// What a newcomer's weight starts from, in thousandths.
const RAMP_FROM: u64 = 100;
const RAMP_FULL: u64 = 1_000;

/// One ready instance as the masters tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    pub instance: InstanceId,
    pub address: SocketAddr,
    /// Share = weight / sum of weights; zero = no new requests.
    pub weight: u32,
}

/// An endpoint and what this node knows of it.
#[derive(Debug)]
pub struct Member {
    pub endpoint: Endpoint,
    pub load: Arc<Load>,
    /// When it joined others, which is when its share begins to grow; `None` = it has its full share.
    joined: Option<Duration>,
    pub(super) seed: u64,
}

/// All endpoints of one service at one generation.
#[derive(Debug, Default)]
pub struct EndpointSet {
    pub(super) members: Vec<Member>,
    slow_start: Duration,
    /// Until then some member's share is still growing.
    ramp_until: Duration,
    pub(super) is_uniform: bool,
    /// Of the smooth round robin: what each member has to its credit.
    credit: Mutex<Vec<i64>>,
    /// Requests in flight above which an endpoint counts as hot, in thousandths.
    pub(super) hot_above: std::sync::atomic::AtomicU32,
}

/// One endpoint for one request.
#[derive(Debug)]
pub struct Lease {
    pub endpoint: Endpoint,
    load: Arc<Load>,
}

impl EndpointSet {
    /// The set that follows `self`: who stays keeps its counters, who comes to others starts slowly.
    #[must_use]
    pub fn succeed(&self, endpoints: &[Endpoint], slow_start: Duration, now: Duration) -> Self {
        let is_warm = !self.members.is_empty();
        let members: Vec<Member> =
            endpoints.iter().map(|endpoint| self.admit(*endpoint, is_warm, now)).collect();
        let newest = members.iter().filter_map(|member| member.joined).max();
        let set = Self {
            is_uniform: members.windows(2).all(|pair| pair[0].endpoint.weight == pair[1].endpoint.weight)
                && members.first().is_some_and(|member| member.endpoint.weight > 0),
            credit: Mutex::new(vec![0; members.len()]),
            slow_start,
            ramp_until: newest.map_or(Duration::ZERO, |joined| joined.saturating_add(slow_start)),
            hot_above: self.hot_above.load(Relaxed).into(),
            members,
        };
        set.readmit_beyond_half(now);
        set
    }

    fn admit(&self, endpoint: Endpoint, is_warm: bool, now: Duration) -> Member {
        let known = self.members.iter().find(|member| {
            member.endpoint.instance == endpoint.instance && member.endpoint.address == endpoint.address
        });
        match known {
            Some(member) => {
                Member { endpoint, load: Arc::clone(&member.load), joined: member.joined, seed: member.seed }
            }
            None => Member {
                endpoint,
                load: Arc::default(),
                joined: is_warm.then_some(now),
                seed: mix(endpoint.instance.get()),
            },
        }
    }

    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member's weight at this time, in thousandths: a newcomer's grows from a tenth to the whole.
    #[must_use]
    pub fn weight(&self, member: &Member, now: Duration) -> u64 {
        let full = u64::from(member.endpoint.weight);
        let Some(joined) = member.joined.filter(|_| now < self.ramp_until) else { return full * RAMP_FULL };
        let done = now.saturating_sub(joined).as_micros().saturating_mul(u128::from(RAMP_FULL))
            / self.slow_start.as_micros().max(1);
        full * u64::try_from(done).unwrap_or(RAMP_FULL).clamp(RAMP_FROM, RAMP_FULL)
    }

    /// All members have the same share at this time.
    pub(super) fn is_even(&self, now: Duration) -> bool {
        self.is_uniform && now >= self.ramp_until
    }

    pub(super) fn credit(&self) -> MutexGuard<'_, Vec<i64>> {
        self.credit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lease(&self, index: usize, limit: u32, again: bool) -> Result<Lease, NotTaken> {
        let member = &self.members[index];
        member.load.take(limit)?;
        member.load.meter.tried(again);
        Ok(Lease { endpoint: member.endpoint, load: Arc::clone(&member.load) })
    }

    /// Takes note of how a request ended, and puts an endpoint out that keeps failing.
    /// True = it has just been put out.
    pub fn note(&self, lease: &Lease, ending: Ending, took: Duration, now: Duration, rule: Ejection) -> bool {
        let should_go = lease.load.note(ending, took, now, rule);
        // One at a time, or two threads could each see the last one that may go.
        let _turn = should_go.then(|| self.credit());
        let goes = should_go && !lease.load.is_out(now) && (self.out(now) + 1) * 2 <= self.members.len();
        if goes {
            lease.load.eject(now, rule);
        }
        goes
    }

    /// Takes note of a check of a member: `(fall, rise)` in a row turn it, but more than half are never out. Who has
    /// just been put out or come back.
    pub fn checked(&self, index: usize, is_well: bool, rows: (u32, u32), now: Duration) -> Option<Endpoint> {
        let member = self.members.get(index)?;
        if !member.load.check(is_well, rows) {
            return None;
        }
        let _turn = self.credit();
        if !is_well && !member.load.is_out(now) && (self.out(now) + 1) * 2 > self.members.len() {
            return None;
        }
        member.load.turn(!is_well);
        Some(member.endpoint)
    }

    /// Nobody is out for a check any more.
    pub fn end_checks(&self) {
        self.members.iter().for_each(|member| member.load.turn(false));
    }

    /// How many are out.
    #[must_use]
    pub fn out(&self, now: Duration) -> usize {
        self.members.iter().filter(|member| member.load.is_out(now)).count()
    }

    /// Others have left: who is out may be more than half of who is left.
    fn readmit_beyond_half(&self, now: Duration) {
        let out: Vec<&Member> = self.members.iter().filter(|member| member.load.is_out(now)).collect();
        for member in out.iter().skip(self.members.len() / 2) {
            member.load.readmit();
        }
    }
}

impl Lease {
    /// Names the endpoint without telling its id: the same on every node.
    #[must_use]
    pub fn mark(&self) -> u64 {
        mix(self.endpoint.instance.get())
    }

    #[must_use]
    pub const fn load(&self) -> &Arc<Load> {
        &self.load
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.load.give_back();
    }
}
