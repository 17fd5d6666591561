// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A store that is open: its paths, its leases and its staging area.

use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    /// Why nothing may be written; `None` where it may.
    read_only: Option<Arc<ReadOnlyReason>>,
}

/// Why a store cannot be written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadOnlyReason {
    /// Its filesystem is mounted so.
    Filesystem,
    /// A newer version made it: these are the features that a writer must know and this version does not.
    Features(Vec<String>),
    /// What says who may write to it, `stos.json`, cannot be read, for this reason.
    DamagedFormat(String),
}

impl std::fmt::Display for ReadOnlyReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Filesystem => f.write_str("its filesystem is mounted read-only"),
            Self::Features(features) => {
                write!(f, "who writes to it must know {features:?}, which this version of stos does not")
            }
            Self::DamagedFormat(reason) => {
                write!(f, "its stos.json, which says who may write to it, is damaged: {reason}")
            }
        }
    }
}

impl Store {
    /// Opens the store at `root`, makes it where there is none, and sweeps what a crash left in staging.
    ///
    /// A store whose format this version does not know is refused and not touched.
    ///
    /// # Errors
    /// [`Error::IncompatibleFormat`]; [`Error::ReadOnly`] where it can only be read.
    pub fn open(root: &Path) -> Result<Self> {
        files::ensure_directory(root)?;
        let root = std::fs::canonicalize(root).map_err(Error::io("find", root))?;
        let store = Self { root, read_only: None };
        let format = store.root.join("stos.json");
        let is_new = !format.exists();
        if !is_new && let Some(reason) = store.look_for_obstacle()? {
            return Err(Error::ReadOnly { path: store.root, reason });
        }
        for name in ["staging", "locks", "names", "containers", "layers/sha256", "chains/sha256", "images/blobs/sha256"]
        {
            let path = store.root.join(name);
            if !path.is_dir() {
                files::ensure_directory(&path)?;
            }
        }
        if is_new {
            format::write_format(&store.root, &store.staging_area())?;
        }
        staging::sweep(&store.staging_area());
        Ok(store)
    }

    /// Opens the store at `root` to look at it: as [`open`](Self::open) does, but one that can only be read is no error, and not
    /// changed by anything that is done with it.
    ///
    /// # Errors
    /// [`Error::IncompatibleFormat`].
    pub fn open_for_reading(root: &Path) -> Result<Self> {
        match Self::open(root) {
            Err(Error::ReadOnly { path, reason }) => Ok(Self { root: path, read_only: Some(Arc::new(reason)) }),
            other => other,
        }
    }

    /// Opens the store at `root` to look for damage in it: as [`open_for_reading`](Self::open_for_reading) does, but a `stos.json`
    /// that is damaged is no error either. Such a store can only be read, until [`rewrite_format`](Self::rewrite_format).
    ///
    /// # Errors
    /// [`Error::IncompatibleFormat`].
    pub fn open_to_check(root: &Path) -> Result<Self> {
        match Self::open_for_reading(root) {
            Err(Error::Damaged { path, reason }) if path.ends_with("stos.json") => {
                let root = std::fs::canonicalize(root).map_err(Error::io("find", root))?;
                Ok(Self { root, read_only: Some(Arc::new(ReadOnlyReason::DamagedFormat(reason))) })
            }
            other => other,
        }
    }

    /// Tells what is wrong with the `stos.json` of a store that was opened to be checked; `None` where nothing is.
    pub fn format_damage(&self) -> Option<&str> {
        match self.read_only.as_deref() {
            Some(ReadOnlyReason::DamagedFormat(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Writes a `stos.json` that is damaged anew, and opens the store.
    ///
    /// # Errors
    /// [`Error::OtherFormat`] where something says, or may say, that another version made the store: then nothing is changed.
    pub fn rewrite_format(&self) -> Result<Self> {
        let path = self.root.join("stos.json");
        // Another process may have done so meanwhile.
        if let Err(Error::Damaged { .. }) = format::check_format(&path) {
            if let Some(reason) = format::obstacle_to_rewriting(&self.root)? {
                return Err(Error::OtherFormat { path, reason });
            }
            format::write_format(&self.root, &self.staging_area())?;
        }
        Self::open(&self.root)
    }

    /// Tells why this version cannot write to a store that is there; refuses one that it cannot even read.
    fn look_for_obstacle(&self) -> Result<Option<ReadOnlyReason>> {
        let features = format::check_format(&self.root.join("stos.json"))?;
        if !features.is_empty() {
            return Ok(Some(ReadOnlyReason::Features(features)));
        }
        let disk = rustix::fs::statvfs(&self.root).map_err(Error::io("look at the filesystem of", &self.root))?;
        let is_read_only = disk.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
        Ok(is_read_only.then_some(ReadOnlyReason::Filesystem))
    }

    /// Tells whether the store can only be read.
    pub fn is_read_only(&self) -> bool {
        self.read_only.is_some()
    }

    /// Refuses to write to a store that can only be read.
    ///
    /// # Errors
    /// [`Error::ReadOnly`].
    pub fn check_writable(&self) -> Result<()> {
        match &self.read_only {
            None => Ok(()),
            Some(reason) => Err(Error::ReadOnly { path: self.root.clone(), reason: ReadOnlyReason::clone(reason) }),
        }
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
        self.check_writable()?;
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
        self.check_writable()?;
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
        self.check_writable()?;
        Lock::wait(&self.root.join("locks").join(name), LockMode::Exclusive)
    }

    /// Removes the lock files of objects, and the lists of leases, that nobody holds: what a crash left. Those of the store itself
    /// stay. Whoever has opened one of them meanwhile begins anew, so this needs no right to sweep.
    pub fn sweep_locks(&self) -> Result<()> {
        self.check_writable()?;
        let locks = self.root.join("locks");
        for name in files::list_names(&locks)?.iter().filter(|name| name.contains('-')) {
            if let Some(lock) = Lock::try_now(&locks.join(name), LockMode::Exclusive)? {
                lock.remove()?;
            }
        }
        Ok(())
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
        self.take_object(path).map(drop)
    }

    /// Takes the object directory `path` out of the store: it is gone, and lies in staging until what comes back is dropped,
    /// which takes as long as the deletion of its files. `None` where there is no such object.
    pub fn take_object(&self, path: &Path) -> Result<Option<Staging>> {
        self.check_writable()?;
        Staging::adopt(&self.staging_area(), path, None)
    }

    /// The same for who holds the lock on the directory itself ([`Lock::wait_for_directory`]), which is held until what comes back
    /// is dropped.
    pub fn take_held_object(&self, path: &Path, held: &Lock) -> Result<Option<Staging>> {
        self.check_writable()?;
        Staging::adopt(&self.staging_area(), path, Some(held))
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
    fn a_damaged_format_is_written_anew_where_nothing_says_that_the_store_is_newer() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path()).unwrap());
        let path = dir.path().join("stos.json");
        let good = std::fs::read(&path).unwrap();
        assert_eq!(Store::open_to_check(dir.path()).unwrap().format_damage(), None);
        for (text, is_ours) in [("", true), (r#"{"version": 2"#, false), ("{}", false)] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(Store::open(dir.path()), Err(Error::Damaged { .. })));
            let store = Store::open_to_check(dir.path()).unwrap();
            assert!(store.is_read_only() && store.format_damage().is_some());
            let refused = store.stage().unwrap_err();
            assert!(matches!(&refused, Error::ReadOnly { reason: ReadOnlyReason::DamagedFormat(_), .. }));
            assert!(refused.to_string().contains("stos.json"), "{refused}");
            match store.rewrite_format() {
                Ok(store) => {
                    assert!(is_ours && !store.is_read_only(), "{text}");
                    assert_eq!(std::fs::read(&path).unwrap(), good);
                }
                Err(error) => {
                    assert!(!is_ours && matches!(error, Error::OtherFormat { .. }), "{text}: {error}");
                    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
                }
            }
        }
    }

    /// A store that a newer version has made: whoever writes to it must know a feature.
    fn newer_store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path()).unwrap());
        let newer = r#"{"version": 2, "incompatible": ["layerfs-1"], "read_only_compatible": ["quota"]}"#;
        std::fs::write(dir.path().join("stos.json"), newer).unwrap();
        let store = Store::open_for_reading(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn a_store_that_can_only_be_read_is_read_and_refuses_what_would_change_it() {
        let (dir, store) = newer_store();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(
            matches!(&error, Error::ReadOnly { reason: ReadOnlyReason::Features(features), .. } if features == &["quota"])
        );
        assert!(error.to_string().contains("quota"), "{error}");
        std::fs::create_dir(dir.path().join("staging/left")).unwrap();
        assert!(store.is_read_only());
        assert!(store.images().unwrap().is_empty() && store.layers().unwrap().is_empty());
        let blob = stos_spec::Verified::trust(b"{}".to_vec());
        let id = ContainerId::random();
        let held = Lock::wait_for_directory(dir.path()).unwrap();
        let refused = [
            store.stage().map(drop),
            store.lock("x").map(drop),
            store.with_lock("x", || Ok::<_, Error>(())),
            store.try_sweep_right().map(drop),
            store.remove_object(dir.path()),
            store.take_held_object(dir.path(), &held).map(drop),
            store.put_blob(&blob),
            store.stage_blob().map(drop),
            store.remove_blob(blob.digest()),
            store.remove_images(|_| true),
            store.sweep_names().map(drop),
            store.sweep_locks(),
            store.release_name(&"x".parse().unwrap(), &id).map(drop),
            store.ensure_name(&"x".parse().unwrap(), &id),
        ];
        for (number, result) in refused.into_iter().enumerate() {
            assert!(matches!(result, Err(Error::ReadOnly { .. })), "{number}: {result:?}");
        }
        let mut lease = store.lease().unwrap();
        lease.narrow(&crate::Objects::default()).unwrap();
        lease.widen().unwrap();
        assert_eq!(files::list_names(&dir.path().join("locks")).unwrap(), [""; 0]);
        assert!(dir.path().join("staging/left").exists());
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
        drop(store.take_held_object(&store.layer_dir(layer), &held).unwrap());
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
