//! Certificates of routes: fetched from the leader by the id of their config, checked, and kept while they are named.
//!
//! Invariant: the content of an id never changes, so it is fetched once; keys stay in memory. A route whose new
//! certificate is not there, or wrong, goes on with the one it had.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rustls::sign::CertifiedKey;
use skein_common::{ConfigId, ServiceId, service::RouteTls};
use tokio::sync::mpsc;

use super::tls;

/// At most this many are on their way to the balancer at once.
const ARRIVING: usize = 16;

/// How the content of a config is had: an error is what people are told.
#[derive(Clone)]
pub struct FetchCertificate(Arc<dyn Fn(ConfigId) -> Fetching + Send + Sync>);

type Fetching = BoxFuture<'static, Result<Bytes, String>>;

impl FetchCertificate {
    pub fn new(fetch: impl Fn(ConfigId) -> Fetching + Send + Sync + 'static) -> Self {
        Self(Arc::new(fetch))
    }
}

impl fmt::Debug for FetchCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FetchCertificate")
    }
}

/// One share of a port that needs a certificate.
pub(crate) type Share = (ServiceId, u16, String);

#[derive(Debug)]
pub(crate) struct Certificates {
    fetch: Option<FetchCertificate>,
    contents: BTreeMap<ConfigId, Bytes>,
    fetching: BTreeSet<ConfigId>,
    /// What each share has shown last, and of which configs.
    shown: BTreeMap<Share, (Pair, Arc<CertifiedKey>)>,
    /// Said once.
    trouble: BTreeMap<Share, String>,
    arrivals: mpsc::Sender<Arrival>,
    arrived: mpsc::Receiver<Arrival>,
}

type Pair = (ConfigId, Option<ConfigId>);

#[derive(Debug)]
pub(crate) struct Arrival {
    config: ConfigId,
    content: Result<Bytes, String>,
}

impl Certificates {
    pub(crate) fn new(fetch: Option<FetchCertificate>) -> Self {
        let (arrivals, arrived) = mpsc::channel(ARRIVING);
        Self {
            fetch,
            contents: BTreeMap::new(),
            fetching: BTreeSet::new(),
            shown: BTreeMap::new(),
            trouble: BTreeMap::new(),
            arrivals,
            arrived,
        }
    }

    /// Waits for the next one that was asked for.
    pub(crate) async fn arrival(&mut self) -> Option<Arrival> {
        self.arrived.recv().await
    }

    /// Takes it in. False = it must be asked for again later.
    pub(crate) fn take(&mut self, arrival: Arrival) -> bool {
        self.fetching.remove(&arrival.config);
        match arrival.content {
            Ok(content) => {
                self.contents.insert(arrival.config, content);
                true
            }
            Err(reason) => {
                tracing::warn!(config = %arrival.config, reason, "a certificate cannot be fetched; trying on");
                false
            }
        }
    }

    /// What this share shows now; asks for what is missing.
    pub(crate) fn of(&mut self, share: &Share, tls: &RouteTls) -> Option<Arc<CertifiedKey>> {
        let pair = (tls.certificate.id?, tls.key.as_ref().and_then(|key| key.id));
        if let Some((shown, certificate)) = self.shown.get(share)
            && *shown == pair
        {
            return Some(Arc::clone(certificate));
        }
        let certificate = self.content(pair.0);
        let key = pair.1.map_or_else(|| certificate.clone(), |id| self.content(id));
        if let (Some(certificate), Some(key)) = (certificate, key) {
            match tls::certified(&certificate, &key) {
                Ok(usable) => {
                    self.trouble.remove(share);
                    self.shown.insert(share.clone(), (pair, usable));
                }
                Err(error) => self.say(share, tls, &error),
            }
        }
        self.shown.get(share).map(|(_, certificate)| Arc::clone(certificate))
    }

    /// Forgets what none of these names or shows.
    pub(crate) fn keep_only(&mut self, shares: &BTreeSet<Share>, configs: &BTreeSet<ConfigId>) {
        self.shown.retain(|share, _| shares.contains(share));
        self.trouble.retain(|share, _| shares.contains(share));
        self.contents.retain(|config, _| configs.contains(config));
    }

    fn content(&mut self, id: ConfigId) -> Option<Bytes> {
        if let Some(content) = self.contents.get(&id) {
            return Some(content.clone());
        }
        if let Some(FetchCertificate(fetch)) = self.fetch.as_ref().filter(|_| self.fetching.insert(id)) {
            let (fetching, arrivals) = (fetch(id), self.arrivals.clone());
            // Ends by itself: a fetch has its time limit, and nobody waits for it.
            drop(tokio::spawn(async move {
                let _ = arrivals.send(Arrival { config: id, content: fetching.await }).await;
            }));
        }
        None
    }

    fn say(&mut self, share: &Share, tls: &RouteTls, error: &tls::CertificateError) {
        let trouble = format!("{}: {error}", tls.certificate.config);
        let (service, port, host) = share;
        if self.trouble.get(share) != Some(&trouble) {
            tracing::warn!(%service, port, host, trouble, "a certificate is refused; what was shown before stays");
            self.trouble.insert(share.clone(), trouble);
        }
    }
}
