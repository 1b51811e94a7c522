//! Sessions: what agents are told, and how sessions end.

use std::time::Duration;

use skein_common::{
    ClusterId, InstanceId, NodeId, Timestamp,
    assignment::AssignmentContent,
    instance::{Desired, InstanceReport, News, Phase},
    load::{Counts, FrontLoad, InstanceLoad, LoadReport, Out, OutCause, PortLoad},
    service::Publish,
    usage::HostUsage,
};
use skein_master_core::testing::{publishing, replicated, spec};
use skein_proto::v1::{self, session_request, session_response::Message};
use tonic::{Code, Request, client::Grpc, codegen::http::uri::PathAndQuery};

use crate::{
    agent::{Agent, client, hello, report},
    harness::{Cluster, reason, soon, until},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_lives_from_assignment_to_forgotten() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let other = cluster.follower().await;
    let (mut agent, set) = Agent::join(cluster.address(leader), hello(1)).await;
    assert_eq!(set.content, AssignmentContent::Full(Vec::new()));
    cluster.apply(other, &spec("web")).await;
    let delta = agent.update().await;
    let AssignmentContent::Delta { from, upserts, .. } = delta.content else { panic!("{delta:?}") };
    assert_eq!(from, set.generation);
    assert_eq!(delta.term, set.term);
    let (id, desired) = (upserts[0].instance, upserts[0].desired);
    assert_eq!((desired, upserts[0].service_name.as_str(), upserts[0].slot), (Desired::Run, "web", 1));

    agent.report(&[report(id, 1, Phase::Ready)]).await;
    until("the instance is ready on every master", async || {
        let instances = cluster.instances_of(other, "web").await;
        let observed = instances[0].observed.as_ref()?;
        (observed.phase() == v1::Phase::Ready && instances[0].node_name == "n1").then_some(())
    })
    .await;
    let get = v1::GetServiceRequest { service: "web".to_owned(), ..Default::default() };
    let service =
        cluster.services(other).get_service(get.clone()).await.unwrap().into_inner().service.unwrap();
    let status = service.status.unwrap();
    assert_eq!((status.desired, status.running, status.ready, status.updated), (1, 1, 1, 1));

    let delete = v1::DeleteServiceRequest { service: "web".to_owned(), ..Default::default() };
    cluster.services(other).delete_service(delete).await.unwrap();
    assert_eq!(agent.assigned().await, (id, Desired::Remove));
    // Its process still runs, but it is not the service's any more.
    let service = cluster.services(other).get_service(get).await.unwrap().into_inner().service.unwrap();
    let status = service.status.unwrap();
    assert_eq!((status.desired, status.running, status.ready, status.updated), (0, 0, 0, 0));
    agent.report(&[InstanceReport { instance: id, news: News::Gone }]).await;
    let removal = agent.update().await;
    assert!(matches!(removal.content, AssignmentContent::Delta { ref removals, .. } if *removals == [id]));
    until("the service is forgotten", async || {
        let state = cluster.master(other).store().snapshot();
        (state.services().count() == 0 && state.instance_count() == 0).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_redirects_to_the_leader() {
    let cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let mut agent = Agent::connect(cluster.address(follower), hello(1)).await;
    let Message::Redirect(redirect) = agent.next().await.unwrap() else { panic!("no Redirect") };
    assert_eq!(redirect.leader, cluster.address(leader).to_string());
    assert_eq!(redirect.masters.len(), 3);
    assert_eq!(agent.end().await.code(), Code::Ok);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resync_gets_everything_again_and_heartbeats_are_answered() {
    let cluster = Cluster::start(1).await;
    let (mut agent, _) = Agent::join(cluster.address(0), hello(1)).await;
    cluster.apply(0, &replicated("web", 2)).await;
    let delta = agent.update().await;
    agent.send(session_request::Message::Resync(v1::Resync { reason: "test".to_owned() })).await;
    let set = agent.update().await;
    let AssignmentContent::Full(all) = set.content else { panic!("{set:?}") };
    assert_eq!(all.len(), 2);
    assert!(set.generation >= delta.generation);

    let host = HostUsage { at: Timestamp::from_unix_ms(1), cpu_millis: 250, ..HostUsage::default() };
    let heartbeat = v1::Heartbeat { host: Some((&host).into()), ..v1::Heartbeat::default() };
    agent.send(session_request::Message::Heartbeat(heartbeat)).await;
    assert!(matches!(agent.next().await.unwrap(), Message::Heartbeat(answer) if answer.term == set.term));
    let usage = cluster.usage(0).list_node_usage(v1::ListNodeUsageRequest {}).await.unwrap().into_inner();
    assert_eq!(usage.nodes[0].node_name, "n1");
    assert_eq!(usage.nodes[0].usage.as_ref().unwrap().cpu_millis, 250);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_balancer_measured_is_told_by_every_master() {
    let cluster = Cluster::start(3).await;
    let (leader, other) = (cluster.leader().await, cluster.follower().await);
    let (mut agent, _) = Agent::join(cluster.address(leader), hello(1)).await;
    let web = publishing(replicated("web", 2), 80, Publish::Ingress { port: Some(8080) });
    cluster.apply(other, &web).await;
    let delta = agent.update().await;
    let AssignmentContent::Delta { upserts, .. } = delta.content else { panic!("{delta:?}") };
    let (ready, starting) = (upserts[0].clone(), upserts[1].instance);
    agent.report(&[report(ready.instance, 1, Phase::Ready)]).await;

    let mut counts = Counts { tries: 30, retries: 10, ..Counts::default() };
    counts.latencies.record(Duration::from_millis(100));
    let out = Some(Out { cause: OutCause::Late, remaining: Duration::from_secs(9) });
    let load = LoadReport {
        at: Timestamp::from_unix_ms(1),
        interval: Duration::from_secs(2),
        ports: vec![PortLoad {
            service: ready.service,
            container_port: 80,
            published: Some(8080),
            front: FrontLoad { waiting: 3, refused: 1, ..FrontLoad::default() },
            instances: vec![InstanceLoad { instance: ready.instance, in_flight: 4, out, counts }],
        }],
    };
    let heartbeat = v1::Heartbeat { load: Some((&load).into()), ..v1::Heartbeat::default() };
    agent.send(session_request::Message::Heartbeat(heartbeat)).await;
    let ask = |by_node| v1::GetBalanceRequest { service: "web".to_owned(), window: None, by_node };
    let port = until("the follower tells it", async || {
        let mut ports = cluster.balance(other).get_balance(ask(false)).await.unwrap().into_inner().ports;
        ports.pop().filter(|port| port.nodes == 1 && port.endpoints.iter().any(|one| one.weight > 0))
    })
    .await;
    assert_eq!((port.published_port, port.front.unwrap().waiting), (8080, 3));
    assert!((port.rate - (30.0 - 10.0 + 1.0 + 3.0) / 2.0).abs() < 1e-9, "{}", port.rate);
    let of = |id: InstanceId| port.endpoints.iter().find(|one| one.instance_id == id.to_string()).unwrap();
    let (one, two) = (of(ready.instance), of(starting));
    assert_eq!((one.in_flight, one.weight, one.node_name.as_str()), (4, 100, "n1"));
    assert!((one.share - 1.0).abs() < 1e-9 && (one.measured_share - 1.0).abs() < 1e-9);
    assert_eq!(one.out, ["did not answer in time too often: out on 1 of 1 nodes (n1), 9 s more"]);
    let p50 = one.p50.unwrap().nanos;
    assert!((93_000_000..107_000_000).contains(&p50), "{p50}");
    assert_eq!((two.weight, two.address.as_str()), (0, ""));
    assert!(two.out[0].starts_with("not ready"), "{:?}", two.out);
    let by_node = cluster.balance(leader).get_balance(ask(true)).await.unwrap().into_inner().ports;
    assert_eq!(by_node.iter().map(|port| port.node_name.as_str()).collect::<Vec<_>>(), ["n1"]);
    let unknown = v1::GetBalanceRequest { service: "nix".to_owned(), ..ask(false) };
    assert_eq!(cluster.balance(other).get_balance(unknown).await.unwrap_err().code(), Code::NotFound);
    drop(agent);
    until("without a session nothing is known", async || {
        let ports = cluster.balance(other).get_balance(ask(false)).await.unwrap().into_inner().ports;
        (ports[0].nodes == 0).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_session_of_a_node_wins() {
    let cluster = Cluster::start(1).await;
    let (mut first, _) = Agent::join(cluster.address(0), hello(1)).await;
    let (mut second, _) = Agent::join(cluster.address(0), hello(1)).await;
    assert_eq!(reason(&first.end().await), (Code::Aborted, "SESSION_REPLACED".to_owned()));
    let mut newer = hello(1);
    newer.incarnation = 2;
    let (mut third, _) = Agent::join(cluster.address(0), newer).await;
    assert_eq!(reason(&second.end().await), (Code::Aborted, "SESSION_REPLACED".to_owned()));
    let mut old = Agent::connect(cluster.address(0), hello(1)).await;
    assert_eq!(old.end().await.code(), Code::FailedPrecondition);
    third.beat().await;
    assert!(matches!(third.next().await.unwrap(), Message::Heartbeat(_)));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_removed_by_force_is_told_and_may_come_again() {
    let cluster = Cluster::start(3).await;
    let (leader, other) = (cluster.leader().await, cluster.follower().await);
    let (mut stays, _) = Agent::join(cluster.address(leader), hello(2)).await;
    let (mut agent, _) = Agent::join(cluster.address(leader), hello(1)).await;
    let remove = v1::DeleteNodeRequest { node: "n1".to_owned(), force: true, ..Default::default() };
    cluster.nodes(other).delete_node(remove).await.unwrap();
    assert_eq!(reason(&agent.end().await), (Code::NotFound, "NODE_REMOVED".to_owned()));
    let (mut again, set) = Agent::join(cluster.address(leader), hello(1)).await;
    assert_eq!(set.content, AssignmentContent::Full(Vec::new()));
    for agent in [&mut again, &mut stays] {
        agent.beat().await;
        assert!(matches!(agent.next().await.unwrap(), Message::Heartbeat(_)));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_the_contract_ends_that_session_only() {
    let cluster = Cluster::start(1).await;
    let address = cluster.address(0);
    let (mut good, _) = Agent::join(address, hello(9)).await;
    let mut other_protocol = hello(1);
    other_protocol.protocol = 99;
    let mut other_cluster = hello(1);
    other_cluster.cluster_id = Some(ClusterId::from_random(1));
    let mut other_term = hello(1);
    other_term.term = 1 << 40;
    let mut same_name = hello(1);
    same_name.description.name = "n9".to_owned();
    for (hello, code) in [
        (other_protocol, Code::FailedPrecondition),
        (other_cluster, Code::FailedPrecondition),
        (other_term, Code::Unavailable),
        (same_name, Code::FailedPrecondition),
    ] {
        let status = Agent::connect(address, hello.clone()).await.end().await;
        assert_eq!(status.code(), code, "{hello:?}: {status:?}");
    }
    let no_name = {
        let mut wire = v1::Hello::from(&hello(1));
        wire.description.as_mut().unwrap().name.clear();
        session_request::Message::Hello(wire)
    };
    let beat = || session_request::Message::Heartbeat(v1::Heartbeat::default());
    for first in [Some(no_name), Some(beat()), None] {
        let stream = tokio_stream::iter([v1::SessionRequest { message: first.clone() }]);
        let mut answers = client(address).await.session(stream).await.unwrap().into_inner();
        let status = soon("the end", answers.message()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{first:?}");
    }
    let status = garbage(address).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");

    let (mut twice, _) = Agent::join(address, hello(2)).await;
    twice.send(session_request::Message::Hello((&hello(2)).into())).await;
    assert_eq!(reason(&twice.end().await), (Code::InvalidArgument, "MALFORMED_MESSAGE".to_owned()));
    let (mut nameless, _) = Agent::join(address, hello(3)).await;
    let report = v1::Report { instances: vec![v1::InstanceReport::default()] };
    nameless.send(session_request::Message::Report(report)).await;
    assert_eq!(nameless.end().await.code(), Code::InvalidArgument);

    good.beat().await;
    assert!(matches!(good.next().await.unwrap(), Message::Heartbeat(_)), "the others go on");
    cluster.stop().await;
}

/// Sends bytes that are no message of this stream.
async fn garbage(address: std::net::SocketAddr) -> tonic::Status {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut grpc = Grpc::new(endpoint.connect().await.unwrap());
    grpc.ready().await.unwrap();
    // A varint where a message is due.
    let binding = v1::PortBinding { container_port: 7, ..Default::default() };
    let codec = tonic_prost::ProstCodec::<v1::PortBinding, v1::SessionResponse>::default();
    let path = PathAndQuery::from_static("/skein.v1.AgentService/Session");
    let stream = Request::new(tokio_stream::iter([binding]));
    let mut answers = grpc.streaming(stream, path, codec).await.unwrap().into_inner();
    soon("the end", answers.message()).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_forgot_is_told_and_believed() {
    let cluster = Cluster::start(1).await;
    let (mut agent, _) = Agent::join(cluster.address(0), hello(1)).await;
    cluster.apply(0, &spec("web")).await;
    let (id, _) = agent.assigned().await;
    agent.report(&[report(id, 1, Phase::Ready)]).await;
    drop(agent);
    let delete = v1::DeleteServiceRequest { service: "web".to_owned(), ..Default::default() };
    cluster.services(0).delete_service(delete).await.unwrap();
    // It comes back, holding nothing of what was to be removed meanwhile.
    let mut again = hello(1);
    again.incarnation = 2;
    let _agent = Agent::join(cluster.address(0), again).await;
    until("the service is forgotten", async || {
        let state = cluster.master(0).store().snapshot();
        (state.services().count() == 0 && state.instance_count() == 0).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_come_from_the_agent_through_any_master() {
    let cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let (mut agent, _) = Agent::join(cluster.address(leader), hello(1)).await;
    cluster.apply(leader, &spec("web")).await;
    let (id, _) = agent.assigned().await;
    let request = v1::StreamLogsRequest {
        source: Some(v1::stream_logs_request::Source::Service("web".to_owned())),
        ..Default::default()
    };
    let mut lines = cluster.instances(follower).stream_logs(request).await.unwrap().into_inner();
    let start = loop {
        if let Message::StartLogs(start) = agent.next().await.unwrap() {
            break start;
        }
    };
    assert_eq!(start.instance_id, id.to_string());
    let line = |text: &'static str| v1::LogLine {
        stream: v1::LogStream::Stdout.into(),
        line: text.as_bytes().into(),
        ..Default::default()
    };
    let pushed = [
        v1::PushLogsRequest { stream_id: start.stream_id, lines: vec![line("one")], ..Default::default() },
        v1::PushLogsRequest { lines: vec![line("two")], ..Default::default() },
    ];
    let mut pusher = client(cluster.address(leader)).await;
    pusher.push_logs(tokio_stream::iter(pushed)).await.unwrap();
    for text in ["one", "two"] {
        let got = soon("a line", lines.message()).await.unwrap().unwrap();
        assert_eq!((got.line.as_ref(), got.instance_name.as_str()), (text.as_bytes(), "web.1"));
        assert_eq!(got.node_name, "n1");
    }
    assert!(soon("the end", lines.message()).await.unwrap().is_none());

    let follow = v1::StreamLogsRequest {
        source: Some(v1::stream_logs_request::Source::Service("web".to_owned())),
        follow: true,
        ..Default::default()
    };
    let mut lines = cluster.instances(follower).stream_logs(follow).await.unwrap().into_inner();
    cluster.apply(leader, &replicated("web", 2)).await;
    let mut second = None;
    let start = loop {
        match agent.next().await.unwrap() {
            Message::Delta(delta) => {
                let id = delta.upserts[0].instance_id.parse().unwrap();
                second = Some(id);
                agent.report(&[report(id, 1, Phase::Running)]).await;
            }
            Message::StartLogs(start) if Some(start.instance_id.parse().unwrap()) == second => break start,
            _ => {}
        }
    };
    let pushed =
        [v1::PushLogsRequest { stream_id: start.stream_id, lines: vec![line("new")], ..Default::default() }];
    pusher.push_logs(tokio_stream::iter(pushed)).await.unwrap();
    let got = loop {
        let got = soon("a line of the new instance", lines.message()).await.unwrap().unwrap();
        // The first one was asked for as well, and this agent does not answer for it.
        if got.error.is_empty() {
            break got;
        }
    };
    assert_eq!((got.line.as_ref(), got.instance_name.as_str()), (&b"new"[..], "web.2"));

    let unasked = v1::PushLogsRequest { stream_id: "nobody".to_owned(), ..Default::default() };
    let status = pusher.push_logs(tokio_stream::iter([unasked])).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_gives_away_what_it_runs() {
    let cluster = Cluster::start(1).await;
    let (mut first, _) = Agent::join(cluster.address(0), hello(1)).await;
    cluster.apply(0, &spec("web")).await;
    let (id, _) = first.assigned().await;
    first.report(&[report(id, 1, Phase::Ready)]).await;
    let (mut second, _) = Agent::join(cluster.address(0), hello(2)).await;
    let drain = v1::UpdateNodeRequest {
        node: "n1".to_owned(),
        availability: v1::Availability::Drained.into(),
        ..Default::default()
    };
    let node = cluster.nodes(0).update_node(drain).await.unwrap().into_inner().node.unwrap();
    assert_eq!(node.availability(), v1::Availability::Drained);
    let (_, desired) = first.assigned().await;
    assert!(desired > Desired::Run);
    first.report(&[report(id, 1, Phase::Stopped)]).await;
    let (replacement, desired) = second.assigned().await;
    assert_ne!(replacement, id);
    assert_eq!(desired, Desired::Run);
    let gone = NodeId::from_random(2).to_string();
    let refused = v1::DeleteNodeRequest { node: gone, ..Default::default() };
    let status = cluster.nodes(0).delete_node(refused).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    cluster.stop().await;
}
