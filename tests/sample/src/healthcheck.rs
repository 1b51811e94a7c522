//! Asks /healthz of the server in the same container once, for Docker's HEALTHCHECK: an image
//! made from nothing has no curl to do it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

const TIME_LIMIT: Duration = Duration::from_secs(2);
const ANSWER_LIMIT_BYTES: u64 = 4096;

/// `Ok` when the server on `port` answers with status 200 within [`TIME_LIMIT`].
pub fn check(port: u16) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), TIME_LIMIT)?;
    stream.set_read_timeout(Some(TIME_LIMIT))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_LIMIT_BYTES).read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200 ") {
        return Ok(());
    }
    let first_line = answer.lines().next().unwrap_or("nothing");
    Err(io::Error::other(format!("/healthz answered {first_line:?}")))
}
