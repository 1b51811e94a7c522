//! EventService: decode, call, encode.

use std::iter;

use skein_common::Revision;
use skein_master_core::{ClusterState, state::Change};
use skein_proto::v1::{self, event_service_server::EventService, watch_events_response::Message};
use tonic::{Request, Response};

use super::{
    Answer, Api,
    page::PageRequest,
    read, view,
    watch::{Snapshot, Topic},
};
use crate::{outbox::Delivery, status::CallError, store::ChangeBatch};

#[tonic::async_trait]
impl EventService for Api {
    async fn list_events(&self, request: Request<v1::ListEventsRequest>) -> Answer<v1::ListEventsResponse> {
        let request = request.into_inner();
        let page = PageRequest::decode(request.page_size, &request.page_token, &request.subject)
            .map_err(CallError::from)?;
        let state = read::state(&self.store, request.consistency).await?;
        let topic = EventTopic { subject: request.subject };
        let rest = state.events().rev().filter(|event| page.after.is_none_or(|after| event.sequence < after));
        let page = page.cut(rest.filter(|event| topic.is_about(event)), |event| event.sequence);
        Ok(Response::new(v1::ListEventsResponse {
            events: page.items.into_iter().map(|event| view::event(event)).collect(),
            next_page_token: page.next_token,
        }))
    }

    type WatchEventsStream = Delivery<v1::WatchEventsResponse>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Answer<Self::WatchEventsStream> {
        let request = request.into_inner();
        let topic = EventTopic { subject: request.subject };
        Ok(Response::new(self.watches.start(request.after_revision, topic).await?))
    }
}

/// Events: all, or those about one object.
struct EventTopic {
    subject: String,
}

impl EventTopic {
    fn is_about(&self, event: &skein_common::event::Event) -> bool {
        self.subject.is_empty() || view::is_about(event, &self.subject)
    }
}

impl Topic for EventTopic {
    type Message = v1::WatchEventsResponse;

    /// What has happened is asked for by ListEvents.
    fn snapshot<'a>(&'a self, _state: &'a ClusterState) -> Snapshot<'a, Self::Message> {
        Box::new(iter::empty())
    }

    fn changes(&self, _state: &ClusterState, batch: &ChangeBatch) -> Option<Self::Message> {
        let told = batch.changes.iter().filter_map(|change| match change {
            Change::Event(event) if self.is_about(event) => Some(view::event(event)),
            _ => None,
        });
        let events: Vec<_> = told.collect();
        let wire = v1::EventBatch { revision: batch.revision.0, events };
        (!wire.events.is_empty()).then(|| message(Message::Events(wire)))
    }

    fn synced(&self, revision: Revision) -> Self::Message {
        message(Message::Synced(v1::Synced { revision: revision.0 }))
    }

    fn bookmark(&self, revision: Revision) -> Self::Message {
        message(Message::Bookmark(v1::Bookmark { revision: revision.0 }))
    }
}

const fn message(message: Message) -> v1::WatchEventsResponse {
    v1::WatchEventsResponse { message: Some(message) }
}
