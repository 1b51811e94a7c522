//! Services from their deployment to their deletion, on three real masters and in-memory runtimes.
//!
//! Invariant tested throughout: at most one live instance per slot, and what the API says is what
//! the runtimes hold. Deliberately not here: failing nodes and masters.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use skein_proto::v1::{Availability, Desired, JobPhase, Phase, RestartCondition, ServiceSpec};
use skein_tests::{
    cluster::Cluster,
    spec::{SAMPLE_IMAGE_NEXT, service},
    wait,
    watch::is_ready,
};
use tonic::Code;

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_deployed_scaled_and_deleted() -> Result<()> {
    let cluster = Cluster::start(3, 3).await?;
    let watcher = cluster.watch("");
    let made = cluster.client.apply(service("web").replicas(3).port(8080)).await?;
    ensure!(made.generation == 1, "{made:?}");
    let instances = cluster.ready("web", 3).await?;
    let nodes: std::collections::BTreeSet<_> = instances.iter().map(|instance| &instance.node_id).collect();
    ensure!(nodes.len() == 3, "three equal nodes get one instance each: {nodes:?}");
    ensure!(instances.iter().all(|instance| instance.endpoints.len() == 1), "{instances:?}");

    cluster.client.scale("web", 7).await?;
    let more = cluster.ready("web", 7).await?;
    let kept = instances.iter().filter(|old| more.iter().any(|new| new.id == old.id)).count();
    ensure!(kept == 3, "scaling up touches nobody");
    cluster.client.scale("web", 2).await?;
    cluster.ready("web", 2).await?;
    cluster.containers_running(2).await?;

    wait::until("the counts follow", LIMIT, async || {
        let service = cluster.client.service("web").await.map_err(|status| status.to_string())?;
        let status = service.status.unwrap_or_default();
        wait::expect((status.desired, status.running, status.ready) == (2, 2, 2), || format!("{status:?}"))
    })
    .await?;
    cluster.client.delete("web").await?;
    cluster.gone("web").await?;
    cluster.no_containers().await?;
    watcher.check_order().map_err(anyhow::Error::msg)?;
    watcher.check_one_live_per_slot().map_err(anyhow::Error::msg)?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_stops_one_instance_at_a_time() -> Result<()> {
    let cluster = Cluster::start(3, 3).await?;
    cluster.client.apply(service("web").replicas(4)).await?;
    let before = cluster.ready("web", 4).await?;
    let watcher = cluster.watch("web");
    wait::until("the watch has begun", LIMIT, async || {
        wait::expect(watcher.instances().len() == 4, || format!("{:?}", watcher.history()))
    })
    .await?;

    let updated = cluster.client.apply(service("web").replicas(4).image(SAMPLE_IMAGE_NEXT)).await?;
    ensure!(updated.generation == 2, "{updated:?}");
    wait::until("all instances follow the new spec", LIMIT, async || {
        let instances = cluster.client.instances("web").await.map_err(|status| status.to_string())?;
        let ready: Vec<_> = instances.iter().filter(|instance| is_ready(instance)).collect();
        let new = ready.iter().filter(|instance| instance.generation == 2).count();
        wait::expect(new == 4 && ready.len() == 4, || format!("{new} of {}", ready.len()))
    })
    .await?;
    cluster.containers_running(4).await?;
    wait::until("the watch has seen the end", LIMIT, async || {
        let now = watcher.instances();
        let new = now.values().filter(|instance| instance.generation == 2 && is_ready(instance)).count();
        wait::expect(new == 4, || format!("{new}"))
    })
    .await?;
    ensure!(watcher.fewest_ready(4) == 3, "never two down at once, saw {}", watcher.fewest_ready(4));
    watcher.check_one_live_per_slot().map_err(anyhow::Error::msg)?;
    let after = cluster.client.instances("web").await?;
    ensure!(
        after
            .iter()
            .filter(|instance| instance.desired() == Desired::Run)
            .all(|new| { before.iter().all(|old| old.id != new.id) }),
        "an instance is replaced, never changed"
    );
    let unchanged = cluster.client.apply(service("web").replicas(4).image(SAMPLE_IMAGE_NEXT)).await?;
    ensure!(unchanged.generation == 2 && unchanged.etag == updated.etag, "an equal spec changes nothing");
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_global_service_follows_the_nodes() -> Result<()> {
    let mut cluster = Cluster::start(3, 2).await?;
    cluster.client.apply(service("log").global()).await?;
    cluster.ready("log", 2).await?;
    cluster.add_agent(&[]).await?;
    let instances = cluster.ready("log", 3).await?;
    let mut nodes: Vec<_> = instances.iter().map(|instance| instance.node_name.clone()).collect();
    nodes.sort();
    ensure!(nodes == ["n1", "n2", "n3"], "{nodes:?}");
    let refused = cluster.client.scale("log", 5).await.expect_err("a global service has no replicas");
    ensure!(refused.code() == Code::FailedPrecondition, "{refused}");
    cluster.client.set_availability("n3", Availability::Drained).await?;
    cluster.ready("log", 2).await?;
    cluster.client.set_availability("n3", Availability::Active).await?;
    cluster.ready("log", 3).await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_container_is_restarted_in_place_by_policy() -> Result<()> {
    let cluster = Cluster::start(3, 2).await?;
    cluster.client.apply(service("web").replicas(2)).await?;
    let before = cluster.ready("web", 2).await?;
    let victim = before.first().context("an instance")?;
    cluster.end_container(victim, 137).await?;
    let again = wait::until("the second attempt is ready", LIMIT, async || {
        let instances = cluster.client.instances("web").await.map_err(|status| status.to_string())?;
        let found = instances.into_iter().find(|instance| instance.id == victim.id).ok_or("replaced")?;
        let observed = found.observed.clone().unwrap_or_default();
        wait::expect(observed.attempt == 2 && observed.phase() == Phase::Ready, || format!("{observed:?}"))?;
        Ok(found)
    })
    .await?;
    ensure!(again.node_id == victim.node_id, "in place");
    ensure!(again.observed.as_ref().and_then(|observed| observed.exit_code) == Some(137), "{again:?}");
    cluster.containers_running(2).await?;
    cluster.stop().await
}

/// Exit 0 under `on-failure` is an end as wished; exit 1 is restarted until the attempts are used
/// up, and then the masters replace the instance.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn used_up_attempts_lead_to_a_replacement() -> Result<()> {
    let cluster = Cluster::start(3, 2).await?;
    let policy = service("web").replicas(1).restart(RestartCondition::OnFailure, Duration::ZERO, Some(1));
    cluster.client.apply(policy).await?;
    let first = cluster.ready("web", 1).await?.pop().context("an instance")?;
    cluster.end_container(&first, 1).await?;
    let second = wait::until("the second attempt is ready", LIMIT, async || {
        let instances = cluster.client.instances("web").await.map_err(|status| status.to_string())?;
        let found = instances.into_iter().find(|instance| instance.id == first.id).ok_or("replaced")?;
        let observed = found.observed.clone().unwrap_or_default();
        wait::expect(observed.attempt == 2 && observed.phase() == Phase::Ready, || format!("{observed:?}"))?;
        Ok(found)
    })
    .await?;
    cluster.end_container(&second, 1).await?;
    let replacement = wait::until("a replacement is ready", LIMIT, async || {
        let instances = cluster.client.instances("web").await.map_err(|status| status.to_string())?;
        instances
            .iter()
            .find(|instance| instance.id != first.id && is_ready(instance))
            .cloned()
            .ok_or_else(|| skein_tests::deployment::show_instances(&instances))
    })
    .await?;
    ensure!(replacement.slot == first.slot, "the same slot");
    cluster.containers_running(1).await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_gives_everything_away() -> Result<()> {
    let cluster = Cluster::start(3, 3).await?;
    cluster.client.apply(service("web").replicas(6)).await?;
    cluster.ready("web", 6).await?;
    cluster.client.set_availability("n2", Availability::Drained).await?;
    wait::until("n2 is empty", LIMIT, async || {
        let instances = cluster.client.instances("web").await.map_err(|status| status.to_string())?;
        let ready: Vec<_> = instances.iter().filter(|instance| is_ready(instance)).collect();
        let there = ready.iter().filter(|instance| instance.node_name == "n2").count();
        wait::expect(there == 0 && ready.len() == 6, || skein_tests::deployment::show_instances(&instances))
    })
    .await?;
    wait::until("n2 holds no running container", LIMIT, async || {
        let left = cluster.containers_of("n2").await.map_err(|error| error.to_string())?;
        wait::expect(left.iter().all(|container| !container.running), || format!("{left:?}"))
    })
    .await?;
    cluster.client.set_availability("n2", Availability::Active).await?;
    cluster.client.scale("web", 9).await?;
    let nine = cluster.ready("web", 9).await?;
    ensure!(nine.iter().any(|instance| instance.node_name == "n2"), "an active node takes new ones");
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pending_instance_says_why() -> Result<()> {
    let cluster = Cluster::start(3, 3).await?;
    cluster.client.set_availability("n1", Availability::Drained).await?;
    cluster.client.apply(service("huge").replicas(1).reserve_memory_mib(64 * 1024 * 1024)).await?;
    let explanation = wait::until("an explanation", LIMIT, async || {
        let instances = cluster.client.instances("huge").await.map_err(|status| status.to_string())?;
        let found = instances.first().ok_or("no instance")?;
        wait::expect(!found.explanation.is_empty() && found.node_id.is_empty(), || format!("{found:?}"))?;
        Ok(found.explanation.clone())
    })
    .await?;
    for part in ["3 nodes", "2 insufficient memory", "1 drained"] {
        ensure!(explanation.contains(part), "{explanation:?} does not say {part:?}");
    }
    let status = cluster.client.service("huge").await?.status.context("a status")?;
    ensure!(status.pending == 1 && status.message.contains("memory"), "{status:?}");
    // Nothing is stuck: once it fits, it runs.
    cluster.client.apply(service("huge").replicas(1).constraint("node.name == n2")).await?;
    let instances = cluster.ready("huge", 1).await?;
    ensure!(instances.iter().all(|instance| instance.node_name == "n2"), "{instances:?}");
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_gets_a_typed_answer() -> Result<()> {
    use tonic_types::StatusExt as _;
    let cluster = Cluster::start(3, 1).await?;
    let mut spec: ServiceSpec = service("-bad name").constraint("node.colour ~ red").into();
    spec.container.as_mut().context("a container")?.image = String::new();
    let refused = cluster.client.apply(spec).await.expect_err("three bad fields");
    ensure!(refused.code() == Code::InvalidArgument, "{refused}");
    let fields: Vec<_> = refused
        .get_details_bad_request()
        .context("field violations")?
        .field_violations
        .into_iter()
        .map(|violation| violation.field)
        .collect();
    for field in ["name", "image", "constraints"] {
        ensure!(fields.iter().any(|path| path.contains(field)), "{fields:?} lacks {field}");
    }
    let unknown = cluster.client.service("nobody").await.expect_err("no such service");
    ensure!(unknown.code() == Code::NotFound, "{unknown}");

    let made = cluster.client.apply(service("web").replicas(1)).await?;
    cluster.client.scale("web", 2).await?;
    let stale = skein_proto::v1::ScaleServiceRequest {
        service: "web".to_owned(),
        replicas: Some(3),
        etag: made.etag,
        ..Default::default()
    };
    let aborted = cluster.client.services(0).scale_service(stale).await.expect_err("a stale etag");
    let current = cluster.client.service("web").await?.etag;
    let info = aborted.get_details_error_info().context("error info")?;
    ensure!(aborted.code() == Code::Aborted && info.reason == "STALE_ETAG", "{aborted} {info:?}");
    ensure!(info.metadata.get("etag") == Some(&current), "{info:?} is not {current}");
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_to_completion_although_the_leader_dies() -> Result<()> {
    let mut cluster = Cluster::start(3, 2).await?;
    cluster.client.apply(service("sum").job(3, 1)).await?;
    let mut ended = std::collections::BTreeSet::new();
    for round in 0..3 {
        let mut next = None;
        wait::until("the next run is under way", LIMIT, async || {
            let instances = cluster.client.instances("sum").await.map_err(|status| status.to_string())?;
            let alive: Vec<_> = instances.into_iter().filter(is_ready).collect();
            next = alive.first().filter(|instance| !ended.contains(&instance.id)).cloned();
            wait::expect(next.is_some() && alive.len() == 1, || format!("{alive:?}"))
        })
        .await?;
        let instance = next.context("found")?;
        if round == 1 {
            let leader = cluster.leader().await?;
            cluster.kill_master(leader).await?;
        }
        cluster.end_container(&instance, 0).await?;
        ended.insert(instance.id);
    }
    wait::until("the job is completed", LIMIT, async || {
        let service = cluster.client.service("sum").await.map_err(|status| status.to_string())?;
        let run = service.job.unwrap_or_default();
        let completed = service.status.unwrap_or_default().completed;
        wait::expect(run.phase() == JobPhase::Completed && completed == 3, || format!("{run:?} {completed}"))
    })
    .await?;
    ensure!(cluster.client.instances("sum").await?.len() == 3, "nothing was done twice");
    cluster.containers_running(0).await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_foresees_what_an_apply_does() -> Result<()> {
    let cluster = Cluster::start(3, 2).await?;
    let spec = || service("web").replicas(3).build();
    let plan = cluster.client.plan(vec![spec()], "").await?;
    let placed = plan.instances.iter().filter(|one| !one.to_node_name.is_empty() && one.reason.is_empty());
    ensure!(placed.count() == 3 && plan.instances.len() == 3, "{plan:?}");
    ensure!(cluster.client.service("web").await.is_err(), "nothing has been done");
    ensure!(cluster.client.plan(vec![spec()], &plan.plan_etag).await.is_ok(), "as it was planned on");
    cluster.client.apply(spec()).await?;
    cluster.ready("web", 3).await?;
    let stale = cluster.client.plan(vec![spec()], &plan.plan_etag).await.expect_err("it is there now");
    ensure!(stale.code() == Code::FailedPrecondition, "{stale}");
    let again = cluster.client.plan(vec![spec()], "").await?;
    ensure!(again.instances.is_empty() && again.etags.contains_key("web"), "{again:?}");
    let more = cluster.client.plan(vec![service("web").replicas(4).build()], &again.plan_etag).await?;
    ensure!(more.instances.len() == 1 && more.instances[0].name == "web.4", "{more:?}");
    let mut wrong = spec();
    wrong.name = "no name".to_owned();
    let refused = cluster.client.plan(vec![spec(), wrong], "").await.expect_err("a bad name");
    ensure!(refused.message().contains("specs[1].name"), "{refused}");
    cluster.stop().await
}
