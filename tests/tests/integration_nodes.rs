//! Nodes that are lost, that come back, and too many that are lost at once.
//!
//! Invariant tested: a lost node's instances are replaced once, what comes back is superseded, and
//! a mass loss is held. Deliberately not here: real containers (`e2e_*`).

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use skein_proto::v1::{self, Liveness, agent_service_client::AgentServiceClient, session_request::Message};
use skein_tests::{
    cluster::{Cluster, NODE_DOWN_AFTER},
    deployment::{show_instances, show_nodes},
    spec::service,
    wait,
    watch::is_ready,
};
use tonic::Code;

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_node_is_replaced_and_superseded_when_it_returns() -> Result<()> {
    let mut cluster = Cluster::start(3, 4).await?;
    let watcher = cluster.watch("web");
    cluster.client.apply(service("web").replicas(4)).await?;
    let before = cluster.ready("web", 4).await?;
    let lost = before.iter().find(|instance| instance.node_name == "n2").context("one each")?.clone();
    cluster.stop_agent("n2").await?;
    wait::until("n2 is down", LIMIT, async || {
        let nodes = cluster.client.nodes().await.map_err(|status| status.to_string())?;
        let down = nodes.iter().filter(|node| node.liveness() == Liveness::Down).count();
        wait::expect(down == 1, || show_nodes(&nodes))
    })
    .await?;
    wait::until("its instance runs elsewhere", LIMIT, async || {
        let instances = cluster.client.instances("web").await.map_err(|status| status.to_string())?;
        let elsewhere = instances
            .iter()
            .filter(|instance| is_ready(instance) && !instance.lost && instance.node_name != "n2")
            .count();
        wait::expect(elsewhere == 4, || show_instances(&instances))
    })
    .await?;
    ensure!(
        cluster.containers_of("n2").await?.iter().filter(|container| container.running).count() == 1,
        "the container of a node without agent runs on"
    );

    cluster.start_agent("n2").await?;
    cluster.nodes_ready().await?;
    cluster.ready("web", 4).await?;
    wait::until("the superseded container is gone", LIMIT, async || {
        let left = cluster.containers_of("n2").await.map_err(|error| error.to_string())?;
        wait::expect(left.is_empty(), || format!("{left:?}"))
    })
    .await?;
    wait::until("the superseded record is forgotten", LIMIT, async || {
        let after = cluster.client.instances("web").await.map_err(|status| status.to_string())?;
        wait::expect(after.iter().all(|instance| instance.id != lost.id), || show_instances(&after))
    })
    .await?;
    watcher.check_order().map_err(anyhow::Error::msg)?;
    watcher.check_one_live_per_slot().map_err(anyhow::Error::msg)?;
    cluster.stop().await
}

/// "I cannot see the nodes" is not "the nodes are dead".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mass_loss_is_held() -> Result<()> {
    let mut cluster = Cluster::start(3, 6).await?;
    cluster.client.apply(service("web").replicas(6)).await?;
    let before = cluster.ready("web", 6).await?;
    for node in ["n1", "n2", "n3", "n4"] {
        cluster.stop_agent(node).await?;
    }
    wait::until("the four are late", LIMIT, async || {
        let nodes = cluster.client.nodes().await.map_err(|status| status.to_string())?;
        let late = nodes.iter().filter(|node| node.liveness() != Liveness::Ready).count();
        wait::expect(late == 4, || show_nodes(&nodes))
    })
    .await?;
    wait::throughout("nothing is rescheduled", NODE_DOWN_AFTER * 3, async || {
        let instances = cluster.client.instances("web").await.map_err(|status| status.to_string())?;
        let same = before.iter().all(|old| instances.iter().any(|now| now.id == old.id && !now.lost));
        wait::expect(same && instances.len() == 6, || show_instances(&instances))
    })
    .await?;
    cluster.start_agents().await?;
    cluster.nodes_ready().await?;
    let after = cluster.ready("web", 6).await?;
    ensure!(before.iter().all(|old| after.iter().any(|new| new.id == old.id)), "everybody was kept");
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_session_ends_alone() -> Result<()> {
    let cluster = Cluster::start(3, 2).await?;
    cluster.client.apply(service("web").replicas(2)).await?;
    cluster.ready("web", 2).await?;
    let leader = cluster.leader().await?;
    let term = cluster.client.status(leader).await?.term;
    let hello = |node_id: &str| v1::Hello {
        protocol: skein_proto::AGENT_PROTOCOL,
        node_id: node_id.to_owned(),
        ..v1::Hello::default()
    };
    let first_words = [
        ("no message", v1::SessionRequest { message: None }),
        ("a heartbeat", v1::SessionRequest { message: Some(Message::Heartbeat(v1::Heartbeat::default())) }),
        ("no node id", v1::SessionRequest { message: Some(Message::Hello(hello(""))) }),
        ("no description", v1::SessionRequest { message: Some(Message::Hello(hello("0000000000001"))) }),
    ];
    for (what, first) in first_words {
        let words = tokio_stream::StreamExt::chain(tokio_stream::once(first), tokio_stream::pending());
        let mut client = AgentServiceClient::new(cluster.client.master(leader));
        let status = match client.session(words).await {
            Err(status) => status,
            Ok(response) => tokio::time::timeout(LIMIT, response.into_inner().message())
                .await
                .with_context(|| format!("{what}: the stream does not end"))?
                .err()
                .with_context(|| format!("{what}: it was answered"))?,
        };
        ensure!(status.code() == Code::InvalidArgument, "{what}: {status}");
    }
    cluster.nodes_ready().await?;
    cluster.ready("web", 2).await?;
    ensure!(cluster.client.status(leader).await?.term == term, "the leader went on");
    cluster.client.scale("web", 3).await?;
    cluster.ready("web", 3).await?;
    cluster.stop().await
}
