//! HTTP/1.1 through the balancer: each request to one endpoint, over connections that are used again.
//!
//! Invariant: a request is sent a second time only when the endpoint cannot have seen it, or when it is idempotent and
//! has no body; never more often than the service's budget allows. Whatever comes from either side is answered with a
//! status or the end of the connection; nothing is kept whole in memory but heads.
//! Deliberately not here: which endpoint (`front`), heads (`headers`).

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
    upgrade::{self, OnUpgrade},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use skein_agent_core::balance::{Ending, NoEndpoint, key};
use skein_common::{
    InstanceId,
    service::{Algorithm, HashBy},
};
use tokio::{net::TcpStream, task, time};

use super::{
    body::{Answer, RequestBody, ResponseBody, Rest},
    front::{Front, Held},
    headers::{self, Client},
    upstream::{self, ConnectError, Sender, Upstreams},
};

/// A request's head; beyond it 431.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// From the first byte of a connection or the end of an answer to the end of the next head.
const HEAD_WITHIN: Duration = Duration::from_secs(60);

/// Serves one client's connection until either side ends it.
pub(crate) async fn serve(stream: TcpStream, peer: SocketAddr, front: Arc<Front>, upstreams: Rc<Upstreams>) {
    let client = Rc::new(Client::of(peer));
    let service = service_fn(move |request| {
        let exchange = Exchange {
            front: Arc::clone(&front),
            upstreams: Rc::clone(&upstreams),
            client: Rc::clone(&client),
        };
        exchange.answer(request)
    });
    let connection = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::trace!(error = &error as &dyn std::error::Error, %peer, "a client's connection ended");
    }
}

/// One request and its answer.
struct Exchange {
    front: Arc<Front>,
    upstreams: Rc<Upstreams>,
    client: Rc<Client>,
}

/// Why there is no answer from an endpoint.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    #[error(transparent)]
    NoEndpoint(#[from] NoEndpoint),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("the instance ended the connection before it answered")]
    Broken(#[source] hyper::Error),
}

impl ForwardError {
    /// An instance may have seen the request.
    const fn was_sent(&self) -> bool {
        matches!(self, Self::Late(_) | Self::Broken(_))
    }

    const fn ending(&self) -> Ending {
        match self {
            Self::NoEndpoint(_) | Self::Connect(_) => Ending::Unreachable,
            Self::Late(_) => Ending::Late,
            Self::Broken(_) => Ending::Broken,
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::NoEndpoint(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Connect(_) | Self::Broken(_) => StatusCode::BAD_GATEWAY,
            Self::Late(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

/// A try that failed, and the request when it can be tried again.
struct Failed {
    error: ForwardError,
    request: Option<Request<RequestBody>>,
}

impl Exchange {
    async fn answer(self, mut request: Request<Incoming>) -> Answer {
        let key = self.key(&request);
        let is_head = request.method() == Method::HEAD;
        let upgrading = headers::is_upgrade(request.headers()).then(|| upgrade::on(&mut request));
        headers::forward(&mut request, &self.client);
        match self.forward(request.map(RequestBody::streamed), key).await {
            Ok((held, sender, response)) => Ok(self.pass(held, sender, response, upgrading)),
            Err(error) => Ok(refusal(&self.front.name, &error, is_head)),
        }
    }

    /// To one endpoint after the other, until one answers.
    async fn forward(
        &self,
        mut request: Request<RequestBody>,
        key: Option<u64>,
    ) -> Result<(Held, Sender, Response<Incoming>), ForwardError> {
        let mut tried: Vec<InstanceId> = Vec::new();
        let mut last = None;
        loop {
            let mut held = match self.front.lease(key, &tried).await {
                Ok(held) => held,
                Err(why) => return Err(last.unwrap_or(ForwardError::NoEndpoint(why))),
            };
            match self.send(&held, request).await {
                Ok((sender, response)) => {
                    held.note(Ending::Answered(response.status().as_u16()));
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
        request: Request<RequestBody>,
    ) -> Result<(Sender, Response<Incoming>), Failed> {
        let (address, timeouts) = (held.endpoint().address, held.policy().timeouts);
        let spare = spare(&request);
        let limit = timeouts.request;
        let mut request = request;
        request.body_mut().count_for(held.load());
        // The endpoint may have closed a connection that waited: that is nobody's failure.
        while let Some(mut sender) = self.upstreams.take(address) {
            match within(limit, sender.try_send_request(request)).await {
                None => return Err(Failed { error: ForwardError::Late(limit), request: None }),
                Some(Ok(response)) => return Ok((sender, response)),
                Some(Err(mut error)) => match error.take_message().or_else(|| spare.as_ref().map(copy)) {
                    Some(again) => request = again,
                    None => {
                        return Err(Failed {
                            error: ForwardError::Broken(error.into_error()),
                            request: None,
                        });
                    }
                },
            }
        }
        let mut sender = match upstream::connect(address, timeouts.connect).await {
            Ok(sender) => sender,
            Err(error) => return Err(Failed { error: error.into(), request: Some(request) }),
        };
        match within(limit, sender.try_send_request(request)).await {
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
        if is_upgrade && let Some(client) = upgrading {
            let endpoint = upgrade::on(&mut response);
            task::spawn_local(tunnel(client, endpoint, held));
            return response.map(|_| ResponseBody::Line(None));
        }
        let rest = Rest { held, sender: Some(sender), upstreams: Rc::clone(&self.upstreams) };
        response.map(|body| ResponseBody::streamed(body, rest))
    }

    /// What consistent hashing goes by; `None` = this request has none, or the policy hashes nothing.
    fn key(&self, request: &Request<Incoming>) -> Option<u64> {
        match &self.front.state().policy.algorithm {
            Algorithm::ConsistentHash { by: HashBy::Source } => {
                Some(key(self.client.source.to_string().as_bytes()))
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

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    time::timeout(limit, work).await.ok()
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

/// The proxy's own answer.
fn refusal(service: &str, error: &ForwardError, is_head: bool) -> Response<ResponseBody> {
    let text = format!("skein: {service}: {error}\n");
    let mut response =
        Response::new(if is_head { ResponseBody::Line(None) } else { ResponseBody::line(text) });
    *response.status_mut() = error.status();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Both sides speak another protocol from here on; the endpoint is held until they end.
async fn tunnel(client: OnUpgrade, endpoint: OnUpgrade, held: Held) {
    if let (Ok(client), Ok(endpoint)) = (client.await, endpoint.await) {
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(endpoint)).await;
    }
    drop(held);
}
