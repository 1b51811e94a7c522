//! A decision and its explanation.
//!
//! Invariant: what is told is what was computed; the text is made of the record, not beside it.

use std::fmt;

use skein_common::Timestamp;

use super::{Burst, Proposal, Source};

/// How many, and all that led to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub at: Timestamp,
    pub from: u32,
    pub replicas: u32,
    /// What the metrics asked for, for the windows of later decisions; `None` = they could not be read.
    pub wish: Option<u32>,
    pub reason: Reason,
    pub proposals: Vec<Proposal>,
    /// In the order in which they were applied.
    pub limits: Vec<Limit>,
    pub burst: Option<Burst>,
}

/// What the result is due to in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The metrics alone.
    Within,
    Limited(LimitKind),
    /// A metric could not be read, and the others would not grow.
    MetricsBroken,
    /// A user has set the service to none.
    Stopped,
    Off,
}

/// One step from what was asked for to what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub kind: LimitKind,
    /// What it would have been without it.
    pub from: u32,
    pub to: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitKind {
    Activation,
    Burst,
    UpWindow,
    DownWindow,
    Cooldown,
    UpRate,
    DownRate,
    Min,
    Max,
}

impl LimitKind {
    /// For scripts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Activation => "Activation",
            Self::Burst => "Burst",
            Self::UpWindow => "UpWindow",
            Self::DownWindow => "DownWindow",
            Self::Cooldown => "Cooldown",
            Self::UpRate => "UpRate",
            Self::DownRate => "DownRate",
            Self::Min => "AtMin",
            Self::Max => "AtMax",
        }
    }
}

impl Reason {
    /// For scripts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Within => "AsMeasured",
            Self::Limited(kind) => kind.name(),
            Self::MetricsBroken => "MetricsBroken",
            Self::Stopped => "Stopped",
            Self::Off => "Off",
        }
    }
}

/// A number of thousandths, as short as it is exact.
struct Milli(u64);

impl fmt::Display for Milli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let rest = format!("{rest:03}");
        write!(f, "{whole}.{}", rest.trim_end_matches('0'))
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metric = &self.metric;
        let wish = match (&self.replicas, self.source) {
            (Err(broken), _) => return write!(f, "{metric}: {broken}"),
            (Ok(wish), Source::Forecast) => {
                let looked_at = if self.moves { "" } else { " (looked at only)" };
                return write!(
                    f,
                    "{metric} foreseen: it will take {} → {wish}{looked_at}",
                    Milli(self.value_milli)
                );
            }
            (Ok(wish), Source::Measured) => wish,
        };
        write!(f, "{metric} {} of {} → {wish}", Milli(self.value_milli), Milli(self.target_milli))?;
        if self.unready > 0 {
            write!(f, ", {} not ready", self.unready)?;
        }
        if self.missing > 0 {
            write!(f, ", {} without a reading", self.missing)?;
        }
        Ok(())
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.kind {
            LimitKind::Activation => "the least that it runs with",
            LimitKind::Burst => "a burst",
            LimitKind::UpWindow => "the window for growing",
            LimitKind::DownWindow => "the window for shrinking",
            LimitKind::Cooldown => "the cooldown",
            LimitKind::UpRate => "the rate for growing",
            LimitKind::DownRate => "the rate for shrinking",
            LimitKind::Min => "the minimum",
            LimitKind::Max => "the maximum",
        };
        write!(f, "{why}: {} instead of {}", self.to, self.from)
    }
}

impl fmt::Display for Decision {
    /// One line: `2 → 5: cpu 168 of 70 → 5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.replicas == self.from {
            write!(f, "stays at {}", self.from)?;
        } else {
            write!(f, "{} → {}", self.from, self.replicas)?;
        }
        match self.reason {
            Reason::Stopped => return f.write_str(": a user has stopped it"),
            Reason::Off => return f.write_str(": autoscaling is off"),
            Reason::MetricsBroken => f.write_str(": nothing shrinks while a metric cannot be read")?,
            Reason::Within | Reason::Limited(_) => {}
        }
        for proposal in &self.proposals {
            write!(f, "; {proposal}")?;
        }
        for limit in &self.limits {
            write!(f, "; {limit}")?;
        }
        Ok(())
    }
}

impl Decision {
    /// What would have changed it, one sentence each.
    #[must_use]
    pub fn alternatives(&self) -> Vec<String> {
        let measured = self.proposals.iter().filter(|proposal| proposal.source == Source::Measured);
        let edges = measured.filter(|proposal| proposal.replicas.is_ok()).map(|proposal| {
            let (above, below) = proposal.edges_milli;
            let metric = &proposal.metric;
            format!(
                "{metric} above {} asks for more, below {} for fewer; it is {}",
                Milli(above),
                Milli(below),
                Milli(proposal.value_milli)
            )
        });
        let limits =
            self.limits.iter().map(|limit| format!("without {limit}").replace(" instead of ", ", not "));
        edges.chain(limits).collect()
    }
}
