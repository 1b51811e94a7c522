//! How far an attempt comes: every way from one `(attempt, phase)` to the next that an agent takes.
//!
//! Invariant: pure and total; progress only grows, and a terminal phase is final. A record moves by [`next`] alone, so
//! the table that ARCHITECTURE.md prints is what happens.
//! Deliberately not here: what to do about it (`lifecycle`), what is remembered besides (`record`).

use skein_common::instance::{Phase, Progress};

/// Why an attempt moves on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Pull,
    Create,
    Start,
    Run,
    Serve,
    Ill,
    Unwanted,
    EndedAsWished,
    Completed,
    GivenUp,
    Refused,
    Restart,
    /// That this attempt exists.
    Later(u32),
}

/// Where it stands afterwards; where it stood, when this is nothing new to it.
#[must_use]
pub fn next(now: Progress, cause: Cause) -> Progress {
    if now.phase.is_terminal() {
        return now;
    }
    let phase = match cause {
        Cause::Pull => Phase::Pulling,
        Cause::Create => Phase::Creating,
        Cause::Start => Phase::Starting,
        Cause::Run => Phase::Running,
        Cause::Serve => Phase::Ready,
        Cause::Ill | Cause::Unwanted => Phase::Stopping,
        Cause::EndedAsWished | Cause::Completed => Phase::Stopped,
        Cause::GivenUp => Phase::Failed,
        Cause::Refused => Phase::Rejected,
        Cause::Restart => return later(now, now.attempt.saturating_add(1)),
        Cause::Later(attempt) => return later(now, attempt),
    };
    // The order of phases is the order of life.
    Progress { phase: now.phase.max(phase), ..now }
}

fn later(now: Progress, attempt: u32) -> Progress {
    if attempt > now.attempt { Progress { attempt, phase: Phase::Assigned } } else { now }
}

/// The table: a phase of the first attempt, what it becomes, and why.
#[must_use]
pub fn rules() -> Vec<(Progress, Progress, &'static str)> {
    let phases =
        Phase::ALL.into_iter().filter(|phase| *phase >= Phase::Assigned && *phase != Phase::Draining);
    let from = |phase| Progress { attempt: 1, phase };
    CAUSES
        .iter()
        .flat_map(|(cause, text)| {
            phases.clone().map(move |phase| (from(phase), next(from(phase), *cause), *text))
        })
        .filter(|(from, to, _)| from != to)
        .collect()
}

const CAUSES: [(Cause, &str); 13] = [
    (Cause::Pull, "its image is not here and has to be pulled"),
    (Cause::Create, "its image is here: its container is made"),
    (Cause::Start, "its container is made: it is started"),
    (Cause::Run, "its process runs"),
    (
        Cause::Serve,
        "its process runs and is well: health check and startup probe have passed, readiness once",
    ),
    (Cause::Ill, "its process is ill (health check, startup or liveness probe): it is ended"),
    (Cause::Unwanted, "it is to stop, and a container of it runs or may still start: that is ended"),
    (Cause::EndedAsWished, "it is to stop, and nothing of it runs"),
    (Cause::Completed, "it ended by itself, and its restart policy is content with that"),
    (Cause::GivenUp, "it failed, and its restart policy allows no further attempt"),
    (Cause::Refused, "it can never start here: the engine refuses it"),
    (Cause::Restart, "it ended or vanished, and its restart policy wants another attempt"),
    (Cause::Later(3), "a later attempt is known: its container is there, or the masters say so"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_only_grows_and_the_end_is_final() {
        for phase in Phase::ALL {
            for (cause, text) in CAUSES {
                let now = Progress { attempt: 2, phase };
                let then = next(now, cause);
                assert!(now <= then, "{now} → {then}: {text}");
                assert!(!phase.is_terminal() || then == now, "{now} → {then}: {text}");
                assert_eq!(
                    next(then, cause) == then,
                    !matches!(cause, Cause::Restart) || phase.is_terminal(),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn an_earlier_attempt_is_no_news() {
        let now = Progress { attempt: 2, phase: Phase::Ready };
        assert_eq!(next(now, Cause::Later(1)), now);
        assert_eq!(next(now, Cause::Later(2)), now);
        assert_eq!(next(now, Cause::Later(5)), Progress { attempt: 5, phase: Phase::Assigned });
    }
}
