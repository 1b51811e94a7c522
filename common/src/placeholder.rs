//! Placeholders in a spec that each instance fills in for itself: `{{.Node.Hostname}}`.
//!
//! Invariant: total; text that is no placeholder of ours stays as it is, because other programs
//! have templates too. No expressions, no functions: a name in, a value out.

use crate::{InstanceId, NodeId, ServiceId};

/// Docker's names, and ours for the same.
const KNOWN: [&str; 11] = [
    ".Node.ID",
    ".Node.Hostname",
    ".Node.Name",
    ".Service.ID",
    ".Service.Name",
    ".Task.ID",
    ".Task.Name",
    ".Task.Slot",
    ".Instance.ID",
    ".Instance.Name",
    ".Instance.Slot",
];

/// What one instance fills in.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    pub node_id: NodeId,
    pub node_name: &'a str,
    pub service_id: ServiceId,
    pub service_name: &'a str,
    pub instance_id: InstanceId,
    /// 0 for a global service.
    pub slot: u32,
}

impl Names<'_> {
    fn value(&self, name: &str) -> Option<String> {
        let instance = || match self.slot {
            0 => format!("{}.{}", self.service_name, self.node_name),
            slot => format!("{}.{slot}", self.service_name),
        };
        Some(match name {
            ".Node.ID" => self.node_id.to_string(),
            ".Node.Hostname" | ".Node.Name" => self.node_name.to_owned(),
            ".Service.ID" => self.service_id.to_string(),
            ".Service.Name" => self.service_name.to_owned(),
            ".Task.ID" | ".Instance.ID" => self.instance_id.to_string(),
            ".Task.Name" => format!("{}.{}", instance(), self.instance_id),
            ".Instance.Name" => instance(),
            ".Task.Slot" | ".Instance.Slot" => self.slot.to_string(),
            _ => return None,
        })
    }

    /// The text with everything filled in that is known.
    #[must_use]
    pub fn fill(&self, text: &str) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, name, after)) = next(rest) {
            filled.push_str(before);
            match self.value(name) {
                Some(value) => filled.push_str(&value),
                None => filled.push_str(&rest[before.len()..rest.len() - after.len()]),
            }
            rest = after;
        }
        filled + rest
    }
}

/// A placeholder that looks like one of ours and that nobody fills in.
#[must_use]
pub fn unknown(text: &str) -> Option<&str> {
    let mut rest = text;
    while let Some((_, name, after)) = next(rest) {
        let is_ours =
            [".Node.", ".Service.", ".Task.", ".Instance."].iter().any(|ours| name.starts_with(ours));
        if is_ours && !KNOWN.contains(&name) {
            return Some(name);
        }
        rest = after;
    }
    None
}

/// What comes before the next `{{name}}`, the name, and what comes after.
fn next(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("{{")?;
    let (name, after) = rest.split_once("}}")?;
    Some((before, name.trim(), after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(slot: u32) -> Names<'static> {
        Names {
            node_id: NodeId::from_random(1),
            node_name: "n1",
            service_id: ServiceId::from_random(2),
            service_name: "shop_web",
            instance_id: InstanceId::from_random(3),
            slot,
        }
    }

    #[test]
    fn fills_what_it_knows() {
        for (text, filled) in [
            ("", ""),
            ("plain", "plain"),
            ("{{.Node.Hostname}}-{{ .Task.Slot }}", "n1-3"),
            ("{{.Service.Name}}/{{.Service.ID}}", "shop_web/s-id"),
            ("{{.Task.Name}} {{.Instance.Name}}", "shop_web.3.i-id shop_web.3"),
            ("{{.Node.ID}}{{.Node.Name}}{{.Instance.ID}}{{.Instance.Slot}}", "n-idn1i-id3"),
            ("{{.State}} {{.Node.Labels.zone}}", "{{.State}} {{.Node.Labels.zone}}"),
            ("open {{.Task.Slot", "open {{.Task.Slot"),
            ("a {{ }} b }} {{.Task.ID}}", "a {{ }} b }} i-id"),
        ] {
            let filled = filled
                .replace("n-id", &NodeId::from_random(1).to_string())
                .replace("s-id", &ServiceId::from_random(2).to_string())
                .replace("i-id", &InstanceId::from_random(3).to_string());
            assert_eq!(names(3).fill(text), filled, "{text}");
        }
        assert_eq!(names(0).fill("{{.Instance.Name}}"), "shop_web.n1");
    }

    #[test]
    fn every_known_name_has_a_value() {
        for name in KNOWN {
            assert!(names(1).value(name).is_some(), "{name}");
        }
    }

    #[test]
    fn tells_what_nobody_fills_in() {
        for (text, name) in [
            ("{{.Task.Slot}}", None),
            ("{{.State}} {{range}}", None),
            ("{{.Node.Hostname}} {{.Node.Labels.zone}}", Some(".Node.Labels.zone")),
        ] {
            assert_eq!(unknown(text), name, "{text}");
        }
    }
}
