//! The nodes that may take a group's instances, best first.
//!
//! Nodes that look the same to all rules over labels are in one bucket, a heap by score. A
//! placement changes one node's score and the counts of a few domains, so an instance costs
//! O(buckets + log nodes). A few instances without such rules are found by one scan instead.
//!
//! Invariant: what is offered has room and breaks no rule; what was refused for want of room stays
//! refused, because room only shrinks in one group.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use skein_common::{NodeId, placement::Strategy};

use super::{
    Scheduler, filter,
    score::{Price, Score},
    topology::Tuple,
    work::Work,
};

/// From here on, a heap is cheaper than a scan an instance.
const FEW: usize = 6;

/// Emptiest nodes looked at before all are.
const MOST_TRIES: usize = 64;

pub(super) enum Ranking {
    Scan,
    Buckets { buckets: Vec<Bucket>, blocked: Vec<u32> },
}

pub(super) struct Bucket {
    tuple: Tuple,
    heap: BinaryHeap<Reverse<(Score, u32)>>,
}

/// A node and how often, and when last, the slot failed there.
struct Aside {
    failures: usize,
    latest: Option<usize>,
    score: Score,
    bucket: usize,
    position: u32,
}

impl Scheduler<'_> {
    pub(super) fn rank(&mut self, work: &Work<'_>, items: usize) -> Ranking {
        if work.need.strategy == Strategy::Balanced {
            self.refresh_costs(work);
        }
        if items < FEW && work.topology.is_plain() {
            self.fleet.keep_order();
            return Ranking::Scan;
        }
        let price = self.price(work);
        let mut by_tuple: BTreeMap<Tuple, Vec<Reverse<(Score, u32)>>> = BTreeMap::new();
        for position in work.eligible.positions.iter().copied() {
            if self.has_room(work, position as usize) {
                let score = self.score(work, price, position as usize);
                by_tuple
                    .entry(work.topology.tuple(position as usize))
                    .or_default()
                    .push(Reverse((score, position)));
            }
        }
        let bucket = |(tuple, nodes): (Tuple, Vec<_>)| Bucket { tuple, heap: nodes.into() };
        Ranking::Buckets { buckets: by_tuple.into_iter().map(bucket).collect(), blocked: Vec::new() }
    }

    pub(super) fn has_room(&self, work: &Work<'_>, position: usize) -> bool {
        let need = &work.need;
        self.fleet.cpu[position] >= need.reservation.cpu_millis
            && self.fleet.memory[position] >= need.reservation.memory_bytes
            && !self.is_promised(position, need)
            && (need.asks.is_empty() && need.ports.is_empty() && need.pids == 0
                || filter::has_room(&self.fleet.rooms[position], need, &self.ports))
    }

    pub(super) fn price(&self, work: &Work<'_>) -> Price<'_> {
        let balanced = self.costs.get(&work.class).map_or(&[][..], |costs| costs.values());
        Price::of(work.need.strategy, &self.fleet, balanced)
    }

    /// Of the node alone; rules over labels are added bucket by bucket.
    fn score(&self, work: &Work<'_>, price: Price<'_>, position: usize) -> Score {
        let resources = price.at(position);
        let wish = if work.topology.is_plain() { 0.0 } else { work.topology.wish_node(position) };
        let cost = self.weights.resources * resources - self.weights.constraints * wish;
        let cold = !work.warm.is_empty()
            && !u32::try_from(position).is_ok_and(|position| work.warm.contains(&position));
        Score { cost, cold, busy: self.fleet.busy[position], instances: self.fleet.instances[position] }
    }

    /// The best node where the slot did not fail lately; of the others the one where it failed
    /// least and longest ago.
    pub(super) fn best(&self, work: &Work<'_>, ranking: &mut Ranking, failed_on: &[NodeId]) -> Option<usize> {
        match ranking {
            Ranking::Scan => self
                .scan(work, |position| !failed_on.contains(&self.fleet.rooms[position].node.id))
                .or_else(|| self.scan_failed(work, failed_on)),
            Ranking::Buckets { buckets, blocked } => self.pop_best(work, buckets, blocked, failed_on),
        }
    }

    /// Under `spread`, the emptiest node without an instance of the service is the best there is.
    fn emptiest(&self, work: &Work<'_>, wanted: &impl Fn(usize) -> bool) -> Option<usize> {
        let measured = self.fleet.busy_cost > 0.0;
        if work.need.strategy != Strategy::Spread || !work.warm.is_empty() || measured {
            return None;
        }
        let emptiest = self.fleet.emptiest().take(MOST_TRIES);
        emptiest.map(|position| position as usize).find(|position| {
            work.eligible.contains(*position)
                && self.fleet.same[*position] == 0
                && wanted(*position)
                && self.has_room(work, *position)
                && work.topology.admits_node(*position, 0)
        })
    }

    fn scan(&self, work: &Work<'_>, wanted: impl Fn(usize) -> bool) -> Option<usize> {
        if let Some(found) = self.emptiest(work, &wanted) {
            return Some(found);
        }
        let price = self.price(work);
        let mut best: Option<(Score, usize)> = None;
        for position in work.eligible.positions.iter().map(|position| *position as usize) {
            if self.fleet.cpu[position] < work.need.reservation.cpu_millis
                || self.fleet.memory[position] < work.need.reservation.memory_bytes
            {
                continue;
            }
            let score = self.score(work, price, position);
            if best.is_none_or(|(least, _)| score < least)
                && wanted(position)
                && self.has_room(work, position)
                && work.topology.admits_node(position, self.fleet.same[position])
            {
                best = Some((score, position));
            }
        }
        best.map(|(_, position)| position)
    }

    fn scan_failed(&self, work: &Work<'_>, failed_on: &[NodeId]) -> Option<usize> {
        let price = self.price(work);
        let known = failed_on.iter().filter_map(|node| self.fleet.position(*node));
        let possible = known.filter(|position| {
            work.eligible.contains(*position)
                && self.has_room(work, *position)
                && work.topology.admits_node(*position, self.fleet.same[*position])
        });
        possible.min_by_key(|position| {
            let (failures, latest) = failures(failed_on, self.fleet.rooms[*position].node.id);
            (failures, latest, self.score(work, price, *position), *position)
        })
    }

    fn pop_best(
        &self,
        work: &Work<'_>,
        buckets: &mut [Bucket],
        blocked: &mut Vec<u32>,
        failed_on: &[NodeId],
    ) -> Option<usize> {
        let mut aside: Vec<Aside> = Vec::new();
        let mut found = None;
        while let Some(bucket) = self.best_bucket(work, buckets) {
            let Some(Reverse((score, position))) = buckets[bucket].heap.pop() else { break };
            let place = position as usize;
            if !self.has_room(work, place) {
                continue;
            }
            if !work.topology.admits_node(place, self.fleet.same[place]) {
                blocked.push(position);
                continue;
            }
            let (failures, latest) = failures(failed_on, self.fleet.rooms[place].node.id);
            if failures == 0 {
                found = Some(place);
                break;
            }
            aside.push(Aside { failures, latest, score, bucket, position });
        }
        aside.sort_by_key(|aside| (aside.failures, aside.latest, aside.score, aside.position));
        let mut aside = aside.into_iter();
        let found = found.or_else(|| aside.next().map(|aside| aside.position as usize));
        for aside in aside {
            buckets[aside.bucket].heap.push(Reverse((aside.score, aside.position)));
        }
        found
    }

    fn best_bucket(&self, work: &Work<'_>, buckets: &[Bucket]) -> Option<usize> {
        if let [only] = buckets {
            return (!only.heap.is_empty() && work.topology.admits(&only.tuple)).then_some(0);
        }
        let mut best: Option<(Score, u32, usize)> = None;
        for (number, bucket) in buckets.iter().enumerate() {
            let Some(Reverse((score, position))) = bucket.heap.peek() else { continue };
            if !work.topology.admits(&bucket.tuple) {
                continue;
            }
            let wish = work.topology.wish(&bucket.tuple);
            let score = Score { cost: score.cost - self.weights.constraints * wish, ..*score };
            if best.is_none_or(|(least, least_position, _)| (score, *position) < (least, least_position)) {
                best = Some((score, *position, number));
            }
        }
        best.map(|(.., number)| number)
    }

    /// Puts a node back after it has changed, and those that may do again.
    pub(super) fn put_back(&self, work: &Work<'_>, ranking: &mut Ranking, position: usize, frees: bool) {
        let Ranking::Buckets { buckets, blocked } = ranking else { return };
        let price = self.price(work);
        let unblocked = if frees { std::mem::take(blocked) } else { Vec::new() };
        for place in unblocked.into_iter().map(|place| place as usize).chain([position]) {
            if !self.has_room(work, place) {
                continue;
            }
            let tuple = work.topology.tuple(place);
            if let Ok(bucket) = buckets.binary_search_by(|bucket| bucket.tuple.cmp(&tuple)) {
                let entry = (self.score(work, price, place), u32::try_from(place).unwrap_or(u32::MAX));
                buckets[bucket].heap.push(Reverse(entry));
            }
        }
    }
}

fn failures(failed_on: &[NodeId], node: NodeId) -> (usize, Option<usize>) {
    if failed_on.is_empty() {
        return (0, None);
    }
    let failures = failed_on.iter().filter(|failed| **failed == node).count();
    (failures, failed_on.iter().rposition(|failed| *failed == node))
}
