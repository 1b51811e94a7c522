//! Masters that die, hang, join and leave, under the eyes of clients and agents.
//!
//! Invariant tested: an acknowledged write is never lost, a watch neither skips nor repeats, and
//! containers do not notice. Deliberately not here: what a node does alone (`integration_nodes`).

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use skein_proto::v1::{
    AddMasterRequest, Consistency, CreateServiceRequest, GetServiceRequest, Instance, MemberRole, Phase,
    RemoveMasterRequest, RestartCondition, ScaleServiceRequest, service_service_client::ServiceServiceClient,
};
use skein_tests::{
    client::reason,
    cluster::Cluster,
    deployment::show_instances,
    spec::service,
    wait,
    watch::{Seen, Watcher, is_ready},
};
use tonic::Code;

const LIMIT: Duration = Duration::from_secs(20);
/// "Within a second or two, never a hang", on a busy machine.
const NO_LEADER_LIMIT: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_the_leader_and_containers_do_not_notice() -> Result<()> {
    let mut cluster = Cluster::start(3, 3).await?;
    cluster.client.apply(service("web").replicas(6)).await?;
    cluster.ready("web", 6).await?;
    let before = cluster.all_containers().await?;
    let leader = cluster.leader().await?;

    // The last acknowledgement and the death are as close as they can be.
    let made = ServiceServiceClient::new(cluster.client.master(leader))
        .create_service(CreateServiceRequest {
            spec: Some(service("last").replicas(0).into()),
            request_id: "the-last-words".to_owned(),
            validate_only: false,
        })
        .await?
        .into_inner()
        .service
        .context("a service")?;
    cluster.kill_master(leader).await?;
    let found = cluster.client.service("last").await?;
    ensure!(found.id == made.id && found.created_revision == made.created_revision, "{found:?}");

    let repeat = |replicas| CreateServiceRequest {
        spec: Some(service("last").replicas(replicas).into()),
        request_id: "the-last-words".to_owned(),
        validate_only: false,
    };
    let again = cluster
        .client
        .call(async |channel| ServiceServiceClient::new(channel).create_service(repeat(0)).await)
        .await?;
    ensure!(again.service.context("a service")?.id == made.id, "the first answer again");
    let other = cluster
        .client
        .call(async |channel| ServiceServiceClient::new(channel).create_service(repeat(1)).await)
        .await
        .expect_err("another body under the same request_id");
    ensure!(other.code() == Code::InvalidArgument, "{other}");

    cluster.nodes_ready().await?;
    ensure!(cluster.all_containers().await? == before, "a container was touched by the leader's death");
    cluster.start_master(leader).await?;
    cluster.caught_up(leader).await?;
    cluster.client.scale("web", 7).await?;
    cluster.ready("web", 7).await?;
    let after = cluster.all_containers().await?;
    ensure!(before.iter().all(|container| after.contains(container)), "scaling up touched a container");
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scale_goes_on_under_the_next_leader() -> Result<()> {
    let mut cluster = Cluster::start(3, 3).await?;
    let watcher = cluster.watch("web");
    cluster.client.apply(service("web").replicas(1)).await?;
    cluster.ready("web", 1).await?;
    for (round, replicas) in [(1, 25), (2, 5)] {
        let leader = cluster.leader().await?;
        cluster.client.scale("web", replicas).await?;
        cluster.kill_master(leader).await?;
        let count = usize::try_from(replicas)?;
        cluster.ready("web", count).await.with_context(|| format!("round {round}"))?;
        cluster.containers_running(count).await?;
        cluster.start_master(leader).await?;
        cluster.caught_up(leader).await?;
    }
    watcher.check_one_live_per_slot().map_err(anyhow::Error::msg)?;
    cluster.stop().await
}

/// One restart is allowed. It was used before the leader died and the agent lost its memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_are_counted_across_leaders_and_agents() -> Result<()> {
    let mut cluster = Cluster::start(3, 1).await?;
    let once = service("web").replicas(1).restart(RestartCondition::OnFailure, Duration::ZERO, Some(1));
    cluster.client.apply(once).await?;
    let first = cluster.ready("web", 1).await?.pop().context("an instance")?;
    let watcher = cluster.watch("web");
    cluster.end_container(&first, 1).await?;
    let attempt = |instances: &BTreeMap<String, Instance>| {
        let observed = instances.get(&first.id).and_then(|instance| instance.observed.clone());
        observed.filter(|observed| observed.phase() == Phase::Ready).map(|observed| observed.attempt)
    };
    wait::until("the second attempt is ready", LIMIT, async || {
        let seen = attempt(&watcher.instances());
        wait::expect(seen == Some(2), || format!("{seen:?}"))
    })
    .await?;
    let leader = cluster.leader().await?;
    cluster.kill_master(leader).await?;
    cluster.stop_agent("n1").await?;
    cluster.forget_instances("n1")?;
    cluster.start_agent("n1").await?;
    cluster.nodes_ready().await?;
    let second = cluster.ready("web", 1).await?.pop().context("an instance")?;
    ensure!(second.id == first.id, "adopted");
    cluster.end_container(&second, 1).await?;
    wait::until("it is replaced", LIMIT, async || {
        let all = cluster.client.instances("web").await.map_err(|status| status.to_string())?;
        wait::expect(all.iter().any(|other| other.id != first.id && is_ready(other)), || show_instances(&all))
    })
    .await?;
    let most = watcher.history().iter().filter_map(|seen| attempt_of(seen, &first.id)).max();
    ensure!(most == Some(2), "it was restarted more than once: attempt {most:?}");
    cluster.stop().await
}

fn attempt_of(seen: &Seen, id: &str) -> Option<u32> {
    let Seen::Changed { changes, .. } = seen else { return None };
    let ours = changes.iter().filter(|(_, instance)| instance.id == id);
    ours.filter_map(|(_, instance)| instance.observed.as_ref()).map(|observed| observed.attempt).max()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_resumed_across_failovers_has_no_gap_and_no_repeat() -> Result<()> {
    let mut cluster = Cluster::start(3, 2).await?;
    cluster.client.apply(service("web").replicas(2)).await?;
    cluster.ready("web", 2).await?;
    // Each begins at another master, so that every death breaks one of them.
    let watchers: Vec<_> =
        (0..3).map(|first| Watcher::start(cluster.client.clone(), 3, first, "web")).collect();
    for replicas in [8, 3, 6] {
        let leader = cluster.leader().await?;
        cluster.client.scale("web", replicas).await?;
        cluster.kill_master(leader).await?;
        cluster.ready("web", usize::try_from(replicas)?).await?;
        cluster.start_master(leader).await?;
        cluster.caught_up(leader).await?;
    }
    let listed = cluster.client.instances("web").await?;
    let last = listed.iter().map(|instance| instance.modified_revision).max().unwrap_or(0);
    for watcher in &watchers {
        wait::until("the watch has come to the last change", LIMIT, async || {
            wait::expect(watcher.revision() >= last, || format!("{} of {last}", watcher.revision()))
        })
        .await?;
        watcher.check_order().map_err(anyhow::Error::msg)?;
    }
    ensure!(watchers.iter().map(Watcher::breaks).sum::<usize>() >= 3, "nothing was broken");
    let batches: Vec<_> = watchers.iter().map(batches).collect();
    let from = watchers.iter().filter_map(synced_at).max().context("synced")?;
    for other in &batches[1..] {
        let common = |of: &BTreeMap<u64, Vec<String>>| {
            of.iter()
                .filter(|(revision, _)| (from + 1..=last).contains(revision))
                .map(|(revision, ids)| (*revision, ids.clone()))
                .collect::<Vec<_>>()
        };
        ensure!(common(&batches[0]) == common(other), "two watchers saw different histories");
    }
    cluster.stop().await
}

fn batches(watcher: &Watcher) -> BTreeMap<u64, Vec<String>> {
    watcher
        .history()
        .into_iter()
        .filter_map(|seen| match seen {
            Seen::Changed { revision, changes } => {
                Some((revision, changes.into_iter().map(|(_, instance)| instance.id).collect()))
            }
            _ => None,
        })
        .collect()
}

fn synced_at(watcher: &Watcher) -> Option<u64> {
    watcher.history().iter().find_map(|seen| match seen {
        Seen::Synced(revision) => Some(*revision),
        _ => None,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_writes_fail_fast_and_stale_reads_are_answered() -> Result<()> {
    let mut cluster = Cluster::start(3, 2).await?;
    cluster.client.apply(service("web").replicas(2)).await?;
    let instances = cluster.ready("web", 2).await?;
    let before = cluster.all_containers().await?;
    let (first, second, survivor) = (0, 1, 2);
    cluster.caught_up(survivor).await?;
    cluster.kill_master(first).await?;
    cluster.kill_master(second).await?;

    let mut alone = cluster.client.services(survivor);
    let write = || ScaleServiceRequest {
        service: "web".to_owned(),
        replicas: Some(3),
        ..ScaleServiceRequest::default()
    };
    // A leader that has just lost its followers may have begun a write it cannot finish.
    wait::until("NO_LEADER", LIMIT, async || {
        let start = Instant::now();
        let status = alone.scale_service(write()).await.err().ok_or("a write without a quorum")?;
        let no_leader = status.code() == Code::Unavailable && reason(&status).as_deref() == Some("NO_LEADER");
        wait::expect(no_leader, || format!("after {:?}: {status:?}", start.elapsed()))
    })
    .await?;
    let start = Instant::now();
    let status = alone.scale_service(write()).await.expect_err("a write without a quorum");
    ensure!(start.elapsed() < NO_LEADER_LIMIT, "{:?} until {status}", start.elapsed());
    let read = |consistency: Consistency| GetServiceRequest {
        service: "web".to_owned(),
        consistency: consistency.into(),
    };
    let start = Instant::now();
    let fresh = alone.get_service(read(Consistency::Linearizable)).await.expect_err("nobody can know");
    ensure!(fresh.code() == Code::Unavailable && start.elapsed() < NO_LEADER_LIMIT, "{fresh}");
    let stale =
        alone.get_service(read(Consistency::Stale)).await?.into_inner().service.context("a service")?;
    ensure!(stale.spec.is_some(), "{stale:?}");
    let status = cluster.client.status(survivor).await?;
    ensure!(status.members.len() == 3, "the status needs no leader: {status:?}");

    // The node looks after itself meanwhile.
    let victim = instances.first().context("an instance")?;
    cluster.end_container(victim, 1).await?;
    cluster.containers_running(2).await?;
    cluster.start_master(first).await?;
    cluster.leader().await?;
    cluster.ready("web", 2).await?;
    let after = cluster.all_containers().await?;
    let kept = before.iter().filter(|container| after.contains(container)).count();
    ensure!(kept >= 1, "only the one that ended was restarted");
    cluster.start_master(second).await?;
    cluster.caught_up(second).await?;
    cluster.client.scale("web", 3).await?;
    cluster.ready("web", 3).await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_masters_restart_with_their_state() -> Result<()> {
    let mut cluster = Cluster::start(3, 2).await?;
    let made = cluster.client.apply(service("web").replicas(3)).await?;
    cluster.ready("web", 3).await?;
    let before = cluster.all_containers().await?;
    for master in 0..3 {
        cluster.kill_master(master).await?;
    }
    for master in [2, 0, 1] {
        cluster.start_master(master).await?;
    }
    cluster.leader().await?;
    let found = cluster.client.service("web").await?;
    ensure!((&found.id, &found.etag) == (&made.id, &made.etag), "{found:?}");
    cluster.nodes_ready().await?;
    cluster.ready("web", 3).await?;
    ensure!(cluster.all_containers().await? == before, "a container was touched");
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_master_joins_and_one_leaves() -> Result<()> {
    let mut cluster = Cluster::start(3, 1).await?;
    cluster.client.apply(service("web").replicas(1)).await?;
    cluster.ready("web", 1).await?;
    let fourth = cluster.add_master().await?;
    let request = AddMasterRequest {
        name: fourth.name.clone(),
        api_address: fourth.api_address.clone(),
        cluster_address: fourth.cluster_address.clone(),
    };
    let asked = cluster.follower().await?;
    let answer = cluster.client.cluster(asked).add_master(request).await?.into_inner();
    let voters = answer.members.iter().filter(|member| member.role() == MemberRole::Voter).count();
    ensure!(voters == 4, "{answer:?}");
    cluster.caught_up(fourth.index).await?;

    // The leader leaves: the hardest of the four to lose.
    let leader = cluster.leader().await?;
    let name = cluster.master_name(leader);
    let remaining = (0..3).find(|index| *index != leader).context("another")?;
    cluster.client.cluster(remaining).remove_master(RemoveMasterRequest { name: name.clone() }).await?;
    wait::until("three members, none of them the old leader", LIMIT, async || {
        let status = cluster.client.status(remaining).await.map_err(|status| status.to_string())?;
        let gone = status.members.iter().all(|member| member.name != name);
        wait::expect(gone && status.members.len() == 3 && status.leader != name, || format!("{status:?}"))
    })
    .await?;
    cluster.kill_master(leader).await?;
    cluster.client.scale("web", 2).await?;
    cluster.ready("web", 2).await?;
    cluster.stop().await
}
