//! Three real stores in one process, over real gRPC on loopback: forming, writing, failing over,
//! catching up, changing members. Waits on predicates; ports are chosen by the system.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "raft_store/faults.rs"]
mod faults;
#[path = "raft_store/gate.rs"]
mod gate;
#[path = "raft_store/harness.rs"]
mod harness;
#[path = "raft_store/strangers.rs"]
mod strangers;

use std::collections::BTreeSet;

use harness::{Cluster, register, register_as};
use skein_common::Revision;
use skein_master::store::{Compacted, FeedEnd, ProposeError, Role};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_forwards_writes_and_reads_linearly() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (one, other) = cluster.two_others(leader);
    let mut last = Revision(0);
    for number in 0..20 {
        let committed = cluster.store(one).propose(register(number)).await.unwrap();
        assert!(committed.outcome.is_ok() && committed.revision > last);
        last = committed.revision;
        // It answers when it has applied the command itself.
        assert_eq!(cluster.store(one).snapshot().node_count(), usize::try_from(number).unwrap() + 1);
        // Any other master has it after a linearizable read.
        assert!(cluster.linearize(other).await >= last);
        assert_eq!(cluster.store(other).snapshot().node_count(), usize::try_from(number).unwrap() + 1);
    }
    assert!(cluster.linearize(leader).await >= last);
    let status = cluster.store(other).status();
    assert_eq!(status.members.len(), 3);
    assert!(status.members.iter().all(|member| member.role == Role::Voter));
    assert_eq!(status.leader, Some(cluster.name(leader)));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejection_reaches_the_caller_through_the_leader() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (follower, _) = cluster.two_others(leader);
    cluster.store(follower).propose(register_as(1, "same")).await.unwrap();
    let committed = cluster.store(follower).propose(register_as(2, "same")).await.unwrap();
    assert!(committed.outcome.is_err(), "{committed:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_masters_stop_and_come_back_with_everything() {
    let mut cluster = Cluster::start(3).await;
    cluster.write(0..50).await;
    let term = cluster.store(0).status().term;
    for node in 0..3 {
        cluster.kill(node).await;
    }
    for node in [2, 0, 1] {
        cluster.restart(node).await;
    }
    for node in 0..3 {
        cluster.linearize(node).await;
        assert_eq!(cluster.store(node).snapshot().node_count(), 50);
    }
    assert!(cluster.store(0).status().term > term, "a restart is a new election");
    cluster.write(50..60).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_catches_up_from_the_log_and_from_a_snapshot() {
    let mut cluster = Cluster::start_with(3, |options| {
        options.timing.snapshot_every = 100;
        options.timing.keep_entries = 10;
    })
    .await;
    let leader = cluster.leader().await;
    let (away, _) = cluster.two_others(leader);
    cluster.kill(away).await;
    cluster.write(0..20).await;
    cluster.restart(away).await;
    cluster.until(away, |state| state.node_count() == 20).await;
    assert_eq!(cluster.store(away).status().snapshot, 0, "this was the log");

    cluster.kill(away).await;
    cluster.write(20..400).await;
    let purged = async |cluster: &Cluster| cluster.store(cluster.leader().await).status().purged;
    while purged(&cluster).await < 100 {
        tokio::task::yield_now().await;
    }
    cluster.restart(away).await;
    cluster.until(away, |state| state.node_count() == 400).await;
    assert!(cluster.store(away).status().snapshot >= 100, "this was a snapshot");
    // What came before a received snapshot can no longer be followed.
    let oldest = match cluster.store(away).feed(Revision(5)) {
        Err(Compacted { oldest }) => oldest,
        Ok(_) => panic!("the history before the snapshot is unknown here"),
    };
    assert!(cluster.store(away).feed(oldest).is_ok());

    // The received snapshot and the log after it are there after another restart.
    cluster.kill(away).await;
    cluster.restart(away).await;
    cluster.until(away, |state| state.node_count() == 400).await;
    cluster.write(400..410).await;
    cluster.until(away, |state| state.node_count() == 410).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_master_joins_and_the_leader_is_removed() {
    let mut cluster = Cluster::start(3).await;
    cluster.write(0..10).await;
    let follower = cluster.two_others(cluster.leader().await).0;
    let fourth = cluster.add_waiting().await;
    let refused = cluster.store(fourth).propose(register(90)).await.unwrap_err();
    assert!(matches!(refused, ProposeError::NoLeader { .. }), "it belongs to nobody yet");

    // Asked of a follower, and asked again.
    for _ in 0..2 {
        cluster.store(follower).add_master(cluster.member(fourth)).await.unwrap();
    }
    cluster.until(fourth, |state| state.node_count() == 10).await;
    let roles = |cluster: &Cluster, node| {
        let members = cluster.store(node).status().members;
        members.into_iter().map(|member| (member.name, member.role == Role::Voter)).collect::<BTreeSet<_>>()
    };
    assert_eq!(roles(&cluster, follower).len(), 4);
    assert!(roles(&cluster, follower).iter().all(|(_, voter)| *voter));

    let leader = cluster.leader().await;
    let asked = cluster.two_others(leader).0;
    let removed = cluster.name(leader);
    cluster.store(asked).remove_master(&removed).await.unwrap();
    cluster.store(asked).remove_master(&removed).await.unwrap();
    let after = cluster.leader_without(leader).await;
    assert_ne!(after, leader);
    cluster.store(fourth).propose(register(10)).await.unwrap();
    cluster.until(asked, |state| state.node_count() == 11).await;
    assert!(!roles(&cluster, asked).iter().any(|(name, _)| *name == removed));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_contradict_each_other_are_refused() {
    let cluster = Cluster::start(3).await;
    cluster.leader().await;
    let mut moved = cluster.member(1);
    moved.cluster_address = "127.0.0.1:1".to_owned();
    let refused = cluster.store(0).add_master(moved).await.unwrap_err().to_string();
    assert!(refused.contains("remove it first"), "{refused}");
    let mut known = cluster.member(1);
    known.api_address = "127.0.0.1:4711".to_owned();
    cluster.store(0).add_master(known).await.unwrap();
    let addresses = cluster.store(0).status().members.into_iter().map(|member| member.api_address);
    assert!(addresses.collect::<Vec<_>>().contains(&"127.0.0.1:4711".to_owned()), "its API moved");
    let mut same = cluster.member(1);
    same.name = "m9".to_owned();
    let refused = cluster.store(0).add_master(same).await.unwrap_err().to_string();
    assert!(refused.contains("has the cluster address"), "{refused}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_on_request() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (heir, asked) = cluster.two_others(leader);
    cluster.store(asked).transfer_leadership(Some(&cluster.name(heir))).await.unwrap();
    let mut leadership = cluster.store(heir).leadership();
    leadership.wait_for(|seen| seen.is_self).await.unwrap();
    assert!(cluster.store(asked).transfer_leadership(Some("nobody")).await.is_err());
    cluster.write(0..5).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_gives_every_change_once_and_in_order() {
    let cluster = Cluster::start(3).await;
    let follower = cluster.two_others(cluster.leader().await).0;
    let mut feed = cluster.store(follower).feed(Revision(0)).unwrap();
    cluster.write(0..30).await;
    let mut seen = Vec::new();
    while seen.len() < 30 {
        seen.extend(feed.next().await.unwrap().iter().map(|batch| batch.revision));
    }
    assert!(seen.is_sorted_by(|one, next| one < next));
    // Resuming in the middle gives exactly the rest.
    let mut resumed = cluster.store(follower).feed(seen[9]).unwrap();
    let mut rest = Vec::new();
    while rest.len() < 20 {
        rest.extend(resumed.next().await.unwrap().iter().map(|batch| batch.revision));
    }
    assert_eq!(rest, seen[10..]);
    cluster.stop().await;
    assert_eq!(feed.next().await, Err(FeedEnd::Closed));
}
