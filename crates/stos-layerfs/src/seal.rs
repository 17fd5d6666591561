// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Seals: how to tell by one stat that a file is still the one that was proved.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use stos_spec::{BlobDigest, DigestHasher};

use crate::error::{Error, Result};

/// How closely an image is looked at before a container is made from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Integrity {
    /// Each file has the size, times and inode that it had when it was proved; one that has not is hashed.
    #[default]
    Sealed,
    /// Every byte is hashed.
    Full,
    /// Nothing is looked at, but that the image is there.
    None,
}

/// How files are examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Examination {
    /// How closely.
    pub integrity: Integrity,
    /// Whether seals may be written: renewed where files are right, broken where they are wrong under an intact one. Nothing else
    /// is ever written by an examination; in a store that may only be read not even those.
    pub reseals: bool,
}

/// What can be wrong with a file or a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Problem {
    /// It is not there.
    Missing,
    /// It is longer or shorter than it was.
    Size,
    /// What it holds is not what was proved.
    Altered,
    /// It cannot be read as what it should be: the disk does not give it, or a record is none.
    Unreadable,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) problem: Problem,
    pub(crate) expected: String,
    pub(crate) found: String,
}

/// What the examination of a sealed file gave.
#[derive(Debug, Default)]
pub(crate) struct SealReport {
    pub(crate) wrong: Option<Wrong>,
    /// How many bytes were hashed for it.
    pub(crate) hashed: u64,
}

/// What a file was when its bytes were hashed.
///
/// Any write changes the times, any replacement the inode. Bits that rot silently change neither: only hashing every byte finds those.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// SHA-256 of the contents.
    pub sha256: BlobDigest,
    /// Size in bytes.
    pub size: u64,
    /// Inode number.
    pub inode: u64,
    /// Time of the last change of its contents: seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Time of the last change of its inode: seconds and nanoseconds.
    pub ctime: (i64, i64),
}

/// What a look at a sealed file found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealState {
    /// Size, times and inode are those of the seal.
    Intact,
    /// Size or times or inode differ: only its bytes can tell.
    Changed,
}

impl Seal {
    /// Seals an open file whose contents hash to `sha256`.
    pub fn of(file: &File, sha256: BlobDigest, path: &Path) -> Result<Self> {
        let metadata = file.metadata().map_err(Error::io("stat", path))?;
        Ok(Self::from_metadata(&metadata, sha256))
    }

    fn from_metadata(metadata: &std::fs::Metadata, sha256: BlobDigest) -> Self {
        Self {
            sha256,
            size: metadata.len(),
            inode: metadata.ino(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Looks at the file without reading it.
    pub fn look(&self, path: &Path) -> Result<SealState> {
        let metadata = std::fs::metadata(path).map_err(Error::io("stat", path))?;
        let now = Self::from_metadata(&metadata, self.sha256);
        Ok(if now == *self { SealState::Intact } else { SealState::Changed })
    }

    /// Looks at the file `name` below the open directory `dir` without reading it.
    pub(crate) fn look_at(&self, dir: &File, name: &str) -> rustix::io::Result<SealState> {
        let stat = rustix::fs::statat(dir, name, rustix::fs::AtFlags::empty())?;
        let is_same = u64::try_from(stat.st_size) == Ok(self.size)
            && stat.st_ino == self.inode
            && (stat.st_mtime, i64::try_from(stat.st_mtime_nsec)) == (self.mtime.0, Ok(self.mtime.1))
            && (stat.st_ctime, i64::try_from(stat.st_ctime_nsec)) == (self.ctime.0, Ok(self.ctime.1));
        Ok(if is_same { SealState::Intact } else { SealState::Changed })
    }

    /// Looks at the file without reading it: how its seal stands where `integrity` asks for its bytes to be proved, or `None`
    /// where the look was enough. A missing file is damage, whose error `damaged` makes.
    pub(crate) fn look_for(
        &self,
        path: &Path,
        integrity: Integrity,
        damaged: impl Fn(String, String) -> Error,
    ) -> Result<Option<SealState>> {
        let state = match self.look(path) {
            Err(Error::Store(error)) if error.is_not_found() => {
                return Err(damaged("a file".to_owned(), "none".to_owned()));
            }
            other => other?,
        };
        let is_enough = match integrity {
            Integrity::None => true,
            Integrity::Sealed => state == SealState::Intact,
            Integrity::Full => false,
        };
        Ok((!is_enough).then_some(state))
    }

    /// Looks at the file as closely as `integrity` says, and renews the seal where it does not hold and the bytes are right.
    ///
    /// `damaged` makes the error from what was expected and what was found. Damage under an intact seal breaks the seal.
    pub(crate) fn check(
        &mut self,
        path: &Path,
        integrity: Integrity,
        damaged: impl Fn(String, String) -> Error,
    ) -> Result<()> {
        match self.examine(path, Examination { integrity, reseals: true })?.wrong {
            None => Ok(()),
            Some(Wrong { expected, found, .. }) => Err(damaged(expected, found)),
        }
    }

    /// Looks at the file and tells what is wrong with it. The seal is renewed, in memory, where it does not hold and the bytes
    /// are right; that of a file which is wrong under an intact one is broken, where `how` lets that be.
    ///
    /// # Errors
    /// What the process or the host is to blame for. A file that is missing or that the disk cannot give is wrong.
    pub(crate) fn examine(&mut self, path: &Path, how: Examination) -> Result<SealReport> {
        let wrong = |problem, expected: String, found: String, hashed| {
            Ok(SealReport { wrong: Some(Wrong { problem, expected, found }), hashed })
        };
        let metadata = match std::fs::metadata(path).map_err(Error::io("stat", path)) {
            Err(Error::Store(error)) if error.is_not_found() => {
                return wrong(Problem::Missing, "a file".to_owned(), "none".to_owned(), 0);
            }
            other => other?,
        };
        let is_intact = Self::from_metadata(&metadata, self.sha256) == *self;
        match how.integrity {
            Integrity::None => return Ok(SealReport::default()),
            Integrity::Sealed if is_intact => return Ok(SealReport::default()),
            Integrity::Sealed | Integrity::Full => {}
        }
        if metadata.len() != self.size {
            let bytes = |count| format!("{count} bytes");
            return wrong(Problem::Size, bytes(self.size), bytes(metadata.len()), 0);
        }
        let (problem, found) = match self.prove(path) {
            Ok(Ok(renewed)) => {
                *self = renewed;
                return Ok(SealReport { wrong: None, hashed: metadata.len() });
            }
            Ok(Err(found)) => (Problem::Altered, found.to_string()),
            Err(Error::Store(error)) if error.is_unreadable() => (Problem::Unreadable, error.to_string()),
            Err(error) => return Err(error),
        };
        if is_intact && how.reseals {
            break_seal(path);
        }
        wrong(problem, self.sha256.to_string(), found, metadata.len())
    }

    /// Hashes the file: its new seal where the bytes are the sealed ones, else what they hash to.
    pub fn prove(&self, path: &Path) -> Result<std::result::Result<Self, BlobDigest>> {
        let mut file = stos_store::files::open(path)?;
        // Looked at before it is read: what is written to it meanwhile breaks the new seal.
        let before = file.metadata().map_err(Error::io("stat", path))?;
        let found = hash(&mut file, path)?;
        Ok(if found == self.sha256 { Ok(Self::from_metadata(&before, found)) } else { Err(found) })
    }
}

/// Breaks every seal of a file whose bytes have turned out wrong under an intact one, by giving it new times, durably: who
/// looks at it hashes it from now on, so no container runs from it and a pull fetches it again.
pub(crate) fn break_seal(path: &Path) {
    let broken = File::open(path).and_then(|file| {
        file.set_modified(std::time::SystemTime::now())?;
        file.sync_all()
    });
    if let Err(error) = broken {
        // The damage itself is what the caller tells.
        tracing::warn!(path = %path.display(), %error, "cannot mark the damaged file");
    }
}

/// The same for a directory: touched, it is proved by whoever looks at it.
pub(crate) fn break_directory_seal(path: &Path) {
    // The time that it has: setting it changes the inode's own time, which is all that is wanted.
    let broken = File::open(path).and_then(|directory| {
        directory.set_modified(directory.metadata()?.modified()?)?;
        directory.sync_all()
    });
    if let Err(error) = broken {
        // The damage itself is what the caller tells.
        tracing::warn!(path = %path.display(), %error, "cannot mark the damaged directory");
    }
}

/// Hashes a file of which nothing is known, and gives its length too.
pub(crate) fn hash_file(path: &Path) -> Result<(BlobDigest, u64)> {
    let mut file = stos_store::files::open(path)?;
    let digest = hash(&mut file, path)?;
    let size = file.metadata().map_err(Error::io("stat", path))?.len();
    Ok((digest, size))
}

fn hash(file: &mut File, path: &Path) -> Result<BlobDigest> {
    let mut hasher = DigestHasher::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer).map_err(Error::io("read", path))? {
            0 => return Ok(BlobDigest::from_bytes(hasher.finish())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// A writer that hashes what passes.
pub(crate) struct HashingWriter<W> {
    inner: W,
    hasher: DigestHasher,
}

impl<W: Write> HashingWriter<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, hasher: DigestHasher::default() }
    }

    /// Gives the writer back, with the digest of all that passed.
    pub(crate) fn finish(self) -> (W, BlobDigest) {
        (self.inner, BlobDigest::from_bytes(self.hasher.finish()))
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// A reader that hashes what passes.
pub(crate) struct HashingReader<R> {
    inner: R,
    hasher: DigestHasher,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hasher: DigestHasher::default() }
    }

    /// Gives the digest of all that passed.
    pub(crate) fn finish(self) -> BlobDigest {
        BlobDigest::from_bytes(self.hasher.finish())
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(into)?;
        self.hasher.update(&into[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_holds_until_the_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, b"abc").unwrap();
        let seal = Seal::of(&File::open(&path).unwrap(), BlobDigest::of(b"abc"), &path).unwrap();
        assert_eq!(seal.look(&path).unwrap(), SealState::Intact);
        let open_dir = File::open(dir.path()).unwrap();
        assert_eq!(seal.look_at(&open_dir, "x").unwrap(), SealState::Intact);
        assert!(seal.look_at(&open_dir, "none").is_err());
        // A copy has other times and another inode, but the same bytes.
        let copy = dir.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        assert_eq!(seal.look(&copy).unwrap(), SealState::Changed);
        assert_eq!(seal.look_at(&open_dir, "copy").unwrap(), SealState::Changed);
        let renewed = seal.prove(&copy).unwrap().unwrap();
        assert_eq!(renewed.look(&copy).unwrap(), SealState::Intact);
        std::fs::write(&path, b"abd").unwrap();
        assert_eq!(seal.look(&path).unwrap(), SealState::Changed);
        assert_eq!(seal.prove(&path).unwrap(), Err(BlobDigest::of(b"abd")));
        assert!(seal.look(&dir.path().join("none")).is_err());
        let before = renewed.look(&copy).unwrap();
        break_seal(&copy);
        assert_eq!((before, renewed.look(&copy).unwrap()), (SealState::Intact, SealState::Changed));
    }

    #[test]
    fn what_passes_a_hashing_writer_is_hashed() {
        let mut writer = HashingWriter::new(Vec::new());
        writer.write_all(b"ab").unwrap();
        writer.write_all(b"c").unwrap();
        writer.flush().unwrap();
        assert_eq!(writer.finish(), (b"abc".to_vec(), BlobDigest::of(b"abc")));
    }
}
