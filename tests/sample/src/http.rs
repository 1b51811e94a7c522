//! As much of HTTP/1.1 as a sample needs: a request's first line and headers in, a response out.
//!
//! Invariant: no more than [`HEAD_LIMIT_BYTES`] of head and [`BODY_LIMIT_BYTES`] of body are
//! read for one request; whatever a client sends ends in a request or an error, never a panic.
//! Deliberately absent: chunked bodies (refused), trailers, pipelining beyond what a buffered
//! reader gives, TLS.

use std::io::{self, BufRead, Read, Write};

const HEAD_LIMIT_BYTES: u64 = 16 * 1024;
const BODY_LIMIT_BYTES: u64 = 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub path: String,
    query: Vec<(String, String)>,
    pub keep_alive: bool,
}

impl Request {
    /// The last value of a query parameter, decoded.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A query parameter as a number; `default` when it is absent.
    pub fn number(&self, name: &'static str, default: u64) -> Result<u64, Response> {
        self.query(name).map_or(Ok(default), |value| {
            value.parse().map_err(|_| Response::text(400, format!("{name}: {value:?} is not a number\n")))
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    content_type: &'static str,
    body: String,
}

impl Response {
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    pub fn json(status: u16, body: impl Into<String>) -> Self {
        Self { status, content_type: "application/json", body: body.into() }
    }

    /// One write, so that a response is one segment and never waits for Nagle.
    pub fn write(&self, to: &mut impl Write, keep_alive: bool) -> io::Result<()> {
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let message = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n{}",
            self.status,
            reason(self.status),
            self.content_type,
            self.body.len(),
            self.body
        );
        to.write_all(message.as_bytes())
    }
}

/// The next request, or `None` when the client has closed the connection between two.
pub fn read_request(from: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut head = from.by_ref().take(HEAD_LIMIT_BYTES);
    let first = read_line(&mut head)?;
    if first.is_empty() {
        return Ok(None);
    }
    let mut headers = Headers { keep_alive: first.ends_with(" HTTP/1.1"), body_bytes: 0 };
    loop {
        let line = read_line(&mut head)?;
        if line.is_empty() {
            break;
        }
        headers.take_line(&line)?;
    }
    discard(from, headers.body_bytes)?;
    parse_first_line(&first, headers.keep_alive).map(Some)
}

struct Headers {
    keep_alive: bool,
    body_bytes: u64,
}

impl Headers {
    fn take_line(&mut self, line: &str) -> io::Result<()> {
        let (name, value) = line.split_once(':').ok_or_else(|| invalid("a header without a colon"))?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "connection" => self.keep_alive = !value.eq_ignore_ascii_case("close"),
            "transfer-encoding" => return Err(invalid("a body of unknown length")),
            "content-length" => {
                self.body_bytes = value.parse().map_err(|_| invalid("an unreadable Content-Length"))?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    if !line.is_empty() && !line.ends_with('\n') {
        return Err(invalid("a head that is cut short or too long"));
    }
    Ok(line.trim_end().to_owned())
}

fn discard(from: &mut impl BufRead, bytes: u64) -> io::Result<()> {
    if bytes > BODY_LIMIT_BYTES {
        return Err(invalid("a body over 1 MiB"));
    }
    io::copy(&mut from.by_ref().take(bytes), &mut io::sink())?;
    Ok(())
}

fn parse_first_line(line: &str, keep_alive: bool) -> io::Result<Request> {
    let mut parts = line.split(' ');
    let (Some(_method), Some(target), Some(_version)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(invalid("a request line without method, target and version"));
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect();
    Ok(Request { path: path.to_owned(), query, keep_alive })
}

/// `%41+b` → `A b`; what is not a valid escape stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let escaped = (first == b'%').then(|| after.get(..2)).flatten();
        match escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => bytes.push(if first == b'+' { b' ' } else { first }),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn reason(status: u16) -> &'static str {
    match status {
        200..=299 => "OK",
        300..=399 => "Redirect",
        404 => "Not Found",
        503 => "Service Unavailable",
        400..=499 => "Bad Request",
        _ => "Internal Server Error",
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<Option<Request>> {
        read_request(&mut text.as_bytes())
    }

    #[test]
    fn reads_a_target_and_its_query() {
        let request =
            read("GET /log?line=a%20b+c&to=stderr&flag HTTP/1.1\r\nHost: x\r\n\r\n").expect("valid");
        let request = request.expect("one request");
        assert_eq!(request.path, "/log");
        assert_eq!(request.query("line"), Some("a b c"));
        assert_eq!(request.query("to"), Some("stderr"));
        assert_eq!(request.query("flag"), Some(""));
        assert_eq!(request.query("none"), None);
        assert!(request.keep_alive);
    }

    #[test]
    fn keeps_the_connection_as_the_client_asks() {
        for (given, keep_alive) in [
            ("GET / HTTP/1.1\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n", true),
        ] {
            let request = read(given).expect("valid").expect("one request");
            assert_eq!(request.keep_alive, keep_alive, "{given:?}");
        }
    }

    #[test]
    fn a_body_is_skipped_and_the_next_request_is_read() {
        let mut bytes = &b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /next HTTP/1.1\r\n\r\n"[..];
        assert_eq!(read_request(&mut bytes).expect("valid").expect("first").path, "/");
        assert_eq!(read_request(&mut bytes).expect("valid").expect("second").path, "/next");
        assert_eq!(read_request(&mut bytes).expect("the end"), None);
    }

    #[test]
    fn bad_input_is_an_error() {
        let endless = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(20_000));
        for given in [
            "GET\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HT",
            &endless,
        ] {
            assert!(read(given).is_err(), "{:?} was accepted", &given[..given.len().min(60)]);
        }
    }
}
