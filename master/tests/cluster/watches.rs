//! The watch protocol: snapshot, synced, changes, resume, and how it ends.

use std::time::Duration;

use skein_common::service::ServiceSpec;
use skein_master_core::testing::{replicated, spec};
use skein_proto::v1::{
    self, ChangeType, service_service_client::ServiceServiceClient, watch_events_response,
    watch_services_response::Message,
};
use tonic::{Code, Status, Streaming, transport::Endpoint};

use crate::harness::{Cluster, metadata, reason, soon, until};

type Watch = Streaming<v1::WatchServicesResponse>;

async fn watch(cluster: &Cluster, master: usize, after_revision: u64, service: &str) -> Watch {
    let request = v1::WatchServicesRequest { after_revision, service: service.to_owned() };
    cluster.services(master).watch_services(request).await.unwrap().into_inner()
}

async fn next(watch: &mut Watch) -> Result<Message, Status> {
    loop {
        match soon("news of a watch", watch.message()).await?.expect("a watch does not just end").message {
            Some(Message::Bookmark(_)) => {}
            other => return Ok(other.expect("a message with content")),
        }
    }
}

/// Names of what was changed, `-` before those that are gone; and the revision.
async fn changes(watch: &mut Watch) -> (u64, Vec<String>) {
    match next(watch).await.unwrap() {
        Message::Changes(changes) => {
            let names = changes.changes.iter().map(|change| {
                let name = &change.service.as_ref().unwrap().spec.as_ref().unwrap().name;
                let gone = change.r#type() == ChangeType::Deleted;
                format!("{}{name}", if gone { "-" } else { "" })
            });
            (changes.revision, names.collect())
        }
        other => panic!("not changes: {other:?}"),
    }
}

fn heavy(name: &str, round: usize) -> ServiceSpec {
    let mut spec = spec(name);
    spec.container.environment.insert("BALLAST".to_owned(), format!("{round}{}", "x".repeat(200_000)));
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_what_is_then_what_changes_and_goes_on_elsewhere() {
    let cluster = Cluster::start(3).await;
    cluster.apply(0, &spec("one")).await;
    cluster.apply(1, &spec("two")).await;
    let mut all = watch(&cluster, 2, 0, "").await;
    let mut names = Vec::new();
    let synced = loop {
        match next(&mut all).await.unwrap() {
            Message::Snapshot(service) => names.push(service.spec.unwrap().name),
            Message::Synced(synced) => break synced.revision,
            other => panic!("unexpected {other:?}"),
        }
    };
    names.sort();
    assert_eq!(names, ["one", "two"]);
    cluster.apply(0, &replicated("one", 2)).await;
    let (first, names) = changes(&mut all).await;
    assert!(first > synced);
    assert_eq!(names, ["one"]);
    drop(all);

    cluster.apply(1, &spec("three")).await;
    let delete = v1::DeleteServiceRequest { service: "two".to_owned(), ..Default::default() };
    cluster.services(1).delete_service(delete).await.unwrap();
    let mut resumed = watch(&cluster, 1, first, "").await;
    assert_eq!(changes(&mut resumed).await.1, ["three"]);
    assert_eq!(changes(&mut resumed).await.1, ["two"], "marked as being deleted");
    assert_eq!(changes(&mut resumed).await.1, ["-two"], "gone with its last instance");

    let mut one = watch(&cluster, 0, first, "three").await;
    assert_eq!(changes(&mut one).await.1, ["three"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_told_from_now_on() {
    let cluster = Cluster::start(1).await;
    cluster.apply(0, &spec("before")).await;
    let request = v1::WatchEventsRequest { subject: "web".to_owned(), ..Default::default() };
    let mut events = cluster.events(0).watch_events(request).await.unwrap().into_inner();
    let first = soon("synced", events.message()).await.unwrap().unwrap().message.unwrap();
    assert!(matches!(first, watch_events_response::Message::Synced(_)));
    cluster.apply(0, &spec("other")).await;
    cluster.apply(0, &spec("web")).await;
    loop {
        match soon("events", events.message()).await.unwrap().unwrap().message.unwrap() {
            watch_events_response::Message::Events(batch) => {
                assert_eq!(batch.events[0].reason, "ServiceCreated");
                assert_eq!(batch.events[0].subject.as_ref().unwrap().name, "web");
                break;
            }
            watch_events_response::Message::Bookmark(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_is_told_where_to_go_on() {
    let cluster = Cluster::start_with(1, |config| {
        config.limits.watch_patience = Duration::from_millis(100);
        config.limits.watches = 1;
    })
    .await;
    cluster.apply(0, &heavy("web", 0)).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.address(0))).unwrap();
    let narrow = endpoint.initial_stream_window_size(70_000).initial_connection_window_size(70_000);
    let mut client = ServiceServiceClient::new(narrow.connect().await.unwrap());
    let request = v1::WatchServicesRequest::default();
    let mut slow = client.watch_services(request).await.unwrap().into_inner();
    // More than the queue and every window in between hold.
    let mut last = 0;
    for round in 1..=75 {
        last = cluster.apply(0, &heavy("web", round)).await.service.unwrap().modified_revision;
    }
    until("the reader is given up", async || {
        cluster.services(0).watch_services(v1::WatchServicesRequest::default()).await.ok()
    })
    .await;
    let (mut told, mut end) = (0, None);
    while end.is_none() {
        match next(&mut slow).await {
            Ok(Message::Changes(changes)) => told = changes.revision,
            Ok(_) => {}
            Err(status) => end = Some(status),
        }
    }
    let status = end.unwrap();
    assert_eq!(reason(&status), (Code::Aborted, "SLOW_CONSUMER".to_owned()));
    assert!(told < last);
    let resume: u64 = metadata(&status, "resume_revision").parse().unwrap();
    assert_eq!(resume, told, "everything up to the resume revision was delivered");
    let mut resumed = watch(&cluster, 0, resume, "").await;
    let (revision, names) = changes(&mut resumed).await;
    assert!(revision > resume);
    assert_eq!(names, ["web"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_is_no_longer_kept_is_out_of_range() {
    let cluster = Cluster::start(1).await;
    // The ring of changes keeps 16 MiB.
    for round in 0..100 {
        cluster.apply(0, &heavy("web", round)).await;
    }
    let request = v1::WatchServicesRequest { after_revision: 1, ..Default::default() };
    let status = cluster.services(0).watch_services(request).await.unwrap_err();
    assert_eq!(reason(&status), (Code::OutOfRange, "COMPACTED".to_owned()));
    assert!(metadata(&status, "oldest_revision").parse::<u64>().unwrap() > 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_are_bounded_and_given_back() {
    let cluster = Cluster::start_with(1, |config| config.limits.watches = 2).await;
    let (first, second) = (watch(&cluster, 0, 0, "").await, watch(&cluster, 0, 0, "").await);
    let third = cluster.services(0).watch_services(v1::WatchServicesRequest::default()).await;
    let (code, text) = reason(&third.unwrap_err());
    assert_eq!((code, text.as_str()), (Code::ResourceExhausted, "LIMIT_REACHED"));
    drop((first, second));
    until("a place is free again", async || {
        cluster.services(0).watch_services(v1::WatchServicesRequest::default()).await.ok()
    })
    .await;
    cluster.stop().await;
}
