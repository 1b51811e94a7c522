//! Rules between nodes: spread, affinity, replicas per node; by node or by label.
//!
//! Counts are kept per domain and follow every placement of the pass. Nodes that look the same to
//! all rules over labels share one [`Tuple`]; rules over nodes are asked node by node.
//!
//! Invariant: a hard rule that holds before a placement holds after it.

use std::{collections::BTreeMap, rc::Rc};

use skein_common::{
    ServiceId,
    placement::{Affinity, Direction, TopologyKey},
};

use super::{
    filter::Refusal,
    fleet::{Domains, Fleet, NONE},
    need::Need,
};
use crate::state::ClusterState;

/// The domain of a node under each label the rules speak of, in the order of `Topology::labels`.
pub(super) type Tuple = Vec<u32>;

#[derive(Default)]
pub(super) struct Topology {
    labels: Vec<Rc<Domains>>,
    spreads: Vec<Spread>,
    preferences: Vec<Count>,
    affinities: Vec<Attraction>,
    max_per_node: Option<u32>,
}

/// Whose domains are counted: nodes, or a label by its place in `Topology::labels`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Node,
    Label(usize),
}

struct Count {
    scope: Scope,
    by_domain: Vec<u32>,
}

struct Spread {
    key: TopologyKey,
    count: Count,
    max_skew: u32,
    /// Too few domains: the fewest count as none.
    from_zero: bool,
    /// Of the domains that some node that passed belongs to: how many have so many instances.
    sizes: BTreeMap<u32, u32>,
}

struct Attraction {
    service: String,
    count: Count,
    /// Counts the group's own service, so it grows with each placement.
    own: bool,
    direction: Direction,
    /// `None` = required.
    weight: Option<f64>,
    /// Instances anywhere.
    total: u32,
}

/// Where the services that rules speak of have instances, as positions of nodes.
pub(super) struct Presence<'s, 'a> {
    pub(super) state: &'a ClusterState,
    pub(super) placed: &'s BTreeMap<ServiceId, Vec<usize>>,
}

impl Presence<'_, '_> {
    /// Positions of the instances of a service that are wanted.
    pub(super) fn of(&self, fleet: &Fleet<'_>, service: ServiceId) -> Vec<usize> {
        let live = self.state.instances_of(service).filter(|instance| instance.is_live());
        let known = live.filter_map(|instance| fleet.position(instance.node?));
        known.chain(self.placed.get(&service).into_iter().flatten().copied()).collect()
    }

    fn named(&self, fleet: &Fleet<'_>, name: &str) -> Vec<usize> {
        self.state.service_by_name(name).map(|service| self.of(fleet, service.id)).unwrap_or_default()
    }
}

impl Topology {
    /// `eligible`: positions that pass the standing filters.
    pub(super) fn of(
        need: &Need<'_>,
        service: ServiceId,
        name: &str,
        presence: &Presence<'_, '_>,
        fleet: &mut Fleet<'_>,
        eligible: &[u32],
    ) -> Self {
        let policy = need.policy;
        let mut topology = Self { max_per_node: policy.max_replicas_per_node, ..Self::default() };
        let repelled_by = presence.state.repelled_by(name, service);
        let plain = policy.spread.is_empty() && policy.preferences.is_empty() && policy.affinities.is_empty();
        if plain && repelled_by.is_empty() {
            return topology;
        }
        let own = presence.of(fleet, service);
        for spread in &policy.spread {
            let count = topology.count(fleet, &spread.key, &own);
            let mut sizes = BTreeMap::new();
            let mut seen = vec![false; count.by_domain.len()];
            for position in eligible {
                let domain = topology.domain(count.scope, *position as usize);
                if domain != NONE && !std::mem::replace(&mut seen[domain as usize], true) {
                    *sizes.entry(count.by_domain[domain as usize]).or_default() += 1;
                }
            }
            let domains: u32 = sizes.values().sum();
            let (key, max_skew) = (spread.key.clone(), spread.max_skew.max(1));
            let from_zero = domains < spread.min_domains;
            topology.spreads.push(Spread { key, count, max_skew, from_zero, sizes });
        }
        for key in &policy.preferences {
            let count = topology.count(fleet, key, &own);
            topology.preferences.push(count);
        }
        for affinity in &policy.affinities {
            let is_own = affinity.service == name;
            let there = if is_own { own.clone() } else { presence.named(fleet, &affinity.service) };
            topology.attract(fleet, affinity, &affinity.service, &there, is_own);
        }
        for (other, affinity) in repelled_by {
            let there = presence.of(fleet, other.id);
            topology.attract(fleet, affinity, &other.spec.name, &there, false);
        }
        topology
    }

    fn attract(
        &mut self,
        fleet: &mut Fleet<'_>,
        affinity: &Affinity,
        service: &str,
        there: &[usize],
        own: bool,
    ) {
        let count = self.count(fleet, &affinity.key, there);
        self.affinities.push(Attraction {
            service: service.to_owned(),
            count,
            own,
            direction: affinity.direction,
            weight: affinity.weight.map(|weight| f64::from(weight) / 100.0),
            total: u32::try_from(there.len()).unwrap_or(u32::MAX),
        });
    }

    fn count(&mut self, fleet: &mut Fleet<'_>, key: &TopologyKey, there: &[usize]) -> Count {
        let (scope, domains) = match key {
            TopologyKey::Node => (Scope::Node, fleet.rooms.len()),
            TopologyKey::Label(label) => {
                let domains = fleet.domains(label);
                let known = self.labels.iter().position(|known| Rc::ptr_eq(known, &domains));
                let place = known.unwrap_or_else(|| {
                    self.labels.push(Rc::clone(&domains));
                    self.labels.len() - 1
                });
                (Scope::Label(place), domains.values.len())
            }
        };
        let mut count = Count { scope, by_domain: vec![0; domains] };
        for position in there {
            let domain = self.domain(scope, *position);
            if let Some(number) = count.by_domain.get_mut(domain as usize) {
                *number += 1;
            }
        }
        count
    }

    fn domain(&self, scope: Scope, position: usize) -> u32 {
        match scope {
            Scope::Node => u32::try_from(position).unwrap_or(NONE),
            Scope::Label(label) => self.labels[label].of[position],
        }
    }

    /// Nothing differs between nodes but what is on them.
    pub(super) fn is_plain(&self) -> bool {
        self.spreads.is_empty() && self.preferences.is_empty() && self.affinities.is_empty()
    }

    pub(super) fn tuple(&self, position: usize) -> Tuple {
        self.labels.iter().map(|domains| domains.of[position]).collect()
    }

    /// After an instance of the group went there. Whether a node that was refused may now do.
    pub(super) fn placed(&mut self, position: usize) -> bool {
        let domains: Vec<u32> = self.labels.iter().map(|domains| domains.of[position]).collect();
        let domain_of = |scope| match scope {
            Scope::Node => position,
            Scope::Label(label) => domains[label] as usize,
        };
        let mut frees = false;
        for spread in &mut self.spreads {
            let least = spread.least();
            if let Some(count) = spread.count.by_domain.get_mut(domain_of(spread.count.scope)) {
                if let Some(others) = spread.sizes.get_mut(count) {
                    *others -= 1;
                    if *others == 0 {
                        spread.sizes.remove(count);
                    }
                }
                *count += 1;
                *spread.sizes.entry(*count).or_default() += 1;
            }
            frees |= spread.least() != least;
        }
        let own = self.affinities.iter_mut().filter(|affinity| affinity.own);
        let own = own.map(|affinity| {
            affinity.total += 1;
            &mut affinity.count
        });
        for count in self.preferences.iter_mut().chain(own) {
            if let Some(number) = count.by_domain.get_mut(domain_of(count.scope)) {
                *number += 1;
            }
        }
        frees
    }

    /// Whether the rules over labels let an instance into these domains.
    pub(super) fn admits(&self, tuple: &[u32]) -> bool {
        let spread = |spread: &Spread| match spread.count.scope {
            Scope::Node => true,
            Scope::Label(label) => spread.admits(tuple[label]),
        };
        let near = |affinity: &Attraction| match affinity.count.scope {
            Scope::Node => true,
            Scope::Label(label) => affinity.admits(tuple[label]),
        };
        self.spreads.iter().all(spread) && self.affinities.iter().all(near)
    }

    /// Whether the rules over nodes let an instance onto this one.
    pub(super) fn admits_node(&self, position: usize, same: u32) -> bool {
        let domain = u32::try_from(position).unwrap_or(NONE);
        self.max_per_node.is_none_or(|most| same < most)
            && self.spreads.iter().all(|s| s.count.scope != Scope::Node || s.admits(domain))
            && self.affinities.iter().all(|a| a.count.scope != Scope::Node || a.admits(domain))
    }

    /// Whether the rules let an instance go from one node to another that has `same` of the service;
    /// it is counted where it is until now.
    pub(super) fn admits_move(&self, from: Option<usize>, to: usize, same: u32) -> bool {
        let leaves = |scope| from.map(|from| self.domain(scope, from));
        self.max_per_node.is_none_or(|most| same < most)
            && self.spreads.iter().all(|spread| {
                let scope = spread.count.scope;
                spread.admits_from(leaves(scope), self.domain(scope, to))
            })
            && self.affinities.iter().all(|affinity| {
                let scope = affinity.count.scope;
                affinity.admits_from(leaves(scope).filter(|_| affinity.own), self.domain(scope, to))
            })
    }

    /// Soft rules over labels: larger is better.
    pub(super) fn wish(&self, tuple: &[u32]) -> f64 {
        self.wishes(|scope| match scope {
            Scope::Node => None,
            Scope::Label(label) => Some(tuple[label]),
        })
    }

    /// Soft rules over nodes: larger is better.
    pub(super) fn wish_node(&self, position: usize) -> f64 {
        self.wishes(|scope| match scope {
            Scope::Node => u32::try_from(position).ok(),
            Scope::Label(_) => None,
        })
    }

    /// Preferences are exponentially apart, so that each decides among what the one before leaves.
    fn wishes(&self, domain: impl Fn(Scope) -> Option<u32>) -> f64 {
        let (mut sum, mut scale) = (0.0, 1.0);
        for preference in &self.preferences {
            if let Some(domain) = domain(preference.scope) {
                // Nodes without the label are a branch of their own that is never preferred.
                let count = preference.by_domain.get(domain as usize).copied().unwrap_or(u32::MAX >> 8);
                sum -= scale * f64::from(count);
            }
            scale /= 1_024.0;
        }
        for affinity in &self.affinities {
            let Some((weight, domain)) = affinity.weight.zip(domain(affinity.count.scope)) else { continue };
            let there = affinity.count.by_domain.get(domain as usize).is_some_and(|count| *count > 0);
            match affinity.direction {
                Direction::Near if there => sum += weight,
                Direction::Away if there => sum -= weight,
                Direction::Near | Direction::Away => {}
            }
        }
        sum
    }

    /// Why an instance may not go there.
    pub(super) fn refusal(&self, position: usize, same: u32) -> Option<Refusal> {
        if let Some(most) = self.max_per_node.filter(|most| same >= *most) {
            return Some(Refusal::ReplicasPerNode(most));
        }
        for spread in &self.spreads {
            let domain = self.domain(spread.count.scope, position);
            if domain == NONE {
                return Some(Refusal::NoLabel(spread.key.clone()));
            }
            if !spread.admits(domain) {
                return Some(Refusal::Skew(spread.key.clone()));
            }
        }
        let refusing = self.affinities.iter().find(|affinity| {
            let domain = self.domain(affinity.count.scope, position);
            !affinity.admits(domain)
        })?;
        Some(match refusing.direction {
            Direction::Near => Refusal::NotNear(refusing.service.clone()),
            Direction::Away => Refusal::NotAway(refusing.service.clone()),
        })
    }
}

impl Spread {
    fn least(&self) -> u32 {
        if self.from_zero { 0 } else { self.sizes.keys().next().copied().unwrap_or(0) }
    }

    fn admits(&self, domain: u32) -> bool {
        self.admits_from(None, domain)
    }

    /// `from`: the domain that loses one by it.
    fn admits_from(&self, from: Option<u32>, domain: u32) -> bool {
        if domain != NONE && from == Some(domain) {
            return true;
        }
        let left = from.and_then(|from| self.count.by_domain.get(from as usize));
        let least = left.map_or(self.least(), |left| self.least().min(left.saturating_sub(1)));
        let count = self.count.by_domain.get(domain as usize);
        count.is_some_and(|count| count + 1 - least.min(count + 1) <= self.max_skew)
    }
}

impl Attraction {
    fn admits(&self, domain: u32) -> bool {
        self.admits_from(None, domain)
    }

    /// `from`: where one that is counted will no longer be.
    fn admits_from(&self, from: Option<u32>, domain: u32) -> bool {
        if self.weight.is_some() {
            return true;
        }
        let leaving = u32::from(from == Some(domain));
        let there = self.count.by_domain.get(domain as usize).is_some_and(|count| *count > leaving);
        let others = self.total - u32::from(from.is_some()).min(self.total);
        match self.direction {
            // The first of a service that wants to be near itself may go anywhere with a domain.
            Direction::Near => there || (self.own && others == 0 && domain != NONE),
            Direction::Away => !there,
        }
    }
}
