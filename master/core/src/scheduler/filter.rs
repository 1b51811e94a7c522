//! Which nodes may take an instance. Every filter names its refusal, so that a pending instance
//! can say why (`explain`).
//!
//! Invariant: a filter looks at one node and one need; the first that refuses is the reason told.

use std::fmt;

use skein_common::{
    Resources,
    constraint::Constraint,
    node::{Availability, Liveness},
    resources::ResourceKind,
    service::{PortSpec, Protocol, Publish, ServiceSpec},
};

use super::{Room, ports::PortBook};

/// What the instances of a group ask of a node.
pub(super) struct Need<'a> {
    pub(super) reservation: Resources,
    pub(super) constraints: &'a [Constraint],
    pub(super) ports: &'a [PortSpec],
}

/// Why a node cannot take an instance; the order is the order in which equally frequent reasons
/// are told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    Insufficient(ResourceKind),
    PortInUse { port: u16, protocol: Protocol },
    NoFreePort,
    Constraint(String),
    Drained,
    Paused,
    Unknown,
    Down,
}

type Filter = fn(&Room<'_>, &Need<'_>, &PortBook<'_>) -> Option<Refusal>;

/// What a placement elsewhere in the same pass cannot change, cheapest first.
const STANDING: [Filter; 3] = [liveness, availability, constraints];
/// What fills up while a group is placed.
const FILLING: [Filter; 2] = [resources, host_ports];

/// The first reason against this node.
pub(super) fn refusal(room: &Room<'_>, need: &Need<'_>, ports: &PortBook<'_>) -> Option<Refusal> {
    STANDING.iter().chain(&FILLING).find_map(|filter| filter(room, need, ports))
}

/// The same for a node that passed all filters earlier in this pass.
pub(super) fn refusal_when_filling(
    room: &Room<'_>,
    need: &Need<'_>,
    ports: &PortBook<'_>,
) -> Option<Refusal> {
    FILLING.iter().find_map(|filter| filter(room, need, ports))
}

fn liveness(room: &Room<'_>, _: &Need<'_>, _: &PortBook<'_>) -> Option<Refusal> {
    match room.node.liveness {
        Liveness::Ready => None,
        Liveness::Unknown => Some(Refusal::Unknown),
        Liveness::Down => Some(Refusal::Down),
    }
}

fn availability(room: &Room<'_>, _: &Need<'_>, _: &PortBook<'_>) -> Option<Refusal> {
    match room.node.availability {
        Availability::Active => None,
        Availability::Paused => Some(Refusal::Paused),
        Availability::Drained => Some(Refusal::Drained),
    }
}

fn constraints(room: &Room<'_>, need: &Need<'_>, _: &PortBook<'_>) -> Option<Refusal> {
    if room.node.satisfies(need.constraints) {
        return None;
    }
    let failing = need.constraints.iter().find(|constraint| !room.node.satisfies([*constraint]));
    Some(Refusal::Constraint(failing.map(ToString::to_string).unwrap_or_default()))
}

fn resources(room: &Room<'_>, need: &Need<'_>, _: &PortBook<'_>) -> Option<Refusal> {
    room.free().lacking(need.reservation).map(Refusal::Insufficient)
}

fn host_ports(room: &Room<'_>, need: &Need<'_>, ports: &PortBook<'_>) -> Option<Refusal> {
    let address = &room.node.description.address;
    let fixed = need.ports.iter().find_map(|port| match port.publish {
        Publish::Host { port: number } if ports.in_use(address, port.protocol, number) => {
            Some(Refusal::PortInUse { port: number, protocol: port.protocol })
        }
        Publish::Host { .. } | Publish::Ingress { .. } => None,
    });
    fixed.or_else(|| (!ports.has_dynamic(address, need.ports)).then_some(Refusal::NoFreePort))
}

impl<'a> Need<'a> {
    pub(super) fn of(spec: &'a ServiceSpec) -> Self {
        Self {
            reservation: spec.resources.reservation,
            constraints: &spec.placement.constraints,
            ports: &spec.ports,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Insufficient(kind) => write!(f, "insufficient {kind}"),
            Self::PortInUse { port, protocol } => write!(f, "host port {port}/{protocol} in use"),
            Self::NoFreePort => f.write_str("no free dynamic host port"),
            Self::Constraint(text) => write!(f, "not {text}"),
            Self::Drained => f.write_str("drained"),
            Self::Paused => f.write_str("paused"),
            Self::Unknown => f.write_str("not heard lately"),
            Self::Down => f.write_str("down"),
        }
    }
}
