//! Masters that die, have no leader or do not know: what is sent again, and what is said.

use std::{collections::VecDeque, path::Path};

use tonic::{Code, Status};

use super::{
    add_service,
    fake::{self, serve, status},
    service, skein, skein_in, world,
};

#[tokio::test]
async fn a_write_is_repeated_with_the_same_request_id() {
    let world = world();
    add_service(&world, service("web", 3));
    let (a, b) = (serve("a", &world).await, serve("b", &world).await);
    world.lock().unwrap().refusals.insert(
        "scale_service",
        VecDeque::from([
            status(Code::Unavailable, "NO_LEADER", "no leader"),
            status(Code::Unknown, "OUTCOME_UNKNOWN", "the leader went away"),
            Status::unavailable("going down"),
        ]),
    );
    let ended = skein(&[&a, &b], "service scale web=3 --detach").await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "web scaled to 3\n"), "{}", ended.err);
    let world = world.lock().unwrap();
    let ids = world.keys("scale_service");
    assert_eq!(ids.len(), 4);
    assert!(ids.iter().all(|id| *id == ids[0] && id.len() > 30), "{ids:?}");
    assert_eq!(world.masters_asked("scale_service"), ["a", "b", "a", "b"]);
}

#[tokio::test]
async fn every_intended_write_has_its_own_request_id() {
    let world = world();
    add_service(&world, service("web", 3));
    add_service(&world, service("db", 1));
    let a = serve("a", &world).await;
    assert_eq!(skein(&[&a], "service scale web=3 db=1 --detach").await.code, 0);
    let world = world.lock().unwrap();
    let ids = world.keys("scale_service");
    assert_eq!(ids.len(), 2);
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_master_that_is_away_is_passed_over() {
    let world = world();
    add_service(&world, service("web", 3));
    let a = serve("a", &world).await;
    let ended = skein(&["127.0.0.1:1", &a], "service ls -o name").await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "web\n"), "{}", ended.err);
}

#[tokio::test]
async fn nobody_there() {
    let ended = skein(&["127.0.0.1:1", "127.0.0.1:2"], "node ls --timeout 100ms").await;
    assert_eq!((ended.code, ended.out.as_str()), (69, ""));
    assert_eq!(
        ended.err,
        "skein: no master can be reached\n  127.0.0.1:1: Connection refused (os error 111)\n  \
         127.0.0.1:2: Connection refused (os error 111)\n\
         next: name your masters with --master HOST:PORT[,...] or SKEIN_MASTERS, or see skein context --help\n"
    );
}

#[tokio::test]
async fn no_leader_until_the_time_is_over() {
    let world = world();
    let a = serve("a", &world).await;
    let refusals = std::iter::repeat_with(|| status(Code::Unavailable, "NO_LEADER", "no leader")).take(1000);
    world.lock().unwrap().refusals.insert("list_nodes", refusals.collect());
    let ended = skein(&[&a], "node ls --timeout 200ms").await;
    assert_eq!(ended.code, 1);
    let expected = format!(
        "; the last was {a}: no leader\nnext: skein cluster status, or add --stale to see what a master without a leader knows\n"
    );
    assert!(
        ended.err.contains("no useful answer within ") && ended.err.ends_with(&expected),
        "{}",
        ended.err
    );
}

#[tokio::test]
async fn an_unknown_outcome_is_said_so() {
    let world = world();
    let a = serve("a", &world).await;
    let refusals = std::iter::repeat_with(|| status(Code::Unknown, "OUTCOME_UNKNOWN", "lost")).take(1000);
    world.lock().unwrap().refusals.insert("scale_service", refusals.collect());
    let ended = skein(&[&a], "service scale web=3 --timeout 200ms").await;
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("may have been made all the same"), "{}", ended.err);
}

#[tokio::test]
async fn what_has_no_request_id_is_not_repeated_when_it_may_have_been_done() {
    let world = world();
    let a = serve("a", &world).await;
    let line = "cluster add-master m4 --api-address h:1 --cluster-address h:2";
    world.lock().unwrap().refusals.insert("add_master", VecDeque::from([Status::unavailable("lost")]));
    assert_eq!(skein(&[&a], line).await.code, 1);
    assert_eq!(world.lock().unwrap().keys("add_master").len(), 1);
    let no_leader = status(Code::Unavailable, "NO_LEADER", "no leader");
    world.lock().unwrap().refusals.insert("add_master", VecDeque::from([no_leader]));
    let ended = skein(&[&a], line).await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "m4 votes\n"));
    assert_eq!(world.lock().unwrap().keys("add_master").len(), 3);
}

#[tokio::test]
async fn refusals_name_the_reason_and_the_next_command() {
    let world = world();
    let a = serve("a", &world).await;
    for (line, refusal, said) in [
        ("service scale web=3", None, "skein: there is no service web (NOT_FOUND)\nnext: skein service ls\n"),
        (
            "service scale web=3",
            Some(status(Code::Aborted, "STALE_ETAG", "changed since")),
            "skein: changed since (STALE_ETAG)\nnext: it was changed meanwhile: look at it again, then repeat the command\n",
        ),
        (
            "service scale web=3",
            Some(fake::violations(&[("replicas", "too many"), ("etag", "is no etag")])),
            "skein: 2 fields are wrong\n  replicas: too many\n  etag: is no etag\n",
        ),
        ("node inspect n9", None, "skein: there is no node n9 (NOT_FOUND)\nnext: skein node ls\n"),
    ] {
        if let Some(refusal) = refusal {
            world.lock().unwrap().refusals.insert("scale_service", VecDeque::from([refusal]));
        }
        let ended = skein(&[&a], line).await;
        assert_eq!((ended.code, ended.err.as_str()), (1, said), "{line}");
    }
}

#[tokio::test]
async fn violations_are_shown_where_they_were_written() {
    let world = world();
    let a = serve("a", &world).await;
    let folder = tempfile::tempdir().unwrap();
    let text =
        "services:\n  web:\n    image: nginx\n    ports:\n      - '80:80'\n  db:\n    image: postgres\n";
    std::fs::write(folder.path().join("compose.yaml"), text).unwrap();
    world.lock().unwrap().refusals.insert(
        "validate_service",
        VecDeque::from([
            fake::violations(&[
                ("spec.ports[0].published_port", "80 is taken by another service"),
                ("spec.container.image", "not allowed"),
            ]),
            fake::violations(&[("spec.name", "reserved")]),
        ]),
    );
    let ended =
        skein_in(folder.path(), &[&a], "apply -f compose.yaml --name shop", std::future::pending()).await;
    assert_eq!(ended.code, 64);
    assert_eq!(
        ended.err,
        "compose.yaml:5:9: services.web.ports[0]: 80 is taken by another service\n\
         compose.yaml:3:12: services.web.image: not allowed\n\
         compose.yaml:6:3: services.db: reserved\n"
    );
    assert!(world.lock().unwrap().keys("apply_service").is_empty());
}

#[tokio::test]
async fn wrong_usage_ends_with_64() {
    for line in ["servce ls", "service scale web", "node ls -o xml", "apply -f /no/such/file.yaml"] {
        let ended = skein(&["127.0.0.1:1"], line).await;
        assert_eq!((ended.code, ended.out.as_str()), (64, ""), "{line}");
        assert!(!ended.err.is_empty());
    }
    assert_eq!(skein_in(Path::new("/"), &["https://x"], "node ls", std::future::pending()).await.code, 64);
    assert_eq!(skein(&["127.0.0.1:1"], "--help").await.code, 0);
    assert_eq!(skein(&["127.0.0.1:1"], "version --client -o name").await.code, 0);
}
