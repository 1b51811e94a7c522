//! Questions that are not ours, to the machine's own resolvers.
//!
//! Invariant: a number and a port of its own for each question, an answer only to that; bounded in time and count. Never
//! to itself.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use rand::RngExt;
use tokio::{
    fs,
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time,
};

use super::wire;

const RESOLVERS: &str = "/etc/resolv.conf";
/// As many as a C library asks.
const RESOLVERS_MAX: usize = 3;
const PORT: u16 = 53;
/// Of one resolver; the asker waits five seconds as a rule.
const PATIENCE: Duration = Duration::from_millis(1500);
const LONGEST: usize = 65_535;

/// What a resolver of this machine says; `None` = none of them answered.
pub(super) async fn ask(packet: &[u8], by_tcp: bool, own: Ipv4Addr) -> Option<Vec<u8>> {
    // Read each time: it is one page, and networks change.
    let text = fs::read_to_string(Path::new(RESOLVERS)).await.unwrap_or_default();
    ask_of(&resolvers(&text, own), packet, by_tcp).await
}

pub(super) async fn ask_of(resolvers: &[SocketAddr], packet: &[u8], by_tcp: bool) -> Option<Vec<u8>> {
    let mut question = packet.to_vec();
    for resolver in resolvers {
        let number: [u8; 2] = rand::rng().random();
        question.get_mut(..2)?.copy_from_slice(&number);
        let asked = async {
            if by_tcp { over_tcp(*resolver, &question).await } else { over_udp(*resolver, &question).await }
        };
        let Ok(Ok(mut answer)) = time::timeout(PATIENCE, asked).await else { continue };
        answer.get_mut(..2)?.copy_from_slice(packet.get(..2)?);
        return Some(answer);
    }
    None
}

fn resolvers(text: &str, own: Ipv4Addr) -> Vec<SocketAddr> {
    let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let named = words.filter_map(|words| match words.as_slice() {
        ["nameserver", address, ..] => address.parse::<IpAddr>().ok(),
        _ => None,
    });
    let others = named.filter(|address| *address != IpAddr::V4(own));
    others.take(RESOLVERS_MAX).map(|address| SocketAddr::new(address, PORT)).collect()
}

async fn over_udp(resolver: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = if resolver.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; LONGEST];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        if wire::is_answer(question, answer) {
            return Ok(answer.to_vec());
        }
    }
}

async fn over_tcp(resolver: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    write(&mut stream, question).await?;
    let answer = read(&mut stream).await?;
    if wire::is_answer(question, &answer) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// One packet of a stream.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut packet = vec![0; length.into()];
    stream.read_exact(&mut packet).await?;
    Ok(packet)
}

pub(super) async fn write(stream: &mut TcpStream, packet: &[u8]) -> io::Result<()> {
    let length = u16::try_from(packet.len()).map_err(io::Error::other)?;
    let whole = [&length.to_be_bytes(), packet].concat();
    stream.write_all(&whole).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_resolvers_without_itself() {
        let text = "# by hand\nsearch example.org\nnameserver 10.254.0.1\nnameserver 192.0.2.1\n\
                    nameserver  fd00::1 # six\nnameserver nonsense\noptions ndots:1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let found = resolvers(text, Ipv4Addr::new(10, 254, 0, 1));
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["192.0.2.1:53", "[fd00::1]:53", "192.0.2.2:53"]
        );
    }
}
