//! TLS in front of services: certificates by host, handshakes within bounds.
//!
//! Invariant: one provider (ring). A pair that does not fit together is refused before it is shown to anybody.

use std::{sync::Arc, time::Duration};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use skein_agent_core::routes::RouteTable;
use tokio::{net::TcpStream, time};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// A client that has not finished by then is sent away.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });

/// Why a certificate cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("there is no certificate in it (PEM)")]
    NoCertificate,
    #[error("there is no private key in it (PEM)")]
    NoKey,
    #[error("it is not valid PEM")]
    Pem,
    #[error("certificate and key cannot be used: {0}")]
    Unusable(rustls::Error),
}

/// The certificate with its key, both in PEM.
pub(crate) fn certified(certificate: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, CertificateError> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| CertificateError::Pem)?;
    if chain.is_empty() {
        return Err(CertificateError::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateError::NoKey)?;
    CertifiedKey::from_der(chain, key, &ring::default_provider())
        .map(Arc::new)
        .map_err(CertificateError::Unusable)
}

/// By host, and one for clients that name none, or another.
#[derive(Debug)]
struct ByHost {
    hosts: RouteTable<Arc<CertifiedKey>>,
    first: Arc<CertifiedKey>,
}

impl ResolvesServerCert for ByHost {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.hosts.find_host(name));
        Some(Arc::clone(named.unwrap_or(&self.first)))
    }
}

/// What a port with these certificates by host speaks; `None` = there are none.
///
/// # Errors
/// The provider cannot make tickets or knows no protocol.
pub(crate) fn config(
    certificates: &[(String, Arc<CertifiedKey>)],
) -> Result<Option<Arc<ServerConfig>>, rustls::Error> {
    let Some((_, first)) = certificates.first() else { return Ok(None) };
    let mut hosts = RouteTable::default();
    for (host, certificate) in certificates {
        hosts.insert(host, "/", Arc::clone(certificate));
    }
    let resolver = ByHost { hosts, first: Arc::clone(first) };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Who comes again needs no signature, and nothing is kept of him.
    config.ticketer = ring::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(Some(Arc::new(config)))
}

/// `None` = the client did not get through it.
pub(crate) async fn handshake(stream: TcpStream, config: Arc<ServerConfig>) -> Option<TlsStream<TcpStream>> {
    match time::timeout(HANDSHAKE_WITHIN, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::trace!(error = &error as &dyn std::error::Error, "a TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}
