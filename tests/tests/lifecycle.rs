//! The tables of an instance's life in ARCHITECTURE.md are what the code does.
//!
//! `BLESS=1` writes them anew.

#![allow(clippy::expect_used)] // the allowance for tests does not reach their helper functions

use std::{collections::BTreeMap, fs, path::Path};

use skein_agent_core::progress as agent;
use skein_common::instance::{Phase, Progress};
use skein_master_core::progress as masters;

const BEGIN: &str = "<!-- lifecycle -->\n";
const END: &str = "<!-- /lifecycle -->\n";

type Rule = (Progress, Option<Progress>, &'static str);

#[test]
fn the_printed_tables_are_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md");
    let text = fs::read_to_string(&path).expect("ARCHITECTURE.md");
    let (before, rest) = text.split_once(BEGIN).expect("the mark where the tables begin");
    let (printed, after) = rest.split_once(END).expect("the mark where the tables end");
    let told = tables();
    if std::env::var_os("BLESS").is_some() {
        return fs::write(&path, format!("{before}{BEGIN}{told}{END}{after}")).expect("written");
    }
    assert_eq!(printed, told, "BLESS=1 writes the tables anew");
}

fn tables() -> String {
    let born = [
        (
            "-".to_owned(),
            "Pending".to_owned(),
            "the planner: a slot is missing, and no node was found or may be taken yet",
        ),
        (
            "-".to_owned(),
            "Assigned".to_owned(),
            "the planner: a slot is missing, and a node was found by the same plan",
        ),
    ];
    let of_agents = agent::rules().into_iter().map(|(from, to, why)| (from, Some(to), why));
    let mut text = table("masters", born.into_iter().chain(grouped(masters::rules().into_iter())));
    text.push('\n');
    let born = [("-".to_owned(), "Assigned".to_owned(), "it was assigned, or a container of it was found")];
    text.push_str(&table("agent", born.into_iter().chain(grouped(of_agents))));
    text
}

fn table(writer: &str, rows: impl Iterator<Item = (String, String, &'static str)>) -> String {
    let mut text = "| From | To | Written by | Cause |\n|---|---|---|---|\n".to_owned();
    for (from, to, why) in rows {
        text.push_str(&format!("| {from} | {to} | {writer} | {why} |\n"));
    }
    text
}

/// One row for all that the same cause does to several phases.
fn grouped(rules: impl Iterator<Item = Rule>) -> impl Iterator<Item = (String, String, &'static str)> {
    let mut order = Vec::new();
    let mut rows: BTreeMap<&'static str, BTreeMap<Phase, Vec<Option<Progress>>>> = BTreeMap::new();
    for (from, to, why) in rules {
        if !order.contains(&why) {
            order.push(why);
        }
        rows.entry(why).or_default().entry(from.phase).or_default().push(to);
    }
    order.into_iter().flat_map(move |why| {
        // Phases that become the same are one row.
        let mut same: Vec<(Vec<Option<Progress>>, Vec<Phase>)> = Vec::new();
        for (phase, to) in rows.remove(why).unwrap_or_default() {
            match same.iter_mut().find(|(known, _)| *known == to) {
                Some((_, phases)) => phases.push(phase),
                None => same.push((to, vec![phase])),
            }
        }
        same.into_iter().map(move |(to, from)| (span(&from), outcome(&to), why))
    })
}

fn outcome(all: &[Option<Progress>]) -> String {
    match all {
        [None] => "forgotten".to_owned(),
        [Some(Progress { attempt: 1, phase })] => phase.to_string(),
        [Some(Progress { attempt: 2, phase })] => format!("{phase}, next attempt"),
        [Some(Progress { phase, .. })] => format!("{phase}, a later attempt"),
        several => span(&several.iter().flatten().map(|progress| progress.phase).collect::<Vec<_>>()),
    }
}

/// Neighbours in the order of life are a range.
fn span(phases: &[Phase]) -> String {
    let known: Vec<Phase> = Phase::ALL.into_iter().filter(|phase| *phase != Phase::Draining).collect();
    let position = |phase: &Phase| known.iter().position(|other| other == phase);
    let runs: Vec<&[Phase]> =
        phases.chunk_by(|one, next| position(one).map(|at| at + 1) == position(next)).collect();
    let told = runs.into_iter().map(|run| match run {
        [first, .., last] if run.len() > 2 => format!("{first} … {last}"),
        run => run.iter().map(Phase::to_string).collect::<Vec<_>>().join(", "),
    });
    told.collect::<Vec<_>>().join(", ")
}
