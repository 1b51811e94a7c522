//! Whole connections through the balancer: bytes one way and the other.
//!
//! Invariant: a connection belongs to one endpoint from its first byte to its last; another endpoint is tried only while
//! none has been reached. A connection on which nothing moves is ended.

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use skein_agent_core::balance::{Ending, Load, key};
use skein_common::service::Algorithm;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes},
    net::TcpStream,
    time,
};

use super::front::{Front, Held};

/// For each direction of a connection.
const BUFFER_BYTES: usize = 8 << 10;

/// Serves one client's connection until either side ends it.
pub(crate) async fn serve(mut client: TcpStream, peer: SocketAddr, front: Arc<Front>) {
    let Some((mut held, endpoint)) = reach(peer, &front).await else { return };
    held.note(Ending::Connected);
    let idle = held.policy().timeouts.idle;
    let moved = Rc::new(Cell::new(0));
    let load = Arc::clone(held.load());
    let mut endpoint = Watched { stream: endpoint, moved: Rc::clone(&moved), load };
    tokio::select! {
        _ = copy_bidirectional_with_sizes(&mut client, &mut endpoint, BUFFER_BYTES, BUFFER_BYTES) => {}
        () = stillness(&moved, idle) => {
            tracing::debug!(service = front.name, %peer, ?idle, "nothing moved on a connection; ended");
        }
    }
}

/// A connection to the first endpoint that takes one.
async fn reach(peer: SocketAddr, front: &Arc<Front>) -> Option<(Held, TcpStream)> {
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
        let connected = time::timeout(limit, TcpStream::connect(held.endpoint().address)).await;
        if let Ok(Ok(stream)) = connected {
            let _ = stream.set_nodelay(true);
            return Some((held, stream));
        }
        held.note(Ending::Unreachable);
        tried.push(held.endpoint().instance);
        if !front.may_retry(tried.len(), false) {
            return None;
        }
    }
}

/// Ends when nothing has moved for a whole `idle`.
async fn stillness(moved: &Cell<u64>, idle: Duration) {
    let mut seen = moved.get();
    loop {
        time::sleep(idle).await;
        if std::mem::replace(&mut seen, moved.get()) == moved.get() {
            return;
        }
    }
}

/// Counts what passes.
struct Watched {
    stream: TcpStream,
    moved: Rc<Cell<u64>>,
    load: Arc<Load>,
}

impl Watched {
    fn count(&self, bytes: usize) {
        self.moved.set(self.moved.get().wrapping_add(bytes as u64));
    }
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
        self.count(bytes);
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
            self.count(count);
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
