//! Apply → running, beside the bare container engine; and a killed container → its replacement.
//!
//! Invariant: both sides start the same image in the same engine, eight at a time, and are
//! measured in turn. What is counted ends when the user can see it: a watch says Ready.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use skein_proto::v1::RestartCondition;
use tokio::time::Instant;

use super::{
    Plan,
    figure::{Figure, Table, Target, Unit},
    sight::Sight,
};
use crate::{
    deployment::{Deployment, Flags},
    docker::Docker,
    spec::{self, SAMPLE_IMAGE},
};

const COUNTS: [usize; 3] = [1, 20, 50];
const AT_ONCE: usize = 8;
const LIMIT: Duration = Duration::from_secs(120);
const LABEL: &str = "io.skein.test";

/// # Errors
/// When the cluster or the engine does not work.
pub async fn measure(plan: &Plan) -> Result<Table> {
    let skein = Deployment::start(3, 1, &Flags::default()).await?;
    let mut table = Table::new("Instances: apply → running, one node", "bare engine, 8-way");
    let mut bare_start = None;
    for count in COUNTS {
        let (mut ours, mut bare) = (Figure::new(Unit::Milliseconds), Figure::new(Unit::Milliseconds));
        for round in 0..plan.rounds {
            bare.add_time(start_bare(&skein.docker, count, round).await?);
            ours.add_time(apply(&skein, &format!("bench-{count}-{round}"), count).await?);
        }
        if count == 1 {
            bare_start = Some(bare.clone());
        }
        let target = if count == 1 { Target::AtMostBesidePlus(15.0) } else { Target::AtMostTimesBeside(1.1) };
        let target = (count != 20).then_some(target);
        table.add(format!("{count} instances"), ours, Some(bare), target);
    }
    let replaced = Box::pin(replace(&skein, plan.rounds)).await?;
    table.add("kill → replacement running", replaced, bare_start, Some(Target::AtMostBesidePlus(100.0)));
    skein.abandon();
    Ok(table)
}

async fn start_bare(docker: &Docker, count: usize, round: usize) -> Result<Duration> {
    let begin = Instant::now();
    let started = stream::iter(0..count)
        .map(|number| async move {
            let name = format!("skein-bench-{}-{round}-{count}-{number}", std::process::id());
            docker.run_foreign(&name, SAMPLE_IMAGE, &[(LABEL, "bench")]).await
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
    let time = begin.elapsed();
    stream::iter(&started)
        .for_each_concurrent(AT_ONCE, async |each| {
            if let Err(error) = docker.remove(&each.id).await {
                eprintln!("bench: {error:#}");
            }
        })
        .await;
    // Each removes itself once more when it is dropped, with a runtime of its own.
    tokio::task::spawn_blocking(move || drop(started)).await.context("clean up")?;
    Ok(time)
}

async fn apply(skein: &Deployment, name: &str, count: usize) -> Result<Duration> {
    let mut sight = Sight::open(skein.client.master(0)).await?;
    let replicas = u32::try_from(count)?;
    let begin = Instant::now();
    skein.client.apply(spec::service(name).replicas(replicas)).await?;
    sight.until(LIMIT, |ready| ready.count(name) == count).await?;
    let time = begin.elapsed();
    super::remove(skein, name).await?;
    Ok(time)
}

async fn replace(skein: &Deployment, rounds: usize) -> Result<Figure> {
    let mut figure = Figure::new(Unit::Milliseconds);
    let name = "bench-kill";
    for _ in 0..rounds {
        let mut sight = Sight::open(skein.client.master(0)).await?;
        let restart = spec::service(name).restart(RestartCondition::Any, Duration::ZERO, None);
        skein.client.apply(restart.replicas(1)).await?;
        sight.until(LIMIT, |ready| ready.count(name) == 1).await?;
        let running = skein.containers().await?;
        let container = running.first().context("the container")?;
        let docker = Arc::new(skein.docker.clone());
        let id = container.id.clone();
        let begin = Instant::now();
        let kill = tokio::spawn(async move { docker.kill(&id).await });
        sight.until(LIMIT, |ready| ready.attempts(name) == [2]).await?;
        figure.add_time(begin.elapsed());
        kill.await.context("kill")??;
        super::remove(skein, name).await?;
    }
    Ok(figure)
}
