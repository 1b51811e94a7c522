//! The API as a table: who asks what gets which answer.

use std::collections::BTreeMap;

use skein_master_core::testing::{global, replicated, spec};
use skein_proto::v1;
use tonic::{Code, Request};
use tonic_reflection::pb::{v1 as reflection, v1alpha as reflection_alpha};

use crate::harness::{Cluster, apply_request, details, metadata, reason, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_request_gets_its_code_and_reason() {
    let cluster = Cluster::start(1).await;
    let service = cluster.apply(0, &spec("web")).await.service.unwrap();
    cluster.apply(0, &global("every")).await;
    let (mut services, mut instances) = (cluster.services(0), cluster.instances(0));
    let (mut nodes, mut masters) = (cluster.nodes(0), cluster.cluster(0));
    let web = || "web".to_owned();
    let unknown = || "nobody".to_owned();
    let invalid = (Code::InvalidArgument, "INVALID_FIELDS");
    let missing = (Code::NotFound, "NOT_FOUND");
    macro_rules! check {
        ($($client:ident.$method:ident($request:expr) => $expected:expr;)*) => {$(
            let status = $client.$method(Request::new($request)).await.expect_err(stringify!($method));
            let (code, text) = reason(&status);
            assert_eq!((code, text.as_str()), $expected, "{}: {status:?}", stringify!($method));
        )*};
    }
    check! {
        services.create_service(v1::CreateServiceRequest::default()) => invalid;
        services.create_service(v1::CreateServiceRequest { spec: Some((&spec("web")).into()), ..Default::default() })
            => (Code::AlreadyExists, "ALREADY_EXISTS");
        services.create_service(v1::CreateServiceRequest {
            spec: Some((&spec("new")).into()), request_id: "x".repeat(129), ..Default::default()
        }) => invalid;
        services.get_service(v1::GetServiceRequest { service: unknown(), ..Default::default() }) => missing;
        services.get_service(v1::GetServiceRequest { service: web(), consistency: 7 }) => invalid;
        services.list_services(v1::ListServicesRequest { page_token: "zz".to_owned(), ..Default::default() }) => invalid;
        services.update_service(v1::UpdateServiceRequest {
            service: unknown(), spec: Some((&spec("web")).into()), ..Default::default()
        }) => missing;
        services.scale_service(v1::ScaleServiceRequest { service: web(), ..Default::default() }) => invalid;
        services.scale_service(v1::ScaleServiceRequest {
            service: "every".to_owned(), replicas: Some(2), ..Default::default()
        }) => (Code::FailedPrecondition, "FAILED_PRECONDITION");
        services.delete_service(v1::DeleteServiceRequest { service: web(), etag: "x".to_owned(), ..Default::default() })
            => invalid;
        services.delete_service(v1::DeleteServiceRequest { service: web(), etag: "1".to_owned(), ..Default::default() })
            => (Code::Aborted, "STALE_ETAG");
        services.watch_services(v1::WatchServicesRequest { after_revision: 1 << 40, ..Default::default() })
            => (Code::OutOfRange, "FUTURE_REVISION");
        instances.get_instance(v1::GetInstanceRequest { instance: unknown(), ..Default::default() }) => missing;
        instances.list_instances(v1::ListInstancesRequest { service: unknown(), ..Default::default() }) => missing;
        instances.watch_instances(v1::WatchInstancesRequest { node: unknown(), ..Default::default() }) => missing;
        instances.stream_logs(v1::StreamLogsRequest::default()) => invalid;
        instances.stream_logs(v1::StreamLogsRequest {
            source: Some(v1::stream_logs_request::Source::Service(web())), follow: true, previous: true, ..Default::default()
        }) => invalid;
        services.control_rollout(v1::ControlRolloutRequest { service: web(), ..Default::default() }) => invalid;
        services.control_rollout(v1::ControlRolloutRequest {
            service: web(), control: v1::RolloutControl::Pause.into(), ..Default::default()
        }) => (Code::FailedPrecondition, "FAILED_PRECONDITION");
        services.list_service_generations(v1::ListServiceGenerationsRequest { service: unknown(), ..Default::default() })
            => missing;
        nodes.get_node(v1::GetNodeRequest { node: unknown(), ..Default::default() }) => missing;
        nodes.update_node(v1::UpdateNodeRequest { node: unknown(), ..Default::default() }) => missing;
        nodes.update_node(v1::UpdateNodeRequest { node: unknown(), availability: 9, ..Default::default() }) => invalid;
        nodes.delete_node(v1::DeleteNodeRequest::default()) => invalid;
        masters.add_master(v1::AddMasterRequest { name: "m2".to_owned(), ..Default::default() }) => invalid;
        masters.remove_master(v1::RemoveMasterRequest { name: "m1".to_owned() })
            => (Code::FailedPrecondition, "FAILED_PRECONDITION");
    }
    let stale = v1::DeleteServiceRequest { service: web(), etag: "1".to_owned(), ..Default::default() };
    let stale = services.delete_service(stale).await.unwrap_err();
    assert_eq!(metadata(&stale, "etag"), service.etag);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_invalid_fields_are_named_at_once() {
    let cluster = Cluster::start(1).await;
    let mut bad = v1::ServiceSpec::from(&spec("web"));
    bad.name = "not a name".to_owned();
    bad.placement = Some(v1::PlacementPolicy { constraints: vec!["zone".to_owned()], ..Default::default() });
    if let Some(container) = bad.container.as_mut() {
        container.image.clear();
        container.working_dir = "relative".to_owned();
    }
    let request = v1::UpdateServiceRequest { spec: Some(bad), etag: "no".to_owned(), ..Default::default() };
    let status = cluster.services(0).update_service(request).await.unwrap_err();
    let violations = details(&status).bad_request().unwrap().field_violations.clone();
    let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    for field in [
        "service",
        "spec.name",
        "spec.container.image",
        "spec.container.working_dir",
        "spec.placement.constraints[0]",
        "etag",
    ] {
        assert!(fields.contains(&field), "{field} is not in {fields:?}");
    }
    let mut worse = v1::ServiceSpec::from(&spec("web"));
    let mount = v1::Mount { kind: v1::MountKind::Bind.into(), ..Default::default() };
    worse.container.as_mut().unwrap().mounts = vec![mount; 5000];
    let request = v1::CreateServiceRequest { spec: Some(worse), ..Default::default() };
    let status = cluster.services(0).create_service(request).await.unwrap_err();
    assert_eq!(reason(&status), (Code::InvalidArgument, "INVALID_FIELDS".to_owned()));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_gets_the_first_answer_from_any_master() {
    let cluster = Cluster::start(3).await;
    let mut request = apply_request(&spec("web"));
    request.request_id = "one".to_owned();
    let first = cluster.services(0).apply_service(request.clone()).await.unwrap().into_inner();
    assert_eq!(first.result(), v1::ApplyResult::Created);
    for master in 0..3 {
        let again = cluster.services(master).apply_service(request.clone()).await.unwrap().into_inner();
        assert_eq!(again.result(), v1::ApplyResult::Created);
        assert_eq!(again.service.unwrap().id, first.service.as_ref().unwrap().id);
    }
    request.spec = Some((&replicated("web", 3)).into());
    let status = cluster.services(1).apply_service(request).await.unwrap_err();
    assert_eq!(reason(&status), (Code::InvalidArgument, "REQUEST_ID_REUSED".to_owned()));

    let scale = v1::ScaleServiceRequest {
        service: "web".to_owned(),
        replicas: Some(2),
        request_id: "two".to_owned(),
        ..Default::default()
    };
    cluster.services(1).scale_service(scale.clone()).await.unwrap();
    cluster.apply(2, &replicated("web", 5)).await;
    let again = cluster.services(2).scale_service(scale).await.unwrap().into_inner().service.unwrap();
    assert_eq!(again.status.unwrap().desired, 5, "the repeat changed nothing");

    let delete = v1::DeleteServiceRequest {
        service: "web".to_owned(),
        request_id: "three".to_owned(),
        ..Default::default()
    };
    let deleted = cluster.services(0).delete_service(delete.clone()).await.unwrap().into_inner();
    until("the service is gone", async || {
        let state = cluster.master(0).store().snapshot();
        state.service_by_name("web").is_none().then_some(())
    })
    .await;
    let again = cluster.services(1).delete_service(delete).await.unwrap().into_inner();
    assert_eq!(again.service.unwrap().id, deleted.service.unwrap().id);
    let another = v1::DeleteServiceRequest { service: "web".to_owned(), ..Default::default() };
    let status = cluster.services(1).delete_service(another).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_master_acknowledged_every_master_knows() {
    let cluster = Cluster::start(3).await;
    for round in 0..10 {
        let name = format!("web{round}");
        let created = cluster.apply(round % 3, &spec(&name)).await.service.unwrap();
        let other = (round + 1) % 3;
        let request = v1::GetServiceRequest { service: name.clone(), ..Default::default() };
        let read = cluster.services(other).get_service(request).await.unwrap().into_inner().service.unwrap();
        assert_eq!(read.etag, created.etag);
        let scale = v1::ScaleServiceRequest { service: name, replicas: Some(0), ..Default::default() };
        cluster.services((round + 2) % 3).scale_service(scale).await.unwrap();
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_says_what_it_did_and_validating_does_nothing() {
    let cluster = Cluster::start(1).await;
    let dry = |spec| v1::ApplyServiceRequest { validate_only: true, ..apply_request(spec) };
    for (request, result, replicas) in [
        (dry(&spec("web")), v1::ApplyResult::Created, None),
        (apply_request(&spec("web")), v1::ApplyResult::Created, Some(1)),
        (apply_request(&spec("web")), v1::ApplyResult::Unchanged, Some(1)),
        (dry(&replicated("web", 4)), v1::ApplyResult::Updated, Some(1)),
        (apply_request(&replicated("web", 3)), v1::ApplyResult::Updated, Some(3)),
        (dry(&replicated("web", 3)), v1::ApplyResult::Unchanged, Some(3)),
    ] {
        let answer = cluster.services(0).apply_service(request).await.unwrap().into_inner();
        assert_eq!(answer.result(), result);
        let get = v1::GetServiceRequest { service: "web".to_owned(), ..Default::default() };
        let found = cluster.services(0).get_service(get).await.ok();
        let desired = found.map(|found| found.into_inner().service.unwrap().status.unwrap().desired);
        assert_eq!(desired, replicas);
    }
    let create = v1::CreateServiceRequest {
        spec: Some((&spec("db")).into()),
        validate_only: true,
        ..Default::default()
    };
    let created = cluster.services(0).create_service(create).await.unwrap().into_inner().service.unwrap();
    assert_eq!(created.id, "");
    let delete = v1::DeleteServiceRequest { service: "web".to_owned(), ..Default::default() };
    let deleted = cluster.services(0).delete_service(delete).await.unwrap().into_inner().service.unwrap();
    assert!(deleted.deleting);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_cover_a_list_once() {
    let cluster = Cluster::start(1).await;
    for number in 0..5 {
        let mut spec = spec(&format!("web{number}"));
        spec.labels = BTreeMap::from([("tier".to_owned(), if number < 3 { "a" } else { "b" }.to_owned())]);
        cluster.apply(0, &spec).await;
    }
    let all = |labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        v1::ListServicesRequest { page_size: 2, labels, ..Default::default() }
    };
    for (mut request, expected) in [(all(&[]), 5), (all(&[("tier", "a")]), 3), (all(&[("tier", "")]), 5)] {
        let mut ids = Vec::new();
        loop {
            let page = cluster.services(0).list_services(request.clone()).await.unwrap().into_inner();
            assert!(page.services.len() <= 2);
            ids.extend(page.services.into_iter().map(|service| service.id));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(ids.len(), expected);
        assert!(ids.is_sorted());
    }
    let events = v1::ListEventsRequest { page_size: 3, ..Default::default() };
    let events = cluster.events(0).list_events(events).await.unwrap().into_inner();
    assert_eq!(events.events.len(), 3);
    assert!(events.events[0].sequence > events.events[2].sequence, "the newest first");
    let about = v1::ListEventsRequest { subject: "web1".to_owned(), ..Default::default() };
    let about = cluster.events(0).list_events(about).await.unwrap().into_inner().events;
    assert!(about.iter().any(|event| event.reason == "ServiceCreated"), "{about:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_and_health_know_every_service() {
    use reflection::server_reflection_request::MessageRequest;
    let cluster = Cluster::start(1).await;
    let names = [
        "skein.v1.ServiceService",
        "skein.v1.InstanceService",
        "skein.v1.NodeService",
        "skein.v1.ClusterService",
        "skein.v1.EventService",
        "skein.v1.UsageService",
        "skein.v1.AgentService",
    ];
    let ask =
        |request| reflection::ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let requests = vec![
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("google.rpc.BadRequest".to_owned())),
        ask(MessageRequest::FileContainingSymbol("skein.v1.ServiceSpec".to_owned())),
    ];
    let mut client = reflection::server_reflection_client::ServerReflectionClient::new(cluster.channel(0));
    let answers = client.server_reflection_info(tokio_stream::iter(requests)).await.unwrap();
    let mut answers = answers.into_inner();
    let listed = format!("{:?}", answers.message().await.unwrap());
    for name in names {
        assert!(listed.contains(name), "{name}: {listed}");
    }
    for _ in 0..2 {
        let described = format!("{:?}", answers.message().await.unwrap());
        assert!(described.contains("FileDescriptorResponse"), "{described}");
    }
    let old = reflection_alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(reflection_alpha::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let mut client =
        reflection_alpha::server_reflection_client::ServerReflectionClient::new(cluster.channel(0));
    let answers = client.server_reflection_info(tokio_stream::iter([old])).await.unwrap();
    assert!(format!("{:?}", answers.into_inner().message().await.unwrap()).contains(names[0]));

    let mut health = tonic_health::pb::health_client::HealthClient::new(cluster.channel(0));
    for service in ["", names[0], names[6]] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    }
    cluster.stop().await;
}
