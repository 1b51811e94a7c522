//! What every command works with.

use std::{cell::RefCell, collections::BTreeMap, path::PathBuf, rc::Rc};

use crate::{
    api::Api,
    failure::Failure,
    output::{self, Format, Row},
    terminal::Terminal,
};

pub struct App {
    pub api: Api,
    pub terminal: Rc<Terminal>,
    pub format: Format,
    /// Variables of the process.
    pub environment: BTreeMap<String, String>,
    /// Where relative paths begin.
    pub folder: PathBuf,
    interrupt_note: RefCell<String>,
}

impl App {
    pub fn new(
        api: Api,
        terminal: Rc<Terminal>,
        format: Format,
        environment: BTreeMap<String, String>,
        folder: PathBuf,
    ) -> Self {
        Self { api, terminal, format, environment, folder, interrupt_note: RefCell::default() }
    }

    /// What Ctrl-C says from now on; empty = nothing.
    pub fn on_interrupt(&self, note: String) {
        self.interrupt_note.replace(note);
    }

    pub fn interrupt_note(&self) -> String {
        self.interrupt_note.borrow().clone()
    }

    /// Prints a list in the asked-for form.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn print_list<T: Row>(&self, items: &[T]) -> Result<(), Failure> {
        output::print(&self.terminal, items, self.format)
    }

    /// Prints one object in the asked-for form.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn print_one<T: Row>(&self, item: &T) -> Result<(), Failure> {
        Ok(self.terminal.print(&output::render_one(item, self.format))?)
    }

    /// Says what a command did: the object itself with `-o json|yaml|name`, else a sentence.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn print_done<T: Row>(&self, item: &T, sentence: &str) -> Result<(), Failure> {
        match self.format {
            Format::Table | Format::Wide if self.terminal.quiet => Ok(()),
            Format::Table | Format::Wide => Ok(self.terminal.print_line(sentence)?),
            Format::Json | Format::Yaml | Format::Name => self.print_one(item),
        }
    }
}
