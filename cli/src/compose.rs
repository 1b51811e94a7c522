//! Compose files, read the way `docker stack deploy` reads them.
//!
//! Invariant: pure: text, variables and a way to read further files in; specs or findings out.
//! Every finding names file, line, column and key, and all errors of a file are found at once.
//! Deliberately not here: `include`, `extends`; `docker stack deploy` does not read them either.

pub mod amount;
mod autoscale;
mod balance;
mod configs;
mod deploy;
mod diagnostic;
mod document;
mod dotenv;
mod environment;
mod extension;
mod field;
mod keys;
mod merge;
mod networks;
mod order;
mod origin;
mod placement;
mod ports;
mod print;
mod probe;
mod process;
mod rollout;
mod routes;
mod scalar;
mod schedule;
mod service;
mod template;
mod volumes;
mod yaml;

use std::{collections::BTreeMap, io, path::Path};

use skein_common::service::ServiceSpec;

pub use autoscale::policy;
pub use configs::StackConfig;
pub use diagnostic::{Diagnostic, Position, Severity};
pub use keys::nearest;
pub use order::{Condition, Dependency};
pub use origin::{Origin, Origins};

use diagnostic::Report;
use field::Field;
use yaml::Node;

/// Service label with the name of the stack a service belongs to.
pub use skein_common::service::STACK_LABEL;

/// One Compose file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// How the file is named in findings.
    pub name: String,
    pub text: String,
}

/// Compose files that are read together, and the world around them.
pub struct Input<'a> {
    /// At least one; a later one goes over the earlier ones.
    pub files: &'a [Source],
    /// Absolute, of the first file; relative paths begin here, and `.env` is looked for here.
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
    /// In order of the file, but behind those that they depend on.
    pub services: Vec<StackService>,
    /// What the services mount and the stack brings along, in the order of names.
    pub configs: Vec<StackConfig>,
    pub warnings: Vec<Diagnostic>,
    document: Node,
    files: Vec<String>,
}

impl Stack {
    /// What the cluster says of a field of a service, at the place of the file it came from.
    pub fn place(&self, service: &StackService, field: &str, message: String) -> Diagnostic {
        let origin = service.origins.find(field);
        let file = origin.map_or(0, |origin| origin.at.file);
        Diagnostic {
            severity: Severity::Error,
            file: self.files.get(file).cloned().unwrap_or_default(),
            at: origin.map(|origin| origin.at),
            path: origin.map_or_else(|| field.to_owned(), |origin| origin.path.clone()),
            message,
            also: Vec::new(),
        }
    }

    /// What is wrong at a place of the files.
    pub fn finding(&self, at: Position, path: &str, message: String) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            file: self.files.get(at.file).cloned().unwrap_or_default(),
            at: Some(at),
            path: path.to_owned(),
            message,
            also: Vec::new(),
        }
    }

    /// The files as they were understood: merged, variables replaced.
    pub fn document(&self) -> serde_json::Value {
        print::value(&self.document)
    }
}

/// One service of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackService {
    /// Its name in the file.
    pub key: String,
    pub spec: ServiceSpec,
    pub depends_on: Vec<Dependency>,
    pub origins: Origins,
}

/// The stack, or every finding when one of them is an error.
///
/// # Errors
/// All findings of the file, at least one of them an error.
pub fn read(input: &Input<'_>) -> Result<Stack, Vec<Diagnostic>> {
    let files: Vec<String> = input.files.iter().map(|file| file.name.clone()).collect();
    let mut report = Report::new(files.clone());
    let variables = document::variables(input, &mut report);
    let document = document::load(input, &variables, &mut report);
    let stack = document.and_then(|document| {
        let (name, services, configs) = read_into(input, &document, &variables, &mut report)?;
        Some((name, services, configs, document))
    });
    let failed = report.errors() > 0;
    let found = report.into_diagnostics();
    match stack {
        Some((name, services, configs, document)) if !failed => {
            Ok(Stack { name, services, configs, warnings: found, document, files })
        }
        _ => Err(found),
    }
}

fn read_into(
    input: &Input<'_>,
    root: &Node,
    variables: &BTreeMap<String, String>,
    report: &mut Report,
) -> Option<(String, Vec<StackService>, Vec<StackConfig>)> {
    let top = Field { path: String::new(), at: root.at, node: root };
    let section = top.section(keys::TOP, report)?;
    let name = stack_name(input, section.get("name"), report)?;
    let files = environment::Files { folder: input.folder, variables, read: input.read_file };
    let volumes =
        section.get("volumes").map(|field| volumes::declared(&field, &name, report)).unwrap_or_default();
    let configs = section
        .get("configs")
        .map(|field| configs::declared(&field, &name, &files, report))
        .unwrap_or_default();
    let networks =
        section.get("networks").map(|field| networks::declared(&field, report)).unwrap_or_default();
    let Some(services) = section.get("services") else {
        if report.errors() == 0 {
            report.error_of_file("services is missing: there is nothing to run");
        }
        return None;
    };
    let services = services.free_section(report)?;
    let around = service::Surroundings {
        stack: &name,
        services: &services.all().map(|(key, _)| key.to_owned()).collect(),
        files: &files,
        volumes: &volumes,
        configs: &configs,
        networks: &networks,
    };
    let services: Vec<StackService> = services
        .all()
        .filter(|(key, _)| !key.starts_with("x-"))
        .filter_map(|(key, field)| service::read(key, &field, &around, report))
        .collect();
    order::check(&services, report);
    let made = configs.into_values().filter_map(|declared| declared.made).collect();
    Some((name, order::sort(services, report), made))
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
            let at = field.map_or(Position::start_of(0), |field| field.node.at);
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
