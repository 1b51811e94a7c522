//! What the proxy says itself when no endpoint answers.
//!
//! Invariant: one line of text, or what a gRPC client takes for a status; never anything of the request but its host and
//! target in a redirect.

use std::time::Duration;

use hyper::{
    Method, Request, Response, StatusCode, Uri,
    header::{self, HeaderName, HeaderValue},
};
use skein_agent_core::balance::{Ending, NoEndpoint};

use super::{body::ResponseBody, upstream::ConnectError};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC: &[u8] = b"application/grpc";
/// Codes of gRPC.
const DEADLINE_EXCEEDED: &str = "4";
const UNAVAILABLE: &str = "14";
const HTTPS_PORT: u16 = 443;

/// Why there is no answer from an endpoint.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
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
    pub(crate) const fn was_sent(&self) -> bool {
        matches!(self, Self::Late(_) | Self::Broken(_))
    }

    pub(crate) const fn ending(&self) -> Ending {
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

    const fn grpc_status(&self) -> &'static str {
        match self {
            Self::NoEndpoint(_) | Self::Connect(_) | Self::Broken(_) => UNAVAILABLE,
            Self::Late(_) => DEADLINE_EXCEEDED,
        }
    }
}

/// In what form the client takes a no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    Text,
    /// HEAD: no body.
    Head,
    Grpc,
}

impl Asks {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let kind = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        match kind {
            Some(kind) if kind.starts_with(GRPC) => Self::Grpc,
            _ if request.method() == Method::HEAD => Self::Head,
            _ => Self::Text,
        }
    }
}

/// No endpoint has answered.
pub(crate) fn failed(service: &str, error: &ForwardError, asks: Asks) -> Response<ResponseBody> {
    let text = format!("skein: {service}: {error}");
    if asks == Asks::Grpc {
        let mut response = Response::new(ResponseBody::Line(None));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from_static(error.grpc_status()));
        if let Ok(message) = HeaderValue::try_from(text) {
            headers.insert(GRPC_MESSAGE, message);
        }
        return response;
    }
    let mut response = line(error.status(), text + "\n");
    if asks == Asks::Head {
        *response.body_mut() = ResponseBody::Line(None);
    }
    response
}

/// What an answer says of its endpoint: "unavailable" in gRPC, without a body, is a 503.
pub(crate) fn ending<B>(response: &Response<B>) -> Ending {
    let is_unavailable = response.headers().get(GRPC_STATUS).is_some_and(|status| status == UNAVAILABLE);
    let status = if is_unavailable { StatusCode::SERVICE_UNAVAILABLE } else { response.status() };
    Ending::Answered(status.as_u16())
}

/// The request says to whom in no way, or in several, or in one that cannot be passed on.
pub(crate) fn bad_request() -> Response<ResponseBody> {
    line(StatusCode::BAD_REQUEST, "skein: the request does not say which host it is for\n")
}

pub(crate) fn no_tunnel() -> Response<ResponseBody> {
    line(StatusCode::METHOD_NOT_ALLOWED, "skein: this is no proxy to other hosts\n")
}

pub(crate) fn no_route() -> Response<ResponseBody> {
    line(StatusCode::NOT_FOUND, "skein: no service has this host and path\n")
}

/// The same with TLS, on this port; the method and the body stay as they are.
pub(crate) fn redirect(host: &str, port: u16, target: &Uri) -> Response<ResponseBody> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let path = target.path_and_query().map_or("/", |path| path.as_str());
    let port = if port == HTTPS_PORT { String::new() } else { format!(":{port}") };
    let Ok(place) = HeaderValue::try_from(format!("https://{name}{port}{path}")) else {
        return bad_request();
    };
    let mut response = line(StatusCode::PERMANENT_REDIRECT, "skein: this is served with TLS\n");
    response.headers_mut().insert(header::LOCATION, place);
    response
}

fn line(status: StatusCode, text: impl Into<bytes::Bytes>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::line(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_to_the_same_place_with_tls() {
        for (host, port, target, expected) in [
            ("shop.example", 443, "/a?b=c", "https://shop.example/a?b=c"),
            ("shop.example:80", 443, "/", "https://shop.example/"),
            ("shop.example:80", 8443, "/", "https://shop.example:8443/"),
            ("[::1]:80", 8443, "/", "https://[::1]:8443/"),
        ] {
            let response = redirect(host, port, &target.parse().unwrap());
            assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
            assert_eq!(response.headers()[header::LOCATION], expected);
        }
    }
}
