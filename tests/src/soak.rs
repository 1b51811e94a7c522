//! A soak: faults at random on real processes and real containers while somebody writes.
//!
//! Invariant: two services. `busy` is scaled all the time; `still` never is, so whatever happens to
//! a container of it that nobody killed was done by the control plane, and is a failure.
//! Deliberately not here: command line (`bin/soak`), the parts (`soak/{writer,fault,verdict}`).

mod fault;
mod verdict;
mod writer;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::{SeedableRng as _, rngs::StdRng};
use skein_proto::v1::RestartCondition;

use crate::{
    deployment::{Deployment, Flags},
    spec::{Spec, service},
};
pub use verdict::Report;

const STILL: &str = "still";
const STILL_REPLICAS: u32 = 6;
const BUSY: &str = "busy";
const LIMIT: Duration = Duration::from_secs(90);

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Plan {
    pub time: Duration,
    pub seed: u64,
    pub masters: usize,
    pub agents: usize,
}

/// Everything from the first start to the last removal.
///
/// # Errors
/// When it cannot be set up, or does not heal; breaches are in the report.
pub async fn run(plan: &Plan) -> Result<Report> {
    let mut cluster = Deployment::start(plan.masters, plan.agents, &Flags::default()).await?;
    println!("soak: cluster {}, seed {}, {:?} of faults", cluster.cluster_id, plan.seed, plan.time);
    cluster.client.apply(restarting(STILL).replicas(STILL_REPLICAS)).await?;
    cluster.client.apply(restarting(BUSY).replicas(3)).await?;
    cluster.ready(STILL, usize::try_from(STILL_REPLICAS)?, LIMIT).await?;
    cluster.ready(BUSY, 3, LIMIT).await?;

    let mut report = Report::new(plan.seed);
    let writer = writer::start(cluster.client.clone(), plan.seed);
    let mut faults = fault::Faults::new(StdRng::seed_from_u64(plan.seed), &cluster).await?;
    let start = Instant::now();
    while start.elapsed() < plan.time {
        let done = faults.strike(&mut cluster).await.context("a fault")?;
        println!("soak: {:>5.0?} {done}", start.elapsed());
        report.struck(&done);
        report.breaches(faults.check_still(&cluster).await?);
    }
    report.healing_from(Instant::now());
    faults.restart_all(&mut cluster).await?;
    let history = writer.stop().await?;
    verdict::heal(&mut cluster, &history, &mut report).await?;
    report.breaches(faults.check_still(&cluster).await?);
    verdict::remove(&cluster, &mut report).await?;
    report.written(&history);
    report.logs(&mut cluster).await;
    if report.is_clean() {
        cluster.done();
    }
    Ok(report)
}

/// Restarted quickly however often it is killed, so that healing does not wait for a back-off.
fn restarting(name: &str) -> Spec {
    service(name).restart(RestartCondition::Any, Duration::from_millis(100), None)
}
