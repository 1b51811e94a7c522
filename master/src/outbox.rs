//! A bounded queue to one client, with a last word.
//!
//! Invariant: what was queued before [`Outbox::finish`] is delivered before the final status, so a
//! client that is told where to resume has everything up to there. Memory a client can hold is the
//! queue's length; a client that does not read stops its sender, nobody else.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use tokio::sync::mpsc;
use tonic::Status;

use crate::status::CallError;

type LastWord = Arc<Mutex<Option<Status>>>;

/// The sending end.
#[derive(Debug)]
pub struct Outbox<T> {
    /// Boxed: the queue's memory is its length, not the size of the largest message.
    queue: mpsc::Sender<Box<T>>,
    last_word: LastWord,
}

/// The stream tonic sends from.
#[derive(Debug)]
pub struct Delivery<T> {
    queue: mpsc::Receiver<Box<T>>,
    last_word: LastWord,
}

/// Why something could not be queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotQueued {
    /// The client is gone.
    Gone,
    /// The client did not read in time.
    Slow,
}

/// A queue of at most `length` messages.
#[must_use]
pub fn outbox<T>(length: usize) -> (Outbox<T>, Delivery<T>) {
    let (sender, receiver) = mpsc::channel(length);
    let last_word = LastWord::default();
    (Outbox { queue: sender, last_word: last_word.clone() }, Delivery { queue: receiver, last_word })
}

impl<T: Send> Outbox<T> {
    /// Queues a message, waiting at most `patience` for room.
    pub async fn send(&self, message: T, patience: Duration) -> Result<(), NotQueued> {
        match self.queue.try_send(Box::new(message)) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(NotQueued::Gone),
            Err(mpsc::error::TrySendError::Full(message)) => {
                self.queue.send_timeout(message, patience).await.map_err(|error| match error {
                    mpsc::error::SendTimeoutError::Timeout(_) => NotQueued::Slow,
                    mpsc::error::SendTimeoutError::Closed(_) => NotQueued::Gone,
                })
            }
        }
    }

    /// Ends once the client is gone.
    pub async fn gone(&self) {
        self.queue.closed().await;
    }

    /// Ends the stream with this error, after what is queued.
    pub fn finish(self, error: CallError) {
        *self.last_word.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.into());
    }
}

impl<T> Stream for Delivery<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.queue.poll_recv(context).map(|message| match message {
            Some(message) => Some(Ok(*message)),
            None => self.last_word.lock().unwrap_or_else(PoisonError::into_inner).take().map(Err),
        })
    }
}
