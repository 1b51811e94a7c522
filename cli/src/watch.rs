//! A stream of changes that outlives the master it comes from.
//!
//! Invariant: after a break it resumes behind the last revision it has passed on, so nothing is
//! missed or seen twice; only when that revision is no longer kept does it begin anew, and says so.

use std::collections::VecDeque;

use skein_proto::v1::{
    self, ChangeType, Event, Instance, Node, Service, watch_events_response as event_word,
    watch_instances_response as instance_word, watch_nodes_response as node_word,
    watch_services_response as service_word,
};
use tonic::{Code, Response, Status, Streaming, transport::Channel};
use tonic_types::StatusExt as _;

use crate::{
    api,
    failure::{Attempt, Failure},
    masters::{Masters, Repeat, Search},
};

/// One message of any watch.
#[derive(Debug)]
pub enum Word<T> {
    Snapshot(T),
    Synced(u64),
    Changes(u64, Vec<(bool, T)>),
    Bookmark(u64),
    /// A message of a newer protocol.
    Unknown,
}

/// What a watch is of.
pub trait Subject {
    type Item;
    type Message;
    fn open(
        &self,
        channel: Channel,
        after_revision: u64,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Message>>, Status>>;
    fn word(message: Self::Message) -> Word<Self::Item>;
}

/// What a reader of a watch learns.
#[derive(Debug, PartialEq, Eq)]
pub enum News<T> {
    /// Everything there is; what was known before is void.
    All(Vec<T>),
    /// One object as it is now.
    Changed(T),
    /// One object as it was last.
    Gone(T),
}

pub struct Watch<'a, S: Subject> {
    masters: &'a Masters,
    subject: S,
    stream: Option<Streaming<S::Message>>,
    /// Passed on up to here; 0 = nothing yet.
    revision: u64,
    snapshot: Vec<S::Item>,
    ready: VecDeque<News<S::Item>>,
    search: Option<Search<'a>>,
    address: String,
}

impl<'a, S: Subject> Watch<'a, S> {
    pub fn new(masters: &'a Masters, subject: S) -> Self {
        Self {
            masters,
            subject,
            stream: None,
            revision: 0,
            snapshot: Vec::new(),
            ready: VecDeque::new(),
            search: None,
            address: String::new(),
        }
    }

    /// The next news. May be dropped and called again at any time.
    ///
    /// # Errors
    /// What the cluster refused, or that no master can be reached for too long.
    pub async fn next(&mut self) -> Result<News<S::Item>, Failure> {
        loop {
            if let Some(news) = self.ready.pop_front() {
                return Ok(news);
            }
            let message = match &mut self.stream {
                Some(stream) => stream.message().await,
                None => {
                    self.open().await?;
                    continue;
                }
            };
            match message {
                Ok(Some(message)) => {
                    self.search = None;
                    self.take(S::word(message));
                }
                Ok(None) => self.broken(&Status::unavailable("the stream ended")).await?,
                Err(status) => self.broken(&status).await?,
            }
        }
    }

    /// Everything up to here has been passed on.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// News that are there already.
    pub fn take_ready(&mut self) -> Option<News<S::Item>> {
        self.ready.pop_front()
    }

    async fn open(&mut self) -> Result<(), Failure> {
        let (address, channel) = match self.masters.connect().await {
            Ok(connected) => connected,
            Err(attempt) => return self.wait(attempt).await,
        };
        self.address = address;
        self.snapshot.clear();
        match self.subject.open(channel, self.revision).await {
            Ok(response) => {
                self.stream = Some(response.into_inner());
                Ok(())
            }
            Err(status) => self.broken(&status).await,
        }
    }

    async fn broken(&mut self, status: &Status) -> Result<(), Failure> {
        self.stream = None;
        let reason =
            status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default();
        match status.code() {
            Code::OutOfRange => {
                self.revision = 0;
                Ok(())
            }
            Code::Aborted if reason == "SLOW_CONSUMER" => Ok(()),
            Code::NotFound | Code::InvalidArgument | Code::PermissionDenied | Code::Unimplemented => {
                Err(Failure::Refused(status.clone().into()))
            }
            _ => {
                self.masters.move_on();
                self.wait(Attempt { address: self.address.clone(), reason: status.message().to_owned() })
                    .await
            }
        }
    }

    async fn wait(&mut self, attempt: Attempt) -> Result<(), Failure> {
        let masters = self.masters;
        self.search.get_or_insert_with(|| Search::begin(masters, Repeat::Read)).pause(attempt, None).await
    }

    fn take(&mut self, word: Word<S::Item>) {
        match word {
            Word::Snapshot(item) => self.snapshot.push(item),
            Word::Synced(revision) => {
                // Only a watch that began anew has a snapshot to pass on.
                if self.revision == 0 {
                    self.ready.push_back(News::All(std::mem::take(&mut self.snapshot)));
                }
                self.revision = self.revision.max(revision);
            }
            Word::Changes(revision, _) if revision <= self.revision => {}
            Word::Changes(revision, changes) => {
                self.revision = revision;
                let news = |(gone, item)| if gone { News::Gone(item) } else { News::Changed(item) };
                self.ready.extend(changes.into_iter().map(news));
            }
            Word::Bookmark(revision) => self.revision = self.revision.max(revision),
            Word::Unknown => {}
        }
    }
}

fn is_gone(change: i32) -> bool {
    change == i32::from(ChangeType::Deleted)
}

/// All services.
pub struct Services;
/// Instances of a service and on a node; empty = all.
#[derive(Debug, Clone, Default)]
pub struct Instances {
    pub service: String,
    pub node: String,
}
/// All nodes.
pub struct Nodes;
/// Events about a subject; empty = all.
pub struct Events {
    pub subject: String,
}

impl Subject for Services {
    type Item = Service;
    type Message = v1::WatchServicesResponse;

    async fn open(
        &self,
        channel: Channel,
        after_revision: u64,
    ) -> Result<Response<Streaming<Self::Message>>, Status> {
        let request = v1::WatchServicesRequest { after_revision, ..Default::default() };
        api::services(channel).watch_services(request).await
    }

    fn word(message: Self::Message) -> Word<Service> {
        match message.message {
            Some(service_word::Message::Snapshot(service)) => Word::Snapshot(service),
            Some(service_word::Message::Synced(synced)) => Word::Synced(synced.revision),
            Some(service_word::Message::Changes(changes)) => {
                let changed = changes.changes.into_iter();
                let changed = changed.filter_map(|change| Some((is_gone(change.r#type), change.service?)));
                Word::Changes(changes.revision, changed.collect())
            }
            Some(service_word::Message::Bookmark(bookmark)) => Word::Bookmark(bookmark.revision),
            None => Word::Unknown,
        }
    }
}

impl Subject for Instances {
    type Item = Instance;
    type Message = v1::WatchInstancesResponse;

    async fn open(
        &self,
        channel: Channel,
        after_revision: u64,
    ) -> Result<Response<Streaming<Self::Message>>, Status> {
        let (service, node) = (self.service.clone(), self.node.clone());
        let request = v1::WatchInstancesRequest { after_revision, service, node };
        api::instances(channel).watch_instances(request).await
    }

    fn word(message: Self::Message) -> Word<Instance> {
        match message.message {
            Some(instance_word::Message::Snapshot(instance)) => Word::Snapshot(instance),
            Some(instance_word::Message::Synced(synced)) => Word::Synced(synced.revision),
            Some(instance_word::Message::Changes(changes)) => {
                let changed = changes.changes.into_iter();
                let changed = changed.filter_map(|change| Some((is_gone(change.r#type), change.instance?)));
                Word::Changes(changes.revision, changed.collect())
            }
            Some(instance_word::Message::Bookmark(bookmark)) => Word::Bookmark(bookmark.revision),
            None => Word::Unknown,
        }
    }
}

impl Subject for Nodes {
    type Item = Node;
    type Message = v1::WatchNodesResponse;

    async fn open(
        &self,
        channel: Channel,
        after_revision: u64,
    ) -> Result<Response<Streaming<Self::Message>>, Status> {
        api::nodes(channel).watch_nodes(v1::WatchNodesRequest { after_revision }).await
    }

    fn word(message: Self::Message) -> Word<Node> {
        match message.message {
            Some(node_word::Message::Snapshot(node)) => Word::Snapshot(node),
            Some(node_word::Message::Synced(synced)) => Word::Synced(synced.revision),
            Some(node_word::Message::Changes(changes)) => {
                let changed = changes.changes.into_iter();
                let changed = changed.filter_map(|change| Some((is_gone(change.r#type), change.node?)));
                Word::Changes(changes.revision, changed.collect())
            }
            Some(node_word::Message::Bookmark(bookmark)) => Word::Bookmark(bookmark.revision),
            None => Word::Unknown,
        }
    }
}

impl Subject for Events {
    type Item = Event;
    type Message = v1::WatchEventsResponse;

    async fn open(
        &self,
        channel: Channel,
        after_revision: u64,
    ) -> Result<Response<Streaming<Self::Message>>, Status> {
        let request = v1::WatchEventsRequest { after_revision, subject: self.subject.clone() };
        api::events(channel).watch_events(request).await
    }

    fn word(message: Self::Message) -> Word<Event> {
        match message.message {
            Some(event_word::Message::Synced(synced)) => Word::Synced(synced.revision),
            Some(event_word::Message::Events(batch)) => {
                Word::Changes(batch.revision, batch.events.into_iter().map(|event| (false, event)).collect())
            }
            Some(event_word::Message::Bookmark(bookmark)) => Word::Bookmark(bookmark.revision),
            None => Word::Unknown,
        }
    }
}
