//! `skein plan`: what is compared, what is shown, how it ends.

use skein_proto::v1;

use crate::{Ended, add_service, fake, fake::serve, service, skein_in, world};

async fn plan(address: &str, text: &str, options: &str) -> Ended {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("compose.yaml"), text).expect("a file");
    let line = format!("plan -f compose.yaml --name shop {options}");
    skein_in(folder.path(), &[address], &line, std::future::pending()).await
}

const FILE: &str = "\
services:
  web: { image: nginx:1.28, deploy: { replicas: 3 } }
  db: { image: postgres }
";

#[tokio::test]
async fn a_plan_names_every_change() {
    let world = world();
    add_service(&world, service("shop_web", 2));
    add_service(&world, service("shop_old", 1));
    let a = serve("a", &world).await;
    let ended = plan(&a, FILE, "--prune").await;
    let lines: Vec<&str> = ended.out.lines().collect();
    assert_eq!(ended.code, 1, "{}", ended.err);
    assert_eq!(lines.first(), Some(&"~ shop_web would be updated, its instances go on"));
    for line in [
        "    ~ container.image: nginx:1.27 -> nginx:1.28",
        "    ~ replicated.replicas: 2 -> 3",
        "+ shop_db would be created",
        "- shop_old would be removed",
        "1 to create, 1 to update, 1 to remove, 0 unchanged",
    ] {
        assert!(lines.contains(&line), "{line}\n{}", ended.out);
    }
    assert!(world.lock().unwrap().keys("apply_service").is_empty());

    let ended = plan(&a, FILE, "").await;
    assert_eq!(ended.err, "not in the files, kept without --prune: shop_old\n");
    let ended = plan(&a, FILE, "-o name").await;
    assert_eq!(ended.out, "shop_web\nshop_db\n");
    let ended = plan(&a, FILE, "-o json").await;
    let json: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(json[1]["action"], "create");
    assert_eq!(json[0]["changes"][0]["field"], "container.image");
}

#[tokio::test]
async fn nothing_to_change_ends_with_zero() {
    let world = world();
    let a = serve("a", &world).await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("compose.yaml"), FILE).unwrap();
    let run = async |line: &str| skein_in(folder.path(), &[&a], line, std::future::pending()).await;
    assert_eq!(run("apply -f compose.yaml --name shop --detach").await.code, 0);
    let ended = run("plan -f compose.yaml --name shop --all").await;
    assert_eq!(
        (ended.code, ended.out.as_str()),
        (
            0,
            "= shop_web would be unchanged\n= shop_db would be unchanged\n0 to create, 0 to update, 0 to remove, 2 unchanged\n"
        ),
        "{}",
        ended.err
    );
}

#[tokio::test]
async fn a_plan_that_cannot_be_made_ends_with_two() {
    let world = world();
    let a = serve("a", &world).await;
    let ended = plan(&a, "services: { web: { imgae: x } }", "").await;
    assert_eq!(ended.code, 2);
    assert!(ended.err.starts_with("compose.yaml:1:13: services.web: image is required\n"), "{}", ended.err);
    let refusal = fake::violations(&[("spec.container.image", "is not liked")]);
    world.lock().unwrap().refusals.entry("validate_service").or_default().push_back(refusal);
    let ended = plan(&a, FILE, "").await;
    assert_eq!(
        (ended.code, ended.err.as_str()),
        (2, "compose.yaml:2:17: services.web.image: is not liked\n")
    );
    let none: Vec<v1::Service> = Vec::new();
    assert_eq!(world.lock().unwrap().services.values().cloned().collect::<Vec<_>>(), none);
}

#[tokio::test]
async fn what_cannot_run_is_warned_of_and_done() {
    let world = world();
    let a = serve("a", &world).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = "services: { web: { image: a, deploy: { placement: { constraints: [node.name == x] } } } }";
    std::fs::write(folder.path().join("compose.yaml"), file).unwrap();
    let run = async |line: &str| skein_in(folder.path(), &[&a], line, std::future::pending()).await;
    let said = "warning: shop_web: spec.placement.constraints[0]: no node is it\n";
    for line in ["plan -f compose.yaml --name shop", "apply -f compose.yaml --name shop --detach"] {
        let ended = run(line).await;
        assert!(ended.err.contains(said), "{line}: {}", ended.err);
    }
    assert_eq!(world.lock().unwrap().keys("apply_service").len(), 1);
}

#[tokio::test]
async fn a_plan_shows_where_instances_go() {
    let world = world();
    let planned =
        |name: &str, change: v1::PlannedChange, from: &str, to: &str, reason: &str| v1::PlannedInstance {
            service_name: name.split_once('.').map_or("", |(service, _)| service).to_owned(),
            name: name.to_owned(),
            change: change.into(),
            from_node_name: from.to_owned(),
            to_node_name: to.to_owned(),
            reason: reason.to_owned(),
            ..Default::default()
        };
    world.lock().unwrap().plan = v1::PlanServicesResponse {
        instances: vec![
            planned("shop_web.1", v1::PlannedChange::Created, "", "n2", ""),
            planned(
                "other.1",
                v1::PlannedChange::Preempted,
                "n2",
                "",
                "gives way to shop_web of priority 90",
            ),
            planned("shop_web.2", v1::PlannedChange::Pending, "", "", "2 nodes: 2 insufficient memory"),
        ],
        plan_etag: "00ff".to_owned(),
        ..Default::default()
    };
    let a = serve("a", &world).await;
    let ended = plan(&a, FILE, "").await;
    for line in [
        "    + shop_web.1 is created on n2",
        "    ? shop_web.2 stays pending: 2 nodes: 2 insufficient memory",
        "= other would be unchanged",
        "    ! other.1 gives way on n2: gives way to shop_web of priority 90",
        "exactly this: skein apply --plan-etag 00ff",
    ] {
        assert!(ended.out.lines().any(|each| each == line), "{line}\n{}", ended.out);
    }
    let ended = plan(&a, FILE, "-o json").await;
    let json: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(
        (&json[0]["planEtag"], &json[0]["instances"][0]["toNodeName"]),
        (&"00ff".into(), &"n2".into())
    );
}

#[tokio::test]
async fn only_what_was_planned_is_applied() {
    let world = world();
    add_service(&world, service("shop_web", 2));
    let a = serve("a", &world).await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("compose.yaml"), FILE).unwrap();
    let line = "apply -f compose.yaml --name shop --detach --plan-etag 00ff";
    let changed =
        fake::status(tonic::Code::FailedPrecondition, "FAILED_PRECONDITION", "services have changed");
    world.lock().unwrap().refusals.entry("plan_services").or_default().push_back(changed);
    let ended = skein_in(folder.path(), &[&a], line, std::future::pending()).await;
    assert_eq!(ended.code, 1, "{}", ended.err);
    assert!(world.lock().unwrap().keys("apply_service").is_empty(), "nothing was applied");
    let ended = skein_in(folder.path(), &[&a], line, std::future::pending()).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(world.lock().unwrap().keys("plan_services"), ["00ff", "00ff"]);
}
