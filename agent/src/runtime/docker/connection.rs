//! The way to the engine: dials when first needed, agrees on an API version, bounds every call.
//!
//! Invariant: no call outlives its limit, whatever the engine does; and none needs the engine
//! to be there when the agent starts.
//! Deliberately not here: what an answer means (`call_error`), keeping connections open (one
//! over a unix socket costs some 50 µs, and a kept one fails the first call after a restart).

use std::{
    future::Future,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker, errors::Error as BollardError};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time,
};

use super::{bridge, call_error::CallError};

/// bollard's own limit, out of the way: ours cover the body too.
const BOLLARD_TIMEOUT_SECONDS: u64 = 7 * 24 * 3600;

/// `--docker-host` names no engine we can dial.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no Docker host: unix:///path/to/docker.sock and tcp://host:port are allowed")]
pub struct InvalidHost(pub String);

/// How long calls may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of a call that only reads.
    pub read: Duration,
    /// Of create and remove; stop has this beyond its grace.
    pub change: Duration,
    /// Of start, which does the most: 2 s each when two busy cores start eight at a time.
    pub start: Duration,
    /// A pull without any progress for so long has failed.
    pub pull_idle: Duration,
    /// Between two questions whether the engine still answers, while events are awaited.
    pub ping_every: Duration,
    /// Longest wait between two attempts to reach an engine that is away.
    pub reconnect: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            read: Duration::from_secs(10),
            change: Duration::from_secs(15),
            start: Duration::from_secs(30),
            pull_idle: Duration::from_secs(60),
            ping_every: Duration::from_secs(10),
            reconnect: Duration::from_secs(5),
        }
    }
}

/// Bytes both ways.
pub(super) type Wire = Box<dyn Duplex>;

pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

#[derive(Debug, Clone)]
enum Host {
    /// Path of the socket.
    Unix(String),
    /// `host:port`.
    Tcp(String),
}

/// A cheap handle; clones share what was agreed on.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    host: Host,
    pub limits: Limits,
    agreed: Arc<Mutex<Option<Docker>>>,
}

impl Connection {
    pub fn new(host: &str, limits: Limits) -> Result<Self, InvalidHost> {
        let invalid = || InvalidHost(host.to_owned());
        let (scheme, address) = host.split_once("://").ok_or_else(invalid)?;
        let host = match scheme {
            "unix" if address.starts_with('/') => Host::Unix(address.to_owned()),
            "tcp" | "http" if !address.is_empty() && !address.contains(['/', '@', '?', '#']) => {
                Host::Tcp(address.to_owned())
            }
            _ => return Err(invalid()),
        };
        Ok(Self { host, limits, agreed: Arc::default() })
    }

    /// One call; `limit` covers it whole, its body too.
    pub async fn call<T, F>(&self, limit: Duration, request: impl FnOnce(Docker) -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, BollardError>>,
    {
        let whole = async {
            let docker = self.docker().await?;
            request(docker).await.map_err(CallError::from)
        };
        let answer = time::timeout(limit, whole)
            .await
            .unwrap_or_else(|_| Err(CallError::NoAnswer(format!("no answer within {limit:?}"))));
        match answer {
            Err(CallError::Refused { status: 400, message }) if is_about_version(&message) => {
                self.forget();
                Err(CallError::NoAnswer(message))
            }
            answer => answer,
        }
    }

    /// The client, after agreeing on a version with whoever answers now.
    pub async fn docker(&self) -> Result<Docker, CallError> {
        if let Some(docker) = self.lock().as_ref() {
            return Ok(docker.clone());
        }
        let docker = self.dial()?.negotiate_version().await?;
        let version = docker.client_version().to_string();
        let docker = docker.with_request_modifier(move |request| versioned(request, &version));
        if matches!(self.host, Host::Unix(_)) {
            bridge::check();
        }
        *self.lock() = Some(docker.clone());
        Ok(docker)
    }

    /// The engine may have been replaced by another version: agree again before the next call.
    pub fn forget(&self) {
        *self.lock() = None;
    }

    /// A connection of its own, for what no client of HTTP can carry.
    pub async fn wire(&self) -> io::Result<Wire> {
        Ok(match &self.host {
            Host::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Host::Tcp(address) => Box::new(TcpStream::connect(address).await?),
        })
    }

    fn dial(&self) -> Result<Docker, CallError> {
        let docker = match &self.host {
            Host::Unix(path) => Docker::connect_with_unix(path, BOLLARD_TIMEOUT_SECONDS, API_DEFAULT_VERSION),
            Host::Tcp(address) => {
                Docker::connect_with_http(address, BOLLARD_TIMEOUT_SECONDS, API_DEFAULT_VERSION)
            }
        };
        docker.map_err(CallError::from)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Docker>> {
        self.agreed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// bollard agrees on a version and then asks without any, which means the daemon's newest:
/// a daemon newer than bollard would answer in shapes it does not know.
fn versioned(mut request: BollardRequest, version: &str) -> BollardRequest {
    let mut parts = request.uri().clone().into_parts();
    let path = parts.path_and_query.as_ref().map_or("/", |path| path.as_str());
    parts.path_and_query = format!("/v{version}{path}").parse().ok();
    // Both hold for every path bollard makes; otherwise the request goes out as it was.
    if let Ok(uri) = parts.try_into() {
        *request.uri_mut() = uri;
    }
    request
}

/// `client version 1.53 is too new. Maximum supported API version is 1.41`, or too old.
fn is_about_version(message: &str) -> bool {
    message.contains("client version") && message.contains("supported API version")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_we_can_dial_are_taken() {
        for (host, valid) in [
            ("unix:///var/run/docker.sock", true),
            ("tcp://127.0.0.1:2375", true),
            ("http://[::1]:2375", true),
            ("unix://docker.sock", false),
            ("https://127.0.0.1:2376", false),
            ("ssh://somewhere", false),
            ("tcp://", false),
            ("tcp://host/path", false),
            ("/var/run/docker.sock", false),
            ("", false),
        ] {
            assert_eq!(Connection::new(host, Limits::default()).is_ok(), valid, "{host}");
        }
    }
}
