//! Silence → verdicts: asks the core when it is time and proposes what it concludes.
//!
//! Invariant: judged by a clock that never steps back and starts with the leader's term, so what a
//! former leader heard does not count here.
//! Deliberately not here: who is late, down or held (`skein_master_core::liveness`).

use std::{
    collections::HashMap,
    error::Error,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use skein_common::NodeId;
use skein_master_core::{
    Command, CommandKind,
    command::Actor,
    liveness::{Liveness, LivenessConfig},
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{clock, store::Store};

/// Between two looks; a node is given up at most this much late.
const JUDGE_EVERY: Duration = Duration::from_millis(500);

/// When each node was last heard, until the controller looks: one entry a node.
#[derive(Debug)]
pub struct Heard {
    started: Instant,
    nodes: Mutex<HashMap<NodeId, Duration>>,
}

impl Default for Heard {
    fn default() -> Self {
        Self { started: Instant::now(), nodes: Mutex::default() }
    }
}

impl Heard {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The node said something.
    pub fn mark(&self, node: NodeId) {
        let now = self.now();
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).insert(node, now);
    }

    fn take(&self) -> HashMap<NodeId, Duration> {
        mem::take(&mut *self.nodes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Runs until `stop`.
pub async fn run(store: Store, heard: Arc<Heard>, config: LivenessConfig, stop: CancellationToken) {
    tokio::select! {
        () = judge(store, &heard, config) => {}
        () = stop.cancelled() => {}
    }
}

async fn judge(store: Store, heard: &Heard, config: LivenessConfig) {
    let state = store.snapshot();
    let mut liveness = Liveness::new(config, heard.now(), state.nodes().map(AsRef::as_ref));
    drop(state);
    let mut ticks = interval(JUDGE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut held = 0;
    loop {
        ticks.tick().await;
        for (node, at) in heard.take() {
            liveness.heard(node, at);
        }
        let judgement = liveness.judge(&store.snapshot(), heard.now());
        if mem::replace(&mut held, judgement.held.len()) != held {
            tracing::warn!(nodes = held, "nodes that are silent together are held, not given up");
        }
        if judgement.verdicts.is_empty() {
            continue;
        }
        let kind = CommandKind::JudgeNodes { verdicts: judgement.verdicts };
        let actor = Actor::Controller("liveness".to_owned());
        let command = Command { request: None, at: clock::now(), actor, kind };
        if let Err(error) = store.propose(command).await {
            tracing::warn!(error = &error as &dyn Error, "verdicts not committed; the next look retries");
        }
    }
}
