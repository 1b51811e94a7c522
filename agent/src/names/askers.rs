//! Whose container has which address.
//!
//! Invariant: follows what the worker sees. An address that is not known yet may be a container's that has just
//! started: it is waited for, a moment.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use skein_common::ServiceId;
use tokio::{sync::watch, time};

/// A container asks sooner than the engine has told its address.
const PATIENCE: Duration = Duration::from_millis(500);

pub(crate) type Addresses = Arc<BTreeMap<IpAddr, ServiceId>>;

#[derive(Debug, Clone)]
pub(crate) struct Askers {
    addresses: watch::Receiver<Addresses>,
}

impl Askers {
    pub(crate) const fn new(addresses: watch::Receiver<Addresses>) -> Self {
        Self { addresses }
    }

    pub(crate) fn known(&self, address: IpAddr) -> Option<ServiceId> {
        self.addresses.borrow().get(&address.to_canonical()).copied()
    }

    pub(crate) async fn find(&self, address: IpAddr) -> Option<ServiceId> {
        let mut addresses = self.addresses.clone();
        let address = address.to_canonical();
        let there = addresses.wait_for(|known| known.contains_key(&address));
        let known = time::timeout(PATIENCE, there).await.ok()?.ok()?;
        known.get(&address).copied()
    }
}
