//! Whole connections through the balancer: bytes one way and the other.
//!
//! Invariant: a connection belongs to one endpoint from its first byte to its last; another endpoint is tried only while
//! none has been reached. A connection on which nothing moves is ended.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use skein_agent_core::balance::{Ending, Load, key};
use skein_common::service::Algorithm;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes},
    net::TcpStream,
    time,
};

use super::{
    client::{Moved, stillness},
    front::{Front, Held},
    introduction,
};

/// For each direction of a connection.
const BUFFER_BYTES: usize = 8 << 10;

/// Serves one client's connection until either side ends it.
pub(crate) async fn serve(mut client: TcpStream, peer: SocketAddr, front: Arc<Front>) {
    let Ok(destination) = client.local_addr() else { return };
    let Some((mut held, endpoint)) = reach(peer, destination, &front).await else { return };
    held.note(Ending::Connected);
    let idle = held.policy().timeouts.idle;
    let moved = Moved::default();
    let load = Arc::clone(held.load());
    let mut endpoint = Watched { stream: endpoint, moved: moved.clone(), load };
    tokio::select! {
        _ = copy_bidirectional_with_sizes(&mut client, &mut endpoint, BUFFER_BYTES, BUFFER_BYTES) => {}
        () = stillness(&moved, idle) => {
            tracing::debug!(service = front.name, %peer, ?idle, "nothing moved on a connection; ended");
        }
    }
}

/// A connection to the first endpoint that takes one.
async fn reach(peer: SocketAddr, destination: SocketAddr, front: &Arc<Front>) -> Option<(Held, TcpStream)> {
    let key = match &front.state().policy.algorithm {
        Algorithm::ConsistentHash { .. } => Some(key(peer.ip().to_canonical().to_string().as_bytes())),
        Algorithm::RoundRobin | Algorithm::Random | Algorithm::LeastRequests | Algorithm::Adaptive => None,
    };
    let mut tried = Vec::new();
    loop {
        let mut held = match front.lease(key, &tried).await {
            Ok(held) => held,
            Err(error) => {
                tracing::debug!(service = front.name, %peer, error = &error as &dyn std::error::Error, "a connection was ended");
                return None;
            }
        };
        let limit = held.policy().timeouts.connect;
        let connected = time::timeout(limit, connect(&held, peer, destination)).await;
        if let Ok(Ok(stream)) = connected {
            return Some((held, stream));
        }
        held.note(Ending::Unreachable);
        tried.push(held.endpoint().instance);
        if !front.may_retry(tried.len(), false) {
            return None;
        }
    }
}

async fn connect(held: &Held, peer: SocketAddr, destination: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(held.endpoint().address).await?;
    let _ = stream.set_nodelay(true);
    if held.policy().send_proxy {
        introduction::tell(&mut stream, peer, destination).await?;
    }
    Ok(stream)
}

/// Counts what passes.
struct Watched {
    stream: TcpStream,
    moved: Moved,
    load: Arc<Load>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let bytes = buffer.filled().len() - before;
        self.moved.count(bytes);
        self.load.sent(bytes);
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = written {
            self.moved.count(count);
            self.load.received(count);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
