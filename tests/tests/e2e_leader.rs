//! The leader is killed (-9) at random points of rollouts, drains, rebalances and scheduled runs, on real processes and
//! real Docker.
//!
//! Invariant tested: whoever leads next goes on where the last one was; nothing is done twice, nothing is left out, and
//! no service ever has fewer Ready instances than it asks for.
//!
//! ```text
//! SKEIN_POINTS=10 SKEIN_SEED=4 cargo nextest run --workspace -E 'binary(e2e_leader)' --no-capture
//! ```

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use skein_proto::{
    convert::duration_to_wire,
    v1::{Concurrency, JobPhase, RolloutPhase, Schedule, Service, ServiceSpec, UpdateOrder, UpdatePolicy},
};
use skein_tests::{
    client::Client,
    deployment::{Deployment, Flags, show_instances},
    spec::{SAMPLE_IMAGE, SAMPLE_IMAGE_NEXT, service},
    wait,
    watch::{Watcher, is_ready},
};

const LIMIT: Duration = Duration::from_secs(60);
const WEB: &str = "web";
const REPLICAS: usize = 6;
/// Between two due times: longer than an election takes on a busy machine.
const EVERY: u64 = 6;
/// What killed masters are allowed to make the others say.
const ENDING: &[&str] = &["master unreachable", "leadership was not handed on"];

/// So often each operation is done; the first time of each is without a kill, to see how long it takes.
fn points() -> usize {
    std::env::var("SKEIN_POINTS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

fn dice() -> SmallRng {
    let given = std::env::var("SKEIN_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| rand::rng().random::<u64>());
    println!("SKEIN_SEED={seed}");
    SmallRng::seed_from_u64(seed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_leaders_leave_no_trace() -> Result<()> {
    let mut dice = dice();
    let mut test = Test::start().await?;
    let began = now();
    test.cluster.client.apply(scheduled("tick")).await?;
    let mut spans = BTreeMap::<&str, Duration>::new();
    for round in 0..=points() {
        for operation in [Operation::Rollout, Operation::Drain, Operation::Rebalance] {
            let span = spans.get(operation.name()).copied();
            let kill_after = span.map(|span| dice.random_range(Duration::ZERO..span));
            let took = test.run(operation, kill_after).await.with_context(|| {
                format!("{} {round}, leader killed after {kill_after:?}", operation.name())
            })?;
            println!("{} {round}: leader killed after {kill_after:?}, took {took:?}", operation.name());
            spans.entry(operation.name()).or_insert(took);
        }
    }
    let runs = check_runs(&test.cluster.client, "tick", began, now()).await?;
    println!("{} leaders killed; {runs} due times, each run once", test.kills);
    test.end().await
}

#[derive(Debug, Clone, Copy)]
enum Operation {
    /// To the other image.
    Rollout,
    /// The node that has most; then it is open again, and empty.
    Drain,
    /// Over all nodes, after a drain.
    Rebalance,
}

impl Operation {
    const fn name(self) -> &'static str {
        match self {
            Self::Rollout => "rollout",
            Self::Drain => "drain",
            Self::Rebalance => "rebalance",
        }
    }
}

struct Test {
    cluster: Deployment,
    image: &'static str,
    kills: usize,
}

impl Test {
    async fn start() -> Result<Self> {
        let cluster = Deployment::start(3, 3, &Flags::default()).await?;
        cluster.client.apply(web(SAMPLE_IMAGE)).await?;
        cluster.ready(WEB, REPLICAS, LIMIT).await?;
        Ok(Self { cluster, image: SAMPLE_IMAGE, kills: 0 })
    }

    /// One operation from begin to end, and what it may and must have done; how long it took.
    async fn run(&mut self, operation: Operation, kill_after: Option<Duration>) -> Result<Duration> {
        let watcher = Watcher::start(self.cluster.client.clone(), 3, 0, WEB);
        wait::until("the watch has begun", LIMIT, async || {
            let ready = watcher.instances().values().filter(|instance| is_ready(instance)).count();
            wait::expect(ready == REPLICAS, || format!("{ready} ready"))
        })
        .await?;
        let known: BTreeSet<String> = watcher.instances().into_keys().collect();
        let started = Instant::now();
        let expected = self.begin(operation).await?;
        let killed = match kill_after {
            Some(after) => Some(self.kill_leader(after).await?),
            None => None,
        };
        self.completed(operation).await?;
        let took = started.elapsed();
        let ever = watcher.instances();
        let begun: Vec<_> = ever.iter().filter(|(id, _)| !known.contains(*id)).collect();
        ensure!(
            begun.len() == expected,
            "{} instances were begun instead of {expected}: {begun:?}",
            begun.len()
        );
        ensure!(watcher.fewest_ready(REPLICAS) == REPLICAS, "saw {} ready", watcher.fewest_ready(REPLICAS));
        self.at_rest(killed).await?;
        Ok(took)
    }

    /// Asks for it; how many instances it has to begin, no more and no fewer.
    async fn begin(&mut self, operation: Operation) -> Result<usize> {
        let client = self.cluster.client.clone();
        match operation {
            Operation::Rollout => {
                self.image = if self.image == SAMPLE_IMAGE { SAMPLE_IMAGE_NEXT } else { SAMPLE_IMAGE };
                client.apply(web(self.image)).await?;
                Ok(REPLICAS)
            }
            Operation::Drain => {
                let mut held = BTreeMap::<String, usize>::new();
                for instance in self.cluster.ready(WEB, REPLICAS, LIMIT).await? {
                    *held.entry(instance.node_name).or_default() += 1;
                }
                let (node, count) = held.into_iter().max_by_key(|(_, count)| *count).context("a node")?;
                self.cluster.skein(&["node", "drain", &node]).await?;
                Ok(count)
            }
            Operation::Rebalance => {
                let moves = client.rebalance(true).await?.moves.len();
                ensure!(moves > 0, "there is something to move");
                client.rebalance(false).await?;
                Ok(moves)
            }
        }
    }

    async fn kill_leader(&mut self, after: Duration) -> Result<usize> {
        wait::let_pass(after).await;
        let leader = self.cluster.leader().await?;
        self.cluster.masters[leader].process.kill()?;
        self.kills += 1;
        Ok(leader)
    }

    async fn completed(&self, operation: Operation) -> Result<()> {
        let client = &self.cluster.client;
        wait::until("it is done", LIMIT, async || {
            let service = client.service(WEB).await.map_err(|status| status.to_string())?;
            let instances = client.instances(WEB).await.map_err(|status| status.to_string())?;
            let nodes = client.nodes().await.map_err(|status| status.to_string())?;
            let config = client.cluster_config().await.map_err(|status| status.to_string())?;
            let ready: Vec<_> = instances.iter().filter(|instance| is_ready(instance)).collect();
            let is_done = match operation {
                Operation::Rollout => {
                    service.rollout.is_some_and(|rollout| rollout.phase() == RolloutPhase::Completed)
                        && ready.iter().all(|instance| instance.image == self.image)
                }
                Operation::Drain => {
                    let closed = nodes
                        .iter()
                        .find(|node| node.availability() == skein_proto::v1::Availability::Drained);
                    closed.is_some_and(|node| ready.iter().all(|instance| instance.node_id != node.id))
                }
                Operation::Rebalance => config.rebalance.is_none(),
            };
            wait::expect(is_done && ready.len() == REPLICAS, || show_instances(&instances))
        })
        .await
    }

    /// Three masters, all nodes open, as many containers as replicas.
    async fn at_rest(&mut self, killed: Option<usize>) -> Result<()> {
        if let Some(index) = killed {
            self.cluster.masters[index].process.start()?;
            let wanted = self.applied().await?;
            let client = self.cluster.client.clone();
            wait::until("the killed master has caught up", LIMIT, async || {
                let status = client.status(index).await.map_err(|status| status.to_string())?;
                wait::expect(status.applied_index >= wanted, || format!("{}", status.applied_index))
            })
            .await?;
        }
        for node in self.cluster.client.nodes().await? {
            self.cluster.client.set_availability(&node.id, skein_proto::v1::Availability::Active).await?;
        }
        self.cluster.all_nodes_ready().await?;
        wait::until("the replaced containers are stopped", LIMIT, async || {
            let all = self.cluster.containers().await.map_err(|error| format!("{error:#}"))?;
            let running = all.iter().filter(|each| each.label("io.skein.service-name") == WEB).count();
            wait::expect(running == REPLICAS, || format!("{running} run"))
        })
        .await
    }

    async fn applied(&mut self) -> Result<u64> {
        let leader = self.cluster.leader().await?;
        Ok(self.cluster.client.status(leader).await?.applied_index)
    }

    async fn end(self) -> Result<()> {
        for service in ["tick", WEB] {
            self.cluster.skein(&["service", "rm", service]).await?;
        }
        self.cluster.no_containers(LIMIT).await?;
        self.cluster.finish(ENDING).await
    }
}

fn web(image: &str) -> ServiceSpec {
    let update = UpdatePolicy {
        order: UpdateOrder::StartFirst.into(),
        parallelism: Some(2),
        monitor: Some(duration_to_wire(Duration::from_millis(300))),
        ..UpdatePolicy::default()
    };
    service(WEB).replicas(6).image(image).port(8080).update(update).build()
}

fn scheduled(name: &str) -> ServiceSpec {
    let schedule = Schedule {
        cron: format!("*/{EVERY} * * * * *"),
        concurrency: Concurrency::Allow.into(),
        keep_completed: Some(1_000),
        keep_failed: Some(1_000),
        ..Schedule::default()
    };
    let brief =
        service(name).job(1, 0).variable("SAMPLE_EXIT_AFTER_MS", "50").variable("SAMPLE_EXIT_CODE", "0");
    ServiceSpec { schedule: Some(schedule), ..brief.build() }
}

/// Every due time in between has one run, and it completed; how many there were.
async fn check_runs(client: &Client, job: &str, began: u64, ended: u64) -> Result<usize> {
    // The very time at which it was created belongs to nobody.
    let expected: Vec<u64> = (began / EVERY + 1..=ended / EVERY).map(|number| number * EVERY).collect();
    let (first, last) = (*expected.first().context("a due time")?, *expected.last().context("a due time")?);
    wait::until("every due time was run, once", LIMIT, async || {
        let runs = client.runs(job).await.map_err(|status| status.to_string())?;
        let runs: Vec<_> = runs.iter().filter(|run| (first..=last).contains(&due(run))).collect();
        let times: Vec<u64> = runs.iter().map(|run| due(run)).collect();
        let done = runs.iter().filter(|run| is_completed(run)).count();
        wait::expect(times == expected && done == expected.len(), || {
            format!("{done} done; {times:?} instead of {expected:?}")
        })
    })
    .await?;
    Ok(expected.len())
}

fn due(run: &Service) -> u64 {
    run.scheduled_for.and_then(|at| u64::try_from(at.seconds).ok()).unwrap_or_default()
}

fn is_completed(run: &Service) -> bool {
    run.job.as_ref().is_some_and(|job| job.phase() == JobPhase::Completed)
}

/// In seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
