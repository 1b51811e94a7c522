//! What is wrong, or only worth knowing, in a Compose file, with the place to look at.
//!
//! Invariant: reading never stops at the first problem of a file that parses as YAML; everything
//! found lands in one [`Report`], sorted by place.

use std::fmt;

/// A place in a text, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Which of the files that are read together, from 0.
    pub file: usize,
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
    files: Vec<String>,
    found: Vec<Finding>,
}

/// A diagnostic and the number of its file, for the order.
type Finding = (usize, Diagnostic);

impl Position {
    pub const fn start_of(file: usize) -> Self {
        Self { file, line: 1, column: 1 }
    }
}

impl Report {
    /// Of files that are read together, named as they are shown.
    pub const fn new(files: Vec<String>) -> Self {
        Self { files, found: Vec::new() }
    }

    pub fn error(&mut self, at: Position, path: &str, message: impl Into<String>) {
        self.add(Severity::Error, at, path, message.into());
    }

    pub fn warn(&mut self, at: Position, path: &str, message: impl Into<String>) {
        self.add(Severity::Warning, at, path, message.into());
    }

    /// About the first file as a whole.
    pub fn error_of_file(&mut self, message: impl Into<String>) {
        self.error_of(0, message);
    }

    /// About one of the files as a whole.
    pub fn error_of(&mut self, file: usize, message: impl Into<String>) {
        let found = Diagnostic {
            severity: Severity::Error,
            file: self.name(file),
            at: None,
            path: String::new(),
            message: message.into(),
            also: Vec::new(),
        };
        self.found.push((file, found));
    }

    /// About a line of another file, such as `.env`.
    pub fn error_in(&mut self, file: &str, line: usize, message: impl Into<String>) {
        let found = Diagnostic {
            severity: Severity::Error,
            file: file.to_owned(),
            at: Some(Position { file: 0, line, column: 1 }),
            path: String::new(),
            message: message.into(),
            also: Vec::new(),
        };
        self.found.push((0, found));
    }

    /// The same warning about the same key is given once, with all its lines.
    fn add(&mut self, severity: Severity, at: Position, path: &str, message: String) {
        if severity == Severity::Warning
            && let Some((_, same)) = self.found.iter_mut().find(|(file, known)| {
                known.severity == severity
                    && *file == at.file
                    && known.message == message
                    && last_key(&known.path) == last_key(path)
            })
        {
            if same.at.is_none_or(|first| first.line != at.line) && !same.also.contains(&at.line) {
                same.also.push(at.line);
            }
            return;
        }
        let (file, path) = (self.name(at.file), path.to_owned());
        let found = Diagnostic { severity, file, at: Some(at), path, message, also: Vec::new() };
        self.found.push((at.file, found));
    }

    fn name(&self, file: usize) -> String {
        self.files.get(file).cloned().unwrap_or_default()
    }

    pub fn errors(&self) -> usize {
        self.found.iter().filter(|(_, found)| found.severity == Severity::Error).count()
    }

    /// All findings in order of the files and their text.
    pub fn into_diagnostics(mut self) -> Vec<Diagnostic> {
        self.found.sort_by(|(x, a), (y, b)| (x, a.at, b.severity).cmp(&(y, b.at, a.severity)));
        self.found.dedup();
        self.found.into_iter().map(|(_, found)| found).collect()
    }
}

fn last_key(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}
