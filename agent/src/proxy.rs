//! The balancer of this node: published ports in, endpoints out.
//!
//! Invariant: traffic runs on threads of its own; the control side hands them values and is never waited for. With all
//! masters gone it goes on with what it was told last and what it sees itself.
//! Deliberately not here: who takes a request (`agent/core`, `balance`), who is an endpoint (masters).

mod balancer;
mod body;
mod certificates;
mod checks;
mod client;
mod clients;
mod front;
mod headers;
mod http;
mod introduction;
mod meter;
mod refusal;
mod site;
mod sites;
mod tcp;
mod thread;
mod tls;
mod udp;
mod upstream;

pub use self::{
    balancer::{Applied, Balancer, BalancerHandle, ProxyConfig},
    certificates::FetchCertificate,
    meter::{LoadMeter, MeasuredInstance, MeasuredPort},
};

#[cfg(test)]
mod tests;
