//! The leader's machine dies: `kill -9` of the master that leads and of the agent beside it, and
//! of that agent's containers.
//!
//! Invariant: one kill at a time; the cluster is whole again before the next one.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::future;
use tokio::time::Instant;

use super::{
    Plan,
    figure::{Figure, Table, Target, Unit},
    sight::Sight,
};
use crate::{
    client::Client,
    deployment::{Deployment, Flags},
    docker::Container,
    spec, wait,
};

const SERVICE: &str = "bench-failover";
const INSTANCES: usize = 6;
const LIMIT: Duration = Duration::from_secs(90);
/// Has no instances; it is only written to.
const PROBE: &str = "bench-probe";

/// # Errors
/// When the cluster does not come back.
pub async fn measure(plan: &Plan) -> Result<Table> {
    let mut skein = Deployment::start(3, 3, &Flags::default()).await?;
    let (mut writes, mut moved) = (Figure::new(Unit::Seconds), Figure::new(Unit::Seconds));
    for _ in 0..plan.kills {
        let (write, elsewhere) = Box::pin(kill_leader(&mut skein)).await?;
        writes.add_time(write);
        moved.add_time(elsewhere);
    }
    let mut table = Table::new(format!("Leader's machine killed, {} times", plan.kills), "Swarm, measured");
    let swarm = |seconds| {
        let mut figure = Figure::new(Unit::Seconds);
        figure.add(seconds);
        Some(figure)
    };
    table.add("→ a write is accepted", writes, swarm(11.9), Some(Target::MedianAndWorst(1.5, 3.0)));
    table.add("→ its instances run elsewhere", moved, swarm(48.3), Some(Target::AtMost(15.0)));
    skein.abandon();
    Ok(table)
}

async fn kill_leader(skein: &mut Deployment) -> Result<(Duration, Duration)> {
    let replicas = u32::try_from(INSTANCES)?;
    skein.client.apply(spec::service(SERVICE).replicas(replicas)).await?;
    skein.ready(SERVICE, INSTANCES, LIMIT).await?;
    let leader = skein.leader().await?;
    let others: Vec<usize> = (0..skein.masters.len()).filter(|index| *index != leader).collect();
    let node = skein.agents[leader].name().to_owned();
    let victims = containers_of(skein, leader).await?;
    let survivor =
        |index: usize| Client::new([skein.masters[others[index]].api.address()]).patience(Duration::ZERO);
    let (one, other) = (survivor(0), survivor(1));

    let begin = Instant::now();
    skein.masters[leader].process.kill()?;
    skein.agents[leader].kill()?;
    let docker = skein.docker.clone();
    let power_cut = tokio::spawn(async move {
        for victim in victims {
            docker.kill(&victim.id).await?;
        }
        anyhow::Ok(())
    });
    let write = first_write([&one, &other], begin).await?;
    let mut sight = Sight::open(one.master(0)).await?;
    sight.until(LIMIT, |ready| ready.elsewhere(SERVICE, &node) == INSTANCES).await?;
    let elsewhere = begin.elapsed();
    power_cut.await.context("kill the containers")??;

    skein.masters[leader].process.start()?;
    skein.agents[leader].start()?;
    skein.all_nodes_ready().await?;
    super::remove(skein, SERVICE).await?;
    Ok((write, elsewhere))
}

/// The containers of the agent beside that master.
async fn containers_of(skein: &Deployment, index: usize) -> Result<Vec<Container>> {
    let name = skein.agents[index].name().to_owned();
    let nodes = skein.client.nodes().await?;
    let node = nodes
        .into_iter()
        .find(|node| node.description.as_ref().is_some_and(|description| description.name == name));
    let id = node.with_context(|| format!("node {name}"))?.id;
    let mut all = skein.containers().await?;
    all.retain(|container| container.label("io.skein.node") == id);
    Ok(all)
}

/// Asks both at once, each again as soon as it answers: a follower may hold a write until there
/// is a leader, or say at once that there is none.
async fn first_write(survivors: [&Client; 2], begin: Instant) -> Result<Duration> {
    let [one, other] = survivors.map(|survivor| Box::pin(write_until_accepted(survivor)));
    future::select_ok([one, other]).await?;
    Ok(begin.elapsed())
}

async fn write_until_accepted(master: &Client) -> Result<()> {
    let mut tries = 0;
    wait::until("a write is accepted", LIMIT, async || {
        tries += 1;
        // The same again would change nothing, so each is another.
        let probe = spec::service(PROBE).replicas(0).variable("TRY", &tries.to_string());
        master.apply(probe).await.map(drop).map_err(|status| status.to_string())
    })
    .await
}
