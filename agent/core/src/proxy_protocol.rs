//! The PROXY protocol, version 2: for whom a connection is, said in front of it.
//!
//! Invariant: whatever the bytes are, an answer is found within [`MAX_HEADER`] of them, and nothing behind the header is
//! taken. Additions (TLVs) are skipped; version 1 is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What every header begins with.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Up to the length of the rest.
pub const FIXED: usize = 16;
/// Addresses and what real senders add take a few hundred.
pub const MAX_HEADER: usize = FIXED + 2048;
const VERSION: u8 = 2;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const V4_BYTES: usize = 12;
const V6_BYTES: usize = 36;

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeader {
    #[error("it does not begin with the PROXY protocol, version 2")]
    Signature,
    #[error("version or command {0:#04x} is unknown")]
    Command(u8),
    #[error("its header of {0} bytes is too long")]
    TooLong(usize),
    #[error("its addresses are cut off")]
    Short,
}

/// How many bytes follow the first [`FIXED`].
///
/// # Errors
/// When this is no header, or one of unusual length.
pub fn rest(fixed: &[u8; FIXED]) -> Result<usize, InvalidHeader> {
    if fixed[..SIGNATURE.len()] != SIGNATURE {
        return Err(InvalidHeader::Signature);
    }
    let command = fixed[12];
    if command >> 4 != VERSION || ![LOCAL, PROXY].contains(&(command & 0xf)) {
        return Err(InvalidHeader::Command(command));
    }
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if FIXED + length > MAX_HEADER { Err(InvalidHeader::TooLong(length)) } else { Ok(length) }
}

/// For whom the connection is; `None` = for who made it (a health check of the sender, or an unknown family).
///
/// # Errors
/// When the rest is shorter than its addresses.
pub fn source(fixed: &[u8; FIXED], rest: &[u8]) -> Result<Option<SocketAddr>, InvalidHeader> {
    if fixed[12] & 0xf == LOCAL {
        return Ok(None);
    }
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    match fixed[13] {
        TCP4 => {
            let address = rest.first_chunk::<4>().filter(|_| rest.len() >= V4_BYTES);
            let address = address.ok_or(InvalidHeader::Short)?;
            Ok(Some(SocketAddr::new(Ipv4Addr::from(*address).into(), port(8))))
        }
        TCP6 => {
            let address = rest.first_chunk::<16>().filter(|_| rest.len() >= V6_BYTES);
            let address = address.ok_or(InvalidHeader::Short)?;
            Ok(Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(*address)).to_canonical(), port(32))))
        }
        _ => Ok(None),
    }
}

/// What is said of a connection from `source` to `destination`.
#[must_use]
pub fn header(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut header = Vec::with_capacity(FIXED + V6_BYTES);
    header.extend_from_slice(&SIGNATURE);
    header.push(VERSION << 4 | PROXY);
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend_from_slice(&[TCP4, 0, 12]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
        }
        (from, to) => {
            header.extend_from_slice(&[TCP6, 0, 36]);
            header.extend_from_slice(&mapped(from).octets());
            header.extend_from_slice(&mapped(to).octets());
        }
    }
    header.extend_from_slice(&source.port().to_be_bytes());
    header.extend_from_slice(&destination.port().to_be_bytes());
    header
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the shell reads it: first the fixed part, then as much as that says.
    fn read(bytes: &[u8]) -> Result<Option<SocketAddr>, String> {
        let fixed = bytes.first_chunk::<FIXED>().ok_or("cut off")?;
        let length = rest(fixed).map_err(|error| error.to_string())?;
        let behind = bytes[FIXED..].get(..length).ok_or("cut off")?;
        source(fixed, behind).map_err(|error| error.to_string())
    }

    fn raw(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    #[test]
    fn headers_of_others_are_understood() {
        let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x34, 0, 80];
        let with_tlv = [&v4[..], &[3, 0, 4, 1, 2, 3, 4]].concat();
        for (bytes, expected) in [
            (raw(0x21, TCP4, &v4), Ok(Some("192.0.2.1:4660"))),
            (raw(0x21, TCP4, &with_tlv), Ok(Some("192.0.2.1:4660"))),
            (raw(0x20, TCP4, &v4), Ok(None)),
            (raw(0x20, 0, &[]), Ok(None)),
            (raw(0x21, 0, &[]), Ok(None)),
            (raw(0x21, 0x31, &[0; 216]), Ok(None)),
            (raw(0x21, TCP4, &v4[..11]), Err("its addresses are cut off")),
            (raw(0x21, TCP6, &v4), Err("its addresses are cut off")),
            (raw(0x11, TCP4, &v4), Err("version or command 0x11 is unknown")),
            (raw(0x22, TCP4, &v4), Err("version or command 0x22 is unknown")),
            (raw(0x21, TCP4, &[0; 4000]), Err("its header of 4000 bytes is too long")),
            (
                b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(),
                Err("it does not begin with the PROXY protocol, version 2"),
            ),
            (b"\x16\x03\x01".to_vec(), Err("cut off")),
        ] {
            let read = read(&bytes);
            let read = read.as_ref().map(|source| source.map(|source| source.to_string()));
            assert_eq!(
                read.as_ref().map(Option::as_deref).map_err(|error| error.as_str()),
                expected,
                "{bytes:?}"
            );
        }
    }

    fn address() -> impl Strategy<Value = SocketAddr> {
        let ip = prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
            any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
        ];
        (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(source in address(), destination in address(), behind in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut bytes = header(source, destination);
            let length = bytes.len();
            bytes.extend(behind);
            prop_assert_eq!(read(&bytes), Ok(Some(source)));
            prop_assert_eq!(FIXED + rest(bytes.first_chunk().unwrap()).unwrap(), length);
        }

        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = read(&bytes);
        }

        #[test]
        fn any_bytes_behind_the_signature_are_answered(command in any::<u8>(), family in any::<u8>(), rest in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&raw(command, family, &rest));
        }
    }
}
