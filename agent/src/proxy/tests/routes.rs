//! Ports that several services share, without TLS.

use futures_util::FutureExt;
use skein_common::service::Route;

use super::{FetchCertificate, Rig, TestEndpoint, free_port};

/// Nobody has a certificate.
pub(super) fn none() -> FetchCertificate {
    FetchCertificate::new(|_| async { Err("there is none".to_owned()) }.boxed())
}

pub(super) fn route(host: &str, path: &str, listen: u16) -> Route {
    Route { host: host.to_owned(), path: path.to_owned(), port: 80, listen, tls: None }
}

async fn ask(rig: &Rig, host: &str, path: &str) -> (u16, String) {
    rig.ask(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await
}

#[tokio::test]
async fn hosts_and_paths_lead_to_their_services() {
    let [shop, api, other] =
        [TestEndpoint::start(1).await, TestEndpoint::start(2).await, TestEndpoint::start(3).await];
    let mut rig = Rig::bare(none()).await;
    let (port, second) = (rig.port, free_port().await);
    rig.route(&[
        ("shop", &shop, vec![route("shop.example", "/", port), route("", "/", second)]),
        ("api", &api, vec![route("shop.example", "/api", port)]),
        ("other", &other, vec![route("*.example", "/", port)]),
    ])
    .await;
    let said = |number: &str| (200, number.to_owned());
    let none = (404, "skein: no service has this host and path\n".to_owned());
    for (host, path, expected) in [
        ("shop.example", "/", said("1")),
        ("Shop.Example:8080", "/x?y=/api", said("1")),
        ("shop.example", "/api", said("2")),
        ("shop.example", "/api/x", said("2")),
        ("shop.example", "/apix", said("1")),
        ("a.example", "/api", said("3")),
        ("elsewhere", "/", none.clone()),
    ] {
        assert_eq!(ask(&rig, host, path).await, expected, "{host}{path}");
    }
    // A route of one connection's earlier request says nothing about the next; a change needs no new connection.
    let mut kept = super::endpoint::Kept::connect(port).await;
    assert_eq!(kept.get("shop.example", "/api").await, said("2"));
    rig.route(&[("shop", &shop, vec![route("shop.example", "/", port)]), ("other", &other, Vec::new())])
        .await;
    assert_eq!(kept.get("shop.example", "/api").await, said("1"));
    assert_eq!(kept.get("a.example", "/").await, none);
    // The second port is nobody's any more.
    rig.port = second;
    while tokio::net::TcpStream::connect(("127.0.0.1", second)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    rig.port = port;
    // Nor is the first: who waits on it is sent away.
    rig.route(&[]).await;
    assert!(kept.is_closed().await);
    rig.stop().await;
}
