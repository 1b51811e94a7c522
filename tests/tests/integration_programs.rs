//! How the programs refuse: wrong flags, unsafe addresses, corrupt data.
//!
//! Invariant tested: a refusal has its exit code, names the culprit and what to do, and happens
//! before anything is served. Deliberately not here: clusters of several (`e2e_cluster`).

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use skein_tests::{
    client::Client,
    ports::Port,
    process::{self, Process},
    spec::service,
    wait,
};

const LIMIT: Duration = Duration::from_secs(20);
const WRONG_USAGE: i32 = 64;
const STORAGE_FAILED: i32 = 74;

type Words<'a> = &'a [&'a str];
type Refusal<'a> = (&'a str, Words<'a>, Words<'a>, Words<'a>);

#[tokio::test]
async fn wrong_flags_are_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let data = data.to_str().context("a path in UTF-8")?;
    let master = ["run", "--name", "m1", "--data-dir", data];
    let agent = ["run", "--name", "n1", "--data-dir", data];
    // Program, arguments, more arguments, what the refusal must name.
    let cases: [Refusal; 7] = [
        ("skein-master", &master, &["--frobnicate"], &["--frobnicate"]),
        ("skein-master", &master, &["--api-address", "nowhere"], &["api-address", "nowhere"]),
        ("skein-master", &master, &["--api-address", "0.0.0.0:0"], &["--insecure"]),
        ("skein-master", &master, &["--cluster-address", "0.0.0.0:0"], &["--insecure"]),
        ("skein-agent", &agent, &["--frobnicate"], &["--frobnicate"]),
        ("skein-agent", &agent, &["--masters", "127.0.0.1:1", "--label", "=x"], &["label"]),
        ("skein", &[], &["service", "scale", "web=many"], &["many"]),
    ];
    for (program, first, more, named) in cases {
        let arguments: Vec<_> = first.iter().chain(more).copied().collect();
        let output = process::run(program, &arguments, &[], folder.path()).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(WRONG_USAGE), "{program} {more:?}: {} {said}", output.status);
        for name in named {
            ensure!(said.contains(name), "{program} {more:?} does not name {name}: {said}");
        }
    }
    Ok(())
}

/// A master alone: enough to have a log.
fn lone(folder: &Path, api: &Port, cluster: &Port) -> Result<Process> {
    let data = folder.join("m1");
    let arguments = [
        "run",
        "--name",
        "m1",
        "--data-dir",
        data.to_str().context("a path in UTF-8")?,
        "--api-address",
        &api.address(),
        "--cluster-address",
        &cluster.address(),
        "--initial-masters",
        &format!("m1={cluster}"),
    ];
    Process::new("m1", "skein-master", arguments.iter().map(ToString::to_string).collect(), folder)
}

#[tokio::test]
async fn a_corrupt_log_is_refused_by_name() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (api, cluster) = (Port::reserve()?, Port::reserve()?);
    let mut master = lone(folder.path(), &api, &cluster)?;
    master.start()?;
    let client = Client::new([api.address()]);
    for number in 0..20 {
        client.apply(service(&format!("s{number}")).replicas(0)).await?;
    }
    master.kill()?;

    // Killed anywhere, it starts again with everything.
    master.start()?;
    client.service("s19").await?;
    master.kill()?;

    let file = largest_file(&folder.path().join("m1").join("log"))?;
    let mut bytes = fs::read(&file)?;
    let middle = bytes.iter().rposition(|byte| *byte != 0).context("an empty log")? / 2;
    bytes[middle] ^= 0xff;
    fs::write(&file, bytes)?;
    master.start()?;
    let status = master.ended().await?;
    let said = master.tail();
    ensure!(status.code() == Some(STORAGE_FAILED), "{status}: {said}");
    let name = file.file_name().and_then(|name| name.to_str()).context("a file name")?;
    ensure!(said.contains(name), "does not name {name}: {said}");
    Ok(())
}

fn largest_file(folder: &Path) -> Result<PathBuf> {
    let mut files: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        files.push((entry.metadata()?.len(), entry.path()));
    }
    files.into_iter().max().map(|(_, path)| path).context("no log files")
}

#[tokio::test]
async fn a_master_asked_to_end_ends_well() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (api, cluster) = (Port::reserve()?, Port::reserve()?);
    let mut master = lone(folder.path(), &api, &cluster)?;
    master.start()?;
    let client = Client::new([api.address()]);
    wait::until("it leads", LIMIT, async || {
        let status = client.status(0).await.map_err(|status| status.to_string())?;
        wait::expect(status.leader == "m1", || format!("{status:?}"))
    })
    .await?;
    let status = master.end().await?;
    ensure!(status.success(), "{status}: {}", master.tail());
    ensure!(master.complaints(&[]).is_empty(), "{:?}", master.complaints(&[]));
    Ok(())
}
