//! A watcher of instances that never gives up: it resumes on another master after every break,
//! and keeps the whole history.
//!
//! Invariant: the history is exactly what was sent; [`Watcher::check_order`] says whether the
//! protocol of `api.proto` was kept (revisions grow across breaks, nothing is sent twice).
//! Deliberately not here: what the history means for a test.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use skein_proto::v1::{
    ChangeType, Desired, Instance, Phase, WatchInstancesRequest, WatchInstancesResponse,
    instance_service_client::InstanceServiceClient, watch_instances_response::Message,
};
use tokio::task::JoinHandle;
use tonic::{Code, Status, transport::Channel};

use crate::client::{Client, may_be_repeated};

/// One thing that came through the watch.
#[derive(Debug, Clone)]
pub enum Seen {
    Snapshot(Box<Instance>),
    Synced(u64),
    Changed {
        revision: u64,
        changes: Vec<(ChangeType, Instance)>,
    },
    Bookmark(u64),
    /// The stream ended with this and was resumed after this revision.
    Resumed {
        after: u64,
        because: Status,
    },
}

/// Ends with its drop.
#[derive(Debug)]
pub struct Watcher {
    history: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Watches the instances of one service (empty = all), at first on this master.
    #[must_use]
    pub fn start(client: Arc<Client>, masters: usize, first: usize, service: &str) -> Self {
        let history = Arc::new(Mutex::new(Vec::new()));
        let (seen, service) = (history.clone(), service.to_owned());
        let task = tokio::spawn(async move {
            let mut after = 0;
            for turn in first.. {
                let because = follow(client.master(turn % masters), &service, &mut after, &seen).await;
                push(&seen, Seen::Resumed { after, because: because.clone() });
                if !may_be_repeated(&because) && because.code() != Code::Aborted && because.code() != Code::Ok
                {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await; // polls: the masters in turn
            }
        });
        Self { history, task }
    }

    #[must_use]
    pub fn history(&self) -> Vec<Seen> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every instance as the history left it.
    #[must_use]
    pub fn instances(&self) -> BTreeMap<String, Instance> {
        let mut now = BTreeMap::new();
        for seen in self.history() {
            replay(&mut now, &seen);
        }
        now
    }

    /// The revision the watcher has come to.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.history().iter().rev().find_map(revision_of).unwrap_or(0)
    }

    /// How often it had to resume.
    #[must_use]
    pub fn breaks(&self) -> usize {
        self.history().iter().filter(|seen| matches!(seen, Seen::Resumed { .. })).count()
    }

    /// Order, no repeat, one sync at the beginning.
    ///
    /// # Errors
    /// The first breach of the protocol.
    pub fn check_order(&self) -> Result<(), String> {
        let (mut last, mut synced) = (0, false);
        for seen in self.history() {
            match seen {
                Seen::Snapshot(instance) if synced => {
                    return Err(format!("a snapshot after synced: {}", instance.id));
                }
                Seen::Synced(revision) if synced => return Err(format!("synced twice, again at {revision}")),
                Seen::Synced(revision) => (last, synced) = (revision, true),
                Seen::Changed { revision, .. } if !synced => {
                    return Err(format!("changes of {revision} before synced"));
                }
                Seen::Changed { revision, .. } if revision <= last => {
                    return Err(format!("changes of {revision} after {last}"));
                }
                Seen::Bookmark(revision) if revision < last => {
                    return Err(format!("bookmark {revision} after {last}"));
                }
                Seen::Changed { revision, .. } | Seen::Bookmark(revision) => last = revision,
                Seen::Resumed { after, because } if because.code() == Code::OutOfRange => {
                    return Err(format!("compacted after {after}: {because}"));
                }
                Seen::Snapshot(_) | Seen::Resumed { .. } => {}
            }
        }
        Ok(())
    }

    /// At no moment two live instances of one slot, as the masters see it.
    ///
    /// # Errors
    /// The first moment it was otherwise.
    pub fn check_one_live_per_slot(&self) -> Result<(), String> {
        let mut now = BTreeMap::new();
        for seen in self.history() {
            replay(&mut now, &seen);
            // Amid a snapshot not everybody is there yet, but nobody is there twice either.
            let mut holders = BTreeMap::new();
            for instance in now.values().filter(|instance| is_live(instance)) {
                let node = if instance.slot == 0 { instance.node_id.as_str() } else { "" };
                let slot = (instance.service_id.as_str(), instance.slot, node);
                if let Some(other) = holders.insert(slot, &instance.id) {
                    let at = revision_of(&seen).unwrap_or(0);
                    return Err(format!("{} is held by {other} and {} at {at}", instance.name, instance.id));
                }
            }
        }
        Ok(())
    }

    /// The least number of instances that were wanted and Ready at any moment, counted from the
    /// first moment there were `from` of them.
    #[must_use]
    pub fn fewest_ready(&self, from: usize) -> usize {
        let mut now = BTreeMap::new();
        let mut fewest = None;
        for seen in self.history() {
            replay(&mut now, &seen);
            let ready = now.values().filter(|instance| is_ready(instance)).count();
            fewest = match fewest {
                None if ready >= from => Some(ready),
                None => None,
                Some(least) => Some(ready.min(least)),
            };
        }
        fewest.unwrap_or(0)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Wanted and healthy.
#[must_use]
pub fn is_ready(instance: &Instance) -> bool {
    instance.desired() == Desired::Run
        && instance.observed.as_ref().is_some_and(skein_proto::v1::Observed::is_ready)
}

/// Holds its slot.
fn is_live(instance: &Instance) -> bool {
    let ended = instance
        .observed
        .as_ref()
        .is_some_and(|observed| matches!(observed.phase(), Phase::Stopped | Phase::Failed | Phase::Rejected));
    instance.desired() == Desired::Run && !instance.lost && !ended
}

fn replay(now: &mut BTreeMap<String, Instance>, seen: &Seen) {
    match seen {
        Seen::Snapshot(instance) => {
            now.insert(instance.id.clone(), instance.as_ref().clone());
        }
        Seen::Changed { changes, .. } => {
            for (change, instance) in changes {
                match change {
                    ChangeType::Deleted => now.remove(&instance.id),
                    _ => now.insert(instance.id.clone(), instance.clone()),
                };
            }
        }
        // Broken before `synced`: the snapshot begins again.
        Seen::Resumed { after: 0, .. } => now.clear(),
        Seen::Synced(_) | Seen::Bookmark(_) | Seen::Resumed { .. } => {}
    }
}

fn revision_of(seen: &Seen) -> Option<u64> {
    match seen {
        Seen::Synced(revision) | Seen::Bookmark(revision) | Seen::Changed { revision, .. } => Some(*revision),
        Seen::Snapshot(_) | Seen::Resumed { .. } => None,
    }
}

/// Until the stream ends; says with what.
async fn follow(channel: Channel, service: &str, after: &mut u64, seen: &Mutex<Vec<Seen>>) -> Status {
    let request = WatchInstancesRequest {
        after_revision: *after,
        service: service.to_owned(),
        ..WatchInstancesRequest::default()
    };
    let mut stream = match InstanceServiceClient::new(channel).watch_instances(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return status,
    };
    loop {
        match stream.message().await {
            Ok(Some(WatchInstancesResponse { message: Some(message) })) => {
                let news = convert(message);
                if let Some(revision) = revision_of(&news) {
                    *after = revision;
                }
                push(seen, news);
            }
            Ok(Some(WatchInstancesResponse { message: None })) => {
                return Status::internal("an empty message");
            }
            Ok(None) => return Status::ok("ended"),
            Err(status) => return status,
        }
    }
}

fn convert(message: Message) -> Seen {
    match message {
        Message::Snapshot(instance) => Seen::Snapshot(Box::new(instance)),
        Message::Synced(synced) => Seen::Synced(synced.revision),
        Message::Bookmark(bookmark) => Seen::Bookmark(bookmark.revision),
        Message::Changes(changes) => Seen::Changed {
            revision: changes.revision,
            changes: changes
                .changes
                .into_iter()
                .filter_map(|change| Some((change.r#type(), change.instance?)))
                .collect(),
        },
    }
}

fn push(seen: &Mutex<Vec<Seen>>, news: Seen) {
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(news);
}
