//! Who is alive: the leader's memory of when it last heard each node.
//!
//! A node is Unknown when it is late and Down when it is given up; until a node that was given up
//! or late is heard again it stays so, whoever leads. A new leader gives every node that was Ready
//! one grace period, because agents need a moment to find it.
//!
//! **The brake.** When more nodes fall silent within a minute than can be believed (default: more
//! than max(2, 20 %)), it is more likely that this master cannot see them than that they are dead:
//! they are held at Unknown and nothing is moved. A held node is released when it is heard, and all
//! of them are released (to Down, after one more grace) once so many came back that those left are
//! few enough to be believed. An operator who knows better removes a dead node (`DeleteNode` with force).
//! Nodes fall silent at slightly different times, so lateness counts, not only death: by the time
//! the first of many is to be given up, the others are late already.
//!
//! Invariant: pure; `now` is time since any fixed moment, from a clock that never steps back.
//! Deliberately not here: heartbeats themselves (sessions), what follows (`orchestrator`).

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::Duration,
};

use skein_common::{
    NodeId,
    node::{Liveness as Belief, Node},
};

use crate::{command::Verdict, state::ClusterState};

/// When a silent node is late, given up, or held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LivenessConfig {
    /// Between two heartbeats of a node, in a cluster small enough for it.
    pub heartbeat: Duration,
    /// Heartbeats the leader wants at most in a second; larger clusters beat more slowly.
    pub beats_per_second: u32,
    /// Heartbeats that may be missed before a node is Unknown.
    pub missed: u32,
    /// Silence after which a node is Down; at least one heartbeat more than Unknown takes.
    pub down_after: Duration,
    /// Silence that a new leader allows nodes that were Ready.
    pub grace: Duration,
    /// The brake holds when more than this many nodes …
    pub brake_nodes: u32,
    /// … and more than this share of all that were alive …
    pub brake_percent: u32,
    /// … fall silent within this time.
    pub brake_window: Duration,
}

impl Default for LivenessConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(2),
            beats_per_second: 2_000,
            missed: 3,
            down_after: Duration::from_secs(10),
            grace: Duration::from_secs(10),
            brake_nodes: 2,
            brake_percent: 20,
            brake_window: Duration::from_secs(60),
        }
    }
}

impl LivenessConfig {
    /// What agents are told: the configured heartbeat, stretched in large clusters.
    #[must_use]
    pub fn heartbeat(&self, nodes: usize) -> Duration {
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
        let least = Duration::from_secs(1).saturating_mul(nodes) / self.beats_per_second.max(1);
        self.heartbeat.max(least)
    }

    fn unknown_after(&self, nodes: usize) -> Duration {
        self.heartbeat(nodes).saturating_mul(self.missed.max(1))
    }

    fn down_after(&self, nodes: usize) -> Duration {
        self.down_after.max(self.unknown_after(nodes).saturating_add(self.heartbeat(nodes)))
    }

    /// Nodes that may fall silent together and still be believed dead.
    fn believable(&self, alive: usize) -> usize {
        let share = alive.saturating_mul(usize::try_from(self.brake_percent).unwrap_or(100)) / 100;
        share.max(usize::try_from(self.brake_nodes).unwrap_or(usize::MAX))
    }
}

/// What the leader knows of one node.
#[derive(Debug, Clone, Copy)]
struct Watched {
    /// Late from here on.
    unknown_at: Duration,
    /// Given up from here on.
    down_at: Duration,
    /// What the state said when this leader looked last.
    believed: Belief,
}

/// The tracker; a new one with every term of leadership.
#[derive(Debug, Clone)]
pub struct Liveness {
    config: LivenessConfig,
    nodes: BTreeMap<NodeId, Watched>,
    held: BTreeSet<NodeId>,
}

/// What the leader concludes now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Judgement {
    /// Only what differs from the state.
    pub verdicts: Vec<Verdict>,
    /// When time alone may change the judgement.
    pub wake_at: Option<Duration>,
    /// Nodes the brake holds at Unknown.
    pub held: Vec<NodeId>,
}

impl Judgement {
    /// Whether the brake holds.
    #[must_use]
    pub fn braked(&self) -> bool {
        !self.held.is_empty()
    }
}

impl Liveness {
    /// The memory of a leader that has just begun; `known` are the nodes of the state.
    #[must_use]
    pub fn new<'a>(config: LivenessConfig, now: Duration, known: impl IntoIterator<Item = &'a Node>) -> Self {
        let known: Vec<_> = known.into_iter().collect();
        let (unknown_after, down_after) = (config.unknown_after(known.len()), config.down_after(known.len()));
        let rest = down_after.saturating_sub(unknown_after);
        let nodes = known
            .into_iter()
            .map(|node| {
                let (unknown_at, down_at) = match node.liveness {
                    Belief::Ready => (now + config.grace.saturating_sub(rest), now + config.grace),
                    Belief::Unknown => (now, now + rest),
                    Belief::Down => (now, now),
                };
                (node.id, Watched { unknown_at, down_at, believed: node.liveness })
            })
            .collect();
        Self { config, nodes, held: BTreeSet::new() }
    }

    /// A heartbeat, a Hello, or any other message of the node arrived.
    pub fn heard(&mut self, node: NodeId, now: Duration) {
        let count = self.nodes.len();
        let watched = Watched {
            unknown_at: now + self.config.unknown_after(count),
            down_at: now + self.config.down_after(count),
            believed: Belief::Ready,
        };
        self.nodes.insert(node, watched);
        self.held.remove(&node);
    }

    /// Concludes from what was heard so far. Nodes that joined meanwhile count as just heard.
    pub fn judge(&mut self, state: &ClusterState, now: Duration) -> Judgement {
        self.follow(state, now);
        self.brake(state, now);
        let mut judgement = Judgement { held: self.held.iter().copied().collect(), ..Judgement::default() };
        for (id, watched) in &self.nodes {
            let Some(node) = state.node(*id) else { continue };
            let (liveness, reason) = self.conclude(node, *watched, now);
            let same = node.liveness == liveness && node.liveness_reason == reason;
            if !same {
                let drawn_from = Some(node.modified_revision);
                judgement.verdicts.push(Verdict { node: *id, liveness, reason, drawn_from });
            }
            let turns = [watched.unknown_at, watched.down_at, self.forgotten_at(*watched)];
            let next = turns.into_iter().filter(|at| *at > now).min();
            judgement.wake_at = judgement.wake_at.into_iter().chain(next).min();
        }
        judgement
    }

    fn follow(&mut self, state: &ClusterState, now: Duration) {
        self.nodes.retain(|id, _| state.node(*id).is_some());
        self.held.retain(|id| state.node(*id).is_some());
        let joined: Vec<_> = state.nodes().map(|n| n.id).filter(|id| !self.nodes.contains_key(id)).collect();
        joined.into_iter().for_each(|id| self.heard(id, now));
        // Whoever said Hello counts as heard, also when its session came to nothing or has not begun.
        let registered = self.nodes.iter().filter(|(id, watched)| {
            let is_ready = state.node(**id).is_some_and(|node| node.liveness == Belief::Ready);
            is_ready && watched.believed != Belief::Ready && watched.unknown_at <= now
        });
        let registered: Vec<_> = registered.map(|(id, _)| *id).collect();
        registered.into_iter().for_each(|id| self.heard(id, now));
        for (id, watched) in &mut self.nodes {
            watched.believed = state.node(*id).map_or(Belief::Ready, |node| node.liveness);
        }
    }

    /// Holds nodes that fall silent together, releases them when few are left.
    fn brake(&mut self, state: &ClusterState, now: Duration) {
        let given_up = |id: &NodeId| state.node(*id).is_some_and(|node| node.liveness == Belief::Down);
        let silent: Vec<_> = self.nodes.iter().filter(|(_, watched)| watched.unknown_at <= now).collect();
        let lately = |watched: &Watched| now.saturating_sub(watched.unknown_at) < self.config.brake_window;
        // A node that this leader found Down already is no news.
        let fresh: BTreeSet<NodeId> = silent
            .iter()
            .filter(|(_, watched)| lately(watched) && watched.unknown_at < watched.down_at)
            .map(|(id, _)| **id)
            .collect();
        // Given up long ago and still silent: they are not among those of whom many are lost.
        let dead = silent.iter().filter(|(id, _)| given_up(id) && !fresh.contains(*id)).count();
        let alive = self.nodes.len() - dead;
        let believable = self.config.believable(alive);
        let due = silent.iter().filter(|(id, watched)| watched.down_at <= now && !given_up(id));
        let due: BTreeSet<NodeId> = due.map(|(id, _)| **id).collect();
        let together = fresh.union(&self.held).count();
        // Without a node that is heard there is nowhere to move anything to either.
        if together > believable || silent.len() == self.nodes.len() {
            self.held.extend(due);
        } else {
            self.release(now);
        }
    }

    /// Who comes back shows that the others may be on their way too: they get the time of a new
    /// leader's grace before they are given up.
    fn release(&mut self, now: Duration) {
        let patient_until = now + self.config.grace;
        for id in mem::take(&mut self.held) {
            if let Some(watched) = self.nodes.get_mut(&id) {
                watched.down_at = watched.down_at.max(patient_until);
            }
        }
    }

    /// When this silence no longer counts as fresh; it matters only while the brake holds.
    fn forgotten_at(&self, watched: Watched) -> Duration {
        if self.held.is_empty() { watched.down_at } else { watched.unknown_at + self.config.brake_window }
    }

    fn conclude(&self, node: &Node, watched: Watched, now: Duration) -> (Belief, String) {
        let (unknown_after, down_after) =
            (self.config.unknown_after(self.nodes.len()), self.config.down_after(self.nodes.len()));
        if now < watched.unknown_at {
            (Belief::Ready, String::new())
        } else if node.liveness == Belief::Down {
            (Belief::Down, node.liveness_reason.clone())
        } else if self.held.contains(&node.id) {
            let seconds = down_after.as_secs();
            let reason = format!(
                "no heartbeat for {seconds} s; not given up, because too many nodes fell silent together"
            );
            (Belief::Unknown, reason)
        } else if now < watched.down_at {
            (Belief::Unknown, format!("no heartbeat for {} s", unknown_after.as_secs()))
        } else {
            (Belief::Down, format!("no heartbeat for {} s", down_after.as_secs()))
        }
    }
}

#[cfg(test)]
mod tests;
