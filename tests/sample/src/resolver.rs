//! Asks the name servers of /etc/resolv.conf, as the C library would, in a program that is static and alone in its image.
//!
//! Invariant: whatever a name server answers becomes an answer or an error, never a panic or an endless loop. The packets
//! are written here by hand, so that a test with it is a second opinion on the server's.
//! Deliberately absent: TCP, EDNS, caching, IPv6.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const FILE: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of each name server.
const TRIES: usize = 2;
const HEADER_BYTES: usize = 12;
const CLASS_IN: u16 = 1;
/// Labels and pointers of one name; a loop of pointers has more.
const MAX_HOPS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    A = 1,
    Srv = 33,
}

/// What a name server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Addresses, or `priority weight port target`; sorted.
    Records(Vec<String>),
    NoSuchName,
    /// The name is there, and has nothing of this kind.
    NoData,
    /// The response code.
    Failed(u8),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    ndots: usize,
}

impl Resolver {
    pub fn of_machine() -> io::Result<Self> {
        std::fs::read_to_string(FILE).map(|text| Self::read(&text))
    }

    pub fn read(text: &str) -> Self {
        let mut resolver = Self { servers: Vec::new(), search: Vec::new(), ndots: 1 };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    resolver.servers.extend(server.map(|server| SocketAddr::new(server, DNS_PORT)));
                }
                Some("search" | "domain") => {
                    resolver.search = words
                        .map(|word| word.trim_matches('.').to_owned())
                        .filter(|word| !word.is_empty())
                        .collect();
                }
                Some("options") => {
                    let ndots =
                        words.filter_map(|word| word.strip_prefix("ndots:")?.parse().ok()).next_back();
                    resolver.ndots = ndots.unwrap_or(resolver.ndots);
                }
                _ => {}
            }
        }
        resolver
    }

    /// The names to ask for, in order: as it is first when it has enough dots.
    pub fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(whole) = name.strip_suffix('.') {
            return vec![whole.to_owned()];
        }
        let mut names: Vec<String> = self.search.iter().map(|domain| format!("{name}.{domain}")).collect();
        let is_first = name.matches('.').count() >= self.ndots;
        names.insert(if is_first { 0 } else { names.len() }, name.to_owned());
        names
    }

    /// The first answer with records, else the last one.
    pub fn resolve(&self, name: &str, kind: Kind) -> io::Result<Answer> {
        let mut last = Answer::NoSuchName;
        for name in self.candidates(name) {
            last = self.ask(&name, kind)?;
            if matches!(last, Answer::Records(_)) {
                break;
            }
        }
        Ok(last)
    }

    fn ask(&self, name: &str, kind: Kind) -> io::Result<Answer> {
        let mut problem = io::Error::other(format!("{FILE} names no name server"));
        for _ in 0..TRIES {
            for server in &self.servers {
                match ask(*server, name, kind) {
                    Ok(answer) => return Ok(answer),
                    Err(error) => problem = io::Error::new(error.kind(), format!("{server}: {error}")),
                }
            }
        }
        Err(problem)
    }
}

/// The first address behind `host`, which may be an address itself.
pub fn address_of(host: &str) -> io::Result<IpAddr> {
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    match Resolver::of_machine()?.resolve(host, Kind::A)? {
        Answer::Records(records) => records
            .first()
            .and_then(|record| record.parse().ok())
            .ok_or_else(|| invalid("an address that is none")),
        other => Err(io::Error::new(io::ErrorKind::NotFound, format!("{host}: {}", describe(&other)))),
    }
}

pub fn describe(answer: &Answer) -> String {
    match answer {
        Answer::Records(records) => records.join("\n"),
        Answer::NoSuchName => "NXDOMAIN".to_owned(),
        Answer::NoData => "NODATA".to_owned(),
        Answer::Failed(2) => "SERVFAIL".to_owned(),
        Answer::Failed(code) => format!("RCODE {code}"),
    }
}

fn ask(server: SocketAddr, name: &str, kind: Kind) -> io::Result<Answer> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let id = identifier();
    socket.send(&question(id, name, kind)?)?;
    let mut packet = [0; 4096];
    let length = socket.recv(&mut packet)?;
    read_answer(packet.get(..length).unwrap_or_default(), id, kind)
}

/// Different enough for one question at a time.
fn identifier() -> u16 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    u16::try_from(nanos & 0xffff).unwrap_or_default()
}

fn question(id: u16, name: &str, kind: Kind) -> io::Result<Vec<u8>> {
    let mut packet = Vec::with_capacity(HEADER_BYTES + name.len() + 6);
    // Recursion desired, one question.
    for word in [id, 0x0100, 1, 0, 0, 0] {
        packet.extend(word.to_be_bytes());
    }
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length));
        packet.push(length.ok_or_else(|| invalid("a name with an empty or a long label"))?);
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend((kind as u16).to_be_bytes());
    packet.extend(CLASS_IN.to_be_bytes());
    Ok(packet)
}

pub fn read_answer(packet: &[u8], id: u16, kind: Kind) -> io::Result<Answer> {
    let flags = word(packet, 2)?;
    if word(packet, 0)? != id || flags & 0x8000 == 0 {
        return Err(invalid("an answer to another question"));
    }
    match flags & 0xf {
        0 => {}
        3 => return Ok(Answer::NoSuchName),
        code => return Ok(Answer::Failed(u8::try_from(code).unwrap_or_default())),
    }
    let (questions, answers) = (word(packet, 4)?, word(packet, 6)?);
    let mut at = HEADER_BYTES;
    for _ in 0..questions {
        at = read_name(packet, at)?.1 + 4;
    }
    let mut records = Vec::new();
    for _ in 0..answers {
        at = read_name(packet, at)?.1;
        let (found, length) = (word(packet, at)?, usize::from(word(packet, at + 8)?));
        let data = at + 10;
        if found == kind as u16 {
            records.push(read_data(packet, data, kind)?);
        }
        at = data + length;
    }
    records.sort();
    Ok(if records.is_empty() { Answer::NoData } else { Answer::Records(records) })
}

fn read_data(packet: &[u8], at: usize, kind: Kind) -> io::Result<String> {
    match kind {
        Kind::A => {
            let [a, b] = word(packet, at)?.to_be_bytes();
            let [c, d] = word(packet, at + 2)?.to_be_bytes();
            Ok(Ipv4Addr::new(a, b, c, d).to_string())
        }
        Kind::Srv => {
            let [priority, weight, port] = [word(packet, at)?, word(packet, at + 2)?, word(packet, at + 4)?];
            Ok(format!("{priority} {weight} {port} {}", read_name(packet, at + 6)?.0))
        }
    }
}

/// A name, and where what follows it begins.
fn read_name(packet: &[u8], start: usize) -> io::Result<(String, usize)> {
    let (mut name, mut at, mut end) = (String::new(), start, None);
    for _ in 0..MAX_HOPS {
        let length = *packet.get(at).ok_or_else(cut_short)?;
        match length {
            0 => return Ok((name, end.unwrap_or(at + 1))),
            1..=63 => {
                let next = at + 1 + usize::from(length);
                let label = packet.get(at + 1..next).ok_or_else(cut_short)?;
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(&String::from_utf8_lossy(label));
                at = next;
            }
            192.. => {
                end = end.or(Some(at + 2));
                at = usize::from(word(packet, at)? & 0x3fff);
            }
            _ => return Err(invalid("a label of an unknown kind")),
        }
    }
    Err(invalid("a name without end"))
}

fn word(packet: &[u8], at: usize) -> io::Result<u16> {
    let bytes = packet.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).ok_or_else(cut_short)?;
    Ok(u16::from_be_bytes(bytes))
}

fn cut_short() -> io::Error {
    invalid("an answer that is cut short")
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: u16 = 7;

    /// An answer to `name`: flags, then each record as type and data, its name a pointer to the question's.
    fn answer(name: &str, kind: Kind, code: u8, records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut packet = question(ID, name, kind).expect("a name");
        packet[2] |= 0x80;
        packet[3] = code;
        packet[7] = u8::try_from(records.len()).expect("few");
        for (kind, data) in records {
            packet.extend([0xc0, 12]);
            packet.extend(kind.to_be_bytes());
            packet.extend([0, 1, 0, 0, 0, 0]);
            packet.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
            packet.extend(*data);
        }
        packet
    }

    #[test]
    fn answers_are_read() {
        let records = |texts: &[&str]| Answer::Records(texts.iter().map(|&text| text.to_owned()).collect());
        let srv: &[u8] = &[0, 1, 0, 2, 0x1f, 0x90, 3, b'o', b'n', b'e', 0xc0, 12];
        for (kind, code, given, expected) in [
            (
                Kind::A,
                0,
                vec![(1, &[10, 0, 0, 2][..]), (1, &[10, 0, 0, 1])],
                records(&["10.0.0.1", "10.0.0.2"]),
            ),
            (Kind::A, 0, vec![(5, &[0][..]), (1, &[10, 0, 0, 1])], records(&["10.0.0.1"])),
            (Kind::Srv, 0, vec![(33, srv)], records(&["1 2 8080 one.web.shop"])),
            (Kind::A, 0, vec![], Answer::NoData),
            (Kind::A, 3, vec![], Answer::NoSuchName),
            (Kind::A, 2, vec![], Answer::Failed(2)),
        ] {
            let packet = answer("web.shop", kind, code, &given);
            assert_eq!(read_answer(&packet, ID, kind).expect("an answer"), expected);
        }
    }

    #[test]
    fn any_bytes_end_in_an_error_or_an_answer() {
        let packet = answer("web", Kind::Srv, 0, &[(33, &[0, 1, 0, 2, 0, 3, 1, b'x', 0xc0, 12])]);
        for length in 0..packet.len() {
            assert!(read_answer(&packet[..length], ID, Kind::Srv).is_err(), "{length} bytes");
        }
        for at in 0..packet.len() {
            for value in 0..=u8::MAX {
                let mut changed = packet.clone();
                changed[at] = value;
                let _ = read_answer(&changed, ID, Kind::Srv);
            }
        }
        let mut looping = answer("web", Kind::A, 0, &[(1, &[1, 2, 3, 4])]);
        looping[12..14].copy_from_slice(&[0xc0, 12]);
        assert!(read_answer(&looping, ID, Kind::A).is_err());
    }

    #[test]
    fn names_are_searched_as_the_file_says() {
        let plain =
            "# made by hand\nnameserver 10.0.0.53\nnameserver what\nsearch .\noptions timeout:1 ndots:0\n";
        let resolver = Resolver::read(plain);
        assert_eq!(resolver.servers, [SocketAddr::from(([10, 0, 0, 53], 53))]);
        assert_eq!(resolver.candidates("web"), ["web"]);
        let searching = Resolver::read("nameserver 10.0.0.53\nsearch one two.\n");
        assert_eq!(searching.candidates("web"), ["web.one", "web.two", "web"]);
        assert_eq!(searching.candidates("web.shop"), ["web.shop", "web.shop.one", "web.shop.two"]);
        assert_eq!(searching.candidates("web."), ["web"]);
    }

    #[test]
    fn a_name_server_is_asked() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let address = server.local_addr().expect("bound");
        let serving = std::thread::spawn(move || {
            let mut packet = [0; 512];
            let (length, peer) = server.recv_from(&mut packet).expect("a question");
            let mut reply = answer("web", Kind::A, 0, &[(1, &[10, 254, 0, 9])]);
            reply[..2].copy_from_slice(&packet[..2]);
            server.send_to(&reply, peer).expect("sent");
            length
        });
        let resolver = Resolver { servers: vec![address], search: Vec::new(), ndots: 0 };
        let answer = resolver.resolve("web", Kind::A).expect("an answer");
        assert_eq!(answer, Answer::Records(vec!["10.254.0.9".to_owned()]));
        assert_eq!(serving.join().expect("served"), 21);
    }
}
