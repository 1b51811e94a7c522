//! Commands in instances, through any master: output, stdin, sizes, ends, and what stops them.
//!
//! Invariant tested: a call ends in bounded time with its exit code or with a reason; whoever goes
//! away takes the command along; nobody's slowness grows anything. Deliberately not here: real
//! containers (`agent/tests/docker/exec.rs`), terminals (`e2e_exec`).

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use skein_proto::v1::{
    self, exec_request::Message as Wish, exec_response::Message as Said,
    instance_service_client::InstanceServiceClient,
};
use skein_tests::{client::reason, cluster::Cluster, spec::service, wait};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

const LIMIT: Duration = Duration::from_secs(20);

struct Call {
    requests: mpsc::Sender<v1::ExecRequest>,
    answers: Streaming<v1::ExecResponse>,
}

async fn call(cluster: &Cluster, master: usize, target: &str, command: &[&str]) -> Result<Call, Status> {
    start(cluster.client.instances_of(master), target, command).await
}

/// Over a connection of its own: what is not read stays in the connection's window.
async fn call_apart(cluster: &Cluster, master: usize, command: &[&str]) -> Result<Call> {
    Ok(start(cluster.client_of(master).instances_of(0), "web", command).await?)
}

async fn start(
    mut client: InstanceServiceClient<Channel>,
    target: &str,
    command: &[&str],
) -> Result<Call, Status> {
    let (requests, stream) = mpsc::channel(4);
    let start = v1::ExecStart {
        target: target.to_owned(),
        command: command.iter().map(ToString::to_string).collect(),
        stdin: true,
        tty: true,
        size: Some(v1::TerminalSize { columns: 80, rows: 24 }),
        ..Default::default()
    };
    requests.try_send(v1::ExecRequest { message: Some(Wish::Start(start)) }).expect("room");
    let mut answers = client.exec(ReceiverStream::new(stream)).await?.into_inner();
    let first = answers.message().await?.and_then(|answer| answer.message);
    assert!(matches!(first, Some(Said::Started(_))), "{first:?}");
    Ok(Call { requests, answers })
}

impl Call {
    async fn say(&self, wish: Wish) -> Result<()> {
        let sent = self.requests.send(v1::ExecRequest { message: Some(wish) });
        tokio::time::timeout(LIMIT, sent).await?.ok().context("the call has ended")
    }

    async fn next(&mut self) -> Result<Option<Said>, Status> {
        let next = tokio::time::timeout(LIMIT, self.answers.message()).await;
        let next = next.map_err(|_| Status::deadline_exceeded("the test's limit"))?;
        Ok(next?.and_then(|answer| answer.message))
    }

    /// What it writes, and its exit code.
    async fn end(&mut self) -> Result<(Vec<u8>, i32), Status> {
        let mut out = Vec::new();
        loop {
            match self.next().await? {
                Some(Said::Stdout(bytes)) => out.extend_from_slice(&bytes),
                Some(Said::Exit(exit)) => return Ok((out, exit.code)),
                Some(Said::StdinTaken(_)) => {}
                other => return Err(Status::internal(format!("{other:?}"))),
            }
        }
    }
}

async fn commands_running(cluster: &Cluster, count: usize) -> Result<()> {
    wait::until("commands", LIMIT, async || {
        let running = cluster.engine("n1").map_err(|error| error.to_string())?.commands();
        wait::expect(running == count, || running.to_string())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_through_every_master() -> Result<()> {
    let cluster = Cluster::start(3, 1).await?;
    cluster.client.apply(service("web").replicas(2)).await?;
    let instances = cluster.ready("web", 2).await?;
    for master in 0..3 {
        for target in ["web", "web.2", instances[0].id.as_str()] {
            let (out, code) = call(&cluster, master, target, &["echo", "a", "b"]).await?.end().await?;
            ensure!((out.as_slice(), code) == (b"a b\n".as_slice(), 0), "{master} {target}: {out:?} {code}");
        }
    }
    let master = cluster.follower().await?;
    ensure!(call(&cluster, master, "web", &["false"]).await?.end().await?.1 == 1);

    let mut sizes = call(&cluster, master, "web", &["size"]).await?;
    for size in ["80x24", "132x50"] {
        loop {
            let Some(Said::Stdout(line)) = sizes.next().await? else { anyhow::bail!("no line") };
            if line.trim_ascii() == size.as_bytes() {
                break;
            }
        }
        sizes.say(Wish::Resize(v1::TerminalSize { columns: 132, rows: 50 })).await?;
    }
    drop(sizes);
    commands_running(&cluster, 0).await?;

    for (target, command, code, why) in [
        ("nobody", "echo", Code::NotFound, "NOT_FOUND"),
        ("web.7", "echo", Code::NotFound, "NOT_FOUND"),
        ("web", "", Code::InvalidArgument, "INVALID_FIELDS"),
    ] {
        let refused = call(&cluster, master, target, &[command]).await.err().context("refused")?;
        ensure!((refused.code(), reason(&refused).as_deref()) == (code, Some(why)), "{target}: {refused:?}");
    }
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_goes_through_and_a_slow_reader_holds_up_only_its_command() -> Result<()> {
    let cluster = Cluster::start(3, 1).await?;
    cluster.client.apply(service("web")).await?;
    cluster.ready("web", 1).await?;
    let master = cluster.follower().await?;

    // Nobody reads what these write; and these read nothing of what is sent.
    let mut slow = Vec::new();
    for _ in 0..8 {
        slow.push(call_apart(&cluster, master, &["yes"]).await?);
    }
    let deaf = call_apart(&cluster, master, &["hang"]).await?;
    deaf.say(Wish::Stdin(vec![7; skein_proto::STDIN_WINDOW].into())).await?;
    let flooding = call_apart(&cluster, master, &["hang"]).await?;
    let piece = vec![7u8; 64 * 1024];
    let mut sent = 0;
    while let Ok(Ok(())) = tokio::time::timeout(
        Duration::from_millis(500),
        flooding.requests.send(v1::ExecRequest { message: Some(Wish::Stdin(piece.clone().into())) }),
    )
    .await
    {
        sent += piece.len();
        ensure!(sent < 64 << 20, "nothing holds up a caller whose command does not read");
    }

    // Beside them 10 MB go in and come out again, and the cluster's own life goes on.
    let mut cat = call(&cluster, master, "web", &["cat"]).await?;
    let requests = cat.requests.clone();
    let all: Vec<u8> = (0..10_000_000u32).map(|number| (number % 251) as u8).collect();
    let feed = all.clone();
    let feeder = tokio::spawn(async move {
        for piece in feed.chunks(50_000) {
            let message = Some(Wish::Stdin(piece.to_vec().into()));
            if requests.send(v1::ExecRequest { message }).await.is_err() {
                return;
            }
        }
        let _ = requests.send(v1::ExecRequest { message: Some(Wish::StdinEnd(v1::StdinEnd {})) }).await;
    });
    // A terminal answers its end with the byte for it, which the fake's `cat` shows.
    let mut seen = Vec::new();
    while seen.len() < all.len() {
        match cat.next().await? {
            Some(Said::Stdout(bytes)) => seen.extend_from_slice(&bytes),
            Some(Said::StdinTaken(_)) => {}
            other => anyhow::bail!("ended early: {other:?}"),
        }
    }
    feeder.await?;
    ensure!(seen[..all.len()] == all, "what went in came out otherwise");
    drop(cat);
    cluster.client.scale("web", 2).await?;
    cluster.ready("web", 2).await?;
    ensure!(cluster.client.nodes().await?.iter().all(|node| node.liveness() == v1::Liveness::Ready));
    ensure!(cluster.engine("n1")?.commands() == 10, "{}", cluster.engine("n1")?.commands());

    // Whoever gives up takes the command along, also one that never read.
    drop((slow, deaf));
    commands_running(&cluster, 1).await?;
    drop(flooding);
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_end_is_told() -> Result<()> {
    let mut cluster = Cluster::start(3, 2).await?;
    cluster.client.apply(service("web").replicas(2)).await?;
    let instances = cluster.ready("web", 2).await?;
    let on_first = instances.iter().find(|one| one.node_name == "n1").context("one on n1")?;
    let on_second = instances.iter().find(|one| one.node_name == "n2").context("one on n2")?;

    // Its container is killed.
    let master = cluster.follower().await?;
    let mut killed = call(&cluster, master, &on_first.name, &["hang"]).await?;
    cluster.end_container(on_first, 137).await?;
    ensure!(killed.end().await?.1 == 137);

    // Its agent goes.
    let mut orphan = call(&cluster, master, &on_second.id, &["hang"]).await?;
    cluster.stop_agent("n2").await?;
    let lost = orphan.end().await.expect_err("an error");
    ensure!(reason(&lost).as_deref() == Some("EXEC_LOST"), "{lost:?}");
    let refused = call(&cluster, master, &on_second.id, &["echo"]).await.err().context("refused")?;
    ensure!(refused.code() == Code::Unavailable, "{refused:?}");
    ensure!(reason(&refused).as_deref() == Some("NODE_UNREACHABLE"), "{refused:?}");

    // The leader dies: heard through another master and of itself.
    cluster.ready("web", 2).await?;
    let leader = cluster.leader().await?;
    let mut through_follower = call(&cluster, master, "web", &["hang"]).await?;
    let mut of_leader = call(&cluster, leader, "web", &["hang"]).await?;
    cluster.kill_master(leader).await?;
    for call in [&mut through_follower, &mut of_leader] {
        let lost = call.end().await.expect_err("an error");
        ensure!(lost.code() != Code::DeadlineExceeded, "{lost:?}");
    }
    commands_running(&cluster, 0).await?;
    cluster.leader().await?;
    wait::until("a command runs again", LIMIT, async || {
        let echo = call(&cluster, master, "web", &["echo"]).await;
        let (_, code) = echo.map_err(|error| error.to_string())?.end().await.map_err(|e| e.to_string())?;
        wait::expect(code == 0, || code.to_string())
    })
    .await?;
    cluster.stop().await
}
