//! The loop that writes while everything breaks, and remembers what it was told.
//!
//! Invariant: one write at a time; the next begins when the outcome of the one before is known or
//! was given up as unknown. Deliberately not here: judging the history (`verdict`).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use skein_proto::v1::Service;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::BUSY;
use crate::{client::Client, spec::service, wait};

const MOST_REPLICAS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(250);
/// Every so many writes, a service is created that stays: it shows later that the write survived.
const MARK_EVERY: u64 = 5;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    Scale(u32),
    /// A service at rest with this name.
    Mark(String),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The revision that the answer named.
    Acknowledged(u64),
    Unknown(String),
}

#[derive(Debug, Clone)]
pub struct Write {
    pub wish: Wish,
    pub outcome: Outcome,
    pub took: Duration,
}

/// The running loop.
#[derive(Debug)]
pub struct Writer {
    stop: CancellationToken,
    task: JoinHandle<Vec<Write>>,
}

impl Writer {
    /// Ends the loop after the write at hand.
    pub async fn stop(self) -> Result<Vec<Write>> {
        self.stop.cancel();
        self.task.await.context("the writer")
    }
}

pub fn start(client: Arc<Client>, seed: u64) -> Writer {
    let stop = CancellationToken::new();
    let (stopped, mut random) = (stop.clone(), StdRng::seed_from_u64(seed.wrapping_add(1)));
    let task = tokio::spawn(async move {
        let (mut history, mut replicas) = (Vec::new(), 3);
        for number in 1_u64.. {
            let wish = if number % MARK_EVERY == 0 {
                Wish::Mark(format!("mark-{number}"))
            } else {
                replicas = another(&mut random, replicas);
                Wish::Scale(replicas)
            };
            let start = Instant::now();
            let outcome = write(&client, &wish).await;
            history.push(Write { wish, outcome, took: start.elapsed() });
            tokio::select! {
                () = stopped.cancelled() => break,
                () = wait::let_pass(PAUSE) => {}
            }
        }
        history
    });
    Writer { stop, task }
}

/// Never the same: an equal spec would be no write.
fn another(random: &mut StdRng, replicas: u32) -> u32 {
    let drawn = random.random_range(1..MOST_REPLICAS);
    if drawn >= replicas { drawn + 1 } else { drawn }
}

async fn write(client: &Client, wish: &Wish) -> Outcome {
    let answer: Result<Service, _> = match wish {
        Wish::Scale(replicas) => client.scale(BUSY, *replicas).await,
        Wish::Mark(name) => client.apply(service(name).replicas(0)).await,
    };
    match answer {
        Ok(service) => Outcome::Acknowledged(service.modified_revision),
        Err(status) => Outcome::Unknown(format!("{:?} {}", status.code(), status.message())),
    }
}
