//! Virtual addresses of services on this node: on the loopback interface, listened on, then answered by name.
//!
//! Invariant: an address that is no service's any more goes, also one that an earlier run of this agent left; never
//! before everything is known. What cannot be done is said once and tried again.
//! Deliberately not here: how addresses are added (`names`), traffic (`thread`).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use skein_agent_core::names::Zone;
use skein_common::{ServiceId, endpoint::ServiceEndpoints, service::Protocol};
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use super::{Balancer, Entry, Front, TRY_AGAIN};
use crate::names::{Names, NamesConfig};

/// A port within the container.
type Key = (ServiceId, u16, Protocol);

/// Where it is listened on, for whom.
type Place = (Ipv4Addr, Arc<Front>);

impl Balancer {
    /// Makes virtual addresses what the table says; then their names are answered.
    pub(super) async fn serve_names(&mut self, services: &[Arc<ServiceEndpoints>]) {
        let Some(mut inward) = self.inward.take() else { return };
        let places = self.places(services);
        let mut is_complete = inward.keep(services, &places, self.table.is_synced());
        for (key, (address, front)) in inward.wanted(places) {
            let at = SocketAddr::new(address.into(), key.1);
            let listened = match key.2 {
                Protocol::Tcp => self.listen_at(at, &Entry::Front(Arc::clone(&front))).await,
                Protocol::Udp => self.receive_at(at, &front).await,
            };
            is_complete &= inward.note(key, (address, front), listened);
        }
        if !is_complete {
            self.retry_at = Some(Instant::now() + TRY_AGAIN);
        }
        inward.answer(services);
        self.inward = Some(inward);
    }

    /// Of a port that is published twice, the first one's front serves.
    fn places(&self, services: &[Arc<ServiceEndpoints>]) -> BTreeMap<Key, Place> {
        let addresses: BTreeMap<ServiceId, Ipv4Addr> = addresses(services).collect();
        let connections = self.served.iter().map(|served| (served, Protocol::Tcp));
        let datagrams = self.datagrams.iter().map(|served| (served, Protocol::Udp));
        let mut places = BTreeMap::new();
        for (((service, port, _), served), protocol) in connections.chain(datagrams) {
            let Some(address) = addresses.get(service) else { continue };
            places
                .entry((*service, *port, protocol))
                .or_insert_with(|| (*address, Arc::clone(&served.front)));
        }
        places
    }
}

fn addresses(services: &[Arc<ServiceEndpoints>]) -> impl Iterator<Item = (ServiceId, Ipv4Addr)> {
    services.iter().filter_map(|service| Some((service.service, service.address?)))
}

#[derive(Debug)]
pub(super) struct Inward {
    names: Names,
    /// The name server's own, which is no service's.
    server: Option<Ipv4Addr>,
    listening: BTreeMap<Key, (Place, DropGuard)>,
    troubles: BTreeMap<Key, String>,
    addresses: BTreeMap<ServiceId, Ipv4Addr>,
    trouble: String,
    /// What an earlier run left is gone.
    is_clean: bool,
}

impl Inward {
    pub(super) fn new(names: Names, config: NamesConfig) -> Self {
        Self {
            names,
            server: config.address,
            listening: BTreeMap::new(),
            troubles: BTreeMap::new(),
            addresses: BTreeMap::new(),
            trouble: String::new(),
            is_clean: false,
        }
    }

    /// Addresses become those of these services; answers whether all did.
    fn keep(
        &mut self,
        services: &[Arc<ServiceEndpoints>],
        places: &BTreeMap<Key, Place>,
        is_synced: bool,
    ) -> bool {
        let wanted: BTreeMap<ServiceId, Ipv4Addr> = addresses(services).collect();
        let is_same =
            |(address, front): &Place, place: &Place| *address == place.0 && Arc::ptr_eq(front, &place.1);
        self.listening.retain(|key, (at, _)| places.get(key).is_some_and(|place| is_same(at, place)));
        self.troubles.retain(|key, _| places.contains_key(key));
        let kept: BTreeSet<Ipv4Addr> = wanted.values().copied().chain(self.server).collect();
        let mut done = Ok(());
        if is_synced && !self.is_clean {
            done = self.clean(&kept);
            self.is_clean = done.is_ok();
        }
        for gone in self.addresses.values().filter(|address| !kept.contains(address)) {
            done = done.and(self.names.loopback.release(*gone));
        }
        self.addresses.clear();
        for (service, address) in wanted {
            match self.names.loopback.hold(address) {
                Ok(()) => drop(self.addresses.insert(service, address)),
                Err(error) => done = Err(error),
            }
        }
        let trouble = done.as_ref().err().map(ToString::to_string).unwrap_or_default();
        if let Err(error) = &done
            && self.trouble != trouble
        {
            let error = error as &dyn std::error::Error;
            tracing::warn!(error, "virtual addresses of services cannot be changed; trying on");
        }
        self.trouble = trouble;
        done.is_ok()
    }

    fn clean(&self, kept: &BTreeSet<Ipv4Addr>) -> io::Result<()> {
        let held = self.names.loopback.held()?;
        held.into_iter().filter(|address| !kept.contains(address)).try_for_each(|address| {
            tracing::info!(%address, "an address that no service has any more is removed");
            self.names.loopback.release(address)
        })
    }

    /// What is to be listened on and is not.
    fn wanted(&self, places: BTreeMap<Key, Place>) -> Vec<(Key, Place)> {
        let is_there = |key: &Key| self.addresses.contains_key(&key.0) && !self.listening.contains_key(key);
        places.into_iter().filter(|(key, _)| is_there(key)).collect()
    }

    /// Answers whether it is listened on.
    fn note(&mut self, key: Key, place: Place, listened: io::Result<DropGuard>) -> bool {
        let error = match listened {
            Ok(listening) => {
                self.troubles.remove(&key);
                self.listening.insert(key, (place, listening));
                return true;
            }
            Err(error) => error,
        };
        let trouble = error.to_string();
        if self.troubles.insert(key, trouble.clone()) != Some(trouble) {
            let ((address, front), port) = (place, key.1);
            let error = &error as &dyn std::error::Error;
            tracing::warn!(service = front.name, %address, port, error, "a port of a service cannot be served at its virtual address on this node; trying on");
        }
        false
    }

    /// From now on names mean this.
    fn answer(&self, services: &[Arc<ServiceEndpoints>]) {
        self.names.zone.store(Arc::new(Zone::new(services)));
    }
}
