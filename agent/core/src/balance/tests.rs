//! Shares, moves, absences and tail latency of the algorithms.

mod uneven;

use std::time::Duration;

use proptest::prelude::*;
use skein_common::{
    InstanceId,
    load::{Counts, Endings, Out, OutCause},
    service::{Algorithm, Ejection, HashBy},
};

use super::{Asked, Dice, Ending, Endpoint, EndpointSet, NoEndpoint, RetryBudget, key};

const NOW: Duration = Duration::from_secs(1_000);
const RULE: Ejection = Ejection { failures: 5, time: Duration::from_secs(30) };
const HASH: Algorithm = Algorithm::ConsistentHash { by: HashBy::Path };

fn instance(number: u64) -> InstanceId {
    InstanceId::from_random(number)
}

fn endpoint(number: u64, weight: u32) -> Endpoint {
    let port = u16::try_from(20_000 + number).unwrap();
    Endpoint { instance: instance(number), address: ([127, 0, 0, 1], port).into(), weight }
}

fn set(weights: &[u32]) -> EndpointSet {
    let endpoints: Vec<Endpoint> =
        (1..).zip(weights).map(|(number, weight)| endpoint(number, *weight)).collect();
    EndpointSet::default().succeed(&endpoints, Duration::ZERO, Duration::ZERO)
}

fn asked(key: Option<u64>) -> Asked<'static> {
    Asked { now: NOW, key, wanted: None, tried: &[], limit: 1_000 }
}

/// How often each endpoint is chosen in `requests` that end at once.
fn counts(set: &EndpointSet, algorithm: &Algorithm, requests: u64) -> Vec<u64> {
    let mut dice = Dice::seeded(7);
    for request in 0..requests {
        set.choose(algorithm, &asked(Some(key(&request.to_be_bytes()))), &mut dice).unwrap();
    }
    set.members().iter().map(|member| member.load.chosen()).collect()
}

#[test]
fn weights_are_shares() {
    for (algorithm, tolerance) in
        [(Algorithm::RoundRobin, 1), (Algorithm::Random, 150), (Algorithm::LeastRequests, 1_500), (HASH, 150)]
    {
        let set = set(&[100, 200, 0, 700]);
        let counts = counts(&set, &algorithm, 10_000);
        for (count, share) in counts.iter().zip([1_000, 2_000, 0, 7_000]) {
            assert!(count.abs_diff(share) <= tolerance, "{algorithm:?}: {counts:?}");
        }
        assert_eq!(counts[2], 0, "{algorithm:?}: weight zero");
    }
}

#[test]
fn round_robin_interleaves_smoothly() {
    let set = set(&[5, 1, 1]);
    let mut dice = Dice::seeded(1);
    let mut turns = String::new();
    for _ in 0..14 {
        let lease = set.choose(&Algorithm::RoundRobin, &asked(None), &mut dice).unwrap();
        turns.push(char::from(b'a' + u8::try_from(lease.endpoint.instance.get() - 1).unwrap()));
    }
    assert_eq!(turns, "aabacaaaabacaa", "the sequence nginx documents");
}

#[test]
fn nobody_is_told_apart_from_everybody_is_busy() {
    let mut dice = Dice::seeded(1);
    let nobody = EndpointSet::default();
    assert_eq!(nobody.choose(&Algorithm::Random, &asked(None), &mut dice).unwrap_err(), NoEndpoint::None);
    let unweighted = set(&[0, 0]);
    assert_eq!(unweighted.choose(&HASH, &asked(Some(1)), &mut dice).unwrap_err(), NoEndpoint::None);
    for algorithm in
        [Algorithm::RoundRobin, Algorithm::Random, Algorithm::LeastRequests, Algorithm::Adaptive, HASH]
    {
        let set = set(&[1, 1]);
        let asked = Asked { limit: 2, ..asked(Some(1)) };
        let held: Vec<_> = (0..4).map(|_| set.choose(&algorithm, &asked, &mut dice).unwrap()).collect();
        assert_eq!(set.choose(&algorithm, &asked, &mut dice).unwrap_err(), NoEndpoint::Busy, "{algorithm:?}");
        drop(held);
        assert!(set.members().iter().all(|member| member.load.in_flight() == 0));
    }
}

#[test]
fn a_retry_goes_elsewhere() {
    let mut dice = Dice::seeded(1);
    for algorithm in
        [Algorithm::RoundRobin, Algorithm::Random, Algorithm::LeastRequests, Algorithm::Adaptive, HASH]
    {
        let set = set(&[1, 1, 1]);
        for _ in 0..50 {
            let tried = [instance(1), instance(3)];
            let lease =
                set.choose(&algorithm, &Asked { tried: &tried, ..asked(Some(3)) }, &mut dice).unwrap();
            assert_eq!(lease.endpoint.instance, instance(2), "{algorithm:?}");
        }
    }
}

#[test]
fn who_leaves_takes_only_its_own_keys() {
    let before = set(&[100; 10]);
    let owner = |set: &EndpointSet, number: u64| {
        let asked = asked(Some(key(&number.to_be_bytes())));
        set.choose(&HASH, &asked, &mut Dice::seeded(1)).unwrap().endpoint.instance
    };
    let owners: Vec<InstanceId> = (0..20_000).map(|number| owner(&before, number)).collect();
    let left = instance(4);
    let rest: Vec<Endpoint> =
        before.members().iter().map(|member| member.endpoint).filter(|at| at.instance != left).collect();
    let after = before.succeed(&rest, Duration::ZERO, NOW);
    let moved = (0..).zip(&owners).filter(|(number, known)| owner(&after, *number) != **known).count();
    let lost = owners.iter().filter(|known| **known == left).count();
    assert_eq!(moved, lost);
    assert!(moved <= 20_000 / 10 * 125 / 100, "{moved} of 20,000 keys moved");
}

#[test]
fn a_hot_key_overflows_to_others() {
    let set = set(&[100; 4]);
    let mut dice = Dice::seeded(1);
    let held: Vec<_> = (0..100).map(|_| set.choose(&HASH, &asked(Some(9)), &mut dice).unwrap()).collect();
    let most = set.members().iter().map(|member| member.load.in_flight()).max().unwrap();
    assert!((25..=32).contains(&most), "{most} of 100 on one of four");
    drop(held);
}

#[test]
fn five_failures_in_a_row_put_out_for_longer_each_time() {
    let set = set(&[1, 1]);
    let fail = |times: u32, now: Duration| {
        let tried = [instance(2)];
        let asked = Asked { now, tried: &tried, ..asked(None) };
        let lease = set.choose(&Algorithm::Random, &asked, &mut Dice::seeded(1)).unwrap();
        (0..times).filter(|_| set.note(&lease, Ending::Unreachable, Duration::ZERO, now, RULE)).count()
    };
    // In seconds; None = not at all.
    let out_for = |now: Duration| {
        let is_out = |seconds: &u64| set.members()[0].load.is_out(now + Duration::from_secs(*seconds));
        (0..120).take_while(is_out).last().map(|last| last + 1)
    };
    assert_eq!(fail(4, NOW), 0);
    let lease = set.lease(0, 1_000, false).unwrap();
    set.note(&lease, Ending::Answered(200), Duration::ZERO, NOW, RULE);
    drop(lease);
    assert_eq!(fail(4, NOW), 0, "a success starts the row anew");
    assert_eq!(fail(1, NOW), 1);
    assert_eq!(out_for(NOW), Some(30));
    let out = Out { cause: OutCause::Unreachable, remaining: Duration::from_secs(30) };
    assert_eq!(set.members()[0].load.out(NOW), Some(out));
    let second = NOW + Duration::from_secs(31);
    assert_eq!(out_for(second), None);
    assert_eq!(fail(5, second), 1);
    assert_eq!(out_for(second), Some(60));
    let later = second + Duration::from_secs(3_600);
    assert_eq!(fail(5, later), 1);
    assert_eq!(out_for(later), Some(30), "an hour of good service is forgiven");
}

#[test]
fn an_endpoint_that_is_out_gets_nothing_and_the_last_half_stays() {
    let set = set(&[1, 1, 1, 1]);
    let fail = |index: usize| {
        let lease = set.lease(index, 1_000, false).unwrap();
        (0..5).any(|_| set.note(&lease, Ending::Unreachable, Duration::ZERO, NOW, RULE))
    };
    assert_eq!([0, 1, 2, 3].map(fail), [true, true, false, false]);
    for algorithm in
        [Algorithm::RoundRobin, Algorithm::Random, Algorithm::LeastRequests, Algorithm::Adaptive, HASH]
    {
        let before = set.members()[0].load.chosen() + set.members()[1].load.chosen();
        counts(&set, &algorithm, 200);
        assert_eq!(set.members()[0].load.chosen() + set.members()[1].load.chosen(), before, "{algorithm:?}");
    }
    let only_out: Vec<Endpoint> = set.members()[..2].iter().map(|member| member.endpoint).collect();
    assert_eq!(set.succeed(&only_out, Duration::ZERO, NOW).out(NOW), 1, "of two who are left one may be out");
    assert_eq!(self::set(&[1]).out(NOW), 0);
}

#[test]
fn the_last_endpoint_is_never_out() {
    let set = set(&[1]);
    let lease = set.lease(0, 1_000, false).unwrap();
    assert!(!(0..50).any(|_| set.note(&lease, Ending::Unreachable, Duration::ZERO, NOW, RULE)));
}

#[test]
fn who_has_left_is_not_taken_from_an_old_set() {
    for algorithm in
        [Algorithm::RoundRobin, Algorithm::Random, Algorithm::LeastRequests, Algorithm::Adaptive, HASH]
    {
        let old = set(&[1]);
        let mut dice = Dice::seeded(1);
        let held = old.choose(&algorithm, &asked(Some(1)), &mut dice).unwrap();
        old.members()[0].load.close();
        let late = old.choose(&algorithm, &asked(Some(1)), &mut dice);
        assert_eq!(late.unwrap_err(), NoEndpoint::Superseded, "{algorithm:?}");
        assert_eq!(old.members()[0].load.in_flight(), 1, "what is under way goes on");
        drop(held);
        assert_eq!(old.members()[0].load.in_flight(), 0);
    }
}

#[test]
fn what_happened_is_counted_once() {
    let set = set(&[1]);
    let load = &set.members()[0].load;
    let once = |ending, took_ms, again| {
        let lease = set.lease(0, 10, again).unwrap();
        set.note(&lease, ending, Duration::from_millis(took_ms), NOW, RULE);
    };
    for (ending, took_ms) in [
        (Ending::Answered(204), 3),
        (Ending::Answered(404), 5),
        (Ending::Answered(503), 7),
        (Ending::Connected, 9),
        (Ending::Unreachable, 1_000),
        (Ending::Late, 1_000),
        (Ending::Broken, 1_000),
        (Ending::Abandoned, 1_000),
    ] {
        once(ending, took_ms, ending == Ending::Connected);
    }
    load.received(10);
    load.sent(1_000);
    let news = load.news();
    let endings = Endings {
        ok: 2,
        client_errors: 1,
        server_errors: 1,
        unreachable: 1,
        late: 1,
        broken: 1,
        abandoned: 1,
    };
    assert_eq!((news.tries, news.retries, news.endings), (8, 1, endings));
    assert_eq!(
        (news.bytes_in, news.bytes_out, news.latencies.count()),
        (10, 1_000, 4),
        "answers have a latency"
    );
    assert_eq!(load.latency_sum(), Duration::from_millis(24));
    assert_eq!(load.news(), Counts::default(), "told once");
    once(Ending::Answered(200), 3, false);
    assert_eq!((load.news().tries, load.counts().tries), (1, 9));
}

#[test]
fn checks_take_out_and_bring_back_and_never_more_than_half() {
    let set = set(&[1, 1, 1, 1]);
    let check = |index: usize, results: &str| -> String {
        let turned = results.chars().map(|result| {
            let turned = set.checked(index, result == '+', (3, 2), NOW).is_some();
            if turned { '!' } else { '.' }
        });
        turned.collect()
    };
    assert_eq!(check(0, "--+--"), ".....", "in a row");
    assert_eq!(check(0, "-----"), "!....", "with the two before");
    let out = Out { cause: OutCause::Check, remaining: Duration::ZERO };
    assert_eq!(set.members()[0].load.out(NOW), Some(out));
    assert_eq!(check(1, "---"), "..!");
    assert_eq!(check(2, "------"), "......", "half are out");
    counts(&set, &Algorithm::Random, 200);
    assert_eq!([0, 1].map(|index| set.members()[index].load.chosen()), [0, 0]);
    assert_eq!(check(0, "+-++"), "...!");
    assert_eq!(check(2, "-"), "!", "there is room for it now");
    assert_eq!(set.checked(9, false, (1, 1), NOW), None);
    assert_eq!(self::set(&[1]).checked(0, false, (1, 1), NOW), None, "the last one stays");
}

#[test]
fn a_client_goes_back_to_the_endpoint_it_had_while_that_is_open() {
    let mut dice = Dice::seeded(3);
    for algorithm in [Algorithm::RoundRobin, Algorithm::Random, Algorithm::LeastRequests, Algorithm::Adaptive]
    {
        let set = set(&[1, 1, 1]);
        let wanted = set.choose(&algorithm, &asked(None), &mut dice).unwrap().mark();
        let again = Asked { wanted: Some(wanted), limit: 5, ..asked(None) };
        let held: Vec<_> = (0..5).map(|_| set.choose(&algorithm, &again, &mut dice).unwrap()).collect();
        assert!(held.iter().all(|lease| lease.mark() == wanted), "{algorithm:?}");
        assert_ne!(set.choose(&algorithm, &again, &mut dice).unwrap().mark(), wanted, "it has no room");
        let unknown = Asked { wanted: Some(1), ..asked(None) };
        assert!(set.choose(&algorithm, &unknown, &mut dice).is_ok());
    }
}

#[test]
fn a_newcomer_starts_slowly_among_others_only() {
    let slow = Duration::from_secs(10);
    let first = EndpointSet::default().succeed(&[endpoint(1, 100)], slow, NOW);
    assert_eq!(first.weight(&first.members()[0], NOW), 100_000, "nobody else could serve");
    let both = first.succeed(&[endpoint(1, 100), endpoint(2, 100)], slow, NOW);
    let share = |after: u64| both.weight(&both.members()[1], NOW + Duration::from_secs(after));
    assert_eq!([share(0), share(5), share(10), share(60)], [10_000, 50_000, 100_000, 100_000]);
    let counts = counts(&both, &Algorithm::RoundRobin, 1_100);
    assert_eq!(counts, [1_000, 100]);
    let moved = Endpoint { address: ([127, 0, 0, 1], 1).into(), ..endpoint(1, 100) };
    let set = both.succeed(&[moved], slow, NOW);
    assert_eq!(set.members()[0].load.chosen(), 0, "another address is another process");
}

#[test]
fn retries_stay_within_their_budget() {
    let budget = RetryBudget::default();
    let mut retries = 0;
    for request in 0..100_000u64 {
        budget.earn();
        let now = NOW + Duration::from_millis(request);
        retries += (0..3).filter(|_| budget.spend(now)).count();
    }
    let free = 100_000 / 300 + 1;
    assert!((20_000..=20_000 + free).contains(&retries), "{retries}");
    let quiet = RetryBudget::default();
    assert!(quiet.spend(NOW) && !quiet.spend(NOW), "one without savings, not two");
}

proptest! {
    /// Whatever the weights, limits and absences: what is chosen is open, and leases are counted exactly.
    #[test]
    fn a_choice_is_open(
        weights in prop::collection::vec(0u32..5, 0..8),
        failing in prop::collection::vec(any::<bool>(), 8),
        limit in 1u32..4,
        keys in prop::collection::vec(any::<u64>(), 0..40),
        seed: u64,
    ) {
        for algorithm in [Algorithm::RoundRobin, Algorithm::Random, Algorithm::LeastRequests, Algorithm::Adaptive, HASH] {
            let set = set(&weights);
            for index in (0..weights.len()).filter(|index| failing[*index]) {
                let lease = set.lease(index, 1_000, false).unwrap();
                for _ in 0..5 { set.note(&lease, Ending::Unreachable, Duration::ZERO, NOW, RULE); }
            }
            let mut dice = Dice::seeded(seed);
            let mut held = Vec::new();
            for key in &keys {
                let in_open = set.members().iter().any(|m| m.endpoint.weight > 0 && !m.load.is_out(NOW) && m.load.in_flight() < limit);
                match set.choose(&algorithm, &Asked { limit, ..asked(Some(*key)) }, &mut dice) {
                    Ok(lease) => {
                        let member = set.members().iter().find(|m| m.endpoint == lease.endpoint).unwrap();
                        prop_assert!(member.endpoint.weight > 0 && member.load.in_flight() <= limit);
                        prop_assert!(!member.load.is_out(NOW) || !in_open, "out although others are open");
                        held.push(lease);
                    }
                    Err(NoEndpoint::Busy) => prop_assert!(set.members().iter().all(|m| m.endpoint.weight == 0 || m.load.in_flight() >= limit)),
                    Err(NoEndpoint::None) => prop_assert!(weights.iter().all(|weight| *weight == 0)),
                    Err(NoEndpoint::Superseded) => prop_assert!(false, "nobody has left"),
                }
            }
            prop_assert_eq!(set.members().iter().map(|m| m.load.in_flight() as usize).sum::<usize>(), held.len());
        }
    }
}
