//! Clients that go back to the instance they had.

use std::{collections::BTreeSet, time::Duration};

use skein_common::service::{Algorithm, BalanceMode, BalancePolicy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Rig, endpoint::TestEndpoint, http};

impl Rig {
    /// The whole answer to a GET with this cookie, and who gave it.
    async fn with_cookie(&self, cookie: &str) -> (String, String) {
        let mut stream = self.connect().await;
        let request =
            format!("GET /who HTTP/1.1\r\nhost: web\r\ncookie: a=b; {cookie}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let who = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
        (answer, who)
    }
}

/// `skein-web=0123`, as the answer sets it.
fn cookie(answer: &str) -> String {
    let line =
        answer.lines().find(|line| line.starts_with("set-cookie: ")).unwrap_or_else(|| panic!("{answer}"));
    assert!(line.ends_with("; Max-Age=600; Path=/; HttpOnly; SameSite=Lax"), "{line}");
    line["set-cookie: ".len()..].split_once(';').unwrap().0.to_owned()
}

#[tokio::test]
async fn a_cookie_leads_back_until_the_instance_leaves() {
    let endpoints =
        [TestEndpoint::start(1).await, TestEndpoint::start(2).await, TestEndpoint::start(3).await];
    let all: Vec<&TestEndpoint> = endpoints.iter().collect();
    let policy = BalancePolicy {
        algorithm: Algorithm::RoundRobin,
        affinity: Some(Duration::from_secs(600)),
        ..http()
    };
    let mut rig = Rig::start(policy, &all).await;
    let (answer, first) = rig.with_cookie("skein-web=nonsense").await;
    let held = cookie(&answer);
    assert!(held.starts_with("skein-web="), "{held}");
    for _ in 0..10 {
        let (answer, who) = rig.with_cookie(&held).await;
        assert_eq!((who.as_str(), cookie(&answer)), (first.as_str(), held.clone()));
    }
    let mut others = BTreeSet::new();
    for _ in 0..3 {
        others.insert(rig.get("/who").await.1);
    }
    assert_eq!(others.len(), 3, "without a cookie each is as good");
    let rest: Vec<&TestEndpoint> =
        endpoints.iter().filter(|at| super::instance(first.parse().unwrap()) != at.instance).collect();
    rig.serve(&rest).await;
    let (answer, second) = rig.with_cookie(&held).await;
    assert_ne!((&second, cookie(&answer)), (&first, held));
    rig.stop().await;
}

#[tokio::test]
async fn an_address_leads_back_in_mode_tcp() {
    let [one, two] = [TestEndpoint::start(1).await, TestEndpoint::start(2).await];
    let policy = BalancePolicy {
        mode: BalanceMode::Tcp,
        algorithm: Algorithm::RoundRobin,
        affinity: Some(Duration::from_secs(600)),
        slow_start: Duration::ZERO,
        ..BalancePolicy::default()
    };
    let mut rig = Rig::start(policy, &[&one, &two]).await;
    let seen = async |rig: &Rig| {
        let mut seen = BTreeSet::new();
        for _ in 0..6 {
            seen.insert(rig.get("/who").await.1);
        }
        seen
    };
    assert_eq!(seen(&rig).await.len(), 1);
    rig.policy.affinity = None;
    rig.serve(&[&one, &two]).await;
    assert_eq!(seen(&rig).await.len(), 2);
    rig.stop().await;
}
