//! The leader's book of endpoints: each service as it was last written down, and in which order.
//!
//! Invariant: one writer (the dispatcher); a service gets a new number only when what balancers see of it changed. So a
//! session that knows up to which number its agent was told knows what is missing, and holds nothing else.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use skein_common::{
    ServiceId,
    endpoint::{EndpointsUpdate, ServiceEndpoints},
};

use crate::{ClusterState, state::Change};

/// Services that are gone and remembered; who was told before the oldest of them is told everything.
const GONE_MAX: usize = 1024;

/// Of one leader; its numbers mean nothing to the next one.
#[derive(Debug, Default)]
pub struct EndpointBook {
    /// Of the newest entry.
    number: u64,
    services: BTreeMap<ServiceId, Entry>,
    by_number: BTreeMap<u64, ServiceId>,
    gone: BTreeMap<u64, ServiceId>,
    /// Below it, it is no longer known what is gone.
    known_from: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    endpoints: Arc<ServiceEndpoints>,
}

/// What one agent was told.
#[derive(Debug)]
pub struct ToldEndpoints {
    term: u64,
    generation: u64,
    /// Up to this entry of the book.
    number: u64,
    /// Messages that the agent has not said to go by yet, and up to which entry they told.
    unheard: VecDeque<(u64, u64)>,
}

impl EndpointBook {
    /// Writes down what all services are now.
    pub fn write_all(&mut self, state: &ClusterState) -> u64 {
        let known = self.services.keys().copied();
        let all = state.services().map(|service| service.id).chain(known).collect();
        self.write(state, &all)
    }

    /// Writes down what these services are now: the number of the newest entry.
    pub fn write(&mut self, state: &ClusterState, services: &BTreeSet<ServiceId>) -> u64 {
        for service in services {
            match state.endpoints_of(*service) {
                Some(endpoints) => self.enter(endpoints),
                None => self.strike(*service),
            }
        }
        self.number
    }

    fn enter(&mut self, endpoints: ServiceEndpoints) {
        let service = endpoints.service;
        if let Some(known) = self.services.get(&service) {
            if *known.endpoints == endpoints {
                return;
            }
            self.by_number.remove(&known.number);
        }
        self.number += 1;
        self.by_number.insert(self.number, service);
        self.services.insert(service, Entry { number: self.number, endpoints: Arc::new(endpoints) });
    }

    fn strike(&mut self, service: ServiceId) {
        let Some(known) = self.services.remove(&service) else { return };
        self.by_number.remove(&known.number);
        self.number += 1;
        self.gone.insert(self.number, service);
        if self.gone.len() > GONE_MAX
            && let Some((number, _)) = self.gone.pop_first()
        {
            self.known_from = number;
        }
    }
}

/// Services whose endpoints these changes may touch.
pub fn touched<'a>(state: &ClusterState, changes: impl Iterator<Item = &'a Change>) -> BTreeSet<ServiceId> {
    let mut touched = BTreeSet::new();
    for change in changes {
        match change {
            Change::Service { service, .. } => _ = touched.insert(service.id),
            Change::Instance { instance, .. } => _ = touched.insert(instance.service),
            // It may have another address.
            Change::Node { node, .. } => {
                touched.extend(state.instances_on(node.id).map(|instance| instance.service));
            }
            Change::Event(_) | Change::Settings(_) => {}
        }
    }
    touched
}

impl ToldEndpoints {
    #[must_use]
    pub const fn new(term: u64) -> Self {
        Self { term, generation: 0, number: 0, unheard: VecDeque::new() }
    }

    /// All endpoints of all services.
    pub fn everything(&mut self, book: &EndpointBook) -> EndpointsUpdate {
        self.number = book.number;
        self.generation += 1;
        self.unheard.push_back((self.generation, self.number));
        EndpointsUpdate {
            term: self.term,
            generation: self.generation,
            from: None,
            services: book.services.values().map(|entry| (*entry.endpoints).clone()).collect(),
            removals: Vec::new(),
        }
    }

    /// What changed since; `None` when nothing did.
    pub fn difference(&mut self, book: &EndpointBook) -> Option<EndpointsUpdate> {
        if book.number == self.number {
            return None;
        }
        if self.number < book.known_from {
            return Some(self.everything(book));
        }
        let changed = book.by_number.range(self.number + 1..).map(|(_, service)| service);
        let services = changed.filter_map(|service| book.services.get(service));
        let gone = book.gone.range(self.number + 1..).map(|(_, service)| *service);
        let from = self.generation;
        let update = EndpointsUpdate {
            term: self.term,
            generation: from + 1,
            from: Some(from),
            services: services.map(|entry| (*entry.endpoints).clone()).collect(),
            removals: gone.filter(|service| !book.services.contains_key(service)).collect(),
        };
        self.generation += 1;
        self.number = book.number;
        self.unheard.push_back((self.generation, self.number));
        Some(update)
    }

    /// The agent goes by this message: by which entry of the book, unless that is known.
    pub fn heard(&mut self, generation: u64) -> Option<u64> {
        let heard = self.unheard.iter().take_while(|(sent, _)| *sent <= generation).count();
        self.unheard.drain(..heard).map(|(_, number)| number).next_back()
    }
}

#[cfg(test)]
mod tests {
    use skein_common::service::BalancePolicy;

    use super::*;

    fn service(id: u64, name: &str) -> ServiceEndpoints {
        ServiceEndpoints {
            service: ServiceId::from_random(id),
            name: name.to_owned(),
            stack: String::new(),
            address: None,
            policy: BalancePolicy::default(),
            ports: Vec::new(),
            routes: Vec::new(),
        }
    }

    fn names(update: Option<EndpointsUpdate>) -> (Option<u64>, String, usize) {
        let update = update.unwrap();
        (
            update.from,
            update.services.iter().map(|service| service.name.as_str()).collect(),
            update.removals.len(),
        )
    }

    #[test]
    fn an_agent_is_told_what_is_missing_and_nothing_else() {
        let mut book = EndpointBook::default();
        let mut told = ToldEndpoints::new(7);
        book.enter(service(1, "a"));
        book.enter(service(2, "b"));
        assert_eq!(names(Some(told.everything(&book))), (None, "ab".to_owned(), 0));
        assert_eq!(told.difference(&book), None);
        book.enter(service(2, "b"));
        assert_eq!(told.difference(&book), None, "the same again is no change");
        book.enter(service(1, "A"));
        book.enter(service(3, "c"));
        book.strike(ServiceId::from_random(2));
        assert_eq!(names(told.difference(&book)), (Some(1), "Ac".to_owned(), 1));
        book.strike(ServiceId::from_random(3));
        book.enter(service(3, "C"));
        assert_eq!(names(told.difference(&book)), (Some(2), "C".to_owned(), 0), "gone and back is there");
        let number = book.number;
        assert_eq!(told.heard(1), Some(2));
        assert_eq!([told.heard(1), told.heard(3), told.heard(9)], [None, Some(number), None]);
    }

    #[test]
    fn who_missed_too_much_is_told_everything() {
        let mut book = EndpointBook::default();
        let mut told = ToldEndpoints::new(7);
        told.everything(&book);
        book.enter(service(1, "a"));
        let last = GONE_MAX as u64 + 3;
        for id in 2..=last {
            book.enter(service(id, "x"));
            book.strike(ServiceId::from_random(id));
        }
        assert_eq!(names(told.difference(&book)), (None, "a".to_owned(), 0));
        assert_eq!(told.difference(&book), None);
    }
}
