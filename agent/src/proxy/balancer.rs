//! Table of endpoints → fronts and listeners.
//!
//! Invariant: the only writer of fronts. What the masters say is taken over whole, service by service; a port that cannot
//! be listened on is said once and tried again. Masters that are gone change nothing.
//! Deliberately not here: traffic (`thread`, `http`, `tcp`), the choice of endpoint (`agent/core`).

mod datagrams;
mod inward;

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use skein_agent_core::{
    EndpointTable, Verdict,
    balance::{self, Load},
};
use skein_common::{
    InstanceId,
    endpoint::{BalancedPort, Endpoint, EndpointsUpdate, ServiceEndpoints},
    service::Protocol,
};
use tokio::{
    net,
    sync::{mpsc, oneshot, watch},
    time::{self, Instant},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::names::{Names, NamesConfig};

use self::inward::Inward;
use super::{
    certificates::{Certificates, FetchCertificate},
    checks,
    front::Front,
    meter::{Key, LoadMeter},
    site::Entry,
    sites::Sites,
    thread::Threads,
};

/// One session tells one thing at a time.
const REQUESTS: usize = 4;
/// A port that was taken, a name that was unknown: tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// How soon it is told that the last request of an endpoint that left is over.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Of one name.
const RESOLVE_WITHIN: Duration = Duration::from_secs(2);

/// What this node serves with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Published ports are listened on at this address.
    pub ingress: IpAddr,
    pub threads: usize,
}

#[derive(Debug)]
enum Request {
    /// A session begins. Answered when nothing that was told before is said to hold any more.
    Begin {
        reply: oneshot::Sender<()>,
    },
    Apply {
        update: EndpointsUpdate,
        reply: oneshot::Sender<Verdict>,
    },
}

/// The way to the balancer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BalancerHandle {
    requests: mpsc::Sender<Request>,
    applied: watch::Receiver<Applied>,
    meter: Arc<LoadMeter>,
}

/// What new requests go by, and which endpoints of earlier ones still have some.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    pub generation: u64,
    /// In order, each once.
    pub busy: Vec<InstanceId>,
}

impl BalancerHandle {
    /// A leader welcomed this node: it will tell everything first. What the balancer goes by from then on, live.
    pub async fn begin_session(&self) -> watch::Receiver<Applied> {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(Request::Begin { reply }).await.is_ok() {
            // Not earlier: this leader would take what another one told for what it tells itself.
            let _ = answer.await;
        }
        self.applied.clone()
    }

    /// What the balancer measures.
    #[must_use]
    pub const fn meter(&self) -> &Arc<LoadMeter> {
        &self.meter
    }

    /// What the leader of this session tells. Answers when new requests go by it; `None` when the agent ends.
    pub async fn apply(&self, update: EndpointsUpdate) -> Option<Verdict> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Apply { update, reply }).await.ok()?;
        answer.await.ok()
    }
}

/// The control side; [`Balancer::run`] is to be spawned.
pub struct Balancer {
    config: ProxyConfig,
    requests: mpsc::Receiver<Request>,
    table: EndpointTable,
    threads: Option<Threads>,
    served: BTreeMap<Key, Served>,
    /// The same of ports for datagrams.
    datagrams: BTreeMap<Key, Served>,
    sites: Sites,
    /// Ports of routes, and why one is not listened on.
    shared: BTreeMap<u16, Result<DropGuard, String>>,
    meter: Arc<LoadMeter>,
    inward: Option<Inward>,
    names: BTreeMap<String, IpAddr>,
    /// Endpoints no more, and their requests that are under way.
    leaving: Vec<(InstanceId, Arc<Load>)>,
    applied: watch::Sender<Applied>,
    /// When what could not be done is tried again.
    retry_at: Option<Instant>,
    stop: CancellationToken,
}

/// A port of a service.
struct Served {
    front: Arc<Front>,
    /// Ends the listening when it goes.
    listening: Option<DropGuard>,
    /// Ends the balancer's own checks when it goes.
    checking: Option<DropGuard>,
    /// Why it is not listening; said once.
    trouble: String,
}

impl Served {
    fn new(service: &ServiceEndpoints) -> Self {
        Self {
            front: Arc::new(Front::new(service.name.clone(), service.policy.clone())),
            listening: None,
            checking: None,
            trouble: String::new(),
        }
    }
}

impl Balancer {
    /// Listens nowhere yet.
    #[must_use]
    pub fn new(config: ProxyConfig, stop: CancellationToken) -> (Self, BalancerHandle) {
        let (sender, requests) = mpsc::channel(REQUESTS);
        let (applied, seen) = watch::channel(Applied::default());
        let meter = Arc::new(LoadMeter::new());
        let balancer = Self {
            config,
            requests,
            table: EndpointTable::default(),
            threads: None,
            served: BTreeMap::new(),
            datagrams: BTreeMap::new(),
            sites: Sites::new(Certificates::new(None)),
            shared: BTreeMap::new(),
            meter: Arc::clone(&meter),
            inward: None,
            names: BTreeMap::new(),
            leaving: Vec::new(),
            applied,
            retry_at: None,
            stop,
        };
        (balancer, BalancerHandle { requests: sender, applied: seen, meter })
    }

    /// Certificates of routes are had from here; without it no port speaks TLS.
    #[must_use]
    pub fn with_certificates(mut self, fetch: FetchCertificate) -> Self {
        self.sites = Sites::new(Certificates::new(Some(fetch)));
        self
    }

    /// Services are reached by name; without it by their published ports only.
    #[must_use]
    pub fn with_names(mut self, names: Names, config: NamesConfig) -> Self {
        self.inward = Some(Inward::new(names, config));
        self
    }

    /// Until the token it was made with ends.
    pub async fn run(mut self) {
        let stop = self.stop.clone();
        loop {
            let retry_at = self.retry_at;
            tokio::select! {
                () = stop.cancelled() => return,
                request = self.requests.recv() => match request {
                    Some(Request::Begin { reply }) => {
                        self.table.begin_session();
                        self.publish();
                        let _ = reply.send(());
                    }
                    Some(Request::Apply { update, reply }) => {
                        let verdict = self.table.apply(update);
                        if verdict == Verdict::Accepted {
                            self.serve().await;
                            self.publish();
                        }
                        let _ = reply.send(verdict);
                    }
                    None => return,
                },
                Some(arrival) = self.sites.certificates.arrival() => {
                    if self.sites.certificates.take(arrival) {
                        self.serve_routes(&self.services()).await;
                    } else {
                        self.retry_at = Some(Instant::now() + TRY_AGAIN);
                    }
                }
                () = time::sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {
                    self.serve().await;
                    self.publish();
                }
                () = time::sleep(LOOK_EVERY), if !self.leaving.is_empty() => self.publish(),
            }
        }
    }

    /// Makes fronts and listeners what the table says.
    async fn serve(&mut self) {
        self.retry_at = None;
        let services = self.services();
        let wanted: BTreeSet<Key> = services.iter().flat_map(|service| keys(service)).collect();
        // First, so that a port can pass from one service to another.
        let (kept, gone) =
            std::mem::take(&mut self.served).into_iter().partition(|(key, _)| wanted.contains(key));
        self.served = kept;
        for served in gone.into_values() {
            self.leaving.extend(served.front.leave());
        }
        for service in &services {
            for port in tcp_ports(service) {
                let endpoints = self.resolve(&port.endpoints).await;
                self.serve_port(service, port, endpoints).await;
            }
        }
        self.serve_datagrams(&services).await;
        // Of a port number that is served for both, the connections are measured.
        let fronts = self.datagrams.iter().chain(&self.served);
        let fronts = fronts.map(|(key, served)| (*key, Arc::clone(&served.front)));
        self.meter.serve(fronts.collect());
        self.serve_names(&services).await;
        self.serve_routes(&services).await;
    }

    fn services(&self) -> Vec<Arc<ServiceEndpoints>> {
        self.table.services().cloned().collect()
    }

    /// Makes shared ports what the routes say.
    async fn serve_routes(&mut self, services: &[Arc<ServiceEndpoints>]) {
        let served = &self.served;
        self.sites.update(services, |service, port| {
            let first = (service, port, None);
            let mut fronts = served.range(first..).take_while(|(key, _)| (key.0, key.1) == (service, port));
            fronts.next().map(|(_, served)| Arc::clone(&served.front))
        });
        let sites: BTreeMap<u16, Entry> =
            self.sites.all().map(|(port, site)| (port, Entry::Site(Arc::clone(site)))).collect();
        self.shared.retain(|port, _| sites.contains_key(port));
        for (port, entry) in sites {
            if matches!(self.shared.get(&port), Some(Ok(_))) {
                continue;
            }
            let listened = self.listen(port, &entry).await.map_err(|error| error.to_string());
            if let Err(error) = &listened {
                self.retry_at = Some(Instant::now() + TRY_AGAIN);
                if !matches!(self.shared.get(&port), Some(Err(known)) if known == error) {
                    tracing::warn!(port, address = %self.config.ingress, error, "routes cannot be served on this node; trying on");
                }
            }
            self.shared.insert(port, listened);
        }
    }

    /// Says what holds now, when that is something else.
    fn publish(&mut self) {
        self.leaving.retain(|(_, load)| load.in_flight() > 0);
        let mut busy: Vec<InstanceId> = self.leaving.iter().map(|(instance, _)| *instance).collect();
        busy.sort_unstable();
        busy.dedup();
        let applied = Applied { generation: self.table.generation(), busy };
        self.applied.send_if_modified(|known| {
            let is_new = *known != applied;
            *known = applied;
            is_new
        });
    }

    async fn serve_port(
        &mut self,
        service: &ServiceEndpoints,
        port: &BalancedPort,
        endpoints: Vec<balance::Endpoint>,
    ) {
        let served = self.served.entry(key(service, port)).or_insert_with(|| Served::new(service));
        self.leaving.extend(served.front.update(&service.policy, &endpoints));
        match (&service.policy.check, &served.checking) {
            (Some(_), None) => {
                let checking = self.stop.child_token();
                tokio::spawn(checks::run(Arc::clone(&served.front), checking.clone()));
                served.checking = Some(checking.drop_guard());
            }
            (None, Some(_)) => {
                served.checking = None;
                served.front.end_checks();
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        let (Some(published), None) = (port.published, &served.listening) else { return };
        let entry = Entry::Front(Arc::clone(&served.front));
        let listened = self.listen(published, &entry).await;
        let Some(served) = self.served.get_mut(&key(service, port)) else { return };
        match listened {
            Ok(listening) => {
                tracing::info!(service = service.name, port = published, address = %self.config.ingress, "a published port is served");
                served.trouble.clear();
                served.listening = Some(listening);
            }
            Err(error) => {
                self.retry_at = Some(Instant::now() + TRY_AGAIN);
                let trouble = error.to_string();
                if served.trouble != trouble {
                    let error = &error as &dyn Error;
                    tracing::warn!(service = service.name, port = published, address = %self.config.ingress, error, "a published port cannot be served on this node; trying on");
                    served.trouble = trouble;
                }
            }
        }
    }

    async fn listen(&mut self, port: u16, entry: &Entry) -> io::Result<DropGuard> {
        self.listen_at(SocketAddr::new(self.config.ingress, port), entry).await
    }

    async fn listen_at(&mut self, address: SocketAddr, entry: &Entry) -> io::Result<DropGuard> {
        let listening = self.stop.child_token();
        self.threads()?.listen(address, entry, &listening).await?;
        Ok(listening.drop_guard())
    }

    fn threads(&mut self) -> io::Result<&Threads> {
        let threads = match self.threads.take() {
            Some(threads) => threads,
            // Not before they are needed: most agents of a test have none.
            None => Threads::start(self.config.threads, &self.stop)?,
        };
        Ok(self.threads.insert(threads))
    }

    /// Endpoints whose hosts are known; names are asked for once.
    async fn resolve(&mut self, endpoints: &[Endpoint]) -> Vec<balance::Endpoint> {
        let mut resolved = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let Some(address) = self.address(&endpoint.host).await else { continue };
            resolved.push(balance::Endpoint {
                instance: endpoint.instance,
                address: SocketAddr::new(address, endpoint.port),
                weight: endpoint.weight,
            });
        }
        resolved
    }

    async fn address(&mut self, host: &str) -> Option<IpAddr> {
        if let Some(known) = host.parse().ok().or_else(|| self.names.get(host).copied()) {
            return Some(known);
        }
        let found = time::timeout(RESOLVE_WITHIN, net::lookup_host((host, 0))).await;
        let address = found.ok().and_then(Result::ok).and_then(|mut found| found.next());
        match address {
            Some(address) => {
                self.names.insert(host.to_owned(), address.ip());
                Some(address.ip())
            }
            None => {
                tracing::warn!(
                    host,
                    "the host name of a node is unknown here; its instances get no requests"
                );
                self.retry_at = Some(Instant::now() + TRY_AGAIN);
                None
            }
        }
    }
}

fn tcp_ports(service: &ServiceEndpoints) -> impl Iterator<Item = &BalancedPort> {
    service.ports.iter().filter(|port| port.protocol == Protocol::Tcp)
}

fn keys(service: &ServiceEndpoints) -> impl Iterator<Item = Key> {
    tcp_ports(service).map(|port| key(service, port))
}

fn key(service: &ServiceEndpoints, port: &BalancedPort) -> Key {
    (service.service, port.container_port, port.published)
}
