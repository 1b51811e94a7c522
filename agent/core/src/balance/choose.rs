//! The algorithms: from a set, the time and the dice to one endpoint.
//!
//! Invariant: only open endpoints are chosen: with a weight, not out, with room, not tried by this request before. When
//! none is, the caller learns whether there are none or they are all busy.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use skein_common::{InstanceId, service::Algorithm};

use super::{
    dice::{Dice, mix},
    load::NotTaken,
    set::{EndpointSet, Lease, Member},
};

/// Blind draws before all members are looked at.
const DRAWS: usize = 4;
/// Choices that may be lost to other threads.
const RACES: usize = 8;
/// Of how many the adaptive algorithm chooses (Prequal probes 2 to 5).
const CANDIDATES: usize = 3;
/// Percent of endpoints that are not hot (Prequal's Q_RIF lies between 0.6 and 0.9).
const COLD_PERCENT: u32 = 84;
/// One look moves the estimate of what is hot by this part of it.
const HOT_STEPS: u32 = 20;
/// Consistent hashing lets an endpoint have this many times its share of what is in flight (Mirrokni et al.: 1 + ε).
const BOUND: f64 = 1.25;

/// One request that wants an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Since the balancer began.
    pub now: Duration,
    /// Of what the policy hashes by; `None` = it has none.
    pub key: Option<u64>,
    /// The endpoint the client had, as [`Lease::mark`]; taken when it is open.
    pub wanted: Option<u64>,
    /// Where it was sent before and failed.
    pub tried: &'a [InstanceId],
    /// Most requests in flight to one endpoint.
    pub limit: u32,
}

/// Why there is no endpoint for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    #[error("no instance is ready")]
    None,
    #[error("every instance has as many requests as it may have")]
    Busy,
    /// The endpoint that was chosen is none any more: there is another set.
    #[error("the instances have just changed")]
    Superseded,
}

impl EndpointSet {
    /// An endpoint for this request.
    ///
    /// # Errors
    /// [`NoEndpoint`] when none is open, or when this set is not the newest.
    pub fn choose(
        &self,
        algorithm: &Algorithm,
        asked: &Asked<'_>,
        dice: &mut Dice,
    ) -> Result<Lease, NoEndpoint> {
        // Others may take the last room of the one that is chosen; then there is none soon.
        for _ in 0..RACES {
            let Some(index) = self.pick(algorithm, asked, dice) else { break };
            match self.lease(index, asked.limit, !asked.tried.is_empty()) {
                Ok(lease) => return Ok(lease),
                Err(NotTaken::Full) => {}
                Err(NotTaken::Closed) => return Err(NoEndpoint::Superseded),
            }
        }
        let is_served = self.members.iter().any(|member| member.endpoint.weight > 0);
        Err(if is_served { NoEndpoint::Busy } else { NoEndpoint::None })
    }

    fn pick(&self, algorithm: &Algorithm, asked: &Asked<'_>, dice: &mut Dice) -> Option<usize> {
        if let Some(index) = self.had(asked) {
            return Some(index);
        }
        let chosen = match algorithm {
            Algorithm::RoundRobin => self.next_in_turn(asked),
            Algorithm::Random => self.draw(asked, dice),
            Algorithm::LeastRequests => self.less_loaded(asked, dice),
            Algorithm::Adaptive => self.quickest_cold(asked, dice),
            Algorithm::ConsistentHash { .. } => match asked.key {
                Some(key) => self.owner(key, asked),
                None => self.draw(asked, dice),
            },
        };
        chosen.or_else(|| self.last_resort(asked, dice))
    }

    /// Where the client was, as long as that is open.
    fn had(&self, asked: &Asked<'_>) -> Option<usize> {
        let wanted = asked.wanted?;
        let index = self.members.iter().position(|member| member.seed == wanted)?;
        self.is_open(&self.members[index], asked).then_some(index)
    }

    fn is_open(&self, member: &Member, asked: &Asked<'_>) -> bool {
        has_room(member, asked) && !member.load.is_out(asked.now)
    }

    fn open<'s>(&'s self, asked: &'s Asked<'_>) -> impl Iterator<Item = (usize, &'s Member)> {
        self.members.iter().enumerate().filter(|(_, member)| self.is_open(member, asked))
    }

    /// Those that are out are better than nobody.
    fn last_resort(&self, asked: &Asked<'_>, dice: &mut Dice) -> Option<usize> {
        let count = self.members.iter().filter(|member| has_room(member, asked)).count();
        let nth = usize::try_from(dice.below(count as u64)).unwrap_or(0);
        (0..self.members.len()).filter(|index| has_room(&self.members[*index], asked)).nth(nth)
    }

    /// By weight, each draw for itself.
    fn draw(&self, asked: &Asked<'_>, dice: &mut Dice) -> Option<usize> {
        if self.members.is_empty() {
            return None;
        }
        if self.is_even(asked.now) {
            for _ in 0..DRAWS {
                let index = usize::try_from(dice.below(self.members.len() as u64)).unwrap_or(0);
                if self.is_open(&self.members[index], asked) {
                    return Some(index);
                }
            }
        }
        let total: u64 = self.open(asked).map(|(_, member)| self.weight(member, asked.now)).sum();
        let mut at = dice.below(total);
        let found = self.open(asked).find(|(_, member)| {
            let weight = self.weight(member, asked.now);
            let is_here = at < weight;
            at = at.saturating_sub(weight);
            is_here
        });
        found.map(|(index, _)| index)
    }

    fn less_loaded(&self, asked: &Asked<'_>, dice: &mut Dice) -> Option<usize> {
        let first = self.draw(asked, dice)?;
        let second = self.another(&[first], asked, dice).unwrap_or(first);
        Some(if self.is_less_loaded(second, first, asked.now) { second } else { first })
    }

    /// Fewer requests in flight per weight. Idle ones are equal: the draw has weighed them.
    fn is_less_loaded(&self, one: usize, other: usize, now: Duration) -> bool {
        let (one, other) = (&self.members[one], &self.members[other]);
        let load = |member: &Member| u64::from(member.load.in_flight());
        load(one).saturating_mul(self.weight(other, now)) < load(other).saturating_mul(self.weight(one, now))
    }

    /// One that is not among `known`; `None` when the dice do not find any.
    fn another(&self, known: &[usize], asked: &Asked<'_>, dice: &mut Dice) -> Option<usize> {
        (0..DRAWS).find_map(|_| self.draw(asked, dice).filter(|index| !known.contains(index)))
    }

    fn quickest_cold(&self, asked: &Asked<'_>, dice: &mut Dice) -> Option<usize> {
        let mut drawn = [self.draw(asked, dice)?; CANDIDATES];
        for count in 1..CANDIDATES {
            drawn[count] = self.another(&drawn[..count], asked, dice).unwrap_or(drawn[0]);
        }
        let hot_above = self.learn_hot(&drawn);
        let is_cold = |index: &usize| per_mille(self.members[*index].load.in_flight()) <= hot_above;
        let cold = drawn.iter().copied().filter(is_cold);
        cold.min_by_key(|index| self.members[*index].load.latency(asked.now)).or_else(|| {
            drawn
                .iter()
                .copied()
                .reduce(|best, index| if self.is_less_loaded(index, best, asked.now) { index } else { best })
        })
    }

    /// Moves the estimate of the quantile by what the drawn show (stochastic approximation, Robbins and Monro).
    fn learn_hot(&self, drawn: &[usize]) -> u32 {
        let mut hot = self.hot_above.load(Relaxed);
        for index in drawn {
            let step = hot.saturating_add(1_000) / HOT_STEPS;
            hot = match per_mille(self.members[*index].load.in_flight()) > hot {
                true => hot.saturating_add(step * COLD_PERCENT / 100),
                false => hot.saturating_sub(step * (100 - COLD_PERCENT) / 100),
            };
        }
        self.hot_above.store(hot, Relaxed);
        hot
    }

    /// Smooth weighted round robin: everybody is credited its weight, the richest pays for all.
    fn next_in_turn(&self, asked: &Asked<'_>) -> Option<usize> {
        let mut credit = self.credit();
        let (mut total, mut richest) = (0, None);
        for (index, member) in self.open(asked) {
            let weight = i64::try_from(self.weight(member, asked.now)).unwrap_or(i64::MAX);
            credit[index] = credit[index].saturating_add(weight);
            total += weight;
            if richest.is_none_or(|best: usize| credit[index] > credit[best]) {
                richest = Some(index);
            }
        }
        if let Some(index) = richest {
            credit[index] -= total;
        }
        richest
    }

    /// Weighted rendezvous hashing (Thaler and Ravishankar): who leaves gives away its own keys only. Who has more than
    /// its bounded share of what is in flight is passed over.
    fn owner(&self, key: u64, asked: &Asked<'_>) -> Option<usize> {
        let now = asked.now;
        let (in_flight, weights) = self.open(asked).fold((1, 0), |(in_flight, weights), (_, member)| {
            (in_flight + u64::from(member.load.in_flight()), weights + self.weight(member, now))
        });
        let bound = |member: &Member| {
            let share = self.weight(member, now) as f64 / (weights.max(1)) as f64;
            (BOUND * in_flight as f64 * share).ceil()
        };
        let rank = |member: &Member| {
            let uniform = (mix(key ^ member.seed) >> 11) as f64 / (1u64 << 53) as f64;
            -(self.weight(member, now) as f64) / uniform.ln()
        };
        self.open(asked)
            .filter(|(_, member)| f64::from(member.load.in_flight()) < bound(member))
            .map(|(index, member)| (index, rank(member)))
            .max_by(|one, other| one.1.total_cmp(&other.1))
            .map(|(index, _)| index)
    }
}

fn has_room(member: &Member, asked: &Asked<'_>) -> bool {
    member.endpoint.weight > 0
        && member.load.in_flight() < asked.limit
        && !asked.tried.contains(&member.endpoint.instance)
}

const fn per_mille(in_flight: u32) -> u32 {
    in_flight.saturating_mul(1_000)
}
