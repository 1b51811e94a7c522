//! A front while its endpoints are exchanged under it.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use skein_agent_core::balance::Endpoint;
use skein_common::service::{Algorithm, BalancePolicy};

use super::{
    super::front::{Front, Wish},
    instance,
};

fn endpoint(number: u64) -> Endpoint {
    Endpoint { instance: instance(number), address: (Ipv4Addr::LOCALHOST, 9).into(), weight: 100 }
}

fn policy() -> BalancePolicy {
    BalancePolicy { slow_start: Duration::ZERO, algorithm: Algorithm::RoundRobin, ..BalancePolicy::default() }
}

/// A thread of the proxy that was stopped between looking up the endpoints and taking one, while the control side took
/// that endpoint out, saw nothing under way, and said so to the masters.
#[test]
fn who_looked_before_a_change_takes_from_what_holds_after_it() {
    let front = Arc::new(Front::new("web".to_owned(), policy()));
    front.update(&policy(), &[endpoint(1)]);
    let old = front.state();
    let left = front.update(&policy(), &[endpoint(2)]);
    assert_eq!(left.iter().map(|(_, load)| load.in_flight()).collect::<Vec<_>>(), [0], "acknowledged");
    let held = front.try_lease_from(old, Wish::default(), &[]).unwrap();
    assert_eq!(held.endpoint().instance, instance(2));
    assert_eq!(left[0].1.in_flight(), 0);
}

/// The same under load: after its endpoint left with nothing under way, no request reaches it.
#[test]
fn an_endpoint_that_is_said_to_be_free_stays_free() {
    let front = Arc::new(Front::new("web".to_owned(), policy()));
    front.update(&policy(), &[endpoint(1)]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    drop(front.try_lease(Wish::default(), &[]));
                }
            });
        }
        while front.state().set.members().iter().all(|member| member.load.chosen() == 0) {
            thread::yield_now();
        }
        let mut free = Vec::new();
        for round in 2..2_000u64 {
            for (_, load) in front.update(&policy(), &[endpoint(round)]) {
                while load.in_flight() > 0 {
                    thread::yield_now();
                }
                let tries = load.chosen();
                free.push((load, tries));
            }
        }
        stop.store(true, SeqCst);
        assert!(free.iter().map(|(_, tries)| tries).sum::<u64>() > 0, "nothing was under load");
        for (load, tries) in free {
            assert_eq!((load.in_flight(), load.chosen()), (0, tries));
        }
    });
}
