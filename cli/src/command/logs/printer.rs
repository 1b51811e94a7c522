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

pub struct Printer<'a> {
    app: &'a App,
    args: &'a Args,
    shown: Floor,
    prefix_width: usize,
}

impl<'a> Printer<'a> {
    pub fn new(app: &'a App, args: &'a Args) -> Self {
        Self { app, args, shown: Floor::new(), prefix_width: 0 }
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
            line.push_str(&format!("{:width$} {mark} ", message.instance_name, width = self.prefix_width));
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
