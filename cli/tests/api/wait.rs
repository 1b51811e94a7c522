//! Waiting until it has come true: resumed watches, what is said meanwhile, leaving early.

use std::{collections::VecDeque, sync::Arc};

use skein_proto::v1::{self, Phase};
use tokio::sync::oneshot;
use tonic::{Code, Status};

use super::{
    add_service,
    fake::{changed, serve, snapshot, status, synced},
    instance, node, service, skein, skein_in, world,
};

#[tokio::test]
async fn a_watch_resumes_behind_what_it_has_seen() {
    let world = world();
    add_service(&world, service("web", 2));
    let (a, b) = (serve("a", &world).await, serve("b", &world).await);
    {
        let mut world = world.lock().unwrap();
        world.instance_watches = VecDeque::from([
            vec![
                Ok(snapshot(instance("web", 1, Phase::Pulling))),
                Ok(synced(5)),
                Ok(changed(6, instance("web", 1, Phase::Ready))),
                Err(Status::unavailable("the master goes down")),
            ],
            vec![
                Ok(changed(7, instance("web", 2, Phase::Starting))),
                Ok(changed(9, instance("web", 2, Phase::Ready))),
            ],
        ]);
    }
    let ended = skein(&[&a, &b], "service scale web=2").await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.err.ends_with("web 2/2 ready\n"), "{}", ended.err);
    let world = world.lock().unwrap();
    assert_eq!(world.keys("watch_instances"), ["0", "6"]);
    assert_eq!(world.masters_asked("watch_instances"), ["a", "b"]);
}

#[tokio::test]
async fn a_compacted_watch_begins_anew() {
    let world = world();
    add_service(&world, service("web", 1));
    let a = serve("a", &world).await;
    {
        let mut world = world.lock().unwrap();
        world.instance_watches = VecDeque::from([
            vec![
                Ok(snapshot(instance("old", 1, Phase::Ready))),
                Ok(synced(5)),
                Err(Status::unavailable("bye")),
            ],
            vec![Err(status(Code::OutOfRange, "COMPACTED", "too old"))],
            vec![Ok(snapshot(instance("web", 1, Phase::Ready))), Ok(synced(80))],
        ]);
    }
    let ended = skein(&[&a], "service scale web=1").await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(world.lock().unwrap().keys("watch_instances"), ["0", "5", "0"]);
}

#[tokio::test]
async fn what_does_not_come_true_in_time_ends_with_2() {
    let world = world();
    add_service(&world, service("web", 3));
    let a = serve("a", &world).await;
    let mut pending = instance("web", 2, Phase::Pending);
    pending.explanation = "3 nodes: 2 insufficient memory, 1 drained".to_owned();
    world.lock().unwrap().instances = vec![instance("web", 1, Phase::Ready), pending];
    let ended = skein(&[&a], "service scale web=3 --wait-timeout 400ms").await;
    assert_eq!(ended.code, 2);
    assert!(
        ended.err.ends_with(
            "skein: not there yet: web 1/3 ready (1 pending: 3 nodes: 2 insufficient memory, 1 drained, 1 to come)\n\
             next: skein service ps web --watch\n"
        ),
        "{}",
        ended.err
    );
}

#[tokio::test]
async fn ctrl_c_leaves_with_a_hint() {
    let world = world();
    add_service(&world, service("web", 3));
    let a = serve("a", &world).await;
    let (interrupt, interrupted) = oneshot::channel::<()>();
    let watching = Arc::clone(&world);
    // Pressed once the command waits.
    tokio::spawn(async move {
        while watching.lock().unwrap().keys("watch_instances").is_empty() {
            tokio::task::yield_now().await;
        }
        interrupt.send(()).unwrap();
    });
    let folder = std::path::Path::new("/");
    let ended = skein_in(folder, &[&a], "service scale web=3", async { interrupted.await.unwrap() }).await;
    assert_eq!(ended.code, 2);
    assert!(
        ended.err.ends_with("detached: the cluster goes on by itself\nnext: skein service ps web --watch\n"),
        "{}",
        ended.err
    );
}

#[tokio::test]
async fn removing_waits_until_it_is_gone() {
    let world = world();
    add_service(&world, service("shop_web", 1));
    add_service(&world, service("shop_db", 1));
    add_service(&world, service("other_web", 1));
    let a = serve("a", &world).await;
    let ended = skein(&[&a], "stack rm shop").await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(ended.out, "shop_db being removed\nshop_web being removed\n");
    assert_eq!(world.lock().unwrap().services.keys().collect::<Vec<_>>(), ["other_web"]);
    let ended = skein(&[&a], "stack rm shop").await;
    assert_eq!(
        (ended.code, ended.err.as_str()),
        (1, "skein: there is no stack shop\nnext: skein stack ls\n")
    );
}

#[tokio::test]
async fn applying_prunes_only_when_asked() {
    let world = world();
    add_service(&world, service("shop_old", 1));
    add_service(&world, service("shop_web", 1));
    add_service(&world, service("other_web", 1));
    let a = serve("a", &world).await;
    let folder = tempfile::tempdir().unwrap();
    let text = "name: shop\nservices:\n  web:\n    image: nginx\n    deploy: {replicas: 0}\n  new:\n    image: \
                nginx\n    deploy: {replicas: 0}\n";
    std::fs::write(folder.path().join("compose.yaml"), text).unwrap();
    let run = async |line: &str| skein_in(folder.path(), &[&a], line, std::future::pending()).await;
    let ended = run("apply -f compose.yaml --prune --dry-run").await;
    assert_eq!(
        ended.out,
        "shop_web would be updated\nshop_new would be created\nshop_old would be removed\n"
    );
    assert_eq!(world.lock().unwrap().services.len(), 3);
    let ended = run("apply -f compose.yaml").await;
    assert_eq!(
        (ended.code, ended.out.as_str()),
        (0, "shop_web updated\nshop_new created\n"),
        "{}",
        ended.err
    );
    assert_eq!(ended.err, "shop_web 0/0 ready\nshop_new 0/0 ready\n");
    let ended = run("stack deploy -c compose.yaml shop --prune -o name").await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "shop_web\nshop_new\nshop_old\n"), "{}", ended.err);
    let mut left: Vec<String> = world.lock().unwrap().services.keys().cloned().collect();
    left.sort();
    assert_eq!(left, ["other_web", "shop_new", "shop_web"]);
}

#[tokio::test]
async fn an_update_is_made_to_the_newest_spec() {
    let world = world();
    let mut known = service("shop_web", 1);
    known.etag = "7".to_owned();
    add_service(&world, known);
    let a = serve("a", &world).await;
    let conflict = status(Code::Aborted, "ETAG_MISMATCH", "it has changed");
    world.lock().unwrap().refusals.entry("update_service").or_default().push_back(conflict);
    let ended = skein(&[&a], "service update shop_web --image nginx:2 --env A=1 --detach").await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "shop_web updated\n"), "{}", ended.err);
    let world = world.lock().unwrap();
    assert_eq!(world.keys("update_service"), ["id-shop_web etag 7", "id-shop_web etag 7"]);
    let container = world.services["shop_web"].spec.clone().unwrap().container.unwrap();
    assert_eq!((container.image.as_str(), container.environment["A"].as_str()), ("nginx:2", "1"));
}

#[tokio::test]
async fn a_rollout_obeys_the_user() {
    let world = world();
    let mut known = service("shop_web", 0);
    known.generation = 3;
    add_service(&world, known.clone());
    let generation = |generation, image: &str| {
        let mut spec = known.spec.clone().unwrap();
        spec.container.as_mut().unwrap().image = image.to_owned();
        v1::ServiceGeneration { generation, spec: Some(spec), instances: 0 }
    };
    world.lock().unwrap().generations = vec![generation(3, "nginx:2"), generation(1, "nginx:1")];
    let a = serve("a", &world).await;
    for (line, out) in [
        ("service rollback shop_web", "shop_web going back\n"),
        ("service undo shop_web --to 1 --detach", "shop_web going back to generation 1\n"),
        ("service promote shop_web", "shop_web promoted\n"),
        ("service pause shop_web", "shop_web paused\n"),
        ("service resume shop_web -d", "shop_web resumed\n"),
        (
            "service history shop_web",
            "GENERATION  INSTANCES  IMAGE    CHANGED\n3*          0          nginx:2  ~ container.image: nginx:1 -> \
             nginx:2\n1           0          nginx:1\n",
        ),
    ] {
        let ended = skein(&[&a], line).await;
        assert_eq!((ended.code, ended.out.as_str()), (0, out), "{line}: {}", ended.err);
    }
    let asked = world.lock().unwrap().keys("control_rollout").join(", ").replace("ROLLOUT_CONTROL_", "");
    assert_eq!(
        asked,
        "shop_web UNDO 0, shop_web UNDO 1, shop_web PROMOTE 0, shop_web PAUSE 0, shop_web RESUME 0"
    );
}

#[tokio::test]
async fn a_paused_rollout_is_not_waited_for() {
    let world = world();
    let mut known = service("shop_web", 1);
    let (phase, reason) = (v1::RolloutPhase::Paused.into(), "1 of 1 failed".to_owned());
    known.rollout = Some(v1::Rollout { phase, reason, ..Default::default() });
    add_service(&world, known);
    let a = serve("a", &world).await;
    let ended = skein(&[&a], "service scale shop_web=1").await;
    assert_eq!(ended.code, 2);
    assert!(
        ended.err.contains("skein: shop_web: the rollout is paused: 1 of 1 failed\nnext: skein service ps"),
        "{}",
        ended.err
    );
}

/// The masters hold back who waits; the command only says who that is.
#[tokio::test]
async fn who_waits_for_whom_is_told_to_the_masters() {
    let world = world();
    let a = serve("a", &world).await;
    let folder = tempfile::tempdir().unwrap();
    let text = "name: shop\nservices:\n  web: { image: x, depends_on: { db: { condition: service_healthy } } }\n  db: { \
                image: x, deploy: { replicas: 1 } }\n";
    std::fs::write(folder.path().join("compose.yaml"), text).unwrap();
    let run = async |line: &str| skein_in(folder.path(), &[&a], line, std::future::pending()).await;
    let ended = run("apply -f compose.yaml --wait-timeout 200ms").await;
    assert_eq!((ended.code, ended.out.as_str()), (2, "shop_db created\nshop_web created\n"), "{}", ended.err);
    assert!(ended.err.contains("not there yet: shop_db 0/1 ready"), "{}", ended.err);
    let spec = world.lock().unwrap().services["shop_web"].spec.clone().unwrap();
    let condition = v1::DependencyCondition::Healthy.into();
    assert_eq!(spec.depends_on, [v1::Dependency { service: "shop_db".to_owned(), condition }]);
}

#[tokio::test]
async fn draining_waits_until_the_node_is_empty() {
    let world = world();
    let a = serve("a", &world).await;
    let mut stopped = instance("web", 1, Phase::Stopped);
    stopped.node_id = "id-n1".to_owned();
    stopped.desired = v1::Desired::Stop.into();
    {
        let mut world = world.lock().unwrap();
        world.nodes = vec![node("n1")];
        world.instances = vec![stopped];
    }
    let ended = skein(&[&a], "node drain n1").await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "n1 draining\n"), "{}", ended.err);
    assert!(ended.err.ends_with("n1 drained\n"), "{}", ended.err);
    assert_eq!(world.lock().unwrap().keys("update_node"), ["n1 3 [] etag "]);
    let ended = skein(&[&a], "node label n1 disk=ssd zone-").await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "n1 labelled\n"));
    assert_eq!(world.lock().unwrap().keys("update_node")[1], "id-n1 0 [\"disk=ssd\"] etag 7");
}
