//! Where the masters' time and chance come from; everybody else takes them as arguments.
//!
//! Invariant: [`now`] is the wall clock, for records that people read; whoever judges silence uses
//! `Instant`, which never steps back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skein_common::Timestamp;

/// The wall clock.
#[must_use]
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp::from_unix_ms(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// 64 random bits, for an id.
#[must_use]
pub fn random() -> u64 {
    rand::random()
}
