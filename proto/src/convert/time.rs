//! Instants and durations.

use std::time::Duration;

use skein_common::Timestamp;

use super::InvalidMessage;

/// The wire form; exact to the millisecond.
#[must_use]
pub fn timestamp_to_wire(at: Timestamp) -> prost_types::Timestamp {
    let (seconds, ms) = (at.unix_ms() / 1000, at.unix_ms() % 1000);
    prost_types::Timestamp {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        nanos: i32::try_from(ms * 1_000_000).unwrap_or(0),
    }
}

/// The wire form; durations beyond i64 seconds become the longest there is.
#[must_use]
pub fn duration_to_wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// The domain form, cut to the millisecond.
///
/// # Errors
/// Times before the Unix epoch.
pub fn timestamp_from_wire(
    field: &'static str,
    wire: prost_types::Timestamp,
) -> Result<Timestamp, InvalidMessage> {
    let seconds =
        u64::try_from(wire.seconds).map_err(|_| InvalidMessage::invalid(field, "before the Unix epoch"))?;
    let ms = u64::try_from(wire.nanos).unwrap_or(0) / 1_000_000;
    Ok(Timestamp::from_unix_ms(seconds.saturating_mul(1000).saturating_add(ms)))
}

/// The domain form.
///
/// # Errors
/// Negative durations.
pub fn duration_from_wire(
    field: &'static str,
    wire: prost_types::Duration,
) -> Result<Duration, InvalidMessage> {
    Duration::try_from(wire).map_err(|_| InvalidMessage::invalid(field, "a duration cannot be negative"))
}
