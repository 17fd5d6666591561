// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Leases: what keeps objects from the sweep while a command adds them or relies on them. They die with their process.
//!
//! ```text
//! locks/lease          held shared: everything is kept. Held exclusively: the right to sweep
//! locks/lease-<hex>    held by its maker from the moment that it is there: the objects that it lists are kept
//! ```
//!
//! A lease begins with everything, for nobody knows yet what a name leads to. A command that goes on for long, a pull above
//! all, [narrows](Lease::narrow) it to what it will add or has found: then others can sweep meanwhile. A list is made while
//! everything is still kept, so no sweep falls between the two.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stos_spec::{BlobDigest, ChainId, DiffId};

use crate::error::Result;
use crate::files;
use crate::lock::{Lock, LockMode};
use crate::store::Store;

/// What the names of lists begin with.
const LIST_PREFIX: &str = "lease-";

/// Objects of the store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objects {
    /// Manifests, indexes, configurations; and layers as registries have them.
    pub blobs: BTreeSet<BlobDigest>,
    /// Layers.
    pub layers: BTreeSet<DiffId>,
    /// Chains.
    pub chains: BTreeSet<ChainId>,
}

impl Objects {
    /// Gives layers, the lowest first, and their chain.
    pub fn of_layers(layers: &[DiffId]) -> Self {
        let mut objects = Self::default();
        objects.add_layers(layers);
        objects
    }

    /// Adds those of `other`.
    pub fn extend(&mut self, other: Self) {
        self.blobs.extend(other.blobs);
        self.layers.extend(other.layers);
        self.chains.extend(other.chains);
    }

    /// Adds an image's layers, the lowest first, and their chain.
    pub fn add_layers(&mut self, layers: &[DiffId]) {
        self.chains.extend(ChainId::of_layers(layers));
        self.layers.extend(layers);
    }
}

/// Keeps objects from the sweep until it is dropped, or its process ends.
#[derive(Debug)]
pub struct Lease {
    store: Store,
    /// Keeps everything. In a store that can only be read, somebody else may sweep all the same, where he ever has.
    everything: Option<Lock>,
    list: Option<List>,
}

impl Lease {
    /// Keeps these objects and no others from now on.
    ///
    /// # Errors
    /// Where the list cannot be written everything stays kept.
    pub fn narrow(&mut self, objects: &Objects) -> Result<()> {
        if self.store.is_read_only() {
            return Ok(());
        }
        let Some(everything) = self.everything.take() else { return Ok(()) };
        match List::write(&self.store, objects) {
            Ok(list) => self.list = Some(list),
            Err(error) => {
                self.everything = Some(everything);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The same for who goes on where the objects cannot be listed, as on a full disk: then everything stays kept.
    pub fn narrow_if_possible(&mut self, objects: &Objects) {
        if let Err(error) = self.narrow(objects) {
            tracing::debug!(%error, "what this relies on cannot be listed: everything is kept");
        }
    }

    /// Keeps everything again: what comes now was not to be foreseen. Waits for a sweep to end, which takes milliseconds.
    pub fn widen(&mut self) -> Result<()> {
        if self.everything.is_none() && !self.store.is_read_only() {
            self.everything = self.store.lease()?.everything.take();
        }
        Ok(())
    }
}

/// A file that lists what is kept, as long as its maker holds it.
#[derive(Debug)]
struct List {
    lock: Option<Lock>,
}

impl List {
    /// The caller keeps everything meanwhile.
    fn write(store: &Store, objects: &Objects) -> Result<Self> {
        let path = list_path(store, &format!("{LIST_PREFIX}{}", files::unique_name()));
        Ok(Self { lock: Some(Lock::of_new_file(&path, &store.staging_area(), &files::to_json_line(objects))?) })
    }
}

impl Drop for List {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.lock.take().map(Lock::remove) {
            // Nobody holds it any more: the next sweep removes it.
            tracing::warn!(%error, "cannot remove a lease's list");
        }
    }
}

fn list_path(store: &Store, name: &str) -> PathBuf {
    store.root().join("locks").join(name)
}

impl Store {
    /// Takes a lease of everything: while it is held, no object is removed. Whoever adds objects or relies on them holds one.
    ///
    /// Waits for a sweep to end, which takes milliseconds.
    pub fn lease(&self) -> Result<Lease> {
        let path = self.root().join("locks/lease");
        let everything = match self.is_read_only() {
            true => Lock::wait_to_read(&path)?,
            false => Some(Lock::wait(&path, LockMode::Shared)?),
        };
        Ok(Lease { store: self.clone(), everything, list: None })
    }

    /// Takes a lease of these objects alone, for a command that goes on for long; of everything where they cannot be listed, as on
    /// a full disk.
    pub fn lease_of(&self, objects: &Objects) -> Result<Lease> {
        let mut lease = self.lease()?;
        lease.narrow_if_possible(objects);
        Ok(lease)
    }

    /// Takes the right to remove objects, if nobody keeps everything. What [`leased`](Self::leased) lists is kept all the same.
    pub fn try_sweep_right(&self) -> Result<Option<Lock>> {
        self.check_writable()?;
        Lock::try_now(&self.root().join("locks/lease"), LockMode::Exclusive)
    }

    /// Gives what living commands keep. The caller holds the right to sweep, so no list is being written.
    pub fn leased(&self) -> Result<Objects> {
        let mut kept = Objects::default();
        for name in files::list_names(&self.root().join("locks"))?.iter().filter(|name| name.starts_with(LIST_PREFIX)) {
            let path = list_path(self, name);
            if let Some(lock) = Lock::try_now(&path, LockMode::Exclusive)? {
                // Its maker has ended.
                lock.remove()?;
                continue;
            }
            match files::read_json(&path) {
                Ok(Some(objects)) => kept.extend(objects),
                // Given up since it was listed.
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    fn some(text: &[u8]) -> Objects {
        let mut objects = Objects { blobs: [BlobDigest::of(text)].into(), ..Objects::default() };
        objects.add_layers(&[DiffId::of(text), DiffId::of(b"another")]);
        objects
    }

    #[test]
    fn everything_is_kept_until_a_lease_is_narrowed_and_again_when_it_is_widened() {
        let (_dir, store) = store();
        let mut lease = store.lease().unwrap();
        assert!(store.try_sweep_right().unwrap().is_none());
        lease.narrow(&some(b"a")).unwrap();
        let right = store.try_sweep_right().unwrap();
        assert!(right.is_some());
        assert_eq!(store.leased().unwrap(), some(b"a"));
        drop(right);
        lease.widen().unwrap();
        assert!(store.try_sweep_right().unwrap().is_none());
        drop(lease);
        let _right = store.try_sweep_right().unwrap().unwrap();
        assert_eq!(store.leased().unwrap(), Objects::default());
    }

    #[test]
    fn several_leases_add_up_and_each_goes_alone() {
        let (_dir, store) = store();
        let (mut one, mut two) = (store.lease().unwrap(), store.lease().unwrap());
        one.narrow(&some(b"1")).unwrap();
        two.narrow(&some(b"2")).unwrap();
        let mut both = some(b"1");
        both.extend(some(b"2"));
        let _right = store.try_sweep_right().unwrap().unwrap();
        assert_eq!(store.leased().unwrap(), both);
        drop(one);
        assert_eq!(store.leased().unwrap(), some(b"2"));
        assert_eq!(some(b"2").chains.len(), 1);
    }

    #[test]
    fn what_a_process_that_ended_has_listed_is_kept_no_longer() {
        let (dir, store) = store();
        let path = dir.path().join("locks/lease-left");
        std::fs::write(&path, files::to_json(&some(b"left"))).unwrap();
        let _right = store.try_sweep_right().unwrap().unwrap();
        assert_eq!(store.leased().unwrap(), Objects::default());
        assert!(!path.exists());
    }

    #[test]
    fn a_lease_of_some_objects_keeps_those_or_everything() {
        let (dir, store) = store();
        let lease = store.lease_of(&some(b"a")).unwrap();
        let right = store.try_sweep_right().unwrap();
        assert!(right.is_some() && store.leased().unwrap() == some(b"a"));
        drop((lease, right));
        // A reader of a store that a newer version has made cannot list, and keeps everything.
        let newer = r#"{"version": 2, "incompatible": ["layerfs-1"], "read_only_compatible": ["x"]}"#;
        let own = std::fs::read(dir.path().join("stos.json")).unwrap();
        std::fs::write(dir.path().join("stos.json"), newer).unwrap();
        let reader = Store::open_for_reading(dir.path()).unwrap();
        std::fs::write(dir.path().join("stos.json"), own).unwrap();
        let mut lease = reader.lease_of(&some(b"a")).unwrap();
        lease.widen().unwrap();
        assert!(store.try_sweep_right().unwrap().is_none());
        drop(lease);
        let _right = store.try_sweep_right().unwrap().unwrap();
        assert_eq!(store.leased().unwrap(), Objects::default());
    }

    #[test]
    fn a_list_that_cannot_be_written_leaves_everything_kept() {
        let (dir, store) = store();
        let mut lease = store.lease().unwrap();
        std::fs::rename(dir.path().join("locks"), dir.path().join("away")).unwrap();
        assert!(lease.narrow(&some(b"a")).unwrap_err().is_not_found());
        std::fs::rename(dir.path().join("away"), dir.path().join("locks")).unwrap();
        assert!(store.try_sweep_right().unwrap().is_none());
    }

    #[test]
    fn a_held_list_that_cannot_be_read_is_damage_and_no_leave_to_remove() {
        let (dir, store) = store();
        let path = dir.path().join("locks/lease-odd");
        std::fs::write(&path, b"odd").unwrap();
        let held = Lock::wait(&path, LockMode::Exclusive).unwrap();
        assert!(matches!(store.leased(), Err(Error::Damaged { .. })));
        drop(held);
    }
}
