//! Where sessions say what balancers said, and ask what may be stopped.
//!
//! Invariant: the decision is the core's (`skein_master_core::drain`); here it is shared, and the dispatcher is woken when
//! there is something to decide.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use skein_common::{InstanceId, NodeId};
use skein_master_core::drain::Drains;
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub struct DrainDesk {
    drains: Mutex<Drains>,
    said: Notify,
}

impl DrainDesk {
    /// To look at, for a moment.
    pub fn lock(&self) -> MutexGuard<'_, Drains> {
        self.drains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The balancer of this node goes by this entry of the book, and still has requests with these.
    pub fn heard(&self, node: NodeId, number: u64, busy: BTreeSet<InstanceId>) {
        self.lock().heard(node, number, busy);
        self.said.notify_one();
    }

    /// The session of this node ended.
    pub fn lost(&self, node: NodeId) {
        self.lock().lost(node);
    }

    /// Ends when a balancer said something. Cancel-safe.
    pub async fn said(&self) {
        self.said.notified().await;
    }
}
