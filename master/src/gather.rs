//! A connection that gathers what is ready to be written before it writes.
//!
//! Invariant: a write waits for the tasks that are runnable now, once, and for nothing else: no timer,
//! and a machine that is idle writes at once. Without it, a task that answers a call wakes its
//! connection, the runtime runs what was woken last first, and a thousand answers that became ready
//! together are a thousand system calls.
//! Deliberately not here: reading, which passes through.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// A TCP connection whose first write after each flush lets others run before it.
#[derive(Debug)]
pub struct Gathered {
    stream: TcpStream,
    /// The others have run.
    writing: bool,
}

impl Gathered {
    #[must_use]
    pub const fn new(stream: TcpStream) -> Self {
        Self { stream, writing: false }
    }

    /// Pending once: a task that wakes itself goes behind all that are runnable.
    fn poll_turn(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.writing {
            return Poll::Ready(());
        }
        self.writing = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncRead for Gathered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Gathered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_turn(context));
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    /// What HTTP/2 writes in slices, it writes frame by frame; otherwise frames up to 1 KiB, which
    /// most answers are, are put together first.
    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            self.writing = false;
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Gathered {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn a_write_lets_others_go_first_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (accepted, connected) =
            tokio::join!(listener.accept(), TcpStream::connect(listener.local_addr().unwrap()));
        let (mut peer, mut gathered) = (accepted.unwrap().0, Gathered::new(connected.unwrap()));
        let mut context = Context::from_waker(Waker::noop());
        for text in [&b"one"[..], b"two"] {
            assert!(Pin::new(&mut gathered).poll_write(&mut context, text).is_pending());
            gathered.write_all(text).await.unwrap();
            gathered.flush().await.unwrap();
        }
        let mut read = [0; 6];
        peer.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"onetwo");
    }
}
