//! How many requests of a service may be tried again: retries must not become the load that keeps it down.
//!
//! Invariant: over any long time at most a fifth of all requests, plus a few a second so that a quiet service is
//! not without (Finagle's retry budget).

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::load::millis;

/// Of one retry, in the coin of which a request pays in [`EARNED`].
const PRICE: u64 = 5;
const EARNED: u64 = 1;
/// Retries that can be saved up.
const SAVED_MAX: u64 = 100 * PRICE;
/// A retry that is free, at most every this many milliseconds.
const FREE_EVERY_MS: u64 = 300;

#[derive(Debug, Default)]
pub struct RetryBudget {
    saved: AtomicU64,
    free_again_ms: AtomicU64,
}

impl RetryBudget {
    /// A first try was made.
    pub fn earn(&self) {
        if self.saved.load(Relaxed) < SAVED_MAX {
            self.saved.fetch_add(EARNED, Relaxed);
        }
    }

    /// Whether one retry may be made; it is paid for then.
    #[must_use]
    pub fn spend(&self, now: Duration) -> bool {
        self.saved.fetch_update(Relaxed, Relaxed, |saved| saved.checked_sub(PRICE)).is_ok()
            || self
                .free_again_ms
                .fetch_update(Relaxed, Relaxed, |again| {
                    (millis(now) >= again).then(|| millis(now).saturating_add(FREE_EVERY_MS))
                })
                .is_ok()
    }
}
