//! What an agent keeps on disk to go on without masters.
//!
//! Invariant: the file is whole or absent: written beside, fsynced, renamed, the folder fsynced.
//! What is read is checked (magic, version, checksum); what does not pass is set aside, and the
//! agent starts from what the engine shows: no container stops for a bad file.
//! Deliberately not here: when to write (`worker/journal`).

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use skein_agent_core::Checkpoint;

const FILE: &str = "checkpoint";
const MAGIC: [u8; 8] = *b"SKEINAGT";
const VERSION: u32 = 1;
/// Magic, version, checksum of the rest.
const HEADER: usize = 16;

/// The bytes are not a checkpoint that this agent can use.
#[derive(Debug, thiserror::Error)]
pub enum InvalidCheckpoint {
    #[error("it does not begin with the mark of a checkpoint")]
    Foreign,
    #[error("it has version {0}; this agent knows {VERSION}")]
    Version(u32),
    #[error("its checksum is {found:08x}, and should be {expected:08x}")]
    Checksum { expected: u32, found: u32 },
    #[error("its content is malformed")]
    Content(#[from] rmp_serde::decode::Error),
}

/// What was found at start.
#[derive(Debug)]
pub enum Loaded {
    /// There is none: a new node, or one whose folder was lost.
    Absent,
    Found(Box<Checkpoint>),
    SetAside {
        to: PathBuf,
        reason: InvalidCheckpoint,
    },
}

/// # Errors
/// Only when a value cannot be written as MessagePack, which these can.
pub fn encode(checkpoint: &Checkpoint) -> Result<Vec<u8>, rmp_serde::encode::Error> {
    let mut bytes = vec![0; HEADER];
    rmp_serde::encode::write_named(&mut bytes, checkpoint)?;
    let checksum = crc32c::crc32c(&bytes[HEADER..]);
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..HEADER].copy_from_slice(&checksum.to_le_bytes());
    Ok(bytes)
}

/// # Errors
/// [`InvalidCheckpoint`] says what is wrong with the bytes.
pub fn decode(bytes: &[u8]) -> Result<Checkpoint, InvalidCheckpoint> {
    let (Some(magic), Some(version), Some(checksum), Some(content)) =
        (bytes.first_chunk::<8>(), word(bytes, 8), word(bytes, 12), bytes.get(HEADER..))
    else {
        return Err(InvalidCheckpoint::Foreign);
    };
    if *magic != MAGIC {
        return Err(InvalidCheckpoint::Foreign);
    }
    if version != VERSION {
        return Err(InvalidCheckpoint::Version(version));
    }
    let found = crc32c::crc32c(content);
    if found != checksum {
        return Err(InvalidCheckpoint::Checksum { expected: checksum, found });
    }
    Ok(rmp_serde::from_slice(content)?)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk::<4>().map(|word| u32::from_le_bytes(*word))
}

/// # Errors
/// Of the file system; a file that is there and invalid is no error.
pub fn load(folder: &Path) -> io::Result<Loaded> {
    let path = folder.join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Absent),
        Err(error) => return Err(error),
    };
    match decode(&bytes) {
        Ok(checkpoint) => Ok(Loaded::Found(Box::new(checkpoint))),
        Err(reason) => {
            let to = folder.join(format!("{FILE}.invalid"));
            fs::rename(&path, &to)?;
            Ok(Loaded::SetAside { to, reason })
        }
    }
}

/// # Errors
/// Of the file system; the file before is then still there.
pub fn save(folder: &Path, checkpoint: &Checkpoint) -> io::Result<()> {
    let bytes = encode(checkpoint).map_err(io::Error::other)?;
    replace(folder, FILE, &bytes)
}

/// Puts `bytes` in the place of the file `name`, all or nothing, durably.
///
/// # Errors
/// Of the file system; the file before is then still there.
pub fn replace(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let beside = folder.join(format!("{name}.new"));
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, folder.join(name))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use skein_agent_core::{Assignments, NodeState};
    use skein_common::Timestamp;

    use super::*;

    fn checkpoint() -> Checkpoint {
        let mut assignments = Assignments::default();
        assert!(assignments.begin_session(7).is_ok());
        Checkpoint { assignments: assignments.remembered(), records: BTreeMap::new() }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(load(folder.path()).unwrap(), Loaded::Absent));
        save(folder.path(), &checkpoint()).unwrap();
        let Loaded::Found(found) = load(folder.path()).unwrap() else { panic!("not found") };
        assert_eq!(*found, checkpoint());
        assert_eq!(NodeState::restore(*found, Timestamp::default()).assignments().term(), 7);
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_noticed() {
        let whole = encode(&checkpoint()).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 4;
            assert!(decode(&flipped).is_err(), "byte {at}");
            assert!(decode(&whole[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn an_invalid_file_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), b"nonsense").unwrap();
        assert!(matches!(load(folder.path()).unwrap(), Loaded::SetAside { .. }));
        assert!(matches!(load(folder.path()).unwrap(), Loaded::Absent));
        assert!(folder.path().join("checkpoint.invalid").exists());
    }
}
