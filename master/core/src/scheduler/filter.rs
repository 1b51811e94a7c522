//! Which nodes may take an instance. Every filter names its refusal, so that a pending instance
//! can say why (`explain`).
//!
//! Invariant: a filter looks at one node and one need; the first that refuses is the reason told.
//! Deliberately not here: rules between nodes (`topology`).

use std::{fmt, rc::Rc};

use skein_common::{
    constraint::Constraint,
    node::{Availability, Liveness},
    placement::TopologyKey,
    resources::ResourceKind,
    service::{Protocol, Publish},
};

use super::{device::Names, fleet::Room, need::Need, ports::PortBook};

/// Why a node cannot take an instance; the order is the order in which equally frequent reasons
/// are told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    Insufficient(ResourceKind),
    Pids,
    Generic(Rc<str>),
    PortInUse {
        port: u16,
        protocol: Protocol,
    },
    NoFreePort,
    ReplicasPerNode(u32),
    Promised,
    Skew(TopologyKey),
    NoLabel(TopologyKey),
    NotNear(String),
    NotAway(String),
    Constraint(String),
    Exclusive(String),
    /// Its local volumes are on the node of this name.
    AwayFromData(String),
    Drained,
    Paused,
    Unknown,
    Down,
}

/// What a placement elsewhere in the same pass cannot change.
pub(super) fn standing(room: &Room<'_>, need: &Need<'_>) -> Option<Refusal> {
    liveness(room)
        .or_else(|| availability(room))
        .or_else(|| exclusive(room, need))
        .or_else(|| constraints(room, need))
}

/// What fills up while a group is placed.
pub(super) fn filling(
    room: &Room<'_>,
    need: &Need<'_>,
    ports: &PortBook<'_>,
    names: &Names,
) -> Option<Refusal> {
    resources(room, need)
        .or_else(|| pids(room, need))
        .or_else(|| generic(room, need, names))
        .or_else(|| host_ports(room, need, ports))
}

/// Whether [`filling`] refuses nothing.
pub(super) fn has_room(room: &Room<'_>, need: &Need<'_>, ports: &PortBook<'_>) -> bool {
    resources(room, need).is_none()
        && pids(room, need).is_none()
        && need.asks.iter().all(|ask| room.bank(ask.name).is_some_and(|bank| bank.fits(ask)))
        && (need.ports.is_empty() || host_ports(room, need, ports).is_none())
}

fn liveness(room: &Room<'_>) -> Option<Refusal> {
    match room.node.liveness {
        Liveness::Ready => None,
        Liveness::Unknown => Some(Refusal::Unknown),
        Liveness::Down => Some(Refusal::Down),
    }
}

fn availability(room: &Room<'_>) -> Option<Refusal> {
    match room.node.availability {
        Availability::Active => None,
        Availability::Paused => Some(Refusal::Paused),
        Availability::Drained => Some(Refusal::Drained),
    }
}

fn exclusive(room: &Room<'_>, need: &Need<'_>) -> Option<Refusal> {
    need.excluded_by(room).map(|value| Refusal::Exclusive(value.to_owned()))
}

fn constraints(room: &Room<'_>, need: &Need<'_>) -> Option<Refusal> {
    if room.node.satisfies(need.constraints) {
        return None;
    }
    let fails = |constraint: &&Constraint| !room.node.satisfies([*constraint]);
    let failing = need.constraints.iter().find(fails);
    Some(Refusal::Constraint(failing.map(ToString::to_string).unwrap_or_default()))
}

fn resources(room: &Room<'_>, need: &Need<'_>) -> Option<Refusal> {
    room.free().lacking(need.reservation).map(Refusal::Insufficient)
}

pub(super) fn pids(room: &Room<'_>, need: &Need<'_>) -> Option<Refusal> {
    let most = room.node.description.pids;
    let counted = need.pids > 0 && most > 0;
    (counted && room.pids.saturating_add(need.pids) > most).then_some(Refusal::Pids)
}

fn generic(room: &Room<'_>, need: &Need<'_>, names: &Names) -> Option<Refusal> {
    let lacks = need.asks.iter().find(|ask| !room.bank(ask.name).is_some_and(|bank| bank.fits(ask)))?;
    Some(Refusal::Generic(names.shared(lacks.name)))
}

pub(super) fn host_ports(room: &Room<'_>, need: &Need<'_>, ports: &PortBook<'_>) -> Option<Refusal> {
    let address = &room.node.description.address;
    let fixed = need.ports.iter().find_map(|port| match port.publish {
        Publish::Host { port: number } if ports.in_use(address, port.protocol, number) => {
            Some(Refusal::PortInUse { port: number, protocol: port.protocol })
        }
        Publish::Host { .. } | Publish::Ingress { .. } => None,
    });
    fixed.or_else(|| (!ports.has_dynamic(address, need.ports)).then_some(Refusal::NoFreePort))
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Insufficient(kind) => write!(f, "insufficient {kind}"),
            Self::Pids => f.write_str("insufficient pids"),
            Self::Generic(name) => write!(f, "insufficient {name}"),
            Self::PortInUse { port, protocol } => write!(f, "host port {port}/{protocol} in use"),
            Self::NoFreePort => f.write_str("no free dynamic host port"),
            Self::Promised => f.write_str("kept for what is more important"),
            Self::ReplicasPerNode(most) => write!(f, "already {most} of the service"),
            Self::Skew(key) => write!(f, "too many of the service in the same {key}"),
            Self::NoLabel(key) => write!(f, "without {key}"),
            Self::NotNear(service) => write!(f, "not near {service}"),
            Self::NotAway(service) => write!(f, "not away from {service}"),
            Self::Constraint(text) => write!(f, "not {text}"),
            Self::Exclusive(value) => write!(f, "exclusive to {value}"),
            Self::AwayFromData(home) => write!(f, "without its local volumes, which are on {home}"),
            Self::Drained => f.write_str("drained"),
            Self::Paused => f.write_str("paused"),
            Self::Unknown => f.write_str("not heard lately"),
            Self::Down => f.write_str("down"),
        }
    }
}
