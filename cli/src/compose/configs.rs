//! Top-level `configs`, and the mounts of a service.
//!
//! Invariant: a config of the stack is named after its content, `<stack>_<name>-<hash>`: an edit is
//! another config, and so a rollout of the services that mount it, where `docker stack deploy` refuses.
//! A config with a `name:` of its own is used under exactly that name.
//! Deliberately not here: making and pruning them (`command/config`).

use std::collections::BTreeMap;

use skein_common::config::{ConfigMount, ConfigSpec};

use super::{
    STACK_LABEL,
    diagnostic::{Position, Report},
    environment::Files,
    field::{Field, Section},
    keys,
    origin::Origins,
    service,
    yaml::Value,
};

/// Service label's sibling: what a config of a stack is called in the file.
pub const CONFIG_LABEL: &str = "skein.config";

/// The declared configs by their name in the file.
pub type Configs = BTreeMap<String, Declared>;

/// A config as it is declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// In the cluster.
    pub name: String,
    /// `None` = made by others.
    pub made: Option<StackConfig>,
}

/// A config that the stack brings along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackConfig {
    pub spec: ConfigSpec,
    pub path: String,
    pub at: Position,
}

/// The top-level section.
pub fn declared(field: &Field<'_>, stack: &str, files: &Files<'_>, report: &mut Report) -> Configs {
    let Some(section) = field.free_section(report) else { return Configs::new() };
    let mut found = Configs::new();
    for (key, field) in section.all().filter(|(key, _)| !key.starts_with("x-")) {
        // What is wrong with it has been said; that it is not declared would be one too many.
        let declared = declaration(key, &field, stack, files, report);
        let declared = declared.unwrap_or_else(|| Declared { name: format!("{stack}_{key}"), made: None });
        found.insert(key.to_owned(), declared);
    }
    found
}

fn declaration(
    key: &str,
    field: &Field<'_>,
    stack: &str,
    files: &Files<'_>,
    report: &mut Report,
) -> Option<Declared> {
    let section = field.section(keys::CONFIG, report)?;
    let given = section.get("name").and_then(|field| field.text(report));
    let external = section.get("external").and_then(|field| match &field.node.value {
        Value::Map(_) => {
            // The old spelling: external: { name: data }.
            let inner = field.free_section(report)?.get("name").and_then(|field| field.text(report));
            Some(inner.unwrap_or_else(|| key.to_owned()))
        }
        _ => field.boolean(report)?.then(|| key.to_owned()),
    });
    if let Some(external) = external {
        for key in ["file", "content", "environment", "labels"] {
            if let Some(field) = section.get(key) {
                field.error(report, "an external config is made by others: remove this");
            }
        }
        return Some(Declared { name: given.unwrap_or(external), made: None });
    }
    let content = content(field, &section, files, report)?;
    let mut labels = section.get("labels").map(|field| service::labels(&field, report)).unwrap_or_default();
    let version = version(&content, &labels);
    labels.insert(STACK_LABEL.to_owned(), stack.to_owned());
    labels.insert(CONFIG_LABEL.to_owned(), key.to_owned());
    let name = given.unwrap_or_else(|| format!("{stack}_{key}-{version}"));
    let spec = ConfigSpec { name: name.clone(), labels, content: content.into_bytes().into() };
    for violation in spec.violations().0 {
        field.error(report, format!("{name}: {}", violation.description));
    }
    Some(Declared { name, made: Some(StackConfig { spec, path: field.path.clone(), at: field.at }) })
}

/// Exactly one source.
fn content(
    field: &Field<'_>,
    section: &Section<'_>,
    files: &Files<'_>,
    report: &mut Report,
) -> Option<String> {
    let given: Vec<_> =
        ["file", "content", "environment"].iter().filter_map(|key| Some((*key, section.get(key)?))).collect();
    let [(kind, source)] = given.as_slice() else {
        field.error(report, "exactly one of file, content, environment or external is required");
        return None;
    };
    let text = source.text(report)?;
    match *kind {
        "content" => Some(text),
        "environment" => {
            let value = files.variables.get(&text).cloned();
            if value.is_none() {
                source.error(report, format!("the variable {text} is not set"));
            }
            value
        }
        _ => {
            let path = files.resolve(&text);
            (files.read)(&path)
                .map_err(|error| source.error(report, format!("{} cannot be read: {error}", path.display())))
                .ok()
        }
    }
}

/// Of content and labels; the cluster compares the content itself.
fn version(content: &str, labels: &BTreeMap<String, String>) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let parts = labels.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    for part in std::iter::once(content).chain(parts) {
        for byte in part.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{:012x}", hash >> 16)
}

/// What a service mounts.
pub fn mounts(
    section: &Section<'_>,
    configs: &Configs,
    origins: &mut Origins,
    report: &mut Report,
) -> Vec<ConfigMount> {
    let mut found = Vec::new();
    for item in section.get("configs").and_then(|field| field.items(report)).unwrap_or_default() {
        let mount = match &item.node.value {
            Value::Map(_) => long(&item, configs, report),
            _ => item.text(report).and_then(|source| mount(&item, &source, configs, report)),
        };
        if let Some(mount) = mount {
            let position = found.len();
            origins.add(format!("spec.container.configs[{position}]"), &item.path, item.node.at);
            found.push(mount);
        }
    }
    found
}

fn mount(item: &Field<'_>, source: &str, configs: &Configs, report: &mut Report) -> Option<ConfigMount> {
    let Some(declared) = configs.get(source) else {
        let near = keys::nearest(source, configs.keys().map(String::as_str));
        let hint = near.map_or_else(
            || "declare it under the top-level configs".to_owned(),
            |near| format!("did you mean {near}?"),
        );
        item.error(report, format!("the config {source} is not declared; {hint}"));
        return None;
    };
    let target = format!("/{source}");
    Some(ConfigMount { config: declared.name.clone(), id: None, target, uid: 0, gid: 0, mode: None })
}

fn long(item: &Field<'_>, configs: &Configs, report: &mut Report) -> Option<ConfigMount> {
    let section = item.section(keys::CONFIG_MOUNT, report)?;
    let Some(source) = section.get("source") else {
        item.error(report, "source is required: a config of the top-level configs");
        return None;
    };
    let mut mount = mount(&source, &source.text(report)?, configs, report)?;
    if let Some(target) = section.get("target").and_then(|field| field.text(report)) {
        // As Docker: a name alone lies in the root folder.
        mount.target = if target.starts_with('/') { target } else { format!("/{target}") };
    }
    let number = |key: &str, report: &mut Report| {
        let found = section.get(key)?.integer(0, u32::MAX.into(), report);
        found.and_then(|number| u32::try_from(number).ok())
    };
    mount.uid = number("uid", report).unwrap_or_default();
    mount.gid = number("gid", report).unwrap_or_default();
    mount.mode = section.get("mode").and_then(|field| field.mode(report));
    Some(mount)
}
