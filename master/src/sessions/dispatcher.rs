//! Change feed → inboxes: who has to look at what.
//!
//! Invariant: costs what changed, whatever the number of nodes. It only says "look"; what a session
//! tells its agent follows from the state, so too much or twice is harmless.

use std::sync::Arc;

use skein_common::{InstanceId, NodeId, Revision, Timestamp};
use skein_master_core::{ClusterState, drain, endpoints::touched, state::Change, told::concerned};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{drains::DrainDesk, endpoints::EndpointDesk, registry::Registry};
use crate::{
    clock,
    leadership::Leading,
    store::{ChangeBatch, FeedEnd, Store},
};

/// The leader's dispatcher.
#[derive(Debug)]
pub struct Dispatcher {
    store: Store,
    sessions: Arc<Registry>,
    endpoints: Arc<EndpointDesk>,
    drains: Arc<DrainDesk>,
    /// Newest entry of the book that sessions know of.
    number: u64,
    /// Everything up to here is in the state that any session begins with.
    from: Revision,
    /// When time alone lets something stop.
    wake_at: Option<Timestamp>,
}

impl Dispatcher {
    /// Created before any session is let in.
    #[must_use]
    pub fn new(leading: &Leading) -> Self {
        let mut dispatcher = Self {
            store: leading.store.clone(),
            sessions: leading.sessions.clone(),
            endpoints: leading.endpoints.clone(),
            drains: leading.drains.clone(),
            number: 0,
            from: Revision::default(),
            wake_at: None,
        };
        dispatcher.look_at_everything();
        dispatcher
    }

    /// Until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let Ok(mut feed) = self.store.feed(self.from) else {
                // What is no longer told one by one is told at once.
                self.look_at_everything();
                self.sessions.tell_everything();
                continue;
            };
            loop {
                let wake_in = self.wake_at.map(|at| at.since(clock::now()));
                let batches = tokio::select! {
                    () = stop.cancelled() => return,
                    batches = feed.next() => batches,
                    () = self.drains.said() => {
                        self.release();
                        continue;
                    }
                    () = sleep(wake_in.unwrap_or_default()), if wake_in.is_some() => {
                        self.release();
                        continue;
                    }
                };
                match batches {
                    Ok(batches) => self.dispatch(&batches),
                    Err(FeedEnd::Lagged { resume }) => {
                        self.from = resume;
                        break;
                    }
                    Err(FeedEnd::Closed) => return,
                }
            }
        }
    }

    fn dispatch(&mut self, batches: &[Arc<ChangeBatch>]) {
        // What balancers are told is what is so now, which may be more than these changes.
        let state = self.store.snapshot();
        let changes = || batches.iter().flat_map(|batch| &batch.changes);
        let number = self.endpoints.lock().write(&state, &touched(&state, changes()));
        for change in changes() {
            match change {
                Change::Instance { instance, deleted: true } => self.drains.lock().forget(instance.id),
                Change::Instance { instance, .. } => self.look(&state, instance.id, number),
                _ => {}
            }
        }
        if std::mem::replace(&mut self.number, number) != number {
            self.sessions.tell_endpoints();
        }
        self.sessions.tell(&concerned(changes()));
        removed(batches).for_each(|node| self.sessions.wake(node));
        self.release();
    }

    fn look_at_everything(&mut self) {
        let state = self.store.snapshot();
        self.from = state.revision();
        let number = self.endpoints.lock().write_all(&state);
        self.number = number;
        for instance in state.instances() {
            self.look(&state, instance.id, number);
        }
        self.release();
    }

    fn look(&self, state: &ClusterState, instance: InstanceId, number: u64) {
        let Some(instance) = state.instance(instance) else { return };
        self.drains.lock().look(instance, number, drain::limit(state, instance), clock::now());
    }

    /// Lets agents stop what no balancer holds any more.
    fn release(&mut self) {
        if !self.drains.lock().is_waiting() {
            self.wake_at = None;
            return;
        }
        let state = self.store.snapshot();
        let released = self.drains.lock().release(clock::now(), &drain::balancers(&state));
        self.wake_at = released.next;
        let instances = released.instances.iter().filter_map(|id| state.instance(*id));
        let told: Vec<_> = instances.filter_map(|instance| Some((instance.node?, instance.id))).collect();
        self.sessions.tell(&told);
    }
}

/// Nodes that are none any more: their sessions see it when they look.
fn removed(batches: &[Arc<ChangeBatch>]) -> impl Iterator<Item = NodeId> {
    batches.iter().flat_map(|batch| &batch.changes).filter_map(|change| match change {
        Change::Node { node, deleted: true } => Some(node.id),
        _ => None,
    })
}
