// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Locks that a crash releases: flock(2) on files in `locks/`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::files;

/// Whether others may hold a lock at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Others may share it.
    Shared,
    /// Nobody else may have it.
    Exclusive,
}

/// A lock that is held; dropping it lets go.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Waits for the lock at `path`.
    pub fn wait(path: &Path, mode: LockMode) -> Result<Self> {
        loop {
            let file = open(path)?;
            let operation = match mode {
                LockMode::Shared => FlockOperation::LockShared,
                LockMode::Exclusive => FlockOperation::LockExclusive,
            };
            match flock(&file, operation) {
                Ok(()) if is_current(&file, path)? => return Ok(Self { file, path: path.to_owned() }),
                Ok(()) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io("lock", path)(errno)),
            }
        }
    }

    /// Waits for the exclusive lock on the directory `path` itself, which leaves no file behind.
    pub fn wait_for_directory(path: &Path) -> Result<Self> {
        loop {
            let file = files::open(path)?;
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) if is_current(&file, path)? => return Ok(Self { file, path: path.to_owned() }),
                Ok(()) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io("lock", path)(errno)),
            }
        }
    }

    /// Waits for the shared lock at `path` without being able to write there; `None` where there is no such file.
    pub fn wait_to_read(path: &Path) -> Result<Option<Self>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::io("open the lock", path))?,
        };
        loop {
            match flock(&file, FlockOperation::LockShared) {
                Ok(()) => return Ok(Some(Self { file, path: path.to_owned() })),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io("lock", path)(errno)),
            }
        }
    }

    /// Takes the exclusive lock on the directory `path` itself if that needs no waiting; `None` also where it is gone.
    pub fn try_directory(path: &Path) -> Result<Option<Self>> {
        let file = match crate::files::open(path) {
            Err(error) if error.is_not_found() => return Ok(None),
            other => other?,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if is_current(&file, path)? => Ok(Some(Self { file, path: path.to_owned() })),
            Ok(()) | Err(Errno::INTR | Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(Error::io("lock", path)(errno)),
        }
    }

    /// Takes the lock at `path` if that needs no waiting.
    pub fn try_now(path: &Path, mode: LockMode) -> Result<Option<Self>> {
        loop {
            let file = open(path)?;
            let operation = match mode {
                LockMode::Shared => FlockOperation::NonBlockingLockShared,
                LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
            };
            match flock(&file, operation) {
                Ok(()) if is_current(&file, path)? => return Ok(Some(Self { file, path: path.to_owned() })),
                Ok(()) | Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(Error::io("lock", path)(errno)),
            }
        }
    }

    /// Gives the new file `bytes`, which is made in `scratch` and locked before it becomes visible at `path`: whoever finds it
    /// there unlocked knows that its maker has ended.
    pub(crate) fn of_new_file(path: &Path, scratch: &Path, bytes: &[u8]) -> Result<Self> {
        let (temporary, mut file) = files::create_held(scratch)?;
        let made = file
            .write_all(bytes)
            .map_err(Error::io("write", &temporary))
            .and_then(|()| files::rename_new(&temporary, path).map_err(Error::io("rename a file to", path)))
            .map(|()| Self { file, path: path.to_owned() });
        if made.is_err() {
            // The rename did not happen: what is left is ours alone. If even this fails the sweep takes it.
            let _ = std::fs::remove_file(&temporary);
        }
        made
    }

    /// Removes the lock's file while it is held exclusively, so that `locks/` does not grow for ever.
    ///
    /// Whoever waits for it finds that its file has no name any more and begins anew (see `is_current`).
    pub fn remove(self) -> Result<()> {
        files::remove_file(&self.path)
    }

    /// Gives the locked file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

fn open(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    opened.map_err(Error::io("open the lock", path))
}

/// Tells whether `path` still names `file`: another holder may have removed it while we waited.
fn is_current(file: &File, path: &Path) -> Result<bool> {
    let held = file.metadata().map_err(Error::io("stat", path))?;
    match std::fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("stat", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_exclusive_or_many_shared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let shared = Lock::wait(&path, LockMode::Shared).unwrap();
        let second = Lock::try_now(&path, LockMode::Shared).unwrap();
        assert!(second.is_some());
        assert!(Lock::try_now(&path, LockMode::Exclusive).unwrap().is_none());
        drop((shared, second));
        let exclusive = Lock::try_now(&path, LockMode::Exclusive).unwrap().unwrap();
        assert!(Lock::try_now(&path, LockMode::Shared).unwrap().is_none());
        exclusive.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn who_waited_for_a_removed_lock_holds_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::wait(&path, LockMode::Exclusive).unwrap();
        let waiter = std::thread::spawn({
            let path = path.clone();
            move || Lock::wait(&path, LockMode::Exclusive).unwrap()
        });
        first.remove().unwrap();
        let second = waiter.join().unwrap();
        assert!(path.exists());
        assert!(Lock::try_now(&path, LockMode::Shared).unwrap().is_none());
        drop(second);
    }

    #[test]
    fn a_lock_with_contents_is_held_from_the_first_moment_on() {
        let (dir, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = dir.path().join("lock");
        let held = Lock::of_new_file(&path, scratch.path(), b"x").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"x");
        assert!(Lock::try_now(&path, LockMode::Shared).unwrap().is_none());
        // Its name is taken: nothing is changed, and nothing left.
        assert!(Lock::of_new_file(&path, scratch.path(), b"y").is_err());
        assert_eq!(files::list_names(scratch.path()).unwrap(), [""; 0]);
        held.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_is_its_own_lock() {
        let dir = tempfile::tempdir().unwrap();
        let held = Lock::wait_for_directory(dir.path()).unwrap();
        let other = File::open(dir.path()).unwrap();
        assert_eq!(flock(&other, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK));
        drop(held);
        flock(&other, FlockOperation::NonBlockingLockShared).unwrap();
        assert!(Lock::wait_for_directory(&dir.path().join("none")).unwrap_err().is_not_found());
        drop(other);
        let held = Lock::try_directory(dir.path()).unwrap();
        assert!(held.is_some() && Lock::try_directory(dir.path()).unwrap().is_none());
        assert!(Lock::try_directory(&dir.path().join("none")).unwrap().is_none());
    }

    #[test]
    fn who_cannot_write_shares_a_lock_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(Lock::wait_to_read(&path).unwrap().is_none() && !path.exists());
        drop(Lock::wait(&path, LockMode::Shared).unwrap());
        let reader = Lock::wait_to_read(&path).unwrap();
        assert!(reader.is_some() && Lock::try_now(&path, LockMode::Exclusive).unwrap().is_none());
        drop(reader);
        assert!(Lock::try_now(&path, LockMode::Exclusive).unwrap().is_some());
    }

    #[test]
    fn a_lock_that_cannot_be_opened_is_named() {
        let error = Lock::wait(Path::new("/no/such/dir/lock"), LockMode::Shared).unwrap_err();
        assert!(error.to_string().contains("/no/such/dir/lock"), "{error}");
    }
}
