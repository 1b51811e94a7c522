//! What differs between two messages, field by field.
//!
//! Invariant: pure; an empty answer means equal. Items of a list are told apart by what they
//! stand for (a mount by its path, a port by its number), so that a new one is not a change of
//! all behind it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Keys that say what an item of a list stands for; the first that it has counts.
const IDENTITIES: [&str; 5] = ["target", "container_port", "name", "source", "service"];

/// One field that is not the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// `container.environment.MODE`, `ports[80].published_port`.
    pub field: String,
    /// `None` = it was not set.
    pub from: Option<Value>,
    /// `None` = it will not be set.
    pub to: Option<Value>,
}

impl Difference {
    /// `field: old -> new`.
    pub fn line(&self) -> String {
        let text = |value: &Option<Value>| match value {
            None => "(none)".to_owned(),
            Some(Value::String(text)) if is_plain(text) => text.clone(),
            Some(value) => value.to_string(),
        };
        match (&self.from, &self.to) {
            (None, to) => format!("+ {}: {}", self.field, text(to)),
            (from, None) => format!("- {}: {}", self.field, text(from)),
            (from, to) => format!("~ {}: {} -> {}", self.field, text(from), text(to)),
        }
    }

    pub fn json(&self) -> Value {
        json!({ "field": self.field, "from": self.from, "to": self.to })
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| !c.is_control() && !c.is_whitespace() && c != '"')
}

/// All differences, in order of the fields' names.
pub fn between(from: &Value, to: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    walk(String::new(), Some(from), Some(to), &mut found);
    found
}

fn walk(field: String, from: Option<&Value>, to: Option<&Value>, found: &mut Vec<Difference>) {
    if from == to {
        return;
    }
    match (children(from), children(to)) {
        // What is wholly new or gone is told field by field too, unless it is one thing of a list.
        (Some(olds), Some(news)) if from.is_some() && to.is_some() || field.is_empty() => {
            let names: std::collections::BTreeSet<&String> = olds.keys().chain(news.keys()).collect();
            for name in names {
                let inner = if field.is_empty() {
                    name.trim_start_matches('.').to_owned()
                } else {
                    format!("{field}{name}")
                };
                walk(inner, olds.get(name).copied(), news.get(name).copied(), found);
            }
        }
        _ => found.push(Difference { field, from: from.cloned(), to: to.cloned() }),
    }
}

/// What can be compared piece by piece, by `.key` or `[identity]`; nothing counts as empty.
fn children(value: Option<&Value>) -> Option<BTreeMap<String, &Value>> {
    match value {
        None => Some(BTreeMap::new()),
        Some(Value::Object(entries)) => {
            Some(entries.iter().map(|(key, value)| (format!(".{key}"), value)).collect())
        }
        Some(Value::Array(items)) => {
            let mut found = BTreeMap::new();
            for item in items {
                let clash = found.insert(format!("[{}]", identity(item)?), item);
                if clash.is_some() {
                    return None;
                }
            }
            Some(found)
        }
        Some(_) => None,
    }
}

fn identity(item: &Value) -> Option<String> {
    let found = IDENTITIES.iter().find_map(|key| item.get(key))?;
    let text = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
    let protocol = item.get("protocol").and_then(Value::as_str).filter(|text| *text == "PROTOCOL_UDP");
    Some(if protocol.is_some() { format!("{text}/udp") } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_each_field_once() {
        let from = json!({
            "name": "web", "replicated": { "replicas": 2 },
            "container": {
                "image": "a:1", "command": ["x"], "environment": { "A": "1", "B": "2" },
                "mounts": [{ "target": "/a", "source": "x" }, { "target": "/b" }]
            },
            "ports": [{ "container_port": 80, "published_port": 8080 }, { "container_port": 53, "protocol": "PROTOCOL_UDP" }]
        });
        let to = json!({
            "name": "web", "replicated": { "replicas": 3 },
            "container": {
                "image": "a:2", "command": ["x", "y"], "environment": { "B": "two words", "C": "" },
                "mounts": [{ "target": "/b" }, { "target": "/a", "source": "z" }]
            },
            "ports": [{ "container_port": 53, "protocol": "PROTOCOL_UDP" }, { "container_port": 53 }],
            "labels": { "team": "a" }
        });
        let lines: Vec<String> = between(&from, &to).iter().map(Difference::line).collect();
        assert_eq!(
            lines,
            [
                r#"~ container.command: ["x"] -> ["x","y"]"#,
                "- container.environment.A: 1",
                r#"~ container.environment.B: 2 -> "two words""#,
                r#"+ container.environment.C: """#,
                "~ container.image: a:1 -> a:2",
                "~ container.mounts[/a].source: x -> z",
                r#"+ labels: {"team":"a"}"#,
                r#"+ ports[53]: {"container_port":53}"#,
                r#"- ports[80]: {"container_port":80,"published_port":8080}"#,
                "~ replicated.replicas: 2 -> 3",
            ]
        );
        assert_eq!(between(&from, &from), []);
    }
}
