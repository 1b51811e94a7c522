//! `examples/routes.yaml` on real processes and real Docker: hosts and paths, TLS, and another certificate while
//! connections are open.
//!
//! Invariant tested: a new certificate ends no connection and replaces no instance. The ports are others than in the
//! example, for who may not listen on 80 and 443.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};
use skein_tests::{
    deployment::{Deployment, Flags},
    wait,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const LIMIT: Duration = Duration::from_secs(40);
const ALLOWED: &[&str] = &["master unreachable", "leadership was not handed on"];
const HTTPS: u16 = 8443;
const HTTP: u16 = 8090;

/// The example on other ports, with this name of the config.
fn compose(cluster: &Deployment, config: &str) -> Result<String> {
    let file = cluster.example("routes.yaml", "v1")?;
    let tls = format!("listen: {HTTPS}, tls: {{ certificate: shop-cert, redirect: {HTTP} }} }}");
    let mut text = fs::read_to_string(&file)?;
    for (from, to) in [
        ("tls: shop-cert }".to_owned(), tls.clone()),
        ("tls: { certificate: shop-cert, redirect: true } }".to_owned(), tls),
        // A path that the sample says something on.
        ("path: /api,".to_owned(), "path: /slow,".to_owned()),
        ("port: 8080 }".to_owned(), format!("port: 8080, listen: {HTTP} }}")),
        ("{ external: true }".to_owned(), format!("{{ external: true, name: {config} }}")),
    ] {
        ensure!(text.contains(&from), "the example no longer says {from}");
        text = text.replace(&from, &to);
    }
    fs::write(&file, text)?;
    Ok(file)
}

/// A config with a certificate and its key; what clients have to trust.
async fn certificate(cluster: &Deployment, name: &str) -> Result<CertificateDer<'static>> {
    let names = vec!["shop.example".to_owned(), "*.shop.example".to_owned()];
    let made = rcgen::generate_simple_self_signed(names)?;
    let file = cluster.folder().join(format!("{name}.pem"));
    fs::write(&file, format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem()))?;
    cluster.skein(&["config", "create", name, file.to_str().context("a path in UTF-8")?]).await?;
    Ok(made.cert.der().clone())
}

/// Trusts this certificate only.
async fn connect(node: &str, trusted: &CertificateDer<'static>) -> Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone())?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect((node, HTTPS)).await?;
    let name = ServerName::try_from("shop.example")?;
    Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
}

/// Head and body of one answer; the connection stays.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), host: &str, path: &str) -> Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                return Ok(text.into_owned());
            }
        }
        ensure!(stream.read_buf(&mut answer).await? > 0, "the connection ended after {answer:?}");
    }
}

async fn plain(node: &str, host: &str, path: &str) -> Result<String> {
    ask(&mut TcpStream::connect((node, HTTP)).await?, host, path).await
}

/// Waits until each node shows the certificate, and leads to this service.
async fn leads(nodes: &[String], trusted: &CertificateDer<'static>, path: &str, service: &str) -> Result<()> {
    for node in nodes {
        wait::until(&format!("{node}{path} leads to {service}"), LIMIT, async || {
            let mut stream = connect(node, trusted).await.map_err(|error| format!("{error:#}"))?;
            let answer =
                ask(&mut stream, "shop.example", path).await.map_err(|error| format!("{error:#}"))?;
            wait::expect(answer.contains(&format!("\"SKEIN_SERVICE\":\"{service}\"")), || answer)
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_share_a_port_and_a_new_certificate_ends_no_connection() -> Result<()> {
    let cluster = Deployment::start(3, 2, &Flags::default()).await?;
    let first = certificate(&cluster, "shop-cert").await?;
    let file = compose(&cluster, "shop-cert")?;
    cluster.skein(&["stack", "deploy", "-c", &file, "shop"]).await?;
    let nodes = cluster.ingresses()?;
    leads(&nodes, &first, "/", "shop_web").await?;
    leads(&nodes, &first, "/slow?ms=0", "shop_api").await?;
    for node in &nodes {
        let moved = plain(node, "shop.example", "/a?b").await?;
        let place = format!("location: https://shop.example:{HTTPS}/a?b");
        ensure!(moved.starts_with("HTTP/1.1 308") && moved.contains(&place), "{moved}");
        wait::until("other names lead to the other service", LIMIT, async || {
            let answer = plain(node, "a.shop.example", "/").await.map_err(|error| format!("{error:#}"))?;
            wait::expect(answer.contains("\"SKEIN_SERVICE\":\"shop_other\""), || answer)
        })
        .await?;
        let nobody = plain(node, "elsewhere", "/").await?;
        ensure!(nobody.starts_with("HTTP/1.1 404"), "{nobody}");
    }
    let refused = cluster.skein(&["config", "rm", "shop-cert"]).await.err().context("it is in use")?;
    ensure!(format!("{refused:#}").contains("is used by service"), "{refused:#}");

    let mut open = Vec::new();
    for node in &nodes {
        open.push(connect(node, &first).await?);
    }
    let before = cluster.containers().await?;
    let second = certificate(&cluster, "shop-cert-2").await?;
    let file = compose(&cluster, "shop-cert-2")?;
    cluster.skein(&["stack", "deploy", "-c", &file, "shop"]).await?;
    leads(&nodes, &second, "/", "shop_web").await?;
    for stream in &mut open {
        let answer = ask(stream, "shop.example", "/").await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    cluster.check_untouched(&before).await?;
    drop(open);

    cluster.skein(&["stack", "rm", "shop"]).await?;
    wait::until("the port is given up", LIMIT, async || {
        let connected = TcpStream::connect((nodes[0].as_str(), HTTPS)).await;
        wait::expect(connected.is_err(), || "still listened on".to_owned())
    })
    .await?;
    cluster.finish(ALLOWED).await
}
