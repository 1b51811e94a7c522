//! Variables of a container: `env_file`, then `environment` over it.
//!
//! Invariant: as in `docker stack deploy`, a name without a value (or with an empty one) takes
//! the value it has where the command is typed; one that has none there is left out.

use std::{
    collections::BTreeMap,
    io,
    path::{Component, Path, PathBuf},
};

use super::{
    diagnostic::Report,
    dotenv,
    field::{Field, Section},
    keys,
    yaml::Value,
};

/// The world outside the file: where it lies, the variables, and other files.
pub struct Files<'a> {
    /// Absolute folder that relative paths begin in.
    pub folder: &'a Path,
    pub variables: &'a BTreeMap<String, String>,
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
}

impl Files<'_> {
    /// Absolute, `~` replaced by HOME, without `.` and `..`.
    pub fn resolve(&self, path: &str) -> PathBuf {
        let home = self.variables.get("HOME").map(String::as_str).unwrap_or_default();
        let path = match path.strip_prefix('~') {
            Some(rest) if !home.is_empty() && (rest.is_empty() || rest.starts_with('/')) => {
                format!("{home}{rest}")
            }
            _ => path.to_owned(),
        };
        let mut clean = PathBuf::new();
        for part in self.folder.join(path).components() {
            match part {
                Component::ParentDir => {
                    clean.pop();
                }
                Component::CurDir => {}
                other => clean.push(other),
            }
        }
        clean
    }
}

pub fn read(section: &Section<'_>, files: &Files<'_>, report: &mut Report) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for field in section.get("env_file").map(|field| field.one_or_more()).unwrap_or_default() {
        let Some((path, required)) = path(&field, report) else { continue };
        read_file(&field, &path, required, files, &mut found, report);
    }
    for (name, value, field) in
        section.get("environment").and_then(|field| field.pairs(report)).unwrap_or_default()
    {
        let outside = files.variables.get(&name);
        match (value, outside) {
            (None, None) => {
                found.remove(&name);
                field
                    .warn(report, format!("{name} has no value here and is not set where you are: left out"));
            }
            (Some(value), Some(outside)) if value.is_empty() && !outside.is_empty() => {
                field.warn(
                    report,
                    format!("{name} is empty here and takes the value it has where you are, as docker stack deploy does"),
                );
                found.insert(name, outside.clone());
            }
            (Some(value), _) => {
                found.insert(name, value);
            }
            (None, Some(outside)) => {
                found.insert(name, outside.clone());
            }
        }
    }
    found
}

/// A path, or `{ path, required }`.
fn path(field: &Field<'_>, report: &mut Report) -> Option<(String, bool)> {
    if !matches!(field.node.value, Value::Map(_)) {
        return Some((field.text(report)?, true));
    }
    let section = field.section(keys::ENV_FILE, report)?;
    let Some(path) = section.get("path") else {
        field.error(report, "path is required");
        return None;
    };
    let required = section.get("required").map_or(Some(true), |field| field.boolean(report))?;
    Some((path.text(report)?, required))
}

fn read_file(
    field: &Field<'_>,
    path: &str,
    required: bool,
    files: &Files<'_>,
    found: &mut BTreeMap<String, String>,
    report: &mut Report,
) {
    let full = files.resolve(path);
    let text = match (files.read)(&full) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !required => return,
        Err(error) => return field.error(report, format!("{} cannot be read: {error}", full.display())),
    };
    let pairs = match dotenv::parse_env_file(&text) {
        Ok(pairs) => pairs,
        Err(bad) => return report.error_in(&full.display().to_string(), bad.line, bad.message),
    };
    for (name, value) in pairs {
        let outside = files.variables.get(&name);
        let value = match value {
            Some(value) if !value.is_empty() => Some(value),
            value => outside.cloned().or(value),
        };
        if value.as_ref().is_some_and(|value| is_quoted(value)) {
            field.warn(report, format!("{path}: the quotes around {name} are part of its value"));
        }
        if let Some(value) = value {
            found.insert(name, value);
        }
    }
}

fn is_quoted(value: &str) -> bool {
    value.len() > 1 && ['"', '\''].iter().any(|quote| value.starts_with(*quote) && value.ends_with(*quote))
}
