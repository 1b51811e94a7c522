//! Addresses of services on the loopback interface, by netlink.
//!
//! Invariant: only addresses that carry this node's label are ever removed. One that is there already is used as it
//! is: agents on one machine share it, and their balancers the port.
//! Deliberately not here: which addresses (the balancer).

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage, AddressScope},
};
use rustix::net::{
    AddressFamily as Family, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink,
};
use skein_common::NodeId;

/// The kernel's number of the loopback interface in every network namespace.
const LOOPBACK: u32 = 1;
/// Longest label the kernel keeps.
const LONGEST_LABEL: usize = 15;
const PREFIX: u8 = 32;
/// One answer of the kernel; its dumps come in pieces of at most this.
const ANSWER: usize = 32 * 1024;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Loopback {
    label: Arc<str>,
}

/// One address that an interface of this machine has.
struct Held {
    address: Ipv4Addr,
    label: String,
}

impl Loopback {
    /// # Errors
    /// The system does not let this process change addresses.
    pub fn open(node: NodeId) -> io::Result<Self> {
        let own = Self { label: label(node).into() };
        // Nobody has it: tells whether removing is allowed at all.
        match own.release(Ipv4Addr::new(255, 255, 255, 254)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
            _ => Ok(own),
        }
    }

    /// Adds it unless it is there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn hold(&self, address: Ipv4Addr) -> io::Result<()> {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        match ask(RouteNetlinkMessage::NewAddress(self.message(address)), flags) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done.map(drop),
        }
    }

    /// Removes it when this node has added it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn release(&self, address: Ipv4Addr) -> io::Result<()> {
        match ask(RouteNetlinkMessage::DelAddress(self.message(address)), 0) {
            // Gone, or another's: the label does not match.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(()),
            done => done.map(drop),
        }
    }

    /// What this node has added.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn held(&self) -> io::Result<Vec<Ipv4Addr>> {
        let held = all()?.into_iter().filter(|held| *held.label == *self.label);
        Ok(held.map(|held| held.address).collect())
    }

    /// First address of an interface.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn address_of(&self, interface: &str) -> io::Result<Option<Ipv4Addr>> {
        Ok(all()?.into_iter().find(|held| held.label == interface).map(|held| held.address))
    }

    fn message(&self, address: Ipv4Addr) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = PREFIX;
        // Of this machine only: nobody is told of it.
        message.header.scope = AddressScope::Host;
        message.header.index = LOOPBACK;
        message.attributes = vec![
            AddressAttribute::Local(IpAddr::V4(address)),
            AddressAttribute::Address(IpAddr::V4(address)),
            AddressAttribute::Label(self.label.to_string()),
        ];
        message
    }
}

/// `lo:` and the end of the node's id.
fn label(node: NodeId) -> String {
    let id = node.to_string();
    let room = LONGEST_LABEL - "lo:".len();
    format!("lo:{}", id.get(id.len().saturating_sub(room)..).unwrap_or(&id))
}

fn all() -> io::Result<Vec<Held>> {
    let mut question = AddressMessage::default();
    question.header.family = AddressFamily::Inet;
    let answers = ask(RouteNetlinkMessage::GetAddress(question), NLM_F_DUMP)?;
    Ok(answers.into_iter().filter_map(held).collect())
}

fn held(message: RouteNetlinkMessage) -> Option<Held> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let (mut address, mut label) = (None, String::new());
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(IpAddr::V4(local)) => address = Some(local),
            AddressAttribute::Label(text) => label = text,
            _ => {}
        }
    }
    Some(Held { address: address?, label })
}

/// Asks the kernel, which answers before it returns: nothing is waited for.
fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let is_dump = flags == NLM_F_DUMP;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags | if is_dump { 0 } else { NLM_F_ACK };
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut request = vec![0; message.buffer_len()];
    message.serialize(&mut request);
    let socket = rustix::net::socket_with(Family::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    rustix::net::sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let (mut answers, mut buffer) = (Vec::new(), vec![0; ANSWER]);
    loop {
        let (length, _) = rustix::net::recv(&socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT)?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        if rest.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !rest.is_empty() {
            let answer =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            // Pieces begin at multiples of four.
            let length = (answer.header.length as usize).next_multiple_of(4).max(4);
            rest = rest.get(length..).unwrap_or_default();
            match answer.payload {
                NetlinkPayload::Done(_) => return Ok(answers),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_and_go_and_only_ours() {
        let (one, other) = (NodeId::from_random(0x5ee1), NodeId::from_random(0x5ee2));
        let (Ok(one), Ok(other)) = (Loopback::open(one), Loopback::open(other)) else {
            eprintln!("skipped: no right to add addresses");
            return;
        };
        // TEST-NET-2 is nobody's.
        let address = Ipv4Addr::new(198, 51, 100, 77);
        one.hold(address).unwrap();
        one.hold(address).unwrap();
        other.hold(address).unwrap();
        assert_eq!((one.held().unwrap(), other.held().unwrap()), (vec![address], vec![]));
        std::net::TcpListener::bind((address, 0)).unwrap();
        other.release(address).unwrap();
        assert_eq!(one.held().unwrap(), [address], "another's stays");
        one.release(address).unwrap();
        one.release(address).unwrap();
        assert!(one.held().unwrap().is_empty());
        assert_eq!(one.address_of("lo").unwrap(), Some(Ipv4Addr::LOCALHOST));
        assert_eq!(one.address_of("nothing").unwrap(), None);
    }
}
