// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the files of a save go: into a tar, or into a directory.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use stos_store::files;
use tar::{EntryType, Header};

use crate::error::Result;

/// Takes files one after the other.
pub(super) trait Sink {
    /// Writes a file of `size` bytes. Whoever reads `from` proves them.
    ///
    /// # Errors
    /// Where `from` ends before; what it has beyond is left alone.
    fn add_stream(&mut self, name: &str, size: u64, from: &mut dyn Read) -> Result<()>;

    /// Writes a small file.
    fn add_bytes(&mut self, name: &str, mut bytes: &[u8]) -> Result<()> {
        self.add_stream(name, bytes.len() as u64, &mut bytes)
    }
}

/// Copies `size` bytes; `name` is what errors call them.
fn copy(from: &mut dyn Read, size: u64, to: &mut dyn Write, name: &str) -> Result<()> {
    let mut left = size;
    let mut buffer = vec![0; 256 << 10];
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = match from.read(&mut buffer[..most]) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("it ends {left} bytes early"))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other,
        };
        let count = count.map_err(stos_store::Error::io("read", name))?;
        to.write_all(&buffer[..count]).map_err(stos_store::Error::io("write", name))?;
        left -= count as u64;
    }
    Ok(())
}

/// A tar in the making: ustar headers, owned by root, of no time, so that the same files give the same bytes.
pub(super) struct TarSink<'a> {
    out: &'a mut dyn Write,
}

impl<'a> TarSink<'a> {
    pub fn new(out: &'a mut dyn Write) -> Self {
        Self { out }
    }

    /// Ends the archive.
    pub fn finish(self) -> Result<()> {
        let ended = self.out.write_all(&[0; 1024]).and_then(|()| self.out.flush());
        Ok(ended.map_err(stos_store::Error::io("write", "the end of the archive"))?)
    }
}

impl Sink for TarSink<'_> {
    fn add_stream(&mut self, name: &str, size: u64, from: &mut dyn Read) -> Result<()> {
        let write = |error| stos_store::Error::io("write", name)(error);
        let mut header = Header::new_ustar();
        header.set_path(name).map_err(write)?;
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        // From 8 GiB on in base 256, which GNU, Go and libarchive read.
        header.set_size(size);
        header.set_cksum();
        self.out.write_all(header.as_bytes()).map_err(write)?;
        copy(from, size, self.out, name)?;
        let padding = size.next_multiple_of(512) - size;
        Ok(self.out.write_all(&[0; 512][..usize::try_from(padding).unwrap_or_default()]).map_err(write)?)
    }
}

/// A directory in the making, beside where it is to stand; it goes when dropped, unless it was committed.
pub(super) struct DirectorySink {
    target: PathBuf,
    staged: PathBuf,
    is_committed: bool,
}

impl DirectorySink {
    /// Begins a directory that will stand at `target`, where nothing is yet, or an empty directory.
    pub fn new(target: &Path) -> Result<Self> {
        let target = super::output::absolute(target)?;
        match fs::read_dir(&target).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => {
                let reason = "expected a directory that is new or empty, found one with files in it".to_owned();
                return Err(super::output::refused(&target, reason));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(super::output::refused(&target, error.to_string())),
        }
        let staged = super::output::beside(&target);
        fs::create_dir(&staged).map_err(stos_store::Error::io("create the directory", &staged))?;
        let sink = Self { target, staged, is_committed: false };
        let blobs = sink.staged.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(stos_store::Error::io("create the directory", &blobs))?;
        Ok(sink)
    }

    /// Puts the directory where it is to stand, durably.
    pub fn commit(mut self) -> Result<()> {
        files::sync_filesystem_of(&self.staged)?;
        fs::rename(&self.staged, &self.target).map_err(stos_store::Error::io("rename a directory to", &self.target))?;
        self.is_committed = true;
        Ok(files::sync_parent(&self.target)?)
    }
}

impl Sink for DirectorySink {
    fn add_stream(&mut self, name: &str, size: u64, from: &mut dyn Read) -> Result<()> {
        let path = self.staged.join(name);
        let mut file = File::create_new(&path).map_err(stos_store::Error::io("create", &path))?;
        copy(from, size, &mut file, name)
    }
}

impl Drop for DirectorySink {
    fn drop(&mut self) {
        if !self.is_committed
            && let Err(error) = files::remove_tree(&self.staged)
        {
            tracing::warn!(%error, "cannot remove what a failed save has written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tar_of_the_same_files_is_the_same_and_a_reader_that_ends_early_fails() {
        let write = || {
            let mut out = Vec::new();
            let mut sink = TarSink::new(&mut out);
            sink.add_stream("a", 3, &mut &b"abcd"[..]).unwrap();
            sink.add_bytes("blobs/sha256/x", b"").unwrap();
            sink.finish().unwrap();
            out
        };
        assert_eq!(write(), write());
        assert_eq!(write().len(), 512 + 512 + 512 + 1024);
        let mut out = Vec::new();
        let error = TarSink::new(&mut out).add_stream("a", 3, &mut &b"ab"[..]).unwrap_err();
        assert!(error.to_string().contains("1 bytes early"), "{error}");
    }

    #[test]
    fn a_directory_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let names = || files::list_names(dir.path()).unwrap();
        for target in ["new", "empty"] {
            let path = dir.path().join(target);
            if target == "empty" {
                fs::create_dir(&path).unwrap();
            }
            let mut sink = DirectorySink::new(&path).unwrap();
            sink.add_bytes("index.json", b"{}").unwrap();
            assert!(!path.join("index.json").exists());
            drop(sink);
            assert_eq!(names().len(), usize::from(target == "empty") * 2, "{:?}", names());
            let mut sink = DirectorySink::new(&path).unwrap();
            sink.add_bytes("blobs/sha256/x", b"x").unwrap();
            sink.commit().unwrap();
            assert_eq!(fs::read(path.join("blobs/sha256/x")).unwrap(), b"x");
        }
        assert_eq!(names(), ["empty", "new"]);
        assert!(DirectorySink::new(&dir.path().join("new")).is_err(), "it has files");
        fs::write(dir.path().join("file"), b"x").unwrap();
        assert!(DirectorySink::new(&dir.path().join("file")).is_err());
        assert!(DirectorySink::new(&dir.path().join("none/x")).is_err());
    }
}
