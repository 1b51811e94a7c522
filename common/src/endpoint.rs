//! Where requests to a service may go, as every node's balancer is told.
//!
//! Invariant: made from the replicated state alone, so every leader says the same of one revision.
//! Deliberately not here: who of them takes a request (`agent/core`, `balance`).

use std::net::Ipv4Addr;

use crate::{
    InstanceId, ServiceId,
    service::{BalancePolicy, Protocol, Route},
};

/// One service for the balancers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEndpoints {
    pub service: ServiceId,
    pub name: String,
    /// Of its Compose project, within which it has a shorter name; empty = it is of none.
    pub stack: String,
    /// By which containers reach it, on its container ports; `None` = it has none (yet).
    pub address: Option<Ipv4Addr>,
    pub policy: BalancePolicy,
    pub ports: Vec<BalancedPort>,
    /// What of shared ports is its.
    pub routes: Vec<Route>,
}

/// One port of a service and who serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalancedPort {
    pub container_port: u16,
    pub protocol: Protocol,
    /// Every node listens on it; `None` = reachable by name only.
    pub published: Option<u16>,
    /// Of instances that are ready and stay, by instance.
    pub endpoints: Vec<Endpoint>,
}

/// One ready instance behind a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub instance: InstanceId,
    /// Address or host name of its node.
    pub host: String,
    pub port: u16,
    /// Share = weight / sum of weights; zero = no new requests.
    pub weight: u32,
}

/// What a leader tells a node's balancer: everything, or what changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointsUpdate {
    pub term: u64,
    /// Counts the messages of a session.
    pub generation: u64,
    /// The generation this changes; `None` = everything: what is not in it is gone.
    pub from: Option<u64>,
    /// New and changed ones, each whole.
    pub services: Vec<ServiceEndpoints>,
    pub removals: Vec<ServiceId>,
}
