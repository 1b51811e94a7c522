//! What is wrong, or only worth knowing, in a Compose file, with the place to look at.
//!
//! Invariant: reading never stops at the first problem of a file that parses as YAML; everything
//! found lands in one [`Report`], sorted by place.

use std::fmt;

/// A place in a text, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file is read, but not as its author may think.
    Warning,
    /// The file is refused.
    Error,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// The file it is about: the Compose file or one that it names.
    pub file: String,
    /// `None` when it is about the file as a whole.
    pub at: Option<Position>,
    /// Path of the key in the file, `services.web.ports[0]`; empty for the file as a whole.
    pub path: String,
    pub message: String,
    /// Further lines that say the same.
    pub also: Vec<usize>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(at) = self.at {
            write!(f, ":{}:{}", at.line, at.column)?;
        }
        f.write_str(": ")?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let [lines @ .., last] = self.also.as_slice() {
            f.write_str(if lines.is_empty() { " (also line " } else { " (also lines " })?;
            for line in lines {
                write!(f, "{line}, ")?;
            }
            write!(f, "{last})")?;
        }
        Ok(())
    }
}

/// All findings of one reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    file: String,
    found: Vec<Diagnostic>,
}

impl Report {
    pub fn new(file: impl Into<String>) -> Self {
        Self { file: file.into(), found: Vec::new() }
    }

    pub fn error(&mut self, at: Position, path: &str, message: impl Into<String>) {
        self.add(Severity::Error, Some(at), path, message.into());
    }

    pub fn warn(&mut self, at: Position, path: &str, message: impl Into<String>) {
        self.add(Severity::Warning, Some(at), path, message.into());
    }

    /// About the file as a whole.
    pub fn error_of_file(&mut self, message: impl Into<String>) {
        self.add(Severity::Error, None, "", message.into());
    }

    /// About a line of another file, such as `.env`.
    pub fn error_in(&mut self, file: &str, line: usize, message: impl Into<String>) {
        self.found.push(Diagnostic {
            severity: Severity::Error,
            file: file.to_owned(),
            at: Some(Position { line, column: 1 }),
            path: String::new(),
            message: message.into(),
            also: Vec::new(),
        });
    }

    /// The same warning about the same key is given once, with all its lines.
    fn add(&mut self, severity: Severity, at: Option<Position>, path: &str, message: String) {
        if severity == Severity::Warning
            && let Some(at) = at
            && let Some(same) = self.found.iter_mut().find(|known| {
                known.severity == severity
                    && known.message == message
                    && last_key(&known.path) == last_key(path)
            })
        {
            if same.at.is_none_or(|first| first.line != at.line) && !same.also.contains(&at.line) {
                same.also.push(at.line);
            }
            return;
        }
        let file = self.file.clone();
        let path = path.to_owned();
        self.found.push(Diagnostic { severity, file, at, path, message, also: Vec::new() });
    }

    pub fn errors(&self) -> usize {
        self.found.iter().filter(|found| found.severity == Severity::Error).count()
    }

    /// All findings in order of the text.
    pub fn into_diagnostics(mut self) -> Vec<Diagnostic> {
        self.found.sort_by(|a, b| (a.at, b.severity).cmp(&(b.at, a.severity)));
        self.found.dedup();
        self.found
    }
}

fn last_key(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}
