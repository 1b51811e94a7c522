//! Asks a container over HTTP who it is.
//!
//! Invariant: one request, one connection, bounded in time.
//! Deliberately not here: anything the sample server does not speak.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

const TIMEOUT: Duration = Duration::from_secs(3);

/// The body of a 200 answer.
///
/// # Errors
/// No connection, no answer in time, another status.
pub async fn get(address: &str, path: &str) -> Result<String> {
    timeout(TIMEOUT, ask(address, path))
        .await
        .with_context(|| format!("http://{address}{path}: no answer"))?
}

async fn ask(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{address}: {answer:?}"))?;
    let status = head.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") {
        bail!("{address}{path}: {status}");
    }
    Ok(body.to_owned())
}
