//! `ports`: `[published:]target[/protocol]` with ranges, or the long form.
//!
//! Invariant: an address to bind to is never dropped in silence: who wrote 127.0.0.1 did not
//! want the port to be open to everyone, so it is refused (`docker stack deploy` opens it).

use std::ops::RangeInclusive;

use skein_common::service::{PortSpec, Protocol, Publish};

use super::{
    diagnostic::{Position, Report},
    field::Field,
    keys,
    origin::Origins,
    yaml::Value,
};

/// Ranges that are longer are a mistake; the cluster's own limit is lower still.
const MAX_RANGE: u16 = 1000;
const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];

pub fn read(field: &Field<'_>, origins: &mut Origins, report: &mut Report) -> Vec<PortSpec> {
    let mut found: Vec<(PortSpec, String, Position)> = Vec::new();
    for item in field.items(report).unwrap_or_default() {
        let ports = match &item.node.value {
            Value::Map(_) => long(&item, report).into_iter().collect(),
            _ => short(&item, report).unwrap_or_default(),
        };
        found.extend(ports.into_iter().map(|port| (port, item.path.clone(), item.node.at)));
    }
    // Sorted, as Docker does: another order in the file is no new spec.
    found.sort_by_key(|(port, _, _)| (port.container_port, port.protocol, published(port)));
    origins.add("spec.ports", &field.path, field.node.at);
    for (position, (_, path, at)) in found.iter().enumerate() {
        origins.add(format!("spec.ports[{position}]"), path, *at);
    }
    found.into_iter().map(|(port, _, _)| port).collect()
}

fn published(port: &PortSpec) -> Option<u16> {
    match port.publish {
        Publish::Ingress { port } => port,
        Publish::Host { port } => Some(port),
    }
}

fn short(item: &Field<'_>, report: &mut Report) -> Option<Vec<PortSpec>> {
    let text = item.text(report)?;
    parse_short(&text).map_err(|message| item.error(report, message)).ok()
}

/// `80`, `8080:80`, `8000-8010:80-90/udp`, `8000-8010:80`.
fn parse_short(text: &str) -> Result<Vec<PortSpec>, String> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, name)) => {
            let known = PROTOCOLS.iter().find(|(known, _)| *known == name.to_lowercase());
            let (_, protocol) = known.ok_or_else(|| format!("{name:?} is not one of tcp, udp"))?;
            (ports, *protocol)
        }
        None => (text, Protocol::Tcp),
    };
    let (outside, target) =
        ports.rsplit_once(':').map_or((None, ports), |(outside, target)| (Some(outside), target));
    let outside = match outside.and_then(|outside| outside.rsplit_once(':')) {
        Some(("0.0.0.0" | "[::]" | "::", port)) => Some(port),
        Some((address, _)) => {
            return Err(format!(
                "the address {address} cannot be honoured: a service listens on every node; remove it \
                 to open the port everywhere"
            ));
        }
        None => outside,
    };
    let target = range(target)?;
    let outside = outside.filter(|outside| !outside.is_empty()).map(range).transpose()?;
    let pairs: Vec<(u16, Option<u16>)> = match outside {
        None => target.map(|port| (port, None)).collect(),
        Some(outside) if outside.len() == target.len() => target.zip(outside.map(Some)).collect(),
        Some(outside) if target.len() == 1 => outside.map(|port| (*target.start(), Some(port))).collect(),
        Some(_) => return Err(format!("{text:?}: the two ranges differ in length")),
    };
    let port =
        |(container_port, port)| PortSpec { container_port, protocol, publish: Publish::Ingress { port } };
    Ok(pairs.into_iter().map(port).collect())
}

fn range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let port = |part: &str| {
        let number = part.parse::<u16>().ok().filter(|number| *number > 0);
        number.ok_or_else(|| format!("{part:?} is not a port: a number from 1 to 65535"))
    };
    let (start, end) = match text.split_once('-') {
        Some((start, end)) => (port(start)?, port(end)?),
        None => (port(text)?, port(text)?),
    };
    if start > end {
        return Err(format!("the range {text} is upside down"));
    }
    if end - start >= MAX_RANGE {
        return Err(format!("the range {text} has more than {MAX_RANGE} ports"));
    }
    Ok(start..=end)
}

fn long(item: &Field<'_>, report: &mut Report) -> Option<PortSpec> {
    let section = item.section(keys::PORT, report)?;
    let protocol = section.get("protocol").map(|field| field.choice(&PROTOCOLS, report));
    let is_host = section
        .get("mode")
        .map(|field| field.choice(&[("ingress", false), ("host", true)], report))
        .unwrap_or(Some(false));
    let number = |field: Field<'_>, low: u64, report: &mut Report| {
        field.integer(low, 65_535, report).and_then(|number| u16::try_from(number).ok())
    };
    let outside = section.get("published").map(|field| number(field, 0, report));
    let Some(target) = section.get("target") else {
        item.error(report, "target is required: the port in the container");
        return None;
    };
    let container_port = number(target, 1, report)?;
    let outside = match outside {
        Some(number) => Some(number?).filter(|number| *number > 0),
        None => None,
    };
    let publish = match (is_host?, outside) {
        (false, port) => Publish::Ingress { port },
        (true, Some(port)) => Publish::Host { port },
        (true, None) => {
            item.error(report, "published is required with mode: host");
            return None;
        }
    };
    Some(PortSpec { container_port, protocol: protocol.unwrap_or(Some(Protocol::Tcp))?, publish })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ingress(container_port: u16, port: Option<u16>, protocol: Protocol) -> PortSpec {
        PortSpec { container_port, protocol, publish: Publish::Ingress { port } }
    }

    #[test]
    fn short_form() {
        use Protocol::{Tcp, Udp};
        for (text, ports) in [
            ("80", vec![ingress(80, None, Tcp)]),
            ("8080:80", vec![ingress(80, Some(8080), Tcp)]),
            (":80", vec![ingress(80, None, Tcp)]),
            ("53:53/udp", vec![ingress(53, Some(53), Udp)]),
            ("53:53/TCP", vec![ingress(53, Some(53), Tcp)]),
            ("80-81", vec![ingress(80, None, Tcp), ingress(81, None, Tcp)]),
            ("90-91:80-81", vec![ingress(80, Some(90), Tcp), ingress(81, Some(91), Tcp)]),
            ("90-91:80", vec![ingress(80, Some(90), Tcp), ingress(80, Some(91), Tcp)]),
            ("0.0.0.0:8080:80", vec![ingress(80, Some(8080), Tcp)]),
            ("[::]:8080:80", vec![ingress(80, Some(8080), Tcp)]),
        ] {
            assert_eq!(parse_short(text), Ok(ports), "{text}");
        }
    }

    #[test]
    fn short_form_refused() {
        for (text, error) in [
            ("", "not a port"),
            ("http", "not a port"),
            ("0", "not a port"),
            ("70000", "not a port"),
            ("80:", "not a port"),
            ("80/sctp", "not one of tcp, udp"),
            ("91-90:80-81", "upside down"),
            ("90-92:80-81", "differ in length"),
            ("1-5000", "more than 1000"),
            ("127.0.0.1:8080:80", "cannot be honoured"),
            ("[::1]:8080:80", "cannot be honoured"),
        ] {
            let found = parse_short(text).expect_err(text);
            assert!(found.contains(error), "{text}: {found}");
        }
    }
}
