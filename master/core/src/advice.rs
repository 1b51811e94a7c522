//! What a user should hear about a spec that is accepted all the same: it cannot run as the
//! cluster is now.
//!
//! Invariant: words only; nothing is decided by them. Nodes that are away or drained count too:
//! they may come back.
//! Deliberately not here: why an instance is pending (`scheduler`), what is refused (`common`).

use skein_common::{
    Resources,
    node::Node,
    resources::ResourceKind,
    service::{DependencyCondition, ServiceSpec},
};

use crate::state::ClusterState;

/// One sentence each, beginning with the field; empty when all is well, or when there is no node yet.
#[must_use]
pub fn advice(state: &ClusterState, spec: &ServiceSpec) -> Vec<String> {
    let mut words = Vec::new();
    dependencies(state, spec, &mut words);
    let nodes: Vec<&Node> = state.nodes().map(AsRef::as_ref).collect();
    if nodes.is_empty() {
        return words;
    }
    constraints(&nodes, spec, &mut words);
    sizes(&nodes, spec.resources.reservation, &mut words);
    words
}

fn dependencies(state: &ClusterState, spec: &ServiceSpec, words: &mut Vec<String>) {
    for (position, dependency) in spec.depends_on.iter().enumerate() {
        let name = &dependency.service;
        let field = format!("spec.depends_on[{position}]");
        let known = state.service_by_name(name).filter(|service| !service.deleting);
        match known.map(|service| service.spec.mode.is_job()) {
            None => words.push(format!("{field}.service: {name} does not exist: it is waited for")),
            Some(false) if dependency.condition == DependencyCondition::CompletedSuccessfully => {
                words.push(format!("{field}.condition: {name} is no job and never completes"));
            }
            Some(_) => {}
        }
    }
}

fn constraints(nodes: &[&Node], spec: &ServiceSpec, words: &mut Vec<String>) {
    let all = &spec.placement.constraints;
    let mut possible = true;
    for (position, constraint) in all.iter().enumerate() {
        if !nodes.iter().any(|node| node.satisfies([constraint])) {
            possible = false;
            words.push(format!("spec.placement.constraints[{position}]: no node is {constraint}"));
        }
    }
    if possible && !nodes.iter().any(|node| node.satisfies(all)) {
        words.push(format!("spec.placement.constraints: no node satisfies all {} of them", all.len()));
    }
}

fn sizes(nodes: &[&Node], wanted: Resources, words: &mut Vec<String>) {
    if nodes.iter().any(|node| node.allocatable().lacking(wanted).is_none()) {
        return;
    }
    let largest = |amount: fn(Resources) -> u64| {
        nodes.iter().map(|node| amount(node.allocatable())).max().unwrap_or_default()
    };
    let (cpu, memory) = (largest(|r| r.cpu_millis), largest(|r| r.memory_bytes));
    let largest = Resources { cpu_millis: cpu, memory_bytes: memory };
    words.push(match largest.lacking(wanted) {
        Some(ResourceKind::Memory) => {
            format!(
                "spec.resources.reservation.memory_bytes: {} wanted, largest node has {memory}",
                wanted.memory_bytes
            )
        }
        Some(ResourceKind::Cpu) => {
            format!(
                "spec.resources.reservation.cpu_millis: {} wanted, largest node has {cpu}",
                wanted.cpu_millis
            )
        }
        None => "spec.resources.reservation: no node has as much of both cpu and memory".to_owned(),
    });
}

#[cfg(test)]
mod tests {
    use skein_common::service::Dependency;

    use super::*;
    use crate::testing::{Cluster, GIB, node, reserving, spec};

    fn with(constraints: &[&str]) -> ServiceSpec {
        let mut spec = spec("web");
        let parse = |text: &&str| text.parse().expect("a constraint");
        spec.placement.constraints = constraints.iter().map(parse).collect();
        spec
    }

    #[test]
    fn says_what_is_waited_for() {
        let mut cluster = Cluster::new(1);
        cluster.create(spec("db"));
        let mut web = spec("web");
        let on = |service: &str, condition| Dependency { service: service.to_owned(), condition };
        web.depends_on = vec![
            on("db", DependencyCondition::Healthy),
            on("cache", DependencyCondition::Started),
            on("db", DependencyCondition::CompletedSuccessfully),
        ];
        let words = [
            "spec.depends_on[1].service: cache does not exist: it is waited for",
            "spec.depends_on[2].condition: db is no job and never completes",
        ];
        assert_eq!(advice(&cluster.state, &web), words);
    }

    #[test]
    fn says_what_cannot_be() {
        let mut cluster = Cluster::new(0);
        assert_eq!(advice(&cluster.state, &with(&["node.labels.zone == a"])), [""; 0], "no nodes yet");
        for (name, zone, memory) in [("n1", "a", 8), ("n2", "b", 16)] {
            let mut description = node(name);
            description.labels = [("zone".to_owned(), zone.to_owned())].into();
            description.capacity.memory_bytes = memory * GIB;
            cluster.add_node(description);
        }
        for (given, then) in [
            (with(&["node.labels.zone == a"]), vec![]),
            (
                with(&["node.labels.zone == c", "node.name == n1"]),
                vec!["spec.placement.constraints[0]: no node is node.labels.zone == c"],
            ),
            (
                with(&["node.labels.zone == a", "node.name == n2"]),
                vec!["spec.placement.constraints: no node satisfies all 2 of them"],
            ),
            (reserving(spec("web"), 4_000, 16 * GIB), vec![]),
            (
                reserving(spec("web"), 0, 17 * GIB),
                vec![
                    "spec.resources.reservation.memory_bytes: 18253611008 wanted, largest node has 17179869184",
                ],
            ),
            (
                reserving(spec("web"), 5_000, GIB),
                vec!["spec.resources.reservation.cpu_millis: 5000 wanted, largest node has 4000"],
            ),
        ] {
            assert_eq!(advice(&cluster.state, &given), then);
        }
    }
}
