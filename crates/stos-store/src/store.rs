// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A store that is open: its paths, its leases and its staging area.

use std::path::{Path, PathBuf};

use stos_spec::{ChainId, DiffId};

use crate::container_id::ContainerId;
use crate::error::{Error, Result};
use crate::files;
use crate::format;
use crate::lock::{Lock, LockMode};
use crate::staging::{self, Staging};

/// DATA-ROOT, open. Cheap to clone; safe to share between threads and processes.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the store at `root`, makes it where there is none, and sweeps what a crash left in staging.
    ///
    /// A store whose format this version does not know is refused and not touched.
    pub fn open(root: &Path) -> Result<Self> {
        files::ensure_directory(root)?;
        let root = std::fs::canonicalize(root).map_err(Error::io("find", root))?;
        let store = Self { root };
        let format = store.root.join("stos.json");
        let is_new = !format.exists();
        if !is_new {
            format::ensure_format(&format, &store.staging_area())?;
        }
        for name in ["staging", "locks", "names", "containers", "layers/sha256", "chains/sha256", "images/blobs/sha256"]
        {
            let path = store.root.join(name);
            if !path.is_dir() {
                files::ensure_directory(&path)?;
            }
        }
        if is_new {
            format::ensure_format(&format, &store.staging_area())?;
        }
        staging::sweep(&store.staging_area());
        Ok(store)
    }

    /// Gives DATA-ROOT itself, without symlinks.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Gives the OCI image layout.
    pub fn images_dir(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Gives the directory of all layers.
    pub fn layers_dir(&self) -> PathBuf {
        self.root.join("layers/sha256")
    }

    /// Gives the directory of a layer, there or not.
    pub fn layer_dir(&self, layer: DiffId) -> PathBuf {
        self.layers_dir().join(layer.hex())
    }

    /// Gives the directory of all chains.
    pub fn chains_dir(&self) -> PathBuf {
        self.root.join("chains/sha256")
    }

    /// Gives the directory of a chain, there or not.
    pub fn chain_dir(&self, chain: ChainId) -> PathBuf {
        self.chains_dir().join(chain.hex())
    }

    /// Gives the directory of all containers.
    pub fn containers_dir(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// Gives the directory of a container, there or not.
    pub fn container_dir(&self, id: &ContainerId) -> PathBuf {
        self.containers_dir().join(id.as_str())
    }

    /// Gives the directory of names.
    pub fn names_dir(&self) -> PathBuf {
        self.root.join("names")
    }

    /// Gives the area where files stand until they are whole.
    pub fn staging_area(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// Makes a staging directory.
    pub fn stage(&self) -> Result<Staging> {
        Staging::new(&self.staging_area())
    }

    /// Does something to an object while nobody else does: under the lock called `name`, whose file goes afterwards.
    ///
    /// Waiting for another process is told in the log: it may take as long as a download.
    pub fn with_lock<T, E: From<Error>>(
        &self,
        name: &str,
        work: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let path = self.root.join("locks").join(name);
        let lock = match Lock::try_now(&path, LockMode::Exclusive)? {
            Some(lock) => lock,
            None => {
                tracing::info!(lock = name, "waiting for another stos that is at work on the same object");
                Lock::wait(&path, LockMode::Exclusive)?
            }
        };
        let done = work();
        // Also after a failure, so that locks/ does not grow; then that failure is the one to tell.
        match (done, lock.remove()) {
            (Ok(value), removed) => removed.map(|()| value).map_err(E::from),
            (Err(error), Ok(())) => Err(error),
            (Err(error), Err(left)) => {
                tracing::warn!(error = %left, "cannot remove a lock's file");
                Err(error)
            }
        }
    }

    /// Waits for the lock called `name`.
    pub fn lock(&self, name: &str) -> Result<Lock> {
        Lock::wait(&self.root.join("locks").join(name), LockMode::Exclusive)
    }

    /// Removes the lock files of objects that nobody holds: what a crash left. Those of the store itself stay.
    pub fn sweep_locks(&self) -> Result<()> {
        let locks = self.root.join("locks");
        for name in files::list_names(&locks)?.iter().filter(|name| name.contains('-')) {
            if let Some(lock) = Lock::try_now(&locks.join(name), LockMode::Exclusive)? {
                lock.remove()?;
            }
        }
        Ok(())
    }

    /// Takes a lease: while it is held, no object is removed. Whoever adds objects or relies on them holds one.
    pub fn lease(&self) -> Result<Lock> {
        Lock::wait(&self.root.join("locks/lease"), LockMode::Shared)
    }

    /// Takes the right to remove objects, if nobody holds a lease.
    pub fn try_sweep_right(&self) -> Result<Option<Lock>> {
        Lock::try_now(&self.root.join("locks/lease"), LockMode::Exclusive)
    }

    /// Lists the layers that the store holds, sorted.
    pub fn layers(&self) -> Result<Vec<DiffId>> {
        let names = files::list_names(&self.layers_dir())?;
        Ok(names.iter().filter_map(|name| DiffId::from_hex(name)).collect())
    }

    /// Lists the chains that the store holds, sorted.
    pub fn chains(&self) -> Result<Vec<ChainId>> {
        let names = files::list_names(&self.chains_dir())?;
        Ok(names.iter().filter_map(|name| ChainId::from_hex(name)).collect())
    }

    /// Lists the containers of image mode, sorted by id.
    pub fn containers(&self) -> Result<Vec<ContainerId>> {
        let names = files::list_names(&self.containers_dir())?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Removes the object directory `path` so that it is there whole or not at all: renamed into staging first.
    ///
    /// The object is gone on success. What of it cannot be deleted stays in staging, is told, and is tried again by each sweep.
    pub fn remove_object(&self, path: &Path) -> Result<()> {
        Staging::adopt(&self.staging_area(), path, None).map(drop)
    }

    /// The same for who holds the lock on the directory itself ([`Lock::wait_for_directory`]).
    pub fn remove_held_object(&self, path: &Path, held: &Lock) -> Result<()> {
        Staging::adopt(&self.staging_area(), path, Some(held)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_made_once_and_opened_often() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        let store = Store::open(&root).unwrap();
        files::ensure_directory(&store.staging_area().join("left")).unwrap();
        let again = Store::open(&root).unwrap();
        assert_eq!(files::list_names(&again.staging_area()).unwrap(), Vec::<String>::new());
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&root).unwrap());
        assert_eq!(mode & 0o777, 0o700);
        assert!(store.layers().unwrap().is_empty() && store.chains().unwrap().is_empty());
        assert!(store.containers().unwrap().is_empty());
    }

    #[test]
    fn a_newer_store_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("stos.json"), r#"{"version": 2, "incompatible": ["x"]}"#).unwrap();
        assert!(matches!(Store::open(dir.path()), Err(Error::IncompatibleFormat { .. })));
        assert_eq!(files::list_names(dir.path()).unwrap(), ["stos.json"]);
    }

    #[test]
    fn objects_are_removed_whole_and_only_without_leases() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let layer = DiffId::of(b"x");
        files::ensure_directory(&store.layer_dir(layer)).unwrap();
        assert_eq!(store.layers().unwrap(), [layer]);
        let lease = store.lease().unwrap();
        assert!(store.try_sweep_right().unwrap().is_none());
        drop(lease);
        assert!(store.try_sweep_right().unwrap().is_some());
        store.remove_object(&store.layer_dir(layer)).unwrap();
        store.remove_object(&store.layer_dir(layer)).unwrap();
        assert!(store.layers().unwrap().is_empty());
        // Who holds the object does not wait for himself.
        files::ensure_directory(&store.layer_dir(layer)).unwrap();
        let held = Lock::wait_for_directory(&store.layer_dir(layer)).unwrap();
        store.remove_held_object(&store.layer_dir(layer), &held).unwrap();
        assert!(store.layers().unwrap().is_empty());
        assert_eq!(files::list_names(&store.staging_area()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_lock_goes_with_its_work_and_the_first_failure_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let path = dir.path().join("locks/x");
        let inside = store.with_lock("x", || Ok::<_, Error>(Lock::try_now(&path, LockMode::Shared)?.is_none()));
        assert!(inside.unwrap());
        assert!(!path.exists());
        let failed: Result<()> = store.with_lock("x", || {
            // In the way of the lock's removal.
            std::fs::remove_file(&path).unwrap();
            std::fs::create_dir_all(path.join("deep")).unwrap();
            Err(Error::NoSuchImage("the cause".to_owned()))
        });
        assert!(matches!(failed, Err(Error::NoSuchImage(cause)) if cause == "the cause"));
        assert!(store.with_lock("x", || Ok::<_, Error>(())).is_err());
    }

    #[test]
    fn a_root_that_cannot_be_is_named() {
        let error = Store::open(Path::new("/proc/no/such")).unwrap_err();
        assert!(error.to_string().contains("/proc/no/such"), "{error}");
    }
}
