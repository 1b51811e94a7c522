//! Rollouts on three real masters and in-memory runtimes: a new leader goes on with them, a bad
//! spec goes back by itself, users pause, promote and undo.
//!
//! Invariant tested throughout: what a rollout promised to keep Ready stays Ready.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::time::Duration;

use anyhow::{Result, ensure};
use skein_proto::convert::duration_to_wire;
use skein_proto::v1::{FailureAction, Phase, RolloutControl, RolloutPhase, UpdateOrder, UpdatePolicy};
use skein_tests::{
    client::Client,
    cluster::Cluster,
    spec::{SAMPLE_IMAGE, SAMPLE_IMAGE_NEXT, Spec, service},
    wait,
    watch::{Watcher, is_ready},
};

const LIMIT: Duration = Duration::from_secs(30);

fn policy() -> UpdatePolicy {
    // Watching for failures is what takes time; the tests of the core let it pass.
    UpdatePolicy { monitor: Some(duration_to_wire(Duration::from_millis(300))), ..Default::default() }
}

async fn seen(watcher: &Watcher, count: usize) -> Result<()> {
    wait::until("the watch has begun", LIMIT, async || {
        let ready = watcher.instances().values().filter(|instance| is_ready(instance)).count();
        wait::expect(ready == count, || format!("{ready} of {count} ready"))
    })
    .await
}

async fn phase(client: &Client, wanted: RolloutPhase) -> Result<()> {
    wait::until("the rollout gets there", LIMIT, async || {
        let service = client.service("web").await.map_err(|status| status.to_string())?;
        let rollout = service.rollout.unwrap_or_default();
        wait::expect(rollout.phase() == wanted, || format!("{rollout:?}"))
    })
    .await
}

async fn current(client: &Client) -> Result<usize> {
    let service = client.service("web").await?;
    let instances = client.instances("web").await?;
    let ready = instances.iter().filter(|instance| is_ready(instance));
    Ok(ready.filter(|instance| service.current_generations.contains(&instance.generation)).count())
}

fn web(image: &str, update: UpdatePolicy) -> Spec {
    service("web").replicas(6).image(image).update(update)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_first_loses_nobody_although_the_leader_dies() -> Result<()> {
    let mut cluster = Cluster::start(3, 3).await?;
    let update = UpdatePolicy { order: UpdateOrder::StartFirst.into(), parallelism: Some(2), ..policy() };
    cluster.client.apply(web(SAMPLE_IMAGE, update)).await?;
    cluster.ready("web", 6).await?;
    let watcher = cluster.watch("web");
    seen(&watcher, 6).await?;
    cluster.client.apply(web(SAMPLE_IMAGE_NEXT, update)).await?;
    wait::until("the rollout has begun", LIMIT, async || {
        let new = watcher.instances().values().filter(|i| i.generation == 2 && is_ready(i)).count();
        wait::expect(new >= 1, || format!("{new} new ones"))
    })
    .await?;
    let leader = cluster.leader().await?;
    cluster.kill_master(leader).await?;
    phase(&cluster.client, RolloutPhase::Completed).await?;
    ensure!(current(&cluster.client).await? == 6);
    cluster.containers_running(6).await?;
    ensure!(watcher.fewest_ready(6) == 6, "never fewer than six, saw {}", watcher.fewest_ready(6));
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_spec_goes_back_by_itself() -> Result<()> {
    let cluster = Cluster::start(3, 3).await?;
    let update = UpdatePolicy { failure_action: FailureAction::Rollback.into(), ..policy() };
    cluster.client.apply(web(SAMPLE_IMAGE, update)).await?;
    let before = cluster.ready("web", 6).await?;
    // Each new instance waits before the next, so there is time for the first one to die.
    let slow = UpdatePolicy { delay: Some(duration_to_wire(Duration::from_secs(3600))), ..update };
    cluster.client.apply(web(SAMPLE_IMAGE_NEXT, slow)).await?;
    let mut victim = None;
    wait::until("one new instance runs", LIMIT, async || {
        let instances = cluster.client.instances("web").await.map_err(|status| status.to_string())?;
        victim = instances.into_iter().find(|i| i.generation == 2 && is_ready(i));
        wait::expect(victim.is_some(), || "none".to_owned())
    })
    .await?;
    cluster.end_container(&victim.expect("found"), 3).await?;
    wait::until("the service went back", LIMIT, async || {
        let service = cluster.client.service("web").await.map_err(|status| status.to_string())?;
        let rollout = service.rollout.unwrap_or_default();
        let done = rollout.is_rollback && rollout.phase() == RolloutPhase::Completed;
        wait::expect(done, || format!("{rollout:?}"))
    })
    .await?;
    let after = cluster.ready("web", 6).await?;
    let kept = before.iter().filter(|old| after.iter().any(|new| new.id == old.id)).count();
    ensure!(kept == 5, "only the one that was replaced is new: {kept} kept");
    ensure!(after.iter().all(|instance| instance.image == SAMPLE_IMAGE));
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_hold_promote_and_undo() -> Result<()> {
    let cluster = Cluster::start(3, 3).await?;
    let update = UpdatePolicy { canary: 1, ..policy() };
    cluster.client.apply(web(SAMPLE_IMAGE, update)).await?;
    cluster.ready("web", 6).await?;
    let refused = cluster.client.control("web", RolloutControl::Pause).await.expect_err("nothing rolls");
    ensure!(refused.code() == tonic::Code::FailedPrecondition, "{refused}");

    cluster.client.apply(web(SAMPLE_IMAGE_NEXT, update)).await?;
    phase(&cluster.client, RolloutPhase::AwaitingPromotion).await?;
    ensure!(current(&cluster.client).await? == 1, "one canary");
    cluster.client.control("web", RolloutControl::Promote).await?;
    phase(&cluster.client, RolloutPhase::Completed).await?;
    ensure!(current(&cluster.client).await? == 6);

    let back = cluster.client.control("web", RolloutControl::Undo).await?;
    ensure!(back.generation == 3 && back.current_generations == [1, 3], "{back:?}");
    phase(&cluster.client, RolloutPhase::Completed).await?;
    let instances = cluster.ready("web", 6).await?;
    ensure!(
        instances
            .iter()
            .all(|i| i.image == SAMPLE_IMAGE && i.observed.as_ref().unwrap().phase() == Phase::Ready)
    );
    cluster.stop().await
}
