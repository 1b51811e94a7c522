//! Services find each other by name, on real Docker: from within containers, through the name server and the virtual
//! addresses of their nodes.
//!
//! Deliberately not here: what a name means (`agent/core`), packets (`agent`).

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{collections::BTreeSet, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use skein_tests::{
    deployment::{Deployment, Flags},
    wait,
};

const LIMIT: Duration = Duration::from_secs(40);
/// How soon every node knows what masters know.
const SOON: Duration = Duration::from_secs(2);
/// What masters say of each other while they are stopped one by one.
const ENDING: &[&str] = &["master unreachable", "leadership was not handed on"];

/// A container of this service runs the sample as a client: whether it succeeded, and what it printed.
async fn run(cluster: &Deployment, service: &str, words: &[&str]) -> Result<(bool, String)> {
    let all = cluster.containers().await?;
    let container = all.iter().find(|one| one.label("io.skein.service-name") == service);
    let id = &container.with_context(|| format!("a container of {service}"))?.id;
    let arguments = [&["exec", id, "/skein-sample"], words].concat();
    let output = Command::new("docker").args(arguments).output()?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((output.status.success(), printed + &String::from_utf8_lossy(&output.stderr)))
}

async fn resolve(cluster: &Deployment, name: &str) -> Result<String> {
    Ok(run(cluster, "names_asker", &["resolve", name]).await?.1.trim().to_owned())
}

/// Who answers, of so many requests; all have to succeed.
async fn answered(cluster: &Deployment, url: &str, count: usize) -> Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    for _ in 0..count {
        let (is_well, printed) = run(cluster, "names_asker", &["get", url]).await?;
        ensure!(is_well, "{url}: {printed}");
        let who: serde_json::Value = serde_json::from_str(&printed).context(printed)?;
        seen.insert(who["hostname"].to_string());
    }
    Ok(seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_talk_by_name_while_they_come_go_and_nobody_governs() -> Result<()> {
    let mut cluster = Deployment::start(3, 2, &Flags { names: true, ..Flags::default() }).await?;
    let file = cluster.example("names.yaml", "v1")?;
    cluster.skein(&["stack", "deploy", "-c", &file, "names"]).await?;
    cluster.ready("names_asker", 2, LIMIT).await?;
    cluster.ready("names_web", 2, LIMIT).await?;
    let address = cluster.client.service("names_web").await?.virtual_address;
    ensure!(address.starts_with("10.254."), "{address:?}");
    let shown = cluster.skein(&["service", "inspect", "names_web"]).await?;
    ensure!(shown.contains(&address), "{shown}");
    for name in ["web", "WEB", "web.names", "names_web"] {
        let told = resolve(&cluster, name).await?;
        ensure!(told.contains(&address), "{name}: {told}, not {address}");
    }
    wait::until("both instances answer by name", LIMIT, async || {
        let seen = answered(&cluster, "http://web:8080/", 6).await.map_err(|error| format!("{error:#}"))?;
        wait::expect(seen.len() == 2, || format!("{seen:?}"))
    })
    .await?;
    let (is_well, ports) = run(&cluster, "names_asker", &["resolve", "web", "srv"]).await?;
    ensure!(is_well && ports.contains("8080"), "{ports}");
    let (is_well, tasks) = run(&cluster, "names_asker", &["resolve", "tasks.web", "srv"]).await?;
    ensure!(is_well && tasks.matches("tasks.web").count() >= 2, "{tasks}");

    cluster.skein(&["service", "scale", "names_web=3"]).await?;
    cluster.ready("names_web", 3, LIMIT).await?;
    wait::until("the third answers too", SOON, async || {
        let seen = answered(&cluster, "http://web:8080/", 6).await.map_err(|error| format!("{error:#}"))?;
        wait::expect(seen.len() == 3, || format!("{seen:?}"))
    })
    .await?;
    ensure!(resolve(&cluster, "web").await?.contains(&address), "the address stays");

    for master in &mut cluster.masters {
        master.process.kill()?;
    }
    answered(&cluster, "http://web:8080/", 6).await?;
    ensure!(resolve(&cluster, "nobody").await?.contains("NXDOMAIN"), "also without masters");
    for master in &mut cluster.masters {
        master.process.start()?;
    }
    cluster.all_nodes_ready().await?;

    cluster.skein(&["service", "rm", "names_web"]).await?;
    wait::until("the name is gone at once", SOON, async || {
        let told = resolve(&cluster, "web").await.map_err(|error| format!("{error:#}"))?;
        wait::expect(told.contains("NXDOMAIN"), || told.clone())
    })
    .await?;
    // Whoever has the address can listen on it.
    wait::until("the address is gone from this machine", SOON, async || {
        let listened = std::net::TcpListener::bind((address.as_str(), 0));
        wait::expect(listened.is_err(), || format!("{address} is still there"))
    })
    .await?;
    cluster.skein(&["stack", "rm", "names"]).await?;
    cluster.no_containers(LIMIT).await?;
    cluster.finish(ENDING).await
}
