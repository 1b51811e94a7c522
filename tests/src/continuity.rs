//! Ten instances behind the published port of every node, asked without a pause while everything that may happen to
//! them happens: rollouts both ways, scaling, a drain, a death, masters that die.
//!
//! Invariant: the requests of a step are those answered between its begin and its end.
//! Deliberately not here: what may fail (`e2e_continuity` and `make bench` say).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::{
    deployment::{Deployment, show_instances},
    traffic::{Counts, Shape, Traffic},
    wait,
    watch::is_ready,
};

const LIMIT: Duration = Duration::from_secs(90);
const SERVICE: &str = "edge_web";
const REPLICAS: usize = 10;
const FEW: usize = 3;
const PORT: u16 = 8090;

/// What happens to the service.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// To another image, the new ones first.
    StartFirst,
    /// And back, the old ones first.
    StopFirst,
    /// Ten, three, ten.
    Scale,
    /// One node gives everything away, and is opened again.
    Drain,
    /// `kill -9` of one instance.
    Death,
    /// `kill -9` of the master that leads.
    LeaderKilled,
    /// No masters for so long.
    MastersDead(Duration),
}

impl Step {
    /// All of them, with masters that stay dead for so long.
    #[must_use]
    pub const fn every(dead: Duration) -> [Self; 7] {
        [
            Self::StartFirst,
            Self::StopFirst,
            Self::Scale,
            Self::Drain,
            Self::Death,
            Self::LeaderKilled,
            Self::MastersDead(dead),
        ]
    }
}

/// A step that was taken.
#[derive(Debug)]
pub struct Taken {
    pub step: Step,
    pub took: Duration,
    pub answered: usize,
    pub failed: usize,
}

/// Takes these steps under this traffic; all of it, and all failures.
///
/// # Errors
/// When a step does not come to its end.
pub async fn run(cluster: &mut Deployment, steps: &[Step], shape: Shape) -> Result<(Vec<Taken>, Counts)> {
    deploy(cluster, "v1", "start-first").await?;
    ready(cluster, REPLICAS, "v1").await?;
    let edges: Vec<String> = cluster.ingresses()?.iter().map(|address| format!("{address}:{PORT}")).collect();
    for edge in &edges {
        wait::until("every node serves the published port", LIMIT, async || {
            crate::http::get(edge, "/").await.map_err(|error| format!("{error:#}"))
        })
        .await?;
    }
    let traffic = Traffic::start(&edges, shape);
    let mut all = Vec::new();
    for step in steps {
        let (began, before) = (Instant::now(), traffic.counts());
        take(cluster, *step).await.with_context(|| format!("{step:?}, {:#?}", traffic.counts()))?;
        let after = traffic.counts();
        let (answered, failed) = (after.answered - before.answered, after.failed - before.failed);
        all.push(Taken { step: *step, took: began.elapsed(), answered, failed });
    }
    Ok((all, traffic.stop().await))
}

async fn take(cluster: &mut Deployment, step: Step) -> Result<()> {
    match step {
        Step::StartFirst => {
            deploy(cluster, "v2", "start-first").await?;
            ready(cluster, REPLICAS, "v2").await
        }
        Step::StopFirst => {
            deploy(cluster, "v1", "stop-first").await?;
            ready(cluster, REPLICAS, "v1").await
        }
        Step::Scale => {
            for count in [FEW, REPLICAS] {
                cluster.skein(&["service", "scale", &format!("{SERVICE}={count}")]).await?;
                cluster.ready(SERVICE, count, LIMIT).await?;
                containers(cluster, count).await?;
            }
            Ok(())
        }
        Step::Drain => drain(cluster, "n2").await,
        Step::Death => {
            let instances = cluster.ready(SERVICE, REPLICAS, LIMIT).await?;
            let victim = instances.first().and_then(|instance| instance.observed.clone()).context("one")?;
            cluster.docker.kill(&victim.container_id).await?;
            wait::until("it is restarted", LIMIT, async || {
                let all = cluster.client.instances(SERVICE).await.map_err(|status| status.to_string())?;
                let later = all.iter().any(|instance| {
                    is_ready(instance)
                        && instance.observed.as_ref().is_some_and(|now| now.attempt > victim.attempt)
                });
                wait::expect(later, || show_instances(&all))
            })
            .await
        }
        Step::LeaderKilled => {
            let leader = cluster.leader().await?;
            cluster.masters[leader].process.kill()?;
            cluster.leader().await?;
            cluster.masters[leader].process.start()?;
            cluster.all_nodes_ready().await
        }
        Step::MastersDead(time) => {
            for master in &mut cluster.masters {
                master.process.kill()?;
            }
            wait::let_pass(time).await;
            for master in &mut cluster.masters {
                master.process.start()?;
            }
            cluster.leader().await?;
            cluster.all_nodes_ready().await?;
            cluster.ready(SERVICE, REPLICAS, LIMIT).await.map(drop)
        }
    }
}

async fn deploy(cluster: &Deployment, tag: &str, order: &str) -> Result<()> {
    let text = format!(
        "services:
  web:
    image: skein-sample:{tag}
    ports: [\"{PORT}:8080\"]
    stop_grace_period: 10s
    deploy:
      replicas: {REPLICAS}
      update_config: {{ parallelism: 3, order: {order}, monitor: 500ms }}
    x-skein:
      probes: {{ readiness: {{ http: {{ port: 8080, path: /healthz }}, interval: 500ms, timeout: 1s }} }}
      balance: {{ mode: http }}
"
    );
    let file = cluster.folder().join("edge.yaml");
    std::fs::write(&file, text)?;
    let file = file.to_str().context("a path in UTF-8")?;
    cluster.skein(&["stack", "deploy", "-c", file, "edge"]).await.map(drop)
}

async fn drain(cluster: &Deployment, node: &str) -> Result<()> {
    cluster.skein(&["node", "drain", node]).await?;
    wait::until(&format!("{node} has given everything away"), LIMIT, async || {
        let all = cluster.client.instances(SERVICE).await.map_err(|status| status.to_string())?;
        let elsewhere = all.iter().filter(|other| is_ready(other) && other.node_name != node).count();
        wait::expect(elsewhere == REPLICAS, || show_instances(&all))
    })
    .await?;
    containers(cluster, REPLICAS).await?;
    cluster.skein(&["node", "activate", node]).await.map(drop)
}

/// So many are Ready, all of this image, and what they took the place of has ended.
async fn ready(cluster: &Deployment, count: usize, tag: &str) -> Result<()> {
    let image = format!("skein-sample:{tag}");
    wait::until(&format!("{count} run {image}"), LIMIT, async || {
        let all = cluster.client.instances(SERVICE).await.map_err(|status| status.to_string())?;
        let good = all.iter().filter(|instance| is_ready(instance) && instance.image == image).count();
        wait::expect(good == count, || show_instances(&all))
    })
    .await?;
    containers(cluster, count).await
}

async fn containers(cluster: &Deployment, count: usize) -> Result<()> {
    wait::until(&format!("{count} containers run"), LIMIT, async || {
        let running = cluster.containers().await.map_err(|error| format!("{error:#}"))?.len();
        wait::expect(running == count, || format!("{running}"))
    })
    .await
}
