//! The balancer's own checks, and requests that are held until there is an instance.

use std::time::Duration;

use skein_common::{
    Timestamp,
    load::OutCause,
    service::{ActiveCheck, BalancePolicy},
};

use super::{Rig, endpoint::TestEndpoint, http};

fn checked(path: Option<&str>) -> BalancePolicy {
    let check = ActiveCheck {
        path: path.map(ToOwned::to_owned),
        interval: Duration::from_millis(5),
        timeout: Duration::from_secs(1),
        ..ActiveCheck::default()
    };
    BalancePolicy { check: Some(check), ..http() }
}

/// Waits until so many are out for their checks.
async fn out(rig: &Rig, wanted: usize) {
    let is_out = || {
        let report = rig.handle.meter().read();
        let all = report.iter().flat_map(|port| &port.instances);
        all.filter(|one| one.out.is_some_and(|out| out.cause == OutCause::Check)).count()
    };
    while is_out() != wanted {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_fails_its_checks_gets_no_request() {
    let one = TestEndpoint::start(1).await;
    let mut two = TestEndpoint::start(2).await;
    let mut rig = Rig::start(checked(None), &[&one, &two]).await;
    two.kill().await;
    out(&rig, 1).await;
    let report = rig.handle.meter().report(Timestamp::from_unix_ms(1));
    assert_eq!(
        report.ports[0].instances.iter().map(|load| load.counts.tries).sum::<u64>(),
        0,
        "no request was needed"
    );
    for _ in 0..20 {
        assert_eq!(rig.get("/who").await, (200, "1".to_owned()));
    }
    // No checks any more: nobody is out for them.
    rig.policy.check = None;
    rig.serve(&[&one, &two]).await;
    out(&rig, 0).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_path_must_answer_well_and_half_stay() {
    let [one, two] = [TestEndpoint::start(1).await, TestEndpoint::start(2).await];
    let rig = Rig::start(checked(Some("/unwell-on-1")), &[&one, &two]).await;
    out(&rig, 1).await;
    assert_eq!(rig.get("/who").await, (200, "2".to_owned()));
    rig.stop().await;
    let rig = Rig::start(checked(Some("/unwell-on-1")), &[&one]).await;
    let before = one.served();
    while one.served() < before + 10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.get("/who").await, (200, "1".to_owned()), "the only one is never out");
    rig.stop().await;
}

#[tokio::test]
async fn a_request_is_held_until_the_first_instance_is_there() {
    let one = TestEndpoint::start(1).await;
    let mut policy = http();
    policy.timeouts.connect = Duration::from_millis(1);
    policy.timeouts.hold = Some(Duration::from_secs(60));
    policy.limits.pending = 2;
    let mut rig = Rig::start(policy, &[]).await;
    let waiting = |rig: &Rig| rig.handle.meter().read()[0].front.waiting;
    let port = rig.port;
    let held: Vec<_> = (0..2).map(|_| tokio::spawn(super::get_from(port, "/who"))).collect();
    while waiting(&rig) < 2 {
        tokio::task::yield_now().await;
    }
    // Longer than a busy service would make them wait.
    for _ in 0..20 {
        assert_eq!(rig.get("/who").await.0, 503, "no more than may wait");
    }
    assert_eq!(waiting(&rig), 2);
    rig.serve(&[&one]).await;
    for request in held {
        assert_eq!(request.await.unwrap(), (200, "1".to_owned()));
    }
    rig.stop().await;
}
