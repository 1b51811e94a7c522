//! Looks at the engine: when it says that something changed, and now and then anyway.
//!
//! Invariant: after each event a look begins that is later than the event; at most one list and
//! one look per container are under way. What nobody reported (a lost event, a container made
//! behind our back) is found by the next list.
//! Deliberately not here: what to make of what is seen (`agent/core`).

use std::{collections::BTreeMap, time::Duration};

use futures_util::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{BoxStream, FuturesUnordered},
};
use skein_agent_core::{Glance, Look, RuntimeError};
use skein_common::InstanceId;
use tokio::time::{self, Instant};

use crate::{
    executor::Executor,
    runtime::{ContainerRuntime, RuntimeEvent},
};

/// A net under the events, not the way to notice something.
const RELIST: Duration = Duration::from_secs(30);
/// To an engine that did not answer; doubles.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// Something seen.
pub(super) enum Sight {
    Listed(Look),
    Glanced(Glance),
    /// The engine did not answer before, and does now.
    Back(Look),
    /// Nothing new.
    Nothing,
}

pub(super) struct EngineWatch<R> {
    executor: Executor<R>,
    events: BoxStream<'static, RuntimeEvent>,
    listing: Option<BoxFuture<'static, Result<Look, RuntimeError>>>,
    list_again: bool,
    list_at: Instant,
    retry: Duration,
    glances: FuturesUnordered<BoxFuture<'static, (String, Result<Glance, RuntimeError>)>>,
    /// Containers being looked at; whether to look again, because an event came meanwhile.
    glancing: BTreeMap<String, bool>,
    is_away: bool,
}

impl<R: ContainerRuntime> EngineWatch<R> {
    pub(super) fn new(executor: Executor<R>, events: BoxStream<'static, RuntimeEvent>) -> Self {
        Self {
            executor,
            events,
            listing: None,
            list_again: false,
            list_at: Instant::now(),
            retry: Duration::ZERO,
            glances: FuturesUnordered::new(),
            glancing: BTreeMap::new(),
            is_away: false,
        }
    }

    /// The next thing seen. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Sight {
        tokio::select! {
            Some((container, glance)) = self.glances.next() => self.glanced(&container, glance),
            Some(event) = self.events.next() => self.told(event),
            listed = pend(&mut self.listing) => self.listed(listed),
            () = time::sleep_until(self.list_at), if self.listing.is_none() => {
                self.list();
                Sight::Nothing
            }
        }
    }

    fn told(&mut self, event: RuntimeEvent) -> Sight {
        match event {
            RuntimeEvent::Changed { instance, container } => self.look_at(instance, container),
            RuntimeEvent::Reconnected if self.listing.is_some() => self.list_again = true,
            RuntimeEvent::Reconnected => self.list(),
            RuntimeEvent::Unavailable { reason } => self.went_away(&reason),
        }
        Sight::Nothing
    }

    fn list(&mut self) {
        let executor = self.executor.clone();
        self.listing = Some(async move { executor.list().await }.boxed());
        self.list_at = Instant::now() + RELIST;
    }

    fn listed(&mut self, listed: Result<Look, RuntimeError>) -> Sight {
        self.listing = None;
        if std::mem::take(&mut self.list_again) {
            self.list();
        }
        match listed {
            Ok(look) => {
                self.retry = Duration::ZERO;
                if !std::mem::take(&mut self.is_away) {
                    return Sight::Listed(look);
                }
                tracing::info!("the container engine answers again");
                Sight::Back(look)
            }
            Err(error) => {
                self.went_away(&error.to_string());
                self.retry = (self.retry * 2).clamp(RETRY_FIRST, RETRY_LONGEST);
                self.list_at = Instant::now() + self.retry;
                Sight::Nothing
            }
        }
    }

    fn went_away(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.is_away, true) {
            tracing::warn!(reason, "the container engine does not answer; containers are left as they are");
        }
    }

    fn look_at(&mut self, instance: InstanceId, container: String) {
        if let Some(again) = self.glancing.get_mut(&container) {
            *again = true;
            return;
        }
        self.glancing.insert(container.clone(), false);
        let executor = self.executor.clone();
        self.glances.push(
            async move {
                let glance = executor.inspect(instance, &container).await;
                (container, glance)
            }
            .boxed(),
        );
    }

    fn glanced(&mut self, container: &str, glance: Result<Glance, RuntimeError>) -> Sight {
        let again = self.glancing.remove(container) == Some(true);
        match glance {
            Ok(glance) => {
                if again {
                    self.look_at(glance.instance, glance.container.clone());
                }
                Sight::Glanced(glance)
            }
            // The list finds out, and says so when the engine is away.
            Err(_) => {
                self.list_at = self.list_at.min(Instant::now() + RETRY_FIRST);
                Sight::Nothing
            }
        }
    }
}

/// Pends while there is nothing to wait for.
async fn pend<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
