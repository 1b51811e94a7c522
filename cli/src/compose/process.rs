//! Settings of a container's process and its surroundings: names, capabilities, name servers,
//! kernel parameters, limits.

use std::collections::BTreeMap;

use skein_common::service::{ContainerSpec, Ulimit};

use super::{
    diagnostic::Report,
    field::{Field, Section},
    keys,
    origin::Origins,
    yaml::Value,
};

/// Reads all of them into the container.
pub fn read(
    section: &Section<'_>,
    container: &mut ContainerSpec,
    origins: &mut Origins,
    report: &mut Report,
) {
    let text = |key: &str, report: &mut Report| {
        section.get(key).and_then(|field| field.text(report)).unwrap_or_default()
    };
    let flag = |key: &str, report: &mut Report| {
        section.get(key).and_then(|field| field.boolean(report)).unwrap_or_default()
    };
    let texts = |key: &str, report: &mut Report| {
        let fields = section.get(key).map(|field| field.one_or_more()).unwrap_or_default();
        fields.iter().filter_map(|field| field.text(report)).collect::<Vec<String>>()
    };
    for (key, field) in [
        ("hostname", "hostname"),
        ("extra_hosts", "extra_hosts"),
        ("dns", "dns"),
        ("sysctls", "sysctls"),
        ("ulimits", "ulimits"),
        ("cap_add", "cap_add"),
        ("cap_drop", "cap_drop"),
        ("group_add", "groups"),
    ] {
        if let Some(found) = section.get(key) {
            origins.add(format!("spec.container.{field}"), &found.path, found.node.at);
        }
    }
    container.hostname = text("hostname", report);
    container.init = flag("init", report);
    container.read_only = flag("read_only", report);
    container.tty = flag("tty", report);
    container.stdin_open = flag("stdin_open", report);
    container.cap_add = texts("cap_add", report);
    container.cap_drop = texts("cap_drop", report);
    container.groups = texts("group_add", report);
    container.dns = texts("dns", report);
    container.dns_search = texts("dns_search", report);
    container.dns_options = texts("dns_opt", report);
    container.extra_hosts =
        section.get("extra_hosts").map(|field| extra_hosts(&field, report)).unwrap_or_default();
    container.sysctls = section.get("sysctls").map(|field| sysctls(&field, report)).unwrap_or_default();
    container.ulimits = section.get("ulimits").map(|field| ulimits(&field, report)).unwrap_or_default();
}

/// `name:address`, `name=address`, or a map; an address may stand in brackets.
fn extra_hosts(field: &Field<'_>, report: &mut Report) -> Vec<String> {
    let line = |name: &str, address: &str| {
        let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        format!("{name}:{address}")
    };
    if matches!(field.node.value, Value::Map(_)) {
        let pairs = field.pairs(report).unwrap_or_default();
        return pairs
            .iter()
            .map(|(name, value, _)| line(name, value.as_deref().unwrap_or_default()))
            .collect();
    }
    let mut found = Vec::new();
    for item in field.items(report).unwrap_or_default() {
        let Some(text) = item.text(report) else { continue };
        match text.split_once(['=', ':']) {
            Some((name, address)) if !name.is_empty() && !address.is_empty() => {
                found.push(line(name, address));
            }
            _ => item.error(report, format!("{text:?} is not NAME:ADDRESS")),
        }
    }
    found
}

fn sysctls(field: &Field<'_>, report: &mut Report) -> BTreeMap<String, String> {
    let pairs = field.pairs(report).unwrap_or_default();
    pairs.into_iter().map(|(name, value, _)| (name, value.unwrap_or_default())).collect()
}

/// `nofile: 1024`, or `nofile: { soft: 1024, hard: 2048 }`.
fn ulimits(field: &Field<'_>, report: &mut Report) -> Vec<Ulimit> {
    let Some(section) = field.free_section(report) else { return Vec::new() };
    let mut found = Vec::new();
    for (name, field) in section.all() {
        let limit = match &field.node.value {
            Value::Map(_) => {
                let Some(part) = field.section(keys::ULIMIT, report) else { continue };
                let (Some(soft), Some(hard)) = (part.get("soft"), part.get("hard")) else {
                    field.error(report, "soft and hard are required");
                    continue;
                };
                (soft.signed(report), hard.signed(report))
            }
            _ => {
                let both = field.signed(report);
                (both, both)
            }
        };
        if let (Some(soft), Some(hard)) = limit {
            found.push(Ulimit { name: name.to_owned(), soft, hard });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}
