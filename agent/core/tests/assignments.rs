//! Tables: what is obeyed, what is refused, what was missed.

#[path = "world/model.rs"]
mod model;

use model::{assignment, instance};
use skein_agent_core::{Assignments, Verdict};
use skein_common::{
    assignment::{AssignmentContent, AssignmentUpdate},
    instance::Desired,
    service::RestartPolicy,
};

/// A full set of these instances.
fn full(term: u64, generation: u64, numbers: &[u64]) -> AssignmentUpdate {
    let each = |number: &u64| assignment(*number, Desired::Run, RestartPolicy::default());
    AssignmentUpdate {
        term,
        generation,
        content: AssignmentContent::Full(numbers.iter().map(each).collect()),
    }
}

fn delta(term: u64, from: u64, generation: u64, upsert: u64, removal: u64) -> AssignmentUpdate {
    let upserts = vec![assignment(upsert, Desired::Run, RestartPolicy::default())];
    let content = AssignmentContent::Delta { from, upserts, removals: vec![instance(removal)] };
    AssignmentUpdate { term, generation, content }
}

#[test]
fn updates_are_judged_by_term_and_generation() {
    let first = || full(5, 10, &[1, 2]);
    for (name, when, verdict, held) in [
        ("the next delta", delta(5, 10, 11, 3, 1), Verdict::Accepted, vec![2, 3]),
        ("a delta that skips", delta(5, 11, 12, 3, 1), Verdict::Gap { held: 10, from: 11 }, vec![1, 2]),
        ("a delta again", delta(5, 9, 10, 3, 1), Verdict::Known, vec![1, 2]),
        ("an older full set", full(5, 9, &[3]), Verdict::Known, vec![1, 2]),
        ("the same full set", full(5, 10, &[1, 2]), Verdict::Accepted, vec![1, 2]),
        ("a later full set", full(5, 40, &[3]), Verdict::Accepted, vec![3]),
        ("a later term's set", full(6, 1, &[3]), Verdict::Accepted, vec![3]),
        ("a later term's delta", delta(6, 10, 11, 3, 1), Verdict::Gap { held: 10, from: 10 }, vec![1, 2]),
        ("a lower term", full(4, 99, &[3]), Verdict::LowerTerm { obeyed: 5, offered: 4 }, vec![1, 2]),
        (
            "a lower term's delta",
            delta(4, 10, 11, 3, 1),
            Verdict::LowerTerm { obeyed: 5, offered: 4 },
            vec![1, 2],
        ),
    ] {
        let mut assignments = Assignments::default();
        assert_eq!(assignments.apply(first()), Verdict::Accepted);
        assert_eq!(assignments.apply(when), verdict, "{name}");
        let ids: Vec<_> = assignments.iter().map(|each| each.instance).collect();
        assert_eq!(ids, held.iter().map(|number| instance(*number)).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn a_session_begins_with_a_full_set() {
    let mut assignments = Assignments::default();
    assert_eq!(assignments.apply(delta(1, 0, 1, 1, 2)), Verdict::Gap { held: 0, from: 0 });
    assert!(!assignments.is_authoritative());
    assert_eq!(assignments.apply(full(1, 7, &[1])), Verdict::Accepted);
    assert!(assignments.is_authoritative());

    assert_eq!(assignments.begin_session(1), Ok(()));
    assert_eq!(assignments.apply(delta(1, 7, 8, 2, 1)), Verdict::Gap { held: 7, from: 7 });
    assert_eq!(assignments.apply(full(1, 1, &[2])), Verdict::Accepted, "generations are counted by session");
    assert_eq!(assignments.begin_session(0), Err(Verdict::LowerTerm { obeyed: 1, offered: 0 }));
}
