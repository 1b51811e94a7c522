//! A GET whose status is all that counts.
//!
//! Invariant: reads no more than [`MOST_BYTES`], whatever the server sends.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

/// Of an answer, its head included.
const MOST_BYTES: usize = 16 * 1024;
/// To read on after the status, so that the server may finish and a failure says why.
const BODY_LIMIT: Duration = Duration::from_millis(100);

/// 200 to 399 is well; anything else says why not.
pub(super) async fn get(
    target: SocketAddr,
    path: &str,
    headers: &BTreeMap<String, String>,
) -> Result<(), String> {
    let mut stream = super::connect(target).await?;
    let broken = |error: std::io::Error| format!("{target}: {error}");
    stream.write_all(request(target, path, headers).as_bytes()).await.map_err(broken)?;
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') && answer.len() < MOST_BYTES {
        if stream.read_buf(&mut answer).await.map_err(broken)? == 0 {
            break;
        }
    }
    let status = status(&answer).ok_or_else(|| format!("{target} does not answer in HTTP"))?;
    let _enough = time::timeout(BODY_LIMIT, rest(&mut stream, &mut answer)).await;
    match status {
        200..=399 => Ok(()),
        _ => Err(format!("HTTP status {status}{}", said(&answer))),
    }
}

fn request(target: SocketAddr, path: &str, headers: &BTreeMap<String, String>) -> String {
    let given = |name: &str| headers.keys().any(|given| given.eq_ignore_ascii_case(name));
    let mut request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n");
    for (name, usual) in [("Host", target.to_string()), ("User-Agent", "skein-probe".to_owned())] {
        if !given(name) {
            let _ = write!(request, "{name}: {usual}\r\n");
        }
    }
    for (name, value) in headers {
        let _ = write!(request, "{name}: {value}\r\n");
    }
    request + "\r\n"
}

async fn rest(stream: &mut TcpStream, answer: &mut Vec<u8>) {
    while answer.len() < MOST_BYTES && stream.read_buf(answer).await.is_ok_and(|read| read > 0) {}
}

/// `HTTP/1.1 503 Service Unavailable` → 503.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    words.next().filter(|version| version.starts_with("HTTP/"))?;
    words.next()?.parse().ok()
}

/// The first line of the body.
fn said(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    match body.lines().next().map(str::trim) {
        Some(line) if !line.is_empty() => format!(": {line}"),
        _ => String::new(),
    }
}
