//! `deploy.placement`, and generic resources: which nodes will do.

use skein_common::{
    constraint::Constraint,
    placement::{GenericRequest, TopologyKey, WHOLE_MILLIS},
    service::PlacementPolicy,
};

use super::{
    diagnostic::Report,
    field::{Field, Section},
    keys,
    origin::Origins,
};

/// Swarm's roles; masters run no services.
const ROLE: &str = "node.role";

pub fn read(field: &Field<'_>, policy: &mut PlacementPolicy, origins: &mut Origins, report: &mut Report) {
    let Some(section) = field.section(keys::PLACEMENT, report) else { return };
    constraints(&section, policy, origins, report);
    for (position, item) in section
        .get("preferences")
        .and_then(|field| field.items(report))
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let Some(part) = item.section(keys::PREFERENCE, report) else { continue };
        let Some(spread) = part.get("spread") else {
            item.error(report, "expected spread: node.labels.NAME");
            continue;
        };
        origins.add(format!("spec.placement.preferences[{position}]"), &spread.path, spread.node.at);
        policy.preferences.extend(topology(&spread, report));
    }
    if let Some(field) = section.get("max_replicas_per_node") {
        origins.add("spec.placement.max_replicas_per_node", &field.path, field.node.at);
        // As in Docker, 0 is no bound.
        policy.max_replicas_per_node = field.count(0, report).filter(|most| *most > 0);
    }
}

fn constraints(
    section: &Section<'_>,
    policy: &mut PlacementPolicy,
    origins: &mut Origins,
    report: &mut Report,
) {
    for item in section.get("constraints").and_then(|field| field.items(report)).unwrap_or_default() {
        let Some(text) = item.text(report) else { continue };
        if text.trim_start().starts_with(ROLE) {
            item.warn(
                report,
                "ignored: masters run no services, so every node is a worker; use node.labels.NAME to choose nodes",
            );
            continue;
        }
        let text = swarm_spelling(&text);
        match text.parse::<Constraint>() {
            Ok(constraint) => {
                let position = policy.constraints.len();
                origins.add(format!("spec.placement.constraints[{position}]"), &item.path, item.node.at);
                policy.constraints.push(constraint);
            }
            Err(error) => item.error(report, error.to_string()),
        }
    }
}

/// Labels of the engine are labels of the node: an agent is started with them.
fn swarm_spelling(text: &str) -> String {
    text.trim_start()
        .strip_prefix("engine.labels.")
        .map_or_else(|| text.to_owned(), |rest| format!("node.labels.{rest}"))
}

pub fn topology(field: &Field<'_>, report: &mut Report) -> Option<TopologyKey> {
    let text = field.text(report)?;
    swarm_spelling(&text).parse().map_err(|error| field.error(report, format!("{error}"))).ok()
}

/// `generic_resources` of Swarm: whole devices.
pub fn generic_resources(field: &Field<'_>, report: &mut Report) -> Vec<GenericRequest> {
    let mut found = Vec::new();
    for item in field.items(report).unwrap_or_default() {
        let inner = item
            .section(keys::GENERIC_RESOURCE, report)
            .and_then(|part| part.get("discrete_resource_spec"))
            .and_then(|field| field.section(keys::DISCRETE_RESOURCE, report));
        let Some(inner) = inner else { continue };
        let (Some(kind), Some(value)) = (inner.get("kind"), inner.get("value")) else {
            item.error(report, "kind and value are required");
            continue;
        };
        let count = value.integer(1, u64::from(u16::MAX), report).and_then(|count| u16::try_from(count).ok());
        if let (Some(name), Some(count)) = (kind.text(report), count) {
            found.push(GenericRequest {
                name: name.to_lowercase(),
                count,
                millis: WHOLE_MILLIS,
                models: Vec::new(),
            });
        }
    }
    found
}
