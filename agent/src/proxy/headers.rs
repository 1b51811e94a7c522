//! What a proxy changes in a request's and an answer's head (RFC 9110, 7.6; RFC 7239).
//!
//! Invariant: what concerns one connection does not pass; who asked is added, never replaced.

use std::net::{IpAddr, SocketAddr};

use hyper::{
    HeaderMap, Request, Uri, Version, header,
    header::{HeaderName, HeaderValue},
    http::uri::{Authority, PathAndQuery, Scheme},
};
use skein_common::service::Upstream;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What is added to every request of one connection; made once.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    address: HeaderValue,
    /// `for=…;proto=…` of RFC 7239.
    forwarded: HeaderValue,
    proto: HeaderValue,
    /// What consistent hashing by source goes by.
    pub(crate) source: IpAddr,
}

impl Client {
    pub(crate) fn of(peer: SocketAddr, has_tls: bool) -> Self {
        let source = peer.ip().to_canonical();
        let node = match source {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("\"[{address}]\""),
        };
        let proto = if has_tls { "https" } else { "http" };
        let value =
            |text: String| HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("unknown"));
        Self {
            address: value(source.to_string()),
            forwarded: value(format!("for={node};proto={proto}")),
            proto: HeaderValue::from_static(proto),
            source,
        }
    }
}

/// Why a request cannot be forwarded: its target, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadTarget;

/// The host as the client wrote it; `None` = it wrote none.
///
/// # Errors
/// More than one, or none where the protocol asks for one (RFC 9112, 3.2).
pub(crate) fn host<B>(request: &Request<B>) -> Result<Option<&str>, BadTarget> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() || (first.is_none() && request.version() == Version::HTTP_11) {
        return Err(BadTarget);
    }
    if let Some(authority) = request.uri().authority() {
        return Ok(Some(authority.as_str()));
    }
    first.map(|host| host.to_str().map_err(|_| BadTarget)).transpose()
}

/// Whether the client wants another protocol on this connection (WebSocket and the like). HTTP/2 it gets here, by other
/// ways: behind the balancer's back its requests would pass unseen.
pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    let wanted = headers.get_all(header::UPGRADE);
    wanted.iter().next().is_some()
        && !wanted.iter().any(|value| lists(value, "h2c") || lists(value, "h2"))
        && headers.get_all(header::CONNECTION).iter().any(|value| lists(value, "upgrade"))
}

/// From the client's connection to the endpoint's, which speaks `upstream`.
///
/// # Errors
/// The target has no form in what the endpoint speaks.
pub(crate) fn forward<B>(
    request: &mut Request<B>,
    client: &Client,
    upstream: Upstream,
) -> Result<(), BadTarget> {
    let upgrade = is_upgrade(request.headers()).then(|| request.headers().get(header::UPGRADE).cloned());
    let is_h2 = request.version() == Version::HTTP_2;
    strip(request.headers_mut());
    retarget(request, upstream)?;
    let headers = request.headers_mut();
    if let Some(protocol) = upgrade.flatten().filter(|_| upstream == Upstream::Http1 && !is_h2) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    if is_h2 && upstream == Upstream::Http1 {
        headers.remove(header::TE);
        join_cookies(headers);
    }
    headers.append(FORWARDED_FOR, client.address.clone());
    headers.append(header::FORWARDED, client.forwarded.clone());
    if !headers.contains_key(&FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, client.proto.clone());
    }
    Ok(())
}

/// Path and `Host` for HTTP/1.1, the whole in the target for HTTP/2; said to the endpoint as it was.
fn retarget<B>(request: &mut Request<B>, upstream: Upstream) -> Result<(), BadTarget> {
    let named = request.uri().authority().map(|authority| HeaderValue::from_str(authority.as_str()));
    let host = match named {
        Some(named) => Some(named.map_err(|_| BadTarget)?),
        None => request.headers().get(header::HOST).cloned(),
    };
    if let Some(host) = host.as_ref().filter(|_| !request.headers().contains_key(&FORWARDED_HOST)) {
        request.headers_mut().insert(FORWARDED_HOST, host.clone());
    }
    match upstream {
        Upstream::Http1 => {
            *request.version_mut() = Version::HTTP_11;
            if let Some(host) = host.filter(|_| request.uri().authority().is_some()) {
                let path = request.uri().path_and_query().cloned();
                *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
                request.headers_mut().insert(header::HOST, host);
            }
        }
        Upstream::H2c => {
            *request.version_mut() = Version::HTTP_2;
            request.headers_mut().remove(header::HOST);
            let mut parts = request.uri().clone().into_parts();
            parts.scheme = Some(Scheme::HTTP);
            parts.authority = match host {
                Some(host) => Some(Authority::try_from(host.as_bytes()).map_err(|_| BadTarget)?),
                None => return Err(BadTarget),
            };
            parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
            *request.uri_mut() = Uri::from_parts(parts).map_err(|_| BadTarget)?;
        }
    }
    Ok(())
}

/// HTTP/2 may cut them into pieces (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let pieces: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(header::COOKIE, whole);
    }
}

/// From the endpoint's connection to the client's.
pub(crate) fn answer(headers: &mut HeaderMap, is_upgrade: bool) {
    if !is_upgrade {
        strip(headers);
    }
}

/// Takes out what concerns one connection only.
fn strip(headers: &mut HeaderMap) {
    if let Some(named) = headers.get(header::CONNECTION).cloned() {
        let names = named.to_str().unwrap_or_default().split(',').map(str::trim);
        for name in names.filter_map(|name| name.parse::<HeaderName>().ok()) {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, header::UPGRADE, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    if headers.get(header::TE).is_some_and(|value| value != "trailers") {
        headers.remove(header::TE);
    }
}

fn lists(value: &HeaderValue, word: &str) -> bool {
    value.to_str().is_ok_and(|text| text.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
}
