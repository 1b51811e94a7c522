//! `skein context`: named lists of masters, so that they need not be typed.
//!
//! A TOML file: `current = "prod"` and `[contexts.prod] masters = ["m1:7070", ...]`.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skein_common::Timestamp;

use crate::{
    failure::Failure,
    masters::parse_address,
    output::{self, Column, Format, Row, column},
    terminal::Terminal,
};

/// Name clusters and choose the one to talk to
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Ls(LsArgs),
    /// Make a context the current one
    Use(UseArgs),
    Add(AddArgs),
    /// Forget a context
    #[command(visible_alias = "remove")]
    Rm(UseArgs),
}

/// List contexts; * marks the current one
#[derive(Debug, clap::Args)]
#[command(visible_alias = "list", after_help = "Example:\n  skein context ls")]
pub struct LsArgs {}

/// Make a context the current one, or forget it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  skein context use prod\n  skein context rm prod")]
pub struct UseArgs {
    /// Name of the context
    pub name: String,
}

/// Name a list of masters; the first context becomes the current one
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  skein context add prod m1.example:7070,m2.example:7070,m3.example:7070")]
pub struct AddArgs {
    /// Name of the context
    pub name: String,
    /// Addresses of its masters
    #[arg(required = true, value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub masters: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Context {
    masters: Vec<String>,
}

/// Where the file lies: `SKEIN_CONTEXTS`, else below `XDG_CONFIG_HOME` or `~/.config`.
pub fn path(environment: &BTreeMap<String, String>) -> PathBuf {
    let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    if let Some(path) = variable("SKEIN_CONTEXTS") {
        return PathBuf::from(path);
    }
    let folder = match variable("XDG_CONFIG_HOME") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(variable("HOME").map_or("/", String::as_str)).join(".config"),
    };
    folder.join("skein/contexts.toml")
}

/// What the file says; a file that is not there says nothing.
///
/// # Errors
/// When it cannot be read or is wrong.
pub fn load(path: &Path) -> Result<Contexts, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contexts::default()),
        Err(error) => return Err(Failure::Usage(format!("{}: {error}", path.display()))),
    };
    toml::from_str(&text).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

impl Contexts {
    /// The masters of the named context, or of the current one; `None` when there is no current one.
    ///
    /// # Errors
    /// When the context is not in the file.
    pub fn masters(&self, name: Option<&str>) -> Result<Option<Vec<String>>, Failure> {
        let Some(name) = name.or(self.current.as_deref()) else { return Ok(None) };
        match self.contexts.get(name) {
            Some(context) => Ok(Some(context.masters.clone())),
            None => Err(self.unknown(name)),
        }
    }

    fn unknown(&self, name: &str) -> Failure {
        let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
        let known = if known.is_empty() {
            "there is none yet".to_owned()
        } else {
            format!("there is {}", known.join(", "))
        };
        Failure::Usage(format!(
            "there is no context {name}; {known}\nnext: skein context add {name} HOST:PORT,..."
        ))
    }

    fn rows(&self) -> Vec<ContextRow> {
        let row = |(name, context): (&String, &Context)| ContextRow {
            name: name.clone(),
            current: self.current.as_ref() == Some(name),
            masters: context.masters.clone(),
        };
        self.contexts.iter().map(row).collect()
    }
}

/// # Errors
/// When the file cannot be read or written, or the context is unknown.
pub fn run(terminal: &Terminal, format: Format, path: &Path, command: Command) -> Result<(), Failure> {
    let mut contexts = load(path)?;
    let said = match command {
        Command::Ls(_) => return output::print(terminal, &contexts.rows(), format),
        Command::Use(args) => {
            contexts.masters(Some(&args.name))?;
            contexts.current = Some(args.name.clone());
            format!("{} is the current context", args.name)
        }
        Command::Add(args) => {
            let masters: Result<Vec<String>, String> =
                args.masters.iter().map(|text| parse_address(text)).collect();
            let masters = masters.map_err(Failure::Usage)?;
            contexts.contexts.insert(args.name.clone(), Context { masters });
            contexts.current.get_or_insert_with(|| args.name.clone());
            format!("{} added to {}", args.name, path.display())
        }
        Command::Rm(args) => {
            contexts.contexts.remove(&args.name).ok_or_else(|| contexts.unknown(&args.name))?;
            contexts.current = contexts.current.filter(|current| *current != args.name);
            format!("{} removed", args.name)
        }
    };
    save(path, &contexts)?;
    Ok(terminal.print_line(&said)?)
}

fn save(path: &Path, contexts: &Contexts) -> Result<(), Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::Failed(format!("{}: {error}", path.display()));
    let text = toml::to_string(contexts).map_err(|error| wrong(&error))?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| wrong(&error))?;
    }
    // Replaced as a whole: a reader never sees half a file.
    let fresh = path.with_extension("toml.new");
    std::fs::write(&fresh, text).map_err(|error| wrong(&error))?;
    std::fs::rename(&fresh, path).map_err(|error| wrong(&error))
}

struct ContextRow {
    name: String,
    current: bool,
    masters: Vec<String>,
}

impl Row for ContextRow {
    const COLUMNS: &'static [Column] = &[column("CURRENT"), column("NAME"), column("MASTERS")];

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        vec![if self.current { "*" } else { "" }.to_owned(), self.name.clone(), self.masters.join(",")]
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn json(&self) -> Value {
        json!({ "name": self.name, "current": self.current, "masters": self.masters })
    }
}
