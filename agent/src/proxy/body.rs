//! Bodies on their way through: nothing is kept, what holds an endpoint is held until the last byte.
//!
//! Invariant: a connection goes back to wait for its next request only when the answer has been read to its end.

use std::{
    cell::Cell,
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use skein_agent_core::balance::Load;
use tokio::time::Instant;

use super::{
    front::Held,
    upstream::{Sender, Upstreams},
};

/// Of a request: what the client sends, or nothing when it is tried again.
pub(crate) enum RequestBody {
    Streamed(Uploaded),
    Empty,
}

/// What the client sends.
pub(crate) struct Uploaded {
    body: Incoming,
    /// `None` = there is none.
    passed: Option<Rc<Passed>>,
    /// Who is sent it.
    load: Option<Arc<Load>>,
}

/// When the last byte of a request had passed: from then on it is the endpoint's turn.
#[derive(Debug, Default)]
pub(crate) struct Passed(Cell<Option<Instant>>);

impl Passed {
    pub(crate) fn at(&self) -> Option<Instant> {
        self.0.get()
    }

    fn set(&self) {
        if self.0.get().is_none() {
            self.0.set(Some(Instant::now()));
        }
    }
}

impl RequestBody {
    pub(crate) fn streamed(body: Incoming) -> Self {
        let passed = (!body.is_end_stream()).then(Rc::default);
        Self::Streamed(Uploaded { body, passed, load: None })
    }

    /// What is sent from now on is sent to this endpoint.
    pub(crate) fn count_for(&mut self, endpoint: &Arc<Load>) {
        if let Self::Streamed(uploaded) = self
            && uploaded.passed.is_some()
        {
            uploaded.load = Some(Arc::clone(endpoint));
        }
    }

    /// `None` = it has no body.
    pub(crate) fn passed(&self) -> Option<Rc<Passed>> {
        match self {
            Self::Streamed(uploaded) => uploaded.passed.clone(),
            Self::Empty => None,
        }
    }
}

impl Drop for Uploaded {
    fn drop(&mut self) {
        // The endpoint may have answered before it had all of it.
        if let Some(passed) = &self.passed {
            passed.set();
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Streamed(uploaded) => {
                let frame = Pin::new(&mut uploaded.body).poll_frame(context);
                if let (Some(load), Some(bytes)) = (&uploaded.load, data(&frame)) {
                    load.received(bytes);
                }
                if let Some(passed) = &uploaded.passed
                    && (matches!(frame, Poll::Ready(None)) || uploaded.body.is_end_stream())
                {
                    passed.set();
                }
                frame
            }
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streamed(uploaded) => uploaded.body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Streamed(uploaded) => uploaded.body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

/// How much of a body it is.
fn data(frame: &Poll<Option<Result<Frame<Bytes>, hyper::Error>>>) -> Option<usize> {
    match frame {
        Poll::Ready(Some(Ok(frame))) => frame.data_ref().map(Bytes::len),
        _ => None,
    }
}

/// Of an answer: the endpoint's, or the proxy's own line.
pub(crate) enum ResponseBody {
    Streamed(Streamed),
    Line(Option<Bytes>),
}

/// An endpoint's answer, and what it holds until it has passed.
pub(crate) struct Streamed {
    body: Incoming,
    /// `None` when it has passed.
    rest: Option<Rest>,
}

pub(crate) struct Rest {
    pub(crate) held: Held,
    /// `None` = the connection is not to be used again.
    pub(crate) sender: Option<Sender>,
    pub(crate) upstreams: Rc<Upstreams>,
}

impl Rest {
    fn give_back(self) {
        if let Some(sender) = self.sender {
            self.upstreams.give_back(self.held.endpoint().address, sender);
        }
    }
}

impl ResponseBody {
    pub(crate) fn streamed(body: Incoming, rest: Rest) -> Self {
        let mut streamed = Streamed { body, rest: Some(rest) };
        streamed.end_if_passed();
        Self::Streamed(streamed)
    }

    pub(crate) fn line(text: impl Into<Bytes>) -> Self {
        Self::Line(Some(text.into()))
    }
}

impl Streamed {
    fn end_if_passed(&mut self) {
        if self.body.is_end_stream()
            && let Some(rest) = self.rest.take()
        {
            rest.give_back();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Line(line) => Poll::Ready(line.take().map(|line| Ok(Frame::data(line)))),
            Self::Streamed(streamed) => {
                let frame = Pin::new(&mut streamed.body).poll_frame(context);
                if let (Some(rest), Some(bytes)) = (&streamed.rest, data(&frame)) {
                    rest.held.load().sent(bytes);
                }
                match &frame {
                    Poll::Ready(Some(Ok(_))) => streamed.end_if_passed(),
                    Poll::Ready(None) => {
                        if let Some(rest) = streamed.rest.take() {
                            rest.give_back();
                        }
                    }
                    // What broke is not used again.
                    Poll::Ready(Some(Err(_))) => streamed.rest = None,
                    Poll::Pending => {}
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streamed(streamed) => streamed.body.is_end_stream(),
            Self::Line(line) => line.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Streamed(streamed) => streamed.body.size_hint(),
            Self::Line(line) => SizeHint::with_exact(line.as_ref().map_or(0, |line| line.len() as u64)),
        }
    }
}

/// The proxy always has an answer.
pub(crate) type Answer = Result<hyper::Response<ResponseBody>, Infallible>;
