//! Why an instance is where it is, or nowhere: the scheduler's own view, asked anew.

use std::sync::Arc;

use skein_common::{
    instance::{Instance, Slot},
    placement::Strategy,
};
use skein_master_core::{
    ClusterState, Rejection, orchestrator,
    scheduler::{Explained, Group, Item, Scheduler},
};
use skein_proto::v1;

use super::read;

const DEFAULT_NODES: usize = 5;
const MOST_NODES: usize = 1_000;

pub fn explain(state: &ClusterState, request: &v1::ExplainRequest) -> Result<v1::ExplainResponse, Rejection> {
    let instance = named(state, &request.instance)?;
    let wanted = usize::try_from(request.nodes).unwrap_or(MOST_NODES).min(MOST_NODES);
    let wanted = if wanted == 0 { DEFAULT_NODES } else { wanted };
    let answer = v1::ExplainResponse {
        instance_id: instance.id.to_string(),
        instance_name: state.instance_name(&instance),
        node_name: instance.node.map(|node| state.node_name(node)).unwrap_or_default(),
        explanation: instance.explanation.clone(),
        ..v1::ExplainResponse::default()
    };
    let Some(spec) = state.spec_of(&instance) else { return Ok(answer) };
    let home = orchestrator::home(state, instance.service, instance.slot, instance.generation);
    let pinned = match instance.slot {
        Slot::Number(_) => home,
        Slot::Node(node) => Some(node),
    };
    let items = vec![Item { pinned, is_home: home.is_some(), ..Item::new(instance.id) }];
    let group = Group { service: instance.service, items, spec };
    Ok(encode(state, answer, &Scheduler::new(state).explain(&group, wanted)))
}

/// By id, or the newest of the name.
fn named(state: &ClusterState, reference: &str) -> Result<Arc<Instance>, Rejection> {
    let found = read::instance(state, reference);
    let Some((service, _)) = reference.rsplit_once('.').filter(|_| found.is_err()) else { return found };
    let Some(service) = state.service_by_name(service) else { return found };
    let of_name = state.instances_of(service.id).filter(|i| state.instance_name(i) == reference);
    of_name.max_by_key(|i| (i.is_live(), i.created_revision)).cloned().map_or(found, Ok)
}

fn encode(state: &ClusterState, answer: v1::ExplainResponse, explained: &Explained) -> v1::ExplainResponse {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let strategy = match explained.strategy {
        Strategy::Spread => v1::Strategy::Spread,
        Strategy::Binpack => v1::Strategy::Binpack,
        Strategy::Balanced => v1::Strategy::Balanced,
    };
    let filters = explained.removed.iter().map(|removed| v1::FilterExplanation {
        reason: removed.reason.clone(),
        nodes: count(removed.nodes),
        examples: removed.examples.clone(),
    });
    let best = explained.best.iter().map(|rated| v1::NodeScore {
        node_id: rated.node.to_string(),
        node_name: state.node_name(rated.node),
        score: rated.score(),
        priority: rated.priority,
        resources: rated.resources,
        constraints: rated.constraints,
        recent_failures: count(rated.failures),
    });
    v1::ExplainResponse {
        strategy: strategy.into(),
        priority: explained.priority.into(),
        nodes: count(explained.nodes),
        filters: filters.collect(),
        best: best.collect(),
        ..answer
    }
}
