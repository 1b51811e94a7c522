//! Text into the one tree that is read: every file parsed, its variables replaced, then all of
//! them put together.
//!
//! Invariant: variables are replaced before anything is typed, and in the file they stand in.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use super::{
    Input,
    diagnostic::Report,
    dotenv,
    field::Field,
    merge, template,
    yaml::{self, Node, Value},
};

/// Sections whose values are substituted, as in Docker; extensions are not.
const SUBSTITUTED: [&str; 6] = ["name", "services", "volumes", "networks", "secrets", "configs"];

/// The tree, unless a file cannot be made one of.
pub fn load(input: &Input<'_>, variables: &BTreeMap<String, String>, report: &mut Report) -> Option<Node> {
    let mut warned = BTreeSet::new();
    let mut roots = Vec::with_capacity(input.files.len());
    for (file, source) in input.files.iter().enumerate() {
        let Some(mut root) = parse(file, &source.text, report) else { continue };
        let top = Field { path: String::new(), at: root.at, node: &root };
        if top.free_section(report).is_none() {
            continue;
        }
        substitute_sections(&mut root, variables, &mut warned, report);
        roots.push(root);
    }
    if roots.len() < input.files.len() {
        return None;
    }
    roots.into_iter().reduce(merge::roots)
}

fn parse(file: usize, text: &str, report: &mut Report) -> Option<Node> {
    match yaml::parse(text, file) {
        Ok((Some(root), duplicates)) => {
            for problem in duplicates {
                report.error(problem.at, &problem.path, problem.message);
            }
            Some(root)
        }
        Ok((None, _)) => {
            report.error_of(file, "the file is empty");
            None
        }
        Err(problem) => {
            report.error(problem.at, &problem.path, problem.message);
            None
        }
    }
}

/// The process's variables over those of `.env`.
pub fn variables(input: &Input<'_>, report: &mut Report) -> BTreeMap<String, String> {
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

fn substitute_sections(
    root: &mut Node,
    variables: &BTreeMap<String, String>,
    warned: &mut BTreeSet<String>,
    report: &mut Report,
) {
    let Value::Map(entries) = &mut root.value else { return };
    for entry in entries.iter_mut().filter(|entry| SUBSTITUTED.contains(&entry.key.as_str())) {
        substitute(&mut entry.value, &entry.key, variables, warned, report);
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
