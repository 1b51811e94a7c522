//! What lists, logs and events look like.

use std::collections::VecDeque;

use serde_json::Value;
use skein_proto::v1::{self, Phase};
use tonic::Status;

use super::{
    add_service,
    fake::{changed, serve, snapshot, synced},
    instance, node, service, skein, world,
};

#[tokio::test]
async fn lists_in_every_form() {
    let world = world();
    let mut web = service("shop_web", 3);
    web.status = Some(v1::ServiceStatus { desired: 3, ready: 2, ..Default::default() });
    web.spec.as_mut().unwrap().ports =
        vec![v1::PortSpec { container_port: 80, published_port: 8080, ..Default::default() }];
    add_service(&world, web);
    add_service(&world, service("shop_db", 1));
    let a = serve("a", &world).await;
    let table = skein(&[&a], "service ls").await.out;
    assert_eq!(
        table,
        "NAME      ID           MODE        READY  IMAGE       PORTS         AGE  MESSAGE\n\
         shop_db   id-shop_db   replicated  0/0    nginx:1.27\n\
         shop_web  id-shop_web  replicated  2/3    nginx:1.27  8080->80/tcp\n"
    );
    assert_eq!(skein(&[&a], "service ls -o name").await.out, "shop_db\nshop_web\n");
    let json: Value = serde_json::from_str(&skein(&[&a], "service ls -o json").await.out).unwrap();
    assert_eq!(json[1]["spec"]["ports"][0]["publishedPort"], 8080);
    assert_eq!(json[1]["generation"], "1");
    assert_eq!(json.as_array().map(Vec::len), Some(2));
    let one: Value =
        serde_json::from_str(&skein(&[&a], "service inspect shop_web -o json").await.out).unwrap();
    assert_eq!(one["spec"]["name"], "shop_web");
    let yaml = skein(&[&a], "service inspect shop_web").await.out;
    assert!(yaml.contains("\n  name: shop_web\n"), "{yaml}");
    assert_eq!(skein(&[&a], "stack ls").await.out, "NAME  SERVICES  READY\nshop  2         2/3\n");
}

#[tokio::test]
async fn instances_say_why() {
    let world = world();
    add_service(&world, service("web", 3));
    let a = serve("a", &world).await;
    let mut restarted = instance("web", 1, Phase::Ready);
    restarted.observed.as_mut().unwrap().attempt = 2;
    restarted.observed.as_mut().unwrap().message = "exited with 137".to_owned();
    restarted.endpoints = vec![v1::Endpoint {
        address: "10.0.0.1".to_owned(),
        port: 20001,
        container_port: 80,
        ..Default::default()
    }];
    let mut pending = instance("web", 2, Phase::Pending);
    pending.node_name = String::new();
    pending.explanation = "1 node: 1 drained".to_owned();
    let mut old = instance("web", 1, Phase::Stopped);
    old.desired = v1::Desired::Stop.into();
    old.id = "old".to_owned();
    world.lock().unwrap().instances = vec![pending, old, restarted];
    assert_eq!(
        skein(&[&a], "service ps web").await.out,
        "NAME   ID     NODE  DESIRED  PHASE              AGE  ENDPOINTS           MESSAGE\n\
         web.1  web-1  n1    run      ready (attempt 2)       10.0.0.1:20001->80  exited with 137\n\
         web.2  web-2        run      pending                                     1 node: 1 drained\n"
    );
    assert_eq!(skein(&[&a], "service ps web --all -o name").await.out.lines().count(), 3);
    assert_eq!(skein(&[&a], "service ps nothing").await.code, 1);
}

#[tokio::test]
async fn nodes_show_what_is_reserved() {
    let world = world();
    let a = serve("a", &world).await;
    world.lock().unwrap().nodes = vec![node("n1")];
    assert_eq!(
        skein(&[&a], "node ls").await.out,
        "NAME  ID     STATE  AVAILABILITY  ADDRESS   CPU  MEMORY  INSTANCES  AGE  MESSAGE\n\
         n1    id-n1  ready  active        10.0.0.1  0/4  0B/8G   0\n"
    );
    skein(&[&a], "node ls --stale").await;
    assert_eq!(world.lock().unwrap().keys("list_nodes"), ["1", "2"]);
}

#[tokio::test]
async fn the_cluster_is_asked_member_by_member() {
    let world = world();
    let a = serve("m1", &world).await;
    let member = |name: &str, address: &str| v1::Member {
        name: name.to_owned(),
        api_address: address.to_owned(),
        role: v1::MemberRole::Voter.into(),
        ..Default::default()
    };
    world.lock().unwrap().status = v1::GetStatusResponse {
        cluster_id: "0123456789abc".to_owned(),
        leader: "m1".to_owned(),
        term: 4,
        applied_index: 17,
        members: vec![member("m1", &a), member("m2", "127.0.0.1:1")],
        version: "0.1.0".to_owned(),
        ..Default::default()
    };
    let ended = skein(&[&a], "cluster status").await;
    assert_eq!(
        ended.out.replace(&a, "ADDRESS-OF-M1"),
        "cluster 0123456789abc   leader m1   term 4   1 of 2 voters answer: no quorum, nothing can be changed\n\n\
         NAME  ROLE   STATE        TERM  APPLIED  API              VERSION  MESSAGE\n\
         m1    voter  leader       4     17       ADDRESS-OF-M1  0.1.0\n\
         m2    voter  unreachable                 127.0.0.1:1               Connection refused (os error 111)\n"
    );
    let json: Value = serde_json::from_str(&skein(&[&a], "cluster status -o json").await.out).unwrap();
    assert_eq!(
        (&json["leader"], &json["clusterId"], &json["members"][1]["name"]),
        (&"m1".into(), &"0123456789abc".into(), &"m2".into())
    );
}

fn line(instance: &str, seconds: i64, text: &str) -> Result<v1::StreamLogsResponse, Status> {
    Ok(v1::StreamLogsResponse {
        instance_id: instance.to_owned(),
        instance_name: instance.to_owned(),
        stream: v1::LogStream::Stdout.into(),
        at: Some(prost_types::Timestamp { seconds, nanos: 0 }),
        line: text.to_owned().into(),
        ..Default::default()
    })
}

#[tokio::test]
async fn logs_go_on_where_they_broke_off() {
    let world = world();
    add_service(&world, service("web", 2));
    let a = serve("a", &world).await;
    world.lock().unwrap().logs = VecDeque::from([
        vec![line("web.1", 10, "one"), line("web.10", 11, "two"), Err(Status::unavailable("bye"))],
        vec![
            line("web.10", 10, "before, seen"),
            line("web.1", 12, "three"),
            Ok(v1::StreamLogsResponse {
                instance_name: "web.3".to_owned(),
                error: "its node is away".to_owned(),
                ..Default::default()
            }),
        ],
    ]);
    let ended = skein(&[&a], "logs web --tail 5").await;
    assert_eq!(ended.out, "web.1 | one\nweb.10 | two\nweb.1  | three\n");
    assert_eq!(ended.err, "web.3: its node is away\nskein: no output of web.3\n");
    assert_eq!(ended.code, 1);
    assert_eq!(
        world.lock().unwrap().keys("stream_logs"),
        [
            "Some(Service(\"id-web\")) tail Some(5) since None",
            "Some(Service(\"id-web\")) tail None since Some(10)"
        ]
    );
}

#[tokio::test]
async fn followed_logs_take_up_who_is_new_and_who_comes_back() {
    let world = world();
    add_service(&world, service("web", 3));
    let a = serve("a", &world).await;
    let mut new = instance("web", 3, Phase::Ready);
    new.created_revision = 6;
    {
        let mut world = world.lock().unwrap();
        world.instance_watches = VecDeque::from([vec![
            Ok(snapshot(instance("web", 1, Phase::Ready))),
            Ok(synced(5)),
            Ok(changed(6, new.clone())),
            Ok(changed(7, new)),
        ]]);
        world.logs = VecDeque::from([
            vec![
                line("web-1", 10, "one"),
                Ok(v1::StreamLogsResponse {
                    instance_id: "web-2".to_owned(),
                    instance_name: "web-2".to_owned(),
                    error: "its node is away".to_owned(),
                    ..Default::default()
                }),
            ],
            vec![line("web-3", 11, "new here")],
            vec![line("web-2", 12, "back again"), Err(Status::invalid_argument("enough"))],
        ]);
    }
    let ended = skein(&[&a], "logs -f web").await;
    assert_eq!(ended.out, "web-1 | one\nweb-3 | new here\nweb-2 | back again\n");
    assert_eq!(ended.err, "skein: enough\n");
    let asked = world.lock().unwrap().keys("stream_logs").join("\n").replace(" tail None since None", "");
    assert_eq!(asked, "Some(Service(\"id-web\"))\nSome(Instance(\"web-3\"))\nSome(Instance(\"web-2\"))");
}

#[tokio::test]
async fn logs_of_one_instance_by_name() {
    let world = world();
    add_service(&world, service("web", 2));
    let a = serve("a", &world).await;
    world.lock().unwrap().instances =
        vec![instance("web", 1, Phase::Ready), instance("web", 2, Phase::Ready)];
    world.lock().unwrap().logs = VecDeque::from([vec![line("web.2", 10, "hello")]]);
    let ended = skein(&[&a], "logs web.2 --no-prefix --timestamps").await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "1970-01-01T00:00:10.000Z hello\n"), "{}", ended.err);
    assert_eq!(world.lock().unwrap().keys("stream_logs"), ["Some(Instance(\"web-2\")) tail None since None"]);
    let ended = skein(&[&a], "logs web.9").await;
    assert_eq!(
        (ended.code, ended.err.lines().next()),
        (1, Some("skein: there is no service web.9 (NOT_FOUND)"))
    );
}

fn event(sequence: u64, message: &str) -> v1::Event {
    v1::Event {
        sequence,
        reason: "InstanceRestarted".to_owned(),
        message: message.to_owned(),
        subject: Some(v1::Subject {
            kind: "instance".to_owned(),
            name: "web.1".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[tokio::test]
async fn events_are_followed_without_a_gap() {
    let world = world();
    let a = serve("a", &world).await;
    let word = |message| Ok(v1::WatchEventsResponse { message: Some(message) });
    let synced = || word(v1::watch_events_response::Message::Synced(v1::Synced { revision: 5 }));
    let batch = |revision, events| {
        word(v1::watch_events_response::Message::Events(v1::EventBatch { revision, events }))
    };
    {
        let mut world = world.lock().unwrap();
        world.events = vec![event(1, "first"), event(2, "second")];
        world.event_watches = VecDeque::from([
            vec![
                synced(),
                batch(6, vec![event(2, "second"), event(3, "third")]),
                Err(Status::unavailable("bye")),
            ],
            vec![batch(7, vec![event(4, "fourth")]), Err(Status::invalid_argument("enough"))],
        ]);
    }
    let ended = skein(&[&a], "events -w").await;
    let messages: Vec<&str> = ended.out.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(messages, ["first", "second", "third", "fourth"]);
    assert_eq!(world.lock().unwrap().keys("watch_events"), ["0", "6"]);
    let ended = skein(&[&a], "events").await;
    assert_eq!(
        ended.out,
        "TIME  SEVERITY  REASON             SUBJECT         MESSAGE\n      \
         info      InstanceRestarted  instance/web.1  first\n      \
         info      InstanceRestarted  instance/web.1  second\n"
    );
}

#[tokio::test]
async fn an_explanation_shows_filters_and_scores() {
    let a = serve("a", &world()).await;
    let table = skein(&[&a], "explain instance web.3").await.out;
    assert_eq!(
        table,
        "web.3 is on n1\nstrategy spread, priority 50, 2 nodes\n\nREMOVED  REASON\n1        drained (n2)\n\n\
         BEST NODE                  RESOURCES   CONSTRAINTS  FAILURES\n\
         n1                           -1.2500           0.0         0\n"
    );
    let json: Value =
        serde_json::from_str(&skein(&[&a], "explain instance web.3 -o json").await.out).unwrap();
    assert_eq!(json["filters"][0]["reason"], "drained");
}

#[tokio::test]
async fn an_instance_tells_its_story() {
    let world = world();
    add_service(&world, service("web", 1));
    world.lock().unwrap().instances.push(instance("web", 1, Phase::Ready));
    let a = serve("a", &world).await;
    let told = skein(&[&a], "instance events web.1").await;
    assert_eq!(told.code, 0, "{}", told.err);
    let words: Vec<Vec<&str>> = told.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["AGE", "ATTEMPT", "PHASE", "WANTED", "ACTOR", "CAUSE"]);
    assert_eq!(words[1], ["1", "assigned", "masters"]);
    assert_eq!(words[2], ["2", "assigned", "node", "n1", "exit", "code", "1"]);
    let missing = skein(&[&a], "instance events web.9").await;
    assert_eq!(missing.code, 1);
    assert!(missing.err.contains("there is no instance web.9"), "{}", missing.err);
}
