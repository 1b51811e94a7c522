//! The Docker runtime against a daemon that hangs, fails, lies or goes away.
//!
//! The daemon is a script behind a unix socket: for each request a test says what comes back.
//! Deliberately not here: a real Docker (`docker/`); no test of this file needs one.

#![allow(clippy::expect_used)] // the allowance for tests does not reach their helper functions

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use skein_agent::runtime::{
    ContainerConfig, ContainerRuntime, Identity, LogQuery, Owner, RuntimeError, RuntimeEvent,
    docker::{DockerRuntime, Limits},
};
use skein_common::{
    ClusterId, InstanceId, NodeId, ServiceId,
    service::{ContainerSpec, Generation, ResourceRequirements},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
    time::{Instant, timeout},
};

const ID: &str = "6770164fe1d849719d72ce742727a8eba672f75ab49336f907e764233707bdb8";
/// Nothing here takes long; a test that does has hung.
const PATIENCE: Duration = Duration::from_secs(20);
const LIMITS: Limits = Limits {
    read: Duration::from_millis(300),
    change: Duration::from_millis(300),
    start: Duration::from_millis(300),
    pull_idle: Duration::from_millis(300),
    ping_every: Duration::from_millis(50),
    reconnect: Duration::from_millis(50),
};

/// What comes back for one request.
#[derive(Clone)]
enum Answer {
    Json(u16, String),
    /// These bytes, a pause before each; then the connection is closed.
    Stream(Vec<(Duration, Vec<u8>)>),
    /// Headers and these bytes, and nothing more.
    Stall(Vec<u8>),
    Hang,
    Close,
    Bytes(&'static [u8]),
}

type Script = Arc<dyn Fn(&str) -> Answer + Send + Sync>;

struct Daemon {
    folder: TempDir,
    /// `GET /v1.41/…` of every request.
    asked: Arc<Mutex<Vec<String>>>,
    server: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Not there yet.
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), asked: Arc::default(), server: None }
    }

    fn with(script: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let mut daemon = Self::new();
        daemon.start(script);
        daemon
    }

    fn start(&mut self, script: impl Fn(&str) -> Answer + Send + Sync + 'static) {
        let listener = UnixListener::bind(self.folder.path().join("docker.sock")).expect("a socket");
        let (script, asked): (Script, _) = (Arc::new(script), self.asked.clone());
        self.server = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, script.clone(), asked.clone()));
            }
        }));
    }

    /// Every connection breaks, and nobody listens.
    async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _cancelled = server.await;
        }
    }

    /// Not even the socket is left.
    async fn kill(&mut self) {
        self.stop().await;
        std::fs::remove_file(self.folder.path().join("docker.sock")).expect("removed");
    }

    fn runtime(&self) -> DockerRuntime {
        let host = format!("unix://{}/docker.sock", self.folder.path().display());
        DockerRuntime::with_limits(&host, LIMITS).expect("a host")
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

async fn serve(mut stream: UnixStream, script: Script, asked: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(length) => head.extend_from_slice(&chunk[..length]),
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let request = head.rsplit_once(" HTTP/1.1").map_or("", |(line, _)| line).to_owned();
    asked.lock().expect("not poisoned").push(request.clone());
    // Clients that have gone away do not matter here.
    let _gone = answer(&mut stream, script(&request)).await;
}

async fn answer(stream: &mut UnixStream, answer: Answer) -> std::io::Result<()> {
    const OPEN: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    match answer {
        Answer::Json(status, body) => {
            let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(body.as_bytes()).await
        }
        Answer::Stream(parts) => {
            stream.write_all(OPEN).await?;
            for (pause, part) in parts {
                tokio::time::sleep(pause).await; // polls: nothing, it is the daemon that is slow
                chunk(stream, &part).await?;
            }
            stream.write_all(b"0\r\n\r\n").await
        }
        Answer::Stall(part) => {
            stream.write_all(OPEN).await?;
            chunk(stream, &part).await?;
            std::future::pending().await
        }
        Answer::Hang => std::future::pending().await,
        Answer::Close => Ok(()),
        Answer::Bytes(bytes) => stream.write_all(bytes).await,
    }
}

async fn chunk(stream: &mut UnixStream, part: &[u8]) -> std::io::Result<()> {
    if part.is_empty() {
        return Ok(());
    }
    stream.write_all(format!("{:x}\r\n", part.len()).as_bytes()).await?;
    stream.write_all(part).await?;
    stream.write_all(b"\r\n").await
}

fn json(body: &str) -> Answer {
    Answer::Json(200, body.to_owned())
}

fn failure(status: u16, message: &str) -> Answer {
    Answer::Json(status, format!("{{\"message\":{message:?}}}"))
}

/// A daemon that agrees on a version and does `rest` with everything else.
fn healthy_but(rest: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Daemon {
    Daemon::with(move |request| match request {
        "GET /version" => json(r#"{"Version":"20.10.24","ApiVersion":"1.41"}"#),
        other => rest(other),
    })
}

fn owner() -> Owner {
    Owner { cluster: ClusterId::from_random(1), node: NodeId::from_random(2) }
}

fn config() -> ContainerConfig {
    ContainerConfig {
        identity: Identity {
            instance: InstanceId::from_random(3),
            attempt: 1,
            service: ServiceId::from_random(4),
            service_name: "web".to_owned(),
            slot: 1,
            generation: Generation(1),
        },
        container: ContainerSpec { stop_grace: Duration::from_secs(10), ..ContainerSpec::new("web:1") },
        resources: ResourceRequirements::default(),
        ports: Vec::new(),
        devices: Vec::new(),
        files: Vec::new(),
    }
}

/// The error of every call there is.
async fn every_error(runtime: &DockerRuntime) -> Vec<(&'static str, RuntimeError)> {
    let mut logs = runtime.logs(ID, LogQuery::default());
    vec![
        ("version", runtime.version().await.expect_err("no version")),
        ("list", runtime.list(owner(), None).await.expect_err("no list")),
        ("inspect", runtime.inspect(owner(), ID).await.expect_err("no container")),
        ("has_image", runtime.has_image("web:1").await.expect_err("no image")),
        ("pull", runtime.pull("web:1").await.expect_err("no pull")),
        ("create", runtime.create(owner(), &config()).await.expect_err("not created")),
        ("start", runtime.start(ID).await.expect_err("not started")),
        ("stop", runtime.stop(ID, Duration::ZERO).await.expect_err("not stopped")),
        ("remove", runtime.remove(ID).await.expect_err("not removed")),
        ("sample", runtime.sample(ID).await.expect_err("no sample")),
        ("logs", logs.next().await.expect("a line").expect_err("no logs")),
    ]
}

async fn all_are_unavailable(daemon: &Daemon, why: &str) {
    let errors = timeout(PATIENCE, every_error(&daemon.runtime())).await.expect("every call ends");
    for (call, error) in errors {
        assert!(matches!(error, RuntimeError::Unavailable(_)), "{why}: {call}: {error:?}");
    }
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_unavailable() {
    let mut daemon = Daemon::new();
    all_are_unavailable(&daemon, "no socket").await;

    // A socket whose daemon died.
    daemon.start(|_| Answer::Close);
    daemon.stop().await;
    all_are_unavailable(&daemon, "nobody listens").await;
    let error = daemon.runtime().version().await.expect_err("nobody listens").to_string();
    assert_eq!(error, "the container engine does not answer: Connection refused (os error 111)");
}

#[tokio::test]
async fn a_daemon_that_hangs_is_unavailable_in_time() {
    all_are_unavailable(&Daemon::with(|_| Answer::Hang), "hangs from the start").await;
    let begun = Instant::now();
    let later = healthy_but(|request| match request {
        // The one call that may wait long is bounded by its progress, and says so.
        pull if pull.contains("/images/create") => failure(503, "busy"),
        _ => Answer::Hang,
    });
    all_are_unavailable(&later, "hangs later").await;
    let half = healthy_but(|request| match request {
        pull if pull.contains("/images/create") => failure(503, "busy"),
        _ => Answer::Stall(b"{".to_vec()),
    });
    let runtime = half.runtime();
    let error = timeout(PATIENCE, runtime.inspect(owner(), ID)).await.expect("it ends");
    assert!(matches!(error, Err(RuntimeError::Unavailable(_))), "half an answer: {error:?}");
    assert!(begun.elapsed() < PATIENCE);
}

#[tokio::test]
async fn a_connection_that_breaks_is_unavailable() {
    all_are_unavailable(&Daemon::with(|_| Answer::Close), "closed").await;
    all_are_unavailable(&healthy_but(|_| Answer::Close), "closed later").await;
    all_are_unavailable(&healthy_but(|_| Answer::Bytes(b"SSH-2.0-OpenSSH\r\n\r\n")), "not HTTP").await;
    all_are_unavailable(&healthy_but(|_| failure(503, "restarting")), "503").await;

    let cut = healthy_but(|_| Answer::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"));
    let error = cut.runtime().inspect(owner(), ID).await;
    assert!(matches!(error, Err(RuntimeError::Unavailable(_))), "{error:?}");
}

#[tokio::test]
async fn a_daemon_that_fails_is_believed_only_where_it_says_why() {
    let daemon = healthy_but(|_| failure(500, "no space left on device"));
    for (call, error) in every_error(&daemon.runtime()).await {
        let expected = match call {
            "create" | "start" | "stop" | "remove" => matches!(error, RuntimeError::Failed(_)),
            "pull" => matches!(error, RuntimeError::Image { .. }),
            // Nothing can be read: nothing is known.
            _ => matches!(error, RuntimeError::Unavailable(_)),
        };
        assert!(expected && error.to_string().contains("no space left"), "{call}: {error:?}");
    }
}

#[tokio::test]
async fn an_answer_of_another_shape_is_an_error_and_no_more() {
    for body in ["", "[", "null", "{\"Id\":7}", "[[[[", "\u{1F986}"] {
        let daemon = healthy_but(move |_| json(body));
        let runtime = daemon.runtime();
        let inspected = runtime.inspect(owner(), ID).await;
        assert!(!matches!(inspected, Ok(Some(_))), "{body}: {inspected:?}");
        let created = runtime.create(owner(), &config()).await;
        assert!(created.is_err(), "{body}: {created:?}");
        let listed = runtime.list(owner(), None).await;
        assert!(!listed.is_ok_and(|list| !list.is_empty()), "{body}");
    }
}

#[tokio::test]
async fn the_version_is_agreed_on_and_again_after_an_upgrade() {
    let mut daemon = healthy_but(|_| failure(404, "no such container"));
    let runtime = daemon.runtime();
    assert_eq!(runtime.inspect(owner(), ID).await, Ok(None));
    assert_eq!(daemon.asked().last(), Some(&format!("GET /v1.41/containers/{ID}/json")));

    daemon.kill().await;
    daemon.start(|request| match request {
        "GET /version" => json(r#"{"Version":"29.0","ApiVersion":"1.52"}"#),
        old if old.starts_with("GET /v1.41/") => {
            failure(400, "client version 1.41 is too old. Minimum supported API version is 1.44")
        }
        _ => failure(404, "no such container"),
    });
    let error = runtime.inspect(owner(), ID).await;
    assert!(matches!(error, Err(RuntimeError::Unavailable(_))), "{error:?}");
    assert_eq!(runtime.inspect(owner(), ID).await, Ok(None));
    assert_eq!(daemon.asked().last(), Some(&format!("GET /v1.52/containers/{ID}/json")));
}

#[tokio::test]
async fn a_pull_may_take_its_time_but_not_stand_still() {
    let step = || (Duration::from_millis(100), b"{\"status\":\"Downloading\"}\r\n".to_vec());
    let slow = healthy_but(move |_| Answer::Stream((0..8).map(|_| step()).collect()));
    assert_eq!(slow.runtime().pull("web:1").await, Ok(()), "longer than the limit, but it moved");
    assert!(
        slow.asked().last().is_some_and(|asked| asked.contains("fromImage=web%3A1")),
        "{:?}",
        slow.asked()
    );

    let stuck = healthy_but(move |_| Answer::Stall(step().1));
    let error = timeout(PATIENCE, stuck.runtime().pull("web:1")).await.expect("it ends");
    assert!(
        matches!(&error, Err(RuntimeError::Image { reason, .. }) if reason.contains("no progress")),
        "{error:?}"
    );

    let gone = b"{\"errorDetail\":{\"message\":\"manifest unknown\"},\"error\":\"manifest unknown\"}\r\n";
    let missing = healthy_but(|_| Answer::Stream(vec![(Duration::ZERO, gone.to_vec())]));
    let error = missing.runtime().pull("web:1").await;
    assert!(
        matches!(&error, Err(RuntimeError::Image { reason, .. }) if reason == "manifest unknown"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_name_held_by_nothing_is_asked_for_again() {
    let daemon = healthy_but(|request| match request {
        create if create.contains("/create") => {
            failure(409, "Conflict. The container name is already in use")
        }
        _ => failure(404, "no such container"),
    });
    let error = daemon.runtime().create(owner(), &config()).await;
    assert!(matches!(error, Err(RuntimeError::Unavailable(_))), "{error:?}");
}

#[tokio::test]
async fn a_removal_that_goes_on_is_waited_for() {
    let looks = Arc::new(Mutex::new(0));
    let daemon = healthy_but(move |request| {
        let mut looks = looks.lock().expect("not poisoned");
        *looks += 1;
        match request {
            remove if remove.starts_with("DELETE") => {
                failure(409, "removal of container x is already in progress")
            }
            _ if *looks < 3 => json("{}"),
            _ => failure(404, "no such container"),
        }
    });
    assert_eq!(daemon.runtime().remove(ID).await, Ok(()));

    let endless = healthy_but(|request| match request {
        remove if remove.starts_with("DELETE") => {
            failure(409, "removal of container x is already in progress")
        }
        _ => json("{}"),
    });
    let error = timeout(PATIENCE, endless.runtime().remove(ID)).await.expect("it ends");
    assert!(matches!(error, Err(RuntimeError::Failed(_))), "{error:?}");
}

async fn next(events: &mut BoxStream<'static, RuntimeEvent>) -> RuntimeEvent {
    timeout(PATIENCE, events.next()).await.expect("an event in time").expect("no end")
}

/// A daemon with one event, which keeps the stream open.
fn eventful(request: &str) -> Answer {
    let instance = config().identity.instance;
    match request {
        "GET /version" => json(r#"{"Version":"20.10.24","ApiVersion":"1.41"}"#),
        ping if ping.ends_with("/_ping") => json("OK"),
        _ => Answer::Stall(
            format!(
                "{{\"Type\":\"container\",\"Action\":\"die\",\"Actor\":{{\"ID\":\"{ID}\",\"Attributes\":\
                 {{\"io.skein.instance\":\"{instance}\"}}}}}}\n"
            )
            .into_bytes(),
        ),
    }
}

#[tokio::test]
async fn events_say_once_that_the_daemon_is_away() {
    let mut daemon = Daemon::new();
    let mut events = daemon.runtime().events(owner());
    let changed = RuntimeEvent::Changed { instance: config().identity.instance, container: ID.to_owned() };
    for _ in 0..2 {
        let away = next(&mut events).await;
        assert!(matches!(away, RuntimeEvent::Unavailable { .. }), "{away:?}");
        // Several attempts fail meanwhile, silently.
        let silent = timeout(Duration::from_millis(300), events.next()).await;
        assert!(silent.is_err(), "{silent:?}");
        daemon.start(eventful);
        assert_eq!(next(&mut events).await, RuntimeEvent::Reconnected);
        assert_eq!(next(&mut events).await, changed);
        daemon.kill().await;
    }
}

#[tokio::test]
async fn events_notice_a_daemon_that_hangs_behind_an_open_stream() {
    let pings = Arc::new(Mutex::new(0));
    let daemon = Daemon::with(move |request| {
        let mut pings = pings.lock().expect("not poisoned");
        *pings += usize::from(request.ends_with("/_ping"));
        if *pings > 3 { Answer::Hang } else { eventful(request) }
    });
    let mut events = daemon.runtime().events(owner());
    assert_eq!(next(&mut events).await, RuntimeEvent::Reconnected);
    assert!(matches!(next(&mut events).await, RuntimeEvent::Changed { .. }));
    assert!(matches!(next(&mut events).await, RuntimeEvent::Unavailable { .. }));
    let filter = daemon.asked().into_iter().find(|asked| asked.contains("/events")).expect("a subscription");
    assert!(filter.contains("since=") && filter.contains("io.skein.cluster"), "{filter}");
}

#[tokio::test]
async fn logs_of_a_daemon_that_dies_end_with_an_error() {
    let frame = |text: &str| {
        let mut frame = vec![1, 0, 0, 0];
        frame.extend(u32::try_from(text.len()).expect("short").to_be_bytes());
        frame.extend_from_slice(text.as_bytes());
        frame
    };
    let whole = frame("2026-11-23T15:01:01.007Z one\n");
    let daemon = healthy_but(move |_| Answer::Stall(whole.clone()));
    let mut lines = daemon.runtime().logs(ID, LogQuery { follow: true, ..LogQuery::default() });
    let first = timeout(PATIENCE, lines.next()).await.expect("in time").expect("no end").expect("a line");
    assert_eq!(first.line, "one");
    drop(daemon);

    let cut = frame("2026-11-23T15:01:01.007Z two\n");
    let daemon = healthy_but(move |_| Answer::Stream(vec![(Duration::ZERO, cut[..cut.len() - 2].to_vec())]));
    let rest: Result<Vec<_>, _> = daemon.runtime().logs(ID, LogQuery::default()).try_collect().await;
    // The daemon ended in the middle of a frame: what came of it is not lost, and nothing panics.
    assert!(rest.is_ok_and(|lines| lines.len() <= 1));
}
