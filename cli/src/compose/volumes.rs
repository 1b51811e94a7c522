//! `volumes` and `tmpfs`: what is mounted where.
//!
//! Invariant: a named volume must be declared under the top-level `volumes`; its name on the
//! node is `<stack>_<name>` unless it is external or named there.

use std::collections::BTreeMap;

use skein_common::service::{Mount, MountKind};

use super::{
    diagnostic::{Position, Report},
    environment::Files,
    field::{Field, Section},
    keys,
    origin::Origins,
    yaml::Value,
};

/// Options of the short form that have no effect on what a container sees here.
const HARMLESS_OPTIONS: [&str; 6] = ["z", "Z", "cached", "delegated", "consistent", "default"];

/// The declared volumes: name in the file → name on the node.
pub type Volumes = BTreeMap<String, String>;

/// The top-level section.
pub fn declared(field: &Field<'_>, stack: &str, report: &mut Report) -> Volumes {
    let Some(section) = field.free_section(report) else { return Volumes::new() };
    section.all().map(|(name, field)| (name.to_owned(), declaration(name, &field, stack, report))).collect()
}

fn declaration(name: &str, field: &Field<'_>, stack: &str, report: &mut Report) -> String {
    let own = format!("{stack}_{name}");
    let Some(section) = field.section(keys::VOLUME, report) else { return own };
    if let Some(driver) = section.get("driver")
        && let Some(text) = driver.text(report)
        && text != "local"
    {
        driver.error(report, format!("the driver {text} is not supported: volumes are local to their node"));
    }
    let given = section.get("name").and_then(|field| field.text(report));
    let external = section.get("external").and_then(|field| match &field.node.value {
        Value::Map(_) => {
            // The old spelling: external: { name: data }.
            let inner = field.free_section(report)?.get("name").and_then(|field| field.text(report));
            Some(inner.unwrap_or_else(|| name.to_owned()))
        }
        _ => field.boolean(report)?.then(|| name.to_owned()),
    });
    given.or(external).unwrap_or(own)
}

/// All mounts of a service, in the order of the file.
pub fn mounts(
    section: &Section<'_>,
    volumes: &Volumes,
    files: &Files<'_>,
    origins: &mut Origins,
    report: &mut Report,
) -> Vec<Mount> {
    let mut found: Vec<(Mount, String, Position)> = Vec::new();
    for item in section.get("volumes").and_then(|field| field.items(report)).unwrap_or_default() {
        let mount = match &item.node.value {
            Value::Map(_) => long(&item, volumes, files, report),
            _ => short(&item, volumes, files, report),
        };
        found.extend(mount.map(|mount| (mount, item.path.clone(), item.node.at)));
    }
    for item in section.get("tmpfs").map(|field| field.one_or_more()).unwrap_or_default() {
        found.extend(tmpfs(&item, report).map(|mount| (mount, item.path.clone(), item.node.at)));
    }
    for (position, (_, path, at)) in found.iter().enumerate() {
        origins.add(format!("spec.container.mounts[{position}]"), path, *at);
    }
    found.into_iter().map(|(mount, _, _)| mount).collect()
}

fn tmpfs(item: &Field<'_>, report: &mut Report) -> Option<Mount> {
    let text = item.text(report)?;
    if let Some((path, options)) = text.split_once(':') {
        item.error(
            report,
            format!("options of a tmpfs are not supported yet: write {path} without {options}"),
        );
        return None;
    }
    Some(Mount { kind: MountKind::Tmpfs, source: String::new(), target: text, read_only: false })
}

fn short(item: &Field<'_>, volumes: &Volumes, files: &Files<'_>, report: &mut Report) -> Option<Mount> {
    let text = item.text(report)?;
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => {
            item.error(report, format!("{text:?} has too many colons: SOURCE:TARGET[:ro]"));
            return None;
        }
    };
    if target.is_empty() || (parts.len() > 1 && source.is_empty()) {
        item.error(report, format!("{text:?} has an empty part: SOURCE:TARGET[:ro]"));
        return None;
    }
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            other if HARMLESS_OPTIONS.contains(&other) => {
                item.warn(report, format!("the option {other} is ignored"));
            }
            other => item.error(report, format!("the option {other} is not supported: use ro or rw")),
        }
    }
    let (kind, source) = if source.starts_with(['.', '/', '~']) {
        (MountKind::Bind, bind_source(source, files))
    } else {
        (MountKind::Volume, volume_source(item, source, volumes, report)?)
    };
    Some(Mount { kind, source, target: target.to_owned(), read_only })
}

fn bind_source(source: &str, files: &Files<'_>) -> String {
    files.resolve(source).to_string_lossy().into_owned()
}

/// Empty for an anonymous volume.
fn volume_source(item: &Field<'_>, name: &str, volumes: &Volumes, report: &mut Report) -> Option<String> {
    if name.is_empty() {
        return Some(String::new());
    }
    if let Some(known) = volumes.get(name) {
        return Some(known.clone());
    }
    let near = keys::nearest(name, volumes.keys().map(String::as_str));
    let hint = near.map_or_else(
        || format!("declare it under the top-level volumes, or write ./{name} for a folder"),
        |near| format!("did you mean {near}?"),
    );
    item.error(report, format!("the volume {name} is not declared; {hint}"));
    None
}

fn long(item: &Field<'_>, volumes: &Volumes, files: &Files<'_>, report: &mut Report) -> Option<Mount> {
    let section = item.section(keys::MOUNT, report)?;
    let kinds = [("volume", MountKind::Volume), ("bind", MountKind::Bind), ("tmpfs", MountKind::Tmpfs)];
    let kind = section.get("type").map_or(Some(MountKind::Volume), |field| field.choice(&kinds, report));
    for (name, options, of) in [
        ("bind", keys::MOUNT_BIND, MountKind::Bind),
        ("volume", keys::MOUNT_VOLUME, MountKind::Volume),
        ("tmpfs", keys::MOUNT_TMPFS, MountKind::Tmpfs),
    ] {
        let Some(field) = section.get(name) else { continue };
        field.section(options, report);
        if kind.is_some_and(|kind| kind != of) {
            field.error(report, format!("options for type: {name}, but the type is another"));
        }
    }
    let read_only = section.get("read_only").and_then(|field| field.boolean(report)).unwrap_or(false);
    let source = section.get("source").and_then(|field| field.text(report)).unwrap_or_default();
    let Some(target) = section.get("target") else {
        item.error(report, "target is required: the path in the container");
        return None;
    };
    let target = target.text(report)?;
    let source = match kind? {
        MountKind::Volume => volume_source(item, &source, volumes, report)?,
        MountKind::Bind if source.is_empty() => {
            item.error(report, "source is required with type: bind");
            return None;
        }
        MountKind::Bind => bind_source(&source, files),
        MountKind::Tmpfs => source,
    };
    Some(Mount { kind: kind?, source, target, read_only })
}
