//! Which node has a session, and the inbox of each.
//!
//! Invariant: one session a node: the newest stream of the highest incarnation. Whoever has news for
//! a session puts it into its inbox and never waits; the inbox is bounded, because ids beyond the
//! bound become the word "everything".

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use skein_common::{InstanceId, NodeId, SessionId};
use skein_proto::v1::{StartExec, StartLogs};
use tokio::sync::Notify;

use crate::status::SessionError;

/// Changed instances an inbox names one by one.
const MAX_CHANGED: usize = 1024;
/// Log streams that wait to be asked for.
const MAX_LOGS: usize = 64;
/// Commands that wait to be asked for.
const MAX_EXECS: usize = 64;

/// All sessions of one leader.
#[derive(Debug, Default)]
pub struct Registry(Mutex<HashMap<NodeId, Arc<Mailbox>>>);

/// The way to one session.
#[derive(Debug)]
pub struct Mailbox {
    pub session: SessionId,
    pub node: NodeId,
    pub incarnation: u64,
    /// The agent has a balancer and is told endpoints.
    pub balances: bool,
    inbox: Mutex<Inbox>,
    wake: Notify,
}

/// What a session has not looked at yet.
#[derive(Debug, Default)]
pub struct Inbox {
    /// Instances of the node that changed.
    pub changed: Vec<InstanceId>,
    /// So many changed that it should look at all.
    pub everything: bool,
    pub logs: Vec<StartLogs>,
    pub execs: Vec<StartExec>,
    /// There are other endpoints than it was told.
    pub endpoints: bool,
    /// A newer session of the node took over.
    pub replaced: bool,
}

impl Mailbox {
    #[must_use]
    pub fn new(session: SessionId, node: NodeId, incarnation: u64, balances: bool) -> Self {
        Self { session, node, incarnation, balances, inbox: Mutex::default(), wake: Notify::new() }
    }

    fn put(&self, write: impl FnOnce(&mut Inbox)) {
        write(&mut self.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_one();
    }

    /// An instance of the node changed.
    pub fn changed(&self, instance: InstanceId) {
        self.put(|inbox| {
            if inbox.changed.len() < MAX_CHANGED {
                inbox.changed.push(instance);
            } else {
                inbox.everything = true;
            }
        });
    }

    /// What changed is no longer known.
    pub fn everything(&self) {
        self.put(|inbox| {
            inbox.everything = true;
            inbox.endpoints = self.balances;
        });
    }

    /// Asks the agent to push logs; `false` when too many such wishes wait already.
    #[must_use]
    pub fn ask_logs(&self, start: StartLogs) -> bool {
        let mut taken = false;
        self.put(|inbox| {
            taken = inbox.logs.len() < MAX_LOGS;
            if taken {
                inbox.logs.push(start);
            }
        });
        taken
    }

    /// Asks the agent to serve a command; `false` when too many such wishes wait already.
    #[must_use]
    pub fn ask_exec(&self, start: StartExec) -> bool {
        let mut taken = false;
        self.put(|inbox| {
            taken = inbox.execs.len() < MAX_EXECS;
            if taken {
                inbox.execs.push(start);
            }
        });
        taken
    }

    /// Waits until there is something in the inbox. Cancel-safe.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Empties the inbox.
    #[must_use]
    pub fn take(&self) -> Inbox {
        mem::take(&mut self.inbox.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Arc<Mailbox>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes this the node's session; the one before is told that it is replaced.
    ///
    /// # Errors
    /// When a later incarnation of the agent has a session.
    pub fn enter(&self, mailbox: Arc<Mailbox>) -> Result<(), SessionError> {
        let mut sessions = self.lock();
        if let Some(before) = sessions.get(&mailbox.node) {
            if before.incarnation > mailbox.incarnation {
                let (theirs, known) = (mailbox.incarnation, before.incarnation);
                return Err(SessionError::OldIncarnation { theirs, known });
            }
            before.put(|inbox| inbox.replaced = true);
        }
        sessions.insert(mailbox.node, mailbox);
        Ok(())
    }

    /// Whether it was still the node's session.
    pub fn leave(&self, mailbox: &Arc<Mailbox>) -> bool {
        let mut sessions = self.lock();
        let is_current = sessions.get(&mailbox.node).is_some_and(|current| Arc::ptr_eq(current, mailbox));
        if is_current {
            sessions.remove(&mailbox.node);
        }
        is_current
    }

    /// The node's session.
    #[must_use]
    pub fn of(&self, node: NodeId) -> Option<Arc<Mailbox>> {
        self.lock().get(&node).cloned()
    }

    /// Tells sessions which of their instances changed.
    pub fn tell(&self, changed: &[(NodeId, InstanceId)]) {
        if changed.is_empty() {
            return;
        }
        let sessions = self.lock();
        for (node, instance) in changed {
            if let Some(mailbox) = sessions.get(node) {
                mailbox.changed(*instance);
            }
        }
    }

    /// Has a node's session look at the state.
    pub fn wake(&self, node: NodeId) {
        if let Some(mailbox) = self.of(node) {
            mailbox.put(|_| {});
        }
    }

    /// Tells all balancers that there are other endpoints.
    pub fn tell_endpoints(&self) {
        for mailbox in self.lock().values().filter(|mailbox| mailbox.balances) {
            mailbox.put(|inbox| inbox.endpoints = true);
        }
    }

    /// Tells all sessions to look at everything.
    pub fn tell_everything(&self) {
        self.lock().values().for_each(|mailbox| mailbox.everything());
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox(node: u64, incarnation: u64) -> Arc<Mailbox> {
        Arc::new(Mailbox::new(SessionId::from_random(9), NodeId::from_random(node), incarnation, false))
    }

    #[test]
    fn the_newest_stream_of_the_highest_incarnation_wins() {
        let registry = Registry::default();
        let (first, same, newer, older) = (mailbox(1, 5), mailbox(1, 5), mailbox(1, 6), mailbox(1, 5));
        registry.enter(first.clone()).unwrap();
        registry.enter(same.clone()).unwrap();
        assert!(first.take().replaced);
        registry.enter(newer.clone()).unwrap();
        assert!(same.take().replaced);
        let refused = registry.enter(older);
        assert_eq!(refused, Err(SessionError::OldIncarnation { theirs: 5, known: 6 }));
        assert!(!newer.take().replaced);
        assert!(!registry.leave(&first));
        assert!(registry.leave(&newer));
        assert!(registry.is_empty());
    }

    #[test]
    fn a_full_inbox_means_everything() {
        let registry = Registry::default();
        let mailbox = mailbox(1, 1);
        registry.enter(mailbox.clone()).unwrap();
        for number in 0..=MAX_CHANGED as u64 {
            registry.tell(&[(mailbox.node, InstanceId::from_random(number))]);
        }
        let inbox = mailbox.take();
        assert!(inbox.everything);
        assert_eq!(inbox.changed.len(), MAX_CHANGED);
    }
}
