//! Seeds of the simulator, and the bugs it found as named scenarios.
//!
//! A failing seed prints its trace and the command that repeats it.

#![allow(clippy::expect_used, clippy::panic)] // the allowance for tests does not reach their helper functions

use skein_tests::sim::{self, Settings, Summary, World};

/// Short runs, split so that two cores share them.
const SEEDS: u64 = 160;

/// Seeds that failed once, and what they showed. Each has a table or a unit test too, because a
/// seed tells another story as soon as the dice are asked for something new.
const FOUND: &[(u64, &str)] = &[
    (1799, "an agent without its checkpoint ran an instance that had ended"),
    (3797, "the same, of an instance that had completed"),
    (1266, "attempt 3 was told and lost in a crash; the running attempt 2 was ended"),
    (1796, "the same, by a restart of the agent"),
    (3195, "the same, when everything crashed"),
    (2130, "a word arrived while the verdict on its node was being committed: no fault"),
    (2250, "the same, 4 ms before the commit"),
    (3327, "the same, of a Hello after a new leader's grace"),
    (3997, "the same, of a node that was back when all was healed"),
    (3998, "the same, with two nodes"),
    (2740, "a start took effect after its instance was told as Stopped"),
    (305, "a node that registered and lost its stream was given up at once"),
    (786, "the same, of a node that the brake had held"),
    (4518, "a successor was placed although its predecessor's node was back"),
    (7339, "the same, in an update"),
    (16436, "a start failed because an earlier life's start was first"),
    (20631, "a stopped container was started once more by an earlier life's start"),
    (22968, "the same, of one that was killed: its next attempt ran beside it"),
    (27685, "a stopped container was started once more, while its successor ran"),
    (8660, "only words to a pending instance were out of date: no fault"),
    (9595, "an update waited for a back-off that names a port, and peace was declared too early: no fault"),
    (711, "a late start of a container that had been removed: no fault"),
    (287, "nobody was asked again to give way when the disruption limit allowed it"),
    (8259, "the same"),
    (4644, "peace was declared during a back-off beside a crowded service: no fault"),
    (2, "an agent that lost its data began to count restarts anew"),
    (6, "who served was scaled down, and who did not serve stayed"),
    (131, "a plan replaced what failed and went back to an earlier generation: no fault"),
];

/// The same, of users with jobs.
const FOUND_WITH_JOBS: &[(u64, &str)] = &[
    (8161, "a slot that was done gave way to somebody more important, and was done again"),
    (4046, "peace was declared while a job waited for the end of another: no fault"),
    (5, "a plan that lost instances with their node let another one of their service give way"),
];

/// The same, of a mixture of everything.
const FOUND_IN_THE_MIXTURE: &[(u64, &str)] = &[
    (2, "a plan that lost instances with their node let another one of their service give way"),
    (82, "who served was scaled down, and who did not serve stayed"),
    (190, "an agent that lost its data began to count restarts anew"),
];

/// Runs them all, and fails with the first failure in full and the others in a line each.
#[track_caller]
fn run_all(seeds: impl Iterator<Item = u64>) {
    run_all_by(seeds.collect(), sim::run);
}

#[track_caller]
fn run_all_by(seeds: Vec<u64>, run: fn(u64) -> Result<Summary, Box<sim::Failure>>) {
    let (mut commits, mut faults, mut runs, mut failures) = (0, 0, 0, Vec::new());
    for seed in seeds {
        match run(seed) {
            Ok(summary) => {
                (commits, faults, runs) = (commits + summary.commits, faults + summary.faults, runs + 1);
            }
            Err(failure) => failures.push(failure),
        }
    }
    println!("{runs} runs converged: {commits} commits, {faults} faults");
    if let Some(first) = failures.first() {
        let all: String =
            failures.iter().map(|each| format!("seed {}: {}\n", each.seed, each.broken)).collect();
        panic!("{first}\n{} of {} runs failed:\n{all}", failures.len(), runs + failures.len());
    }
}

#[track_caller]
fn passed(run: Result<Summary, Box<sim::Failure>>) -> Summary {
    match run {
        Ok(summary) => summary,
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn even_seeds_converge() {
    run_all((0..SEEDS).filter(|seed| seed % 2 == 0));
}

#[test]
fn odd_seeds_converge() {
    run_all((0..SEEDS).filter(|seed| seed % 2 == 1));
}

/// Jobs with and without a schedule, gangs, and runs by hand.
#[test]
fn jobs_converge() {
    run_all_by((0..SEEDS / 4).collect(), sim::run_with_jobs);
}

/// Balancers that stops wait for, services that wait for others, bad images, rollouts that users
/// control, drains with a time, jobs: all at once.
#[test]
fn mixtures_converge() {
    run_all_by((0..SEEDS / 2).collect(), sim::run_mixed);
}

#[test]
fn what_was_found_once_converges() {
    for (found, run) in [
        (FOUND, sim::run as fn(u64) -> Result<Summary, Box<sim::Failure>>),
        (FOUND_WITH_JOBS, sim::run_with_jobs),
        (FOUND_IN_THE_MIXTURE, sim::run_mixed),
    ] {
        for (seed, story) in found {
            if let Err(failure) = run(*seed) {
                panic!("{failure}\n(this seed once showed: {story})");
            }
        }
    }
}

/// `SKEIN_SIM_SEED=n` repeats one run, `SKEIN_SIM_SEED=n..m` runs many; nothing without it. With
/// `SKEIN_SIM_JOBS=1` the user has jobs too, with `SKEIN_SIM_MIXED=1` there is everything.
#[test]
fn one_seed() {
    let Ok(wanted) = std::env::var("SKEIN_SIM_SEED") else { return };
    let (from, to) = wanted.split_once("..").unwrap_or((wanted.as_str(), ""));
    let from: u64 = from.parse().expect("SKEIN_SIM_SEED is a number or a range n..m");
    let to = to.parse().unwrap_or(from + 1);
    if std::env::var_os("SKEIN_SIM_MIXED").is_some() {
        return run_all_by((from..to).collect(), sim::run_mixed);
    }
    if std::env::var_os("SKEIN_SIM_JOBS").is_some() {
        return run_all_by((from..to).collect(), sim::run_with_jobs);
    }
    run_all(from..to);
}

/// Masters and agents die, streams break: whatever ran goes on, the same containers.
#[test]
fn a_dying_control_plane_touches_no_container() {
    for seed in 0..20 {
        let settings =
            Settings { hostile: false, illness: false, faults: sim::CONTROL_PLANE, ..Settings::drawn(seed) };
        let mut world = World::new(seed, settings);
        world.settle();
        let before = world.running();
        world.trouble(60_000);
        let (after, trace) = (world.running(), world.trace());
        passed(world.reach_peace());
        assert_eq!(before, after, "{trace}seed {seed}: containers were touched");
    }
}

#[test]
fn a_run_repeats_exactly() {
    for seed in [3, 4] {
        let (first, second) = (passed(sim::run(seed)), passed(sim::run(seed)));
        assert_eq!(format!("{first:?}"), format!("{second:?}"));
    }
}

/// A session looks at a state that is ahead of the feed that woke it, so two messages may follow
/// from one revision. They once had one generation, and the agent took the second for a repeat.
#[test]
fn what_follows_from_one_revision_reaches_the_agent() {
    for seed in 0..20 {
        let settings = Settings { hostile: false, faults: &[], ..Settings::drawn(seed) };
        let mut world = World::new(seed, settings);
        world.trouble(60_000);
        passed(world.reach_peace());
    }
}
