//! Measured numbers and the tables they are printed in.
//!
//! Invariant: a figure shows the median of its rounds with their least and greatest; whether a
//! target is met is printed, never asserted.

use std::{fmt, time::Duration};

/// What the numbers of a figure count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    PerSecond,
    Microseconds,
    Milliseconds,
    Seconds,
    Megabytes,
    Percent,
    Kilobytes,
    Count,
}

/// One quantity, measured in several rounds.
#[derive(Debug, Clone)]
pub struct Figure {
    unit: Unit,
    samples: Vec<f64>,
}

impl Figure {
    #[must_use]
    pub const fn new(unit: Unit) -> Self {
        Self { unit, samples: Vec::new() }
    }

    pub fn add(&mut self, sample: f64) {
        self.samples.push(sample);
        self.samples.sort_by(f64::total_cmp);
    }

    /// In the unit of this figure.
    pub fn add_time(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.add(match self.unit {
            Unit::Microseconds => seconds * 1e6,
            Unit::Milliseconds => seconds * 1e3,
            Unit::PerSecond
            | Unit::Seconds
            | Unit::Megabytes
            | Unit::Percent
            | Unit::Kilobytes
            | Unit::Count => seconds,
        });
    }

    /// `None` before the first round.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        let (low, high) = (self.samples.len().checked_sub(1)? / 2, self.samples.len() / 2);
        Some(f64::midpoint(*self.samples.get(low)?, *self.samples.get(high)?))
    }

    #[must_use]
    pub fn greatest(&self) -> Option<f64> {
        self.samples.last().copied()
    }
}

fn amount(unit: Unit, value: f64) -> String {
    let suffix = match unit {
        Unit::PerSecond => "/s",
        Unit::Microseconds => " µs",
        Unit::Milliseconds => " ms",
        Unit::Seconds => " s",
        Unit::Megabytes => " MB",
        Unit::Percent => " %",
        Unit::Kilobytes => " kB",
        Unit::Count => "",
    };
    let text = match value.abs() {
        _ if unit == Unit::Count => format!("{value:.0}"),
        least if least >= 100.0 => format!("{value:.0}"),
        least if least >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    format!("{text}{suffix}")
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(median), Some(least), Some(most)) =
            (self.median(), self.samples.first(), self.samples.last())
        else {
            return f.write_str("–");
        };
        write!(f, "{}", amount(self.unit, median))?;
        if self.samples.len() > 1 {
            write!(f, " ({}…{})", amount(self.unit, *least), amount(self.unit, *most))?;
        }
        Ok(())
    }
}

/// What a figure should come to.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// Of the figure beside it.
    TimesBeside(f64),
    AtMostTimesBeside(f64),
    /// Above the figure beside it.
    AtMostBesidePlus(f64),
    AtMost(f64),
    /// The median and the worst.
    MedianAndWorst(f64, f64),
}

/// A line of a table.
#[derive(Debug)]
pub struct Line {
    pub what: String,
    pub ours: Figure,
    pub beside: Option<Figure>,
    pub target: Option<Target>,
}

impl Line {
    fn ratio(&self) -> Option<f64> {
        Some(self.ours.median()? / self.beside.as_ref()?.median()?)
    }

    fn target(&self) -> (String, Option<bool>) {
        let (Some(target), Some(ours)) = (self.target, self.ours.median()) else {
            return (String::new(), None);
        };
        let beside = self.beside.as_ref().and_then(Figure::median);
        let unit = self.ours.unit;
        match target {
            Target::TimesBeside(times) => {
                (format!("≥ {times} ×"), beside.map(|beside| ours >= times * beside))
            }
            Target::AtMostTimesBeside(times) => {
                (format!("≤ {times} ×"), beside.map(|beside| ours <= times * beside))
            }
            Target::AtMostBesidePlus(more) => {
                (format!("≤ + {}", amount(unit, more)), beside.map(|beside| ours <= beside + more))
            }
            Target::AtMost(most) => (format!("≤ {}", amount(unit, most)), Some(ours <= most)),
            Target::MedianAndWorst(median, worst) => (
                format!("≤ {}, worst {}", amount(unit, median), amount(unit, worst)),
                self.ours.greatest().map(|greatest| ours <= median && greatest <= worst),
            ),
        }
    }

    fn cells(&self) -> [String; 6] {
        let (target, met) = self.target();
        let met = met.map_or("", |met| if met { "yes" } else { "NO" });
        [
            self.what.clone(),
            self.ours.to_string(),
            self.beside.as_ref().map(ToString::to_string).unwrap_or_default(),
            self.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            target,
            met.to_owned(),
        ]
    }
}

/// Lines under a title.
#[derive(Debug)]
pub struct Table {
    pub title: String,
    /// Heading of the third column.
    pub beside: String,
    pub lines: Vec<Line>,
}

impl Table {
    #[must_use]
    pub fn new(title: impl Into<String>, beside: impl Into<String>) -> Self {
        Self { title: title.into(), beside: beside.into(), lines: Vec::new() }
    }

    pub fn add(
        &mut self,
        what: impl Into<String>,
        ours: Figure,
        beside: Option<Figure>,
        target: Option<Target>,
    ) {
        self.lines.push(Line { what: what.into(), ours, beside, target });
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["", "skein", &self.beside, "ratio", "target", "met"].map(ToOwned::to_owned);
        let rows: Vec<_> = std::iter::once(head).chain(self.lines.iter().map(Line::cells)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        writeln!(f, "\n## {}\n", self.title)?;
        for (number, row) in rows.iter().enumerate() {
            let cells: Vec<_> =
                row.iter().enumerate().map(|(column, cell)| format!("{cell:<0$}", width(column))).collect();
            writeln!(f, "| {} |", cells.join(" | "))?;
            if number == 0 {
                let rules: Vec<_> = (0..row.len()).map(|column| "-".repeat(width(column))).collect();
                writeln!(f, "|-{}-|", rules.join("-|-"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_whether_its_target_is_met() {
        let figure = |samples: &[f64]| {
            let mut figure = Figure::new(Unit::Milliseconds);
            samples.iter().for_each(|sample| figure.add(*sample));
            figure
        };
        for (target, met) in [
            (Target::TimesBeside(2.0), Some(true)),
            (Target::AtMostTimesBeside(1.1), Some(false)),
            (Target::AtMostBesidePlus(15.0), Some(true)),
            (Target::AtMost(19.0), Some(false)),
            (Target::MedianAndWorst(20.0, 29.0), Some(false)),
        ] {
            let line = Line {
                what: String::new(),
                ours: figure(&[30.0, 10.0, 20.0]),
                beside: Some(figure(&[10.0])),
                target: Some(target),
            };
            assert_eq!(line.target().1, met, "{target:?}");
        }
        assert_eq!(figure(&[1.0, 2.0, 3.0, 10.0]).to_string(), "2.50 ms (1.00 ms…10.0 ms)");
    }
}
