//! Datagrams: a source stays with its endpoint, and goes to another when that has left or is not there.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use skein_common::service::{Algorithm, BalanceMode, BalancePolicy, Protocol};
use tokio::{net::UdpSocket, task::JoinHandle, time};

use super::{Rig, TestEndpoint};

/// An answer on one machine; a lost one is seen as such soon.
const PATIENCE: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_millis(200);

fn policy() -> BalancePolicy {
    let slow_start = Duration::ZERO;
    BalancePolicy {
        mode: BalanceMode::Tcp,
        algorithm: Algorithm::RoundRobin,
        slow_start,
        ..BalancePolicy::default()
    }
}

/// Answers with its number and the datagram, to whoever asks; not when that is `hush`.
async fn echo(number: u64) -> (TestEndpoint, JoinHandle<()>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut datagram = [0; 2048];
        while let Ok((length, peer)) = socket.recv_from(&mut datagram).await {
            let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
            if text != "hush" {
                socket.send_to(format!("{number}:{text}").as_bytes(), peer).await.unwrap();
            }
        }
    });
    (TestEndpoint::at(number, address), serving)
}

/// From now on these, for datagrams.
async fn serve(rig: &mut Rig, endpoints: &[&TestEndpoint]) {
    let mut update = rig.update(endpoints);
    update.services[0].ports[0].protocol = Protocol::Udp;
    rig.handle.apply(update).await.unwrap();
}

async fn client(rig: &Rig) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, rig.port))).await.unwrap();
    socket
}

/// The first answer; what is lost is asked again, as those who use datagrams do.
async fn ask(client: &UdpSocket, text: &str) -> String {
    let mut answer = [0; 2048];
    let asking = async {
        loop {
            client.send(text.as_bytes()).await.unwrap();
            if let Ok(Ok(length)) = time::timeout(SOON, client.recv(&mut answer)).await {
                return String::from_utf8_lossy(&answer[..length]).into_owned();
            }
        }
    };
    time::timeout(PATIENCE, asking).await.unwrap()
}

#[tokio::test]
async fn a_source_stays_with_its_endpoint() {
    let ((one, _one), (two, _two)) = (echo(1).await, echo(2).await);
    let mut rig = Rig::start(policy(), &[]).await;
    serve(&mut rig, &[&one, &two]).await;
    let mut all = BTreeSet::new();
    for _ in 0..4 {
        let client = client(&rig).await;
        let mut of_one = BTreeSet::new();
        for _ in 0..5 {
            of_one.insert(ask(&client, "hello").await);
        }
        assert_eq!(of_one.len(), 1, "{of_one:?}");
        all.extend(of_one);
    }
    assert_eq!(all, BTreeSet::from(["1:hello".to_owned(), "2:hello".to_owned()]));
}

#[tokio::test]
async fn the_first_datagram_of_a_source_is_not_lost() {
    let (one, _one) = echo(1).await;
    let mut rig = Rig::start(policy(), &[]).await;
    serve(&mut rig, &[&one]).await;
    let client = client(&rig).await;
    client.send(b"once").await.unwrap();
    let mut answer = [0; 16];
    let length = time::timeout(PATIENCE, client.recv(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer[..length], b"1:once");
}

#[tokio::test]
async fn who_leaves_gets_no_more_and_its_lease_ends() {
    let ((one, _one), (two, _two)) = (echo(1).await, echo(2).await);
    let mut rig = Rig::start(policy(), &[]).await;
    serve(&mut rig, &[&one]).await;
    let client = client(&rig).await;
    assert_eq!(ask(&client, "a").await, "1:a");
    // It owes an answer, so it is busy for a while.
    client.send(b"hush").await.unwrap();
    serve(&mut rig, &[&two]).await;
    assert_eq!(ask(&client, "b").await, "2:b");
    let mut applied = rig.handle.begin_session().await;
    let free = applied.wait_for(|applied| applied.busy.is_empty());
    time::timeout(PATIENCE, free).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_passed_over() {
    let (two, _two) = echo(2).await;
    let (gone, serving) = echo(1).await;
    serving.abort();
    let _ = serving.await;
    let mut rig = Rig::start(policy(), &[]).await;
    serve(&mut rig, &[&gone, &two]).await;
    for _ in 0..3 {
        assert_eq!(ask(&client(&rig).await, "x").await, "2:x");
    }
}

#[tokio::test]
async fn a_port_is_given_up_with_its_service() {
    let (one, _one) = echo(1).await;
    let mut rig = Rig::start(policy(), &[]).await;
    serve(&mut rig, &[&one]).await;
    assert_eq!(ask(&client(&rig).await, "x").await, "1:x");
    let mut update = rig.update(&[]);
    update.services.clear();
    rig.handle.apply(update).await.unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, rig.port));
    let freed = async {
        while std::net::UdpSocket::bind(address).is_err() {
            tokio::task::yield_now().await;
        }
    };
    time::timeout(PATIENCE, freed).await.unwrap();
}
