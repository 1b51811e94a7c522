//! Snapshot files: the whole state, checked block by block.
//!
//! Invariant: a snapshot appears under its name only when it is whole and durable (written aside,
//! synced, renamed, folder synced), and is never read past a block whose checksum fails.
//! Deliberately not here: when one is taken (openraft's policy), how one travels (`network.rs`).
//!
//! ```text
//! "SKEINSNP" | length u32 | Coverage (framed by codec.rs)
//! blocks:  length u32 | CRC32C u32 | MessagePack of ClusterState, cut anywhere
//! end:     0 u32 | CRC32C of the total u32 | total u64
//! ```

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use skein_master_core::ClusterState;

use super::{
    SnapshotMeta,
    codec::{self, Coverage, DecodeError, Kind},
};

const MAGIC: [u8; 8] = *b"SKEINSNP";
const BLOCK: usize = 1 << 18;
const MAX_HEADER: u32 = 1 << 20;

/// A snapshot on disk.
#[derive(Debug)]
pub struct SnapshotFile {
    pub path: PathBuf,
    /// What it holds, when it was just received and read.
    pub state: Option<Box<ClusterState>>,
}

/// Why a snapshot could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("cannot access the snapshot {}", file.display())]
    Io { file: PathBuf, source: io::Error },
    #[error("the snapshot {} is damaged: {what}", file.display())]
    Corrupt { file: PathBuf, what: String },
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> Self {
        let kind = match &error {
            SnapshotError::Io { source, .. } => source.kind(),
            SnapshotError::Corrupt { .. } => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// The folder of a member's snapshots.
#[derive(Debug, Clone)]
pub struct SnapshotFolder(PathBuf);

impl SnapshotFolder {
    /// Opens the folder, and forgets what was being written when the process ended.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let folder = Self(path.to_owned());
        let clean = || -> io::Result<()> {
            std::fs::create_dir_all(path)?;
            for entry in std::fs::read_dir(path)? {
                let file = entry?.path();
                if file.extension().is_some_and(|extension| extension == "tmp") {
                    std::fs::remove_file(file)?;
                }
            }
            Ok(())
        };
        clean().map_err(|source| folder.io(path, source))?;
        Ok(folder)
    }

    #[expect(clippy::unused_self, reason = "reads as the folder's error")]
    fn io(&self, file: &Path, source: io::Error) -> SnapshotError {
        SnapshotError::Io { file: file.to_owned(), source }
    }

    fn name(&self, coverage: &Coverage) -> PathBuf {
        let (term, index) = coverage.last.map_or((0, 0), |last| (last.term, last.index));
        self.0.join(format!("snapshot-{index:020}-{term:020}.snap"))
    }

    /// A file to receive a snapshot into.
    #[must_use]
    pub fn receiving(&self, number: u64) -> PathBuf {
        self.0.join(format!("received-{number}.tmp"))
    }

    /// The newest snapshot's path, by its name.
    pub fn newest(&self) -> Result<Option<PathBuf>, SnapshotError> {
        let list = || -> io::Result<Vec<PathBuf>> {
            std::fs::read_dir(&self.0)?.map(|entry| entry.map(|entry| entry.path())).collect()
        };
        let mut files = list().map_err(|source| self.io(&self.0, source))?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == "snap"));
        Ok(files.into_iter().max())
    }

    /// Writes a snapshot; blocking.
    pub fn write(&self, meta: &SnapshotMeta, state: &ClusterState) -> Result<SnapshotFile, SnapshotError> {
        let coverage = Coverage::from(meta);
        let path = self.name(&coverage).with_extension("tmp");
        write_file(&path, &coverage, state).map_err(|source| self.io(&path, source))?;
        self.adopt(&path, &coverage)
    }

    /// Gives a whole file its name and removes all older ones.
    pub fn adopt(&self, path: &Path, coverage: &Coverage) -> Result<SnapshotFile, SnapshotError> {
        let name = self.name(coverage);
        let adopt = || -> io::Result<()> {
            if path != name {
                std::fs::rename(path, &name)?;
            }
            super::log_store::sync_folder(&self.0)?;
            for entry in std::fs::read_dir(&self.0)? {
                let file = entry?.path();
                if file.extension().is_some_and(|extension| extension == "snap") && file < name {
                    std::fs::remove_file(file)?;
                }
            }
            Ok(())
        };
        adopt().map_err(|source| self.io(&name, source))?;
        Ok(SnapshotFile { path: name, state: None })
    }
}

fn write_file(path: &Path, coverage: &Coverage, state: &ClusterState) -> io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
    let mut out = BufWriter::new(file);
    let header = codec::encode(Kind::SnapshotFile, coverage).map_err(io::Error::other)?;
    out.write_all(&MAGIC)?;
    out.write_all(&u32::try_from(header.len()).map_err(io::Error::other)?.to_le_bytes())?;
    out.write_all(&header)?;
    let mut blocks = BlockWriter { out, block: Vec::with_capacity(BLOCK), total: 0 };
    rmp_serde::encode::write_named(&mut blocks, state).map_err(|error| match error {
        // A full disk stays recognisable.
        rmp_serde::encode::Error::InvalidValueWrite(error) => error.into(),
        error => io::Error::other(error),
    })?;
    blocks.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

struct BlockWriter<W> {
    out: W,
    block: Vec<u8>,
    total: u64,
}

impl<W: Write> BlockWriter<W> {
    fn write_block(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(self.block.len()).map_err(io::Error::other)?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&crc32c::crc32c(&self.block).to_le_bytes())?;
        self.out.write_all(&self.block)?;
        self.total += u64::from(length);
        self.block.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<W> {
        self.write_block()?;
        let total = self.total.to_le_bytes();
        self.out.write_all(&0_u32.to_le_bytes())?;
        self.out.write_all(&crc32c::crc32c(&total).to_le_bytes())?;
        self.out.write_all(&total)?;
        Ok(self.out)
    }
}

impl<W: Write> Write for BlockWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == BLOCK {
            self.write_block()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a snapshot; blocking.
pub fn read(path: &Path) -> Result<(SnapshotMeta, ClusterState), SnapshotError> {
    let corrupt = |what: String| SnapshotError::Corrupt { file: path.to_owned(), what };
    let file = File::open(path).map_err(|source| SnapshotError::Io { file: path.to_owned(), source })?;
    let mut input = BufReader::with_capacity(BLOCK, file);
    let coverage = read_header(&mut input).map_err(|error| corrupt(error.to_string()))?;
    let meta = coverage.try_into().map_err(|error: DecodeError| corrupt(error.to_string()))?;
    let mut blocks = BlockReader { input, block: Vec::new(), at: 0, total: 0, ended: false };
    let state = rmp_serde::from_read(&mut blocks).map_err(|error| corrupt(error.to_string()))?;
    // What follows the value must be the end, or the file is not what was written.
    match blocks.read(&mut [0; 1]) {
        Ok(0) => Ok((meta, state)),
        Ok(_) => Err(corrupt("something follows the state".to_owned())),
        Err(error) => Err(corrupt(error.to_string())),
    }
}

fn read_header(input: &mut impl Read) -> io::Result<Coverage> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut start = [0; 12];
    input.read_exact(&mut start)?;
    let length = read_u32(&start[8..]);
    if start[..8] != MAGIC || length > MAX_HEADER {
        return Err(invalid("it is not a snapshot of Skein's".to_owned()));
    }
    let mut header = vec![0; length as usize];
    input.read_exact(&mut header)?;
    codec::decode(Kind::SnapshotFile, &header).map_err(|error| invalid(error.to_string()))
}

fn read_u32(bytes: &[u8]) -> u32 {
    bytes.get(..4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes)
}

struct BlockReader<R> {
    input: R,
    block: Vec<u8>,
    at: usize,
    total: u64,
    ended: bool,
}

impl<R: Read> BlockReader<R> {
    fn next_block(&mut self) -> io::Result<()> {
        let invalid = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
        let mut header = [0; 8];
        self.input.read_exact(&mut header)?;
        let (length, crc) = (read_u32(&header) as usize, read_u32(&header[4..]));
        if length > BLOCK {
            return invalid("a block is larger than any that is written");
        }
        self.ended = length == 0;
        self.block.resize(if self.ended { 8 } else { length }, 0);
        self.input.read_exact(&mut self.block)?;
        self.at = 0;
        if crc32c::crc32c(&self.block) != crc {
            return invalid("a block's checksum does not match");
        }
        if self.ended {
            if self.block != self.total.to_le_bytes() {
                return invalid("blocks are missing");
            }
            self.block.clear();
        }
        self.total += self.block.len() as u64;
        Ok(())
    }
}

impl<R: Read> Read for BlockReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() && !self.ended {
            self.next_block()?;
        }
        let left = &self.block[self.at..];
        let taken = left.len().min(out.len());
        out[..taken].copy_from_slice(&left[..taken]);
        self.at += taken;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::log_id;

    fn written() -> (tempfile::TempDir, SnapshotFolder, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = SnapshotFolder::open(folder.path()).unwrap();
        let meta = SnapshotMeta { last_log_id: Some(log_id(3, 70)), ..SnapshotMeta::default() };
        let path = snapshots.write(&meta, &ClusterState::default()).unwrap().path;
        (folder, snapshots, path)
    }

    #[test]
    fn what_is_written_is_read_and_the_older_one_goes() {
        let (_folder, snapshots, older) = written();
        let meta = SnapshotMeta { last_log_id: Some(log_id(3, 100)), ..SnapshotMeta::default() };
        let newer = snapshots.write(&meta, &ClusterState::default()).unwrap().path;
        assert!(!older.exists());
        assert_eq!(snapshots.newest().unwrap(), Some(newer.clone()));
        assert_eq!(read(&newer).unwrap(), (meta, ClusterState::default()));
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_noticed() {
        let (_folder, _snapshots, path) = written();
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&path, &damaged).unwrap();
            assert!(matches!(read(&path), Err(SnapshotError::Corrupt { .. })), "byte {at}");
            std::fs::write(&path, &bytes[..at]).unwrap();
            assert!(matches!(read(&path), Err(SnapshotError::Corrupt { .. })), "cut at {at}");
        }
    }
}
