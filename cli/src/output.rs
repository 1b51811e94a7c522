//! Results in the form that `-o` asks for.
//!
//! Invariant: json and yaml are the protobuf JSON of the API, the same that other gRPC tools
//! show; a list is an array. Tables are for people and may change.

pub mod config;
pub mod event;
pub mod instance;
pub mod instance_event;
pub mod json;
pub mod node;
pub mod service;
pub mod table;
pub mod text;
pub mod yaml;

use serde_json::Value;
use skein_common::Timestamp;

use crate::{failure::Failure, terminal::Terminal};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// A table with more columns.
    Wide,
    /// Protobuf JSON, as the API has it.
    Json,
    /// The same as YAML.
    Yaml,
    /// One name a line, for scripts.
    Name,
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub title: &'static str,
    /// Only with `-o wide`.
    pub wide: bool,
}

pub const fn column(title: &'static str) -> Column {
    Column { title, wide: false }
}

pub const fn wide(title: &'static str) -> Column {
    Column { title, wide: true }
}

/// Something that lists are made of.
pub trait Row {
    const COLUMNS: &'static [Column];
    /// One text a column.
    fn cells(&self, now: Timestamp) -> Vec<String>;
    fn name(&self) -> String;
    fn json(&self) -> Value;
}

/// The whole list as text; `now` is what ages are counted from.
pub fn render<T: Row>(items: &[T], format: Format, now: Timestamp, width: Option<usize>) -> String {
    match format {
        Format::Table | Format::Wide => table::render(items, format == Format::Wide, now, width),
        Format::Json => pretty(&Value::Array(items.iter().map(Row::json).collect())),
        Format::Yaml => yaml::render(&Value::Array(items.iter().map(Row::json).collect())),
        Format::Name => items.iter().map(|item| item.name() + "\n").collect(),
    }
}

/// One object; as a table it is shown as YAML, which says everything.
pub fn render_one<T: Row>(item: &T, format: Format) -> String {
    match format {
        Format::Json => pretty(&item.json()),
        Format::Name => item.name() + "\n",
        Format::Table | Format::Wide | Format::Yaml => yaml::render(&item.json()),
    }
}

pub fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

/// Prints a list.
///
/// # Errors
/// When standard output is closed.
pub fn print<T: Row>(terminal: &Terminal, items: &[T], format: Format) -> Result<(), Failure> {
    terminal.print(&render(
        items,
        format,
        text::now(),
        terminal.width.filter(|_| terminal.out_is_terminal),
    ))?;
    Ok(())
}
