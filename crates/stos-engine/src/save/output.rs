// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A file of the user's, which is there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use stos_store::files;

use crate::error::{Error, Result};

/// A file in the making: without a name where the filesystem has such files (`O_TMPFILE`), so that not even a `kill -9` leaves
/// one; else beside its place, under a name of its own. It goes when dropped, unless it was committed.
///
/// A device, a pipe or a socket at that place is written to as it is.
pub(crate) struct OutputFile {
    file: File,
    target: PathBuf,
    place: Place,
}

/// Where a file is until it is committed.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Where it stays: it is written to as it is.
    Final,
    /// Nowhere.
    Unnamed,
    /// Under a name of its own.
    Named(PathBuf),
}

impl OutputFile {
    pub fn create(target: &Path) -> Result<Self> {
        // Through symlinks: what they point at is what is replaced.
        let target = fs::canonicalize(target).or_else(|_| absolute(target))?;
        match fs::metadata(&target) {
            Ok(metadata) if metadata.is_dir() => return Err(refused(&target, "it is a directory".to_owned())),
            Ok(metadata) if !metadata.is_file() => {
                let file = OpenOptions::new().write(true).open(&target);
                let file = file.map_err(stos_store::Error::io("open", &target))?;
                return Ok(Self { file, target, place: Place::Final });
            }
            _ => {}
        }
        let parent = target.parent().unwrap_or(Path::new("/"));
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        if let Ok(file) = openat(CWD, parent, flags, Mode::from_raw_mode(0o666)) {
            return Ok(Self { file: file.into(), target, place: Place::Unnamed });
        }
        let staged = beside(&target);
        let file = File::create_new(&staged).map_err(stos_store::Error::io("create", &staged))?;
        Ok(Self { file, target, place: Place::Named(staged) })
    }

    /// Puts the file in its place, durably.
    pub fn commit(mut self) -> Result<()> {
        if self.place == Place::Final {
            return Ok(());
        }
        self.file.sync_all().map_err(stos_store::Error::io("sync", &self.target))?;
        if self.place == Place::Unnamed {
            let staged = beside(&self.target);
            let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            linkat(CWD, own, CWD, &staged, AtFlags::SYMLINK_FOLLOW)
                .map_err(stos_store::Error::io("name the file", &staged))?;
            self.place = Place::Named(staged);
        }
        if let Place::Named(staged) = &self.place {
            fs::rename(staged, &self.target).map_err(stos_store::Error::io("rename a file to", &self.target))?;
            self.place = Place::Final;
        }
        Ok(files::sync_parent(&self.target)?)
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Place::Named(staged) = &self.place
            && let Err(error) = files::remove_file(staged)
        {
            tracing::warn!(%error, "cannot remove what a failed save has written");
        }
    }
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    Ok(std::path::absolute(path).map_err(stos_store::Error::io("find", path))?)
}

/// Gives a name beside `target` that nothing has.
pub(super) fn beside(target: &Path) -> PathBuf {
    target.with_file_name(format!(".stos-save-{}", files::unique_name()))
}

pub(super) fn refused(path: &Path, reason: String) -> Error {
    Error::Option { option: "--output", value: path.display().to_string(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar");
        fs::write(&path, b"old").unwrap();
        let begin = || {
            let mut file = OutputFile::create(&path).unwrap();
            file.write_all(b"new").unwrap();
            file.flush().unwrap();
            file
        };
        drop(begin());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        begin().commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        // Through a symlink the file itself is replaced.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("x.tar", &link).unwrap();
        OutputFile::create(&link).unwrap().commit().unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::read_link(&link).unwrap()), (b"".to_vec(), PathBuf::from("x.tar")));
        assert_eq!(files::list_names(dir.path()).unwrap(), ["link", "x.tar"]);
    }

    #[test]
    fn where_no_file_can_be_without_a_name_it_has_one_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x");
        let begin = || {
            let staged = beside(&target);
            let file = File::create_new(&staged).unwrap();
            OutputFile { file, target: target.clone(), place: Place::Named(staged) }
        };
        drop(begin());
        assert_eq!(files::list_names(dir.path()).unwrap(), Vec::<String>::new());
        begin().commit().unwrap();
        assert_eq!(files::list_names(dir.path()).unwrap(), ["x"]);
    }

    #[test]
    fn what_is_no_file_is_written_to_or_refused() {
        let mut null = OutputFile::create(Path::new("/dev/null")).unwrap();
        null.write_all(b"x").unwrap();
        null.commit().unwrap();
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(OutputFile::create(dir.path()), Err(Error::Option { .. })));
        assert!(OutputFile::create(&dir.path().join("none/x")).is_err());
    }
}
