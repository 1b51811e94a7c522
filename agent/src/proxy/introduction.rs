//! For whom a connection is: heard from trusted front balancers, told to instances that ask (PROXY protocol).
//!
//! Invariant: not a byte behind the header is read; who is trusted and says nothing in time is sent away.
//! Deliberately not here: the bytes themselves (`agent/core`, `proxy_protocol`).

use std::{io, net::SocketAddr, time::Duration};

use skein_agent_core::proxy_protocol::{self, FIXED, InvalidHeader};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

/// Front balancers send it with the first packet.
const WITHIN: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });

/// Why nobody was introduced.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IntroductionError {
    #[error("nothing was said within {WITHIN:?}")]
    Late,
    #[error("the connection broke")]
    Broken(#[from] io::Error),
    #[error("what was said is no introduction")]
    Invalid(#[from] InvalidHeader),
}

/// For whom the connection is; `None` = for who made it.
pub(crate) async fn hear(stream: &mut TcpStream) -> Result<Option<SocketAddr>, IntroductionError> {
    let said = async {
        let mut fixed = [0; FIXED];
        stream.read_exact(&mut fixed).await?;
        let mut rest = vec![0; proxy_protocol::rest(&fixed)?];
        stream.read_exact(&mut rest).await?;
        Ok(proxy_protocol::source(&fixed, &rest)?)
    };
    time::timeout(WITHIN, said).await.map_err(|_| IntroductionError::Late)?
}

/// The first bytes of a connection to an instance.
pub(crate) async fn tell(
    stream: &mut TcpStream,
    source: SocketAddr,
    destination: SocketAddr,
) -> io::Result<()> {
    stream.write_all(&proxy_protocol::header(source, destination)).await
}
