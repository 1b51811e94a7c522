//! Placement constraints in Compose spelling: `node.labels.zone == a`.
//!
//! Invariant: a `Constraint` is always well-formed; parsing is the only way in.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// `key operator value`, e.g. `node.platform.arch != arm64`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Constraint {
    pub key: ConstraintKey,
    pub operator: Operator,
    pub value: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ConstraintKey {
    NodeId,
    /// Also spelled `node.hostname`, as Compose files do.
    NodeName,
    PlatformOs,
    PlatformArch,
    Label(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    Equal,
    NotEqual,
}

/// What a constraint looks at.
#[derive(Debug, Clone, Copy)]
pub struct ConstraintSubject<'a> {
    pub id: &'a str,
    pub name: &'a str,
    pub os: &'a str,
    pub arch: &'a str,
    pub labels: &'a BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseConstraintError {
    #[error("{0:?} is not a constraint: expected KEY == VALUE or KEY != VALUE")]
    Shape(String),
    #[error(
        "{0:?} is unknown: use node.id, node.name, node.hostname, node.platform.os, node.platform.arch or node.labels.NAME"
    )]
    Key(String),
}

impl Constraint {
    /// Whether the node passes. An absent label equals nothing (Swarm's rule).
    #[must_use]
    pub fn holds(&self, node: ConstraintSubject<'_>) -> bool {
        let actual = match &self.key {
            ConstraintKey::NodeId => Some(node.id),
            ConstraintKey::NodeName => Some(node.name),
            ConstraintKey::PlatformOs => Some(node.os),
            ConstraintKey::PlatformArch => Some(node.arch),
            ConstraintKey::Label(name) => node.labels.get(name).map(String::as_str),
        };
        match self.operator {
            Operator::Equal => actual == Some(&self.value),
            Operator::NotEqual => actual != Some(&self.value),
        }
    }
}

impl FromStr for Constraint {
    type Err = ParseConstraintError;

    fn from_str(text: &str) -> Result<Self, ParseConstraintError> {
        let (key, operator, value) = text
            .split_once("==")
            .map(|(key, value)| (key, Operator::Equal, value))
            .or_else(|| text.split_once("!=").map(|(key, value)| (key, Operator::NotEqual, value)))
            .ok_or_else(|| ParseConstraintError::Shape(text.to_owned()))?;
        let (key, value) = (key.trim(), value.trim());
        if value.is_empty() {
            return Err(ParseConstraintError::Shape(text.to_owned()));
        }
        let key = match key {
            "node.id" => ConstraintKey::NodeId,
            "node.name" | "node.hostname" => ConstraintKey::NodeName,
            "node.platform.os" => ConstraintKey::PlatformOs,
            "node.platform.arch" => ConstraintKey::PlatformArch,
            _ => match key.strip_prefix("node.labels.") {
                Some(label) if !label.is_empty() => ConstraintKey::Label(label.to_owned()),
                _ => return Err(ParseConstraintError::Key(key.to_owned())),
            },
        };
        Ok(Self { key, operator, value: value.to_owned() })
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            ConstraintKey::NodeId => f.write_str("node.id"),
            ConstraintKey::NodeName => f.write_str("node.name"),
            ConstraintKey::PlatformOs => f.write_str("node.platform.os"),
            ConstraintKey::PlatformArch => f.write_str("node.platform.arch"),
            ConstraintKey::Label(name) => write!(f, "node.labels.{name}"),
        }?;
        let operator = match self.operator {
            Operator::Equal => "==",
            Operator::NotEqual => "!=",
        };
        write!(f, " {operator} {}", self.value)
    }
}

impl Serialize for Constraint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Constraint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_as_swarm_reads_it() {
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let node = ConstraintSubject { id: "x", name: "n1", os: "linux", arch: "amd64", labels: &labels };
        for (text, holds) in [
            ("node.labels.zone == a", true),
            ("node.labels.zone==b", false),
            ("node.labels.zone != b", true),
            ("node.labels.disk == ssd", false),
            ("node.labels.disk != ssd", true),
            ("node.hostname == n1", true),
            ("node.platform.arch != amd64", false),
        ] {
            let constraint: Constraint = text.parse().expect(text);
            assert_eq!(constraint.holds(node), holds, "{text}");
            assert_eq!(constraint.to_string().parse(), Ok(constraint));
        }
    }

    #[test]
    fn malformed_text_says_what_is_expected() {
        for text in ["zone", "node.labels. == a", "node.color == red", "node.id =="] {
            assert!(text.parse::<Constraint>().is_err(), "{text}");
        }
    }
}
