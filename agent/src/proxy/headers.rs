//! What a proxy changes in a request's and an answer's head (RFC 9110, 7.6; RFC 7239).
//!
//! Invariant: what concerns one connection does not pass; who asked is added, never replaced.

use std::net::{IpAddr, SocketAddr};

use hyper::{
    HeaderMap, Request, header,
    header::{HeaderName, HeaderValue},
};

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
    pub(crate) fn of(peer: SocketAddr) -> Self {
        let source = peer.ip().to_canonical();
        let node = match source {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("\"[{address}]\""),
        };
        let value =
            |text: String| HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("unknown"));
        Self {
            address: value(source.to_string()),
            forwarded: value(format!("for={node};proto=http")),
            proto: HeaderValue::from_static("http"),
            source,
        }
    }
}

/// Whether the client wants another protocol on this connection (WebSocket and the like).
pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
        && headers.get_all(header::CONNECTION).iter().any(|value| lists(value, "upgrade"))
}

/// From the client's connection to the endpoint's.
pub(crate) fn forward<B>(request: &mut Request<B>, client: &Client) {
    let upgrade =
        is_upgrade(request.headers()).then(|| request.headers().get(header::UPGRADE).cloned()).flatten();
    let headers = request.headers_mut();
    strip(headers);
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    if let Some(host) = headers.get(header::HOST).filter(|_| !headers.contains_key(&FORWARDED_HOST)).cloned()
    {
        headers.insert(FORWARDED_HOST, host);
    }
    headers.append(FORWARDED_FOR, client.address.clone());
    headers.append(header::FORWARDED, client.forwarded.clone());
    if !headers.contains_key(&FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, client.proto.clone());
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
