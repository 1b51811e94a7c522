//! The sample as a client of other services, found by name: `get URL`, `resolve NAME [a|srv]`, `ask HOST:PORT TEXT`.
//!
//! Invariant: every wait has a limit; what is printed on stdout is the answer alone.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    process::ExitCode,
    time::Duration,
};

use crate::resolver::{self, Answer, Kind, Resolver};

const CONNECT_LIMIT: Duration = Duration::from_secs(3);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const ANSWER_LIMIT_BYTES: u64 = 1024 * 1024;
const HTTP_PORT: u16 = 80;
const LARGEST_DATAGRAM: usize = 65_536;

/// Prints what the page says; an error unless its status is of success.
pub fn get(url: &str) -> io::Result<()> {
    let (host, port, path) =
        parse(url).ok_or_else(|| io::Error::other(format!("{url:?} is not http://HOST[:PORT]/PATH")))?;
    let address = SocketAddr::new(resolver::address_of(host)?, port);
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_LIMIT_BYTES).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no HTTP answer"))?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    print!("{body}");
    io::stdout().flush()?;
    if status.starts_with('2') { Ok(()) } else { Err(io::Error::other(format!("{url} answered {status}"))) }
}

/// `http://web.shop:8080/path` → host, port, path.
fn parse(url: &str) -> Option<(&str, u16, &str)> {
    let rest = url.strip_prefix("http://")?;
    let slash = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(slash);
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (authority, HTTP_PORT),
    };
    (!host.is_empty()).then_some((host, port, if path.is_empty() { "/" } else { path }))
}

/// Prints the records, or what there is instead (NXDOMAIN, NODATA), which is exit code 1.
pub fn resolve(name: &str, kind: &str) -> io::Result<ExitCode> {
    let kind = match kind {
        "a" => Kind::A,
        "srv" => Kind::Srv,
        other => return Err(io::Error::other(format!("{other:?}: use a or srv"))),
    };
    let answer = Resolver::of_machine()?.resolve(name, kind)?;
    println!("{}", resolver::describe(&answer));
    Ok(if matches!(answer, Answer::Records(_)) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sends one datagram and prints the one that comes back.
pub fn ask(target: &str, text: &str) -> io::Result<()> {
    let target = target.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = target.ok_or_else(|| io::Error::other("use HOST:PORT"))?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(SocketAddr::new(resolver::address_of(host)?, port))?;
    socket.set_read_timeout(Some(CONNECT_LIMIT))?;
    socket.send(text.as_bytes())?;
    let mut answer = vec![0; LARGEST_DATAGRAM];
    let length = socket.recv(&mut answer)?;
    println!("{}", String::from_utf8_lossy(answer.get(..length).unwrap_or_default()));
    Ok(())
}

/// Sends every datagram back behind `who`, until the socket breaks.
pub fn echo(socket: &UdpSocket, who: &str) {
    let mut datagram = vec![0; LARGEST_DATAGRAM];
    loop {
        match socket.recv_from(&mut datagram) {
            Ok((length, peer)) => {
                let text = String::from_utf8_lossy(datagram.get(..length).unwrap_or_default());
                let _ = socket.send_to(format!("{who}: {text}").as_bytes(), peer);
            }
            // Told of an earlier answer that nobody took.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return eprintln!("udp: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (url, expected) in [
            ("http://web", Some(("web", 80, "/"))),
            ("http://web.shop:8080/a?b=c:d", Some(("web.shop", 8080, "/a?b=c:d"))),
            ("http://10.254.0.9:81/", Some(("10.254.0.9", 81, "/"))),
            ("https://web/", None),
            ("http://:80/", None),
            ("http://web:x/", None),
        ] {
            assert_eq!(parse(url), expected, "{url}");
        }
    }
}
