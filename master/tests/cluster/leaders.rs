//! Leaders come and go: sessions, writes and what followers hand on.

use std::time::{Duration, Instant};

use skein_common::{
    instance::{Desired, Phase},
    node::Liveness,
};
use skein_master_core::testing::{replicated, spec};
use skein_proto::v1::{self, session_response::Message};
use tonic::Code;

use crate::{
    agent::{Agent, hello, report},
    harness::{Cluster, apply_request, reason, until},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_takes_over_the_sessions() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (mut agent, set) = Agent::join(cluster.address(leader), hello(1)).await;
    cluster.apply(leader, &spec("web")).await;
    let (id, _) = agent.assigned().await;
    agent.report(&[report(id, 1, Phase::Ready)]).await;
    until("the report is committed", async || {
        let instance = cluster.master(leader).store().snapshot().instance(id).cloned()?;
        (instance.observed.progress.phase == Phase::Ready).then_some(())
    })
    .await;

    cluster.stop_one(leader).await;
    let end = loop {
        match agent.next().await {
            Ok(Message::Redirect(redirect)) => break redirect,
            Ok(_) => {}
            Err(status) => panic!("no Redirect: {status:?}"),
        }
    };
    assert_eq!(end.masters.len(), 3);
    let leader = cluster.leader().await;
    let mut again = hello(1);
    again.term = set.term;
    again.instances = vec![report(id, 1, Phase::Ready)];
    let revision = cluster.master(leader).store().snapshot().node(again.node_id).unwrap().modified_revision;
    let (mut agent, taken) = Agent::join(cluster.address(leader), again.clone()).await;
    assert!(taken.term > set.term);
    cluster.apply(leader, &replicated("web", 2)).await;
    let (second, desired) = agent.assigned().await;
    assert_ne!(second, id);
    assert_eq!(desired, Desired::Run);
    let state = cluster.master(leader).store().snapshot();
    assert_eq!(state.node(again.node_id).unwrap().modified_revision, revision, "nothing new was written");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_writes_fail_soon_and_stale_reads_work() {
    let mut cluster = Cluster::start(3).await;
    cluster.apply(0, &spec("web")).await;
    let last = cluster.follower().await;
    for other in (0..3).filter(|other| *other != last) {
        cluster.halt(other).await;
    }
    let start = Instant::now();
    let status = cluster.services(last).apply_service(apply_request(&spec("db"))).await.unwrap_err();
    assert_eq!(reason(&status), (Code::Unavailable, "NO_LEADER".to_owned()));
    let read = v1::GetServiceRequest { service: "web".to_owned(), ..Default::default() };
    let status = cluster.services(last).get_service(read.clone()).await.unwrap_err();
    assert_eq!(reason(&status), (Code::Unavailable, "NO_LEADER".to_owned()));
    assert!(start.elapsed() < Duration::from_secs(10), "never a hang");
    let stale = v1::GetServiceRequest { consistency: v1::Consistency::Stale.into(), ..read };
    cluster.services(last).get_service(stale).await.unwrap();
    let status = cluster.cluster(last).get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.leader.as_str(), status.members.len()), ("", 3));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_on_when_asked() {
    let cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let name = format!("m{}", follower + 1);
    let request = v1::TransferLeadershipRequest { to: name.clone() };
    cluster.cluster(follower).transfer_leadership(request).await.unwrap();
    until("it leads", async || (cluster.leader().await == follower).then_some(())).await;
    let status = cluster.cluster(follower).get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.leader, name);
    let leaders: Vec<_> = status.members.iter().filter(|member| member.leader).collect();
    assert_eq!(leaders[0].api_address, cluster.address(follower).to_string());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_given_up_and_replaced() {
    let cluster = Cluster::start_with(1, |config| {
        config.liveness.heartbeat = Duration::from_millis(100);
        config.liveness.down_after = Duration::from_secs(1);
        config.liveness.grace = Duration::from_secs(1);
    })
    .await;
    let (mut silent, _) = Agent::join(cluster.address(0), hello(1)).await;
    cluster.apply(0, &spec("web")).await;
    let (id, _) = silent.assigned().await;
    silent.report(&[report(id, 1, Phase::Ready)]).await;
    let (mut other, _) = Agent::join(cluster.address(0), hello(2)).await;
    let beating = async {
        loop {
            other.beat().await;
            match other.next().await.unwrap() {
                Message::Delta(delta) => return delta,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let delta = crate::harness::soon("a replacement", beating).await;
    assert_eq!(delta.upserts.len(), 1);
    let state = cluster.master(0).store().snapshot();
    assert_eq!(state.node(silent.hello.node_id).unwrap().liveness, Liveness::Down);
    assert!(state.instance(id).unwrap().lost);
    assert_eq!(silent.end().await.code(), Code::DeadlineExceeded);
    cluster.stop().await;
}
