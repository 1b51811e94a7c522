//! `skein balance`: what is asked, and how it is shown.

use skein_proto::v1;

use crate::{fake::serve, skein, world};

fn endpoint(name: &str, weight: u32, share: f64) -> v1::EndpointBalance {
    v1::EndpointBalance {
        instance_id: format!("id-{name}"),
        instance_name: name.to_owned(),
        node_name: "n1".to_owned(),
        weight,
        share,
        ..Default::default()
    }
}

fn port() -> v1::PortBalance {
    let well = v1::EndpointBalance {
        measured_share: 0.9,
        in_flight: 7,
        rate: 450.0,
        p50: Some(prost_types::Duration { seconds: 0, nanos: 1_500_000 }),
        p99: Some(prost_types::Duration { seconds: 1, nanos: 250_000_000 }),
        counts: Some(v1::LoadCounts { tries: 900, ok: 897, server_errors: 2, late: 1, ..Default::default() }),
        ..endpoint("web.1", 300, 0.75)
    };
    let out = v1::EndpointBalance {
        out: vec!["could not be connected to too often: out on 1 of 3 nodes (n2), 21 s more".to_owned()],
        ..endpoint("web.2", 100, 0.25)
    };
    v1::PortBalance {
        service_name: "web".to_owned(),
        container_port: 80,
        published_port: 8080,
        nodes: 3,
        endpoints: vec![well, out],
        ..Default::default()
    }
}

fn words(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[tokio::test]
async fn endpoints_are_shown_with_share_load_and_why_one_is_out() {
    let world = world();
    world.lock().unwrap().balance = vec![port()];
    let a = serve("a", &world).await;
    let ended = skein(&[&a], "balance web").await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    let lines = words(&ended.out);
    let shown = [
        "web.1", "8080->80", "3", "nodes", "n1", "300", "75.0%", "90.0%", "450.0/s", "7", "1.5ms", "-",
        "1.2s", "3",
    ];
    assert_eq!(lines[1], shown, "{}", ended.out);
    assert_eq!(lines[2][..8], ["web.2", "8080->80", "3", "nodes", "n1", "100", "25.0%", "-"]);
    assert!(
        ended.out.contains("could not be connected to too often: out on 1 of 3 nodes (n2)"),
        "{}",
        ended.out
    );
    let ended = skein(&[&a], "balance web --by-node --window 10s -o json").await;
    let json: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(json[0]["endpoints"][0]["counts"]["serverErrors"], "2", "{json}");
    assert_eq!(world.lock().unwrap().keys("get_balance"), ["web 30 false", "web 10 true"]);
}

#[tokio::test]
async fn a_service_without_instances_shows_who_waits() {
    let world = world();
    let front = v1::FrontLoad { waiting: 4, refused: 9, ..Default::default() };
    world.lock().unwrap().balance =
        vec![v1::PortBalance { endpoints: Vec::new(), front: Some(front), ..port() }];
    let a = serve("a", &world).await;
    let ended = skein(&[&a], "balance").await;
    assert!(ended.out.contains("web: none"), "{}", ended.out);
    assert!(ended.out.contains("no instance; 4 requests wait; 9 were refused"), "{}", ended.out);
}
