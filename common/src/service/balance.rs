//! How requests to a service are shared among its instances.
//!
//! Invariant: plain values; the choice itself is made on every node (`agent/core`, `balance`).
//! A change needs no restart of any instance.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;

/// Failures in a row that take an instance out (Envoy's default).
pub const DEFAULT_EJECTION_FAILURES: u32 = 5;
/// How long the first time; n times as long the n-th time.
pub const DEFAULT_EJECTION_TIME: Duration = Duration::from_secs(30);
/// An instance that joins others is brought to its full share within this time.
pub const DEFAULT_SLOW_START: Duration = Duration::from_secs(10);
/// Requests in flight, or connections, that one node sends to one instance at most.
pub const DEFAULT_MAX_IN_FLIGHT: u32 = 10_000;
/// Requests of one service that wait on one node while no instance may take them.
pub const DEFAULT_MAX_PENDING: u32 = 1_000;
/// Tries of one request after the first.
pub const DEFAULT_RETRIES: u32 = 2;
pub const MAX_RETRIES: u32 = 3;
/// Ranges of addresses that are trusted to tell the client's.
pub const MAX_TRUSTED: usize = 64;
/// To the first byte of the answer; a stream may then take for ever.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// On a node that is gone the first packet is lost: longer than one retransmission.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Of a connection on which nothing moves (HAProxy's and nginx' examples lie between 30 s and 75 s; TCP services
/// hold connections longer).
pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// What is under way when an instance is to stop has this long.
pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two checks of one instance by one node (HAProxy's default, as are `fall` and `rise`).
pub const DEFAULT_CHECK_INTERVAL: Duration = Duration::from_secs(2);
pub const DEFAULT_CHECK_TIMEOUT: Duration = Duration::from_secs(1);
pub const DEFAULT_CHECK_FALL: u32 = 3;
pub const DEFAULT_CHECK_RISE: u32 = 2;
/// More often would be load.
pub const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(100);
pub const MAX_HOLD: Duration = Duration::from_secs(600);
pub const MAX_WEIGHTS: usize = 64;
/// So that sums of weights stay small.
pub const MAX_INSTANCE_WEIGHT: u32 = 1_000_000;
/// Weight of an instance of which nothing is said.
pub const DEFAULT_WEIGHT: u32 = 100;

/// The rules for one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BalancePolicy {
    pub mode: BalanceMode,
    pub algorithm: Algorithm,
    pub ejection: Ejection,
    /// Zero = a newcomer gets its full share at once.
    pub slow_start: Duration,
    pub limits: BalanceLimits,
    /// After the first try; at most [`MAX_RETRIES`], and within a budget of 20 % of all requests.
    pub retries: u32,
    pub timeouts: BalanceTimeouts,
    /// Nothing in mode tcp.
    pub upstream: Upstream,
    /// An instance is told the client's address in front of each connection (PROXY protocol, version 2); in mode tcp only.
    pub send_proxy: bool,
    /// Who connects from here says first for whom (PROXY protocol, version 2), or is sent away. At most [`MAX_TRUSTED`].
    pub proxy_from: Vec<Cidr>,
    /// By the node an instance is on; the first that matches holds, else [`DEFAULT_WEIGHT`]. At most [`MAX_WEIGHTS`].
    pub weights: Vec<NodeWeight>,
    /// Of all requests the part, in thousandths, that canaries get together while they wait to be promoted;
    /// `None` = as weights say.
    pub canary_permille: Option<u16>,
    /// Balancers look by themselves whether an instance is well; `None` = they go by readiness and failures.
    pub check: Option<ActiveCheck>,
    /// A client goes back to the instance it had within this time: by a cookie in mode http, by its address in mode tcp.
    pub affinity: Option<Duration>,
}

/// The weight of all instances on nodes with a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeWeight {
    /// Of the node.
    pub label: String,
    pub value: String,
    /// Zero = no new requests.
    pub weight: u32,
}

/// Each node's balancer connects to each instance now and then. Never more than half of the instances are out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ActiveCheck {
    /// A GET of it must be answered with a status below 400; `None` = a connection is enough.
    pub path: Option<String>,
    pub interval: Duration,
    pub timeout: Duration,
    /// Failed checks in a row that take an instance out.
    pub fall: u32,
    /// Good ones in a row that bring it back.
    pub rise: u32,
}

/// What the balancer understands of what it forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BalanceMode {
    /// A connection goes to one instance, whatever it carries.
    Tcp,
    /// Every request is shared out: HTTP/1.1, HTTP/2, gRPC, WebSocket.
    Http,
}

/// What instances speak in mode http.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Upstream {
    #[default]
    Http1,
    /// HTTP/2 without TLS and without asking first: gRPC.
    H2c,
}

/// Which instance takes the next request (in mode tcp: connection).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// One after the other, by weight and evenly interleaved (nginx' smooth weighted round robin).
    RoundRobin,
    /// By weight, each request for itself.
    Random,
    /// Of two drawn by weight the one with fewer requests in flight per weight
    /// (Mitzenmacher, The Power of Two Choices).
    LeastRequests,
    /// Of three drawn by weight: the quickest of those that are not hot, else the least loaded
    /// (the hot/cold rule of Prequal, NSDI'24).
    Adaptive,
    /// The same key goes to the same instance as long as that has room (consistent hashing with bounded loads,
    /// Mirrokni et al.).
    ConsistentHash { by: HashBy },
}

/// What makes two requests alike. In mode tcp only `Source` exists.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HashBy {
    /// The client's address.
    Source,
    /// A request header's value; a request without it is shared out at random.
    Header(String),
    /// A cookie's value; a request without it is shared out at random.
    Cookie(String),
    /// The path, without the query.
    Path,
}

/// When an instance that keeps failing gets no requests for a while. Never more than half of the instances are out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ejection {
    /// Failures in a row; zero = never.
    pub failures: u32,
    /// The first time; n times as long the n-th time.
    pub time: Duration,
}

/// Of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BalanceLimits {
    /// Requests in flight (in mode tcp: connections) to one instance.
    pub in_flight: u32,
    /// Requests of the service that wait for an instance; more are refused at once.
    pub pending: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BalanceTimeouts {
    pub connect: Duration,
    /// To the head of the answer.
    pub request: Duration,
    /// Nothing moved on a connection.
    pub idle: Duration,
    /// What is under way when an instance is to stop.
    pub drain: Duration,
    /// A request waits this long while the service has no instance at all; `None` = as `connect`.
    pub hold: Option<Duration>,
}

impl Default for BalancePolicy {
    fn default() -> Self {
        Self {
            mode: BalanceMode::Tcp,
            algorithm: Algorithm::LeastRequests,
            ejection: Ejection::default(),
            slow_start: DEFAULT_SLOW_START,
            limits: BalanceLimits::default(),
            retries: DEFAULT_RETRIES,
            timeouts: BalanceTimeouts::default(),
            upstream: Upstream::default(),
            send_proxy: false,
            proxy_from: Vec::new(),
            weights: Vec::new(),
            canary_permille: None,
            check: None,
            affinity: None,
        }
    }
}

impl Default for ActiveCheck {
    fn default() -> Self {
        Self {
            path: None,
            interval: DEFAULT_CHECK_INTERVAL,
            timeout: DEFAULT_CHECK_TIMEOUT,
            fall: DEFAULT_CHECK_FALL,
            rise: DEFAULT_CHECK_RISE,
        }
    }
}

impl Default for Ejection {
    fn default() -> Self {
        Self { failures: DEFAULT_EJECTION_FAILURES, time: DEFAULT_EJECTION_TIME }
    }
}

impl Default for BalanceLimits {
    fn default() -> Self {
        Self { in_flight: DEFAULT_MAX_IN_FLIGHT, pending: DEFAULT_MAX_PENDING }
    }
}

impl Default for BalanceTimeouts {
    fn default() -> Self {
        Self {
            connect: DEFAULT_CONNECT_TIMEOUT,
            request: DEFAULT_REQUEST_TIMEOUT,
            idle: DEFAULT_IDLE_TIMEOUT,
            drain: DEFAULT_DRAIN_TIMEOUT,
            hold: None,
        }
    }
}
