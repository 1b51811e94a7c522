//! Who this node is, across restarts: its folder, its id, how often it started, whose it is.
//!
//! Invariant: one process per folder (an advisory lock held for life); the incarnation on disk
//! is at least the one in use before anybody hears of it; the cluster, once known, never changes.
//! Deliberately not here: the checkpoint, which may be lost without harm; this file may not.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use skein_common::{ClusterId, NodeId};

use crate::checkpoint;

const LOCK: &str = "lock";
const FILE: &str = "identity";

/// The folder cannot be this agent's.
#[derive(Debug, thiserror::Error)]
pub enum OpenIdentityError {
    #[error("the data folder {} is in use by another agent", .0.display())]
    InUse(PathBuf),
    #[error("{}: line {line}: {text:?} is not understood; restore the file, or remove it to join as a new node", .path.display())]
    Malformed { path: PathBuf, line: usize, text: String },
    #[error("the data folder {} cannot be used", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Who this node is.
#[derive(Debug)]
pub struct Identity {
    pub node: NodeId,
    /// Grows with every start.
    pub incarnation: u64,
    /// Learnt at the first Welcome.
    pub cluster: Option<ClusterId>,
    home: Option<Home>,
}

#[derive(Debug)]
struct Home {
    folder: PathBuf,
    /// Held until the process ends.
    _lock: File,
}

impl Identity {
    /// Of an agent that keeps nothing.
    #[must_use]
    pub fn in_memory(node: NodeId) -> Self {
        Self { node, incarnation: 1, cluster: None, home: None }
    }

    /// Opens a folder, makes it when absent, and counts this start. `bits` becomes the id of a
    /// new node.
    ///
    /// # Errors
    /// [`OpenIdentityError`], which names the folder or file.
    pub fn open(folder: &Path, bits: u64) -> Result<Self, OpenIdentityError> {
        let failed = |source| OpenIdentityError::Io { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        let lock = File::create(folder.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenIdentityError::InUse(folder.to_owned())),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let path = folder.join(FILE);
        let mut identity = match fs::read_to_string(&path) {
            Ok(text) => {
                parse(&text).map_err(|(line, text)| OpenIdentityError::Malformed { path, line, text })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self { node: NodeId::from_random(bits), incarnation: 0, cluster: None, home: None }
            }
            Err(source) => return Err(OpenIdentityError::Io { path, source }),
        };
        identity.incarnation += 1;
        identity.home = Some(Home { folder: folder.to_owned(), _lock: lock });
        identity.save().map_err(failed)?;
        Ok(identity)
    }

    /// Where the checkpoint goes.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.home.as_ref().map(|home| home.folder.as_path())
    }

    /// Belongs to `cluster` from now on.
    ///
    /// # Errors
    /// Of the file system; nothing has changed then.
    pub fn join(&mut self, cluster: ClusterId) -> io::Result<()> {
        let before = self.cluster.replace(cluster);
        self.save().inspect_err(|_| self.cluster = before)
    }

    fn save(&self) -> io::Result<()> {
        let Some(home) = &self.home else { return Ok(()) };
        let mut text = format!("node {}\nincarnation {}\n", self.node, self.incarnation);
        if let Some(cluster) = self.cluster {
            text.push_str(&format!("cluster {cluster}\n"));
        }
        checkpoint::replace(&home.folder, FILE, text.as_bytes())
    }
}

/// `key value` a line; the first line that is not understood is the error.
fn parse(text: &str) -> Result<Identity, (usize, String)> {
    let (mut node, mut incarnation, mut cluster) = (None, None, None);
    for (number, line) in (1..).zip(text.lines()) {
        let known = match line.split_once(' ') {
            Some(("node", value)) => value.parse().map(|id| node = Some(id)).is_ok(),
            Some(("incarnation", value)) => value.parse().map(|count| incarnation = Some(count)).is_ok(),
            Some(("cluster", value)) => value.parse().map(|id| cluster = Some(id)).is_ok(),
            _ => false,
        };
        if !known {
            return Err((number, line.to_owned()));
        }
    }
    match (node, incarnation) {
        (Some(node), Some(incarnation)) => Ok(Identity { node, incarnation, cluster, home: None }),
        _ => Err((text.lines().count() + 1, String::new())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_survives_and_counts_its_starts() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Identity::open(folder.path(), 42).unwrap();
        assert_eq!((first.node.get(), first.incarnation, first.cluster), (42, 1, None));
        first.join(ClusterId::from_random(7)).unwrap();
        drop(first);
        let second = Identity::open(folder.path(), 43).unwrap();
        assert_eq!((second.node.get(), second.incarnation), (42, 2));
        assert_eq!(second.cluster, Some(ClusterId::from_random(7)));
    }

    #[test]
    fn one_process_per_folder() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Identity::open(folder.path(), 1).unwrap();
        assert!(matches!(Identity::open(folder.path(), 2), Err(OpenIdentityError::InUse(_))));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let id = NodeId::from_random(1);
        for (text, line) in [
            (String::new(), 1),
            (format!("node {id}\n"), 2),
            (format!("node {id}\nincarnation many\n"), 2),
            (format!("node {id}\nincarnation 3\ncolour blue\n"), 3),
            ("node x\n".to_owned(), 1),
        ] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(FILE), &text).unwrap();
            match Identity::open(folder.path(), 1) {
                Err(OpenIdentityError::Malformed { line: found, .. }) => assert_eq!(found, line, "{text:?}"),
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }
}
