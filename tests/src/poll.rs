//! A client that never stops asking: through every node in turn, one connection a request.
//!
//! Invariant: each failure is kept with its reason, so a run without failures says how many requests it stands for.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{task::JoinHandle, time};
use tokio_util::sync::CancellationToken;

use crate::http;

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(5);
/// Failures that are kept.
const KEPT: usize = 20;

/// What became of the requests.
#[derive(Debug, Clone, Default)]
pub struct Polled {
    pub answered: usize,
    pub failed: usize,
    /// Of the first failures.
    pub reasons: Vec<String>,
}

/// A running client.
#[derive(Debug)]
pub struct Poller {
    stop: CancellationToken,
    polled: Arc<Mutex<Polled>>,
    task: JoinHandle<()>,
}

impl Poller {
    /// Asks these addresses, one after the other, for this path.
    #[must_use]
    pub fn start(addresses: Vec<String>, path: &'static str) -> Self {
        let (stop, polled) = (CancellationToken::new(), Arc::<Mutex<Polled>>::default());
        let (stopped, told) = (stop.clone(), Arc::clone(&polled));
        let task = tokio::spawn(async move {
            let mut pace = time::interval(PAUSE);
            for address in addresses.iter().cycle() {
                pace.tick().await;
                if stopped.is_cancelled() {
                    return;
                }
                let answer = http::get(address, path).await;
                let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                match answer {
                    Ok(_) => told.answered += 1,
                    Err(error) => {
                        told.failed += 1;
                        if told.reasons.len() < KEPT {
                            told.reasons.push(format!("{address}: {error:#}"));
                        }
                    }
                }
            }
        });
        Self { stop, polled, task }
    }

    /// So far.
    #[must_use]
    pub fn polled(&self) -> Polled {
        self.polled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it.
    pub async fn stop(self) -> Polled {
        self.stop.cancel();
        let _ = self.task.await;
        self.polled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
