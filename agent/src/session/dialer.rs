//! Which master to dial next, and how long to wait before: pure, the dice are an argument.
//!
//! Invariant: every known master is dialled in turn before anybody waits long; a leader's address
//! is followed at once, but not for ever; waits are full-jittered, so that thousands of agents do
//! not come back in one instant. The configured masters are never forgotten.
//! Deliberately not here: dialling.

use std::time::Duration;

/// After a session ended: quickly, but not all agents at once.
const FIRST: Duration = Duration::from_millis(100);
const BASE: Duration = Duration::from_millis(100);
/// Nobody answers.
const LONGEST: Duration = Duration::from_secs(5);
/// Masters answer and have no leader: an election takes about a second.
const LONGEST_ELECTION: Duration = Duration::from_secs(1);
/// Masters that send each other's address in a circle.
const REDIRECTS: u32 = 3;
/// Addresses a master may teach.
const MAX_LEARNED: usize = 64;

#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    configured: Vec<String>,
    learned: Vec<String>,
    /// Where the leader is said to be.
    hint: Option<String>,
    /// Position of the next address.
    next: usize,
    /// Dialled since the last welcome, hints not counted.
    dialled: u32,
    redirects: u32,
    /// A master answered in this round.
    answered: bool,
    /// A session has just ended, and with it perhaps those of all agents.
    first: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dial {
    pub(crate) address: String,
    pub(crate) wait: Duration,
}

impl Dialer {
    /// `dice` in 0..1 chooses whom an agent dials first.
    pub(crate) fn new(configured: Vec<String>, dice: f64) -> Self {
        let next = scale(configured.len(), dice);
        Self {
            configured,
            learned: Vec::new(),
            hint: None,
            next,
            dialled: 0,
            redirects: 0,
            answered: false,
            first: false,
        }
    }

    /// `dice` in 0..1.
    pub(crate) fn next(&mut self, dice: f64) -> Dial {
        if let Some(address) = self.hint.take() {
            let wait = if std::mem::take(&mut self.first) { FIRST } else { Duration::ZERO };
            return Dial { address, wait: wait.mul_f64(dice.clamp(0.0, 1.0)) };
        }
        let count = self.configured.len() + self.learned.len();
        let address = self.configured.iter().chain(&self.learned).nth(self.next % count.max(1));
        let address = address.cloned().unwrap_or_default();
        self.next = (self.next + 1) % count.max(1);
        let wait = self.wait(count).mul_f64(dice.clamp(0.0, 1.0));
        self.dialled = self.dialled.saturating_add(1);
        self.first = false;
        Dial { address, wait }
    }

    fn wait(&self, count: usize) -> Duration {
        if self.first {
            return FIRST;
        }
        let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
        let (longest, doublings) = if self.answered {
            (LONGEST_ELECTION, self.dialled)
        } else if self.dialled < count {
            return Duration::ZERO;
        } else {
            (LONGEST, self.dialled / count)
        };
        BASE.saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(longest)
    }

    /// A master answered that it does not lead.
    pub(crate) fn redirected(&mut self, leader: &str, masters: Vec<String>) {
        self.learn(masters);
        self.answered = true;
        self.redirects += 1;
        if !leader.is_empty() && !self.redirects.is_multiple_of(REDIRECTS + 1) {
            self.hint = Some(leader.to_owned());
        }
    }

    /// Nobody answered there.
    pub(crate) fn failed(&mut self) {
        self.answered = false;
    }

    /// A leader answered; after this session ended, everything begins anew.
    pub(crate) fn welcomed(&mut self, masters: Vec<String>) {
        self.learn(masters);
        self.dialled = 0;
        self.redirects = 0;
        self.answered = false;
        self.first = true;
    }

    fn learn(&mut self, mut masters: Vec<String>) {
        if masters.is_empty() {
            return;
        }
        masters.retain(|master| !master.is_empty() && !self.configured.contains(master));
        masters.truncate(MAX_LEARNED);
        self.learned = masters;
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn scale(count: usize, dice: f64) -> usize {
    // In 0..count, both far below the limits of f64 and usize.
    (count as f64 * dice.clamp(0.0, 1.0)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masters(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn dial(dialer: &mut Dialer) -> (String, u64) {
        let Dial { address, wait } = dialer.next(1.0);
        (address, u64::try_from(wait.as_millis()).unwrap())
    }

    #[test]
    fn every_master_is_tried_before_waiting_and_waits_grow() {
        let mut dialer = Dialer::new(masters(&["a", "b", "c"]), 0.0);
        let mut seen = Vec::new();
        for _ in 0..24 {
            seen.push(dial(&mut dialer));
            dialer.failed();
        }
        assert_eq!(seen[..3], [("a".into(), 0), ("b".into(), 0), ("c".into(), 0)]);
        assert_eq!(seen[3..6], [("a".into(), 200), ("b".into(), 200), ("c".into(), 200)]);
        assert_eq!(seen[6].1, 400);
        assert_eq!(seen[23].1, 5000);
    }

    #[test]
    fn a_leader_is_followed_at_once() {
        let mut dialer = Dialer::new(masters(&["a", "b", "c"]), 0.0);
        dial(&mut dialer);
        dialer.redirected("c", masters(&["a", "b", "c", "d"]));
        assert_eq!(dial(&mut dialer), ("c".to_owned(), 0));
        dialer.failed();
        assert_eq!(dial(&mut dialer), ("b".to_owned(), 0), "and then the others");
        dialer.welcomed(Vec::new());
        dialer.redirected("c", Vec::new());
        assert_eq!(dial(&mut dialer), ("c".to_owned(), 100), "a leader that steps down sends all at once");
    }

    #[test]
    fn masters_in_a_circle_are_left() {
        let mut dialer = Dialer::new(masters(&["a", "b"]), 0.0);
        let mut waited = 0;
        for _ in 0..100 {
            let (address, wait) = dial(&mut dialer);
            waited += wait;
            dialer.redirected(if address == "a" { "b" } else { "a" }, Vec::new());
        }
        assert!(waited > 10_000, "{waited}");
    }

    #[test]
    fn an_election_is_waited_for_with_short_waits() {
        let mut dialer = Dialer::new(masters(&["a", "b", "c"]), 0.0);
        dialer.welcomed(Vec::new());
        assert_eq!(dial(&mut dialer), ("a".to_owned(), 100));
        dialer.failed();
        assert_eq!(dial(&mut dialer), ("b".to_owned(), 0), "the leader is gone, the next at once");
        for wait in [400, 800, 1000, 1000] {
            dialer.redirected("", Vec::new());
            assert_eq!(dial(&mut dialer).1, wait);
        }
    }

    #[test]
    fn learnt_masters_are_dialled_too_and_configured_ones_stay() {
        let mut dialer = Dialer::new(masters(&["a"]), 0.0);
        dialer.welcomed(masters(&["a", "b"]));
        let addresses: Vec<_> = (0..4).map(|_| dial(&mut dialer).0).collect();
        assert_eq!(addresses, ["a", "b", "a", "b"]);
        dialer.welcomed(masters(&["c"]));
        let addresses: Vec<_> = (0..4).map(|_| dial(&mut dialer).0).collect();
        assert_eq!(addresses, ["a", "c", "a", "c"]);
    }

    #[test]
    fn agents_spread_over_the_masters() {
        let first = |dice| Dialer::new(masters(&["a", "b", "c"]), dice).next(0.0).address;
        assert_eq!([first(0.0), first(0.4), first(0.9), first(1.0)], ["a", "b", "c", "a"]);
    }
}
