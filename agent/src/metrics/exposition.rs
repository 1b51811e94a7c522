//! Prometheus' text format, version 0.0.4: families of samples, each with help and type.
//!
//! Invariant: what is written parses, whatever the label values are; a family is written once, its samples together.

use std::fmt::{Display, Write};

/// What is told so far.
#[derive(Debug, Default)]
pub struct Exposition(String);

/// How a figure behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    Gauge,
    Histogram,
}

/// Names and values; names are ours.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Exposition {
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub fn sample(&mut self, name: &str, labels: Labels<'_>, more: Labels<'_>, value: impl Display) {
        self.0.push_str(name);
        let mut before = '{';
        for (label, value) in labels.iter().chain(more) {
            self.0.push(before);
            before = ',';
            self.0.push_str(label);
            self.0.push_str("=\"");
            value.chars().for_each(|letter| self.escaped(letter));
            self.0.push('"');
        }
        if before == ',' {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn escaped(&mut self, letter: char) {
        match letter {
            '\\' => self.0.push_str("\\\\"),
            '"' => self.0.push_str("\\\""),
            '\n' => self.0.push_str("\\n"),
            other => self.0.push(other),
        }
    }

    #[must_use]
    pub fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_prometheus() {
        let mut text = Exposition::default();
        text.family("skein_a_total", Kind::Counter, "Of a.");
        text.sample("skein_a_total", &[("service", "a\"b\\c\nd")], &[("class", "ok")], 3);
        text.sample("skein_a_total", &[], &[], 0.5);
        assert_eq!(
            text.finish(),
            "# HELP skein_a_total Of a.\n# TYPE skein_a_total counter\n\
             skein_a_total{service=\"a\\\"b\\\\c\\nd\",class=\"ok\"} 3\nskein_a_total 0.5\n"
        );
    }
}
