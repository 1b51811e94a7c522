//! The agent's side of the session with the leader: one stream at a time, for ever.
//!
//! Invariant: one way through: dial, Hello with everything the node holds, serve, and when that
//! ended for whatever reason, again. No state survives a stream but the dialler's; so nothing
//! can be half told. Without masters the agent goes on alone (`worker`).
//! Deliberately not here: assignments (`worker`), samples (`usage`).

mod dialer;
mod stream;
mod telling;

use std::{error::Error, sync::Arc, time::Duration};

use rand::RngExt;
use skein_common::{NodeId, node::NodeDescription};
use skein_proto::{AGENT_PROTOCOL, convert::Hello};
use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

pub(crate) use self::stream::Parts;
use self::{
    dialer::{Dial, Dialer},
    stream::End,
};
use crate::runtime::ContainerRuntime;

/// A machine that is gone does not answer at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Of the transport, for what has no heartbeats of its own (logs being pushed).
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// The engine's version is asked for before a Hello until it is known.
const VERSION_LIMIT: Duration = Duration::from_secs(1);

/// To whom the agent is connected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connection {
    /// API address of the leader; `None` while there is no session.
    pub leader: Option<String>,
    pub term: u64,
    /// Sessions so far.
    pub sessions: u64,
}

/// What a session is made of.
pub(crate) struct SessionConfig {
    pub(crate) masters: Vec<String>,
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    /// Without the engine's version, which is not known yet.
    pub(crate) description: NodeDescription,
}

pub(crate) struct Session<R> {
    config: SessionConfig,
    runtime: Arc<R>,
    parts: Parts<R>,
    dialer: Dialer,
    connection: watch::Sender<Connection>,
    /// Why there is no session; said once.
    condition: String,
}

impl<R: ContainerRuntime> Session<R> {
    pub(crate) fn new(
        config: SessionConfig,
        runtime: Arc<R>,
        parts: Parts<R>,
        connection: watch::Sender<Connection>,
    ) -> (Self, watch::Receiver<Connection>) {
        let dialer = Dialer::new(config.masters.clone(), dice());
        let connected = connection.subscribe();
        (Self { config, runtime, parts, dialer, connection, condition: String::new() }, connected)
    }

    /// Until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.sessions() => {}
        }
    }

    /// Ends when the worker has.
    async fn sessions(&mut self) {
        // A Hello that leaves out what runs would have it replaced.
        let mut holdings = self.parts.worker.holdings();
        while holdings.wait_for(|holdings| holdings.complete).await.is_ok() {
            let Dial { address, wait } = self.dialer.next(dice());
            if !wait.is_zero() {
                time::sleep(wait).await;
            }
            let end = self.session(&address).await;
            self.connection.send_if_modified(|connection| connection.leader.take().is_some());
            match &end {
                End::Redirected { leader, masters } => self.dialer.redirected(leader, masters.clone()),
                End::Ending => return,
                _ => self.dialer.failed(),
            }
            self.explain(&address, &end);
        }
    }

    async fn session(&mut self, address: &str) -> End {
        let channel = match connect(address).await {
            Ok(channel) => channel,
            Err(error) => return End::Unreachable(error),
        };
        self.learn_runtime_version().await;
        let hello = self.hello();
        let stream = match stream::open(channel, address, hello, &mut self.parts).await {
            Ok(stream) => stream,
            Err(end) => return end,
        };
        let welcome = stream.welcome();
        tracing::info!(leader = address, term = welcome.term, "connected to the leader");
        self.condition.clear();
        self.dialer.welcomed(welcome.masters.clone());
        let term = welcome.term;
        self.connection.send_modify(|connection| {
            let sessions = connection.sessions + 1;
            *connection = Connection { leader: Some(address.to_owned()), term, sessions };
        });
        let end = stream.serve(dice()).await;
        tracing::info!(leader = address, reason = %end, "the session ended");
        end
    }

    fn hello(&self) -> Hello {
        Hello {
            protocol: AGENT_PROTOCOL,
            cluster_id: self.parts.worker.cluster(),
            node_id: self.config.node,
            incarnation: self.config.incarnation,
            term: self.parts.worker.term(),
            description: self.config.description.clone(),
            instances: Vec::new(),
        }
    }

    /// An engine that is away does not keep the node away.
    async fn learn_runtime_version(&mut self) {
        let known = &mut self.config.description.runtime_version;
        if known.is_empty()
            && let Ok(Ok(version)) = time::timeout(VERSION_LIMIT, self.runtime.version()).await
        {
            *known = version;
        }
    }

    /// Says why there is no session, when that is something else than before.
    fn explain(&mut self, address: &str, end: &End) {
        let error = end as &dyn Error;
        let condition = match end {
            End::Redirected { leader, .. } if !leader.is_empty() => return,
            // An election, a restart, a leader that went: the next dial tells.
            End::Redirected { .. } | End::Closed | End::Silent(_) | End::Broken(_) | End::Ending => {
                tracing::debug!(master = address, error, "no session");
                return;
            }
            End::Unreachable(_) | End::NoWelcome => "unreachable".to_owned(),
            End::Refused(_) | End::NotObeyed(_) | End::OtherTerm { .. } | End::Malformed(_) => {
                format!("{address}: {}", chain(end))
            }
        };
        if self.condition == condition {
            return;
        }
        if condition == "unreachable" {
            tracing::info!(master = address, error, "a master cannot be reached; containers go on");
        } else {
            tracing::warn!(master = address, error, "this master cannot be worked with");
        }
        self.condition = condition;
    }
}

/// An error and what caused it, on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

pub(crate) async fn connect(address: &str) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_LIMIT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect()
        .await
}

fn dice() -> f64 {
    rand::rng().random_range(0.0..1.0)
}
