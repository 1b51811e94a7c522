//! The endpoints that the masters told this node's balancer.
//!
//! Invariant: within one session the generation never goes back, and a change applies to exactly the generation it was
//! made from; without a session what was told last stays. Terms are checked by the session (`assignments`).

use std::{collections::BTreeMap, sync::Arc};

use skein_common::{
    ServiceId,
    endpoint::{EndpointsUpdate, ServiceEndpoints},
};

use crate::Verdict;

/// What is held, and how current it is.
#[derive(Debug, Clone, Default)]
pub struct EndpointTable {
    generation: u64,
    services: BTreeMap<ServiceId, Arc<ServiceEndpoints>>,
    /// Everything was told in this session: changes may follow.
    synced: bool,
}

impl EndpointTable {
    /// A session begins: its first message is everything, whatever its generation.
    pub const fn begin_session(&mut self) {
        self.synced = false;
        self.generation = 0;
    }

    pub fn apply(&mut self, update: EndpointsUpdate) -> Verdict {
        if self.synced && update.generation <= self.generation {
            return Verdict::Known;
        }
        match update.from {
            None => self.services.clear(),
            Some(from) if !self.synced || from != self.generation => {
                return Verdict::Gap { held: self.generation, from };
            }
            Some(_) => {}
        }
        for service in &update.removals {
            self.services.remove(service);
        }
        self.services.extend(update.services.into_iter().map(|each| (each.service, Arc::new(each))));
        self.generation = update.generation;
        self.synced = true;
        Verdict::Accepted
    }

    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Everything is known that the masters know.
    #[must_use]
    pub const fn is_synced(&self) -> bool {
        self.synced
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceEndpoints>> {
        self.services.values()
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

    fn update(
        generation: u64,
        from: Option<u64>,
        services: &[(u64, &str)],
        removals: &[u64],
    ) -> EndpointsUpdate {
        EndpointsUpdate {
            term: 1,
            generation,
            from,
            services: services.iter().map(|(id, name)| service(*id, name)).collect(),
            removals: removals.iter().copied().map(ServiceId::from_random).collect(),
        }
    }

    #[test]
    fn what_is_told_is_held() {
        let mut table = EndpointTable::default();
        let gap = |held, from| Verdict::Gap { held, from };
        for (when, verdict, then) in [
            (update(5, Some(4), &[(1, "a")], &[]), gap(0, 4), ""),
            (update(5, None, &[(1, "a"), (2, "b")], &[]), Verdict::Accepted, "ab"),
            (update(5, None, &[(1, "x")], &[]), Verdict::Known, "ab"),
            (update(6, Some(5), &[(3, "c")], &[1]), Verdict::Accepted, "bc"),
            (update(6, Some(5), &[(3, "x")], &[1]), Verdict::Known, "bc"),
            (update(9, Some(8), &[(3, "x")], &[]), gap(6, 8), "bc"),
            (update(7, Some(6), &[(2, "B")], &[]), Verdict::Accepted, "Bc"),
            (update(10, None, &[(4, "d")], &[]), Verdict::Accepted, "d"),
        ] {
            assert_eq!(table.apply(when), verdict);
            assert_eq!(table.services().map(|service| service.name.as_str()).collect::<String>(), then);
        }
        table.begin_session();
        assert_eq!(
            table.apply(update(11, Some(10), &[], &[4])),
            gap(0, 10),
            "another leader counts for itself"
        );
        assert_eq!(table.apply(update(1, None, &[(1, "a")], &[])), Verdict::Accepted);
    }
}
