//! Hollow agents: the real session over real streams and the real core of the agent, around an
//! engine that does everything at once and holds nothing.
//!
//! Invariant: to a master a hollow agent is an agent. Each has a connection of its own, as real
//! ones do. Deliberately not here: disks, samples of usage, time limits.

mod engine;
mod session;

use std::{sync::Arc, time::Duration};

use rand::RngExt as _;
use skein_common::{
    NodeId, Resources,
    node::{NodeDescription, Platform},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{self, Instant},
};

use self::session::HollowAgent;

/// Connections under way at once: a thousand at one moment are no agents but an attack.
const DIALS: usize = 64;
/// Makes ids of numbers; any odd constant does.
const ID_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Which agents, and for whom.
#[derive(Debug, Clone)]
pub struct Flock {
    pub masters: Vec<String>,
    pub agents: usize,
    pub first: usize,
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    /// Told of endpoints that an agent goes by; without it nodes have no balancer.
    pub applied: Option<mpsc::UnboundedSender<AppliedEndpoints>>,
}

/// An agent goes by these endpoints now.
#[derive(Debug, Clone, Copy)]
pub struct AppliedEndpoints {
    /// Its number.
    pub agent: usize,
    /// Of all services together.
    pub endpoints: usize,
    pub at: Instant,
}

/// Runs them for ever.
pub async fn run(flock: Flock) {
    let flock = Arc::new(flock);
    let dials = Arc::new(Semaphore::new(DIALS));
    let mut agents = JoinSet::new();
    for number in flock.first..flock.first + flock.agents {
        agents.spawn(live(flock.clone(), number, dials.clone()));
    }
    agents.join_all().await;
}

async fn live(flock: Arc<Flock>, number: usize, dials: Arc<Semaphore>) {
    let mut agent =
        HollowAgent::new(node_id(number), description(&flock, number), number, flock.applied.clone());
    let mut hint: Option<String> = None;
    loop {
        let any = rand::rng().random_range(0..flock.masters.len().max(1));
        let Some(master) = hint.take().or_else(|| flock.masters.get(any).cloned()) else { return };
        match agent.attend(&master, &dials).await {
            Ok(leader) => hint = leader,
            Err(error) => tracing::debug!(%error, number, "a session ended"),
        }
        let pause = rand::rng().random_range(100..1_000);
        time::sleep(Duration::from_millis(pause)).await; // polls: the masters, until one leads
    }
}

fn node_id(number: usize) -> NodeId {
    let number = u64::try_from(number).unwrap_or(u64::MAX).saturating_add(1);
    NodeId::from_random(number.wrapping_mul(ID_FACTOR))
}

fn description(flock: &Flock, number: usize) -> NodeDescription {
    NodeDescription {
        name: format!("hollow-{number}"),
        address: format!("10.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255),
        labels: [("hollow".to_owned(), "true".to_owned())].into(),
        capacity: Resources { cpu_millis: flock.cpu_millis, memory_bytes: flock.memory_bytes },
        reserved: Resources::ZERO,
        platform: Platform { os: "linux".to_owned(), arch: "amd64".to_owned() },
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_version: "hollow".to_owned(),
        generic: Vec::new(),
        balances: flock.applied.is_some(),
        pids: 0,
    }
}
