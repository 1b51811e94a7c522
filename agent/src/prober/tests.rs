//! Each kind of test against servers of this process, and programs of the engine in memory.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use skein_agent_core::Action;
use skein_common::{
    ClusterId, NodeId, ServiceId,
    assignment::{Assignment, Known},
    instance::Desired,
    service::{ContainerSpec, Generation, Probes, ResourceRequirements, RestartPolicy},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{
    executor::Executor,
    runtime::{ExecEnd, Owner, fake::FakeRuntime},
};

fn assignment(test: ProbeTest) -> Arc<Assignment> {
    let probe = Probe { timeout: Duration::from_millis(300), ..Probe::new(test) };
    let probes = Probes { liveness: Some(probe), ..Probes::default() };
    Arc::new(Assignment {
        instance: InstanceId::from_random(1),
        service: ServiceId::from_random(2),
        service_name: "web".to_owned(),
        slot: 1,
        generation: Generation(1),
        desired: Desired::Run,
        container: ContainerSpec { probes, ..ContainerSpec::new("web:1") },
        resources: ResourceRequirements::default(),
        restart: RestartPolicy::default(),
        ports: Vec::new(),
        devices: Vec::new(),
        attempt: 1,
        known: Known::default(),
    })
}

fn run_of(test: ProbeTest, target: Option<SocketAddr>, container: &str) -> ProbeRun {
    ProbeRun {
        instance: InstanceId::from_random(1),
        container: container.to_owned(),
        kind: ProbeKind::Liveness,
        assignment: assignment(test),
        target,
    }
}

async fn ask_at(test: ProbeTest, target: Option<SocketAddr>) -> ProbeOutcome {
    let prober = Prober::new(Arc::new(FakeRuntime::new()));
    prober.run(run_of(test, target, "c")).await.outcome
}

/// Answers every connection with this, having read what was asked.
async fn server(answer: &'static str) -> (SocketAddr, tokio::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, heard) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = vec![0; 4096];
            let read = stream.read(&mut bytes).await.unwrap();
            asked.send(String::from_utf8_lossy(&bytes[..read]).into_owned()).await.ok();
            stream.write_all(answer.as_bytes()).await.ok();
        }
    });
    (address, heard)
}

async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn http(path: &str) -> ProbeTest {
    let headers = [("host", "shop"), ("X-Key", "k")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    ProbeTest::Http { port: 80, path: path.to_owned(), headers: headers.into() }
}

fn failed(outcome: ProbeOutcome) -> String {
    match outcome {
        ProbeOutcome::Failed(cause) => cause,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn http_is_judged_by_its_status() {
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\n\r\nfine", None),
        ("HTTP/1.0 302 Found\r\nLocation: /x\r\n\r\n", None),
        ("HTTP/1.1 503 Service Unavailable\r\n\r\nno database\nmore", Some("HTTP status 503: no database")),
        ("HTTP/1.1 404 Not Found\r\n\r\n", Some("HTTP status 404")),
        ("SSH-2.0-OpenSSH_9\r\n", Some("does not answer in HTTP")),
        ("", Some("does not answer in HTTP")),
    ] {
        let (address, mut heard) = server(answer).await;
        let outcome = ask_at(http("/x?y=1"), Some(address)).await;
        match expected {
            None => assert_eq!(outcome, ProbeOutcome::Passed, "{answer}"),
            Some(expected) => assert!(failed(outcome).contains(expected), "{answer}"),
        }
        let asked = heard.recv().await.unwrap();
        assert!(asked.starts_with("GET /x?y=1 HTTP/1.1\r\n") && asked.ends_with("\r\n\r\n"), "{asked}");
        assert!(asked.contains("host: shop\r\n") && asked.contains("X-Key: k\r\n"), "{asked}");
        assert!(!asked.contains("Host:"), "the given one counts: {asked}");
    }
}

#[tokio::test]
async fn a_server_that_never_answers_has_its_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let cause = failed(ask_at(http("/"), Some(address)).await);
    assert_eq!(cause, "no answer within 300ms");
    let (connects, _) = tokio::join!(ask_at(ProbeTest::Tcp { port: 80 }, Some(address)), listener.accept());
    assert_eq!(connects, ProbeOutcome::Passed);
    let grpc = ProbeTest::Grpc { port: 80, service: String::new() };
    assert_eq!(failed(ask_at(grpc, Some(address)).await), "no answer within 300ms");
}

#[tokio::test]
async fn what_nobody_listens_on_is_refused() {
    let grpc = ProbeTest::Grpc { port: 80, service: String::new() };
    for test in [http("/"), ProbeTest::Tcp { port: 80 }, grpc] {
        let address = nobody().await;
        assert_eq!(failed(ask_at(test, Some(address)).await), format!("{address} refused the connection"));
    }
    let cause = failed(ask_at(ProbeTest::Tcp { port: 80 }, None).await);
    assert_eq!(cause, "no way leads to port 80 of the container");
}

#[tokio::test]
async fn grpc_asks_for_a_service() {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("shop.Cart", tonic_health::ServingStatus::NotServing).await;
    let address = nobody().await;
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve(address));
    let ask =
        |service: &str| ask_at(ProbeTest::Grpc { port: 80, service: service.to_owned() }, Some(address));
    while ask("").await != ProbeOutcome::Passed {
        tokio::task::yield_now().await;
    }
    assert_eq!(failed(ask("shop.Cart").await), "NOT_SERVING");
    assert!(failed(ask("shop.Nothing").await).starts_with("NotFound"));
    reporter.set_service_status("shop.Cart", tonic_health::ServingStatus::Serving).await;
    assert_eq!(ask("shop.Cart").await, ProbeOutcome::Passed);
    let (http, _heard) = server("HTTP/1.1 200 OK\r\n\r\n").await;
    failed(ask_at(ProbeTest::Grpc { port: 80, service: String::new() }, Some(http)).await);
}

#[tokio::test(start_paused = true)]
async fn programs_end_hang_and_are_not_piled_up() {
    let engine = FakeRuntime::new();
    let owner = Owner { cluster: ClusterId::from_random(1), node: NodeId::from_random(1) };
    let (_connection, leader) = tokio::sync::watch::channel(crate::session::Connection::default());
    let files = crate::files::Files::new(None, owner.node, leader);
    let executor = Executor::new(Arc::new(engine.clone()), owner, files);
    let test = || ProbeTest::Exec(vec!["check".to_owned()]);
    let create = Action::Create { assignment: assignment(test()), attempt: 1 };
    executor.clone().carry_out(create).await;
    let container = engine.containers()[0].id.clone();
    let instance = InstanceId::from_random(1);
    executor.carry_out(Action::Start { instance, container: container.clone() }).await;
    let prober = Prober::new(Arc::new(engine.clone()));
    let ask = || async { prober.clone().run(run_of(test(), None, &container)).await.outcome };
    assert_eq!(ask().await, ProbeOutcome::Passed);

    let said = format!("no\nanswer {}", "x".repeat(1000));
    engine.set_faults(|faults| faults.exec = Some(ExecEnd { exit_code: 2, output: said }));
    let cause = failed(ask().await);
    assert!(cause.starts_with("exit code 2: no answer xxx") && cause.len() <= LONGEST_CAUSE, "{cause}");

    engine.set_faults(|faults| faults.exec_hangs = true);
    assert_eq!(failed(ask().await), "no end within 300ms");
    assert_eq!(failed(ask().await), "the program before has not ended yet");
    engine.set_faults(|faults| *faults = crate::runtime::fake::Faults::default());
    assert_eq!(ask().await, ProbeOutcome::Passed);

    engine.set_faults(|faults| faults.unavailable = Some("restarting".to_owned()));
    assert_eq!(ask().await, ProbeOutcome::Unknown, "says nothing of the container");
    engine.set_faults(|faults| faults.unavailable = None);
    engine.vanish(instance);
    assert_eq!(ask().await, ProbeOutcome::Unknown);
}
