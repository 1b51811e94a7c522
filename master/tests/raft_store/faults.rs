//! Deaths and losses: what is acknowledged stays, what cannot be done is said quickly.

use std::time::{Duration, Instant};

use skein_master::store::{ProposeError, ReadError, StoreOptions};

use crate::{
    gate::Door,
    harness::{Cluster, patiently, register, register_once},
};

/// A busy machine alone must cause no election where none is expected.
fn slow(options: &mut StoreOptions) {
    options.timing.heartbeat_ms = 300;
    options.timing.election_min_ms = 2000;
    options.timing.election_max_ms = 2400;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_dies_under_load_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(3).await;
    cluster.write(0..10).await;
    let leader = cluster.leader().await;
    let (survivor, other) = cluster.two_others(leader);
    let writers: Vec<_> = (0..8_u64)
        .map(|writer| {
            let store = cluster.store(survivor).clone();
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for number in (100 * (writer + 1)..).take(60) {
                    // As a client does: the request id makes it safe.
                    let accepted = loop {
                        match store.propose(register_once(number)).await {
                            Ok(committed) => break committed.outcome.is_ok(),
                            Err(ProposeError::OutcomeUnknown { .. } | ProposeError::NoLeader { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    };
                    acknowledged.push((number, accepted));
                }
                acknowledged
            })
        })
        .collect();
    cluster.until(survivor, |state| state.node_count() > 100).await;
    let died = Instant::now();
    cluster.kill(leader).await;
    cluster.leader().await;
    cluster.write(20..21).await;
    println!("leader dead -> first accepted write: {} ms", died.elapsed().as_millis());
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    assert_eq!(acknowledged.len(), 8 * 60);
    assert!(acknowledged.iter().all(|(_, accepted)| *accepted));
    for node in [survivor, other] {
        cluster.linearize(node).await;
        let state = cluster.store(node).snapshot();
        for (number, _) in &acknowledged {
            assert!(state.node_by_name(&format!("n{number}")).is_some(), "n{number} was acknowledged");
        }
    }
    cluster.restart(leader).await;
    let count = cluster.store(survivor).snapshot().node_count();
    cluster.until(leader, |state| state.node_count() == count).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_the_answer_is_quick_and_certain() {
    let mut cluster = Cluster::start(3).await;
    cluster.write(0..5).await;
    let leader = cluster.leader().await;
    let (one, other) = cluster.two_others(leader);
    cluster.kill(one).await;
    cluster.kill(other).await;

    // The leader may not know yet: its answer may be "unknown", but it comes.
    let asked = Instant::now();
    let first = cluster.store(leader).propose(register(100)).await.unwrap_err();
    assert!(matches!(first, ProposeError::OutcomeUnknown { .. } | ProposeError::NoLeader { .. }), "{first}");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let mut leadership = cluster.store(leader).leadership();
    leadership.wait_for(|seen| seen.leader_id.is_none()).await.unwrap();

    let asked = Instant::now();
    let refused = cluster.store(leader).propose(register(101)).await.unwrap_err();
    assert!(matches!(refused, ProposeError::NoLeader { .. }), "{refused}");
    let read = cluster.store(leader).linearize().await.unwrap_err();
    assert!(matches!(read, ReadError::NoLeader { .. }), "{read}");
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    // A stale read still works.
    assert_eq!(cluster.store(leader).snapshot().node_count(), 5);

    cluster.restart(one).await;
    cluster.leader().await;
    cluster.write(200..205).await;
    assert!(cluster.store(leader).snapshot().node_by_name("n101").is_none());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_alone_says_no_leader() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (one, other) = cluster.two_others(leader);
    cluster.kill(leader).await;
    cluster.kill(one).await;
    let mut leadership = cluster.store(other).leadership();
    leadership.wait_for(|seen| seen.leader_id.is_none()).await.unwrap();
    let asked = Instant::now();
    let refused = cluster.store(other).propose(register(1)).await.unwrap_err();
    assert!(matches!(refused, ProposeError::NoLeader { .. }), "{refused}");
    assert!(cluster.store(other).linearize().await.is_err());
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_hears_nothing_deposes_nobody() {
    let mut cluster = Cluster::start_with(3, slow).await;
    let leader = cluster.leader().await;
    let (deaf, other) = cluster.two_others(leader);
    for door in [Door::Shut, Door::Stuck] {
        let term = cluster.store(leader).status().term;
        cluster.door(deaf, door).await;
        let mut leadership = cluster.store(deaf).leadership();
        leadership.wait_for(|seen| seen.leader_id.is_none()).await.unwrap();
        // It asks for votes again and again; the others hear their leader and refuse before any
        // term is raised.
        let deafened = Instant::now();
        let mut number = 1000 * (door as u64 + 1);
        while deafened.elapsed() < Duration::from_secs(5) {
            cluster.write(number..number + 1).await;
            number += 1;
        }
        cluster.door(deaf, Door::Open).await;
        let count = cluster.store(leader).snapshot().node_count();
        cluster.until(deaf, |state| state.node_count() == count).await;
        for node in [leader, other, deaf] {
            assert_eq!(cluster.store(node).status().term, term, "{door:?}");
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_removed_while_away_disturbs_nobody() {
    let mut cluster = Cluster::start_with(3, slow).await;
    let leader = cluster.leader().await;
    let (away, other) = cluster.two_others(leader);
    cluster.kill(away).await;
    let name = cluster.name(away);
    cluster.store(other).remove_master(&name).await.unwrap();
    let term = cluster.store(leader).status().term;
    cluster.restart(away).await;
    // Long enough for it to ask for votes.
    let back = Instant::now();
    let mut number = 0;
    while back.elapsed() < Duration::from_secs(5) {
        cluster.write(number..number + 1).await;
        number += 1;
    }
    assert_eq!(cluster.store(leader).status().term, term);
    assert!(cluster.store(away).linearize().await.is_err());
    // The name is free again, for a member that starts empty.
    patiently("both agree", async || (cluster.store(other).status().members.len() == 2).then_some(())).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_forgot_what_it_acknowledged_stops_itself() {
    // Only the leader it acknowledged to can know.
    let mut cluster = Cluster::start_with(3, slow).await;
    cluster.write(0..20).await;
    let leader = cluster.leader().await;
    let (forgetful, other) = cluster.two_others(leader);
    cluster.acknowledged(leader, forgetful).await;
    cluster.kill(forgetful).await;
    cluster.wipe(forgetful);
    cluster.restart(forgetful).await;
    let reason = cluster.fatal(forgetful).await;
    assert!(reason.contains("has acknowledged the log up to"), "{reason}");
    // Nobody else minds.
    cluster.write(20..25).await;
    cluster.kill(forgetful).await;
    cluster.write(25..30).await;
    cluster.until(other, |state| state.node_count() == 30).await;
    assert_eq!(cluster.leader().await, leader);
}
