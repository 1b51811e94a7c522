//! Which requests on a port that services share are whose: by host and path.
//!
//! Invariant: plain values. What a route means is the same on every node; the most specific host wins, then the
//! longest path. Deliberately not here: which request matches (`agent/core`, `routes`).

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use super::{Protocol, Publish, ServiceSpec};
use crate::{ConfigId, Violations, config::ConfigRef};

/// Where routes listen when nothing is said.
pub const HTTP_PORT: u16 = 80;
/// The same with TLS.
pub const HTTPS_PORT: u16 = 443;
const MAX_ROUTES: usize = 64;
/// Of a name in the DNS.
const MAX_HOST: usize = 253;
const MAX_LABEL: usize = 63;
const MAX_PATH: usize = 1024;

/// One share of a port that every node listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// `shop.example`, `*.example` (any name below it), empty = every host. Lower case.
    pub host: String,
    /// Begins with `/`; whole segments: `/api` is also `/api/x`, and not `/apix`.
    pub path: String,
    /// Of the container.
    pub port: u16,
    /// Every node's balancer listens here, for all services that name it.
    pub listen: u16,
    #[serde(default)]
    pub tls: Option<RouteTls>,
}

/// TLS ends at the balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTls {
    /// PEM: the certificate first, then those between it and a root.
    pub certificate: ConfigRef,
    /// PEM; `None` = the key is in the certificate's config.
    #[serde(default)]
    pub key: Option<ConfigRef>,
    /// Requests without TLS on this port are sent to the port with; `None` = they are not.
    #[serde(default)]
    pub redirect_from: Option<u16>,
}

/// What one route takes of a port: no other may take the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RouteKey {
    pub listen: u16,
    pub host: String,
    pub path: String,
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = if self.host.is_empty() { "every host" } else { &self.host };
        write!(f, "{host}{} on port {}", self.path, self.listen)
    }
}

impl Route {
    /// What it takes, and whether with TLS; a redirect takes the same without.
    pub fn takes(&self) -> impl Iterator<Item = (RouteKey, bool)> + use<'_> {
        let key = |listen| RouteKey { listen, host: self.host.clone(), path: self.path.clone() };
        let redirect = self.tls.as_ref().and_then(|tls| tls.redirect_from);
        std::iter::once((key(self.listen), self.tls.is_some()))
            .chain(redirect.map(|listen| (key(listen), false)))
    }

    /// Configs that it names.
    pub fn configs(&self) -> impl Iterator<Item = &ConfigRef> {
        self.tls.iter().flat_map(|tls| std::iter::once(&tls.certificate).chain(&tls.key))
    }
}

impl ServiceSpec {
    /// Whether an instance or a route of it needs the config.
    #[must_use]
    pub fn names_config(&self, id: ConfigId) -> bool {
        self.container.configs.iter().any(|mount| mount.id == Some(id))
            || self.routes.iter().flat_map(Route::configs).any(|config| config.id == Some(id))
    }
}

pub(super) fn check(spec: &ServiceSpec, found: &mut Violations) {
    if spec.routes.len() > MAX_ROUTES {
        found.add("spec.routes", format!("{} routes, more than {MAX_ROUTES}", spec.routes.len()));
    }
    if spec.schedule.is_some() && !spec.routes.is_empty() {
        found.add("spec.routes", "runs of a schedule cannot share a route: leave it out");
    }
    let mut taken = BTreeSet::new();
    for (position, route) in spec.routes.iter().enumerate() {
        let field = format!("spec.routes[{position}]");
        check_route(spec, route, &field, found);
        for (key, _) in route.takes() {
            if !taken.insert(key.clone()) {
                found.add(field.clone(), format!("{key} is routed twice"));
            }
        }
    }
    let kinds = || spec.routes.iter().flat_map(Route::takes).map(|(key, has_tls)| (key.listen, has_tls));
    for listen in kinds().filter(|(_, has_tls)| *has_tls).map(|(listen, _)| listen).collect::<BTreeSet<_>>() {
        if kinds().any(|kind| kind == (listen, false)) {
            found.add("spec.routes", format!("port {listen} speaks TLS or not: not both"));
        }
    }
}

fn check_route(spec: &ServiceSpec, route: &Route, field: &str, found: &mut Violations) {
    if let Some(why) = wrong_host(&route.host) {
        found.add(format!("{field}.host"), format!("{:?} {why}", route.host));
    }
    let is_path = route.path.starts_with('/')
        && route.path.len() <= MAX_PATH
        && route.path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
    if !is_path {
        found.add(format!("{field}.path"), format!("{:?} is not a path that begins with /", route.path));
    }
    let is_served = |port: &super::PortSpec| {
        (port.container_port, port.protocol) == (route.port, Protocol::Tcp)
            && matches!(port.publish, Publish::Ingress { .. })
    };
    if !spec.ports.iter().any(is_served) {
        found.add(
            format!("{field}.port"),
            format!("{} is not one of spec.ports (tcp, in ingress mode)", route.port),
        );
    }
    for listen in route.takes().map(|(key, _)| key.listen).collect::<BTreeSet<_>>() {
        if listen == 0 {
            found.add(format!("{field}.listen"), "1 to 65535 is required");
        }
        if spec.ports.iter().any(|port| port.publish == Publish::Ingress { port: Some(listen) }) {
            found.add(format!("{field}.listen"), format!("{listen} is one of its published ports"));
        }
    }
    for config in route.configs() {
        config.check(&format!("{field}.tls"), found);
    }
}

/// Why it is no host; `*` stands only for whole labels in front.
fn wrong_host(host: &str) -> Option<&'static str> {
    let name = host.strip_prefix("*.").unwrap_or(host);
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_".contains(&c))
    };
    let is_name = name.len() <= MAX_HOST && name.split('.').all(is_label);
    (!host.is_empty() && !is_name)
        .then_some("is not a host: shop.example, or *.example, in lower case and without a port")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{ContainerSpec, PortSpec};

    fn route(host: &str, path: &str) -> Route {
        Route { host: host.to_owned(), path: path.to_owned(), port: 80, listen: HTTP_PORT, tls: None }
    }

    fn with_tls(route: Route, redirect_from: Option<u16>) -> Route {
        let certificate = ConfigRef::named("cert");
        Route { listen: HTTPS_PORT, tls: Some(RouteTls { certificate, key: None, redirect_from }), ..route }
    }

    fn wrong(routes: Vec<Route>, published: Option<u16>) -> String {
        let publish = Publish::Ingress { port: published };
        let ports = vec![PortSpec { container_port: 80, protocol: Protocol::Tcp, publish }];
        let spec = ServiceSpec { ports, routes, ..ServiceSpec::new("web", ContainerSpec::new("web")) };
        spec.violations().to_string()
    }

    #[test]
    fn a_route_says_what_is_wrong_with_it() {
        for host in ["", "shop.example", "*.example", "a", "x-1.y_z"] {
            assert_eq!(wrong(vec![route(host, "/")], None), "", "{host}");
        }
        for host in ["Shop.example", "shop.example:80", "*", "*.*.example", "a..b", "shop.*", " "] {
            assert!(wrong(vec![route(host, "/")], None).contains("spec.routes[0].host"), "{host}");
        }
        for path in ["", "api", "/a b", "/a?b"] {
            assert!(wrong(vec![route("", path)], None).contains("spec.routes[0].path"), "{path}");
        }
        for (routes, published, expected) in [
            (
                vec![route("", "/"), route("", "/")],
                None,
                "spec.routes[1]: every host/ on port 80 is routed twice",
            ),
            (vec![route("", "/")], Some(80), "spec.routes[0].listen: 80 is one of its published ports"),
            (vec![Route { port: 81, ..route("", "/") }], None, "spec.routes[0].port: 81 is not one of"),
            (vec![Route { listen: 0, ..route("", "/") }], None, "spec.routes[0].listen"),
            (
                vec![with_tls(route("", "/"), Some(HTTPS_PORT))],
                None,
                "spec.routes[0]: every host/ on port 443 is routed twice",
            ),
            (
                vec![with_tls(route("a", "/"), None), Route { listen: HTTPS_PORT, ..route("b", "/") }],
                None,
                "spec.routes: port 443 speaks TLS or not",
            ),
        ] {
            let said = wrong(routes, published);
            assert!(said.contains(expected), "{said} for {expected}");
        }
        assert_eq!(wrong(vec![with_tls(route("a", "/"), Some(80)), route("b", "/")], None), "");
    }
}
