//! A stack of five services, as a Swarm would run it, on real Docker: deployed as it is, rolled,
//! rolled back, drained, rebalanced and removed.
//!
//! Invariant tested throughout: the service that starts first never has fewer Ready instances than
//! it asks for. Deliberately not here: deaths (`e2e_cluster`).

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use skein_tests::{
    deployment::{Deployment, Flags, show_instances},
    http,
    traffic::{Shape, Traffic},
    wait,
    watch::{Watcher, is_ready},
};

const LIMIT: Duration = Duration::from_secs(40);
const SERVICES: [(&str, usize); 5] =
    [("shop_edge", 3), ("shop_catalogue", 2), ("shop_orders", 2), ("shop_store", 1), ("shop_watcher", 3)];
/// What masters say of each other while they are stopped one by one.
const ENDING: &[&str] = &["master unreachable", "leadership was not handed on"];
const EDGE: &str = "shop_edge";

async fn runs(cluster: &Deployment, service: &str, image: &str, nodes: &[&str]) -> Result<()> {
    let wanted = SERVICES.iter().find(|(name, _)| *name == service).map_or(0, |(_, count)| *count);
    wait::until(&format!("{service} runs {image}"), LIMIT, async || {
        let all = cluster.client.instances(service).await.map_err(|status| status.to_string())?;
        let good =
            all.iter().filter(|i| is_ready(i) && i.image == image && nodes.contains(&i.node_name.as_str()));
        let wanted = if service == "shop_watcher" { nodes.len() } else { wanted };
        wait::expect(good.count() == wanted, || show_instances(&all))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_is_deployed_rolled_drained_and_rebalanced() -> Result<()> {
    let cluster = Deployment::start(3, 3, &Flags::default()).await?;
    let nodes = ["n1", "n2", "n3"];
    let first = cluster.example("shop/compose.yaml", "v1")?;
    cluster.skein(&["stack", "deploy", "-c", &first, "shop"]).await?;
    for (service, _) in SERVICES {
        runs(&cluster, service, "skein-sample:v1", &nodes).await?;
    }
    let edges: Vec<String> = cluster.ingresses()?.iter().map(|address| format!("{address}:8080")).collect();
    for edge in &edges {
        wait::until("every node serves the published port", LIMIT, async || {
            http::get(edge, "/").await.map_err(|error| format!("{error:#}"))
        })
        .await?;
    }
    // In mode tcp a connection that is kept ends with its instance, so none is.
    let traffic = Traffic::start(&edges, Shape { kept: 0, per_second: 0, fresh_per_second: 200 });
    let watcher = Watcher::start(Arc::clone(&cluster.client), 3, 0, EDGE);
    wait::until("the watch has begun", LIMIT, async || {
        let ready = watcher.instances().values().filter(|instance| is_ready(instance)).count();
        wait::expect(ready == 3, || format!("{ready} ready"))
    })
    .await?;

    let second = cluster.example("shop/compose.yaml", "v2")?;
    cluster.skein(&["stack", "deploy", "-c", &second, "shop"]).await?;
    for (service, _) in SERVICES {
        runs(&cluster, service, "skein-sample:v2", &nodes).await?;
    }
    wait::until("every balancer tells what it did", LIMIT, async || {
        let told = cluster.skein(&["balance", EDGE]).await.map_err(|error| format!("{error:#}"))?;
        let shares = told.lines().filter(|line| line.contains("3 nodes") && line.contains("33.3%")).count();
        wait::expect(shares == 3, || told.clone())
    })
    .await?;
    cluster.skein(&["service", "rollback", EDGE]).await?;
    runs(&cluster, EDGE, "skein-sample:v1", &nodes).await?;
    // The store would wait for its volume's node.
    let store = cluster.ready("shop_store", 1, LIMIT).await?;
    let home = &store.first().context("one store")?.node_name;
    let drained = *nodes.iter().find(|node| *node != home).context("another node")?;
    let others: Vec<&str> = nodes.into_iter().filter(|node| *node != drained).collect();
    cluster.skein(&["node", "drain", drained]).await?;
    for (service, _) in SERVICES {
        let image = if service == EDGE { "skein-sample:v1" } else { "skein-sample:v2" };
        runs(&cluster, service, image, &others).await?;
    }
    // The node is back, and nothing moves to it by itself but what runs on every node.
    cluster.skein(&["node", "activate", drained]).await?;
    runs(&cluster, "shop_watcher", "skein-sample:v2", &nodes).await?;
    let moves = cluster.skein(&["rebalance", "--dry-run"]).await?;
    ensure!(moves.contains("shop_edge.") && !moves.contains("shop_store."), "the volume stays: {moves}");
    cluster.skein(&["rebalance"]).await?;
    runs(&cluster, EDGE, "skein-sample:v1", &nodes).await?;
    for service in [EDGE, "shop_catalogue", "shop_orders"] {
        let all = cluster.client.instances(service).await?;
        let ready: Vec<_> = all.iter().filter(|instance| is_ready(instance)).collect();
        let places: BTreeSet<_> = ready.iter().map(|instance| &instance.node_name).collect();
        ensure!(places.len() == ready.len(), "one on each node: {}", show_instances(&all));
    }
    let again = cluster.skein(&["rebalance", "--dry-run", "-o", "name"]).await?;
    ensure!(again.is_empty(), "twice is no better: {again}");
    ensure!(watcher.fewest_ready(3) == 3, "never fewer than three, saw {}", watcher.fewest_ready(3));
    drop(watcher);
    let asked = traffic.stop().await;
    println!("{} requests through all nodes, {} failed", asked.answered + asked.failed, asked.failed);
    ensure!(asked.failed == 0, "of {} requests: {:#?}", asked.answered, asked.reasons);

    cluster.skein(&["stack", "rm", "shop"]).await?;
    cluster.no_containers(LIMIT).await?;
    cluster.finish(ENDING).await
}
