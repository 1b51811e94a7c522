//! Names of services: a question and who asks → an answer.
//!
//! Invariant: a function of what the masters told; an answer is immediate, also that there is no such name. A service's
//! own stack comes first; what no service could be called is somebody else's to answer.
//! Deliberately not here: packets, sockets, other name servers (the `agent` crate).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use skein_common::{
    InstanceId, ServiceId,
    endpoint::{BalancedPort, Endpoint, ServiceEndpoints},
    service::Protocol,
};

/// Before the name of a service: its instances, one by one.
const TASKS: &str = "tasks";

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An IPv4 address.
    A,
    /// Ports.
    Srv,
    /// Everything there is.
    Any,
    /// Of a name that may be ours, but there is none: IPv6 addresses and the like.
    Nothing,
    /// Of the tree of names, which is not ours: NS, SOA, keys.
    Other,
}

/// One thing that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    Address(Ipv4Addr),
    /// `target` has it at its address.
    Port {
        port: u16,
        target: String,
        address: Ipv4Addr,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The name is ours; without facts there is nothing of this kind.
    Facts(Vec<Fact>),
    /// The name would be ours, and nobody has it.
    NoSuchName,
    /// Others know.
    NotOurs,
}

/// Names of all services. Names are compared in lower case.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    services: BTreeMap<ServiceId, Arc<ServiceEndpoints>>,
    /// By the whole name, `shop_web`.
    whole: BTreeMap<String, ServiceId>,
    /// By stack and the name within it.
    short: BTreeMap<(String, String), ServiceId>,
    stacks: BTreeSet<String>,
}

/// A name taken apart.
struct Asked<'a> {
    /// Only ports of this protocol.
    protocol: Option<Protocol>,
    /// Only this port.
    port: Option<u16>,
    /// Instances instead of the service; of one instance only.
    tasks: bool,
    instance: Option<InstanceId>,
    /// `web` or `web.shop`.
    rest: &'a str,
}

impl Zone {
    pub fn new<'a>(services: impl IntoIterator<Item = &'a Arc<ServiceEndpoints>>) -> Self {
        let mut zone = Self::default();
        for service in services {
            let (name, stack) = (service.name.to_ascii_lowercase(), service.stack.to_ascii_lowercase());
            zone.services.insert(service.service, Arc::clone(service));
            if !stack.is_empty() {
                zone.stacks.insert(stack.clone());
            }
            if service.address.is_none() {
                continue;
            }
            if let Some(short) = name.strip_prefix(&stack).and_then(|rest| rest.strip_prefix('_')) {
                zone.short.insert((stack.clone(), short.to_owned()), service.service);
            }
            zone.whole.insert(name, service.service);
        }
        zone
    }

    /// Of which stack a service is.
    #[must_use]
    pub fn stack_of(&self, service: ServiceId) -> Option<&str> {
        let stack = self.services.get(&service).map(|service| service.stack.as_str());
        stack.filter(|stack| !stack.is_empty())
    }

    /// What a container of `stack` is told; `name` without the last dot.
    #[must_use]
    pub fn answer(&self, stack: Option<&str>, name: &str, kind: Kind) -> Answer {
        if kind == Kind::Other {
            return Answer::NotOurs;
        }
        let name = name.to_ascii_lowercase();
        let stack = stack.unwrap_or_default().to_ascii_lowercase();
        let asked = Asked::read(&name);
        match self.find(&stack, asked.rest) {
            Some(service) => facts(service, &asked, kind),
            None if self.is_ours(&stack, asked.rest) => Answer::NoSuchName,
            None => Answer::NotOurs,
        }
    }

    fn find(&self, stack: &str, name: &str) -> Option<&ServiceEndpoints> {
        let short = |stack: &str, name: &str| self.short.get(&(stack.to_owned(), name.to_owned()));
        let of_stack = || {
            let (name, stack) = name.rsplit_once('.')?;
            short(stack, name)
        };
        let id = short(stack, name).or_else(|| self.whole.get(name)).or_else(of_stack)?;
        self.services.get(id).map(Arc::as_ref)
    }

    /// A word alone is nobody else's, and below a stack nobody else shall answer: a service that is gone would be
    /// whoever has that name on the Internet.
    fn is_ours(&self, stack: &str, name: &str) -> bool {
        match name.rsplit_once('.') {
            None => !name.is_empty(),
            Some((_, last)) => last == stack || self.stacks.contains(last),
        }
    }
}

impl<'a> Asked<'a> {
    /// `[[_PORT.]_tcp.][[INSTANCE.]tasks.]web[.shop]`.
    fn read(name: &'a str) -> Self {
        let mut asked = Self { protocol: None, port: None, tasks: false, instance: None, rest: name };
        if let Some((port, rest)) = split(name).and_then(|(first, rest)| {
            let port = first.strip_prefix('_')?.parse().ok()?;
            Some((port, rest)).filter(|(_, rest)| rest.starts_with("_tcp.") || rest.starts_with("_udp."))
        }) {
            (asked.port, asked.rest) = (Some(port), rest);
        }
        for (word, protocol) in [("_tcp", Protocol::Tcp), ("_udp", Protocol::Udp)] {
            if let Some((_, rest)) = split(asked.rest).filter(|(first, _)| *first == word) {
                (asked.protocol, asked.rest) = (Some(protocol), rest);
            }
        }
        if let Some((first, rest)) = split(asked.rest) {
            if first == TASKS {
                (asked.tasks, asked.rest) = (true, rest);
            } else if let (Ok(instance), Some((TASKS, rest))) = (first.parse(), split(rest)) {
                (asked.tasks, asked.instance, asked.rest) = (true, Some(instance), rest);
            }
        }
        asked
    }

    fn wants(&self, port: &BalancedPort) -> bool {
        self.protocol.is_none_or(|protocol| protocol == port.protocol)
            && self.port.is_none_or(|number| number == port.container_port)
    }
}

fn split(name: &str) -> Option<(&str, &str)> {
    name.split_once('.').filter(|(_, rest)| !rest.is_empty())
}

fn facts(service: &ServiceEndpoints, asked: &Asked<'_>, kind: Kind) -> Answer {
    let all = if asked.tasks { tasks(service, asked) } else { virtual_address(service, asked) };
    if asked.instance.is_some() && all.is_empty() {
        return Answer::NoSuchName;
    }
    let is_srv_only = asked.protocol.is_some();
    let wanted = all.into_iter().filter(|fact| match fact {
        Fact::Address(_) => matches!(kind, Kind::A | Kind::Any) && !is_srv_only,
        Fact::Port { .. } => matches!(kind, Kind::Srv | Kind::Any),
    });
    let mut facts: Vec<Fact> = Vec::new();
    for mut fact in wanted {
        if let Fact::Port { target, .. } = &mut fact {
            // Below the name as it was asked for, so that it is found from there too.
            let base = asked.rest;
            *target = if target.is_empty() { base.to_owned() } else { format!("{target}.{TASKS}.{base}") };
        }
        if !facts.contains(&fact) {
            facts.push(fact);
        }
    }
    Answer::Facts(facts)
}

fn virtual_address(service: &ServiceEndpoints, asked: &Asked<'_>) -> Vec<Fact> {
    let Some(address) = service.address else { return Vec::new() };
    let mut ports: Vec<u16> =
        service.ports.iter().filter(|port| asked.wants(port)).map(|port| port.container_port).collect();
    ports.sort_unstable();
    ports.dedup();
    let ports = ports.into_iter().map(|port| Fact::Port { port, target: String::new(), address });
    std::iter::once(Fact::Address(address)).chain(ports).collect()
}

/// Ready instances, at their nodes' addresses: the ports there are told by SRV. Hosts that are names are left out.
fn tasks(service: &ServiceEndpoints, asked: &Asked<'_>) -> Vec<Fact> {
    let is_asked = |endpoint: &&Endpoint| asked.instance.is_none_or(|instance| instance == endpoint.instance);
    let endpoints = service.ports.iter().filter(|port| asked.wants(port)).flat_map(|port| &port.endpoints);
    let mut facts = Vec::new();
    for endpoint in endpoints.filter(is_asked) {
        let Ok(address) = endpoint.host.parse() else { continue };
        facts.push(Fact::Address(address));
        facts.push(Fact::Port { port: endpoint.port, target: endpoint.instance.to_string(), address });
    }
    facts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use skein_common::service::BalancePolicy;

    use super::*;

    fn service(id: u64, stack: &str, name: &str, ports: &[u16]) -> Arc<ServiceEndpoints> {
        let endpoint = |instance, port| Endpoint {
            instance: InstanceId::from_random(instance),
            host: "192.0.2.7".to_owned(),
            port,
            weight: 100,
        };
        let ports = ports.iter().map(|port| BalancedPort {
            container_port: *port,
            protocol: if *port == 53 { Protocol::Udp } else { Protocol::Tcp },
            published: None,
            endpoints: vec![endpoint(id * 10, 20_000 + *port), endpoint(id * 10 + 1, 21_000 + *port)],
        });
        Arc::new(ServiceEndpoints {
            service: ServiceId::from_random(id),
            name: name.to_owned(),
            stack: stack.to_owned(),
            address: (!name.ends_with("job")).then(|| address(id)),
            policy: BalancePolicy::default(),
            ports: ports.collect(),
            routes: Vec::new(),
        })
    }

    fn address(id: u64) -> Ipv4Addr {
        Ipv4Addr::new(10, 254, 0, u8::try_from(id).unwrap())
    }

    fn zone() -> Zone {
        Zone::new(&[
            service(1, "", "web", &[80]),
            service(2, "shop", "shop_web", &[80, 8080, 53]),
            service(3, "shop", "shop_db", &[]),
            service(4, "blog", "blog_Web", &[80]),
            service(5, "shop", "shop_job", &[]),
        ])
    }

    fn found(id: u64) -> Answer {
        Answer::Facts(vec![Fact::Address(address(id))])
    }

    #[test]
    fn a_name_means_what_is_nearest() {
        let zone = zone();
        for (stack, name, answer) in [
            (None, "web", found(1)),
            (Some("shop"), "web", found(2)),
            (Some("blog"), "WEB", found(4)),
            (Some("cron"), "web", found(1)),
            (Some("blog"), "web.shop", found(2)),
            (None, "web.shop", found(2)),
            (None, "shop_web", found(2)),
            (Some("blog"), "db", Answer::NoSuchName),
            (Some("shop"), "db", found(3)),
            (Some("shop"), "nobody", Answer::NoSuchName),
            (Some("shop"), "job", Answer::NoSuchName),
            (None, "nobody.shop", Answer::NoSuchName),
            (Some("gone"), "web.gone", Answer::NoSuchName),
            (None, "web.gone", Answer::NotOurs),
            (None, "example.org", Answer::NotOurs),
            (Some("shop"), "www.example.org", Answer::NotOurs),
            (None, "", Answer::NotOurs),
        ] {
            assert_eq!(zone.answer(stack, name, Kind::A), answer, "{name} of {stack:?}");
        }
        assert_eq!(zone.answer(None, "web", Kind::Nothing), Answer::Facts(Vec::new()), "no IPv6 address");
        assert_eq!(zone.answer(None, "web", Kind::Other), Answer::NotOurs);
        assert_eq!(zone.stack_of(ServiceId::from_random(5)), Some("shop"), "a job asks too");
        assert_eq!(zone.stack_of(ServiceId::from_random(1)), None);
    }

    #[test]
    fn instances_are_told_one_by_one() {
        let zone = zone();
        let node = Ipv4Addr::new(192, 0, 2, 7);
        assert_eq!(
            zone.answer(Some("blog"), "tasks.web", Kind::A),
            Answer::Facts(vec![Fact::Address(node)]),
            "one node, once"
        );
        let Answer::Facts(facts) = zone.answer(None, "tasks.web.blog", Kind::Srv) else { panic!("found") };
        let ports = facts.iter().filter_map(|fact| match fact {
            Fact::Port { port, target, .. } => Some((*port, target.clone())),
            Fact::Address(_) => None,
        });
        let ports: Vec<_> = ports.collect();
        assert_eq!(ports.iter().map(|(port, _)| *port).collect::<Vec<_>>(), [20_080, 21_080]);
        for (port, target) in ports {
            let told = zone.answer(None, &target, Kind::A);
            assert_eq!(told, Answer::Facts(vec![Fact::Address(node)]), "{target} has {port}");
        }
        let stranger = format!("{}.tasks.web", InstanceId::from_random(999));
        assert_eq!(zone.answer(None, &stranger, Kind::A), Answer::NoSuchName);
        assert_eq!(zone.answer(Some("shop"), "tasks.db", Kind::A), Answer::Facts(Vec::new()));
    }

    #[test]
    fn ports_can_be_asked_for() {
        let zone = zone();
        for (name, expected) in [
            ("web.shop", &[53, 80, 8080][..]),
            ("_tcp.web.shop", &[80, 8080]),
            ("_udp.web.shop", &[53]),
            ("_8080._tcp.web.shop", &[8080]),
            ("_8080._udp.web.shop", &[]),
        ] {
            let Answer::Facts(facts) = zone.answer(None, name, Kind::Srv) else { panic!("{name}") };
            let ports = facts.iter().filter_map(|fact| match fact {
                Fact::Port { port, target, .. } if target == "web.shop" => Some(*port),
                _ => None,
            });
            assert_eq!(ports.collect::<Vec<u16>>(), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_answered(name in "[a-z_.0-9]{0,40}|\\PC{0,20}", stack in proptest::option::of("[a-z]{0,5}")) {
            for kind in [Kind::A, Kind::Srv, Kind::Any, Kind::Nothing, Kind::Other] {
                let _ = zone().answer(stack.as_deref(), &name, kind);
            }
        }
    }
}
