//! The examples do on real processes and real Docker what they say they do.
//!
//! Invariant: a file is deployed as it lies in `examples/`; what a comment in it promises is what is looked for here.
//! Deliberately not here: `shop` (`e2e_stack`), `configs` (`e2e_configs`).

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use skein_proto::v1::{Instance, JobPhase, RolloutPhase};
use skein_tests::{
    deployment::{Deployment, Flags, show_instances},
    http, wait,
    watch::{Watcher, is_ready},
};
use tokio::{net::UdpSocket, time::timeout};

const LIMIT: Duration = Duration::from_secs(40);
/// What masters say of each other while they are stopped one by one.
const ENDING: &[&str] = &["master unreachable", "leadership was not handed on"];

async fn end(cluster: Deployment, stack: &str) -> Result<()> {
    cluster.skein(&["stack", "rm", stack]).await?;
    cluster.no_containers(LIMIT).await?;
    cluster.finish(ENDING).await
}

/// Waits until this job has done what it has to do.
async fn completed(cluster: &Deployment, job: &str) -> Result<()> {
    wait::until(&format!("{job} is completed"), LIMIT, async || {
        let service = cluster.client.service(job).await.map_err(|status| status.to_string())?;
        let phase = service.job.as_ref().map(|job| job.phase());
        wait::expect(phase == Some(JobPhase::Completed), || format!("{:?}", service.job))
    })
    .await
}

/// Where an instance's container answers on this machine.
fn address(instance: &Instance) -> Result<String> {
    let endpoint = instance.endpoints.first().context("an endpoint")?;
    Ok(format!("127.0.0.1:{}", endpoint.port))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_run_to_their_end_before_what_needs_them() -> Result<()> {
    let cluster = Deployment::start(3, 3, &Flags::default()).await?;
    let file = cluster.example("job.yaml", "v1")?;
    cluster.skein(&["stack", "deploy", "-c", &file, "job"]).await?;
    wait::until("who needs the job waits for its end", LIMIT, async || {
        let web = cluster.client.instances("job_web").await.map_err(|status| status.to_string())?;
        // Read later: what has been placed by now may have been placed because of it.
        let migrate = cluster.client.service("job_migrate").await.map_err(|status| status.to_string())?;
        let is_done = migrate.job.is_some_and(|job| job.phase() == JobPhase::Completed);
        let placed = web.iter().filter(|instance| !instance.node_id.is_empty()).count();
        assert!(is_done || placed == 0, "too early: {}", show_instances(&web));
        wait::expect(web.iter().filter(|instance| is_ready(instance)).count() == 2, || show_instances(&web))
    })
    .await?;
    completed(&cluster, "job_migrate").await?;
    completed(&cluster, "job_clean").await?;
    let everywhere = cluster.client.instances("job_clean").await?;
    let places: BTreeSet<_> = everywhere.iter().map(|instance| &instance.node_name).collect();
    ensure!(
        places.len() == 3 && everywhere.len() == 3,
        "once on every node: {}",
        show_instances(&everywhere)
    );
    let migrated = cluster.client.instances("job_migrate").await?;
    let [migrated] = migrated.as_slice() else { anyhow::bail!("ran {} times", migrated.len()) };
    let story = cluster.skein(&["instance", "events", &migrated.id]).await?;
    for step in ["assigned", "ready", "exit code 0"] {
        ensure!(story.contains(step), "no {step} in\n{story}");
    }
    end(cluster, "job").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_is_listed_run_by_hand_and_suspended() -> Result<()> {
    let cluster = Deployment::start(3, 2, &Flags::default()).await?;
    let file = cluster.example("cron.yaml", "v1")?;
    cluster.skein(&["stack", "deploy", "-c", &file, "cron"]).await?;
    let listed = cluster.skein(&["job", "ls"]).await?;
    ensure!(listed.contains("cron_backup") && listed.contains("cron_report"), "{listed}");
    for job in ["cron_backup", "cron_report"] {
        cluster.skein(&["job", "run", job]).await?;
        wait::until("its run is completed", LIMIT, async || {
            let runs = cluster.client.runs(job).await.map_err(|status| status.to_string())?;
            let phases: Vec<_> =
                runs.iter().filter_map(|run| run.job.as_ref().map(|job| job.phase())).collect();
            wait::expect(phases == [JobPhase::Completed], || format!("{phases:?}"))
        })
        .await?;
    }
    let history = cluster.skein(&["job", "history", "cron_backup"]).await?;
    ensure!(history.to_lowercase().contains("completed"), "{history}");
    let written = cluster.skein(&["logs", "cron_backup"]).await?;
    ensure!(written.contains("exiting with 0 as told"), "{written}");
    cluster.skein(&["job", "suspend", "cron_backup"]).await?;
    let suspended = cluster.client.service("cron_backup").await?;
    ensure!(suspended.schedule.is_some_and(|schedule| schedule.next.is_none()), "nothing is due");
    cluster.skein(&["job", "resume", "cron_backup"]).await?;
    let resumed = cluster.client.service("cron_backup").await?;
    ensure!(resumed.schedule.is_some_and(|schedule| schedule.next.is_some()), "due again");
    end(cluster, "cron").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_decide_who_is_ready_and_who_is_restarted() -> Result<()> {
    let cluster = Deployment::start(3, 2, &Flags::default()).await?;
    let file = cluster.example("probes.yaml", "v1")?;
    cluster.skein(&["stack", "deploy", "-c", &file, "probes"]).await?;
    let ready = cluster.ready("probes_web", 2, LIMIT).await?;
    let victim = ready.first().context("two are ready")?;
    http::get(&address(victim)?, "/health?set=fail").await?;
    let look = async |wanted: &dyn Fn(&Instance) -> bool| {
        let all = cluster.client.instances("probes_web").await.map_err(|status| status.to_string())?;
        let is_so = all.iter().any(|instance| instance.id == victim.id && wanted(instance));
        wait::expect(is_so, || show_instances(&all))
    };
    wait::until("its readiness fails first", LIMIT, async || look(&|instance| !is_ready(instance)).await)
        .await?;
    // The liveness probe asks the same: then it is restarted, and well again.
    let restarted = |instance: &Instance| {
        is_ready(instance) && instance.observed.as_ref().is_some_and(|observed| observed.attempt == 2)
    };
    wait::until("it is restarted and ready", LIMIT, async || look(&restarted).await).await?;
    let story = cluster.skein(&["instance", "events", &victim.id]).await?;
    ensure!(story.contains("liveness"), "{story}");
    end(cluster, "probes").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_goes_by_its_canary_and_back_on_demand() -> Result<()> {
    let cluster = Deployment::start(3, 3, &Flags::default()).await?;
    let deploy = async |tag: &str| {
        let file = cluster.example("rollout.yaml", tag)?;
        cluster.skein(&["stack", "deploy", "-c", &file, "rollout"]).await
    };
    deploy("v1").await?;
    cluster.ready("rollout_web", 6, LIMIT).await?;
    let watcher = Watcher::start(cluster.client.clone(), 3, 0, "rollout_web");
    wait::until("the watch has begun", LIMIT, async || {
        let ready = watcher.instances().values().filter(|instance| is_ready(instance)).count();
        wait::expect(ready == 6, || format!("{ready} ready"))
    })
    .await?;
    let all_run = async |image: &str| {
        wait::until(&format!("all run {image}"), LIMIT, async || {
            let all = cluster.client.instances("rollout_web").await.map_err(|status| status.to_string())?;
            let good = all.iter().filter(|instance| is_ready(instance) && instance.image == image).count();
            wait::expect(good == 6, || show_instances(&all))
        })
        .await
    };
    deploy("v2").await?;
    all_run("skein-sample:v2").await?;
    let history = cluster.skein(&["service", "history", "rollout_web"]).await?;
    ensure!(history.lines().count() >= 3, "two revisions under a head: {history}");
    cluster.skein(&["service", "rollback", "rollout_web"]).await?;
    all_run("skein-sample:v1").await?;
    ensure!(watcher.fewest_ready(6) >= 5, "max_unavailable is 1, saw {}", watcher.fewest_ready(6));
    drop(watcher);
    end(cluster, "rollout").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_go_where_they_are_wanted() -> Result<()> {
    let agent = ["--resource", "gpu=1", "--device", "gpu:0=/dev/zero"].map(ToOwned::to_owned).to_vec();
    let cluster = Deployment::start(3, 3, &Flags { agent, ..Flags::default() }).await?;
    for (node, zone) in [("n1", "zone=a"), ("n2", "zone=b"), ("n3", "zone=b")] {
        cluster.skein(&["node", "label", node, zone, "disk=ssd"]).await?;
    }
    let file = cluster.example("placement.yaml", "v1")?;
    cluster.skein(&["stack", "deploy", "-c", &file, "placement"]).await?;
    let web = cluster.ready("placement_web", 4, LIMIT).await?;
    let in_a = web.iter().filter(|instance| instance.node_name == "n1").count();
    ensure!(in_a == 2, "spread over zones: {}", show_instances(&web));
    cluster.ready("placement_cache", 2, LIMIT).await?;
    let trainer = cluster.ready("placement_trainer", 1, LIMIT).await?;
    let why = cluster.skein(&["explain", "instance", &trainer[0].name]).await?;
    for node in ["n1", "n2", "n3"] {
        ensure!(why.contains(node), "{node} is not in\n{why}");
    }
    end(cluster, "placement").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_shared_as_it_says() -> Result<()> {
    let cluster = Deployment::start(3, 2, &Flags::default()).await?;
    let file = cluster.example("balance.yaml", "v1")?;
    cluster.skein(&["stack", "deploy", "-c", &file, "balance"]).await?;
    for (service, count) in [("balance_shop", 3), ("balance_carts", 2), ("balance_store", 2)] {
        cluster.ready(service, count, LIMIT).await?;
    }
    for node in cluster.ingresses()? {
        for (port, instances) in [(8081, 3), (8082, 1), (8083, 2)] {
            let edge = format!("{node}:{port}");
            // No cookie: nothing to hash, so any will do; here it is enough that somebody answers.
            let wanted = if port == 8082 { 1 } else { instances };
            wait::until(&format!("{edge} leads to all"), LIMIT, async || {
                let mut seen = BTreeSet::new();
                for _ in 0..12 {
                    let answer = http::get(&edge, "/").await.map_err(|error| format!("{error:#}"))?;
                    let who: serde_json::Value =
                        serde_json::from_str(&answer).map_err(|error| error.to_string())?;
                    seen.insert(who["hostname"].to_string());
                }
                wait::expect(seen.len() >= wanted, || format!("{seen:?}"))
            })
            .await?;
        }
    }
    end(cluster, "balance").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_gets_its_share_until_it_is_promoted() -> Result<()> {
    let cluster = Deployment::start(3, 2, &Flags::default()).await?;
    let file = cluster.example("canary.yaml", "v1")?;
    cluster.skein(&["stack", "deploy", "-c", &file, "canary"]).await?;
    cluster.ready("canary_web", 4, LIMIT).await?;
    let file = cluster.example("canary.yaml", "v2")?;
    cluster.skein(&["stack", "deploy", "--detach", "-c", &file, "canary"]).await?;
    let edge = format!("{}:8084", cluster.ingresses()?.first().context("a node")?);
    wait::until("the canary has its twentieth", LIMIT, async || {
        let service = cluster.client.service("canary_web").await.map_err(|status| status.to_string())?;
        let phase = service.rollout.map(|rollout| rollout.phase());
        wait::expect(phase == Some(RolloutPhase::AwaitingPromotion), || format!("{phase:?}"))?;
        let mut of_canary = 0;
        for _ in 0..200 {
            let answer = http::get(&edge, "/").await.map_err(|error| format!("{error:#}"))?;
            let who: serde_json::Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
            of_canary += usize::from(who["version"] == "v2");
        }
        // Slow start lets it begin with less.
        wait::expect((8..=12).contains(&of_canary), || format!("{of_canary} of 200"))
    })
    .await?;
    let told = cluster.skein(&["balance", "canary_web"]).await?;
    ensure!(told.lines().count() >= 5, "the instances under a head: {told}");
    cluster.skein(&["service", "promote", "canary_web"]).await?;
    wait::until("all are of the new image", LIMIT, async || {
        let all = cluster.client.instances("canary_web").await.map_err(|status| status.to_string())?;
        let good = all.iter().filter(|each| is_ready(each) && each.image == "skein-sample:v2").count();
        wait::expect(good == 4, || show_instances(&all))
    })
    .await?;
    end(cluster, "canary").await
}

/// Who answers a datagram of a new source; what is lost is sent again.
async fn ask(edge: &str) -> Result<String, String> {
    let asking = async {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        socket.connect(edge).await?;
        socket.send(b"hello").await?;
        let mut answer = [0; 128];
        let length = socket.recv(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    let answer = timeout(Duration::from_secs(1), asking).await.map_err(|_| format!("{edge} is silent"))?;
    answer.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_reach_all_instances_through_every_node() -> Result<()> {
    let cluster = Deployment::start(3, 2, &Flags::default()).await?;
    let file = cluster.example("udp.yaml", "v1")?;
    cluster.skein(&["stack", "deploy", "-c", &file, "udp"]).await?;
    cluster.ready("udp_echo", 2, LIMIT).await?;
    for node in cluster.ingresses()? {
        let edge = format!("{node}:8053");
        let mut seen = BTreeSet::new();
        wait::until(&format!("{edge} leads to both"), LIMIT, async || {
            seen.insert(ask(&edge).await?);
            let both =
                ["echo-1: hello", "echo-2: hello"].map(|end| seen.iter().any(|who| who.ends_with(end)));
            wait::expect(both == [true, true], || format!("{seen:?}"))
        })
        .await?;
    }
    cluster.skein(&["service", "scale", "udp_echo=1"]).await?;
    let left = cluster.ready("udp_echo", 1, LIMIT).await?;
    ensure!(left.len() == 1, "{}", show_instances(&left));
    for node in cluster.ingresses()? {
        let edge = format!("{node}:8053");
        for _ in 0..6 {
            let who = ask(&edge).await.map_err(anyhow::Error::msg)?;
            ensure!(who.ends_with("echo-1: hello"), "{who} has left");
        }
    }
    end(cluster, "udp").await
}
