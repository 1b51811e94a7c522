//! Rebalancing on three real masters and in-memory runtimes: a node joins, instances move to it, and
//! the leader dies while they do.
//!
//! Invariant tested throughout: nobody is missing meanwhile, no instance is moved twice, and no more
//! are moved than the masters foresaw.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Result, ensure};
use skein_proto::v1::{ClusterConfig, Instance, RebalanceConfig, SchedulingConfig};
use skein_tests::{
    cluster::Cluster,
    spec::service,
    wait,
    watch::{Watcher, is_ready},
};
use tonic::Code;

const LIMIT: Duration = Duration::from_secs(30);
const REPLICAS: usize = 12;

async fn seen(watcher: &Watcher, count: usize) -> Result<()> {
    wait::until("the watch has begun", LIMIT, async || {
        let ready = watcher.instances().values().filter(|instance| is_ready(instance)).count();
        wait::expect(ready == count, || format!("{ready} of {count} ready"))
    })
    .await
}

fn by_node(instances: &[Instance]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    instances.iter().for_each(|instance| *counts.entry(instance.node_name.clone()).or_default() += 1);
    counts
}

async fn balanced(cluster: &Cluster) -> Result<()> {
    wait::until("the rebalancing has ended", LIMIT, async || {
        let config = cluster.client.cluster_config().await.map_err(|status| status.to_string())?;
        wait::expect(config.rebalance.is_none(), || format!("{:?}", config.rebalance))
    })
    .await
}

/// Ready instances under the name of their slot.
async fn holders(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let instances = cluster.ready("web", REPLICAS).await?;
    Ok(instances.into_iter().map(|instance| (instance.name, instance.id)).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_on_although_the_leader_dies() -> Result<()> {
    let mut cluster = Cluster::start(3, 1).await?;
    cluster.client.apply(service("web").replicas(12)).await?;
    let mut before = holders(&cluster).await?;
    // Each node that joins asks for fewer moves: 6, 4, 3, 2. The leader dies after the first, the second, …
    for kill_after in [1, 3, 2, 1] {
        cluster.add_agent(&[]).await?;
        let watcher = cluster.watch("web");
        seen(&watcher, REPLICAS).await?;
        let known: BTreeSet<String> = watcher.instances().into_keys().collect();
        let foreseen = cluster.client.rebalance(true).await?.moves;
        let none_begun = cluster.client.cluster_config().await?;
        ensure!(none_begun.rebalance.is_none(), "a dry run begins nothing");
        ensure!(foreseen.len() >= 2, "{foreseen:?}");
        let leader = cluster.leader().await?;
        cluster.client.rebalance(false).await?;
        wait::until("so many moves have begun", LIMIT, async || {
            let config = cluster.client.cluster_config().await.map_err(|status| status.to_string())?;
            let begun = config.rebalance.map_or(u32::MAX, |run| run.moves);
            wait::expect(begun >= kill_after, || format!("{begun} of {kill_after}"))
        })
        .await?;
        cluster.kill_master(leader).await?;
        balanced(&cluster).await?;
        let after = holders(&cluster).await?;
        let counts =
            by_node(&cluster.client.instances("web").await?.into_iter().filter(is_ready).collect::<Vec<_>>());
        let (most, least) = (counts.values().max(), counts.values().min());
        ensure!(most.unwrap() - least.unwrap() <= 1, "{counts:?}");
        let moved = after.iter().filter(|(name, id)| before.get(*name) != Some(id)).count();
        ensure!(moved == foreseen.len(), "{moved} moved, {} foreseen", foreseen.len());
        // Whatever was ever started for a slot: the one before, and the one that took its place.
        let ever = watcher.instances();
        let begun = ever.keys().filter(|id| !known.contains(*id)).count();
        ensure!(begun <= foreseen.len(), "{begun} instances were begun for {} moves", foreseen.len());
        ensure!(watcher.fewest_ready(REPLICAS) == REPLICAS, "saw {}", watcher.fewest_ready(REPLICAS));
        ensure!(cluster.client.rebalance(true).await?.moves.is_empty(), "twice is no better");
        before = after;
        cluster.start_master(leader).await?;
    }
    cluster.containers_running(REPLICAS).await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_itself_when_a_node_joins() -> Result<()> {
    let mut cluster = Cluster::start(3, 2).await?;
    let known = cluster.client.cluster_config().await?;
    let rebalance = RebalanceConfig { enabled: Some(true), max_moves: Some(2), ..Default::default() };
    let config = |rebalance| ClusterConfig {
        scheduling: Some(SchedulingConfig { rebalance: Some(rebalance), ..Default::default() }),
        ..Default::default()
    };
    let set = cluster.client.configure(config(rebalance), &known.etag).await?;
    let effective = set.effective.unwrap().scheduling.unwrap();
    ensure!(effective.preemption_gap == Some(10) && effective.rebalance.unwrap().max_moves == Some(2));
    let stale = cluster.client.configure(config(rebalance), &known.etag).await.expect_err("an old etag");
    ensure!(stale.code() == Code::Aborted, "{stale}");
    let none = RebalanceConfig { max_moves: Some(0), ..Default::default() };
    let refused = cluster.client.configure(config(none), "").await.expect_err("0 moves");
    ensure!(refused.code() == Code::InvalidArgument, "{refused}");
    ensure!(refused.message().contains("config.scheduling.rebalance.max_moves"), "{refused}");

    cluster.client.apply(service("web").replicas(12)).await?;
    cluster.ready("web", REPLICAS).await?;
    cluster.add_agent(&[]).await?;
    wait::until("the new node has its part", LIMIT, async || {
        let instances = cluster.client.instances("web").await.map_err(|status| status.to_string())?;
        let ready: Vec<_> = instances.into_iter().filter(is_ready).collect();
        let counts = by_node(&ready);
        wait::expect(counts.len() == 3 && counts.values().all(|count| *count == 4), || format!("{counts:?}"))
    })
    .await?;
    balanced(&cluster).await?;
    let events = cluster.client.events().await?;
    ensure!(events.iter().any(|event| event.reason == "RebalanceComplete"), "{events:?}");
    cluster.stop().await
}
