//! Silence and return of nodes, second by second.

use super::*;
use crate::testing::Cluster;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A leader that began at 0 s with all nodes just heard, and the state its verdicts lead to.
struct Leader {
    cluster: Cluster,
    liveness: Liveness,
}

impl Leader {
    fn new(nodes: usize) -> Self {
        let cluster = Cluster::new(nodes);
        let mut liveness = Self::begin(&cluster, s(0));
        cluster.state.nodes().for_each(|node| liveness.heard(node.id, s(0)));
        Self { cluster, liveness }
    }

    fn begin(cluster: &Cluster, now: Duration) -> Liveness {
        Liveness::new(LivenessConfig::default(), now, cluster.state.nodes().map(AsRef::as_ref))
    }

    /// Hears these nodes every 2 s and judges on time, from `from` until `until`.
    fn run(&mut self, heard: &[&str], from: u64, until: u64) -> Judgement {
        let mut last = Judgement::default();
        for second in from..=until {
            if second % 2 == 0 {
                heard.iter().for_each(|name| self.liveness.heard(self.cluster.node(name), s(second)));
            }
            last = self.judge(s(second));
        }
        last
    }

    fn judge(&mut self, now: Duration) -> Judgement {
        let judgement = self.liveness.judge(&self.cluster.state, now);
        let verdicts = judgement.verdicts.clone();
        self.cluster.accept(crate::CommandKind::JudgeNodes { verdicts });
        let again = self.liveness.judge(&self.cluster.state, now);
        assert_eq!(again.verdicts, [], "a verdict is given once");
        judgement
    }

    fn picture(&self) -> String {
        let mut nodes: Vec<_> = self.cluster.state.nodes().collect();
        nodes.sort_by_key(|node| node_number(&node.description.name));
        let letter = |node: &&std::sync::Arc<Node>| match node.liveness {
            Belief::Ready => 'R',
            Belief::Unknown => 'U',
            Belief::Down => 'D',
        };
        nodes.iter().map(letter).collect()
    }
}

fn node_number(name: &str) -> usize {
    name[1..].parse().unwrap_or(0)
}

/// Its stream broke before it said more; the log has its Hello all the same.
#[test]
fn whoever_registered_counts_as_heard() {
    let mut leader = Leader::new(3);
    leader.run(&["n1", "n2"], 0, 30);
    assert_eq!(leader.picture(), "RRD");
    let node = leader.cluster.state.node_by_name("n3").unwrap().clone();
    let description = node.description.clone().into();
    leader.cluster.accept(crate::CommandKind::RegisterNode { id: node.id, description, incarnation: 2 });
    for (until, then) in [(31, "RRR"), (36, "RRR"), (37, "RRU"), (40, "RRU"), (41, "RRD")] {
        leader.run(&["n1", "n2"], until, until);
        assert_eq!(leader.picture(), then, "at {until} s");
    }
}

#[test]
fn silence_leads_to_unknown_then_down_and_a_word_back() {
    let mut leader = Leader::new(3);
    for (until, then) in [(5, "RRR"), (6, "RRU"), (9, "RRU"), (10, "RRD"), (60, "RRD")] {
        leader.run(&["n1", "n2"], until.max(1) - 1, until);
        assert_eq!(leader.picture(), then, "at {until} s");
    }
    let node = leader.cluster.state.node_by_name("n3").unwrap();
    assert_eq!(node.liveness_reason, "no heartbeat for 10 s");
    leader.run(&["n1", "n2", "n3"], 62, 63);
    assert_eq!(leader.picture(), "RRR");
}

#[test]
fn it_wakes_when_something_may_turn() {
    let mut leader = Leader::new(2);
    assert_eq!(leader.judge(s(0)).wake_at, Some(s(6)));
    leader.liveness.heard(leader.cluster.node("n1"), s(5));
    assert_eq!(leader.judge(s(6)).wake_at, Some(s(10)));
    assert_eq!(leader.judge(s(10)).wake_at, Some(s(11)));
}

#[test]
fn a_new_leader_is_patient_with_who_was_ready() {
    let mut leader = Leader::new(4);
    let [unknown, down] = ["n3", "n4"].map(|name| leader.cluster.node(name));
    leader.cluster.judge(unknown, Belief::Unknown);
    leader.cluster.judge(down, Belief::Down);
    leader.liveness = Leader::begin(&leader.cluster, s(100));
    for (until, then) in [
        (100, "RRUD"),
        (103, "RRUD"),
        // The one that was late already gets the rest of its time …
        (104, "RRDD"),
        (106, "RUDD"),
        // … the others all of it.
        (110, "RDDD"),
    ] {
        leader.run(&["n1"], until, until);
        assert_eq!(leader.picture(), then, "at {until} s");
    }
}

#[test]
fn grace_may_be_longer_than_the_usual_patience() {
    let cluster = Cluster::new(2);
    let config = LivenessConfig { grace: s(60), ..LivenessConfig::default() };
    let mut liveness = Liveness::new(config, s(0), cluster.state.nodes().map(AsRef::as_ref));
    liveness.heard(cluster.node("n1"), s(55));
    assert_eq!(liveness.judge(&cluster.state, s(55)).verdicts, []);
    let verdicts = liveness.judge(&cluster.state, s(56)).verdicts;
    assert_eq!(verdicts.iter().map(|v| v.liveness).collect::<Vec<_>>(), [Belief::Unknown]);
    let verdicts = liveness.judge(&cluster.state, s(60)).verdicts;
    assert_eq!(verdicts.iter().map(|v| v.liveness).collect::<Vec<_>>(), [Belief::Down]);
}

#[test]
fn the_brake_holds_a_mass_loss() {
    for (nodes, alive, then) in [
        // Up to two, and up to a fifth, are believed.
        (3, 1, "RDD"),
        (10, 8, "RRRRRRRRDD"),
        (20, 16, "RRRRRRRRRRRRRRRRDDDD"),
        // More are held, and so is the loss of everything.
        (4, 1, "RUUU"),
        (10, 7, "RRRRRRRUUU"),
        (20, 15, "RRRRRRRRRRRRRRRUUUUU"),
        (1, 0, "U"),
        (2, 0, "UU"),
    ] {
        let mut leader = Leader::new(nodes);
        let names: Vec<_> = (1..=alive).map(|number| format!("n{number}")).collect();
        let heard: Vec<_> = names.iter().map(String::as_str).collect();
        let judgement = leader.run(&heard, 1, 300);
        assert_eq!(leader.picture(), then);
        assert_eq!(judgement.braked(), then.contains('U'));
    }
}

#[test]
fn the_brake_sees_losses_that_are_not_simultaneous() {
    let mut leader = Leader::new(5);
    // Four nodes behind one switch, whose last heartbeats were up to 2 s apart.
    for (name, last) in [("n2", 0), ("n3", 1), ("n4", 1), ("n5", 2)] {
        leader.liveness.heard(leader.cluster.node(name), s(last));
    }
    leader.run(&["n1"], 2, 30);
    assert_eq!(leader.picture(), "RUUUU");
}

#[test]
fn the_brake_is_released_by_those_who_come_back() {
    let mut leader = Leader::new(6);
    leader.run(&["n1"], 1, 100);
    assert_eq!(leader.picture(), "RUUUUU");
    let reason = &leader.cluster.state.node_by_name("n2").unwrap().liveness_reason;
    assert!(reason.contains("too many nodes fell silent together"), "{reason}");
    leader.run(&["n1", "n2"], 101, 110);
    assert_eq!(leader.picture(), "RRUUUU");
    let judgement = leader.run(&["n1", "n2", "n3", "n4"], 111, 115);
    assert_eq!(leader.picture(), "RRRRUU", "the last ones may be on their way");
    assert!(!judgement.braked());
    leader.run(&["n1", "n2", "n3", "n4"], 116, 122);
    assert_eq!(leader.picture(), "RRRRDD", "few enough to be believed");
}

#[test]
fn an_operator_removes_what_is_held() {
    let mut leader = Leader::new(4);
    leader.run(&["n1"], 1, 20);
    assert_eq!(leader.picture(), "RUUU");
    let id = leader.cluster.node("n2");
    leader.cluster.accept(crate::CommandKind::DeleteNode { id, expected: None, force: true });
    leader.run(&["n1"], 21, 80);
    assert_eq!(leader.picture(), "RDD");
}

#[test]
fn slow_losses_are_believed_two_a_minute() {
    let mut leader = Leader::new(6);
    leader.run(&["n1", "n2", "n3", "n4", "n5"], 1, 20);
    leader.run(&["n1", "n2", "n3", "n4"], 21, 40);
    leader.run(&["n1", "n2", "n3"], 41, 60);
    assert_eq!(leader.picture(), "RRRUDD", "the third within a minute");
    leader.run(&["n1", "n2", "n3"], 61, 130);
    assert_eq!(leader.picture(), "RRRDDD");
}

#[test]
fn a_new_leader_holds_what_its_predecessor_held() {
    let mut leader = Leader::new(6);
    leader.run(&["n1"], 1, 60);
    leader.liveness = Leader::begin(&leader.cluster, s(1_000));
    leader.run(&["n1"], 1_000, 1_200);
    assert_eq!(leader.picture(), "RUUUUU");
}

#[test]
fn who_joins_counts_as_heard_and_who_leaves_is_forgotten() {
    let mut leader = Leader::new(3);
    leader.run(&["n1", "n2", "n3"], 1, 20);
    leader.cluster.add_node(crate::testing::node("n4"));
    leader.run(&["n1", "n2", "n3"], 21, 26);
    assert_eq!(leader.picture(), "RRRR");
    leader.run(&["n1", "n2", "n3"], 27, 40);
    assert_eq!(leader.picture(), "RRRD");
    let id = leader.cluster.node("n4");
    leader.cluster.accept(crate::CommandKind::DeleteNode { id, expected: None, force: false });
    assert_eq!(leader.judge(s(41)).verdicts, []);
    assert_eq!(leader.liveness.nodes.len(), 3);
}

#[test]
fn large_clusters_beat_more_slowly() {
    let config = LivenessConfig::default();
    for (nodes, millis) in [(1, 2_000), (4_000, 2_000), (5_000, 2_500), (20_000, 10_000)] {
        assert_eq!(config.heartbeat(nodes), Duration::from_millis(millis), "{nodes}");
        assert!(config.down_after(nodes) > config.unknown_after(nodes));
    }
}

/// One returns as the other falls silent: the one that returned counts among the living.
#[test]
fn who_has_just_come_back_counts_as_alive() {
    let mut leader = Leader::new(2);
    leader.run(&["n2"], 1, 10);
    assert_eq!(leader.picture(), "DR");
    leader.liveness.heard(leader.cluster.node("n1"), s(20));
    leader.judge(s(20));
    assert_eq!(leader.picture(), "RD");
}

proptest::proptest! {
    /// However nodes come, go and return: none is given up that was heard lately, one that is
    /// heard is Ready, and never are all given up.
    #[test]
    fn nobody_is_given_up_rashly(
        nodes in 1..8usize,
        steps in proptest::collection::vec((1..12u64, proptest::bits::u8::ANY, 0..40u8), 1..60),
    ) {
        let mut leader = Leader::new(nodes);
        let mut heard = vec![0; nodes];
        let (mut now, mut since) = (0, 0);
        for (pass, speaking, change) in steps {
            now += pass;
            if change == 0 {
                leader.liveness = Leader::begin(&leader.cluster, s(now));
                since = now;
            }
            for (number, heard) in heard.iter_mut().enumerate().filter(|(number, _)| speaking >> number & 1 == 1) {
                leader.liveness.heard(leader.cluster.node(&format!("n{}", number + 1)), s(now));
                *heard = now;
            }
            let before = leader.picture();
            leader.judge(s(now));
            let after = leader.picture();
            for (number, (was, is)) in before.chars().zip(after.chars()).enumerate() {
                let silence = now - heard[number];
                proptest::prop_assert!(silence > 0 || is == 'R', "heard and {is}");
                let patient = silence >= 10 && (now - since >= 10 || was == 'U' && now - since >= 4);
                proptest::prop_assert!(was == 'D' || is != 'D' || patient, "{was} to {is} after {silence} s");
            }
            proptest::prop_assert!(after.contains(['R', 'U']), "all are given up");
        }
    }
}
