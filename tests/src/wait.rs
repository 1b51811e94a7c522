//! Waiting for something to become true, or to stay true: the only place in the tests that sleeps.
//!
//! Invariant: a wait ends with its deadline, whatever the thing looked at does, and its failure
//! says what was waited for and what was seen last.
//! Deliberately not here: what is looked at; a caller gives a closure that answers
//! `Ok(value)` (it is so) or `Err(text)` (what it is instead).

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Looks until it is so.
///
/// # Errors
/// After `limit`, with what was seen last.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut last = "nothing".to_owned();
    loop {
        match tokio::time::timeout(limit.saturating_sub(start.elapsed()), look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => last = seen,
            Err(_) => {
                return Err(anyhow!(
                    "{what}: not within {limit:?}, the last look did not end; before: {last}"
                ));
            }
        }
        if start.elapsed() >= limit {
            return Err(anyhow!("{what}: not within {limit:?}; last seen: {last}"));
        }
        tokio::time::sleep(pause.min(limit)).await; // polls: what the caller looks at
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Looks again and again for the whole time: for claims that something does *not* happen.
///
/// # Errors
/// At the first look that says otherwise.
pub async fn throughout(
    what: &str,
    time: Duration,
    mut look: impl AsyncFnMut() -> Result<(), String>,
) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < time {
        if let Err(seen) = look().await {
            return Err(anyhow!("{what}: no longer after {:?}: {seen}", start.elapsed()));
        }
        tokio::time::sleep(LONGEST_PAUSE).await; // polls: what the caller looks at
    }
    Ok(())
}

/// Lets a fault act for this long: for soaks, never to give something the time to become so.
pub async fn let_pass(time: Duration) {
    tokio::time::sleep(time).await; // polls: nothing, the time itself is the fault
}

/// The answer of a look: so, or what was seen instead.
///
/// # Errors
/// `seen`, when it is not so.
pub fn expect(so: bool, seen: impl FnOnce() -> String) -> Result<(), String> {
    if so { Ok(()) } else { Err(seen()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_shows_the_last_state() {
        let mut looks = 0;
        let error = until("three geese", Duration::from_millis(50), async || {
            looks += 1;
            Err::<(), _>(format!("{looks} geese"))
        })
        .await
        .expect_err("never so")
        .to_string();
        assert!(error.contains("three geese") && error.contains(&format!("{looks} geese")), "{error}");
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_ended() {
        let error = until("an answer", Duration::from_millis(50), async || {
            std::future::pending::<Result<(), String>>().await
        })
        .await
        .expect_err("never so");
        assert!(error.to_string().contains("did not end"), "{error}");
    }
}
