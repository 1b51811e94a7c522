//! Which endpoint of a service takes the next request of this node.
//!
//! Invariant: a choice is a function of the set, its counters, the time and the dice; it never waits.
//! The counters are atomics because the proxy's threads share them: each is exact, and a choice made on one
//! that is a moment old is as good. At most half of the endpoints are out at a time.
//! Deliberately not here: sockets and HTTP (`agent`, `proxy`), who is an endpoint and with which weight (masters).

mod budget;
mod choose;
mod dice;
mod load;
mod meter;
mod set;

pub use self::{
    budget::RetryBudget,
    choose::{Asked, NoEndpoint},
    dice::{Dice, key},
    load::{Load, Outcome},
    meter::Ending,
    set::{Endpoint, EndpointSet, Lease, Member},
};

#[cfg(test)]
mod tests;
