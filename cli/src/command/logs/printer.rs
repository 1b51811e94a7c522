//! Lines as they are shown, and which have been.
//!
//! Invariant: a stream that was opened again may begin with lines that were shown; those are
//! left out, by their time, and by their number among lines of the same time.

use std::collections::HashMap;

use skein_proto::v1::{LogStream, StreamLogsResponse};

use super::Args;
use crate::{
    app::App,
    failure::Failure,
    output::{self, Format, text},
    terminal::printable,
};

/// Seconds and nanoseconds.
pub type At = (i64, i32);

/// Time of the last line of an instance, and how many lines had that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub at: At,
    pub lines: u32,
}

/// What had been shown when a stream was opened, by instance.
pub type Floor = HashMap<String, Mark>;

/// Colours of the terminal, one after the other for each instance; none is that of failures alone.
const COLOURS: [u8; 10] = [36, 33, 32, 35, 34, 96, 93, 92, 95, 94];
/// Says that nobody wants colours, as <https://no-color.org> has it.
const NO_COLOR: &str = "NO_COLOR";

pub struct Printer<'a> {
    app: &'a App,
    args: &'a Args,
    shown: Floor,
    prefix_width: usize,
    /// Names of the instances in the order they were first heard of; `None` = no colours.
    coloured: Option<Vec<String>>,
}

impl<'a> Printer<'a> {
    pub fn new(app: &'a App, args: &'a Args) -> Self {
        let is_wanted = app.environment.get(NO_COLOR).is_none_or(String::is_empty);
        let coloured = (app.terminal.out_is_terminal && is_wanted).then(Vec::new);
        Self { app, args, shown: Floor::new(), prefix_width: 0, coloured }
    }

    pub fn shown(&self) -> &Floor {
        &self.shown
    }

    /// Shows one line, unless it is below the floor of its stream.
    pub fn show(&mut self, message: &StreamLogsResponse, floor: &mut Floor) -> Result<(), Failure> {
        let at = message.at.as_ref().map_or((0, 0), |at| (at.seconds, at.nanos));
        if is_below(&message.instance_id, at, floor) {
            return Ok(());
        }
        let mark = self.shown.entry(message.instance_id.clone()).or_insert(Mark { at, lines: 0 });
        *mark = if mark.at == at { Mark { at, lines: mark.lines + 1 } } else { Mark { at, lines: 1 } };
        let line = match self.app.format {
            Format::Json => output::json::of_message("StreamLogsResponse", message).to_string(),
            _ => self.line(message),
        };
        Ok(self.app.terminal.print_line(&line)?)
    }

    fn line(&mut self, message: &StreamLogsResponse) -> String {
        let mut line = String::new();
        if !self.args.no_prefix {
            let mark = if message.stream() == LogStream::Stderr { '!' } else { '|' };
            self.prefix_width = self.prefix_width.max(message.instance_name.chars().count());
            let prefix = format!("{:width$} {mark} ", message.instance_name, width = self.prefix_width);
            line.push_str(&match &mut self.coloured {
                Some(names) => coloured(&prefix, place(names, &message.instance_name)),
                None => prefix,
            });
        }
        if self.args.timestamps
            && let Some(at) = text::instant(message.at.as_ref())
        {
            line.push_str(&format!("{at} "));
        }
        let text = String::from_utf8_lossy(&message.line);
        // What a container writes may be meant for a terminal, but not for this one.
        line.push_str(&if self.app.terminal.out_is_terminal { printable(&text) } else { text.into_owned() });
        line
    }
}

/// The place of a name among those that were heard of.
fn place(names: &mut Vec<String>, name: &str) -> usize {
    if let Some(place) = names.iter().position(|known| known == name) {
        return place;
    }
    names.push(name.to_owned());
    names.len() - 1
}

fn coloured(text: &str, place: usize) -> String {
    let colour = COLOURS.get(place % COLOURS.len()).copied().unwrap_or_default();
    format!("\x1b[{colour}m{text}\x1b[0m")
}

/// Whether a line was shown before its stream was opened.
fn is_below(instance: &str, at: At, floor: &mut Floor) -> bool {
    let Some(mark) = floor.get_mut(instance) else { return false };
    if at < mark.at {
        return true;
    }
    if at == mark.at && mark.lines > 0 {
        mark.lines -= 1;
        return true;
    }
    floor.remove(instance);
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instance_keeps_its_colour() {
        let mut names = Vec::new();
        let places: Vec<usize> =
            ["web.1", "web.2", "web.1", "web.3"].map(|name| place(&mut names, name)).to_vec();
        assert_eq!(places, [0, 1, 0, 2]);
        assert_eq!(coloured("web.2 | ", 1), "\u{1b}[33mweb.2 | \u{1b}[0m");
        assert_eq!(coloured("x", 11), coloured("x", 1));
    }

    #[test]
    fn repeated_lines_are_recognised() {
        let mut floor = Floor::from([("web".to_owned(), Mark { at: (10, 5), lines: 2 })]);
        for (instance, at, below) in [
            ("db", (1, 0), false),
            ("web", (9, 0), true),
            ("web", (10, 5), true),
            ("web", (10, 5), true),
            ("web", (10, 5), false),
            ("web", (9, 0), false),
        ] {
            assert_eq!(is_below(instance, at, &mut floor), below, "{instance} {at:?}");
        }
    }
}
