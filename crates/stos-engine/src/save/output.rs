// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A file of the user's, which is there whole or not at all.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use stos_store::files;

use crate::error::{Error, Result};

/// A file in the making: without a name where the filesystem has such files (`O_TMPFILE`), so that not even a `kill -9` leaves
/// one; else beside its place, under a name of its own. It goes when dropped, unless it was committed.
///
/// A file that it replaces gives it its mode and its owner, before anything is written; a new one has 0644 less the umask.
///
/// A device, a pipe or a socket at that place is written to as it is.
pub struct OutputFile {
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
    /// Begins the file that will stand at `target`, which `option` names.
    ///
    /// # Errors
    /// [`Error::Option`] for a directory; [`Error::Output`] where no file can be made.
    pub fn create(target: &Path, option: &'static str) -> Result<Self> {
        // Through symlinks: what they point at is what is replaced.
        let target = fs::canonicalize(target).or_else(|_| absolute(target))?;
        let replaced = match fs::metadata(&target) {
            Ok(metadata) if metadata.is_dir() => {
                let (value, reason) = (target.display().to_string(), "it is a directory".to_owned());
                return Err(Error::Option { option, value, reason });
            }
            Ok(metadata) if !metadata.is_file() => {
                let file = OpenOptions::new().write(true).open(&target);
                let file = file.map_err(Error::output("open", &target))?;
                return Ok(Self { file, target, place: Place::Final });
            }
            other => other.ok(),
        };
        let staged = Self::begin(target, if replaced.is_some() { 0o600 } else { 0o644 })?;
        if let Some(replaced) = replaced {
            staged.take_over(&replaced).map_err(Error::output("keep mode and owner of", &staged.target))?;
        }
        Ok(staged)
    }

    /// Makes the file that will stand at `target`, of this mode less the umask.
    fn begin(target: PathBuf, mode: u32) -> Result<Self> {
        let parent = target.parent().unwrap_or(Path::new("/"));
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        if let Ok(file) = openat(CWD, parent, flags, Mode::from_raw_mode(mode)) {
            return Ok(Self { file: file.into(), target, place: Place::Unnamed });
        }
        let staged = beside(&target);
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&staged);
        let file = file.map_err(Error::output("create", &target))?;
        Ok(Self { file, target, place: Place::Named(staged) })
    }

    /// Gives the file the owner and the mode of the one that it replaces.
    fn take_over(&self, replaced: &Metadata) -> io::Result<()> {
        let own = self.file.metadata()?;
        // Some filesystems have one owner for all, and take no other.
        if (own.uid(), own.gid()) != (replaced.uid(), replaced.gid()) {
            fchown(&self.file, Some(replaced.uid()), Some(replaced.gid()))?;
        }
        // After the owner, of which a change clears the set-id bits.
        self.file.set_permissions(fs::Permissions::from_mode(replaced.mode() & 0o7777))
    }

    /// Writes `bytes` and puts the file in its place, durably.
    pub fn write_whole(mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::output("write", &self.target))?;
        self.commit()
    }

    /// Puts the file in its place, durably.
    pub fn commit(mut self) -> Result<()> {
        if self.place == Place::Final {
            return Ok(());
        }
        self.file.sync_all().map_err(Error::output("sync", &self.target))?;
        if self.place == Place::Unnamed {
            let staged = beside(&self.target);
            let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            linkat(CWD, own, CWD, &staged, AtFlags::SYMLINK_FOLLOW).map_err(Error::output("name the file", &staged))?;
            self.place = Place::Named(staged);
        }
        if let Place::Named(staged) = &self.place {
            fs::rename(staged, &self.target).map_err(Error::output("rename a file to", &self.target))?;
            self.place = Place::Final;
        }
        files::sync_parent(&self.target).map_err(|error| Error::of_output(error, &self.target))
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

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(Error::output("find", path))
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
            let mut file = OutputFile::create(&path, "--output").unwrap();
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
        OutputFile::create(&link, "--output").unwrap().commit().unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::read_link(&link).unwrap()), (b"".to_vec(), PathBuf::from("x.tar")));
        assert_eq!(files::list_names(dir.path()).unwrap(), ["link", "x.tar"]);
    }

    #[test]
    fn what_is_replaced_keeps_its_mode_and_owner_and_what_is_new_has_0644() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str| {
            let metadata = fs::metadata(dir.path().join(name)).unwrap();
            (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
        };
        let own = of(".");
        let save = |name: &str| {
            let file = OutputFile::create(&dir.path().join(name), "--output").unwrap();
            // Already while it is being written.
            let mode = file.file.metadata().unwrap().mode() & 0o7777;
            file.commit().unwrap();
            assert_eq!(of(name).0, mode, "{name}");
        };
        save("new");
        assert_eq!(of("new").0 & !0o644, 0, "never more than that");
        let other = if rustix::process::geteuid().is_root() { (1000, 1001) } else { (own.1, own.2) };
        for mode in [0o600, 0o640, 0o444, 0o666] {
            let path = dir.path().join("old");
            fs::write(&path, b"old").unwrap();
            std::os::unix::fs::chown(&path, Some(other.0), Some(other.1)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            save("old");
            assert_eq!(of("old"), (mode, other.0, other.1));
            fs::remove_file(&path).unwrap();
        }
        // The same where files have a name from the start.
        let path = dir.path().join("named");
        let staged = beside(&path);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged).unwrap();
        fs::write(&path, b"old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        let file = OutputFile { file, target: path.clone(), place: Place::Named(staged) };
        file.take_over(&fs::metadata(&path).unwrap()).unwrap();
        file.commit().unwrap();
        assert_eq!(of("named").0, 0o604);
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
        let mut null = OutputFile::create(Path::new("/dev/null"), "--output").unwrap();
        null.write_all(b"x").unwrap();
        null.commit().unwrap();
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(OutputFile::create(dir.path(), "--file"), Err(Error::Option { option: "--file", .. })));
        assert!(OutputFile::create(&dir.path().join("none/x"), "--output").is_err());
    }
}
