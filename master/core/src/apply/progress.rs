//! How far the masters take an instance: every way from one `(attempt, phase)` to the next that they write down.
//!
//! Invariant: pure and total; progress only grows, and a terminal phase is final. `apply` moves an instance by [`next`]
//! alone, so the table that ARCHITECTURE.md prints is what happens.
//! Deliberately not here: what is wanted (`desired` only grows: Run, Stop, Remove), what else a report says (`observe`).

use skein_common::instance::{Desired, Phase, Progress};

/// What the masters hear or decide of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// A node was chosen.
    Placed,
    /// It is to run no longer.
    Unwanted,
    /// Its agent says that it has come this far.
    Reported(Progress),
    /// Its agent says that it left no trace.
    Gone,
    /// Its node is removed from the cluster.
    NodeRemoved,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Where it was; of its phase this is no news.
    Stays,
    Becomes(Progress),
    /// The record goes.
    Forgotten,
}

/// `desired`: what is wanted of it now; of one without a service that it goes.
#[must_use]
pub fn next(now: Progress, desired: Desired, input: Input) -> Next {
    let is_over = now.phase.is_terminal();
    match (input, desired) {
        (Input::NodeRemoved, _) | (Input::Gone, Desired::Remove) => Next::Forgotten,
        // It never began, so there is no agent to report its end.
        (Input::Unwanted, _) if now.phase == Phase::Pending => Next::Forgotten,
        (Input::Placed, _) if now.phase == Phase::Pending => to(now, Phase::Assigned),
        (Input::Reported(progress), _) if !is_over && progress > now => Next::Becomes(progress),
        (Input::Gone, Desired::Run) if !is_over => to(now, Phase::Failed),
        (Input::Gone, Desired::Stop) if !is_over => to(now, Phase::Stopped),
        (Input::Unwanted | Input::Placed | Input::Reported(_) | Input::Gone, _) => Next::Stays,
    }
}

const fn to(now: Progress, phase: Phase) -> Next {
    Next::Becomes(Progress { phase, ..now })
}

/// The table: from, what it becomes (`None` = forgotten), and why.
#[must_use]
pub fn rules() -> Vec<(Progress, Option<Progress>, &'static str)> {
    let from = |phase| Progress { attempt: 1, phase };
    let becomes = |(desired, input, why): (Desired, Input, &'static str)| {
        // Without a node there is no agent to report; nothing enters Draining.
        let is_local = matches!(input, Input::Placed | Input::Unwanted);
        let known = move |phase: &Phase| (*phase != Phase::Pending || is_local) && *phase != Phase::Draining;
        Phase::ALL.into_iter().filter(known).map(from).filter_map(move |now| {
            match next(now, desired, input) {
                Next::Stays => None,
                Next::Becomes(progress) => Some((now, Some(progress), why)),
                Next::Forgotten => Some((now, None, why)),
            }
        })
    };
    let reports =
        Phase::ALL.into_iter().filter(|phase| *phase > Phase::Assigned && *phase != Phase::Draining);
    let reports = reports.map(|phase| (Desired::Run, Input::Reported(from(phase)), REPORTED));
    INPUTS.into_iter().chain(reports).flat_map(becomes).collect()
}

const REPORTED: &str = "its agent reports it; steps in between may be left out";
const INPUTS: [(Desired, Input, &str); 7] = [
    (Desired::Run, Input::Placed, "the planner has chosen a node"),
    (Desired::Stop, Input::Unwanted, "the planner wants it no longer, and it never had a node"),
    (Desired::Run, Input::Gone, "it is to run, and its agent knows nothing of it"),
    (Desired::Stop, Input::Gone, "it is to stop, and its agent knows nothing of it"),
    (
        Desired::Remove,
        Input::Gone,
        "it is to be removed (or its service is), and its agent has left no trace of it",
    ),
    (Desired::Run, Input::NodeRemoved, "its node is removed from the cluster"),
    (
        Desired::Run,
        Input::Reported(Progress { attempt: 3, phase: Phase::Assigned }),
        "its agent reports a later attempt, in any phase",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs() -> impl Iterator<Item = (Desired, Input)> {
        let reports = (1..4).flat_map(|attempt| {
            Phase::ALL.into_iter().map(move |phase| Input::Reported(Progress { attempt, phase }))
        });
        let others = [Input::Placed, Input::Unwanted, Input::Gone, Input::NodeRemoved];
        others.into_iter().chain(reports).flat_map(|input| {
            [Desired::Run, Desired::Stop, Desired::Remove].into_iter().map(move |desired| (desired, input))
        })
    }

    #[test]
    fn progress_only_grows_and_the_end_is_final() {
        for now in Phase::ALL.map(|phase| Progress { attempt: 2, phase }) {
            for (desired, input) in inputs() {
                let Next::Becomes(then) = next(now, desired, input) else { continue };
                assert!(now < then, "{now} → {then}: {input:?}");
                assert!(!now.phase.is_terminal(), "{now} → {then}: {input:?}");
                assert_eq!(next(then, desired, input), Next::Stays, "once is enough: {input:?}");
            }
        }
    }
}
