//! Configs: files that services mount, kept by the masters and delivered to the nodes that need them.
//!
//! Invariant: the content of a config never changes; another content is another config. A spec names
//! configs by name, and holds the id that the name had when the spec was accepted.
//! Deliberately not here: secrets, which will travel the same way.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{ConfigId, Revision, Timestamp, Violations};

/// As Docker: a config is a configuration file, not data.
pub const MAX_CONFIG_BYTES: usize = 500 * 1024;
/// Of all configs together: they are part of every snapshot.
pub const MAX_ALL_CONFIG_BYTES: usize = 64 * 1024 * 1024;
const MAX_NAME: usize = 64;
/// Readable by everybody in the container.
pub const DEFAULT_CONFIG_MODE: u32 = 0o444;
const MAX_MODE: u32 = 0o7777;

/// What a user makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigSpec {
    /// Unique in the cluster: letters, digits, `_`, `.`, `-`; at most 64 characters.
    pub name: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    pub content: Content,
}

/// A config as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    pub id: ConfigId,
    pub spec: ConfigSpec,
    pub created_at: Timestamp,
    pub created_revision: Revision,
}

/// A config in a container: a file that can only be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigMount {
    /// Its name.
    pub config: String,
    /// What the name meant when the spec was accepted; `None` before.
    #[serde(default)]
    pub id: Option<ConfigId>,
    /// Absolute path in the container; empty = `/<config>`.
    #[serde(default)]
    pub target: String,
    #[serde(default)]
    pub uid: u32,
    #[serde(default)]
    pub gid: u32,
    /// `None` = 0444 (octal).
    #[serde(default)]
    pub mode: Option<u32>,
}

/// A config that something names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConfigRef {
    /// Its name.
    pub config: String,
    /// What the name meant when the spec was accepted; `None` before.
    #[serde(default)]
    pub id: Option<ConfigId>,
}

impl ConfigRef {
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self { config: name.into(), id: None }
    }

    pub(crate) fn check(&self, field: &str, found: &mut Violations) {
        if let Some(why) = wrong_name(&self.config) {
            found.add(field, why);
        }
    }
}

impl ConfigMount {
    /// Where the container finds it.
    #[must_use]
    pub fn path(&self) -> String {
        if self.target.is_empty() { format!("/{}", self.config) } else { self.target.clone() }
    }

    /// Permissions of the file.
    #[must_use]
    pub fn permissions(&self) -> u32 {
        self.mode.unwrap_or(DEFAULT_CONFIG_MODE)
    }

    pub(crate) fn check(&self, field: &str, found: &mut Violations) {
        if let Some(why) = wrong_name(&self.config) {
            found.add(format!("{field}.config"), why);
        }
        let path = self.path();
        let is_file = path.starts_with('/') && !path.ends_with('/') && !path.contains('\0');
        if !is_file || path.split('/').any(|part| part == "..") {
            found.add(format!("{field}.target"), format!("{path:?} is not an absolute path of a file"));
        }
        if self.permissions() > MAX_MODE {
            found.add(format!("{field}.mode"), format!("{:o} (octal) is more than 7777", self.permissions()));
        }
    }
}

impl ConfigSpec {
    /// Everything that is wrong with it; empty when it is valid.
    #[must_use]
    pub fn violations(&self) -> Violations {
        let mut found = Violations::default();
        if let Some(why) = wrong_name(&self.name) {
            found.add("spec.name", why);
        }
        let size = self.content.len();
        if size > MAX_CONFIG_BYTES {
            found.add("spec.content", format!("{size} bytes are more than the limit of {MAX_CONFIG_BYTES}"));
        }
        let labels: usize = self.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        if labels > MAX_CONFIG_BYTES {
            found.add("spec.labels", format!("{labels} bytes are more than the limit of {MAX_CONFIG_BYTES}"));
        }
        found
    }
}

fn wrong_name(name: &str) -> Option<String> {
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let valid = begins
        && name.len() <= MAX_NAME
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    (!valid).then(|| {
        format!("{name:?} is not a name: letters, digits, `_`, `.`, `-`, at most {MAX_NAME}, a letter or digit first")
    })
}

/// Bytes that are shared, never changed, and stored as they are.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Content(Arc<Vec<u8>>);

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(bytes))
    }
}

impl std::ops::Deref for Content {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(Bytes)
    }
}

struct Bytes;

impl<'de> de::Visitor<'de> for Bytes {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Content, E> {
        Ok(bytes.to_vec().into())
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Content, E> {
        Ok(bytes.into())
    }

    /// As text formats spell them.
    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = seq.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named_by_field() {
        let spec = |name: &str, size| ConfigSpec {
            name: name.to_owned(),
            labels: BTreeMap::new(),
            content: vec![0; size].into(),
        };
        for (spec, fields) in [
            (spec("shop_app.conf-1", MAX_CONFIG_BYTES), vec![]),
            (spec("", 0), vec!["spec.name"]),
            (spec("_a", 0), vec!["spec.name"]),
            (spec("a/b", MAX_CONFIG_BYTES + 1), vec!["spec.name", "spec.content"]),
        ] {
            let found: Vec<_> = spec.violations().0.into_iter().map(|one| one.field).collect();
            assert_eq!(found, fields, "{spec:?}");
        }
        let mount = |target: &str, mode| ConfigMount {
            config: "a".to_owned(),
            id: None,
            target: target.to_owned(),
            uid: 0,
            gid: 0,
            mode,
        };
        for (mount, fields) in [
            (mount("", None), vec![]),
            (mount("/etc/a.conf", Some(0o440)), vec![]),
            (mount("etc/a.conf", Some(0o10000)), vec!["c.target", "c.mode"]),
            (mount("/etc/../a", None), vec!["c.target"]),
            (mount("/etc/", None), vec!["c.target"]),
        ] {
            let mut found = Violations::default();
            mount.check("c", &mut found);
            let found: Vec<_> = found.0.into_iter().map(|one| one.field).collect();
            assert_eq!(found, fields, "{mount:?}");
        }
    }
}
