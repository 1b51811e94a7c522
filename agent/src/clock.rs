//! The time by which an agent decides.
//!
//! Invariant: never goes back while the agent runs, however the machine's clock is set: the wall
//! clock is read once, at the start. What survives (the checkpoint) is bounded where it is read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skein_common::Timestamp;
use tokio::time::Instant;

#[derive(Debug, Clone, Copy)]
pub struct Clock {
    began: Timestamp,
    began_at: Instant,
}

impl Clock {
    #[must_use]
    pub fn start() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        Self { began: Timestamp::from_unix_ms(unix_ms), began_at: Instant::now() }
    }

    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.began + self.began_at.elapsed()
    }

    /// When this clock will show `at`.
    #[must_use]
    pub fn instant(&self, at: Timestamp) -> Instant {
        // The clock shows whole milliseconds: a timer must not ring before.
        self.began_at + at.since(self.began) + Duration::from_millis(1)
    }
}
