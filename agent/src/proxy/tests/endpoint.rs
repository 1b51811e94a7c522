//! An endpoint that says who it is, counts, echoes, breaks, hangs and dies on demand; and clients that never stop.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Empty, Full};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CONNECTION, HeaderValue, UPGRADE},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use skein_common::InstanceId;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub type Body = Either<Full<Bytes>, Either<Incoming, Empty<Bytes>>>;

pub struct TestEndpoint {
    pub instance: InstanceId,
    pub address: SocketAddr,
    served: Arc<AtomicU64>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl TestEndpoint {
    pub async fn start(number: u64) -> Self {
        Self::serving(number, false).await
    }

    /// Speaks HTTP/2 only.
    pub async fn start_h2(number: u64) -> Self {
        Self::serving(number, true).await
    }

    /// Somebody else serves there.
    pub fn at(number: u64, address: SocketAddr) -> Self {
        Self {
            instance: super::instance(number),
            address,
            served: Arc::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    async fn serving(number: u64, is_h2: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let endpoint = Self::at(number, listener.local_addr().unwrap());
        assert!(super::local(endpoint.address));
        let (served, stop, tasks) = (endpoint.served.clone(), endpoint.stop.clone(), endpoint.tasks.clone());
        endpoint.tasks.spawn(async move {
            let accept = async {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (served, stop) = (served.clone(), stop.clone());
                    tasks.spawn(async move {
                        let service = service_fn(|request| serve(number, Arc::clone(&served), request));
                        let io = TokioIo::new(stream);
                        let connection = async {
                            if is_h2 {
                                let server = http2::Builder::new(TokioExecutor::new());
                                drop(server.serve_connection(io, service).await);
                            } else {
                                drop(
                                    http1::Builder::new().serve_connection(io, service).with_upgrades().await,
                                );
                            }
                        };
                        tokio::select! {
                            () = connection => {}
                            () = stop.cancelled() => {}
                        }
                    });
                }
            };
            tokio::select! {
                () = accept => {}
                () = stop.cancelled() => {}
            }
        });
        endpoint
    }

    /// Requests so far.
    pub fn served(&self) -> u64 {
        self.served.load(SeqCst)
    }

    /// Closes everything at once, in the middle of whatever is under way.
    pub async fn kill(&mut self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn serve(
    number: u64,
    served: Arc<AtomicU64>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Break> {
    served.fetch_add(1, SeqCst);
    let text = |text: String| Response::new(Either::Left(Full::from(text)));
    match request.uri().path() {
        "/headers" => {
            let headers = request.headers().iter();
            Ok(text(headers.map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap())).collect()))
        }
        "/echo" => Ok(Response::new(Either::Right(Either::Left(request.into_body())))),
        "/unwell-on-1" if number == 1 => {
            let mut response = text("unwell".to_owned());
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            Ok(response)
        }
        "/hang" => std::future::pending().await,
        "/break-on-1" if number == 1 => {
            let _ = request.body_mut().collect().await;
            Err(Break)
        }
        "/upgrade" => {
            tokio::spawn(echo(hyper::upgrade::on(&mut request)));
            let mut response = Response::new(Either::Right(Either::Right(Empty::new())));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
            Ok(response)
        }
        _ => Ok(text(number.to_string())),
    }
}

async fn echo(upgrade: hyper::upgrade::OnUpgrade) {
    let mut stream = TokioIo::new(upgrade.await.unwrap());
    let mut bytes = [0; 64];
    while let Ok(count @ 1..) = stream.read(&mut bytes).await {
        stream.write_all(&bytes[..count]).await.unwrap();
    }
}

/// Ends the connection instead of answering.
#[derive(Debug, thiserror::Error)]
#[error("breaks on demand")]
struct Break;

impl From<Infallible> for Break {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Asks over one connection after the other, ten requests each: how many were answered, and how many were not with 200.
pub async fn hammer(port: u16, done: CancellationToken) -> (u64, u64) {
    let (mut answered, mut failed) = (0, 0);
    while !done.is_cancelled() {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        for _ in 0..10 {
            match ask(&mut stream).await {
                Ok(200) => answered += 1,
                Ok(_) | Err(_) => {
                    failed += 1;
                    break;
                }
            }
        }
    }
    (answered, failed)
}

async fn ask(stream: &mut TcpStream) -> std::io::Result<u16> {
    Ok(answered(stream, "web", "/who").await?.0)
}

/// One client's connection that is used again.
pub struct Kept(TcpStream);

impl Kept {
    pub async fn connect(port: u16) -> Self {
        Self(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap())
    }

    pub async fn get(&mut self, host: &str, path: &str) -> (u16, String) {
        answered(&mut self.0, host, path).await.unwrap()
    }

    /// Waits for the other side to end it.
    pub async fn is_closed(&mut self) -> bool {
        matches!(self.0.read_u8().await, Err(error) if error.kind() != std::io::ErrorKind::WouldBlock)
    }
}

/// One request and its answer, on a connection that stays.
pub async fn answered<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    host: &str,
    path: &str,
) -> std::io::Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length =
        text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    let status = text.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
