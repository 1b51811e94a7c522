//! The way to the cluster: any master, the next one when it does not help.
//!
//! Invariant: a write is repeated with the body it was first sent with, so with the same
//! `request_id`; what carries none is repeated only when it certainly was not done.
//! Deliberately not here: what is asked (`api`), streams that resume (`watch`).

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    future::Future,
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

use crate::failure::{Attempt, Failure, Refusal};

pub const DEFAULT_PORT: u16 = 7070;
/// A master on the same continent answers a SYN in less.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A call that takes longer is tried at another master: writes take milliseconds, elections a second.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// A master without a leader says so within two seconds.
const LAST_WRITE: Duration = Duration::from_secs(3);
/// How long nobody may answer before it is said so; masters that have just been started need it.
const FIRST_CONTACT: Duration = Duration::from_secs(2);
/// Silence that a user does not wonder about.
const NOTICE_AFTER: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A dead connection is noticed within twice this.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// What may be repeated after a connection was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Changes nothing.
    Read,
    /// A write that carries a `request_id`.
    Write,
    /// Only when it certainly was not done.
    WhenNotDone,
}

/// Where a line about waiting goes.
pub type Notice = Box<dyn Fn(&str)>;

pub struct Masters {
    addresses: Vec<String>,
    current: Cell<usize>,
    channels: RefCell<BTreeMap<usize, Channel>>,
    /// Some master has answered since the command began.
    reached: Cell<bool>,
    patience: Duration,
    notice: Notice,
}

/// `host`, `host:port` or `http://host:port`, as `host:port`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_address(text: &str) -> Result<String, String> {
    let bare = text.trim();
    let bare = bare.strip_prefix("http://").unwrap_or(bare).trim_end_matches('/');
    if bare.starts_with("https://") {
        return Err(format!("{text}: TLS is not supported yet"));
    }
    let has_port = bare.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && port.parse::<u16>().is_ok_and(|port| port > 0)
            && (!host.contains(':') || host.ends_with(']'))
    });
    let address = if has_port { bare.to_owned() } else { format!("{bare}:{DEFAULT_PORT}") };
    let is_bad = bare.is_empty() || (!has_port && bare.contains(':') && !bare.ends_with(']'));
    if is_bad || Endpoint::from_shared(format!("http://{address}")).is_err() {
        return Err(format!("{text:?} is not the address of a master: HOST:PORT"));
    }
    Ok(address)
}

/// What an answer means for the one who asked.
enum Verdict {
    /// Tell the user.
    Final,
    /// Another master, or the same later, may do better.
    Again { reason: String, outcome_unknown: bool, connection_lost: bool, pause: Option<Duration> },
}

fn judge(status: &Status, repeat: Repeat) -> Verdict {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
    let is_local = std::error::Error::source(status).is_some();
    let not_done = reason == "NO_LEADER";
    let unknown = reason == "OUTCOME_UNKNOWN";
    let connection_lost =
        is_local || (reason.is_empty() && matches!(status.code(), Code::Unavailable | Code::Cancelled));
    let passing = not_done
        || unknown
        || connection_lost
        || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded);
    if !passing || (repeat == Repeat::WhenNotDone && !not_done) {
        return Verdict::Final;
    }
    Verdict::Again {
        reason: if is_local { last_source(status) } else { status.message().to_owned() },
        outcome_unknown: !not_done,
        connection_lost,
        pause: details.retry_info().and_then(|info| info.retry_delay),
    }
}

/// The end of the chain: `Connection refused` instead of `transport error`.
fn last_source(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

impl Masters {
    /// # Panics
    /// Never; an empty list is a usage error of the caller and answers as unreachable.
    pub fn new(addresses: Vec<String>, patience: Duration, notice: Notice) -> Self {
        Self {
            addresses,
            current: Cell::new(0),
            channels: RefCell::default(),
            reached: Cell::new(false),
            patience,
            notice,
        }
    }

    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// A connection to the master that answered last, or to the next that answers now.
    ///
    /// # Errors
    /// Why this master cannot be had; the next call tries the next.
    pub async fn connect(&self) -> Result<(String, Channel), Attempt> {
        let index = self.current.get();
        let Some(address) = self.addresses.get(index) else {
            return Err(Attempt {
                address: "no address".to_owned(),
                reason: "no master is configured".to_owned(),
            });
        };
        if let Some(channel) = self.channels.borrow().get(&index) {
            return Ok((address.clone(), channel.clone()));
        }
        match connect_to(address).await {
            Ok(channel) => {
                self.channels.borrow_mut().insert(index, channel.clone());
                Ok((address.clone(), channel))
            }
            Err(reason) => {
                self.move_on();
                Err(Attempt { address: address.clone(), reason })
            }
        }
    }

    /// The current master is of no use: the next one's turn.
    pub fn move_on(&self) {
        let index = self.current.get();
        self.channels.borrow_mut().remove(&index);
        self.current.set((index + 1) % self.addresses.len().max(1));
    }

    /// Asks until an answer counts.
    ///
    /// # Errors
    /// What the cluster refused, or that nobody could be asked.
    pub async fn call<T, F, Fut>(&self, repeat: Repeat, ask: F) -> Result<T, Failure>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut search = Search::begin(self, repeat);
        loop {
            let (attempt, verdict) = match self.connect().await {
                Err(attempt) => (attempt, None),
                Ok((address, channel)) => {
                    let limit = match repeat {
                        Repeat::Read => ATTEMPT_TIMEOUT.min(search.left()),
                        // A write that was begun late is waited for, so that its outcome is known.
                        Repeat::Write => ATTEMPT_TIMEOUT.min(search.left().max(LAST_WRITE)),
                        Repeat::WhenNotDone => search.left(),
                    };
                    let status = match timeout(limit, ask(channel)).await {
                        Ok(Ok(response)) => {
                            self.reached.set(true);
                            return Ok(response.into_inner());
                        }
                        Ok(Err(status)) => status,
                        Err(_) => Status::deadline_exceeded(format!("no answer within {}", spell(limit))),
                    };
                    match judge(&status, repeat) {
                        Verdict::Final => return Err(Failure::Refused(Refusal::from(status))),
                        Verdict::Again { reason, outcome_unknown, connection_lost, pause } => {
                            if !connection_lost {
                                self.reached.set(true);
                            }
                            search.outcome_unknown |= outcome_unknown && repeat != Repeat::Read;
                            self.move_on();
                            (Attempt { address, reason }, pause)
                        }
                    }
                }
            };
            search.pause(attempt, verdict).await?;
        }
    }
}

async fn connect_to(address: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| last_source(&error))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    match timeout(CONNECT_TIMEOUT, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(last_source(&error)),
        Err(_) => Err(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())),
    }
}

/// `60s`, `200ms`.
pub fn spell(duration: Duration) -> String {
    let whole = if duration >= Duration::from_secs(1) {
        Duration::from_secs(duration.as_secs())
    } else {
        Duration::from_millis(u64::from(duration.subsec_millis()))
    };
    humantime::format_duration(whole).to_string()
}

/// One search for a useful answer.
pub struct Search<'a> {
    masters: &'a Masters,
    repeat: Repeat,
    began: Instant,
    tried: BTreeMap<String, String>,
    failures: usize,
    pause: Duration,
    noticed: BTreeSet<String>,
    outcome_unknown: bool,
}

impl<'a> Search<'a> {
    pub fn begin(masters: &'a Masters, repeat: Repeat) -> Self {
        Self {
            masters,
            repeat,
            began: Instant::now(),
            tried: BTreeMap::new(),
            failures: 0,
            pause: FIRST_PAUSE,
            noticed: BTreeSet::new(),
            outcome_unknown: false,
        }
    }

    fn left(&self) -> Duration {
        self.masters.patience.saturating_sub(self.began.elapsed())
    }

    /// After a master did not help: waits when all have been tried.
    ///
    /// # Errors
    /// When the time is over.
    pub async fn pause(&mut self, attempt: Attempt, asked: Option<Duration>) -> Result<(), Failure> {
        let cut_short = self.left().is_zero() && self.tried.contains_key(&attempt.address);
        if !cut_short {
            self.tried.insert(attempt.address.clone(), attempt.reason.clone());
        }
        let attempt = Attempt { reason: self.tried[&attempt.address].clone(), ..attempt };
        self.failures += 1;
        let round_is_over = self.failures.is_multiple_of(self.masters.addresses.len().max(1));
        let nobody = !self.masters.reached.get();
        if self.left().is_zero() || (nobody && round_is_over && self.began.elapsed() >= FIRST_CONTACT) {
            return Err(self.give_up(attempt, nobody));
        }
        if self.began.elapsed() >= NOTICE_AFTER && self.noticed.insert(attempt.to_string()) {
            (self.masters.notice)(&format!("waiting for an answer ({attempt})"));
        }
        if round_is_over {
            let jitter = 0.5 + rand::random::<f64>() / 2.0;
            sleep(asked.unwrap_or(self.pause).min(LONGEST_PAUSE).mul_f64(jitter).min(self.left())).await;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        Ok(())
    }

    fn give_up(&self, last: Attempt, nobody: bool) -> Failure {
        if nobody {
            let order = self.masters.addresses.iter();
            let attempts = order.filter_map(|address| {
                let reason = self.tried.get(address)?.clone();
                Some(Attempt { address: address.clone(), reason })
            });
            return Failure::Unreachable(attempts.collect());
        }
        Failure::GaveUp {
            after: self.began.elapsed(),
            last,
            repeat: self.repeat,
            outcome_unknown: self.outcome_unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, address) in [
            ("m1", "m1:7070"),
            ("m1:80", "m1:80"),
            (" 10.0.0.1 ", "10.0.0.1:7070"),
            ("http://m1:7070/", "m1:7070"),
            ("[::1]:7070", "[::1]:7070"),
            ("[::1]", "[::1]:7070"),
        ] {
            assert_eq!(parse_address(text).as_deref(), Ok(address), "{text}");
        }
        for text in ["", "m1:", "m1:x", "m1:70000", "::1", "https://m1", "a b", "http://"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }
}
