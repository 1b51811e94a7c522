//! Real masters, real agents, real containers, through the command line: from the first deployment
//! through every kind of death to the last removal.
//!
//! Invariant tested throughout: the death of a part of the control plane touches no container, and
//! nothing labelled ours is left at the end. Deliberately not here: timing (the benches).

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use skein_proto::v1::{Instance, Liveness};
use skein_tests::{
    deployment::{Deployment, Flags, show_instances, show_nodes},
    docker::Container,
    http,
    spec::SAMPLE_IMAGE,
    wait,
    watch::is_ready,
};

const LIMIT: Duration = Duration::from_secs(40);
const SERVICE: &str = "shop_web";
const COMPOSE: &str = r#"
services:
  web:
    image: skein-sample:v1
    environment:
      NAME: web
    ports:
      - target: 8080
    stop_grace_period: 2s
    deploy:
      replicas: 3
"#;
/// What killing parts of a cluster is allowed to make the others say.
const ALLOWED: &[&str] = &["master unreachable", "leadership was not handed on"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_lives_through_everything() -> Result<()> {
    let flags = Flags { master: vec!["--node-down-after".to_owned(), "4s".to_owned()], ..Flags::default() };
    let mut cluster = Deployment::start(3, 3, &flags).await?;
    let foreign = foreign_containers(&cluster).await?;
    deploy_and_scale(&cluster).await?;
    kill_a_container(&cluster).await?;
    kill_an_agent(&mut cluster).await?;
    reboot_a_node(&mut cluster).await?;
    kill_the_leader(&mut cluster).await?;
    kill_all_masters(&mut cluster).await?;
    drain(&cluster).await?;
    lose_a_node(&mut cluster).await?;
    delete(&cluster).await?;
    for (container, before) in &foreign {
        let now = cluster.docker.inspect(&container.id).await?.context("a foreign container is gone")?;
        ensure!(before.is_untouched(&now), "a foreign container was touched: {now:?}");
    }
    drop(foreign);
    cluster.finish(ALLOWED).await
}

/// One without our labels, one of another cluster, and one of another node of this cluster.
async fn foreign_containers(cluster: &Deployment) -> Result<Vec<(skein_tests::docker::Foreign, Container)>> {
    let mut made = Vec::new();
    for (name, labels) in [
        ("plain", vec![]),
        ("other-cluster", vec![("io.skein.cluster", "0000000000001"), ("io.skein.node", "0000000000001")]),
        ("almost-ours", vec![("io.skein.service-name", SERVICE), ("io.skein.slot", "1")]),
    ] {
        let name = format!("skein-e2e-{}-{name}", cluster.cluster_id);
        let container = cluster.docker.run_foreign(&name, SAMPLE_IMAGE, &labels).await?;
        let seen = cluster.docker.inspect(&container.id).await?.context("just started")?;
        made.push((container, seen));
    }
    Ok(made)
}

async fn deploy_and_scale(cluster: &Deployment) -> Result<()> {
    let file = cluster.folder().join("compose.yaml");
    fs::write(&file, COMPOSE)?;
    let file = file.to_str().context("a path in UTF-8")?;
    cluster.skein(&["stack", "deploy", "-c", file, "shop"]).await?;
    let instances = cluster.ready(SERVICE, 3, LIMIT).await?;
    let nodes: BTreeSet<_> = instances.iter().map(|instance| &instance.node_name).collect();
    ensure!(nodes.len() == 3, "spread over the nodes: {nodes:?}");
    everybody_answers(&instances).await?;

    let before = cluster.containers().await?;
    cluster.skein(&["service", "scale", &format!("{SERVICE}=5")]).await?;
    everybody_answers(&cluster.ready(SERVICE, 5, LIMIT).await?).await?;
    cluster.check_untouched(&before).await?;
    let listed: serde_json::Value =
        serde_json::from_str(&cluster.skein(&["service", "ps", SERVICE, "-o", "json"]).await?)?;
    ensure!(listed.as_array().is_some_and(|all| all.len() == 5), "{listed}");
    let shown = cluster.skein(&["service", "ls"]).await?;
    ensure!(shown.contains(SERVICE), "{shown}");
    read_logs(cluster, instances.first().context("an instance")?).await
}

/// What a container writes can be read from anywhere.
async fn read_logs(cluster: &Deployment, instance: &Instance) -> Result<()> {
    let endpoint = instance.endpoints.first().context("an endpoint")?;
    http::get(&format!("{}:{}", endpoint.address, endpoint.port), "/log?line=a-goose-was-here").await?;
    wait::until("the line is in the logs", LIMIT, async || {
        let lines = cluster.skein(&["logs", SERVICE]).await.map_err(|error| format!("{error:#}"))?;
        wait::expect(lines.contains("a-goose-was-here"), || lines)
    })
    .await
}

/// Each through its own endpoint, each another container.
async fn everybody_answers(instances: &[Instance]) -> Result<()> {
    let mut hosts = BTreeSet::new();
    for instance in instances {
        let endpoint = instance.endpoints.first().context("an endpoint")?;
        let address = format!("{}:{}", endpoint.address, endpoint.port);
        let answer = wait::until(&format!("{} answers", instance.name), LIMIT, async || {
            http::get(&address, "/").await.map_err(|error| format!("{error:#}"))
        })
        .await?;
        let answer: serde_json::Value = serde_json::from_str(&answer)?;
        ensure!(answer["name"] == "web", "{answer}");
        hosts.insert(answer["hostname"].to_string());
    }
    ensure!(hosts.len() == instances.len(), "{} endpoints, {hosts:?}", instances.len());
    Ok(())
}

/// The container of this instance, by what Docker says.
async fn container_of(cluster: &Deployment, instance: &Instance) -> Result<Container> {
    let observed = instance.observed.as_ref().context("observed")?;
    cluster.docker.inspect(&observed.container_id).await?.context("its container exists")
}

/// Waits until the instance has a later attempt that is ready, in place.
async fn restarted(cluster: &Deployment, before: &Instance) -> Result<()> {
    let attempt = before.observed.as_ref().map_or(0, |observed| observed.attempt);
    wait::until(&format!("{} is restarted", before.name), LIMIT, async || {
        let instances = cluster.client.instances(SERVICE).await.map_err(|status| status.to_string())?;
        let now = instances.iter().find(|instance| instance.id == before.id).ok_or("replaced")?;
        let later = now.observed.as_ref().is_some_and(|observed| observed.attempt > attempt);
        wait::expect(later && is_ready(now), || show_instances(&instances))
    })
    .await
}

async fn kill_a_container(cluster: &Deployment) -> Result<()> {
    let instances = cluster.ready(SERVICE, 5, LIMIT).await?;
    let victim = instances.first().context("an instance")?;
    let container = container_of(cluster, victim).await?;
    let mut others = cluster.containers().await?;
    others.retain(|other| other.id != container.id);
    cluster.docker.kill(&container.id).await?;
    restarted(cluster, victim).await?;
    everybody_answers(&cluster.ready(SERVICE, 5, LIMIT).await?).await?;
    cluster.check_untouched(&others).await
}

async fn kill_an_agent(cluster: &mut Deployment) -> Result<()> {
    let before = cluster.containers().await?;
    let ids = |instances: &[Instance]| -> BTreeSet<String> {
        instances
            .iter()
            .filter_map(|instance| Some(instance.observed.as_ref()?.container_id.clone()))
            .collect()
    };
    let instances = cluster.ready(SERVICE, 5, LIMIT).await?;
    cluster.agents[0].kill()?;
    cluster.check_untouched(&before).await?;
    cluster.agents[0].start()?;
    cluster.all_nodes_ready().await?;
    // Only an agent that has adopted its containers restarts one of them.
    let victim = instances.iter().find(|instance| instance.node_name == "n1").context("one on n1")?;
    let container = container_of(cluster, victim).await?;
    let kept: Vec<_> = before.into_iter().filter(|other| other.id != container.id).collect();
    let adopted = cluster.ready(SERVICE, 5, LIMIT).await?;
    ensure!(ids(&adopted) == ids(&instances), "adopted under the same container ids");
    cluster.docker.kill(&container.id).await?;
    restarted(cluster, victim).await?;
    cluster.check_untouched(&kept).await
}

/// What a reboot leaves of a node: no process, containers that have ended, the folders.
async fn reboot_a_node(cluster: &mut Deployment) -> Result<()> {
    let instances = cluster.ready(SERVICE, 5, LIMIT).await?;
    let (theirs, others): (Vec<_>, Vec<_>) = cluster
        .containers()
        .await?
        .into_iter()
        .partition(|container| container.label("io.skein.node") == node_of(&instances, "n2"));
    ensure!(!theirs.is_empty(), "n2 holds something");
    cluster.agents[1].kill()?;
    for container in &theirs {
        cluster.docker.kill(&container.id).await?;
    }
    cluster.agents[1].start()?;
    cluster.all_nodes_ready().await?;
    for instance in instances.iter().filter(|instance| instance.node_name == "n2") {
        restarted(cluster, instance).await?;
    }
    let again = cluster.ready(SERVICE, 5, LIMIT).await?;
    let ids = |all: &[Instance]| all.iter().map(|instance| instance.id.clone()).collect::<BTreeSet<_>>();
    ensure!(ids(&again) == ids(&instances), "in their places: {}", show_instances(&again));
    everybody_answers(&again).await?;
    cluster.check_untouched(&others).await
}

fn node_of<'a>(instances: &'a [Instance], name: &str) -> &'a str {
    instances.iter().find(|instance| instance.node_name == name).map_or("", |instance| &instance.node_id)
}

async fn kill_the_leader(cluster: &mut Deployment) -> Result<()> {
    let before = cluster.containers().await?;
    let leader = cluster.leader().await?;
    cluster.masters[leader].process.kill()?;
    cluster.skein(&["service", "scale", &format!("{SERVICE}=6")]).await?;
    cluster.ready(SERVICE, 6, LIMIT).await?;
    cluster.check_untouched(&before).await?;
    cluster.masters[leader].process.start()?;
    caught_up(cluster, leader).await
}

async fn caught_up(cluster: &mut Deployment, master: usize) -> Result<()> {
    let leader = cluster.leader().await?;
    let wanted = cluster.client.status(leader).await?.applied_index;
    wait::until("the master has caught up", LIMIT, async || {
        let status = cluster.client.status(master).await.map_err(|status| status.to_string())?;
        wait::expect(status.applied_index >= wanted, || format!("{} of {wanted}", status.applied_index))
    })
    .await
}

async fn kill_all_masters(cluster: &mut Deployment) -> Result<()> {
    let instances = cluster.ready(SERVICE, 6, LIMIT).await?;
    let before = cluster.containers().await?;
    let spec = cluster.client.service(SERVICE).await?;
    for master in &mut cluster.masters {
        master.process.kill()?;
    }
    cluster.check_untouched(&before).await?;
    // Nobody is there to decide, and still a container that dies is restarted.
    let victim = instances.first().context("an instance")?;
    let container = container_of(cluster, victim).await?;
    cluster.docker.kill(&container.id).await?;
    wait::until("the agent restarts it alone", LIMIT, async || {
        let now = cluster.containers().await.map_err(|error| error.to_string())?;
        let again = now.iter().any(|other| {
            other.label("io.skein.instance") == victim.id && other.id != container.id
                || other.id == container.id && other.started_at != container.started_at
        });
        wait::expect(again && now.len() == 6, || format!("{now:?}"))
    })
    .await?;
    let kept: Vec<_> = before.into_iter().filter(|other| other.id != container.id).collect();
    for master in cluster.masters.iter_mut().rev() {
        master.process.start()?;
    }
    cluster.leader().await?;
    cluster.all_nodes_ready().await?;
    let again = cluster.client.service(SERVICE).await?;
    ensure!((&again.id, &again.etag) == (&spec.id, &spec.etag), "{again:?} was {spec:?}");
    restarted(cluster, victim).await?;
    cluster.ready(SERVICE, 6, LIMIT).await?;
    cluster.check_untouched(&kept).await
}

async fn drain(cluster: &Deployment) -> Result<()> {
    cluster.skein(&["node", "drain", "n2"]).await?;
    let elsewhere = async || {
        let instances = cluster.client.instances(SERVICE).await.map_err(|status| status.to_string())?;
        let ready: Vec<_> = instances.iter().filter(|instance| is_ready(instance)).collect();
        let there = ready.iter().filter(|instance| instance.node_name == "n2").count();
        wait::expect(there == 0 && ready.len() == 6, || show_instances(&instances))
    };
    wait::until("n2 has given everything away", LIMIT, elsewhere).await?;
    wait::until("n2's containers are stopped", LIMIT, async || {
        let now = cluster.containers().await.map_err(|error| error.to_string())?;
        wait::expect(now.len() == 6, || format!("{} containers run", now.len()))
    })
    .await?;
    cluster.skein(&["node", "activate", "n2"]).await?;
    Ok(())
}

async fn lose_a_node(cluster: &mut Deployment) -> Result<()> {
    let instances = cluster.ready(SERVICE, 6, LIMIT).await?;
    let lost: BTreeSet<String> = instances
        .iter()
        .filter(|instance| instance.node_name == "n3")
        .map(|instance| instance.id.clone())
        .collect();
    ensure!(!lost.is_empty(), "n3 holds something");
    let before = cluster.containers().await?;
    let (theirs, others): (Vec<_>, Vec<_>) =
        before.into_iter().partition(|container| lost.contains(container.label("io.skein.instance")));
    cluster.agents[2].kill()?;
    wait::until("n3 is down", LIMIT, async || {
        let nodes = cluster.client.nodes().await.map_err(|status| status.to_string())?;
        let down = nodes.iter().filter(|node| node.liveness() == Liveness::Down).count();
        wait::expect(down == 1, || show_nodes(&nodes))
    })
    .await?;
    wait::until("its instances run elsewhere", LIMIT, async || {
        let instances = cluster.client.instances(SERVICE).await.map_err(|status| status.to_string())?;
        let elsewhere =
            instances.iter().filter(|instance| is_ready(instance) && !lost.contains(&instance.id)).count();
        wait::expect(elsewhere == 6, || show_instances(&instances))
    })
    .await?;
    // Nobody may remove what is on a node that cannot be asked, least of all its neighbours.
    cluster.check_untouched(&theirs).await?;
    cluster.agents[2].start()?;
    cluster.all_nodes_ready().await?;
    wait::until("the superseded containers are removed", LIMIT, async || {
        let now = cluster.docker.of_cluster(&cluster.cluster_id).await.map_err(|error| error.to_string())?;
        let left = theirs.iter().filter(|container| now.iter().any(|other| other.id == container.id)).count();
        wait::expect(left == 0, || format!("{left} are left"))
    })
    .await?;
    cluster.ready(SERVICE, 6, LIMIT).await?;
    cluster.check_untouched(&others).await
}

async fn delete(cluster: &Deployment) -> Result<()> {
    cluster.skein(&["service", "rm", SERVICE]).await?;
    cluster.no_containers(LIMIT).await?;
    wait::until("the service is forgotten", LIMIT, async || match cluster.client.service(SERVICE).await {
        Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
}
