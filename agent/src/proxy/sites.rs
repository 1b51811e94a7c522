//! Routes of all services → the ports that they share.
//!
//! Invariant: the only writer of sites; called by the balancer with the table it goes by.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use skein_common::{
    ServiceId,
    endpoint::ServiceEndpoints,
    service::{BalancePolicy, Route},
};

use super::{
    certificates::{Certificates, Share},
    front::Front,
    site::{Site, SiteState, Target, Tls, longest_silence},
    tls,
};

/// The ports, and their certificates.
#[derive(Debug)]
pub(crate) struct Sites {
    sites: BTreeMap<u16, Known>,
    pub(crate) certificates: Certificates,
}

/// A port, and what it was made from: endpoints change often, routes and certificates seldom.
#[derive(Debug)]
struct Known {
    made_from: Vec<String>,
    site: Arc<Site>,
}

/// A port while it is put together.
#[derive(Default)]
struct Draft {
    made_from: Vec<String>,
    state: SiteState,
    has_tls: bool,
    certificates: Vec<(String, Arc<rustls::sign::CertifiedKey>)>,
}

impl Sites {
    pub(crate) const fn new(certificates: Certificates) -> Self {
        Self { sites: BTreeMap::new(), certificates }
    }

    /// Makes the sites what the services say; `front` is who serves a service's container port.
    pub(crate) fn update(
        &mut self,
        services: &[Arc<ServiceEndpoints>],
        front: impl Fn(ServiceId, u16) -> Option<Arc<Front>>,
    ) {
        let (mut drafts, mut shares) = (BTreeMap::<u16, Draft>::new(), BTreeSet::new());
        for service in services {
            for route in &service.routes {
                let Some(front) = front(service.service, route.port) else { continue };
                let share = (service.service, route.listen, route.host.clone());
                self.draft(&mut drafts, &share, route, &service.policy, front);
                shares.insert(share);
            }
        }
        let routes = services.iter().flat_map(|service| &service.routes);
        let configs = routes.flat_map(Route::configs).filter_map(|config| config.id).collect();
        self.certificates.keep_only(&shares, &configs);
        self.sites.retain(|port, _| drafts.contains_key(port));
        for (port, draft) in drafts {
            let known = self
                .sites
                .entry(port)
                .or_insert_with(|| Known { made_from: Vec::new(), site: Arc::new(Site::new(port)) });
            if known.made_from != draft.made_from {
                known.made_from.clone_from(&draft.made_from);
                known.site.update(finished(port, draft));
            }
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (u16, &Arc<Site>)> {
        self.sites.iter().map(|(port, known)| (*port, &known.site))
    }

    fn draft(
        &mut self,
        drafts: &mut BTreeMap<u16, Draft>,
        share: &Share,
        route: &Route,
        policy: &BalancePolicy,
        front: Arc<Front>,
    ) {
        let draft = drafts.entry(route.listen).or_default();
        draft.add(route, policy, Target::Service(front));
        let Some(tls) = &route.tls else { return };
        draft.has_tls = true;
        if let Some(certificate) = self.certificates.of(share, tls) {
            draft.made_from.push(format!("{} shows {:p}", route.host, Arc::as_ptr(&certificate)));
            draft.certificates.push((route.host.clone(), certificate));
        }
        if let Some(port) = tls.redirect_from {
            drafts.entry(port).or_default().add(route, policy, Target::Redirect(route.listen));
        }
    }
}

impl Draft {
    fn add(&mut self, route: &Route, policy: &BalancePolicy, target: Target) {
        let (host, path, from) = (&route.host, &route.path, &policy.proxy_from);
        let to = match &target {
            Target::Service(front) => format!("{:p}", Arc::as_ptr(front)),
            Target::Redirect(port) => port.to_string(),
        };
        self.made_from.push(format!(
            "{host}{path} {to} {:?} {from:?} {}",
            longest_silence(policy),
            route.tls.is_some()
        ));
        self.state.routes.insert(&route.host, &route.path, target);
        self.state.idle = self.state.idle.max(longest_silence(policy)).max(Duration::from_secs(1));
        for range in &policy.proxy_from {
            if !self.state.proxy_from.contains(range) {
                self.state.proxy_from.push(*range);
            }
        }
    }
}

fn finished(port: u16, draft: Draft) -> SiteState {
    let tls = match tls::config(&draft.certificates) {
        _ if !draft.has_tls => Tls::Off,
        Ok(Some(config)) => Tls::On(config),
        Ok(None) => Tls::Waiting,
        Err(error) => {
            tracing::error!(port, error = &error as &dyn std::error::Error, "TLS cannot be spoken");
            Tls::Waiting
        }
    };
    SiteState { tls, ..draft.state }
}
