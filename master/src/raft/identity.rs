//! Who this member is: its name, its number, and the formation of its cluster.
//!
//! Invariant: written once and never changed, except that a member which waited to be added
//! learns its formation at the first contact. Peers of another formation are refused, so a
//! wrong address in a flag cannot join two clusters.
//! Deliberately not here: the cluster's id on labels (`ClusterId`, replicated state).

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use serde::{Deserialize, Serialize};

use super::{
    MemberNode,
    codec::{self, DecodeError, Kind},
    fnv1a, member_id,
};

const FILE: &str = "identity";

/// Why a member's identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot read or write {}", file.display())]
    Io { file: PathBuf, source: io::Error },
    #[error("{} is damaged; restore it from a copy, or remove this master and add it again", file.display())]
    Corrupt { file: PathBuf, source: DecodeError },
    #[error("{} belongs to master {found:?}, not {expected:?}: start it with its own name", file.display())]
    OtherName { file: PathBuf, found: String, expected: String },
    #[error("this master, {name:?}, is not among the initial masters")]
    NotInitial { name: String },
    #[error("the initial masters {first:?} and {second:?} have the same number: rename one of them")]
    SameId { first: String, second: String },
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    name: String,
    id: u64,
    formation: Option<u64>,
}

/// What tells one cluster's members from another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formation(pub u64);

impl Formation {
    /// Every initial master computes the same one from the same list, whatever its order.
    #[must_use]
    pub fn of(masters: &[MemberNode]) -> Self {
        let mut parts: Vec<String> =
            masters.iter().map(|master| format!("{}={}\n", master.name, master.cluster_address)).collect();
        parts.sort();
        Self(fnv1a(parts.concat().as_bytes()).max(1))
    }

    #[must_use]
    pub fn text(self) -> String {
        format!("{:016x}", self.0)
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

/// This member's identity, shared by everything that talks to peers.
#[derive(Debug, Clone)]
pub struct Identity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    name: String,
    id: u64,
    formation: OnceLock<Formation>,
}

impl Identity {
    /// Reads the identity in `folder`, or writes a new one. `initial` counts only the first time.
    pub fn open(folder: &Path, name: &str, initial: &[MemberNode]) -> Result<Self, IdentityError> {
        let file = folder.join(FILE);
        let stored = match fs::read(&file) {
            Ok(bytes) => codec::decode::<Stored>(Kind::Identity, &bytes)
                .map_err(|source| IdentityError::Corrupt { file: file.clone(), source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                check_initial(name, initial)?;
                let formation = (!initial.is_empty()).then(|| Formation::of(initial).0);
                let stored = Stored { name: name.to_owned(), id: member_id(name), formation };
                write(folder, &stored).map_err(|source| IdentityError::Io { file: file.clone(), source })?;
                stored
            }
            Err(source) => return Err(IdentityError::Io { file, source }),
        };
        if stored.name != name {
            return Err(IdentityError::OtherName { file, found: stored.name, expected: name.to_owned() });
        }
        let formation = OnceLock::new();
        if let Some(known) = stored.formation {
            let _ = formation.set(Formation(known));
        }
        Ok(Self(Arc::new(Inner { folder: folder.to_owned(), name: stored.name, id: stored.id, formation })))
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    #[must_use]
    pub fn formation(&self) -> Option<Formation> {
        self.0.formation.get().copied()
    }

    /// Whether a peer of `formation` is one of ours; learns it when none is known yet.
    pub fn admit(&self, formation: Formation) -> io::Result<bool> {
        if self.formation().is_none() {
            let stored = Stored { name: self.0.name.clone(), id: self.0.id, formation: Some(formation.0) };
            write(&self.0.folder, &stored)?;
        }
        Ok(*self.0.formation.get_or_init(|| formation) == formation)
    }
}

fn check_initial(name: &str, initial: &[MemberNode]) -> Result<(), IdentityError> {
    if !initial.is_empty() && initial.iter().all(|master| master.name != name) {
        return Err(IdentityError::NotInitial { name: name.to_owned() });
    }
    for (position, first) in initial.iter().enumerate() {
        for second in &initial[position + 1..] {
            if member_id(&first.name) == member_id(&second.name) {
                return Err(IdentityError::SameId { first: first.name.clone(), second: second.name.clone() });
            }
        }
    }
    Ok(())
}

fn write(folder: &Path, stored: &Stored) -> io::Result<()> {
    let bytes = codec::encode(Kind::Identity, stored).map_err(io::Error::other)?;
    let aside = folder.join("identity.tmp");
    let mut file = File::create(&aside)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&aside, folder.join(FILE))?;
    super::log_store::sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masters(names: &[&str]) -> Vec<MemberNode> {
        let node = |name: &&str| MemberNode {
            name: (*name).to_owned(),
            api_address: String::new(),
            cluster_address: format!("{name}:7071"),
        };
        names.iter().map(node).collect()
    }

    #[test]
    fn the_first_start_decides() {
        let folder = tempfile::tempdir().unwrap();
        let first = Identity::open(folder.path(), "m1", &masters(&["m1", "m2"])).unwrap();
        let again = Identity::open(folder.path(), "m1", &masters(&["m1", "m9"])).unwrap();
        assert_eq!(first.formation(), Some(Formation::of(&masters(&["m2", "m1"]))));
        assert_eq!(again.formation(), first.formation());
        let other = Identity::open(folder.path(), "m2", &[]);
        assert!(matches!(other, Err(IdentityError::OtherName { .. })));
    }

    #[test]
    fn who_waits_learns_its_formation_once() {
        let folder = tempfile::tempdir().unwrap();
        let waiting = Identity::open(folder.path(), "m4", &[]).unwrap();
        assert_eq!(waiting.formation(), None);
        assert!(waiting.admit(Formation(7)).unwrap());
        assert!(!waiting.admit(Formation(8)).unwrap());
        let again = Identity::open(folder.path(), "m4", &[]).unwrap();
        assert_eq!(again.formation(), Some(Formation(7)));
    }

    #[test]
    fn damage_and_contradictions_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let stranger = Identity::open(folder.path(), "m3", &masters(&["m1", "m2"]));
        assert!(matches!(stranger, Err(IdentityError::NotInitial { .. })));
        let twice = Identity::open(folder.path(), "m1", &masters(&["m1", "m1"]));
        assert!(matches!(twice, Err(IdentityError::SameId { .. })));
        drop(Identity::open(folder.path(), "m1", &[]).unwrap());
        let file = folder.path().join("identity");
        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&file, bytes).unwrap();
        assert!(matches!(Identity::open(folder.path(), "m1", &[]), Err(IdentityError::Corrupt { .. })));
    }
}
