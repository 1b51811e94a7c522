//! The terminal, byte by byte: what is typed goes to the container, also Ctrl-C.
//!
//! Invariant: as long as the value lives the terminal is raw; its drop makes it what it was.

use std::io::{self, IsTerminal as _};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use skein_proto::v1::TerminalSize;

pub(super) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// `None` when there is no terminal.
    pub(super) fn enter() -> io::Result<Option<Self>> {
        if !is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that went away needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

pub(super) fn is_terminal() -> bool {
    io::stdin().is_terminal()
}

pub(super) fn size() -> Option<TerminalSize> {
    let (width, height) = terminal_size::terminal_size()?;
    Some(TerminalSize { columns: width.0.into(), rows: height.0.into() })
}
