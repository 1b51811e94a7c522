//! Change feed → inboxes: who has to look at what.
//!
//! Invariant: costs what changed, whatever the number of nodes. It only says "look"; what a session
//! tells its agent follows from the state, so too much or twice is harmless.

use std::sync::Arc;

use skein_common::{
    InstanceId, NodeId, Revision,
    instance::{Desired, Instance, Phase},
};
use skein_master_core::state::Change;
use tokio_util::sync::CancellationToken;

use super::registry::Registry;
use crate::store::{ChangeBatch, FeedEnd, Store};

/// The leader's dispatcher.
#[derive(Debug)]
pub struct Dispatcher {
    store: Store,
    sessions: Arc<Registry>,
    /// Everything up to here is in the state that any session begins with.
    from: Revision,
}

impl Dispatcher {
    /// Created before any session is let in.
    #[must_use]
    pub fn new(store: Store, sessions: Arc<Registry>) -> Self {
        let from = store.snapshot().revision();
        Self { store, sessions, from }
    }

    /// Until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let Ok(mut feed) = self.store.feed(self.from) else {
                // What is no longer told one by one is told at once.
                self.from = self.store.snapshot().revision();
                self.sessions.tell_everything();
                continue;
            };
            loop {
                let batches = tokio::select! {
                    () = stop.cancelled() => return,
                    batches = feed.next() => batches,
                };
                match batches {
                    Ok(batches) => {
                        self.sessions.tell(&concerned(&batches));
                        removed(&batches).for_each(|node| self.sessions.wake(node));
                    }
                    Err(FeedEnd::Lagged { resume }) => {
                        self.from = resume;
                        break;
                    }
                    Err(FeedEnd::Closed) => return,
                }
            }
        }
    }
}

fn concerned(batches: &[Arc<ChangeBatch>]) -> Vec<(NodeId, InstanceId)> {
    let changes = batches.iter().flat_map(|batch| &batch.changes);
    let told = changes.filter_map(|change| match change {
        Change::Instance { instance, deleted } if *deleted || !is_known_to_agent(instance) => {
            instance.node.map(|node| (node, instance.id))
        }
        _ => None,
    });
    told.collect()
}

/// Nodes that are none any more: their sessions see it when they look.
fn removed(batches: &[Arc<ChangeBatch>]) -> impl Iterator<Item = NodeId> {
    batches.iter().flat_map(|batch| &batch.changes).filter_map(|change| match change {
        Change::Node { node, deleted: true } => Some(node.id),
        _ => None,
    })
}

/// The agent has reported on it and is to go on: this change came from the agent itself.
fn is_known_to_agent(instance: &Instance) -> bool {
    instance.desired == Desired::Run && instance.observed.progress.phase > Phase::Assigned
}
