//! Configs and commands on real Docker: files in containers, an edit that is a rollout, restarts without
//! masters, and the user's hands on it through `skein exec`.
//!
//! Invariant tested: what a container reads is what its generation was deployed with; nothing is left on
//! the nodes at the end. Deliberately not here: terminals (`agent/tests/docker/exec.rs`).

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use skein_tests::{
    deployment::{Deployment, Flags},
    wait,
};

const LIMIT: Duration = Duration::from_secs(40);
const ALLOWED: &[&str] = &["master unreachable", "leadership was not handed on"];

/// The example, with this content of its file.
fn compose(cluster: &Deployment, content: &str) -> Result<String> {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/configs");
    let file = cluster.folder().join("compose.yaml");
    fs::copy(example.join("compose.yaml"), &file)?;
    fs::write(cluster.folder().join("app.conf"), content)?;
    Ok(file.to_str().context("a path in UTF-8")?.to_owned())
}

async fn reads(cluster: &Deployment, content: &str) -> Result<()> {
    wait::until("every instance reads it", LIMIT, async || {
        for target in ["app_web.1", "app_web.2"] {
            let cat = ["exec", target, "--", "/skein-sample", "cat", "/etc/app.conf"];
            let read = cluster.skein(&cat).await.map_err(|error| format!("{error:#}"))?;
            wait::expect(read == content, || format!("{target} reads {read:?}"))?;
        }
        Ok(())
    })
    .await
}

/// Files of configs on all nodes.
fn kept(cluster: &Deployment) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![cluster.folder().to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.components().any(|part| part.as_os_str() == "configs") {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_config_is_a_rollout_and_restarts_need_no_master() -> Result<()> {
    let mut cluster = Deployment::start(3, 2, &Flags::default()).await?;
    let file = compose(&cluster, "colour = blue\n")?;
    let plan = cluster.skein(&["stack", "deploy", "-c", &file, "--dry-run", "app"]).await?;
    ensure!(plan.contains("config app_app-") && plan.contains("app_web would be created"), "{plan}");
    cluster.skein(&["stack", "deploy", "-c", &file, "app"]).await?;
    reads(&cluster, "colour = blue\n").await?;
    let motto = cluster.skein(&["exec", "app_web", "--", "/skein-sample", "cat", "/motto"]).await?;
    ensure!(motto == "runs anywhere\n", "{motto}");
    let before = cluster.containers().await?;
    cluster.skein(&["stack", "deploy", "-c", &file, "app"]).await?;
    cluster.check_untouched(&before).await?;

    compose(&cluster, "colour = red\n")?;
    cluster.skein(&["stack", "deploy", "-c", &file, "app"]).await?;
    reads(&cluster, "colour = red\n").await?;
    let listed = cluster.skein(&["config", "ls", "-o", "name"]).await?;
    ensure!(listed.lines().count() == 3, "both versions are kept to go back to: {listed}");
    for config in listed.lines() {
        let refused = cluster.skein(&["config", "rm", config]).await.err().context("it is in use")?;
        ensure!(format!("{refused:#}").contains("is used by service app_web"), "{refused:#}");
    }
    cluster.skein(&["service", "rollback", "app_web"]).await?;
    reads(&cluster, "colour = blue\n").await?;

    // What a command ends with, says and is told.
    let failed = cluster.skein(&["exec", "app_web", "--", "/skein-sample", "exit", "9"]).await;
    ensure!(
        format!("{:#}", failed.err().context("exit code 9")?).contains("exit status: 9"),
        "its exit code"
    );
    let uid = cluster.skein(&["exec", "-u", "7", "app_web.2", "/skein-sample", "show", "uid"]).await?;
    ensure!(uid == "7\n", "{uid}");

    // Without any master a killed container comes back with its files.
    for master in &mut cluster.masters {
        master.process.kill()?;
    }
    let before = cluster.containers().await?;
    let victim = before.first().context("a container")?;
    cluster.docker.kill(&victim.id).await?;
    wait::until("another container runs in its place", LIMIT, async || {
        let now = cluster.containers().await.map_err(|error| format!("{error:#}"))?;
        let is_new = now.len() == 2 && now.iter().all(|container| container.id != victim.id);
        wait::expect(is_new, || format!("{now:?}"))
    })
    .await?;
    for master in &mut cluster.masters {
        master.process.start()?;
    }
    cluster.leader().await?;
    reads(&cluster, "colour = blue\n").await?;

    cluster.skein(&["stack", "rm", "app"]).await?;
    let left = cluster.skein(&["config", "ls", "-o", "name"]).await?;
    ensure!(left.is_empty(), "{left}");
    wait::until("no file is left", LIMIT, async || {
        let left = kept(&cluster);
        wait::expect(left.is_empty(), || format!("{left:?}"))
    })
    .await?;
    cluster.finish(ALLOWED).await
}
