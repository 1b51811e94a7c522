//! Shares of ports: whose they are.
//!
//! Invariant: no two services have the same share; a port is shared or published, and speaks TLS or does not.

use skein_common::{
    FieldViolation, ServiceId,
    service::{Protocol, ServiceSpec},
};

use super::precondition;
use crate::{command::Rejection, state::ClusterState};

/// Against all other services, those being deleted included.
pub(super) fn check(state: &ClusterState, id: ServiceId, spec: &ServiceSpec) -> Result<(), Rejection> {
    let name = |id: ServiceId| {
        state.services.get(&id).map_or_else(|| id.to_string(), |service| service.spec.name.clone())
    };
    let others = |owner: &ServiceId| *owner != id;
    check_certificates(state, spec)?;
    for (position, route) in spec.routes.iter().enumerate() {
        let refuse = |why: String| Err(precondition(format!("spec.routes[{position}]: {why}")));
        for (key, has_tls) in route.takes() {
            let listen = key.listen;
            if let Some(owner) = state.route_owner(&key).filter(others) {
                return refuse(format!("{key} is routed to service {}", name(owner)));
            }
            if let Some(owner) = state.ingress_owner(Protocol::Tcp, listen).filter(others) {
                return refuse(format!("{listen}/tcp is published by service {}", name(owner)));
            }
            let mut sharing = state.sharing(listen);
            if let Some((owner, _)) = sharing.find(|(owner, other)| others(owner) && *other != has_tls) {
                let (is, other) = if has_tls { ("with", "without") } else { ("without", "with") };
                return refuse(format!("port {listen} {is} TLS: service {} shares it {other}", name(owner)));
            }
        }
    }
    Ok(())
}

/// What is no certificate at all is told to its user; whether it can be used the balancers see.
fn check_certificates(state: &ClusterState, spec: &ServiceSpec) -> Result<(), Rejection> {
    let mut violations = Vec::new();
    for (position, route) in spec.routes.iter().enumerate() {
        let Some(tls) = &route.tls else { continue };
        let key = tls.key.as_ref().unwrap_or(&tls.certificate);
        for (what, config, mark) in [
            ("certificate", &tls.certificate, "-----BEGIN CERTIFICATE-----"),
            ("private key", key, "PRIVATE KEY-----"),
        ] {
            let config = config.id.and_then(|id| state.config(id));
            let holds = |content: &[u8]| content.windows(mark.len()).any(|part| part == mark.as_bytes());
            if let Some(config) = config.filter(|config| !holds(&config.spec.content)) {
                let description = format!("config {} holds no {what} in PEM", config.spec.name);
                violations
                    .push(FieldViolation { field: format!("spec.routes[{position}].tls"), description });
            }
        }
    }
    if violations.is_empty() { Ok(()) } else { Err(Rejection::Invalid { violations }) }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use skein_common::{
        ConfigId,
        config::{ConfigRef, ConfigSpec},
        service::{PortSpec, Publish, Route, RouteTls},
    };

    use super::*;
    use crate::{
        CommandKind,
        command::Outcome,
        testing::{Cluster, spec},
    };

    fn routed(name: &str, published: Option<u16>, routes: &[(&str, u16, bool)]) -> ServiceSpec {
        let tls = || RouteTls { certificate: ConfigRef::named("cert"), key: None, redirect_from: Some(80) };
        let route = |(host, listen, has_tls): &(&str, u16, bool)| Route {
            host: (*host).to_owned(),
            path: "/".to_owned(),
            port: 8080,
            listen: *listen,
            tls: has_tls.then(tls),
        };
        let publish = Publish::Ingress { port: published };
        ServiceSpec {
            ports: vec![PortSpec { container_port: 8080, protocol: Protocol::Tcp, publish }],
            routes: routes.iter().map(route).collect(),
            ..spec(name)
        }
    }

    fn create(cluster: &mut Cluster, number: u64, spec: ServiceSpec) -> String {
        let id = ServiceId::from_random(number);
        let applied = cluster.apply(CommandKind::CreateService { id, spec: Arc::new(spec) });
        applied.outcome.err().map(|refused| refused.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_share_of_a_port_is_one_services() {
        let mut cluster = Cluster::new(1);
        let missing = create(&mut cluster, 1, routed("shop", None, &[("shop.example", 443, true)]));
        assert!(missing.contains("spec.routes[0].tls.certificate: there is no config \"cert\""), "{missing}");
        let empty =
            ConfigSpec { name: "x".to_owned(), labels: BTreeMap::new(), content: b"x".to_vec().into() };
        let id = ConfigId::from_random(8);
        assert!(cluster.apply(CommandKind::CreateConfig { id, spec: Arc::new(empty) }).outcome.is_ok());
        let mut wrong = routed("shop", None, &[("shop.example", 443, true)]);
        wrong.routes[0].tls.as_mut().unwrap().certificate = ConfigRef::named("x");
        let said = create(&mut cluster, 1, wrong);
        assert!(said.contains("spec.routes[0].tls: config x holds no certificate in PEM"), "{said}");
        assert!(said.contains("config x holds no private key in PEM"), "{said}");
        let pem = "-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n";
        let content = pem.as_bytes().to_vec().into();
        let config = Arc::new(ConfigSpec { name: "cert".to_owned(), labels: BTreeMap::new(), content });
        let made = cluster.apply(CommandKind::CreateConfig { id: ConfigId::from_random(9), spec: config });
        assert_eq!(made.outcome, Ok(Outcome::Config(ConfigId::from_random(9))));

        assert_eq!(create(&mut cluster, 1, routed("shop", None, &[("shop.example", 443, true)])), "");
        assert_eq!(create(&mut cluster, 2, routed("blog", Some(9000), &[("blog.example", 80, false)])), "");
        for (spec, expected) in [
            (
                routed("x", None, &[("shop.example", 443, true)]),
                "shop.example/ on port 443 is routed to service shop",
            ),
            (
                routed("x", None, &[("shop.example", 80, false)]),
                "shop.example/ on port 80 is routed to service shop",
            ),
            (
                routed("x", None, &[("a", 80, false), ("blog.example", 80, false)]),
                "spec.routes[1]: blog.example/ on port 80",
            ),
            (routed("x", None, &[("a", 443, false)]), "port 443 without TLS: service shop shares it with"),
            (routed("x", None, &[("a", 80, true)]), "80 is routed twice"),
            (routed("x", None, &[("a", 9000, false)]), "9000/tcp is published by service blog"),
            (routed("x", Some(443), &[]), "443/tcp is shared by routes, of service shop"),
            (routed("x", Some(80), &[]), "80/tcp is shared by routes, of service"),
        ] {
            let said = create(&mut cluster, 3, spec);
            assert!(said.contains(expected), "{said} for {expected}");
        }
        assert_eq!(create(&mut cluster, 3, routed("other", Some(81), &[("a", 80, false)])), "");
        let held = cluster.state.service(ServiceId::from_random(1)).unwrap().spec.clone();
        assert_eq!(held.routes[0].tls.as_ref().unwrap().certificate.id, Some(ConfigId::from_random(9)));
        let told = cluster.state.endpoints_of(ServiceId::from_random(1)).unwrap();
        assert_eq!(told.routes, held.routes);

        // In use, until nobody needs it.
        let delete = CommandKind::DeleteConfig { id: ConfigId::from_random(9) };
        let refused = cluster.apply(delete.clone()).outcome.unwrap_err().to_string();
        assert_eq!(refused, "config cert is used by service shop");
        let id = ServiceId::from_random(1);
        // Its own share does not stand in its way, and what it gives up is free at once.
        let moved = routed("shop", Some(443), &[("shop.example", 81, false)]);
        let updated = cluster.apply(CommandKind::UpdateService { id, expected: None, spec: Arc::new(moved) });
        assert!(updated.outcome.unwrap_err().to_string().contains("81/tcp is published by service other"));
        let moved = routed("shop", None, &[("shop.example", 80, false)]);
        let updated = cluster.apply(CommandKind::UpdateService { id, expected: None, spec: Arc::new(moved) });
        assert_eq!(updated.outcome, Ok(Outcome::Service(id)));
        assert_eq!(cluster.state.service(id).unwrap().generation.0, 1, "no instance is replaced for it");
        assert_eq!(create(&mut cluster, 4, routed("tls", None, &[("other.example", 443, true)])), "");
        assert_eq!(crate::invariant::check(&cluster.state), []);
        let bytes = rmp_serde::to_vec_named(&cluster.state).unwrap();
        assert_eq!(rmp_serde::from_slice::<ClusterState>(&bytes).unwrap(), cluster.state);
    }
}
