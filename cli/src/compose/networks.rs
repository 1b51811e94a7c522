//! `networks`: Skein has one flat network, so separate ones are accepted with a warning where
//! nothing depends on them, and refused where the author asked for isolation or fixed addresses.

use std::collections::BTreeSet;

use super::{diagnostic::Report, field::Field, keys, yaml::Value};

const FLAT: &str = "ignored: all services share one flat network";
const DRIVERS: [&str; 2] = ["overlay", "bridge"];

/// Names of the declared networks.
pub type Networks = BTreeSet<String>;

/// The top-level section.
pub fn declared(field: &Field<'_>, report: &mut Report) -> Networks {
    let Some(section) = field.free_section(report) else { return Networks::new() };
    if section.all().any(|(name, _)| name != "default") {
        report.warn(field.at, &field.path, FLAT);
    }
    for (_, field) in section.all() {
        let Some(network) = field.section(keys::NETWORK, report) else { continue };
        if let Some(driver) = network.get("driver")
            && let Some(text) = driver.text(report)
            && !DRIVERS.contains(&text.as_str())
        {
            driver.error(
                report,
                format!("the driver {text} is not supported: all services share one flat network"),
            );
        }
    }
    section.all().map(|(name, _)| name.to_owned()).collect()
}

/// The networks of a service.
pub fn check_attachments(field: &Field<'_>, networks: &Networks, report: &mut Report) {
    let names: Vec<(String, Field<'_>)> = match &field.node.value {
        Value::List(_) => {
            let items = field.items(report).unwrap_or_default();
            items.into_iter().filter_map(|item| Some((item.text(report)?, item))).collect()
        }
        _ => {
            let Some(section) = field.free_section(report) else { return };
            section.all().map(|(name, field)| (name.to_owned(), field)).collect()
        }
    };
    for (name, attachment) in names {
        if name != "default" && !networks.contains(&name) {
            let near = keys::nearest(&name, networks.iter().map(String::as_str));
            let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            attachment.error(
                report,
                format!("the network {name} is not declared under the top-level networks{hint}"),
            );
        }
        if matches!(attachment.node.value, Value::Map(_)) {
            attachment.section(keys::ATTACHMENT, report);
        }
    }
}
