//! What is measured of real requests, and what is said of it.

use std::time::Duration;

use skein_common::{
    ServiceId, Timestamp,
    load::{Counts, Endings, InstanceLoad, LoadReport, OutCause},
    service::{Algorithm, BalanceMode, BalancePolicy},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Rig, endpoint::TestEndpoint, http, instance};

impl Rig {
    fn report(&self) -> LoadReport {
        self.handle.meter().report(Timestamp::from_unix_ms(1))
    }

    /// Waits until a report names the instance like this.
    async fn reported(&self, mut until: impl FnMut(&InstanceLoad) -> bool) {
        while !self.report().ports.iter().flat_map(|port| &port.instances).any(&mut until) {
            tokio::task::yield_now().await;
        }
    }
}

fn only(report: &LoadReport) -> &InstanceLoad {
    assert_eq!(report.ports.len(), 1, "{report:?}");
    assert_eq!(report.ports[0].service, ServiceId::from_random(1));
    assert_eq!(report.ports[0].instances.len(), 1, "{report:?}");
    &report.ports[0].instances[0]
}

#[tokio::test]
async fn requests_bytes_and_latencies_are_reported_once() {
    let one = TestEndpoint::start(1).await;
    let rig = Rig::start(http(), &[&one]).await;
    assert_eq!(rig.report().ports, [], "a port that had nothing is not named");
    let post =
        "POST /echo HTTP/1.1\r\nhost: web\r\ncontent-length: 10\r\nconnection: close\r\n\r\n0123456789";
    assert_eq!(rig.ask(post).await.0, 200);
    assert_eq!(rig.get("/who").await.0, 200);
    let mut seen = Counts::default();
    let mut connections = 0;
    while connections < 2 || seen.endings.ok < 2 {
        for port in rig.report().ports {
            connections += port.front.connections;
            port.instances.iter().for_each(|load| seen += &load.counts);
        }
    }
    assert_eq!((seen.tries, seen.retries, seen.bytes_in, seen.bytes_out), (2, 0, 10, 11));
    assert_eq!(seen.endings, Endings { ok: 2, ..Endings::default() });
    assert_eq!(seen.latencies.count(), 2);
    assert!(seen.latencies.quantile(1.0).unwrap() < Duration::from_secs(5));
    rig.stop().await;
}

#[tokio::test]
async fn what_is_under_way_is_a_gauge() {
    let one = TestEndpoint::start(1).await;
    let mut rig = Rig::start(http(), &[&one]).await;
    let mut stream = rig.connect().await;
    stream.write_all(b"GET /hang HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    while one.served() < 1 {
        tokio::task::yield_now().await;
    }
    for _ in 0..2 {
        let report = rig.report();
        assert_eq!((only(&report).in_flight, report.ports[0].front.connected), (1, 1));
    }
    rig.serve(&[]).await;
    let report = rig.report();
    assert_eq!(only(&report).in_flight, 1, "an endpoint that left has its requests still");
    drop(stream);
    rig.reported(|load| load.counts.endings.abandoned == 1).await;
    // It is told how it ended a moment before it is over; then nobody names it any more.
    let is_held = |report: LoadReport| {
        report.ports.iter().flat_map(|port| &port.instances).any(|load| load.in_flight > 0)
    };
    while is_held(rig.report()) {
        tokio::task::yield_now().await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn failures_have_a_class_and_retries_are_told_apart() {
    let [breaking, good] = [TestEndpoint::start(1).await, TestEndpoint::start(2).await];
    let mut gone = TestEndpoint::start(3).await;
    gone.kill().await;
    let policy = BalancePolicy { algorithm: Algorithm::RoundRobin, ..http() };
    let rig = Rig::start(policy, &[&breaking, &good, &gone]).await;
    for _ in 0..16 {
        assert_eq!(rig.get("/who").await.0, 200);
    }
    // Two retries of what an endpoint may have seen are within the budget.
    for _ in 0..2 {
        assert_eq!(rig.get("/break-on-1").await.0, 200);
    }
    let report = rig.report();
    let of =
        |number| report.ports[0].instances.iter().find(|load| load.instance == instance(number)).unwrap();
    let [breaking, good, gone] = [1, 2, 3].map(of);
    assert_eq!(good.counts.endings.ok + breaking.counts.endings.ok, 18);
    assert_eq!(good.out, None);
    assert!(breaking.counts.endings.broken > 0, "{breaking:?}");
    assert_eq!((gone.counts.endings.unreachable, gone.counts.ejections), (5, 1));
    assert_eq!(gone.out.unwrap().cause, OutCause::Unreachable);
    let tries = breaking.counts.tries + good.counts.tries + gone.counts.tries;
    let retries = breaking.counts.retries + good.counts.retries + gone.counts.retries;
    assert_eq!(tries - retries, 18, "one first try a request");
    rig.stop().await;
}

#[tokio::test]
async fn connections_are_counted_in_mode_tcp() {
    let one = TestEndpoint::start(1).await;
    let policy =
        BalancePolicy { mode: BalanceMode::Tcp, slow_start: Duration::ZERO, ..BalancePolicy::default() };
    let rig = Rig::start(policy, &[&one]).await;
    let request = b"GET /who HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
    let mut stream = rig.connect().await;
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    drop(stream);
    let (mut seen, mut in_flight) = (Counts::default(), 1);
    while in_flight > 0 {
        let report = rig.report();
        in_flight = report.ports.iter().flat_map(|port| &port.instances).map(|load| load.in_flight).sum();
        report.ports.iter().flat_map(|port| &port.instances).for_each(|load| seen += &load.counts);
    }
    assert_eq!((seen.tries, seen.endings.ok), (1, 1));
    assert_eq!((seen.bytes_in, seen.bytes_out), (request.len() as u64, answer.len() as u64));
    rig.stop().await;
}

#[tokio::test]
async fn who_waits_and_who_is_refused_is_demand() {
    let mut policy = http();
    policy.timeouts.connect = Duration::from_millis(300);
    let rig = Rig::start(policy, &[]).await;
    let waiting = async {
        while rig.report().ports.iter().all(|port| port.front.waiting == 0) {
            tokio::task::yield_now().await;
        }
    };
    let ((status, _), ()) = tokio::join!(rig.get("/who"), waiting);
    assert_eq!(status, 503);
    assert_eq!(rig.report().ports[0].front.refused, 1);
    rig.stop().await;
}
