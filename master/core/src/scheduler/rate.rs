//! Why here, and why not there: the filters with the nodes each removed, and the terms of the best
//! nodes' scores.
//!
//! Invariant: the same filters and the same prices as when something is placed; nothing is placed.

use std::collections::BTreeMap;

use skein_common::{NodeId, placement::Strategy};

use super::{Group, Item, Scheduler, filter::Refusal, work::Work};

/// Names of nodes told for each reason.
const MOST_EXAMPLES: usize = 5;

/// What the scheduler sees when it looks for a node for one more instance of a spec.
#[derive(Debug, Clone, PartialEq)]
pub struct Explained {
    pub strategy: Strategy,
    pub priority: u8,
    /// All nodes.
    pub nodes: usize,
    /// Most frequent first.
    pub removed: Vec<Removed>,
    /// Best first.
    pub best: Vec<Rated>,
}

/// Nodes that one filter removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    pub reason: String,
    pub nodes: usize,
    /// Names of some of them.
    pub examples: Vec<String>,
}

/// A node that passed, with the terms of its score; each term as it enters the sum, larger is better.
#[derive(Debug, Clone, PartialEq)]
pub struct Rated {
    pub node: NodeId,
    /// How often the slot failed there lately; compared before the score.
    pub failures: usize,
    pub priority: f64,
    pub resources: f64,
    pub constraints: f64,
}

impl Rated {
    #[must_use]
    pub fn score(&self) -> f64 {
        self.priority + self.resources + self.constraints
    }
}

impl<'a> Scheduler<'a> {
    /// For the group's first item, with at most so many of the best nodes.
    pub fn explain(&mut self, group: &Group<'a>, most: usize) -> Explained {
        let work = self.work(group);
        if work.need.strategy == Strategy::Balanced {
            self.refresh_costs(&work);
        }
        let item = group.items.first();
        let (mut removed, mut best) = (BTreeMap::<Refusal, Removed>::new(), Vec::new());
        for position in 0..self.fleet.rooms.len() {
            let away = item.and_then(|item| self.away_from_data(item, position));
            match away.or_else(|| self.refusal(&work, position)) {
                Some(refusal) => note(&mut removed, refusal, self.name(position)),
                None => {
                    let node = self.fleet.rooms[position].node.id;
                    let failed_on = item.map_or(&[][..], |item| &item.failed_on);
                    let failures = failed_on.iter().filter(|failed| **failed == node).count();
                    best.push(self.rate(&work, position, failures));
                }
            }
        }
        best.sort_by(|a, b| {
            let by_score = b.compared().total_cmp(&a.compared());
            a.failures.cmp(&b.failures).then(by_score).then(a.node.cmp(&b.node))
        });
        best.truncate(most);
        let mut removed: Vec<_> = removed.into_values().collect();
        removed.sort_by(|a, b| b.nodes.cmp(&a.nodes).then_with(|| a.reason.cmp(&b.reason)));
        Explained {
            strategy: work.need.strategy,
            priority: work.need.policy.priority,
            nodes: self.fleet.rooms.len(),
            removed,
            best,
        }
    }

    fn away_from_data(&self, item: &Item, position: usize) -> Option<Refusal> {
        let home = item.pinned.filter(|home| item.is_home && self.fleet.rooms[position].node.id != *home)?;
        let home = self.fleet.position(home);
        Some(Refusal::AwayFromData(home.map(|home| self.name(home).to_owned()).unwrap_or_default()))
    }

    fn name(&self, position: usize) -> &str {
        &self.fleet.rooms[position].node.description.name
    }

    fn rate(&self, work: &Work<'_>, position: usize, failures: usize) -> Rated {
        let tuple = work.topology.tuple(position);
        let wish = work.topology.wish_node(position) + work.topology.wish(&tuple);
        Rated {
            node: self.fleet.rooms[position].node.id,
            failures,
            priority: self.weights.priority * f64::from(work.need.policy.priority) / 100.0,
            // A sum without minus zero reads better.
            resources: 0.0 - self.weights.resources * self.price(work).at(position),
            constraints: 0.0 + self.weights.constraints * wish,
        }
    }
}

impl Rated {
    /// Without the priority, which is the same everywhere and large enough to swallow the rest.
    fn compared(&self) -> f64 {
        self.resources + self.constraints
    }
}

fn note(removed: &mut BTreeMap<Refusal, Removed>, refusal: Refusal, name: &str) {
    let reason = refusal.to_string();
    let entry = removed.entry(refusal).or_insert_with(|| Removed { reason, nodes: 0, examples: Vec::new() });
    entry.nodes += 1;
    if entry.examples.len() < MOST_EXAMPLES {
        entry.examples.push(name.to_owned());
    }
}
