//! TLS of shared ports: certificates by name, changes while connections are open, redirects.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::FutureExt;
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, ServerName},
};
use skein_common::{
    ConfigId,
    config::ConfigRef,
    service::{Route, RouteTls},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{FetchCertificate, Rig, TestEndpoint, endpoint::answered, free_port, routes::route};

/// What the leader would answer, and what clients trust.
#[derive(Clone, Default)]
struct Shelf {
    contents: Arc<Mutex<BTreeMap<ConfigId, Bytes>>>,
}

impl Shelf {
    /// A certificate for these names with its key.
    fn put(&self, id: u64, names: &[&str]) -> CertificateDer<'static> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let pem = format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem());
        self.put_raw(id, pem);
        made.cert.der().clone()
    }

    fn put_raw(&self, id: u64, pem: String) {
        self.contents.lock().unwrap().insert(ConfigId::from_random(id), pem.into());
    }

    fn fetch(&self) -> FetchCertificate {
        let contents = Arc::clone(&self.contents);
        FetchCertificate::new(move |id| {
            let found = contents.lock().unwrap().get(&id).cloned();
            async move { found.ok_or_else(|| "there is none".to_owned()) }.boxed()
        })
    }
}

fn with_tls(route: Route, id: u64, redirect_from: Option<u16>) -> Route {
    let certificate = ConfigRef { config: format!("cert-{id}"), id: Some(ConfigId::from_random(id)) };
    Route { tls: Some(RouteTls { certificate, key: None, redirect_from }), ..route }
}

/// One service for each host, on one port with TLS.
pub(super) async fn rig(hosts: &[(&str, &TestEndpoint)]) -> Rig {
    let shelf = Shelf::default();
    let mut rig = Rig::bare(shelf.fetch()).await;
    let mut services = Vec::new();
    for (position, (host, at)) in hosts.iter().enumerate() {
        let id = position as u64 + 1;
        shelf.put(id, &[host]);
        services.push((*host, *at, vec![with_tls(route(host, "/", rig.port), id, None)]));
    }
    rig.route(&services).await;
    while dial(&rig, hosts[0].0, &[]).await.is_none() {
        tokio::task::yield_now().await;
    }
    rig
}

async fn dial(rig: &Rig, host: &str, alpn: &[&[u8]]) -> Option<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let stream = TcpStream::connect(("127.0.0.1", rig.port)).await.ok()?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()
}

/// What was shown, and the answer to one request.
pub(super) async fn ask(rig: &Rig, host: &str, path: &str) -> (CertificateDer<'static>, (u16, String)) {
    let mut stream = dial(rig, host, &[b"http/1.1"]).await.unwrap();
    let shown = shown(&stream);
    let answer = answered(&mut stream, host, path).await.unwrap();
    (shown, answer)
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test]
async fn each_name_has_its_certificate_and_a_new_one_breaks_no_connection() {
    let [shop, blog] = [TestEndpoint::start(1).await, TestEndpoint::start(2).await];
    let shelf = Shelf::default();
    let (first, second) = (shelf.put(1, &["shop.example"]), shelf.put(2, &["*.blog.example"]));
    let mut rig = Rig::bare(shelf.fetch()).await;
    let (port, plain) = (rig.port, free_port().await);
    let blog_route = || vec![with_tls(route("*.blog.example", "/", port), 2, None)];
    let shop_route = |id| vec![with_tls(route("shop.example", "/", port), id, Some(plain))];
    rig.route(&[("shop", &shop, shop_route(1)), ("blog", &blog, blog_route())]).await;
    while dial(&rig, "a.blog.example", &[]).await.is_none_or(|stream| shown(&stream) != second) {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&rig, "shop.example", "/who").await, (first.clone(), (200, "1".to_owned())));
    assert_eq!(ask(&rig, "a.blog.example", "/who").await, (second.clone(), (200, "2".to_owned())));
    let (stranger, (status, _)) = ask(&rig, "elsewhere.example", "/").await;
    assert_eq!((stranger, status), (first.clone(), 404), "another name is shown the first");
    let (_, (_, headers)) = ask(&rig, "shop.example", "/headers").await;
    assert!(headers.contains("x-forwarded-proto: https\n"), "{headers}");
    assert!(headers.contains(";proto=https\n"), "{headers}");

    // Without TLS: the way to it.
    rig.port = plain;
    let (status, _) = rig.ask("GET /a?b HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n").await;
    assert_eq!(status, 308);
    rig.port = port;

    // Another certificate for the same name, while a connection is open.
    let mut open = dial(&rig, "shop.example", &[]).await.unwrap();
    assert_eq!(answered(&mut open, "shop.example", "/who").await.unwrap().0, 200);
    let third = shelf.put(3, &["shop.example"]);
    rig.route(&[("shop", &shop, shop_route(3)), ("blog", &blog, blog_route())]).await;
    while dial(&rig, "shop.example", &[]).await.is_none_or(|stream| shown(&stream) != third) {
        tokio::task::yield_now().await;
    }
    assert_eq!(answered(&mut open, "shop.example", "/who").await.unwrap(), (200, "1".to_owned()));
    // One that is none, and one that nobody has: the last good one stays.
    shelf.put_raw(4, "no certificate".to_owned());
    for id in [4, 5] {
        rig.route(&[("shop", &shop, shop_route(id)), ("blog", &blog, blog_route())]).await;
        assert_eq!(ask(&rig, "shop.example", "/who").await, (third.clone(), (200, "1".to_owned())));
    }
    assert_eq!(answered(&mut open, "shop.example", "/who").await.unwrap(), (200, "1".to_owned()));
    rig.stop().await;
}

#[tokio::test]
async fn http2_is_agreed_upon_in_the_handshake() {
    use bytes::Bytes;
    use http_body_util::{BodyExt, Empty};
    let one = TestEndpoint::start(1).await;
    let rig = rig(&[("shop.example", &one)]).await;
    let stream = dial(&rig, "shop.example", &[b"h2", b"http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(executor, io).await.unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::get("https://shop.example/who").body(Empty::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "1");
    rig.stop().await;
}

/// Takes whatever is shown: what it is, the test compares.
#[derive(Debug)]
struct Any;

impl rustls::client::danger::ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let provider = rustls::crypto::ring::default_provider();
        let known = &provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let provider = rustls::crypto::ring::default_provider();
        let known = &provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
