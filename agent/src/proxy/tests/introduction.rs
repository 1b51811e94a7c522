//! The PROXY protocol on real connections.

use skein_agent_core::proxy_protocol;
use skein_common::service::{BalanceMode, BalancePolicy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{Rig, TestEndpoint, http};

const FROM: &str = "203.0.113.7:4711";
const TO: &str = "192.0.2.1:80";

fn introduced(request: &[u8]) -> Vec<u8> {
    [&proxy_protocol::header(FROM.parse().unwrap(), TO.parse().unwrap())[..], request].concat()
}

#[tokio::test]
async fn an_instance_is_told_for_whom_a_connection_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = TestEndpoint::at(1, listener.local_addr().unwrap());
    let policy = BalancePolicy {
        mode: BalanceMode::Tcp,
        send_proxy: true,
        proxy_from: vec!["127.0.0.0/8".parse().unwrap()],
        ..BalancePolicy::default()
    };
    let rig = Rig::start(policy, &[&at]).await;
    let mut client = rig.connect().await;
    client.write_all(&introduced(b"hello")).await.unwrap();
    let (mut instance, _) = listener.accept().await.unwrap();
    let mut fixed = [0; proxy_protocol::FIXED];
    instance.read_exact(&mut fixed).await.unwrap();
    let mut rest = vec![0; proxy_protocol::rest(&fixed).unwrap()];
    instance.read_exact(&mut rest).await.unwrap();
    let source = proxy_protocol::source(&fixed, &rest).unwrap();
    assert_eq!(source, Some(FROM.parse().unwrap()), "through two balancers");
    let mut hello = [0; 5];
    instance.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    rig.stop().await;
}

#[tokio::test]
async fn who_is_trusted_is_believed_and_must_speak() {
    let one = TestEndpoint::start(1).await;
    let mut policy = http();
    policy.proxy_from = vec!["127.0.0.1".parse().unwrap()];
    let mut rig = Rig::start(policy, &[&one]).await;
    let request = b"GET /headers HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
    let asked = |bytes: Vec<u8>| {
        let connecting = rig.connect();
        async move {
            let mut stream = connecting.await;
            let _ = stream.write_all(&bytes).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8_lossy(&answer).into_owned()
        }
    };
    let answer = asked(introduced(request)).await;
    assert!(answer.contains("x-forwarded-for: 203.0.113.7\n"), "{answer}");
    assert!(answer.contains("forwarded: for=203.0.113.7;proto=http\n"), "{answer}");
    assert_eq!(asked(request.to_vec()).await, "", "no introduction, no answer");
    assert_eq!(asked(introduced(b"")[..20].to_vec()).await.len(), 0);
    assert_eq!(one.served(), 1);
    // From now on nobody is: the header is bad input like any other.
    rig.policy.proxy_from = vec!["192.0.2.0/24".parse().unwrap()];
    rig.serve(&[&one]).await;
    assert_eq!(rig.get("/who").await, (200, "1".to_owned()));
    let mut stream = rig.connect().await;
    stream.write_all(&introduced(request)).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    rig.stop().await;
}
