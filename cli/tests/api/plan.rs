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
