//! YAML text into a tree whose every node knows its place.
//!
//! Invariant: duplicate keys are refused, anchors and merge keys (`<<`) are resolved, and the
//! tree is bounded in size and depth whatever the text says (no billion laughs).
//! Deliberately not here: what a scalar means (`scalar`); keys are always text.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::diagnostic::Position;

/// A Compose file larger than this is something else.
pub const MAX_BYTES: usize = 1024 * 1024;
/// Nodes of the tree with all aliases expanded.
const MAX_NODES: usize = 100_000;
/// Compose needs 8; this bounds recursion.
const MAX_DEPTH: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub at: Position,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    pub text: String,
    /// Written without quotes, so that `1` is a number and `~` is null.
    pub plain: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub key_at: Position,
    pub value: Node,
}

/// Why a text is no tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub at: Position,
    pub path: String,
    pub message: String,
}

/// The tree of the only document, and the keys that stand twice; `None` when nothing is in it.
///
/// # Errors
/// The first place where it is no YAML, or is out of bounds.
pub fn parse(text: &str, file: usize) -> Result<(Option<Node>, Vec<Problem>), Problem> {
    let start = Position::start_of(file);
    if text.len() > MAX_BYTES {
        let message = format!("the file has {} bytes, more than {MAX_BYTES}", text.len());
        return Err(Problem { at: start, path: String::new(), message });
    }
    let options = granit_parser::options! { block_scalar_eof_without_line_feed: true };
    let mut builder = Builder {
        events: Parser::new_from_str_with_options(text, options),
        file,
        anchors: HashMap::new(),
        nodes: 0,
        duplicates: Vec::new(),
    };
    let mut root = None;
    loop {
        match builder.next()? {
            (Event::StreamStart | Event::DocumentEnd, _) => {}
            (Event::StreamEnd, _) => return Ok((root, builder.duplicates)),
            (Event::DocumentStart(..), span) => {
                if root.is_some() {
                    return Err(problem(file, span, "a second document begins here; a Compose file has one"));
                }
            }
            (event, span) => {
                root = Some(builder.node(event, span, &Place { path: String::new(), depth: 0 })?.node);
            }
        }
    }
}

/// Where the builder is.
struct Place {
    path: String,
    depth: usize,
}

impl Place {
    fn key(&self, key: &str) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { path, depth: self.depth + 1 }
    }

    fn item(&self, position: usize) -> Self {
        Self { path: format!("{}[{position}]", self.path), depth: self.depth + 1 }
    }
}

/// A node with what it costs to repeat it.
#[derive(Clone)]
struct Built {
    node: Node,
    nodes: usize,
    depth: usize,
}

struct Builder<'a, P: Iterator<Item = Result<(Event<'a>, Span), ScanError>>> {
    events: P,
    file: usize,
    anchors: HashMap<usize, Built>,
    nodes: usize,
    duplicates: Vec<Problem>,
}

impl<'a, P: Iterator<Item = Result<(Event<'a>, Span), ScanError>>> Builder<'a, P> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        match self.events.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let marker = error.marker();
                Err(Problem {
                    at: Position { file: self.file, line: marker.line().max(1), column: marker.col() + 1 },
                    path: String::new(),
                    message: format!("not valid YAML: {}", error.info()),
                })
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, place: &Place) -> Result<Built, Problem> {
        let at = position(self.file, span);
        let before = self.nodes;
        self.count(1, place.depth, span)?;
        let (anchor, value, depth) = match event {
            Event::Alias(anchor) => {
                let Some(known) = self.anchors.get(&anchor).cloned() else {
                    return Err(problem(self.file, span, "this alias refers to a node it stands in"));
                };
                self.count(known.nodes, place.depth + known.depth, span)?;
                return Ok(known);
            }
            Event::Scalar(text, style, anchor, tag) => {
                let tagged = tag_means_text(tag.as_deref(), self.file, span)?;
                let plain = style == ScalarStyle::Plain && !tagged;
                (anchor, Value::Scalar(Scalar { text: text.into_owned(), plain }), 1)
            }
            Event::SequenceStart(_, anchor, tag) => {
                tag_means_text(tag.as_deref(), self.file, span)?;
                let (items, depth) = self.list(place)?;
                (anchor, Value::List(items), depth + 1)
            }
            Event::MappingStart(_, anchor, tag) => {
                tag_means_text(tag.as_deref(), self.file, span)?;
                let (entries, depth) = self.map(place)?;
                (anchor, Value::Map(entries), depth + 1)
            }
            other => return Err(problem(self.file, span, &format!("not valid YAML: unexpected {other:?}"))),
        };
        let built = Built { node: Node { at, value }, nodes: self.nodes - before, depth };
        if anchor != 0 {
            self.anchors.insert(anchor, built.clone());
        }
        Ok(built)
    }

    fn count(&mut self, nodes: usize, depth: usize, span: Span) -> Result<(), Problem> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(problem(
                self.file,
                span,
                &format!("more than {MAX_NODES} values, with all aliases expanded"),
            ));
        }
        if depth > MAX_DEPTH {
            return Err(problem(self.file, span, &format!("nested more than {MAX_DEPTH} deep")));
        }
        Ok(())
    }

    fn list(&mut self, place: &Place) -> Result<(Vec<Node>, usize), Problem> {
        let (mut items, mut depth) = (Vec::new(), 0);
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok((items, depth)),
                (event, span) => {
                    let item = self.node(event, span, &place.item(items.len()))?;
                    depth = depth.max(item.depth);
                    items.push(item.node);
                }
            }
        }
    }

    fn map(&mut self, place: &Place) -> Result<(Vec<Entry>, usize), Problem> {
        let (mut entries, mut merges, mut depth) = (Vec::<Entry>::new(), Vec::new(), 0);
        let mut seen = BTreeMap::<String, Position>::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                merge(&mut entries, merges, self.file, span)?;
                return Ok((entries, depth));
            }
            let key = self.node(event, span, &place.key("?"))?.node;
            let Value::Scalar(Scalar { text, plain }) = key.value else {
                return Err(problem(self.file, span, "a key must be text"));
            };
            let (event, span) = self.next()?;
            let value = self.node(event, span, &place.key(&text))?;
            depth = depth.max(value.depth);
            if plain && text == "<<" {
                merges.push(value.node);
            } else if let Some(first) = seen.get(&text) {
                self.duplicates.push(Problem {
                    at: key.at,
                    path: place.key(&text).path,
                    message: format!("given twice; the first is on line {}", first.line),
                });
            } else {
                seen.insert(text.clone(), key.at);
                entries.push(Entry { key: text, key_at: key.at, value: value.node });
            }
        }
    }
}

/// Keys of merged maps fill in what is not there; of several maps the first wins.
fn merge(entries: &mut Vec<Entry>, merges: Vec<Node>, file: usize, span: Span) -> Result<(), Problem> {
    let wrong =
        || problem(file, span, "<< takes a map or a list of maps, usually an alias such as *defaults");
    let mut known: BTreeSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
    for merged in merges {
        let maps = match merged.value {
            Value::Map(_) => vec![merged],
            Value::List(items) => items,
            Value::Scalar(_) => return Err(wrong()),
        };
        for map in maps {
            let Value::Map(others) = map.value else { return Err(wrong()) };
            entries.extend(others.into_iter().filter(|other| known.insert(other.key.clone())));
        }
    }
    Ok(())
}

/// `!!str` makes a scalar text; the other core tags say nothing new; any other is refused.
fn tag_means_text(tag: Option<&Tag>, file: usize, span: Span) -> Result<bool, Problem> {
    let Some(tag) = tag else { return Ok(false) };
    match tag.core_suffix() {
        Some("str") => Ok(true),
        Some("int" | "float" | "bool" | "null" | "seq" | "map") => Ok(false),
        _ => Err(problem(file, span, &format!("the tag {tag} is not supported"))),
    }
}

fn position(file: usize, span: Span) -> Position {
    Position { file, line: span.start.line().max(1), column: span.start.col() + 1 }
}

fn problem(file: usize, span: Span, message: &str) -> Problem {
    Problem { at: position(file, span), path: String::new(), message: message.to_owned() }
}
