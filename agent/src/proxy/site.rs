//! A port that services share: routes and certificates now.
//!
//! Invariant: what is configured is a value that is swapped whole; a connection goes on with the certificate it began
//! with, a request with the route it was given.

use std::{net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use skein_agent_core::routes::RouteTable;
use skein_common::{cidr::Cidr, service::BalancePolicy};

use super::front::Front;

/// What a route leads to.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Service(Arc<Front>),
    /// The same with TLS, on this port.
    Redirect(u16),
}

/// Whether connections begin with TLS.
#[derive(Debug, Clone, Default)]
pub(crate) enum Tls {
    #[default]
    Off,
    /// No certificate has come yet.
    Waiting,
    On(Arc<ServerConfig>),
}

#[derive(Debug, Default)]
pub(crate) struct SiteState {
    pub(crate) routes: RouteTable<Target>,
    pub(crate) tls: Tls,
    /// Of all services: who connects from here says for whom.
    pub(crate) proxy_from: Vec<Cidr>,
    /// The longest of all services.
    pub(crate) idle: Duration,
}

#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) port: u16,
    state: ArcSwap<SiteState>,
}

impl Site {
    /// Nobody's yet.
    pub(crate) fn new(port: u16) -> Self {
        Self { port, state: ArcSwap::from_pointee(SiteState::default()) }
    }

    pub(crate) fn update(&self, state: SiteState) {
        self.state.store(Arc::new(state));
    }

    pub(crate) fn state(&self) -> Arc<SiteState> {
        self.state.load_full()
    }
}

/// What listens on a port: one service, or routes.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    Front(Arc<Front>),
    Site(Arc<Site>),
}

impl Entry {
    /// For people.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Front(front) => front.name.clone(),
            Self::Site(site) => format!("routes of port {}", site.port),
        }
    }

    /// Who connects from here says first for whom.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        let is_in = |ranges: &[Cidr]| ranges.iter().any(|range| range.contains(address));
        match self {
            Self::Front(front) => is_in(&front.state().policy.proxy_from),
            Self::Site(site) => is_in(&site.state().proxy_from),
        }
    }

    /// How long nothing may move on a client's connection.
    pub(crate) fn idle(&self) -> Duration {
        match self {
            Self::Front(front) => longest_silence(&front.state().policy),
            Self::Site(site) => site.state().idle,
        }
    }
}

/// Who waits for an answer is not idle.
pub(crate) fn longest_silence(policy: &BalancePolicy) -> Duration {
    policy.timeouts.idle.max(policy.timeouts.request)
}
