//! Agents' sessions: streams in, assignments out.
//!
//! Invariant: exists only inside [`Leading`]; when leadership goes every session is redirected and
//! ended before the role changes.
//! Deliberately not here: what agents do with assignments (`agent`), who is alive (`liveness`).

pub mod dispatcher;
pub mod drains;
pub mod endpoints;
pub mod registry;
pub mod session;

use std::{sync::Arc, time::Duration};

use skein_proto::v1::{self, session_response::Message};
use tonic::Streaming;

use crate::{leadership::Leading, outbox::Outbox, store::Store};
use session::End;

/// Messages that wait for an agent; a set is one message.
pub const SESSION_QUEUE: usize = 16;

/// Serves one agent's stream until it ends, on a task of the leader's.
pub fn start(
    leading: Arc<Leading>,
    inbound: Streaming<v1::SessionRequest>,
    outbox: Outbox<v1::SessionResponse>,
) {
    let tracker = leading.tracker().clone();
    tracker.spawn(async move {
        let end = tokio::select! {
            end = session::serve(leading.clone(), &outbox, inbound) => end,
            () = leading.stopped() => {
                let message = Message::Redirect(redirect(&leading.store));
                let _ = outbox.send(v1::SessionResponse { message: Some(message) }, Duration::ZERO).await;
                Ok(())
            }
        };
        if let Err(End::Failed(error)) = end {
            tracing::info!(error = &error as &dyn std::error::Error, "a session ended");
            outbox.finish(error);
        }
    });
}

/// Where an agent finds the leader, as far as this master knows.
#[must_use]
pub fn redirect(store: &Store) -> v1::Redirect {
    let leader = store.leadership().borrow().leader.clone();
    let leader = leader.map(|leader| leader.api_address).unwrap_or_default();
    v1::Redirect { leader, masters: masters(store) }
}

/// API addresses of all masters.
#[must_use]
pub fn masters(store: &Store) -> Vec<String> {
    let members = store.status().members.into_iter();
    members.map(|member| member.api_address).filter(|address| !address.is_empty()).collect()
}
