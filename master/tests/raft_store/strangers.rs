//! Callers that do not belong, and messages that mean nothing: refused, and nothing else happens.

use skein_master::raft::network::peers::{FORMATION_KEY, MEMBER_KEY, TARGET_KEY};
use skein_proto::v1::{self, raft_service_client::RaftServiceClient};
use tonic::{Code, Request, Status, transport::Channel};

use crate::harness::Cluster;

async fn client(cluster: &Cluster, node: usize) -> RaftServiceClient<Channel> {
    let address = format!("http://{}", cluster.member(node).cluster_address);
    RaftServiceClient::new(Channel::from_shared(address).unwrap().connect().await.unwrap())
}

/// A call as a member makes it, to be falsified.
fn call<T>(cluster: &Cluster, node: usize, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let formation = cluster.formation();
    let target = cluster.store(node).status().id;
    request.metadata_mut().insert(FORMATION_KEY, formation.parse().unwrap());
    request.metadata_mut().insert(MEMBER_KEY, 5.into());
    request.metadata_mut().insert(TARGET_KEY, target.into());
    request
}

fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(text), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_do_not_belong_are_told_so() {
    let cluster = Cluster::start(3).await;
    let mut client = client(&cluster, 0).await;
    let ask = || v1::ReadIndexRequest {};
    client.read_index(call(&cluster, 0, ask())).await.unwrap();

    refused(client.read_index(ask()).await, Code::InvalidArgument, "which master");
    let mut stranger = call(&cluster, 0, ask());
    stranger.metadata_mut().insert(FORMATION_KEY, "00000000000000ff".parse().unwrap());
    refused(client.read_index(stranger).await, Code::FailedPrecondition, "another cluster");
    let astray = call(&cluster, 1, ask());
    refused(client.read_index(astray).await, Code::FailedPrecondition, "not the one that was meant");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_mean_nothing_end_their_call_and_no_more() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.two_others(leader).0;
    let mut client = client(&cluster, follower).await;
    let junk = || b"junk that is longer than a header".to_vec().into();

    let vote = call(&cluster, follower, v1::VoteRequest { payload: junk() });
    refused(client.vote(vote).await, Code::InvalidArgument, "not Skein's");
    let pre_vote = call(&cluster, follower, v1::PreVoteRequest::default());
    refused(client.pre_vote(pre_vote).await, Code::InvalidArgument, "too few");
    let transfer = call(&cluster, follower, v1::TransferLeaderRequest { payload: junk() });
    refused(client.transfer_leader(transfer).await, Code::InvalidArgument, "not Skein's");
    let propose = call(&cluster, follower, v1::ProposeRequest { command: junk() });
    refused(client.propose(propose).await, Code::FailedPrecondition, "no command");
    let change = call(&cluster, follower, v1::ChangeMembersRequest { change: None });
    refused(client.change_members(change).await, Code::InvalidArgument, "missing");

    let appends = tokio_stream::iter([v1::AppendEntriesRequest { payload: junk() }]);
    let mut answers = client.append_entries(call(&cluster, follower, appends)).await.unwrap().into_inner();
    refused(answers.message().await, Code::InvalidArgument, "not Skein's");

    use v1::install_snapshot_request::Part;
    for (part, code) in [
        (None, Code::InvalidArgument),
        (Some(Part::Chunk(junk())), Code::InvalidArgument),
        (Some(Part::Begin(junk())), Code::InvalidArgument),
    ] {
        let parts = tokio_stream::iter([v1::InstallSnapshotRequest { part }]);
        let installed = client.install_snapshot(call(&cluster, follower, parts)).await;
        refused(installed, code, "");
    }
    // It still takes part.
    cluster.write(0..3).await;
    cluster.until(follower, |state| state.node_count() == 3).await;
    cluster.stop().await;
}
