//! Paths in a container that are backed by something outside it.
//!
//! Deliberately not here: where a volume lies; it is the node's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Violations;

/// The kernel's kinds of mount propagation, as Docker spells them.
pub const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// A path in the container that is backed by something outside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub kind: MountKind,
    /// Host path (bind) or volume name; empty for tmpfs and anonymous volumes.
    pub source: String,
    /// Absolute path in the container.
    pub target: String,
    pub read_only: bool,
    #[serde(default)]
    pub options: MountOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    Bind,
    Volume,
    Tmpfs,
}

/// What only one kind of mount has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MountOptions {
    /// Bind: one of [`PROPAGATIONS`]; empty = rprivate.
    pub propagation: String,
    /// Volume: a new one does not begin with what the image has at the path.
    pub no_copy: bool,
    /// Volume: only this folder of it.
    pub subpath: String,
    /// Volume: who makes it when it is not there; empty = the engine's local driver.
    pub driver: String,
    /// Volume: for the driver, when it is made.
    pub driver_options: BTreeMap<String, String>,
    /// Volume: when it is made.
    pub labels: BTreeMap<String, String>,
    /// Tmpfs: 0 = half of the memory of the node.
    pub size_bytes: u64,
    /// Tmpfs: permissions; 0 = 1777 (octal).
    pub mode: u32,
}

impl Mount {
    /// Keeps data on the node where it was written: a named volume of the engine's local driver that is not mounted
    /// from somewhere else.
    #[must_use]
    pub fn is_local_volume(&self) -> bool {
        self.kind == MountKind::Volume
            && !self.source.is_empty()
            && matches!(self.options.driver.as_str(), "" | "local")
            && self.options.driver_options.is_empty()
    }
}

impl MountOptions {
    /// Adds what is wrong with options of a mount of this kind.
    pub(super) fn check(&self, kind: MountKind, field: &str, found: &mut Violations) {
        let none = Self::default();
        let of_bind = self.propagation != none.propagation;
        let of_tmpfs = self.size_bytes != 0 || self.mode != 0;
        let of_volume = Self { propagation: String::new(), size_bytes: 0, mode: 0, ..self.clone() } != none;
        let misplaced = match kind {
            MountKind::Bind => of_volume || of_tmpfs,
            MountKind::Volume => of_bind || of_tmpfs,
            MountKind::Tmpfs => of_bind || of_volume,
        };
        if misplaced {
            found.add(field, "an option of another kind of mount is set");
        }
        if of_bind && !PROPAGATIONS.contains(&self.propagation.as_str()) {
            let known = PROPAGATIONS.join(", ");
            found
                .add(format!("{field}.propagation"), format!("{:?} is not one of {known}", self.propagation));
        }
        if self.subpath.starts_with('/') || self.subpath.split('/').any(|part| part == "..") {
            found.add(
                format!("{field}.subpath"),
                format!("{:?} is not a path inside the volume", self.subpath),
            );
        }
        if self.mode > 0o7777 {
            found.add(format!("{field}.mode"), format!("{:o} (octal) is more than 7777", self.mode));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_belong_to_their_kind() {
        let check = |kind, options: MountOptions| {
            let mut found = Violations::default();
            options.check(kind, "o", &mut found);
            found.0.into_iter().map(|violation| violation.field).collect::<Vec<_>>()
        };
        let none = MountOptions::default;
        for (kind, options, fields) in [
            (MountKind::Bind, none(), vec![]),
            (MountKind::Bind, MountOptions { propagation: "rshared".to_owned(), ..none() }, vec![]),
            (MountKind::Bind, MountOptions { propagation: "x".to_owned(), ..none() }, vec!["o.propagation"]),
            (MountKind::Bind, MountOptions { no_copy: true, ..none() }, vec!["o"]),
            (MountKind::Volume, MountOptions { no_copy: true, subpath: "a/b".to_owned(), ..none() }, vec![]),
            (MountKind::Volume, MountOptions { subpath: "a/../..".to_owned(), ..none() }, vec!["o.subpath"]),
            (MountKind::Volume, MountOptions { size_bytes: 1, ..none() }, vec!["o"]),
            (MountKind::Tmpfs, MountOptions { size_bytes: 1, mode: 0o1777, ..none() }, vec![]),
            (MountKind::Tmpfs, MountOptions { mode: 0o17777, ..none() }, vec!["o.mode"]),
        ] {
            assert_eq!(check(kind, options.clone()), fields, "{kind:?} {options:?}");
        }
    }
}
