//! Nodes as rows.

use serde_json::Value;
use skein_common::Timestamp;
use skein_proto::v1::{Liveness, Node, NodeDescription};

use super::{Column, Row, column, json, text, wide};

impl Row for Node {
    const COLUMNS: &'static [Column] = &[
        column("NAME"),
        column("ID"),
        column("STATE"),
        column("AVAILABILITY"),
        column("ADDRESS"),
        column("CPU"),
        column("MEMORY"),
        column("INSTANCES"),
        column("AGE"),
        wide("PLATFORM"),
        wide("RUNTIME"),
        wide("AGENT"),
        wide("LABELS"),
        column("MESSAGE"),
    ];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let description = self.description.clone().unwrap_or_default();
        let reserved = self.reserved_by_instances.unwrap_or_default();
        let (cpu, memory) = available(&description);
        let reason = match self.liveness() {
            Liveness::Ready => String::new(),
            _ => self.liveness_reason.clone(),
        };
        vec![
            description.name.clone(),
            self.id.clone(),
            text::enum_word(self.liveness().as_str_name(), "LIVENESS_"),
            text::enum_word(self.availability().as_str_name(), "AVAILABILITY_"),
            description.address.clone(),
            format!("{}/{}", text::cores(reserved.cpu_millis), text::cores(cpu)),
            format!("{}/{}", text::bytes(reserved.memory_bytes), text::bytes(memory)),
            self.instances.to_string(),
            text::age(self.created_at.as_ref(), now),
            format!("{}/{}", description.os, description.arch),
            description.runtime_version.clone(),
            description.agent_version.clone(),
            text::pairs(&labels(self)),
            reason,
        ]
    }

    fn name(&self) -> String {
        name(self).to_owned()
    }

    fn json(&self) -> Value {
        json::of_message("Node", self)
    }
}

pub fn name(node: &Node) -> &str {
    node.description.as_ref().map_or(&node.id, |description| &description.name)
}

/// What instances may reserve: capacity without what is kept for others.
fn available(description: &NodeDescription) -> (u64, u64) {
    let capacity = description.capacity.unwrap_or_default();
    let reserved = description.reserved.unwrap_or_default();
    (
        capacity.cpu_millis.saturating_sub(reserved.cpu_millis),
        capacity.memory_bytes.saturating_sub(reserved.memory_bytes),
    )
}

/// The agent's labels under those set through the API.
fn labels(node: &Node) -> std::collections::BTreeMap<String, String> {
    let agents = node.description.iter().flat_map(|description| &description.labels);
    agents.chain(&node.labels).map(|(key, value)| (key.clone(), value.clone())).collect()
}
