//! Everything a command can end with other than success: what is said, and the exit code.
//!
//! Invariant: every failure names what failed, why, and, where there is one, the next command to
//! type. Exit codes: 1 failed, 2 not converged in time, 64 usage or file errors, 69 no master
//! reachable.

use std::{fmt, io, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    compose::Diagnostic,
    masters::{Repeat, spell},
};

pub const EXIT_FAILED: u8 = 1;
pub const EXIT_NOT_CONVERGED: u8 = 2;
/// Of `skein plan` only.
pub const EXIT_CHANGES: u8 = 1;
pub const EXIT_NO_PLAN: u8 = 2;
pub const EXIT_USAGE: u8 = 64;
pub const EXIT_UNREACHABLE: u8 = 69;

#[derive(Debug)]
pub enum Failure {
    /// The command line, the environment or a configuration file is wrong.
    Usage(String),
    /// A Compose file is wrong.
    File(Vec<Diagnostic>),
    /// No master answered at all.
    Unreachable(Vec<Attempt>),
    /// Masters answer, but not usefully, until the time was over.
    GaveUp { after: Duration, last: Attempt, repeat: Repeat, outcome_unknown: bool },
    /// The cluster said no.
    Refused(Refusal),
    /// What was asked for was accepted, and has not come true yet.
    NotConverged(String),
    /// What was asked for was accepted, and has been stopped on its way.
    Halted(String),
    /// Part of the work failed and was reported; what is left to say.
    Failed(String),
    /// A plan that is not empty; it has been shown.
    Changes,
    /// No plan could be made.
    NoPlan(Box<Failure>),
    /// What a command that was run ended with; it has spoken for itself.
    Command(u8),
    /// Standard output cannot be written.
    Output(io::Error),
}

/// One master and why it did not help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub address: String,
    pub reason: String,
}

/// A status of the API, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    pub message: String,
    /// `ErrorInfo.reason`; empty when there is none.
    pub reason: String,
    /// Field path and what is wrong with it.
    pub fields: Vec<(String, String)>,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        Self {
            code: status.code(),
            message: status.message().to_owned(),
            reason: details.error_info().map(|info| info.reason.clone()).unwrap_or_default(),
            fields: details
                .bad_request()
                .map(|bad| {
                    bad.field_violations
                        .iter()
                        .map(|violation| (violation.field.clone(), violation.description.clone()))
                        .collect()
                })
                .unwrap_or_default(),
        }
    }
}

impl Refusal {
    /// What to type next.
    fn hint(&self) -> Option<&'static str> {
        let about = |words: &[&str]| words.iter().any(|word| self.message.contains(word));
        match (self.code, self.reason.as_str()) {
            (_, "STALE_ETAG") => Some("it was changed meanwhile: look at it again, then repeat the command"),
            (_, "NO_LEADER") => Some("skein cluster status"),
            (Code::NotFound, _) if about(&["node"]) => Some("skein node ls"),
            (Code::NotFound, _) if about(&["instance"]) => Some("skein service ps SERVICE"),
            (Code::NotFound, _) if about(&["service"]) => Some("skein service ls"),
            (Code::NotFound, _) if about(&["master", "member"]) => Some("skein cluster status"),
            (Code::Unimplemented, _) => {
                Some("skein version shows whether the masters are older than this command")
            }
            _ => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = if self.message.is_empty() { self.code.description() } else { &self.message };
        // A summary that only repeats the fields says nothing that they do not.
        if self.fields.is_empty() {
            f.write_str(message)?;
        } else {
            let count = self.fields.len();
            write!(f, "{count} {}", if count == 1 { "field is wrong" } else { "fields are wrong" })?;
        }
        for (field, description) in &self.fields {
            write!(f, "\n  {field}: {description}")?;
        }
        if !self.reason.is_empty() && self.fields.is_empty() {
            write!(f, " ({})", self.reason)?;
        }
        if let Some(hint) = self.hint() {
            write!(f, "\nnext: {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.reason)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Failed(message) | Self::Halted(message) => f.write_str(message),
            Self::NotConverged(message) => write!(f, "not there yet: {message}"),
            Self::File(found) => {
                let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
                f.write_str(&lines.join("\n"))
            }
            Self::Unreachable(attempts) => {
                f.write_str("no master can be reached")?;
                for attempt in attempts {
                    write!(f, "\n  {attempt}")?;
                }
                f.write_str("\nnext: name your masters with --master HOST:PORT[,...] or SKEIN_MASTERS, or see skein context --help")
            }
            Self::GaveUp { after, last, repeat, outcome_unknown } => {
                write!(f, "no useful answer within {}; the last was {last}", spell(*after))?;
                if *outcome_unknown {
                    f.write_str("\nthe change may have been made all the same: look before you repeat it")?;
                }
                f.write_str("\nnext: skein cluster status")?;
                if *repeat == Repeat::Read {
                    f.write_str(", or add --stale to see what a master without a leader knows")?;
                }
                Ok(())
            }
            Self::Changes => f.write_str("something would change"),
            Self::Command(code) => write!(f, "exit code {code}"),
            Self::NoPlan(why) => why.fmt(f),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Output(error) => write!(f, "standard output: {error}"),
        }
    }
}

impl Failure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::File(_) => EXIT_USAGE,
            Self::Unreachable(_) => EXIT_UNREACHABLE,
            Self::NotConverged(_) | Self::Halted(_) => EXIT_NOT_CONVERGED,
            Self::Changes => EXIT_CHANGES,
            Self::Command(code) => *code,
            Self::NoPlan(_) => EXIT_NO_PLAN,
            // The reader went away, as `head` does: nothing failed.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::GaveUp { .. } | Self::Refused(_) | Self::Failed(_) | Self::Output(_) => EXIT_FAILED,
        }
    }

    /// Whether there is nobody left to tell.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Changes | Self::Command(_))
            || matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Someone else changed it meanwhile.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == Code::Aborted)
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == Code::NotFound)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Refused(status.into())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}
