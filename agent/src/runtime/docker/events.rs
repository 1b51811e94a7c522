//! The engine's events about our containers, as one stream without end.
//!
//! Invariant: between `Reconnected` and the next `Unavailable` no event is missed: the engine
//! is asked for what happened since shortly before it answered. An event may come twice.
//! A daemon that is there but hangs is noticed by asking for a sign of life now and then.
//! Deliberately not here: what changed (the reader inspects), when to list (`Reconnected` says so).

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bollard::{models::EventMessage, query_parameters::EventsOptions};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use rand::RngExt;
use tokio::time::{self, Instant};

use super::{
    super::{Owner, RuntimeEvent},
    call_error::CallError,
    connection::Connection,
    labels,
};

/// The actions after which a container looks different.
const ACTIONS: [&str; 5] = ["start", "die", "oom", "destroy", "health_status"];
/// First wait after the engine went away; doubles up to `Limits::reconnect`.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// Asked for again after a reconnect: covers the way from the sign of life to the subscription.
const OVERLAP: Duration = Duration::from_secs(1);

type Subscription = BoxStream<'static, Result<EventMessage, CallError>>;

struct Events {
    connection: Connection,
    owner: Owner,
    state: State,
}

enum State {
    /// Not subscribed; `told` once `Unavailable` went out.
    Away {
        told: bool,
        retry: Duration,
    },
    Subscribed {
        events: Subscription,
        ping_at: Instant,
    },
}

pub(super) fn events(connection: Connection, owner: Owner) -> BoxStream<'static, RuntimeEvent> {
    let state = State::Away { told: false, retry: Duration::ZERO };
    stream::unfold(Events { connection, owner, state }, |mut events| async move {
        let event = events.next().await;
        Some((event, events))
    })
    .boxed()
}

impl Events {
    async fn next(&mut self) -> RuntimeEvent {
        loop {
            let event = match &mut self.state {
                State::Away { .. } => self.reconnect().await,
                State::Subscribed { .. } => self.receive().await,
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    /// One attempt, after its wait.
    async fn reconnect(&mut self) -> Option<RuntimeEvent> {
        let State::Away { told, retry } = self.state else { return None };
        // With jitter: the agents of one machine share its engine.
        let wait = retry.mul_f64(rand::rng().random_range(0.5..=1.0));
        time::sleep(wait).await;
        self.connection.forget();
        match subscribe(&self.connection, self.owner).await {
            Ok(events) => {
                let ping_at = Instant::now() + self.connection.limits.ping_every;
                self.state = State::Subscribed { events, ping_at };
                Some(RuntimeEvent::Reconnected)
            }
            Err(error) => {
                let longer = (retry * 2).max(FIRST_RETRY).min(self.connection.limits.reconnect);
                self.state = State::Away { told: true, retry: longer };
                (!told).then(|| unavailable(&error))
            }
        }
    }

    /// One event, or what ends the subscription.
    async fn receive(&mut self) -> Option<RuntimeEvent> {
        let State::Subscribed { events, ping_at } = &mut self.state else { return None };
        let ended = tokio::select! {
            biased;
            event = events.next() => match event {
                Some(Ok(message)) => return changed(&message),
                Some(Err(error)) => error,
                None => CallError::NoAnswer("the engine ended the stream of events".to_owned()),
            },
            () = time::sleep_until(*ping_at) => match ping(&self.connection).await {
                Ok(()) => {
                    *ping_at = Instant::now() + self.connection.limits.ping_every;
                    return None;
                }
                Err(error) => error,
            },
        };
        self.state = State::Away { told: true, retry: FIRST_RETRY };
        Some(unavailable(&ended))
    }
}

async fn subscribe(connection: &Connection, owner: Owner) -> Result<Subscription, CallError> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(OVERLAP);
    ping(connection).await?;
    let options = EventsOptions {
        since: Some(format!("{}.{:09}", since.as_secs(), since.subsec_nanos())),
        until: None,
        filters: Some(filters(owner)),
    };
    let docker = connection.docker().await?;
    Ok(docker.events(Some(options)).map(|event| event.map_err(CallError::from)).boxed())
}

async fn ping(connection: &Connection) -> Result<(), CallError> {
    let limit = connection.limits.read;
    connection.call(limit, |docker| async move { docker.ping().await }).await.map(drop)
}

fn filters(owner: Owner) -> HashMap<String, Vec<String>> {
    HashMap::from([
        ("type".to_owned(), vec!["container".to_owned()]),
        ("label".to_owned(), labels::filter(owner, None)),
        ("event".to_owned(), ACTIONS.map(str::to_owned).to_vec()),
    ])
}

fn changed(message: &EventMessage) -> Option<RuntimeEvent> {
    let actor = message.actor.as_ref()?;
    let instance = actor.attributes.as_ref()?.get(labels::INSTANCE)?.parse().ok()?;
    Some(RuntimeEvent::Changed { instance, container: actor.id.clone()? })
}

fn unavailable(error: &CallError) -> RuntimeEvent {
    RuntimeEvent::Unavailable { reason: error.to_string() }
}
