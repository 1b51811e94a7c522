//! Clients that write one thing after another, as fast as they are answered.
//!
//! Invariant: a client has one write under way, and no two writes have the same value; only writes
//! that were answered with status 0 count. Whatever is measured beside is driven by this very code,
//! over as many connections, so that the clients take the same from both sides, and little: requests
//! are encoded once, answers are not decoded, and all clients share one thread.
//! Deliberately not here: what is written (`writes.rs`, `etcd.rs`).

use std::{future::poll_fn, ops::Range, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use h2::client::SendRequest;
use hdrhistogram::Histogram;
use prost::{Message, bytes::Bytes};
use tokio::{
    net::TcpStream,
    task::{JoinSet, spawn_blocking},
    time::Instant,
};
use tonic::codegen::http::{HeaderMap, Request, Uri, header::CONTENT_TYPE};

/// Microseconds that the histogram tells apart, up to a minute.
const LONGEST_MICROS: u64 = 60_000_000;
/// More clients share a connection.
const CONNECTIONS: usize = 16;
/// Not compressed, then the length.
const GRPC_HEADER: usize = 5;
/// Answers are never held back.
const WINDOW_BYTES: u32 = 16 << 20;

/// One client's request, encoded, and where its value lies in it.
#[derive(Debug, Clone)]
pub struct Template {
    method: &'static str,
    frame: Vec<u8>,
    value: Range<usize>,
}

impl Template {
    /// A call of `method` with `message`, in which `value` is what each write replaces.
    ///
    /// # Errors
    /// When the value is not in the message.
    pub fn new(method: &'static str, message: &impl Message, value: &str) -> Result<Self> {
        let length = u32::try_from(message.encoded_len())?;
        let mut frame = vec![0; GRPC_HEADER];
        frame[1..].copy_from_slice(&length.to_be_bytes());
        message.encode(&mut frame)?;
        let found = frame.windows(value.len()).position(|part| part == value.as_bytes());
        let begin = found.context("the value is not in the message")?;
        Ok(Self { method, frame, value: begin..begin + value.len() })
    }

    /// The frame with another value, as long as the first.
    fn with(&mut self, sequence: u64) -> Bytes {
        let digits = format!("{sequence:020}");
        let value = &mut self.frame[self.value.clone()];
        let length = digits.len().min(value.len());
        value[..length].copy_from_slice(&digits.as_bytes()[digits.len() - length..]);
        Bytes::copy_from_slice(&self.frame)
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Load {
    pub written: f64,
    pub per_second: f64,
    pub median: Duration,
    pub slowest_hundredth: Duration,
}

/// Lets one client for each template write to the address for this long.
///
/// # Errors
/// The first write that failed.
pub async fn run(address: &str, templates: Vec<Template>, time: Duration) -> Result<Load> {
    let address = address.to_owned();
    let clients = spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(write_all(&address, templates, time))
    });
    clients.await.context("the clients")?
}

async fn write_all(address: &str, templates: Vec<Template>, time: Duration) -> Result<Load> {
    let mut connections = Vec::new();
    for _ in 0..templates.len().min(CONNECTIONS) {
        connections.push(connect(address).await?);
    }
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for (template, connection) in templates.into_iter().zip(connections.iter().cycle()) {
        let uri = format!("http://{address}{}", template.method).parse()?;
        let client = Client { connection: connection.clone(), uri, template };
        clients.spawn(client.write_until(start + time));
    }
    let mut all = Histogram::<u64>::new_with_max(LONGEST_MICROS, 3)?;
    while let Some(done) = clients.join_next().await {
        all.add(done.context("a client")??)?;
    }
    let micros = |quantile| Duration::from_micros(all.value_at_quantile(quantile));
    let written = u32::try_from(all.len()).map(f64::from).unwrap_or(f64::MAX);
    Ok(Load {
        written,
        per_second: written / start.elapsed().as_secs_f64(),
        median: micros(0.5),
        slowest_hundredth: micros(0.99),
    })
}

async fn connect(address: &str) -> Result<SendRequest<Bytes>> {
    let socket = TcpStream::connect(address).await.context("connect")?;
    socket.set_nodelay(true)?;
    let (requests, connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .handshake(socket)
        .await?;
    tokio::spawn(connection);
    Ok(requests)
}

struct Client {
    connection: SendRequest<Bytes>,
    uri: Uri,
    template: Template,
}

impl Client {
    async fn write_until(mut self, end: Instant) -> Result<Histogram<u64>> {
        let mut times = Histogram::new_with_max(LONGEST_MICROS, 3)?;
        // Never the value of an earlier round.
        let mut sequence = rand::random_range(0..u64::from(u32::MAX)) << 24;
        loop {
            let begin = Instant::now();
            if begin >= end {
                return Ok(times);
            }
            sequence += 1;
            self.write(sequence).await?;
            times.saturating_record(u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
    }

    async fn write(&mut self, sequence: u64) -> Result<()> {
        let request = Request::post(self.uri.clone())
            .header(CONTENT_TYPE, "application/grpc")
            .header("te", "trailers")
            .body(())?;
        poll_fn(|context| self.connection.poll_ready(context)).await?;
        let (answer, mut stream) = self.connection.send_request(request, false)?;
        stream.send_data(self.template.with(sequence), true)?;
        let (head, mut body) = answer.await?.into_parts();
        ensure!(head.status.is_success(), "HTTP status {}", head.status);
        while let Some(chunk) = body.data().await {
            body.flow_control().release_capacity(chunk?.len())?;
        }
        // An answer without a body has its status in front.
        check(&body.trailers().await?.unwrap_or(head.headers))
    }
}

fn check(trailers: &HeaderMap) -> Result<()> {
    let text = |name| trailers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    match text("grpc-status").as_deref() {
        Some("0") => Ok(()),
        status => bail!("status {status:?}: {}", text("grpc-message").unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_value_changes() {
        let value = "v".repeat(32);
        let message = format!("a{value}b");
        let mut template = Template::new("/a/B", &message, &value).expect("the value is there");
        let (one, two) = (template.with(1), template.with(2));
        assert_ne!(one, two);
        for frame in [one, two] {
            let text = String::decode(&frame[GRPC_HEADER..]).expect("a message");
            assert_eq!((text.len(), &text[..1], &text[33..]), (34, "a", "b"));
        }
        assert!(Template::new("/a/B", &"another".to_owned(), &value).is_err());
    }
}
