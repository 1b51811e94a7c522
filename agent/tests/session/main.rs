//! The whole agent against a master that follows a script, with the engine in memory.
//!
//! What is tested here is the shell: streams, files, tasks. What an agent decides is tested in
//! `agent/core`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helper functions too

mod overhead;
mod scripted;

use std::time::Duration;

use skein_agent::runtime::fake::FakeRuntime;
use skein_common::instance::{Desired, Phase};
use skein_proto::v1::{self, session_request, session_response};

use scripted::{CALM, Master, agent, assignment, id, progress, wait_held, within};

#[tokio::test]
async fn a_restarted_agent_says_what_runs_and_lets_it_run() {
    let (mut master, engine) = (Master::start().await, FakeRuntime::new());
    let folder = tempfile::tempdir().unwrap();
    let first = agent(&[&master], folder.path(), &engine).await;
    let node = first.node();
    let mut session = master.welcomed(3).await;
    session.set(vec![assignment(1, Desired::Run)]).await;
    session.wait_told(id(1), 1, Phase::Ready).await;
    first.stop().await;
    assert_eq!(engine.running(), 1);

    let second = agent(&[&master], folder.path(), &engine).await;
    let (mut session, hello) = master.greeted().await;
    assert_eq!((hello.node_id, hello.incarnation, hello.term), (node, 2, 3));
    assert_eq!(hello.cluster_id, Some(scripted::cluster()));
    assert_eq!(hello.instances.len(), 1);
    assert_eq!(progress(&hello.instances[0].news), Some((1, Phase::Ready)));
    session.welcome(3, CALM).await;
    session.set(vec![assignment(1, Desired::Run), assignment(2, Desired::Run)]).await;
    session.wait_told(id(2), 1, Phase::Ready).await;
    assert_eq!(engine.calls().create, 2, "the first one was adopted");
    second.stop().await;
}

#[tokio::test]
async fn without_masters_containers_are_restarted_and_the_next_hello_says_so() {
    let (mut master, engine) = (Master::start().await, FakeRuntime::new());
    let mut other = Master::start().await;
    let folder = tempfile::tempdir().unwrap();
    let agent = agent(&[&master, &other], folder.path(), &engine).await;
    let mut session = tokio::select! {
        (session, _) = master.greeted() => session,
        (session, _) = other.greeted() => session,
    };
    session.welcome(3, CALM).await;
    session.set(vec![assignment(1, Desired::Run)]).await;
    session.wait_told(id(1), 1, Phase::Ready).await;
    drop(session);
    master.kill();
    assert!(engine.exit(id(1), 1));
    wait_held(&agent, 1, 2, Phase::Ready).await;
    // The other one is dialled as soon as the session has ended; its Hello says what is.
    let hello = loop {
        let (_, hello) = other.greeted().await;
        if progress(&hello.instances[0].news) == Some((2, Phase::Ready)) {
            break hello;
        }
    };
    assert_eq!(hello.term, 3);
    agent.stop().await;
}

#[tokio::test]
async fn the_leader_is_found() {
    let (mut follower, mut leader) = (Master::start().await, Master::start().await);
    let (engine, folder) = (FakeRuntime::new(), tempfile::tempdir().unwrap());
    let agent = agent(&[&follower], folder.path(), &engine).await;
    let (session, _) = follower.greeted().await;
    let redirect = v1::Redirect { leader: leader.address.clone(), masters: vec![leader.address.clone()] };
    session.send(session_response::Message::Redirect(redirect)).await;
    let mut session = leader.welcomed(5).await;
    session.set(vec![assignment(1, Desired::Run)]).await;
    session.wait_told(id(1), 1, Phase::Ready).await;
    let connection = agent.connection().borrow().clone();
    assert_eq!(connection.leader, Some(leader.address.clone()));

    // It steps down: the agent goes where it is sent.
    let redirect = v1::Redirect { leader: follower.address.clone(), masters: Vec::new() };
    session.send(session_response::Message::Redirect(redirect)).await;
    let (_, hello) = follower.greeted().await;
    assert_eq!(hello.term, 5);
    agent.stop().await;
}

#[tokio::test]
async fn a_gap_is_answered_by_asking_for_everything() {
    let (mut master, engine) = (Master::start().await, FakeRuntime::new());
    let folder = tempfile::tempdir().unwrap();
    let agent = agent(&[&master], folder.path(), &engine).await;
    let mut session = master.welcomed(1).await;
    session.set(vec![assignment(1, Desired::Run)]).await;
    session.wait_told(id(1), 1, Phase::Ready).await;
    session.delta(session.generation(), assignment(2, Desired::Run)).await;
    session.wait_told(id(2), 1, Phase::Ready).await;
    session.delta(3, assignment(3, Desired::Run)).await;
    let resync = loop {
        match session.next().await.expect("the session goes on") {
            session_request::Message::Resync(resync) => break resync,
            _ => continue,
        }
    };
    assert!(resync.reason.contains("20") && resync.reason.contains('3'), "{}", resync.reason);
    session.set(vec![assignment(1, Desired::Run), assignment(3, Desired::Run)]).await;
    session.wait_told(id(3), 1, Phase::Ready).await;
    assert_eq!(engine.running(), 2, "the second is not assigned any more");
    agent.stop().await;
}

#[tokio::test]
async fn a_deposed_leader_is_not_obeyed() {
    let (mut master, engine) = (Master::start().await, FakeRuntime::new());
    let folder = tempfile::tempdir().unwrap();
    let first = agent(&[&master], folder.path(), &engine).await;
    let mut session = master.welcomed(5).await;
    session.set(vec![assignment(1, Desired::Run)]).await;
    session.wait_told(id(1), 1, Phase::Ready).await;
    first.stop().await;

    let second = agent(&[&master], folder.path(), &engine).await;
    let (mut session, _) = master.greeted().await;
    session.welcome(4, CALM).await;
    session.set(Vec::new()).await;
    session.wait_ended().await;
    let (mut session, hello) = master.greeted().await;
    assert_eq!(hello.term, 5);
    assert_eq!(engine.running(), 1);

    // One session, one term.
    session.welcome(6, CALM).await;
    session.send(session_response::Message::Heartbeat(v1::HeartbeatAnswer { term: 5 })).await;
    session.wait_ended().await;
    let (_, hello) = master.greeted().await;
    assert_eq!(hello.term, 6);
    second.stop().await;
}

#[tokio::test]
async fn a_malformed_message_ends_the_session_and_nothing_else() {
    let (mut master, engine) = (Master::start().await, FakeRuntime::new());
    let folder = tempfile::tempdir().unwrap();
    let agent = agent(&[&master], folder.path(), &engine).await;
    let mut session = master.welcomed(1).await;
    session.set(vec![assignment(1, Desired::Run)]).await;
    session.wait_told(id(1), 1, Phase::Ready).await;
    let broken = v1::Assignment { instance_id: "no id".to_owned(), ..v1::Assignment::default() };
    let set = v1::AssignmentSet { term: 1, generation: 99, assignments: vec![broken] };
    for message in [None, Some(session_response::Message::Set(set))] {
        session.send(message).await;
        session.wait_ended().await;
        session = master.welcomed(1).await;
    }
    session.set(vec![assignment(1, Desired::Run), assignment(2, Desired::Run)]).await;
    session.wait_told(id(2), 1, Phase::Ready).await;
    assert_eq!(engine.running(), 2);
    agent.stop().await;
}

#[tokio::test]
async fn heartbeats_are_sent_and_a_silent_master_is_left() {
    let (mut master, engine) = (Master::start().await, FakeRuntime::new());
    let folder = tempfile::tempdir().unwrap();
    let agent = agent(&[&master], folder.path(), &engine).await;
    let (mut session, _) = master.greeted().await;
    session.welcome(1, Duration::from_millis(50)).await;
    for _ in 0..5 {
        match session.next().await {
            Some(session_request::Message::Heartbeat(_)) => {}
            other => panic!("a heartbeat, not {other:?}"),
        }
        session.send(session_response::Message::Heartbeat(v1::HeartbeatAnswer { term: 1 })).await;
    }
    // No answer any more.
    session.wait_ended().await;
    master.welcomed(1).await;
    agent.stop().await;
}

#[tokio::test]
async fn logs_are_pushed_and_followed_through_a_restart() {
    let (mut master, engine) = (Master::start().await, FakeRuntime::new());
    let folder = tempfile::tempdir().unwrap();
    let agent = agent(&[&master], folder.path(), &engine).await;
    let mut session = master.welcomed(1).await;
    session.set(vec![assignment(1, Desired::Run)]).await;
    session.wait_told(id(1), 1, Phase::Ready).await;
    assert!(engine.say(id(1), "first"));
    let start = v1::StartLogs {
        stream_id: "s1".to_owned(),
        instance_id: id(1).to_string(),
        follow: true,
        tail: None,
        since: None,
        previous: false,
    };
    session.send(session_response::Message::StartLogs(start.clone())).await;
    let mut pushed = master.pushed().await;
    let mut next_line = async || loop {
        let push = within("a line", pushed.message()).await.unwrap().expect("an open stream");
        if let Some(line) = push.lines.into_iter().next() {
            return String::from_utf8(line.line.to_vec()).unwrap();
        }
        assert_eq!(push.stream_id, "s1");
    };
    assert_eq!(next_line().await, "first");
    engine.exit(id(1), 1);
    session.wait_told(id(1), 2, Phase::Ready).await;
    assert!(engine.say(id(1), "second"));
    assert_eq!(next_line().await, "second");

    let previous = v1::StartLogs { previous: true, ..start.clone() };
    session.send(session_response::Message::StartLogs(previous)).await;
    let mut earlier = master.pushed().await;
    let line = loop {
        let push = within("a line of the attempt before", earlier.message()).await.unwrap().expect("open");
        if let Some(line) = push.lines.into_iter().next() {
            break line.line;
        }
    };
    assert_eq!(line, "first".as_bytes());

    let unknown = v1::StartLogs { instance_id: id(8).to_string(), ..start };
    session.send(session_response::Message::StartLogs(unknown)).await;
    let mut pushed = master.pushed().await;
    let error = loop {
        let push = within("an error", pushed.message()).await.unwrap().expect("a last message");
        if !push.error.is_empty() {
            break push.error;
        }
    };
    assert!(error.contains("no container"), "{error}");
    agent.stop().await;
}

#[tokio::test]
async fn a_corrupt_checkpoint_stops_no_container() {
    let (mut master, engine) = (Master::start().await, FakeRuntime::new());
    let folder = tempfile::tempdir().unwrap();
    let first = agent(&[&master], folder.path(), &engine).await;
    let mut session = master.welcomed(3).await;
    session.set(vec![assignment(1, Desired::Run)]).await;
    session.wait_told(id(1), 1, Phase::Ready).await;
    first.stop().await;
    std::fs::write(folder.path().join("checkpoint"), b"SKEINAGT and nonsense").unwrap();

    let second = agent(&[&master], folder.path(), &engine).await;
    let (mut session, hello) = master.greeted().await;
    assert_eq!(progress(&hello.instances[0].news), Some((1, Phase::Running)), "seen in the engine");
    session.welcome(3, CALM).await;
    session.set(vec![assignment(1, Desired::Run)]).await;
    engine.exit(id(1), 1);
    session.wait_told(id(1), 2, Phase::Ready).await;
    assert_eq!(engine.calls().create, 2);
    second.stop().await;
}
