//! Which virtual address a service gets: its own for as long as it lives.
//!
//! Invariant: a function of the state and the service's id. Where an address is sought first follows from the id, so one
//! that became free is not given to the next service: who still remembers it finds nobody rather than somebody else.

use std::net::Ipv4Addr;

use super::{ClusterState, Service};

impl ClusterState {
    /// The address it has or should have; `None` = it needs none, or all are taken.
    pub(crate) fn address_for(&self, service: &Service) -> Option<Ipv4Addr> {
        let network = self.settings.config.networking.service_addresses();
        let holds = service.address.filter(|address| {
            network.contains(*address)
                && self.index.addresses.get(address).is_none_or(|owner| *owner == service.id)
        });
        if holds.is_some() || !service.spec.wants_address() {
            return holds;
        }
        // All addresses in use may be outside the range, so this many looks find a free one if there is one.
        let taken = u32::try_from(self.index.addresses.len()).unwrap_or(u32::MAX);
        let looks = taken.saturating_add(1).min(network.hosts());
        let first = mix(service.id.get());
        let mut candidates =
            (0..looks).map(|number| network.host((first % network.hosts().max(1)).wrapping_add(number)));
        candidates.find(|address| !self.index.addresses.contains_key(address))
    }
}

/// Neighbouring ids are far apart (the finaliser of splitmix64).
#[allow(clippy::cast_possible_truncation)] // Half of it is enough.
const fn mix(id: u64) -> u32 {
    let mut bits = id;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (bits ^ (bits >> 31)) as u32
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::Arc};

    use skein_common::{
        ServiceId,
        cluster::{ClusterConfig, NetworkingConfig},
    };

    use crate::{
        command::CommandKind,
        state::{ClusterState, Service},
        testing::{Cluster, replicated},
    };

    fn address(cluster: &Cluster, id: ServiceId) -> Option<Ipv4Addr> {
        cluster.state.service(id).and_then(|service| service.address)
    }

    fn configure(cluster: &mut Cluster, range: &str) {
        let networking = NetworkingConfig { service_addresses: range.parse().ok() };
        let config = Arc::new(ClusterConfig { networking, ..ClusterConfig::default() });
        cluster.accept(CommandKind::ConfigureCluster { expected: None, config });
    }

    #[test]
    fn a_service_has_its_own_address_as_long_as_it_lives() {
        let mut cluster = Cluster::new(1);
        let (web, db) = (cluster.create(replicated("web", 1)), cluster.create(replicated("db", 1)));
        let (first, other) = (address(&cluster, web), address(&cluster, db));
        assert!(first.is_some() && other.is_some() && first != other);
        cluster.settle();
        cluster.scale(web, 3);
        cluster.settle();
        assert_eq!(address(&cluster, web), first, "stays");
    }

    #[test]
    fn another_range_moves_who_is_outside_and_a_full_one_leaves_the_rest_without() {
        let mut cluster = Cluster::new(1);
        let services: Vec<_> = (0..20).map(|n| cluster.create(replicated(&format!("s{n}"), 1))).collect();
        configure(&mut cluster, "10.9.0.0/28");
        let mut held: Vec<_> = services.iter().filter_map(|id| address(&cluster, *id)).collect();
        held.sort_unstable();
        held.dedup();
        assert_eq!(held.len(), 14, "a /28 has room for 14, each once");
        assert!(held.iter().all(|address| address.octets()[..3] == [10, 9, 0]));
        configure(&mut cluster, "10.9.0.0/24");
        let now: Vec<_> = services.iter().filter_map(|id| address(&cluster, *id)).collect();
        assert_eq!(now.len(), 20);
        assert!(held.iter().all(|address| now.contains(address)), "who is inside stays");
    }

    #[test]
    fn a_service_of_an_earlier_version_gets_one_by_a_plan() {
        let mut cluster = Cluster::new(1);
        let web = cluster.create(replicated("web", 1));
        let without = |state: &mut ClusterState| {
            let service = Service { address: None, ..Service::clone(&state.services[&web]) };
            state.put_service(Arc::new(service));
        };
        without(&mut cluster.state);
        assert_eq!(address(&cluster, web), None);
        cluster.settle();
        assert!(address(&cluster, web).is_some());
    }
}
