//! The third stored form: settings of the cluster, rebalancing.

use std::{sync::Arc, time::Duration};

use skein_common::{
    NodeId, Revision, ServiceId,
    cluster::{ClusterConfig, RebalanceConfig, RebalanceGoal, SchedulingConfig, ScoreWeights, Weight},
    placement::Strategy,
};

use super::{golden, plan};
use crate::{
    ClusterState, Command, CommandKind,
    command::{Actor, RebalanceStep},
    invariant,
    testing::{Cluster, EPOCH, node, replicated},
};

fn config() -> ClusterConfig {
    ClusterConfig {
        scheduling: SchedulingConfig {
            strategy: Some(Strategy::Binpack),
            weights: ScoreWeights { utilisation: Some(Weight(1_500)), ..ScoreWeights::default() },
            preemption_gap: Some(20),
            rebalance: RebalanceConfig {
                enabled: Some(true),
                interval: Some(Duration::from_secs(60)),
                min_gain_percent: Some(5),
                max_moves: Some(2),
            },
        },
        ..ClusterConfig::default()
    }
}

fn commands() -> Vec<Command> {
    let mut begin = plan();
    begin.create[0].moves_to = Some(NodeId::from_random(11));
    begin.rebalance = Some(RebalanceStep::Begin { cause: "why".to_owned() });
    let mut end = plan();
    end.rebalance = Some(RebalanceStep::End { began: Some(EPOCH) });
    let service = Some(ServiceId::from_random(31));
    let kinds = vec![
        CommandKind::ConfigureCluster { expected: Some(Revision(3)), config: Arc::new(config()) },
        CommandKind::Rebalance { goal: RebalanceGoal::Even, service: None },
        CommandKind::Rebalance { goal: RebalanceGoal::Consolidate, service },
        CommandKind::StopRebalance,
        CommandKind::Plan(begin),
        CommandKind::Plan(end),
    ];
    kinds.into_iter().map(|kind| Command { request: None, at: EPOCH, actor: Actor::User, kind }).collect()
}

/// In the middle of a move.
fn state() -> ClusterState {
    let mut cluster = Cluster::new(1);
    cluster.create(replicated("web", 2));
    cluster.settle();
    let mut config = config();
    config.scheduling.strategy = None;
    cluster.accept(CommandKind::ConfigureCluster { expected: None, config: Arc::new(config) });
    cluster.add_node(node("n2"));
    cluster.plan_out();
    cluster.state
}

#[test]
fn commands_load() {
    let expected = commands();
    let bytes = golden("commands", 3, &rmp_serde::to_vec_named(&expected).expect("encodes"));
    let loaded: Vec<Command> = rmp_serde::from_slice(&bytes).expect("commands load");
    assert_eq!(loaded, expected);
}

#[test]
fn a_state_loads() {
    let bytes = golden("state", 3, &rmp_serde::to_vec_named(&state()).expect("encodes"));
    let loaded: ClusterState = rmp_serde::from_slice(&bytes).expect("the state loads");
    assert_eq!(invariant::check(&loaded), []);
    let settings = loaded.settings();
    assert_eq!(settings.config.scheduling.rebalance, config().scheduling.rebalance);
    assert_eq!(settings.rebalance.as_ref().map(|run| (run.moves, run.goal)), Some((1, RebalanceGoal::Even)));
    assert!(loaded.instances().any(|instance| instance.moves_to.is_some() && instance.beside.is_some()));
}
