//! One value of the file with its path, and the readings of it that a Compose key can ask for.
//!
//! Invariant: a reading that fails has reported why, and returns `None`; nothing is reported
//! twice. An empty value (`ports:`) counts as absent.

use std::time::Duration;

use super::{
    amount,
    diagnostic::{Position, Report},
    keys::{self, Keys},
    scalar::Meaning,
    yaml::{Entry, Node, Scalar, Value},
};

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Field<'a> {
    pub path: String,
    pub at: Position,
    pub node: &'a Node,
}

/// A map whose keys have been checked.
#[derive(Debug, Clone)]
pub struct Section<'a> {
    pub path: String,
    entries: &'a [Entry],
}

impl<'a> Section<'a> {
    /// The value of a key, unless it is absent or empty.
    pub fn get(&self, key: &str) -> Option<Field<'a>> {
        self.all().find(|(name, _)| *name == key).map(|(_, field)| field).filter(|field| !field.is_null())
    }

    pub fn all(&self) -> impl Iterator<Item = (&'a str, Field<'a>)> + use<'a> {
        let path = self.path.clone();
        self.entries.iter().map(move |entry| {
            let path = Field::join(&path, &entry.key);
            (entry.key.as_str(), Field { path, at: entry.key_at, node: &entry.value })
        })
    }
}

impl<'a> Field<'a> {
    pub fn join(path: &str, key: &str) -> String {
        if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
    }

    pub fn is_null(&self) -> bool {
        matches!(&self.node.value, Value::Scalar(scalar) if scalar.is_null())
    }

    pub fn error(&self, report: &mut Report, message: impl Into<String>) {
        report.error(self.node.at, &self.path, message);
    }

    pub fn warn(&self, report: &mut Report, message: impl Into<String>) {
        report.warn(self.node.at, &self.path, message);
    }

    /// The map, its keys checked against what is known.
    pub fn section(&self, keys: Keys, report: &mut Report) -> Option<Section<'a>> {
        let section = self.free_section(report)?;
        keys::check(section.entries, &section.path, keys, report);
        Some(section)
    }

    /// The same; what is wrong when it is no map somebody else says.
    pub fn map(&self) -> Option<Section<'a>> {
        matches!(self.node.value, Value::Map(_)).then(|| self.free_section(&mut Report::default())).flatten()
    }

    /// The map, with keys chosen by the author of the file.
    pub fn free_section(&self, report: &mut Report) -> Option<Section<'a>> {
        match &self.node.value {
            Value::Map(entries) => Some(Section { path: self.path.clone(), entries }),
            Value::Scalar(scalar) if scalar.is_null() => {
                Some(Section { path: self.path.clone(), entries: &[] })
            }
            _ => self.unexpected("a map of keys and values", report),
        }
    }

    /// The items of a list.
    pub fn items(&self, report: &mut Report) -> Option<Vec<Self>> {
        match &self.node.value {
            Value::List(items) => Some(self.item_fields(items)),
            _ => self.unexpected("a list", report),
        }
    }

    fn item_fields(&self, items: &'a [Node]) -> Vec<Self> {
        let field = |(position, node): (usize, &'a Node)| Self {
            path: format!("{}[{position}]", self.path),
            at: node.at,
            node,
        };
        items.iter().enumerate().map(field).collect()
    }

    pub fn scalar(&self, expected: &str, report: &mut Report) -> Option<&'a Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => self.unexpected(expected, report),
        }
    }

    /// Text; a number that Docker would print differently is warned about.
    pub fn text(&self, report: &mut Report) -> Option<String> {
        let scalar = self.scalar("text", report)?;
        if scalar.is_null() {
            return self.unexpected("text", report);
        }
        let printed = scalar.as_docker_prints();
        if printed != scalar.text && !matches!(scalar.meaning(), Meaning::Bool(_)) {
            let written = &scalar.text;
            self.warn(
                report,
                format!("{written} is the number {printed}, as Docker reads it; write '{written}' to keep it as it is"),
            );
        }
        Some(printed)
    }

    /// A list of texts.
    pub fn texts(&self, report: &mut Report) -> Option<Vec<String>> {
        let items = self.items(report)?;
        let texts: Vec<Option<String>> = items.iter().map(|item| item.text(report)).collect();
        texts.into_iter().collect()
    }

    /// The items of a list, or the only one.
    pub fn one_or_more(&self) -> Vec<Self> {
        match &self.node.value {
            Value::List(items) => self.item_fields(items),
            Value::Scalar(_) | Value::Map(_) => vec![self.clone()],
        }
    }

    /// A command line: words in the shell's spelling, or a list of words.
    pub fn words(&self, report: &mut Report) -> Option<Vec<String>> {
        match &self.node.value {
            Value::List(_) => self.texts(report),
            Value::Scalar(_) => {
                let text = self.text(report)?;
                let words = shlex::split(&text);
                if words.is_none() {
                    self.error(report, "a quote or an escape is not closed");
                }
                words
            }
            Value::Map(_) => self.unexpected("a command line or a list of words", report),
        }
    }

    /// `KEY: value` or a list of `KEY=value`; the value is `None` when there is none.
    pub fn pairs(&self, report: &mut Report) -> Option<Vec<(String, Option<String>, Self)>> {
        match &self.node.value {
            Value::Map(_) => {
                let pair = |(name, field): (&str, Self), report: &mut Report| {
                    let value = if field.is_null() { None } else { Some(field.text(report)?) };
                    Some((name.to_owned(), value, field))
                };
                Some(self.free_section(report)?.all().filter_map(|entry| pair(entry, report)).collect())
            }
            Value::List(_) => {
                let pair = |item: Self, report: &mut Report| {
                    let text = item.text(report)?;
                    let (name, value) = match text.split_once('=') {
                        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                        None => (text, None),
                    };
                    Some((name, value, item))
                };
                Some(self.items(report)?.into_iter().filter_map(|item| pair(item, report)).collect())
            }
            Value::Scalar(_) => self.unexpected("a map, or a list of KEY=value", report),
        }
    }

    /// A whole number; quoted ones count, as variables are always text.
    pub fn integer(&self, low: u64, high: u64, report: &mut Report) -> Option<u64> {
        let expected = format!("a whole number from {low} to {high}");
        let scalar = self.scalar(&expected, report)?;
        let value = match scalar.meaning() {
            Meaning::Integer(value) => u64::try_from(value).ok(),
            _ => scalar.text.parse().ok(),
        };
        match value {
            Some(value) if (low..=high).contains(&value) => {
                let written = &scalar.text;
                if scalar.plain && written.starts_with('0') && written.len() > 1 {
                    self.warn(report, format!("{written} is the number {value}, as Docker reads it"));
                }
                Some(value)
            }
            _ => self.unexpected(&expected, report),
        }
    }

    /// A number of things.
    pub fn count(&self, low: u32, report: &mut Report) -> Option<u32> {
        self.integer(low.into(), u32::MAX.into(), report).and_then(|count| u32::try_from(count).ok())
    }

    /// A whole number that may be negative.
    pub fn signed(&self, report: &mut Report) -> Option<i64> {
        let expected = "a whole number";
        let scalar = self.scalar(expected, report)?;
        let value = match scalar.meaning() {
            Meaning::Integer(value) => i64::try_from(value).ok(),
            _ => scalar.text.parse().ok(),
        };
        value.or_else(|| self.unexpected(expected, report))
    }

    /// A part from 0 to 1, in thousandths.
    pub fn permille(&self, report: &mut Report) -> Option<u16> {
        let expected = "a part from 0 to 1, such as 0.25";
        let scalar = self.scalar(expected, report)?;
        match amount::parse_permille(&scalar.text) {
            Some(permille) => Some(permille),
            None => self.unexpected(expected, report),
        }
    }

    /// Permissions of a file. A plain `0440` is octal; so is a quoted one, because variables are
    /// always text.
    pub fn mode(&self, report: &mut Report) -> Option<u32> {
        let expected = "permissions such as 0440";
        let scalar = self.scalar(expected, report)?;
        let value = match scalar.meaning() {
            Meaning::Integer(value) => u32::try_from(value).ok(),
            _ => u32::from_str_radix(scalar.text.trim_start_matches("0o"), 8).ok(),
        };
        match value.filter(|value| *value <= 0o7777) {
            Some(value) => Some(value),
            None => self.unexpected(expected, report),
        }
    }

    pub fn boolean(&self, report: &mut Report) -> Option<bool> {
        let scalar = self.scalar("true or false", report)?;
        match scalar.text.to_lowercase().as_str() {
            "true" | "yes" | "y" | "on" => Some(true),
            "false" | "no" | "n" | "off" => Some(false),
            _ => self.unexpected("true or false", report),
        }
    }

    pub fn duration(&self, report: &mut Report) -> Option<Duration> {
        self.amount("a duration such as 1m30s", amount::parse_duration, report)
    }

    pub fn bytes(&self, report: &mut Report) -> Option<u64> {
        self.amount("a size such as 512M", amount::parse_bytes, report)
    }

    pub fn cpu_millis(&self, report: &mut Report) -> Option<u64> {
        self.amount("a number of processors such as '0.5'", amount::parse_cpu_millis, report)
    }

    fn amount<T>(
        &self,
        expected: &str,
        parse: fn(&str) -> Result<T, String>,
        report: &mut Report,
    ) -> Option<T> {
        let scalar = self.scalar(expected, report)?;
        parse(&scalar.text).map_err(|message| self.error(report, message)).ok()
    }

    /// One of a few words.
    pub fn choice<T: Clone>(&self, choices: &[(&str, T)], report: &mut Report) -> Option<T> {
        let text = self.text(report)?;
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| value.clone());
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.error(report, format!("{text:?} is not one of {}", names.join(", ")));
        }
        found
    }

    fn unexpected<T>(&self, expected: &str, report: &mut Report) -> Option<T> {
        let found = match &self.node.value {
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
            Value::Scalar(scalar) if scalar.is_null() => "nothing".to_owned(),
            Value::Scalar(scalar) => format!("{:?}", scalar.text.chars().take(60).collect::<String>()),
        };
        self.error(report, format!("expected {expected}, found {found}"));
        None
    }
}
