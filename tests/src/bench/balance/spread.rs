//! How soon every node's balancer goes by a change of endpoints.
//!
//! Invariant: real masters, real sessions; the agents are hollow and say when they have applied.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};

use crate::{
    bench::{
        Plan,
        figure::{Figure, Table, Target, Unit},
    },
    deployment::{Deployment, Flags},
    hollow::{self, AppliedEndpoints, Flock},
    spec,
};

const AGENTS: usize = 100;
const LIMIT: Duration = Duration::from_secs(60);
const REPLICAS: u32 = 20;
const CHANGES: usize = 40;

/// # Errors
/// When the cluster does not come to that.
pub async fn measure(plan: &Plan) -> Result<Table> {
    let skein = Deployment::start(3, 0, &Flags::default()).await?;
    let (applied, mut heard) = mpsc::unbounded_channel();
    let flock = Flock {
        masters: skein.masters.iter().map(|master| master.api.address()).collect(),
        agents: AGENTS,
        first: 0,
        cpu_millis: 64_000,
        memory_bytes: 256 << 30,
        applied: Some(applied),
    };
    let agents = tokio::spawn(hollow::run(flock));
    skein.client.apply(spec::service("web").port(8080).replicas(REPLICAS)).await?;
    let mut known = BTreeMap::new();
    agree(&mut heard, &mut known, REPLICAS as usize).await.context("all agents know all endpoints")?;
    let (mut all, mut each) = (Figure::new(Unit::Milliseconds), Vec::new());
    for change in 0..CHANGES.max(plan.rounds) {
        // Down and up again: an endpoint leaves, another one comes.
        let replicas = if change % 2 == 0 { REPLICAS - 1 } else { REPLICAS };
        let begin = Instant::now();
        skein.client.scale("web", replicas).await?;
        let times = agree(&mut heard, &mut known, replicas as usize).await?;
        let times: Vec<f64> =
            times.into_iter().map(|at| at.saturating_duration_since(begin).as_secs_f64() * 1e3).collect();
        all.add(times.iter().copied().fold(0.0, f64::max));
        each.extend(times);
    }
    each.sort_by(f64::total_cmp);
    let mut p99 = Figure::new(Unit::Milliseconds);
    p99.add(*each.get(each.len() * 99 / 100).context("no times")?);
    let mut table = Table::new(format!("Endpoints to {AGENTS} hollow agents, {CHANGES} changes"), "");
    table.add("scale asked for → applied by an agent, p99", p99, None, Some(Target::AtMost(200.0)));
    table.add("scale asked for → applied by all agents", all, None, None);
    agents.abort();
    skein.abandon();
    Ok(table)
}

/// Waits until every agent goes by this many endpoints: when each one did.
async fn agree(
    heard: &mut mpsc::UnboundedReceiver<AppliedEndpoints>,
    known: &mut BTreeMap<usize, usize>,
    wanted: usize,
) -> Result<Vec<Instant>> {
    let mut times = BTreeMap::new();
    let agreeing = async {
        while known.len() < AGENTS || known.values().any(|endpoints| *endpoints != wanted) {
            let AppliedEndpoints { agent, endpoints, at } = heard.recv().await.context("the agents ended")?;
            known.insert(agent, endpoints);
            times.insert(agent, at);
        }
        anyhow::Ok(())
    };
    time::timeout(LIMIT, agreeing).await.with_context(|| format!("not {wanted} endpoints everywhere"))??;
    Ok(times.into_values().collect())
}
