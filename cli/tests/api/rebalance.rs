//! `skein rebalance` and `skein cluster config`: what is shown, what is sent.

use skein_proto::v1;

use crate::{fake::serve, skein, world};

fn a_move() -> v1::RebalanceMove {
    v1::RebalanceMove {
        instance_name: "web.3".to_owned(),
        from_node_name: "n1".to_owned(),
        to_node_name: "n4".to_owned(),
        gain_percent: 100,
        reason: "spread over node: 2 here, 0 there".to_owned(),
        start_first: true,
        ..Default::default()
    }
}

#[tokio::test]
async fn moves_are_shown_and_waited_for() {
    let world = world();
    let a = serve("a", &world).await;
    let ended = skein(&[&a], "rebalance --dry-run").await;
    assert_eq!((ended.code, ended.err.as_str()), (0, "nothing to move: no move gains enough\n"));

    let run = v1::RebalanceRun { moves: 1, ..Default::default() };
    world.lock().unwrap().rebalance = v1::RebalanceResponse { moves: vec![a_move()], run: Some(run.clone()) };
    let ended = skein(&[&a], "rebalance --service web").await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    for part in ["web.3", "n1", "n4", "100 %", "start first", "spread over node: 2 here, 0 there"] {
        assert!(ended.out.contains(part), "{part}: {}", ended.out);
    }
    assert_eq!(ended.err, "balanced\n");
    assert_eq!(world.lock().unwrap().keys("rebalance"), ["true ", "false web"]);

    world.lock().unwrap().config.rebalance = Some(run);
    let ended = skein(&[&a], "rebalance --wait-timeout 1ms").await;
    assert_eq!(ended.code, 2, "{}", ended.err);
    let ended = skein(&[&a], "rebalance --stop").await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "stopped; what has begun is finished\n"));
}

#[tokio::test]
async fn settings_are_changed_one_by_one() {
    let world = world();
    let config = v1::ClusterConfig {
        scheduling: Some(v1::SchedulingConfig { preemption_gap: Some(20), ..Default::default() }),
        ..Default::default()
    };
    world.lock().unwrap().config = v1::GetClusterConfigResponse {
        effective: Some(config.clone()),
        config: Some(config),
        etag: "7".to_owned(),
        rebalance: None,
    };
    let a = serve("a", &world).await;
    let ended = skein(&[&a], "cluster config").await;
    let line = ended.out.lines().find(|line| line.contains("preemption_gap")).unwrap_or_default();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["scheduling.preemption_gap", "20", "set"]);

    let line =
        "cluster config --set scheduling.rebalance.enabled=true --unset scheduling.preemption_gap -o json";
    let ended = skein(&[&a], line).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    let json: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(json["config"]["scheduling"], serde_json::json!({ "rebalance": { "enabled": true } }));
    assert_eq!(world.lock().unwrap().keys("update_cluster_config"), ["7"]);
    assert_eq!(skein(&[&a], "cluster config --set colour=red").await.code, 64);
}
