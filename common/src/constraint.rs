//! Placement constraints in Compose spelling: `node.labels.zone == a`, and more operators.
//!
//! Invariant: a `Constraint` is always well-formed (its pattern, number, version and network
//! parsed once); parsing is the only way in.

mod parse;
mod version;

use std::{collections::BTreeMap, fmt, hash, net::IpAddr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

pub use self::{
    parse::ParseConstraintError,
    version::{Version, VersionRange},
};

/// The label that names the pool of a node (`node.pool`).
pub const POOL_LABEL: &str = "io.skein.pool";

/// `key test`, e.g. `node.platform.arch != arm64`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Constraint {
    pub key: ConstraintKey,
    pub test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConstraintKey {
    NodeId,
    /// Also spelled `node.hostname`, as Compose files do.
    NodeName,
    /// Also spelled `node.ip`. Compared with networks (`10.0.0.0/8`) and with addresses.
    NodeAddress,
    PlatformOs,
    PlatformArch,
    /// The label [`POOL_LABEL`].
    Pool,
    Label(String),
}

/// What is asked of the key's value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Test {
    Equal(Operand),
    NotEqual(Operand),
    In(Vec<Operand>),
    NotIn(Vec<Operand>),
    Exists,
    NotExists,
    /// Found anywhere in the value unless anchored.
    Regex(Pattern),
    Compare(Comparison, Number),
    Version(VersionRange),
}

/// A text, or a network when the key is an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operand {
    Text(String),
    Network { address: IpAddr, prefix: u8 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A compiled regular expression; equal when its text is.
#[derive(Debug, Clone)]
pub struct Pattern(Arc<regex_lite::Regex>);

/// A decimal number as it was written; equal when its text is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Number(String);

/// What a constraint looks at.
#[derive(Debug, Clone, Copy)]
pub struct ConstraintSubject<'a> {
    pub id: &'a str,
    pub name: &'a str,
    pub address: &'a str,
    pub os: &'a str,
    pub arch: &'a str,
    /// Set through the API; these win.
    pub labels: &'a BTreeMap<String, String>,
    /// Of the agent.
    pub agent_labels: &'a BTreeMap<String, String>,
}

impl<'a> ConstraintSubject<'a> {
    fn label(&self, name: &str) -> Option<&'a str> {
        self.labels.get(name).or_else(|| self.agent_labels.get(name)).map(String::as_str)
    }

    fn value(&self, key: &ConstraintKey) -> Option<&'a str> {
        match key {
            ConstraintKey::NodeId => Some(self.id),
            ConstraintKey::NodeName => Some(self.name),
            ConstraintKey::NodeAddress => Some(self.address),
            ConstraintKey::PlatformOs => Some(self.os),
            ConstraintKey::PlatformArch => Some(self.arch),
            ConstraintKey::Pool => self.label(POOL_LABEL),
            ConstraintKey::Label(name) => self.label(name),
        }
    }
}

impl Constraint {
    /// Whether the node passes. An absent label equals nothing (Swarm's rule), is in no list,
    /// matches no pattern and compares with nothing.
    #[must_use]
    pub fn holds(&self, node: ConstraintSubject<'_>) -> bool {
        let actual = node.value(&self.key);
        let is = |operand: &Operand| actual.is_some_and(|actual| operand.is(actual));
        match &self.test {
            Test::Equal(operand) => is(operand),
            Test::NotEqual(operand) => !is(operand),
            Test::In(operands) => operands.iter().any(is),
            Test::NotIn(operands) => !operands.iter().any(is),
            Test::Exists => actual.is_some(),
            Test::NotExists => actual.is_none(),
            Test::Regex(pattern) => actual.is_some_and(|actual| pattern.0.is_match(actual)),
            Test::Compare(comparison, number) => {
                actual.and_then(parse_number).is_some_and(|actual| comparison.holds(actual, number.value()))
            }
            Test::Version(range) => {
                actual.and_then(|text| text.parse().ok()).is_some_and(|version| range.contains(&version))
            }
        }
    }
}

impl Operand {
    fn is(&self, actual: &str) -> bool {
        match self {
            Self::Text(text) => text == actual,
            Self::Network { address, prefix } => {
                actual.parse().is_ok_and(|actual| in_network(actual, *address, *prefix))
            }
        }
    }
}

fn in_network(actual: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let (actual, network, width) = match (actual, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (u128::from(u32::from(a)), u128::from(u32::from(n)), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => (u128::from(a), u128::from(n), 128),
        _ => return false,
    };
    let rest = width - u32::from(prefix).min(width);
    actual.checked_shr(rest).unwrap_or(0) == network.checked_shr(rest).unwrap_or(0)
}

fn parse_number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|number: &f64| number.is_finite())
}

impl Number {
    fn value(&self) -> f64 {
        parse_number(&self.0).unwrap_or(f64::NAN)
    }
}

impl Comparison {
    fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl hash::Hash for Pattern {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.0.as_str().hash(state);
    }
}

impl fmt::Display for ConstraintKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeId => f.write_str("node.id"),
            Self::NodeName => f.write_str("node.name"),
            Self::NodeAddress => f.write_str("node.address"),
            Self::PlatformOs => f.write_str("node.platform.os"),
            Self::PlatformArch => f.write_str("node.platform.arch"),
            Self::Pool => f.write_str("node.pool"),
            Self::Label(name) => write!(f, "node.labels.{name}"),
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Network { address, prefix } => write!(f, "{address}/{prefix}"),
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        })
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |operands: &[Operand]| {
            let operands: Vec<_> = operands.iter().map(ToString::to_string).collect();
            format!("({})", operands.join(", "))
        };
        write!(f, "{} ", self.key)?;
        match &self.test {
            Test::Equal(operand) => write!(f, "== {operand}"),
            Test::NotEqual(operand) => write!(f, "!= {operand}"),
            Test::In(operands) => write!(f, "in {}", list(operands)),
            Test::NotIn(operands) => write!(f, "notin {}", list(operands)),
            Test::Exists => f.write_str("exists"),
            Test::NotExists => f.write_str("!exists"),
            Test::Regex(pattern) => write!(f, "regex {}", pattern.0.as_str()),
            Test::Compare(comparison, number) => write!(f, "{comparison} {}", number.0),
            Test::Version(range) => write!(f, "version {range}"),
        }
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
mod tests;
