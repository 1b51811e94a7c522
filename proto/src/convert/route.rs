//! Routes. Written by users, so every violation is collected.

use skein_common::{
    config::ConfigRef,
    service::{HTTP_PORT, HTTPS_PORT, Route, RouteTls},
};

use super::service::Door;
use crate::v1;

pub(super) fn routes(door: &mut Door<'_>, field: &str, wire: Vec<v1::Route>) -> Vec<Route> {
    wire.into_iter()
        .enumerate()
        .map(|(position, wire)| route(door, &format!("{field}[{position}]"), wire))
        .collect()
}

fn route(door: &mut Door<'_>, field: &str, wire: v1::Route) -> Route {
    let tls = wire.tls.map(|wire| RouteTls {
        certificate: wire.certificate.map(ConfigRef::from).unwrap_or_else(|| ConfigRef::named("")),
        key: wire.key.map(ConfigRef::from),
        redirect_from: Some(door.port(&format!("{field}.tls.redirect_from"), wire.redirect_from))
            .filter(|port| *port > 0),
    });
    let listen = match wire.listen {
        0 if tls.is_some() => HTTPS_PORT,
        0 => HTTP_PORT,
        number => door.port(&format!("{field}.listen"), number),
    };
    Route {
        host: wire.host,
        path: if wire.path.is_empty() { "/".to_owned() } else { wire.path },
        port: door.port(&format!("{field}.port"), wire.port),
        listen,
        tls,
    }
}

impl From<&Route> for v1::Route {
    fn from(route: &Route) -> Self {
        Self {
            host: route.host.clone(),
            path: route.path.clone(),
            port: route.port.into(),
            listen: route.listen.into(),
            tls: route.tls.as_ref().map(|tls| v1::RouteTls {
                certificate: Some((&tls.certificate).into()),
                key: tls.key.as_ref().map(v1::ConfigRef::from),
                redirect_from: tls.redirect_from.unwrap_or(0).into(),
            }),
        }
    }
}

impl From<v1::ConfigRef> for ConfigRef {
    /// The id is the cluster's to say: what is no id counts as none.
    fn from(wire: v1::ConfigRef) -> Self {
        Self { config: wire.config, id: wire.config_id.parse().ok() }
    }
}

impl From<&ConfigRef> for v1::ConfigRef {
    fn from(config: &ConfigRef) -> Self {
        Self {
            config: config.config.clone(),
            config_id: config.id.map(|id| id.to_string()).unwrap_or_default(),
        }
    }
}
