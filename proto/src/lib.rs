//! The wire: generated protobuf types and their conversions into the domain vocabulary.
//!
//! Invariant: what comes from a peer becomes a domain value by `TryFrom` only, and never
//! panics; what goes out is a `From`. `proto/skein/v1/*.proto` is the specification.
//! Deliberately not here: transport, retries, servers.

pub mod convert;

/// Generated from `proto/skein/v1`.
#[allow(clippy::all, clippy::pedantic, clippy::large_futures)]
pub mod v1 {
    tonic::include_proto!("skein.v1");
}

pub use convert::InvalidMessage;

/// All messages and services of `skein.v1` with what they import, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/skein.bin"));
/// Version of the agent protocol spoken by this build.
/// Bytes of stdin on their way to a command, beyond which a sender waits: less than any window of the
/// transport, in which a cancel could not be heard.
pub const STDIN_WINDOW: usize = 128 * 1024;
/// Pieces it is sent in.
pub const STDIN_PIECE: usize = 32 * 1024;

pub const AGENT_PROTOCOL: u32 = 1;
/// Largest message either side of any stream accepts, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
