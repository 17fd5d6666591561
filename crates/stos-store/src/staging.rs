// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `staging/`: everything is built here, and becomes visible by one rename.
//!
//! Each entry is a directory that its maker holds locked (flock on the directory itself). What nobody holds is what a
//! crash left, and the next command sweeps it.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::files::{self, Durability};

/// A directory under construction: removed when dropped, unless it was committed.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    /// Holds the lock that keeps the sweep away.
    _lock: File,
    committed: bool,
}

impl Staging {
    /// Makes a new directory, mode 0700, in `area`.
    pub(crate) fn new(area: &Path) -> Result<Self> {
        loop {
            let path = area.join(files::unique_name());
            fs::DirBuilder::new().mode(0o700).create(&path).map_err(Error::io("create the directory", &path))?;
            let lock = match File::open(&path) {
                Ok(lock) => lock,
                // A sweep may take the directory before it is locked: then there is nothing to lose, and we begin anew.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io("open", &path)(error)),
            };
            let locked = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
            if locked && is_named(&lock, &path) {
                return Ok(Self { path, _lock: lock, committed: false });
            }
        }
    }

    /// Gives the directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Renames the directory to `target`, and makes that last if asked.
    ///
    /// Files inside must have been synced by who wrote them. `false` says that `target` is there already: nothing was
    /// changed, and what was staged is gone.
    pub fn commit(mut self, target: &Path, durability: Durability) -> Result<bool> {
        if durability == Durability::Durable {
            files::sync_directory(&self.path)?;
        }
        match files::rename_new(&self.path, target) {
            Ok(()) => self.committed = true,
            Err(Errno::EXIST | Errno::NOTEMPTY) => return Ok(false),
            Err(errno) => return Err(Error::io("rename a staged directory to", target)(errno)),
        }
        if durability == Durability::Durable {
            files::sync_parent(target)?;
        }
        Ok(true)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        if let Err(error) = files::remove_tree(&self.path) {
            // The next command's sweep tries again: our lock goes with us.
            tracing::warn!(%error, "cannot remove what was staged");
        }
    }
}

fn is_named(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Removes from `area` what no process holds, and tells how many entries that were.
pub(crate) fn sweep(area: &Path) -> Result<usize> {
    let mut swept = 0;
    for name in files::list_names(area)? {
        let path = area.join(name);
        let Ok(entry) = File::open(&path) else { continue };
        let is_directory = entry.metadata().is_ok_and(|metadata| metadata.is_dir());
        if flock(&entry, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        if is_directory {
            files::remove_tree(&path)?;
        } else if is_old(&entry) {
            files::remove_file(&path)?;
        } else {
            continue;
        }
        swept += 1;
        tracing::debug!(path = %path.display(), "swept what a crash left in staging");
    }
    Ok(swept)
}

/// Tells whether a plain file in staging is a crash's: they live for milliseconds between write and rename.
fn is_old(file: &File) -> bool {
    let age = file.metadata().ok().and_then(|metadata| metadata.modified().ok()).and_then(|time| time.elapsed().ok());
    age.is_some_and(|age| age.as_secs() > 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_stays_and_what_is_not_goes() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        let area = dir.path().join("staging");
        files::ensure_directory(&area).unwrap();
        let staged = Staging::new(&area).unwrap();
        files::write_new(&staged.path().join("x"), b"1", Durability::Durable).unwrap();
        assert!(staged.commit(&target, Durability::Durable).unwrap());
        let second = Staging::new(&area).unwrap();
        files::write_new(&second.path().join("x"), b"2", Durability::Volatile).unwrap();
        assert!(!second.commit(&target, Durability::Volatile).unwrap());
        assert_eq!(fs::read(target.join("x")).unwrap(), b"1");
        drop(Staging::new(&area).unwrap());
        assert_eq!(files::list_names(&area).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn the_sweep_takes_only_what_nobody_holds() {
        let dir = tempfile::tempdir().unwrap();
        let held = Staging::new(dir.path()).unwrap();
        files::ensure_directory(&dir.path().join("left/deep")).unwrap();
        fs::write(dir.path().join("fresh"), b"").unwrap();
        assert_eq!(sweep(dir.path()).unwrap(), 1);
        assert!(held.path().exists() && dir.path().join("fresh").exists());
    }

    #[test]
    fn a_commit_that_cannot_be_names_its_target() {
        let dir = tempfile::tempdir().unwrap();
        let staged = Staging::new(dir.path()).unwrap();
        let path = staged.path().to_owned();
        let error = staged.commit(&dir.path().join("no/such"), Durability::Volatile).unwrap_err();
        assert!(error.to_string().contains("no/such"), "{error}");
        assert!(!path.exists());
    }
}
