//! A client's connection: plain or TLS, what was read of it before it is served, and whether anything moves on it.
//!
//! Invariant: what was read ahead is read again first; every byte either way counts as movement.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    time,
};
use tokio_rustls::server::TlsStream;

/// How HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Most requests' heads are read with the first read.
const FIRST_READ: usize = 1024;
const ALPN_H2: &[u8] = b"h2";

/// What has moved on a connection, in either direction; shared with who watches, on the same thread (hyper asks for
/// more).
#[derive(Debug, Clone, Default)]
pub(crate) struct Moved(Arc<AtomicU64>);

impl Moved {
    pub(crate) fn count(&self, bytes: usize) {
        // One writer.
        self.0.store(self.get().wrapping_add(bytes as u64), Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

pub(crate) struct ClientStream {
    transport: Transport,
    ahead: Bytes,
    moved: Moved,
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl ClientStream {
    pub(crate) fn plain(stream: TcpStream) -> Self {
        Self { transport: Transport::Plain(stream), ahead: Bytes::new(), moved: Moved::default() }
    }

    pub(crate) fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self { transport: Transport::Tls(Box::new(stream)), ahead: Bytes::new(), moved: Moved::default() }
    }

    pub(crate) fn has_tls(&self) -> bool {
        matches!(self.transport, Transport::Tls(_))
    }

    pub(crate) fn moved(&self) -> Moved {
        self.moved.clone()
    }

    /// Whether the client speaks HTTP/2: agreed upon in TLS, or told by its first bytes.
    ///
    /// # Errors
    /// The connection broke, or ended before its first byte.
    pub(crate) async fn is_h2(&mut self) -> io::Result<bool> {
        if let Transport::Tls(stream) = &self.transport {
            return Ok(stream.get_ref().1.alpn_protocol() == Some(ALPN_H2));
        }
        let mut first = BytesMut::new();
        loop {
            // No buffer waits with a connection that says nothing.
            if let Transport::Plain(stream) = &self.transport {
                stream.readable().await?;
            }
            first.reserve(FIRST_READ);
            if self.read_buf(&mut first).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let known = first.len().min(PREFACE.len());
            let may_be = first[..known] == PREFACE[..known];
            if !may_be || known == PREFACE.len() {
                self.ahead = first.freeze();
                return Ok(may_be);
            }
        }
    }

    fn counted(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = written {
            self.moved.count(count);
        }
        written
    }
}

/// Ends when nothing has moved for a whole `idle`.
pub(crate) async fn stillness(moved: &Moved, idle: Duration) {
    let mut seen = moved.get();
    loop {
        time::sleep(idle).await;
        if std::mem::replace(&mut seen, moved.get()) == moved.get() {
            return;
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead[..count]);
            self.ahead.advance(count);
            if self.ahead.is_empty() {
                self.ahead = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
        };
        self.moved.count(buffer.filled().len() - before);
        read
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        };
        self.counted(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(context, parts),
        };
        self.counted(written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}
