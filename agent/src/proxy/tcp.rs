//! Whole connections through the balancer: bytes one way and the other.
//!
//! Invariant: a connection belongs to one endpoint from its first byte to its last; another endpoint is tried only while
//! none has been reached. A connection on which nothing moves is ended.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use skein_agent_core::balance::{Ending, key};
use skein_common::service::Algorithm;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time,
};

use super::{
    client::{Moved, stillness},
    front::{Front, Held, Wish},
    introduction,
};

const BUFFER_BYTES: usize = 32 << 10;

thread_local! {
    /// What is read is written before anybody else reads: one for all connections of a thread, none for idle ones.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER_BYTES]);
}

/// Serves one client's connection until either side ends it.
pub(crate) async fn serve(mut client: TcpStream, peer: SocketAddr, front: Arc<Front>) {
    let Ok(destination) = client.local_addr() else { return };
    let Some((mut held, mut endpoint)) = reach(peer, destination, &front).await else { return };
    held.note(Ending::Connected);
    let idle = held.policy().timeouts.idle;
    let moved = Moved::default();
    let load = Arc::clone(held.load());
    let (from_client, to_client) = client.split();
    let (from_endpoint, to_endpoint) = endpoint.split();
    let received = |bytes| {
        moved.count(bytes);
        load.received(bytes);
    };
    let sent = |bytes| {
        moved.count(bytes);
        load.sent(bytes);
    };
    let both = async {
        tokio::try_join!(carry(from_client, to_endpoint, received), carry(from_endpoint, to_client, sent))
    };
    tokio::select! {
        _ = both => {}
        () = stillness(&moved, idle) => {
            tracing::debug!(service = front.name, %peer, ?idle, "nothing moved on a connection; ended");
        }
    }
}

/// A connection to the first endpoint that takes one.
async fn reach(peer: SocketAddr, destination: SocketAddr, front: &Arc<Front>) -> Option<(Held, TcpStream)> {
    let state = front.state();
    let key = match &state.policy.algorithm {
        Algorithm::ConsistentHash { .. } => Some(key(peer.ip().to_canonical().to_string().as_bytes())),
        Algorithm::RoundRobin | Algorithm::Random | Algorithm::LeastRequests | Algorithm::Adaptive => None,
    };
    let affinity = state.policy.affinity;
    let wanted = affinity.and_then(|time| front.clients.had(peer.ip(), time, Instant::now()));
    let wish = Wish { key, wanted };
    let mut tried = Vec::new();
    loop {
        let mut held = match front.lease(wish, &tried).await {
            Ok(held) => held,
            Err(error) => {
                tracing::debug!(service = front.name, %peer, error = &error as &dyn std::error::Error, "a connection was ended");
                return None;
            }
        };
        let limit = held.policy().timeouts.connect;
        let connected = time::timeout(limit, connect(&held, peer, destination)).await;
        if let Ok(Ok(stream)) = connected {
            if let Some(time) = affinity {
                front.clients.has(peer.ip(), held.mark(), time, Instant::now());
            }
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

/// One direction, until its end, which passes too.
async fn carry(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, passed: impl Fn(usize)) -> io::Result<()> {
    loop {
        let (count, rest) = poll_fn(|context| pass(&mut from, &mut to, context)).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        passed(count);
        // Its receiver is slow: nothing more is read until it has taken this.
        to.write_all(&rest).await?;
    }
}

/// Reads what there is and writes it at once: how much it was, and what could not be written yet.
fn pass(
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    context: &mut Context<'_>,
) -> Poll<io::Result<(usize, Vec<u8>)>> {
    BUFFER.with_borrow_mut(|buffer| {
        let mut read = ReadBuf::new(buffer);
        ready!(Pin::new(from).poll_read(context, &mut read))?;
        let bytes = read.filled();
        if bytes.is_empty() {
            return Poll::Ready(Ok((0, Vec::new())));
        }
        let written = match Pin::new(to).poll_write(context, bytes) {
            Poll::Ready(written) => written?,
            Poll::Pending => 0,
        };
        Poll::Ready(Ok((bytes.len(), bytes[written..].to_vec())))
    })
}
