// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `staging/`: everything is built here, and becomes visible by one rename.
//!
//! Each entry is a directory, or a file that will replace a record, that its maker holds locked (flock on itself). What nobody
//! holds is what a crash left, and the next command sweeps it.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::files::{self, Durability};
use crate::lock::Lock;

/// A directory under construction: removed when dropped, unless it was committed.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    /// Holds the lock that keeps the sweep away.
    lock: File,
    committed: bool,
}

impl Staging {
    /// Makes a new directory, mode 0700, in `area`.
    pub(crate) fn new(area: &Path) -> Result<Self> {
        loop {
            let path = area.join(files::unique_name());
            fs::DirBuilder::new().mode(0o700).create(&path).map_err(Error::io("create the directory", &path))?;
            match lock_directory(&path, FlockOperation::NonBlockingLockExclusive) {
                // A sweep may take the directory before it is locked: then there is nothing to lose, and we begin anew.
                Ok(lock) if !is_named(&lock, &path) => {}
                Ok(lock) => {
                    let staging = Self { path, lock, committed: false };
                    staging.forget_default_acl()?;
                    return Ok(staging);
                }
                Err(error) if error.is_not_found() || is_held(&error) => {}
                Err(error) => {
                    // Nothing is in it, and the error is what counts.
                    let _ = fs::remove_dir(&path);
                    return Err(error);
                }
            }
        }
    }

    /// Takes the ACL away that the host's directory gives what is made in it: files of images and containers have their own.
    fn forget_default_acl(&self) -> Result<()> {
        match rustix::fs::fremovexattr(&self.lock, "system.posix_acl_default") {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(Error::io("take the default ACL from", &self.path)(errno)),
        }
    }

    /// Moves the directory `object` into `area`, which takes neither a new inode nor a new block, so it works on a full
    /// disk. `None` where there is no such object.
    ///
    /// `held` is the lock on the object itself, where the caller has it.
    pub(crate) fn adopt(area: &Path, object: &Path, held: Option<&Lock>) -> Result<Option<Self>> {
        // Locked before it lies where a sweep looks. Only who commits it at this very moment could make us wait.
        let locked = match held {
            Some(held) => held.file().try_clone().map_err(Error::io("hold", object)),
            None => lock_directory(object, FlockOperation::LockExclusive),
        };
        let lock = match locked {
            Err(error) if error.is_not_found() => return Ok(None),
            other => other?,
        };
        let path = area.join(files::unique_name());
        match files::rename_new(object, &path) {
            Ok(()) => Ok(Some(Self { path, lock, committed: false })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::io("remove", object)(errno)),
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

    /// Puts the directory at `target`, durably, in place of what is there: a reader finds the old or the new one and nothing
    /// between, also after a power cut. The old one is removed then.
    ///
    /// Files inside must have been synced by who wrote them. The caller holds the lock of the object.
    pub fn replace(self, target: &Path) -> Result<()> {
        self.exchange(target, None)
    }

    /// The same, but the old directory is kept, as `keep`, which must not be there: somebody may still stand on it.
    pub fn replace_and_keep(self, target: &Path, keep: &Path) -> Result<()> {
        self.exchange(target, Some(keep))
    }

    /// Makes all durable that has been written to the filesystem since the directory was made (syncfs(2)): an error of the disk
    /// that another process has been told of meanwhile is told here too.
    pub fn sync_filesystem(&self) -> Result<()> {
        rustix::fs::syncfs(&self.lock).map_err(Error::io("sync the filesystem of", &self.path))
    }

    fn exchange(mut self, target: &Path, keep: Option<&Path>) -> Result<()> {
        let refuse = |errno| Error::io("rename a staged directory to", target)(errno);
        files::sync_directory(&self.path)?;
        match files::rename_new(&self.path, target) {
            Ok(()) => self.committed = true,
            Err(Errno::EXIST | Errno::NOTEMPTY) => {
                // What comes back into staging is ours from the first moment on, and goes when `self` does.
                let old = lock_directory(target, FlockOperation::LockExclusive)?;
                renameat_with(CWD, &self.path, CWD, target, RenameFlags::EXCHANGE).map_err(refuse)?;
                self.lock = old;
                if let Some(keep) = keep {
                    files::rename_new(&self.path, keep).map_err(Error::io("keep what was replaced as", keep))?;
                    self.committed = true;
                }
            }
            Err(errno) => return Err(refuse(errno)),
        }
        files::sync_parent(target)
    }
}

/// Opens a directory and locks it against the sweep.
fn lock_directory(path: &Path, operation: FlockOperation) -> Result<File> {
    let directory = files::open(path)?;
    loop {
        match flock(&directory, operation) {
            Ok(()) => return Ok(directory),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::io("lock", path)(errno)),
        }
    }
}

/// Tells whether a lock was not to be had because somebody else holds it.
fn is_held(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::WouldBlock)
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        if let Err(error) = files::remove_tree(&self.path) {
            // Our lock goes with us.
            tracing::warn!(%error, "cannot remove what lies in staging: the next command tries again");
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
///
/// What cannot be removed (an immutable file, a filesystem that is read-only now) takes room and harms nobody: it is told, and
/// the next command tries again.
pub(crate) fn sweep(area: &Path) -> usize {
    let names = files::list_names(area).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot look for what a crash may have left");
        Vec::new()
    });
    let mut swept = 0;
    for name in names {
        let path = area.join(name);
        match sweep_entry(&path) {
            Ok(true) => {
                swept += 1;
                tracing::debug!(path = %path.display(), "swept what a crash left in staging");
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "cannot remove what lies in staging: the next command tries again"),
        }
    }
    swept
}

/// Removes one entry; `false` says that it is in use, or gone.
fn sweep_entry(path: &Path) -> Result<bool> {
    let Ok(entry) = File::open(path) else { return Ok(false) };
    if flock(&entry, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    if entry.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        files::remove_tree(path)?;
    } else {
        files::remove_file(path)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{IFlags, ioctl_setflags};

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
    fn records_are_replaced_whatever_sweeps_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let (area, record) = (dir.path().join("area"), dir.path().join("record"));
        fs::create_dir(&area).unwrap();
        fs::write(area.join("left"), "by a crash").unwrap();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                        sweep(&area);
                    }
                });
            }
            let done = (0..2000).try_for_each(|number| {
                let text = format!("{number}");
                files::replace(&record, &area, text.as_bytes(), Durability::Volatile)?;
                assert_eq!(fs::read_to_string(&record).unwrap(), text);
                Ok::<_, Error>(())
            });
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            done.unwrap();
        });
        assert_eq!(files::list_names(&area).unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_replaced_goes_or_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (area, target, kept) = (dir.path().join("area"), dir.path().join("target"), dir.path().join("kept"));
        fs::create_dir(&area).unwrap();
        let stage = |text: &str| {
            let staged = Staging::new(&area).unwrap();
            fs::write(staged.path().join("text"), text).unwrap();
            staged.sync_filesystem().unwrap();
            staged
        };
        let read = |path: &Path| fs::read_to_string(path.join("text")).unwrap();
        stage("1").replace_and_keep(&target, &kept).unwrap();
        assert!(read(&target) == "1" && !kept.exists(), "nothing was replaced");
        stage("2").replace(&target).unwrap();
        assert_eq!(read(&target), "2");
        stage("3").replace_and_keep(&target, &kept).unwrap();
        assert_eq!((read(&target), read(&kept)), ("3".to_owned(), "2".to_owned()));
        let error = stage("4").replace_and_keep(&target, &kept).unwrap_err();
        assert!(error.to_string().contains("kept"), "{error}");
        assert_eq!((read(&target), read(&kept)), ("4".to_owned(), "2".to_owned()));
        assert_eq!(fs::read_dir(&area).unwrap().count(), 0);
    }

    #[test]
    fn the_sweep_takes_only_what_nobody_holds() {
        let dir = tempfile::tempdir().unwrap();
        let held = Staging::new(dir.path()).unwrap();
        files::ensure_directory(&dir.path().join("left/deep")).unwrap();
        let (record, file) = files::create_held(dir.path()).unwrap();
        assert_eq!(sweep(dir.path()), 1);
        assert!(held.path().exists() && record.exists());
        // A crash closes it.
        drop(file);
        assert_eq!((sweep(dir.path()), record.exists()), (1, false));
    }

    #[test]
    fn what_cannot_be_swept_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let stubborn = dir.path().join("a");
        fs::create_dir(&stubborn).unwrap();
        let held = Staging::new(dir.path()).unwrap();
        files::ensure_directory(&dir.path().join("z/deep")).unwrap();
        let directory = File::open(&stubborn).unwrap();
        // As `chattr +i` does; only root may, and not everywhere.
        let is_immutable = ioctl_setflags(&directory, IFlags::IMMUTABLE).is_ok();
        let swept = sweep(dir.path());
        if is_immutable {
            ioctl_setflags(&directory, IFlags::empty()).unwrap();
        }
        assert_eq!((swept, stubborn.exists()), if is_immutable { (1, true) } else { (2, false) });
        assert!(held.path().exists() && !dir.path().join("z").exists());
        assert_eq!(sweep(&dir.path().join("none")), 0);
    }

    #[test]
    fn a_replacement_takes_the_place_at_once_and_the_old_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (area, target) = (dir.path().join("staging"), dir.path().join("target"));
        files::ensure_directory(&area).unwrap();
        for text in ["1", "2"] {
            let staged = Staging::new(&area).unwrap();
            files::write_new(&staged.path().join("x"), text.as_bytes(), Durability::Durable).unwrap();
            staged.replace(&target).unwrap();
            assert_eq!(fs::read_to_string(target.join("x")).unwrap(), text);
            assert_eq!(files::list_names(&area).unwrap(), Vec::<String>::new());
        }
        // What cannot be replaced stays, and what was staged goes.
        let staged = Staging::new(&area).unwrap();
        let error = staged.replace(&dir.path().join("no/such")).unwrap_err();
        assert!(error.to_string().contains("no/such"), "{error}");
        assert_eq!(files::list_names(&area).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn an_object_that_is_adopted_goes_with_its_keeper_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let (area, object) = (dir.path().join("staging"), dir.path().join("object"));
        files::ensure_directory(&area).unwrap();
        files::ensure_directory(&object.join("deep")).unwrap();
        let inode = fs::metadata(&object).unwrap().ino();
        let adopted = Staging::adopt(&area, &object, None).unwrap().unwrap();
        assert_eq!(fs::metadata(adopted.path()).unwrap().ino(), inode, "moved, nothing made");
        assert_eq!(sweep(&area), 0);
        assert!(!object.exists() && adopted.path().join("deep").exists());
        drop(adopted);
        assert_eq!(files::list_names(&area).unwrap(), Vec::<String>::new());
        assert!(Staging::adopt(&area, &object, None).unwrap().is_none());
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
