//! Where the dispatcher writes endpoints down and sessions read them.
//!
//! Invariant: what is written and what is told are the core's (`skein_master_core::endpoints`); here the book is shared.

use std::sync::{Mutex, MutexGuard, PoisonError};

use skein_master_core::endpoints::EndpointBook;

#[derive(Debug, Default)]
pub struct EndpointDesk(Mutex<EndpointBook>);

impl EndpointDesk {
    /// To look at, for a moment.
    pub fn lock(&self) -> MutexGuard<'_, EndpointBook> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
