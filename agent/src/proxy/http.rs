//! HTTP through the balancer: each request to one endpoint, over connections that are used again.
//!
//! Clients speak HTTP/1.1 or HTTP/2, endpoints what their service says; each request is one lease whatever it shares its
//! connection with. Invariant: a request is sent a second time only when the endpoint cannot have seen it, or when it is
//! idempotent and has no body; never more often than the service's budget allows. Whatever comes from either side is
//! answered with a status or the end of the connection; nothing is kept whole in memory but heads.
//! Deliberately not here: which endpoint (`front`), heads (`headers`), what the proxy says itself (`refusal`).

use std::{net::SocketAddr, pin::Pin, pin::pin, rc::Rc, sync::Arc, time::Duration};

use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Body, Incoming},
    header,
    header::{HeaderValue, InvalidHeaderValue},
    server::conn::{http1, http2},
    service::service_fn,
    upgrade::{self, OnUpgrade},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use skein_agent_core::balance::key;
use skein_common::{
    InstanceId,
    service::{Algorithm, HashBy, Upstream},
};
use tokio::{task, time, time::Instant};

use super::{
    body::{Answer, Passed, RequestBody, ResponseBody, Rest},
    client::{ClientStream, Moved, stillness},
    front::{Front, Held, Wish},
    headers::{self, Client},
    refusal::{self, ForwardError},
    site::{Entry, Target},
    thread::{Local, Place},
    upstream::{Sender, Upstreams},
};

/// A request's head; beyond it 431.
const MAX_HEAD_BYTES: u32 = 64 << 10;
/// From the first byte of a connection or the end of an answer to the end of the next head.
const HEAD_WITHIN: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 60 });
/// Requests under way on one connection of HTTP/2.
const MAX_STREAMS: u32 = 250;
/// What a client may send ahead of a slow endpoint, for one request and for all of its connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What waits for a slow client, of one request.
const SEND_BUFFER: usize = 64 << 10;

/// One client's connection.
struct Connection {
    entry: Entry,
    client: Client,
    upstreams: Rc<Upstreams>,
    moved: Moved,
    /// Held by what outlives the connection, too: an upgraded one.
    place: Rc<Place>,
}

/// Serves one client's connection until either side ends it, or the port is given up and nothing is under way.
pub(crate) async fn serve(
    mut stream: ClientStream,
    peer: SocketAddr,
    entry: Entry,
    upstreams: Rc<Upstreams>,
    place: Rc<Place>,
) {
    let h2 = tokio::select! {
        spoken = time::timeout(HEAD_WITHIN, stream.is_h2()) => spoken,
        () = place.closing() => return,
    };
    let Ok(Ok(is_h2)) = h2 else { return };
    let moved = stream.moved();
    let client = Client::of(peer, stream.has_tls());
    let connection = Rc::new(Connection { entry, client, upstreams, moved, place });
    let (served, io) = (Rc::clone(&connection), TokioIo::new(stream));
    let service = service_fn(move |request| answer(Rc::clone(&served), request));
    let ended = if is_h2 {
        let serving = http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEAD_BYTES)
            .serve_connection(io, service);
        connection.drive(serving, |serving| serving.graceful_shutdown()).await
    } else {
        let serving = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES as usize)
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .serve_connection(io, service)
            .with_upgrades();
        connection.drive(serving, |serving| serving.graceful_shutdown()).await
    };
    if let Some(Err(error)) = ended {
        tracing::trace!(error = &error as &dyn std::error::Error, %peer, "a client's connection ended");
    }
}

impl Connection {
    /// Until it ends; one on which nothing moves is ended, one whose port is given up is asked to.
    async fn drive<C: Future>(&self, serving: C, give_up: impl FnOnce(Pin<&mut C>)) -> Option<C::Output> {
        let mut serving = pin!(serving);
        let mut still = pin!(stillness(&self.moved, self.entry.idle()));
        tokio::select! {
            biased;
            ended = &mut serving => return Some(ended),
            () = &mut still => return None,
            () = self.place.closing() => give_up(serving.as_mut()),
        }
        tokio::select! {
            ended = serving => Some(ended),
            () = still => None,
        }
    }
}

/// One request and its answer.
struct Exchange {
    connection: Rc<Connection>,
    front: Arc<Front>,
}

/// A try that failed, and the request when it can be tried again.
struct Failed {
    error: ForwardError,
    request: Option<Request<RequestBody>>,
}

async fn answer(connection: Rc<Connection>, request: Request<Incoming>) -> Answer {
    let Ok(host) = headers::host(&request) else { return Ok(refusal::bad_request()) };
    if request.method() == Method::CONNECT {
        return Ok(refusal::no_tunnel());
    }
    let front = match &connection.entry {
        Entry::Front(front) => Arc::clone(front),
        Entry::Site(site) => {
            let state = site.state();
            match state.routes.find(host.unwrap_or_default(), request.uri().path()) {
                Some(Target::Service(front)) => Arc::clone(front),
                Some(Target::Redirect(port)) => {
                    return Ok(refusal::redirect(host.unwrap_or_default(), *port, request.uri()));
                }
                None => return Ok(refusal::no_route()),
            }
        }
    };
    Exchange { connection, front }.answer(request).await
}

impl Exchange {
    async fn answer(self, mut request: Request<Incoming>) -> Answer {
        let (wish, upstream) = {
            let state = self.front.state();
            let wanted = state.policy.affinity.and_then(|_| self.wanted(&request));
            let key = self.key(&state.policy.algorithm, &request);
            (Wish { key, wanted }, state.policy.upstream)
        };
        let asks = refusal::Asks::of(&request);
        let can_upgrade = upstream == Upstream::Http1 && request.version() == Version::HTTP_11;
        let upgrading =
            (can_upgrade && headers::is_upgrade(request.headers())).then(|| upgrade::on(&mut request));
        if headers::forward(&mut request, &self.connection.client, upstream).is_err() {
            return Ok(refusal::bad_request());
        }
        match self.forward(request.map(RequestBody::streamed), wish).await {
            Ok((held, sender, response)) => Ok(self.pass(held, sender, response, upgrading)),
            Err(error) => Ok(refusal::failed(&self.front.name, &error, asks)),
        }
    }

    /// To one endpoint after the other, until one answers.
    async fn forward(
        &self,
        mut request: Request<RequestBody>,
        wish: Wish,
    ) -> Result<(Held, Sender, Response<Incoming>), ForwardError> {
        let mut tried: Vec<InstanceId> = Vec::new();
        let mut last = None;
        loop {
            let mut held = match self.front.lease(wish, &tried).await {
                Ok(held) => held,
                Err(why) => return Err(last.unwrap_or(ForwardError::NoEndpoint(why))),
            };
            match self.send(&held, request).await {
                Ok((sender, response)) => {
                    held.note(refusal::ending(&response));
                    return Ok((held, sender, response));
                }
                Err(Failed { error, request: again }) => {
                    held.note(error.ending());
                    tried.push(held.endpoint().instance);
                    request = match again {
                        Some(again) if self.front.may_retry(tried.len(), error.was_sent()) => again,
                        _ => return Err(error),
                    };
                    last = Some(error);
                }
            }
        }
    }

    async fn send(
        &self,
        held: &Held,
        mut request: Request<RequestBody>,
    ) -> Result<(Sender, Response<Incoming>), Failed> {
        let (address, timeouts) = (held.endpoint().address, held.policy().timeouts);
        let (spare, passed) = (spare(&request), request.body().passed());
        request.body_mut().count_for(held.load());
        let is_h2 = request.version() == Version::HTTP_2;
        let limit = timeouts.request;
        let upstreams = &self.connection.upstreams;
        // The endpoint may have closed a connection that waited: that is nobody's failure.
        while let Some(mut sender) = upstreams.take(address, is_h2) {
            match within(limit, passed.as_deref(), sender.try_send(request)).await {
                None => return Err(Failed { error: ForwardError::Late(limit), request: None }),
                Some(Ok(response)) => return Ok((sender, response)),
                Some(Err(mut error)) => match error.take_message().or_else(|| spare.as_ref().map(copy)) {
                    Some(again) => request = again,
                    None => {
                        let error = ForwardError::Broken(error.into_error());
                        return Err(Failed { error, request: None });
                    }
                },
            }
        }
        let mut sender = match upstreams.connect(address, is_h2, timeouts.connect).await {
            Ok(sender) => sender,
            Err(error) => return Err(Failed { error: error.into(), request: Some(request) }),
        };
        match within(limit, passed.as_deref(), sender.try_send(request)).await {
            None => Err(Failed { error: ForwardError::Late(limit), request: None }),
            Some(Ok(response)) => Ok((sender, response)),
            Some(Err(mut error)) => {
                let request = error.take_message().or(spare);
                Err(Failed { error: ForwardError::Broken(error.into_error()), request })
            }
        }
    }

    fn pass(
        &self,
        held: Held,
        sender: Sender,
        mut response: Response<Incoming>,
        upgrading: Option<OnUpgrade>,
    ) -> Response<ResponseBody> {
        let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        headers::answer(response.headers_mut(), is_upgrade);
        if let Some(time) = held.policy().affinity
            && let Ok(cookie) = self.remembering(held.mark(), time)
        {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        if is_upgrade && let Some(client) = upgrading {
            let endpoint = upgrade::on(&mut response);
            task::spawn_local(tunnel(client, endpoint, held, Rc::clone(&self.connection)));
            return response.map(|_| ResponseBody::Line(None));
        }
        let upstreams = Rc::clone(&self.connection.upstreams);
        let rest = Rest { held, sender: Some(sender), upstreams };
        response.map(|body| ResponseBody::streamed(body, rest))
    }

    /// The endpoint that the client had, as its cookie says.
    fn wanted(&self, request: &Request<Incoming>) -> Option<u64> {
        let value = cookie(request, &self.cookie_name())?;
        u64::from_str_radix(value, 16).ok()
    }

    /// Sent with every answer, so the time begins anew with each.
    fn remembering(&self, mark: u64, time: Duration) -> Result<HeaderValue, InvalidHeaderValue> {
        let (name, seconds) = (self.cookie_name(), time.as_secs());
        format!("{name}={mark:016x}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Lax").parse()
    }

    fn cookie_name(&self) -> String {
        format!("skein-{}", self.front.name)
    }

    /// What consistent hashing goes by; `None` = this request has none, or the policy hashes nothing.
    fn key(&self, algorithm: &Algorithm, request: &Request<Incoming>) -> Option<u64> {
        match algorithm {
            Algorithm::ConsistentHash { by: HashBy::Source } => {
                Some(key(self.connection.client.source.to_string().as_bytes()))
            }
            Algorithm::ConsistentHash { by: HashBy::Path } => Some(key(request.uri().path().as_bytes())),
            Algorithm::ConsistentHash { by: HashBy::Header(name) } => {
                request.headers().get(name.as_str()).map(|value| key(value.as_bytes()))
            }
            Algorithm::ConsistentHash { by: HashBy::Cookie(name) } => {
                cookie(request, name).map(|value| key(value.as_bytes()))
            }
            Algorithm::RoundRobin | Algorithm::Random | Algorithm::LeastRequests | Algorithm::Adaptive => {
                None
            }
        }
    }
}

/// The time is the endpoint's, so it begins when the whole request has passed.
async fn within<T>(limit: Duration, passed: Option<&Passed>, work: impl Future<Output = T>) -> Option<T> {
    let Some(passed) = passed else { return time::timeout(limit, work).await.ok() };
    let (mut work, mut until) = (pin!(work), Instant::now() + limit);
    loop {
        if let Ok(done) = time::timeout_at(until, &mut work).await {
            return Some(done);
        }
        let begun = passed.at().unwrap_or_else(Instant::now);
        if begun + limit <= Instant::now() {
            return None;
        }
        until = begun + limit;
    }
}

/// A copy to send again, if that can do no harm: idempotent and without a body (RFC 9110, 9.2.2).
fn spare(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let is_harmless = request.method().is_idempotent() && request.body().is_end_stream();
    (is_harmless && !request.headers().contains_key(header::UPGRADE)).then(|| copy(request))
}

fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

fn cookie<'a>(request: &'a Request<Incoming>, name: &str) -> Option<&'a str> {
    let cookies = request.headers().get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Both sides speak another protocol from here on; the endpoint is held until they end, or nothing moves.
async fn tunnel(client: OnUpgrade, endpoint: OnUpgrade, held: Held, connection: Rc<Connection>) {
    if let (Ok(client), Ok(endpoint)) = (client.await, endpoint.await) {
        let (mut client, mut endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut endpoint) => {}
            () = stillness(&connection.moved, held.policy().timeouts.idle) => {}
        }
    }
    drop(held);
}
