//! What the node holds, as the rest of the agent sees it.
//!
//! Invariant: level-triggered: a reader that was away compares what it told with what is, and
//! tells the difference; so no report is ever queued and none can be lost. An instance that is
//! not in it any more left no trace.
//! Deliberately not here: sending (`session`).

use std::{collections::BTreeMap, sync::Arc};

use imbl::OrdMap;
use skein_agent_core::{NodeState, reconcile::is_passing};
use skein_common::{
    InstanceId,
    instance::{News, Phase},
};
use tokio::sync::watch;

use crate::{names::Addresses, usage::RunningContainer};

/// News of everything the node holds; a clone is cheap.
#[derive(Debug, Clone, Default)]
pub struct Holdings {
    pub news: OrdMap<InstanceId, News>,
    /// Moves when something changed that should be told without delay.
    pub urgent: u64,
    /// It is known what the node holds: a Hello may be made of it.
    pub complete: bool,
}

pub(super) struct Publisher {
    holdings: watch::Sender<Holdings>,
    running: watch::Sender<Arc<[RunningContainer]>>,
    addresses: watch::Sender<Addresses>,
    /// What waits for the checkpoint of this version.
    held: BTreeMap<InstanceId, u64>,
}

impl Publisher {
    pub(super) fn new() -> Self {
        let running: Arc<[RunningContainer]> = Arc::from([]);
        Self {
            holdings: watch::Sender::new(Holdings::default()),
            running: watch::Sender::new(running),
            addresses: watch::Sender::new(Arc::default()),
            held: BTreeMap::new(),
        }
    }

    pub(super) fn holdings(&self) -> watch::Receiver<Holdings> {
        self.holdings.subscribe()
    }

    pub(super) fn running(&self) -> watch::Receiver<Arc<[RunningContainer]>> {
        self.running.subscribe()
    }

    pub(super) fn addresses(&self) -> watch::Receiver<Addresses> {
        self.addresses.subscribe()
    }

    /// Of what runs now, whether or not it has been told.
    pub(super) fn publish_addresses(&self, state: &NodeState) {
        let assigned = state.assignments().iter().map(|each| (each.service, state.containers(each.instance)));
        let addresses: BTreeMap<_, _> = assigned
            .flat_map(|(service, containers)| containers.iter().map(move |container| (service, container)))
            .filter(|(_, container)| container.status.is_running())
            .filter_map(|(service, container)| Some((container.address?, service)))
            .collect();
        self.addresses.send_if_modified(|known| {
            let differs = **known != addresses;
            if differs {
                *known = Arc::new(addresses);
            }
            differs
        });
    }

    pub(super) fn is_complete(&self) -> bool {
        self.holdings.borrow().complete
    }

    pub(super) fn complete(&self) {
        self.holdings.send_if_modified(|holdings| !std::mem::replace(&mut holdings.complete, true));
    }

    /// Ends and new attempts among `changed` wait for `version` to be on disk; answers whether there
    /// are any. Masters that know of a later attempt than an agent that lost it would have the earlier
    /// one ended, although it runs.
    pub(super) fn hold_back(&mut self, state: &NodeState, changed: &[InstanceId], version: u64) -> bool {
        let known = self.holdings.borrow();
        let waits = changed.iter().filter(|id| {
            let news = state.news(**id);
            is_end(news.as_ref()) || is_later_attempt(known.news.get(*id), news.as_ref())
        });
        let before = self.held.len();
        self.held.extend(waits.map(|id| (*id, version)));
        self.held.len() > before
    }

    /// Publishes what changed and what was held back and may go now.
    pub(super) fn publish(&mut self, state: &NodeState, changed: &[InstanceId], durable: u64) {
        let mut due: Vec<InstanceId> = Vec::new();
        self.held.retain(|id, version| {
            let waits = *version > durable;
            if !waits {
                due.push(*id);
            }
            waits
        });
        due.extend(changed.iter().filter(|id| !self.held.contains_key(id)));
        if due.is_empty() {
            return;
        }
        let mut moved = false;
        self.holdings.send_if_modified(|holdings| {
            for id in &due {
                moved |= update(holdings, *id, state.news(*id));
            }
            moved
        });
        if moved {
            self.publish_running();
        }
    }

    fn publish_running(&self) {
        let running: Arc<[RunningContainer]> = {
            let holdings = self.holdings.borrow();
            let containers = holdings.news.iter().filter_map(|(instance, news)| match news {
                News::Observed(observed) if observed.progress.phase.is_running() => {
                    Some(RunningContainer { instance: *instance, container: observed.container_id.clone() })
                }
                News::Observed(_) | News::Gone => None,
            });
            containers.collect()
        };
        self.running.send_if_modified(|known| {
            let differs = **known != *running;
            *known = running;
            differs
        });
    }
}

/// Answers whether there was anything new.
fn update(holdings: &mut Holdings, instance: InstanceId, news: Option<News>) -> bool {
    let before = holdings.news.get(&instance);
    if before == news.as_ref() {
        return false;
    }
    if !news.as_ref().is_some_and(|news| is_passing(before, news)) {
        holdings.urgent += 1;
    }
    match news {
        Some(news) => drop(holdings.news.insert(instance, news)),
        None => drop(holdings.news.remove(&instance)),
    }
    true
}

/// What was never told came from the checkpoint, or is the first attempt.
fn is_later_attempt(told: Option<&News>, now: Option<&News>) -> bool {
    match (told, now) {
        (Some(News::Observed(told)), Some(News::Observed(now))) => {
            told.progress.attempt < now.progress.attempt
        }
        _ => false,
    }
}

fn is_end(news: Option<&News>) -> bool {
    match news {
        Some(News::Observed(observed)) => {
            matches!(observed.progress.phase, Phase::Stopped | Phase::Failed | Phase::Rejected)
        }
        Some(News::Gone) | None => true,
    }
}
