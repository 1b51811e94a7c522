//! `x-skein.routes`: which requests on a port of every node, shared with other services, are this service's.
//!
//! Invariant: a port of the container that only a route names is among the spec's ports, published nowhere else.

use skein_common::{
    config::ConfigRef,
    service::{HTTP_PORT, HTTPS_PORT, PortSpec, Protocol, Publish, Route, RouteTls, ServiceSpec},
};

use super::{
    configs::Configs,
    diagnostic::Report,
    field::{Field, Section},
    keys,
    origin::Origins,
    yaml::Value,
};

pub fn read(
    field: &Field<'_>,
    spec: &mut ServiceSpec,
    configs: &Configs,
    origins: &mut Origins,
    report: &mut Report,
) {
    origins.add("spec.routes", &field.path, field.node.at);
    for item in field.items(report).unwrap_or_default() {
        let Some(route) = route(&item, spec, configs, report) else { continue };
        origins.add(format!("spec.routes[{}]", spec.routes.len()), &item.path, item.node.at);
        let is_known = |port: &PortSpec| (port.container_port, port.protocol) == (route.port, Protocol::Tcp);
        if !spec.ports.iter().any(is_known) {
            let publish = Publish::Ingress { port: None };
            spec.ports.push(PortSpec { container_port: route.port, protocol: Protocol::Tcp, publish });
        }
        spec.routes.push(route);
    }
    // Like those that are written: another order in the file is no new spec.
    spec.ports.sort_by_key(|port| (port.container_port, port.protocol));
}

fn route(item: &Field<'_>, spec: &ServiceSpec, configs: &Configs, report: &mut Report) -> Option<Route> {
    let section = item.section(keys::ROUTE, report)?;
    let text = |key: &str, report: &mut Report| section.get(key).and_then(|field| field.text(report));
    let tls = match section.get("tls") {
        Some(field) => Some(tls(&field, configs, report)?),
        None => None,
    };
    let listen = if tls.is_some() { HTTPS_PORT } else { HTTP_PORT };
    let port = match section.get("port") {
        Some(field) => port(&field, report)?,
        None => only_port(item, spec, report)?,
    };
    Some(Route {
        host: text("host", report).unwrap_or_default().to_lowercase(),
        path: text("path", report).unwrap_or_else(|| "/".to_owned()),
        port,
        listen: section.get("listen").map_or(Some(listen), |field| self::port(&field, report))?,
        tls,
    })
}

fn only_port(item: &Field<'_>, spec: &ServiceSpec, report: &mut Report) -> Option<u16> {
    let mut ports: Vec<u16> = spec.ports.iter().map(|port| port.container_port).collect();
    ports.dedup();
    if let [port] = ports.as_slice() {
        return Some(*port);
    }
    item.error(report, "port is required: the port in the container");
    None
}

fn port(field: &Field<'_>, report: &mut Report) -> Option<u16> {
    field.integer(1, 65_535, report).and_then(|number| u16::try_from(number).ok())
}

/// The name of a config that holds certificate and key, or `{ certificate, key, redirect }`.
fn tls(field: &Field<'_>, configs: &Configs, report: &mut Report) -> Option<RouteTls> {
    if !matches!(field.node.value, Value::Map(_)) {
        let certificate = config(field, configs, report)?;
        return Some(RouteTls { certificate, key: None, redirect_from: Some(HTTP_PORT) });
    }
    let section = field.section(keys::ROUTE_TLS, report)?;
    let Some(certificate) = section.get("certificate") else {
        field.error(report, "certificate is required: a config of the top-level configs");
        return None;
    };
    let certificate = config(&certificate, configs, report)?;
    let key = match section.get("key") {
        Some(field) => Some(config(&field, configs, report)?),
        None => None,
    };
    Some(RouteTls { certificate, key, redirect_from: redirect(&section, report)? })
}

/// `true` (port 80, the default), `false`, or another port.
fn redirect(section: &Section<'_>, report: &mut Report) -> Option<Option<u16>> {
    let Some(field) = section.get("redirect") else { return Some(Some(HTTP_PORT)) };
    match &field.node.value {
        Value::Scalar(scalar) if scalar.text.starts_with(|first: char| first.is_ascii_digit()) => {
            port(&field, report).map(Some)
        }
        _ => field.boolean(report).map(|redirects| redirects.then_some(HTTP_PORT)),
    }
}

fn config(field: &Field<'_>, configs: &Configs, report: &mut Report) -> Option<ConfigRef> {
    let name = field.text(report)?;
    let Some(declared) = configs.get(&name) else {
        let near = keys::nearest(&name, configs.keys().map(String::as_str));
        let hint = near.map_or_else(
            || "declare it under the top-level configs".to_owned(),
            |near| format!("did you mean {near}?"),
        );
        field.error(report, format!("the config {name} is not declared; {hint}"));
        return None;
    };
    Some(ConfigRef::named(&declared.name))
}
