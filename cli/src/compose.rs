//! Compose files, read the way `docker stack deploy` reads them.
//!
//! Invariant: pure: text, variables and a way to read further files in; specs or findings out.
//! Every finding names file, line, column and key, and all errors of a file are found at once.
//! Deliberately not here: several files merged into one, `include`, `extends`.

mod amount;
mod deploy;
mod diagnostic;
mod dotenv;
mod environment;
mod field;
mod keys;
mod networks;
mod origin;
mod ports;
mod scalar;
mod service;
mod template;
mod volumes;
mod yaml;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use skein_common::service::ServiceSpec;

pub use diagnostic::{Diagnostic, Position, Severity};
pub use keys::nearest;
pub use origin::{Origin, Origins};

use diagnostic::Report;
use field::Field;
use yaml::{Node, Value};

/// Service label with the name of the stack a service belongs to.
pub const STACK_LABEL: &str = "skein.stack";
/// Sections whose values are substituted, as in Docker; extensions are not.
const SUBSTITUTED: [&str; 6] = ["name", "services", "volumes", "networks", "secrets", "configs"];

/// A Compose file and the world around it.
pub struct Input<'a> {
    /// How the file is named in findings.
    pub file: &'a str,
    pub text: &'a str,
    /// Absolute; relative paths of the file begin here, and `.env` is looked for here.
    pub folder: &'a Path,
    /// The stack's name, when the command line gives one; else `name:` or the folder decides.
    pub stack: Option<&'a str>,
    /// Variables of the process.
    pub environment: &'a BTreeMap<String, String>,
    pub read_file: &'a dyn Fn(&Path) -> io::Result<String>,
}

/// What a Compose file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    pub name: String,
    /// In order of the file.
    pub services: Vec<StackService>,
    pub warnings: Vec<Diagnostic>,
}

/// One service of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackService {
    /// Its name in the file.
    pub key: String,
    pub spec: ServiceSpec,
    pub origins: Origins,
}

/// The stack, or every finding when one of them is an error.
///
/// # Errors
/// All findings of the file, at least one of them an error.
pub fn read(input: &Input<'_>) -> Result<Stack, Vec<Diagnostic>> {
    let mut report = Report::new(input.file);
    let stack = read_into(input, &mut report);
    let failed = report.errors() > 0;
    let found = report.into_diagnostics();
    match stack {
        Some((name, services)) if !failed => Ok(Stack { name, services, warnings: found }),
        _ => Err(found),
    }
}

fn read_into(input: &Input<'_>, report: &mut Report) -> Option<(String, Vec<StackService>)> {
    let mut root = match yaml::parse(input.text) {
        Ok((Some(root), duplicates)) => {
            for problem in duplicates {
                report.error(problem.at, &problem.path, problem.message);
            }
            root
        }
        Ok((None, _)) => {
            report.error_of_file("the file is empty");
            return None;
        }
        Err(problem) => {
            report.error(problem.at, &problem.path, problem.message);
            return None;
        }
    };
    let variables = variables(input, report);
    substitute_sections(&mut root, &variables, report);

    let top = Field { path: String::new(), at: root.at, node: &root };
    let section = top.section(keys::TOP, report)?;
    let name = stack_name(input, section.get("name"), report)?;
    let files = environment::Files { folder: input.folder, variables: &variables, read: input.read_file };
    let volumes =
        section.get("volumes").map(|field| volumes::declared(&field, &name, report)).unwrap_or_default();
    let networks =
        section.get("networks").map(|field| networks::declared(&field, report)).unwrap_or_default();
    let around =
        service::Surroundings { stack: &name, files: &files, volumes: &volumes, networks: &networks };
    let Some(services) = section.get("services") else {
        if report.errors() == 0 {
            report.error_of_file("services is missing: there is nothing to run");
        }
        return None;
    };
    let services: Vec<StackService> = services
        .free_section(report)?
        .all()
        .filter(|(key, _)| !key.starts_with("x-"))
        .filter_map(|(key, field)| service::read(key, &field, &around, report))
        .collect();
    Some((name, services))
}

/// The process's variables over those of `.env`.
fn variables(input: &Input<'_>, report: &mut Report) -> BTreeMap<String, String> {
    let path = input.folder.join(".env");
    let mut found = match (input.read_file)(&path) {
        Ok(text) => dotenv::parse_dotenv(&text, input.environment).unwrap_or_else(|bad| {
            report.error_in(&path.display().to_string(), bad.line, bad.message);
            BTreeMap::new()
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => {
            report.error_of_file(format!("{} cannot be read: {error}", path.display()));
            BTreeMap::new()
        }
    };
    found.extend(input.environment.iter().map(|(name, value)| (name.clone(), value.clone())));
    found
}

fn substitute_sections(root: &mut Node, variables: &BTreeMap<String, String>, report: &mut Report) {
    let Value::Map(entries) = &mut root.value else { return };
    let mut warned = BTreeSet::new();
    for entry in entries.iter_mut().filter(|entry| SUBSTITUTED.contains(&entry.key.as_str())) {
        substitute(&mut entry.value, &entry.key, variables, &mut warned, report);
    }
}

/// A substituted value is text whatever it looks like, as in Docker.
fn substitute(
    node: &mut Node,
    path: &str,
    variables: &BTreeMap<String, String>,
    warned: &mut BTreeSet<String>,
    report: &mut Report,
) {
    match &mut node.value {
        Value::Scalar(scalar) if scalar.text.contains('$') => {
            match template::substitute(&scalar.text, &|name| variables.get(name).cloned()) {
                Ok(done) => {
                    for name in done.unset {
                        if warned.insert(name.clone()) {
                            report.warn(node.at, path, format!("the variable {name} is not set: empty"));
                        }
                    }
                    scalar.text = done.text;
                    scalar.plain = false;
                }
                Err(error) => report.error(node.at, path, error.to_string()),
            }
        }
        Value::Scalar(_) => {}
        Value::List(items) => {
            for (position, item) in items.iter_mut().enumerate() {
                substitute(item, &format!("{path}[{position}]"), variables, warned, report);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                substitute(&mut entry.value, &Field::join(path, &entry.key), variables, warned, report);
            }
        }
    }
}

fn stack_name(input: &Input<'_>, field: Option<Field<'_>>, report: &mut Report) -> Option<String> {
    let written = field.as_ref().and_then(|field| field.text(report));
    let valid = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
    };
    let wrong = |name: &str| {
        format!(
            "{name:?} is not a name for a stack: letters, digits, _ and -, beginning with a letter or digit"
        )
    };
    match (input.stack, written) {
        (Some(name), _) if valid(name) => Some(name.to_owned()),
        (None, Some(name)) if valid(&name) => Some(name),
        (Some(name), _) => {
            report.error_of_file(wrong(name));
            None
        }
        (None, Some(name)) => {
            let at = field.map_or(Position { line: 1, column: 1 }, |field| field.node.at);
            report.error(at, "name", wrong(&name));
            None
        }
        (None, None) => {
            let name = name_of_folder(input.folder);
            if name.is_none() {
                report.error_of_file(
                    "the stack has no name: write name: at the top of the file, or give --name",
                );
            }
            name
        }
    }
}

/// As Compose makes a project's name: lower case, only letters, digits, `_` and `-`.
fn name_of_folder(folder: &Path) -> Option<String> {
    let name = folder.file_name()?.to_string_lossy().to_lowercase();
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "_-".contains(*c)).collect();
    let name = name.trim_start_matches(['_', '-']).to_owned();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests;
