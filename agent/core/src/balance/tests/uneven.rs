//! Uneven endpoints in virtual time: one slow, one hanging, one failing. Requests come at random (Poisson); each endpoint
//! works on two at a time.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use skein_common::service::Algorithm;

use super::{super::Lease, Asked, Dice, Ending, EndpointSet, RULE, set};

const REQUESTS: usize = 40_000;
/// What a client waits for an answer.
const TIMEOUT_US: u64 = 1_000_000;
/// The first requests to the hanging endpoint have timed out, and those begun meanwhile.
const WINDOW_US: u64 = 2 * TIMEOUT_US + 200_000;
const WORKERS: usize = 2;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Takes(u64),
    Hangs,
    Fails,
}

/// Of a Poisson process with this mean.
#[expect(clippy::cast_possible_truncation, reason = "microseconds, far below 2^52")]
fn pause(dice: &mut Dice, mean_us: f64) -> u64 {
    let uniform = (dice.throw() >> 11) as f64 / (1u64 << 53) as f64;
    (-(1.0 - uniform).ln() * mean_us) as u64
}

struct Run {
    set: EndpointSet,
    kinds: Vec<Kind>,
    /// When each worker of each endpoint is free.
    free_at: Vec<[u64; WORKERS]>,
    ends: BinaryHeap<Reverse<(u64, usize)>>,
    open: Vec<Option<(Lease, u64, Ending)>>,
    answers_us: Vec<u64>,
    failures_after_window: usize,
}

impl Run {
    fn of(algorithm: &Algorithm, kinds: &[Kind], every_us: f64) -> Self {
        let mut run = Self {
            set: set(&vec![100; kinds.len()]),
            kinds: kinds.to_vec(),
            free_at: vec![[0; WORKERS]; kinds.len()],
            ends: BinaryHeap::new(),
            open: Vec::new(),
            answers_us: Vec::new(),
            failures_after_window: 0,
        };
        let (mut dice, mut now) = (Dice::seeded(42), 0);
        for _ in 0..REQUESTS {
            now += pause(&mut dice, every_us);
            run.end_until(now);
            run.begin(algorithm, now, &mut dice);
        }
        run.answers_us.sort_unstable();
        run
    }

    fn begin(&mut self, algorithm: &Algorithm, now: u64, dice: &mut Dice) {
        let asked =
            Asked { now: Duration::from_micros(now), key: None, wanted: None, tried: &[], limit: 10_000 };
        let lease = self.set.choose(algorithm, &asked, dice).unwrap();
        let index = usize::try_from(lease.endpoint.instance.get()).unwrap() - 1;
        let (end, outcome) = match self.kinds[index] {
            Kind::Hangs => (now + TIMEOUT_US, Ending::Unreachable),
            Kind::Fails => (now + 100, Ending::Unreachable),
            Kind::Takes(time) => {
                let worker = self.free_at[index].iter_mut().min().unwrap();
                *worker = (*worker).max(now) + time;
                if *worker > now + TIMEOUT_US {
                    (now + TIMEOUT_US, Ending::Unreachable)
                } else {
                    (*worker, Ending::Answered(200))
                }
            }
        };
        self.ends.push(Reverse((end, self.open.len())));
        self.open.push(Some((lease, now, outcome)));
    }

    fn end_until(&mut self, now: u64) {
        while let Some(Reverse((end, request))) =
            self.ends.peek().copied().filter(|Reverse((end, _))| *end <= now)
        {
            self.ends.pop();
            let (lease, began, outcome) = self.open[request].take().unwrap();
            let took = end - began;
            self.set.note(&lease, outcome, Duration::from_micros(took), Duration::from_micros(end), RULE);
            self.answers_us.push(took);
            self.failures_after_window +=
                usize::from(outcome == Ending::Unreachable && end > WINDOW_US && end < 30_000_000);
        }
    }

    fn p99_us(&self) -> u64 {
        self.answers_us[self.answers_us.len() * 99 / 100]
    }
}

#[test]
fn one_slow_endpoint_does_not_set_the_tail() {
    let mut kinds = vec![Kind::Takes(2_000); 9];
    kinds.push(Kind::Takes(10_000));
    let p99 = |algorithm| Run::of(&algorithm, &kinds, 160.0).p99_us();
    let round_robin = p99(Algorithm::RoundRobin);
    for algorithm in [Algorithm::LeastRequests, Algorithm::Adaptive] {
        let own = p99(algorithm.clone());
        assert!(own * 2 <= round_robin, "{algorithm:?}: {own} µs against {round_robin} µs");
    }
}

#[test]
fn a_hanging_and_a_failing_endpoint_are_out_after_the_first_window() {
    let kinds = [
        Kind::Takes(2_000),
        Kind::Takes(2_000),
        Kind::Takes(2_000),
        Kind::Takes(10_000),
        Kind::Hangs,
        Kind::Fails,
    ];
    for algorithm in [Algorithm::RoundRobin, Algorithm::LeastRequests, Algorithm::Adaptive] {
        let run = Run::of(&algorithm, &kinds, 1_400.0);
        assert_eq!(run.failures_after_window, 0, "{algorithm:?}");
        assert_eq!(run.set.out(Duration::from_secs(20)), 2, "{algorithm:?}");
    }
}
