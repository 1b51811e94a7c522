//! The instances as a watch shows them, kept as little more than counts.
//!
//! Invariant: as cheap with 20,000 instances as with one; it ends with the stream it watches.
//! Deliberately not here: resuming (`watch`): a bench whose stream breaks has failed.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail};
use skein_proto::v1::{
    ChangeType, Instance, WatchInstancesRequest, WatchInstancesResponse,
    instance_service_client::InstanceServiceClient, watch_instances_response::Message,
};
use tokio::time::Instant;
use tonic::{Streaming, transport::Channel};

use crate::watch;

/// Instances that are Ready, by service.
#[derive(Debug, Default)]
pub struct Ready {
    services: BTreeMap<String, BTreeMap<String, At>>,
}

#[derive(Debug)]
struct At {
    attempt: u32,
    node: String,
}

impl Ready {
    #[must_use]
    pub fn count(&self, service: &str) -> usize {
        self.services.get(service).map_or(0, BTreeMap::len)
    }

    #[must_use]
    pub fn attempts(&self, service: &str) -> Vec<u32> {
        self.services.get(service).into_iter().flatten().map(|(_, at)| at.attempt).collect()
    }

    /// On other nodes than this.
    #[must_use]
    pub fn elsewhere(&self, service: &str, node: &str) -> usize {
        self.services.get(service).into_iter().flatten().filter(|(_, at)| at.node != node).count()
    }

    fn put(&mut self, instance: Instance, deleted: bool) {
        let ready = !deleted && watch::is_ready(&instance);
        let service = self.services.entry(instance.service_name).or_default();
        if ready {
            let attempt = instance.observed.map(|observed| observed.attempt).unwrap_or_default();
            service.insert(instance.id, At { attempt, node: instance.node_name });
        } else {
            service.remove(&instance.id);
        }
    }
}

/// A watch of all instances.
#[derive(Debug)]
pub struct Sight {
    stream: Streaming<WatchInstancesResponse>,
    ready: Ready,
}

impl Sight {
    /// Reads what there is.
    ///
    /// # Errors
    /// When the watch cannot be opened.
    pub async fn open(master: Channel) -> Result<Self> {
        let mut client = InstanceServiceClient::new(master).max_decoding_message_size(64 << 20);
        let stream = client.watch_instances(WatchInstancesRequest::default()).await?.into_inner();
        let mut this = Self { stream, ready: Ready::default() };
        while !this.read().await? {}
        Ok(this)
    }

    /// # Errors
    /// When it does not come to that in time, or the stream ends.
    pub async fn until(&mut self, limit: Duration, so: impl Fn(&Ready) -> bool) -> Result<()> {
        let end = Instant::now() + limit;
        while !so(&self.ready) {
            let read = tokio::time::timeout_at(end, self.read()).await;
            read.with_context(|| format!("not within {limit:?}"))??;
        }
        Ok(())
    }

    /// True at the end of the snapshot.
    async fn read(&mut self) -> Result<bool> {
        let Some(WatchInstancesResponse { message: Some(message) }) = self.stream.message().await? else {
            bail!("the watch ended");
        };
        match message {
            Message::Snapshot(instance) => self.ready.put(instance, false),
            Message::Synced(_) => return Ok(true),
            Message::Changes(changes) => {
                for change in changes.changes {
                    let deleted = change.r#type() == ChangeType::Deleted;
                    if let Some(instance) = change.instance {
                        self.ready.put(instance, deleted);
                    }
                }
            }
            Message::Bookmark(_) => {}
        }
        Ok(false)
    }
}
