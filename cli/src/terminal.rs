//! Where a command writes: results to standard output, everything else to standard error.
//!
//! Invariant: nothing else prints. Control sequences go to terminals only.

use std::{
    cell::RefCell,
    io::{self, IsTerminal as _, Write},
};

pub struct Terminal {
    out: RefCell<Box<dyn Write>>,
    err: RefCell<Box<dyn Write>>,
    pub out_is_terminal: bool,
    pub err_is_terminal: bool,
    /// Columns, when it is a terminal.
    pub width: Option<usize>,
    pub height: Option<usize>,
    /// Says only results and failures.
    pub quiet: bool,
    /// These are the process's own standard streams.
    pub is_standard: bool,
}

impl Terminal {
    pub fn of_process(quiet: bool) -> Self {
        let size = terminal_size::terminal_size();
        Self {
            out: RefCell::new(Box::new(io::stdout())),
            err: RefCell::new(Box::new(io::stderr())),
            out_is_terminal: io::stdout().is_terminal(),
            err_is_terminal: io::stderr().is_terminal(),
            width: size.map(|(width, _)| usize::from(width.0)),
            height: size.map(|(_, height)| usize::from(height.0)),
            quiet,
            is_standard: true,
        }
    }

    /// No terminal: everything goes to these two.
    pub fn into_writers(out: Box<dyn Write>, err: Box<dyn Write>, quiet: bool) -> Self {
        Self {
            out: RefCell::new(out),
            err: RefCell::new(err),
            out_is_terminal: false,
            err_is_terminal: false,
            width: None,
            height: None,
            quiet,
            is_standard: false,
        }
    }

    /// A result.
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub fn print(&self, text: &str) -> io::Result<()> {
        self.print_bytes(text.as_bytes())
    }

    /// A result that may not be text.
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub fn print_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        let mut out = self.out.borrow_mut();
        out.write_all(bytes)?;
        out.flush()
    }

    /// # Errors
    /// When standard output is closed or full.
    pub fn print_line(&self, text: &str) -> io::Result<()> {
        self.print(&format!("{text}\n"))
    }

    /// What happens meanwhile; not said when quiet. Nobody may be listening.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.say(text);
        }
    }

    /// A failure or a warning.
    pub fn say(&self, text: &str) {
        let mut err = self.err.borrow_mut();
        let _ = writeln!(err, "{text}");
        let _ = err.flush();
    }

    /// Raw text to standard error.
    pub fn say_raw(&self, text: &str) {
        self.say_bytes(text.as_bytes());
    }

    /// As [`Terminal::say_raw`], of what may not be text.
    pub fn say_bytes(&self, bytes: &[u8]) {
        let mut err = self.err.borrow_mut();
        let _ = err.write_all(bytes);
        let _ = err.flush();
    }
}

/// Replaces control characters, so that what a container or a peer says cannot drive the terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect()
}

/// At most this many characters, an ellipsis where something is missing.
pub fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}
