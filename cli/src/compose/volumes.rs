//! `volumes` and `tmpfs`: what is mounted where.
//!
//! Invariant: a named volume must be declared under the top-level `volumes`; its name on the
//! node is `<stack>_<name>` unless it is external or named there.

use std::collections::BTreeMap;

use skein_common::service::{Mount, MountKind, MountOptions, PROPAGATIONS};

use super::{
    amount,
    diagnostic::{Position, Report},
    environment::Files,
    field::{Field, Section},
    keys,
    origin::Origins,
    service,
    yaml::Value,
};

/// Options of the short form that have no effect on what a container sees here.
const HARMLESS_OPTIONS: [&str; 6] = ["z", "Z", "cached", "delegated", "consistent", "default"];

/// The declared volumes by their name in the file.
pub type Volumes = BTreeMap<String, Declared>;

/// What a volume is on its node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    name: String,
    driver: String,
    driver_options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

/// The top-level section.
pub fn declared(field: &Field<'_>, stack: &str, report: &mut Report) -> Volumes {
    let Some(section) = field.free_section(report) else { return Volumes::new() };
    section.all().map(|(name, field)| (name.to_owned(), declaration(name, &field, stack, report))).collect()
}

fn declaration(name: &str, field: &Field<'_>, stack: &str, report: &mut Report) -> Declared {
    let own = format!("{stack}_{name}");
    let Some(section) = field.section(keys::VOLUME, report) else {
        return Declared { name: own, ..Declared::default() };
    };
    let given = section.get("name").and_then(|field| field.text(report));
    let external = section.get("external").and_then(|field| match &field.node.value {
        Value::Map(_) => {
            // The old spelling: external: { name: data }.
            let inner = field.free_section(report)?.get("name").and_then(|field| field.text(report));
            Some(inner.unwrap_or_else(|| name.to_owned()))
        }
        _ => field.boolean(report)?.then(|| name.to_owned()),
    });
    if external.is_some() {
        for key in ["driver", "driver_opts", "labels"] {
            if let Some(field) = section.get(key) {
                field.error(report, "an external volume is made by others: remove this");
            }
        }
    }
    let map = |key: &str, report: &mut Report| {
        section.get(key).map(|field| service::labels(&field, report)).unwrap_or_default()
    };
    Declared {
        name: given.or(external).unwrap_or(own),
        // The engine's own, which is used anyway.
        driver: section
            .get("driver")
            .and_then(|field| field.text(report))
            .filter(|driver| driver != "local")
            .unwrap_or_default(),
        driver_options: map("driver_opts", report),
        labels: map("labels", report),
    }
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

/// `/path`, or `/path:size=64m,mode=1777`.
fn tmpfs(item: &Field<'_>, report: &mut Report) -> Option<Mount> {
    let text = item.text(report)?;
    let (target, rest) = text.split_once(':').unwrap_or((&text, ""));
    let mut options = MountOptions::default();
    for option in rest.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", size)) => match amount::parse_bytes(size) {
                Ok(bytes) => options.size_bytes = bytes,
                Err(message) => item.error(report, message),
            },
            Some(("mode", mode)) => match u32::from_str_radix(mode, 8) {
                Ok(mode) => options.mode = mode,
                Err(_) => item.error(report, format!("{mode:?} is not a mode: write for example 1777")),
            },
            _ => item.warn(report, format!("the option {option} is ignored")),
        }
    }
    let target = target.to_owned();
    Some(Mount { kind: MountKind::Tmpfs, source: String::new(), target, read_only: false, options })
}

fn short(item: &Field<'_>, volumes: &Volumes, files: &Files<'_>, report: &mut Report) -> Option<Mount> {
    let text = item.text(report)?;
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, words) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, words] => (*source, *target, *words),
        _ => {
            item.error(report, format!("{text:?} has too many colons: SOURCE:TARGET[:ro]"));
            return None;
        }
    };
    if target.is_empty() || (parts.len() > 1 && source.is_empty()) {
        item.error(report, format!("{text:?} has an empty part: SOURCE:TARGET[:ro]"));
        return None;
    }
    let mut mount = if source.starts_with(['.', '/', '~']) {
        bind(source, target, files)
    } else {
        volume(item, source, target, volumes, report)?
    };
    for word in words.split(',').filter(|word| !word.is_empty()) {
        match word {
            "ro" => mount.read_only = true,
            "rw" => mount.read_only = false,
            "nocopy" => mount.options.no_copy = true,
            kind if PROPAGATIONS.contains(&kind) => mount.options.propagation = kind.to_owned(),
            other if HARMLESS_OPTIONS.contains(&other) => {
                item.warn(report, format!("the option {other} is ignored"));
            }
            other => item.error(
                report,
                format!("the option {other} is not supported: use ro, rw, nocopy or a kind of propagation"),
            ),
        }
    }
    Some(mount)
}

fn bind(source: &str, target: &str, files: &Files<'_>) -> Mount {
    Mount {
        kind: MountKind::Bind,
        source: files.resolve(source).to_string_lossy().into_owned(),
        target: target.to_owned(),
        read_only: false,
        options: MountOptions::default(),
    }
}

/// A declared volume, or an anonymous one when it has no name.
fn volume(
    item: &Field<'_>,
    name: &str,
    target: &str,
    volumes: &Volumes,
    report: &mut Report,
) -> Option<Mount> {
    let known = if name.is_empty() { Declared::default() } else { find(item, name, volumes, report)? };
    let options = MountOptions {
        driver: known.driver,
        driver_options: known.driver_options,
        labels: known.labels,
        ..MountOptions::default()
    };
    let target = target.to_owned();
    Some(Mount { kind: MountKind::Volume, source: known.name, target, read_only: false, options })
}

fn find(item: &Field<'_>, name: &str, volumes: &Volumes, report: &mut Report) -> Option<Declared> {
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
    let source = section.get("source").and_then(|field| field.text(report)).unwrap_or_default();
    let Some(target) = section.get("target") else {
        item.error(report, "target is required: the path in the container");
        return None;
    };
    let target = target.text(report)?;
    let mut mount = match kind? {
        MountKind::Volume => volume(item, &source, &target, volumes, report)?,
        MountKind::Bind if source.is_empty() => {
            item.error(report, "source is required with type: bind");
            return None;
        }
        MountKind::Bind => bind(&source, &target, files),
        MountKind::Tmpfs => Mount {
            kind: MountKind::Tmpfs,
            source,
            target,
            read_only: false,
            options: MountOptions::default(),
        },
    };
    mount.read_only = section.get("read_only").and_then(|field| field.boolean(report)).unwrap_or(false);
    options(&section, &mut mount, report);
    Some(mount)
}

fn options(section: &Section<'_>, mount: &mut Mount, report: &mut Report) {
    for (name, keys, of) in [
        ("bind", keys::MOUNT_BIND, MountKind::Bind),
        ("volume", keys::MOUNT_VOLUME, MountKind::Volume),
        ("tmpfs", keys::MOUNT_TMPFS, MountKind::Tmpfs),
    ] {
        let Some(field) = section.get(name) else { continue };
        let Some(part) = field.section(keys, report) else { continue };
        if mount.kind != of {
            field.error(report, format!("options for type: {name}, but the type is another"));
            continue;
        }
        let options = &mut mount.options;
        options.propagation =
            part.get("propagation").and_then(|field| field.text(report)).unwrap_or_default();
        options.no_copy = part.get("nocopy").and_then(|field| field.boolean(report)).unwrap_or_default();
        options.subpath = part.get("subpath").and_then(|field| field.text(report)).unwrap_or_default();
        if let Some(field) = part.get("labels") {
            options.labels.extend(service::labels(&field, report));
        }
        options.size_bytes = part.get("size").and_then(|field| field.bytes(report)).unwrap_or_default();
        options.mode = part.get("mode").and_then(|field| field.mode(report)).unwrap_or_default();
    }
}
