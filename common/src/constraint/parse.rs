//! Text → `Constraint`. Every refusal says what would be accepted.

use std::{net::IpAddr, str::FromStr, sync::Arc};

use super::{Comparison, Constraint, ConstraintKey, Number, Operand, Pattern, Test, parse_number};

/// A pattern is matched against short labels; longer ones are somebody's mistake.
const MAX_PATTERN: usize = 1_024;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseConstraintError {
    #[error(
        "{0:?} is not a constraint: expected KEY == VALUE, or one of != in notin exists !exists regex < <= > >= version"
    )]
    Shape(String),
    #[error(
        "{0:?} is unknown: use node.id, node.name, node.hostname, node.address, node.platform.os, \
         node.platform.arch, node.pool or node.labels.NAME"
    )]
    Key(String),
    #[error("{text:?} is not a regular expression: {reason}")]
    Regex { text: String, reason: String },
    #[error("{0:?} is not a number")]
    Number(String),
    #[error("{0:?} is not a version range: expected for example >= 1.2, < 2")]
    Version(String),
    #[error("{0:?} is not a network: expected for example 10.0.0.0/8")]
    Network(String),
    #[error("{0:?} is not a list: expected (A, B)")]
    List(String),
}

impl FromStr for Constraint {
    type Err = ParseConstraintError;

    fn from_str(text: &str) -> Result<Self, ParseConstraintError> {
        let shape = || ParseConstraintError::Shape(text.to_owned());
        let trimmed = text.trim();
        let end = trimmed.find(|c: char| c.is_whitespace() || "=!<>".contains(c)).ok_or_else(shape)?;
        let (key, rest) = trimmed.split_at(end);
        let (operator, operand) = split_operator(rest.trim_start()).ok_or_else(shape)?;
        if operand.is_empty() != matches!(operator, "exists" | "!exists") {
            return Err(shape());
        }
        let key = parse_key(key)?;
        Ok(Self { test: parse_test(&key, operator, operand)?, key })
    }
}

/// The operator and what follows it, trimmed.
fn split_operator(rest: &str) -> Option<(&str, &str)> {
    const SIGNS: [&str; 7] = ["==", "!exists", "!=", "<=", ">=", "<", ">"];
    const WORDS: [&str; 5] = ["in", "notin", "exists", "regex", "version"];
    for sign in SIGNS {
        if let Some(operand) = rest.strip_prefix(sign) {
            return Some((sign, operand.trim()));
        }
    }
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (word, operand) = rest.split_at(end);
    WORDS.contains(&word).then(|| (word, operand.trim()))
}

fn parse_key(key: &str) -> Result<ConstraintKey, ParseConstraintError> {
    Ok(match key {
        "node.id" => ConstraintKey::NodeId,
        "node.name" | "node.hostname" => ConstraintKey::NodeName,
        "node.address" | "node.ip" => ConstraintKey::NodeAddress,
        "node.platform.os" => ConstraintKey::PlatformOs,
        "node.platform.arch" => ConstraintKey::PlatformArch,
        "node.pool" => ConstraintKey::Pool,
        _ => match key.strip_prefix("node.labels.") {
            Some(label) if !label.is_empty() => ConstraintKey::Label(label.to_owned()),
            _ => return Err(ParseConstraintError::Key(key.to_owned())),
        },
    })
}

fn parse_test(key: &ConstraintKey, operator: &str, operand: &str) -> Result<Test, ParseConstraintError> {
    let compare = |comparison| {
        parse_number(operand)
            .map(|_| Test::Compare(comparison, Number(operand.to_owned())))
            .ok_or_else(|| ParseConstraintError::Number(operand.to_owned()))
    };
    match operator {
        "==" => parse_operand(key, operand).map(Test::Equal),
        "!=" => parse_operand(key, operand).map(Test::NotEqual),
        "in" => parse_list(key, operand).map(Test::In),
        "notin" => parse_list(key, operand).map(Test::NotIn),
        "exists" => Ok(Test::Exists),
        "!exists" => Ok(Test::NotExists),
        "regex" => parse_pattern(operand).map(Test::Regex),
        "<" => compare(Comparison::Less),
        "<=" => compare(Comparison::LessOrEqual),
        ">" => compare(Comparison::Greater),
        ">=" => compare(Comparison::GreaterOrEqual),
        _ => {
            operand.parse().map(Test::Version).map_err(|()| ParseConstraintError::Version(operand.to_owned()))
        }
    }
}

fn parse_operand(key: &ConstraintKey, text: &str) -> Result<Operand, ParseConstraintError> {
    if *key != ConstraintKey::NodeAddress || !text.contains('/') {
        return Ok(Operand::Text(text.to_owned()));
    }
    let refused = || ParseConstraintError::Network(text.to_owned());
    let (address, prefix) = text.split_once('/').ok_or_else(refused)?;
    let address: IpAddr = address.parse().map_err(|_| refused())?;
    let prefix: u8 = prefix.parse().map_err(|_| refused())?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    if prefix > width { Err(refused()) } else { Ok(Operand::Network { address, prefix }) }
}

fn parse_list(key: &ConstraintKey, text: &str) -> Result<Vec<Operand>, ParseConstraintError> {
    let refused = || ParseConstraintError::List(text.to_owned());
    let inner = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).ok_or_else(refused)?;
    let items: Vec<_> = inner.split(',').map(str::trim).collect();
    if items.iter().any(|item| item.is_empty()) {
        return Err(refused());
    }
    items.into_iter().map(|item| parse_operand(key, item)).collect()
}

fn parse_pattern(text: &str) -> Result<Pattern, ParseConstraintError> {
    let refused = |reason: String| ParseConstraintError::Regex { text: text.to_owned(), reason };
    if text.len() > MAX_PATTERN {
        return Err(refused(format!("longer than {MAX_PATTERN} characters")));
    }
    regex_lite::Regex::new(text).map(|regex| Pattern(Arc::new(regex))).map_err(|e| refused(e.to_string()))
}
