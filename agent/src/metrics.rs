//! `/metrics` of this agent, where `--metrics-address` asks for it.
//!
//! Invariant: read only, bounded (few connections, small heads, no bodies), and nobody waits for a reader.
//! Deliberately not here: counting (`proxy`), the format (`exposition`).

mod balancer;
mod exposition;

use std::{convert::Infallible, error::Error, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time,
};
use tokio_util::sync::CancellationToken;

use self::exposition::{Exposition, Kind};
use crate::proxy::LoadMeter;

/// Readers at the same time.
const CONNECTIONS: usize = 16;
/// For a head, and between two requests.
const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// An address that is taken is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Serves them until `stop`.
pub async fn serve(address: SocketAddr, meter: Option<Arc<LoadMeter>>, stop: CancellationToken) {
    let Some(listener) = stop.run_until_cancelled(listen(address)).await else { return };
    serve_on(listener, meter, stop).await;
}

async fn listen(address: SocketAddr) -> TcpListener {
    let mut is_said = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(%address, "metrics are served");
                return listener;
            }
            Err(error) => {
                if !std::mem::replace(&mut is_said, true) {
                    let error = &error as &dyn Error;
                    tracing::warn!(%address, error, "metrics cannot be served; trying on");
                }
                time::sleep(TRY_AGAIN).await;
            }
        }
    }
}

async fn serve_on(listener: TcpListener, meter: Option<Arc<LoadMeter>>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            let accepted = listener.accept().await;
            Some((place, accepted))
        };
        match stop.run_until_cancelled(accepted).await {
            None | Some(None) => return,
            Some(Some((place, Ok((stream, _))))) => {
                let (meter, stop) = (meter.clone(), stop.clone());
                // Not tracked: it ends with the token, and owns nothing.
                tokio::spawn(async move {
                    stop.run_until_cancelled(attend(stream, meter)).await;
                    drop(place);
                });
            }
            // No more file descriptors, as a rule.
            Some(Some((_, Err(_)))) => time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn attend(stream: TcpStream, meter: Option<Arc<LoadMeter>>) {
    let service = service_fn(|request| {
        let answer = answer(&request, meter.as_deref());
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .max_buf_size(16 << 10)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), service);
    // A reader that goes away is nobody's trouble.
    let _ = connection.await;
}

fn answer(request: &Request<Incoming>, meter: Option<&LoadMeter>) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, render(meter)),
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "there is /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let format = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, format);
    response
}

/// Everything this agent tells.
fn render(meter: Option<&LoadMeter>) -> String {
    let mut text = Exposition::default();
    text.family("skein_agent_build_info", Kind::Gauge, "Always 1; the version of the agent.");
    text.sample("skein_agent_build_info", &[("version", env!("CARGO_PKG_VERSION"))], &[], 1);
    if let Some(meter) = meter {
        balancer::write(&mut text, &meter.read());
    }
    text.finish()
}

#[cfg(test)]
mod tests;
