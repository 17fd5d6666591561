// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Snapshots: what containerd keeps here through `stos-snapshotter`.
//!
//! ```text
//! DATA-ROOT/snapshots/           held by the one snapshotter that serves the store; missing where none ever has
//!   <number>/snapshot.json       a snapshot
//!   <number>/fs  <number>/work   what is written in it, and overlayfs's scratch space; none for layers of the store
//!   images.json                  images that came for containerd, and go when it needs them no more
//! ```
//!
//! **Roots**: the layers and chains that records name. Who sweeps reads the records; nobody but the snapshotter writes here. A
//! snapshot comes by one rename from staging and goes by one into it; its record is replaced by one rename.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stos_spec::DiffId;

use crate::error::{Error, Result};
use crate::files;
use crate::format;
use crate::lease::Objects;
use crate::store::Store;

/// The version of [`SnapshotRecord`] that this version writes.
pub const SNAPSHOT_VERSION: u32 = 1;

/// What a snapshot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotKind {
    /// To be read.
    View,
    /// To be written to.
    Active,
    /// For others to stand on; it never changes.
    Committed,
}

/// What is written down of a snapshot: `snapshot.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// The record's version.
    pub version: u32,
    /// What containerd calls it; no two have the same name.
    pub name: String,
    /// What it is for.
    pub kind: SnapshotKind,
    /// The name of the committed snapshot that it stands on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When it was made (RFC 3339).
    pub created: String,
    /// When its labels or its kind were changed last (RFC 3339).
    pub updated: String,
    /// All layers that it shows, the lowest first, where they are layers of the store; none where its own directory has what it
    /// adds to its parent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<DiffId>,
    /// What a committed one takes by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<SnapshotUsage>,
}

/// What a snapshot takes of the disk by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotUsage {
    /// Bytes of blocks that are allocated.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl Store {
    /// Gives the directory of all snapshots, there or not.
    pub fn snapshots_dir(&self) -> PathBuf {
        self.root().join("snapshots")
    }

    /// Makes the directory of all snapshots, after `stos.json` says so: a version that knows nothing of snapshots only reads such a
    /// store, for it would sweep what they stand on.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; [`Error::Damaged`] of `stos.json`.
    pub fn ensure_snapshots_dir(&self) -> Result<PathBuf> {
        self.check_writable()?;
        format::require_of_writers(self.root(), &self.staging_area(), format::SNAPSHOTS)?;
        let dir = self.snapshots_dir();
        files::ensure_directory(&dir)?;
        Ok(dir)
    }

    /// Gives the directory of a snapshot, there or not.
    pub fn snapshot_dir(&self, number: u64) -> PathBuf {
        self.snapshots_dir().join(number.to_string())
    }

    /// Reads all snapshots, sorted by number, each with its record or why that cannot be read.
    ///
    /// # Errors
    /// Where the directory cannot be listed.
    pub fn snapshots(&self) -> Result<Vec<(u64, Result<SnapshotRecord>)>> {
        let names = files::list_names(&self.snapshots_dir())?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        let mut read = Vec::with_capacity(numbers.len());
        for number in numbers {
            match self.read_snapshot(number) {
                // It has gone since it was listed.
                Err(_) if !self.snapshot_dir(number).exists() => {}
                other => read.push((number, other)),
            }
        }
        Ok(read)
    }

    fn read_snapshot(&self, number: u64) -> Result<SnapshotRecord> {
        let path = self.snapshot_dir(number).join("snapshot.json");
        let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
        let record: Option<SnapshotRecord> = files::read_json(&path)?;
        match record {
            Some(record) if record.version == SNAPSHOT_VERSION => Ok(record),
            Some(record) => Err(damaged(format!("expected version {SNAPSHOT_VERSION}, found {}", record.version))),
            None => Err(damaged("there is none".to_owned())),
        }
    }

    /// Gives the layers and chains that snapshots stand on.
    ///
    /// # Errors
    /// A record that cannot be read: what its snapshot stands on is unknown.
    pub fn snapshot_roots(&self) -> Result<Objects> {
        let mut roots = Objects::default();
        for (_, record) in self.snapshots()? {
            roots.add_layers(&record?.layers);
        }
        Ok(roots)
    }
}

#[cfg(test)]
mod tests {
    use stos_spec::ChainId;

    use super::*;
    use crate::files::Durability;

    fn record(name: &str, layers: &[DiffId]) -> SnapshotRecord {
        SnapshotRecord {
            version: SNAPSHOT_VERSION,
            name: name.to_owned(),
            kind: SnapshotKind::Committed,
            parent: None,
            labels: [("a".to_owned(), "b".to_owned())].into(),
            created: "2026-01-01T00:00:00Z".to_owned(),
            updated: "2026-01-01T00:00:00Z".to_owned(),
            layers: layers.to_vec(),
            usage: Some(SnapshotUsage { bytes: 1, inodes: 2 }),
        }
    }

    fn put(store: &Store, number: u64, bytes: &[u8]) {
        files::ensure_directory(&store.snapshot_dir(number)).unwrap();
        let path = store.snapshot_dir(number).join("snapshot.json");
        files::write_new(&path, bytes, Durability::Volatile).unwrap();
    }

    #[test]
    fn a_store_that_never_served_containerd_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(store.snapshots().unwrap().is_empty());
        assert_eq!(store.snapshot_roots().unwrap(), Objects::default());
    }

    #[test]
    fn from_the_first_on_writers_must_know_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let says_so = || std::fs::read_to_string(dir.path().join("stos.json")).unwrap().contains(format::SNAPSHOTS);
        assert!(!says_so(), "an older version may go on with a store that has none");
        for _ in 0..2 {
            assert_eq!(store.ensure_snapshots_dir().unwrap(), store.snapshots_dir());
            assert!(says_so() && store.snapshots_dir().is_dir());
        }
        drop(Store::open(dir.path()).unwrap());
        // One that cannot be told gets none.
        std::fs::remove_dir(store.snapshots_dir()).unwrap();
        std::fs::write(dir.path().join("stos.json"), "{").unwrap();
        assert!(matches!(store.ensure_snapshots_dir(), Err(Error::Damaged { .. })));
        assert!(!store.snapshots_dir().exists());
    }

    #[test]
    fn layers_and_chains_of_records_are_roots() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (low, high) = (DiffId::of(b"low"), DiffId::of(b"high"));
        put(&store, 10, &files::to_json(&record("two", &[low, high])));
        put(&store, 9, &files::to_json(&record("own directory", &[])));
        std::fs::write(store.snapshots_dir().join("images.json"), b"[]").unwrap();
        let read = store.snapshots().unwrap();
        let numbers: Vec<_> = read.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [9, 10]);
        assert_eq!(read[1].1.as_ref().unwrap(), &record("two", &[low, high]));
        let roots = store.snapshot_roots().unwrap();
        assert_eq!(roots.layers, [low, high].into());
        assert_eq!(roots.chains, ChainId::of_layers(&[low, high]).into_iter().collect());
    }

    #[test]
    fn a_record_that_cannot_be_read_is_damage_and_its_roots_are_unknown() {
        let later = SnapshotRecord { version: SNAPSHOT_VERSION + 1, ..record("later", &[]) };
        for bytes in [b"{".to_vec(), b"{}".to_vec(), files::to_json(&later)] {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path()).unwrap();
            put(&store, 1, &bytes);
            assert!(matches!(store.snapshots().unwrap()[0].1, Err(Error::Damaged { .. })));
            assert!(matches!(store.snapshot_roots(), Err(Error::Damaged { .. })));
        }
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        files::ensure_directory(&store.snapshot_dir(3)).unwrap();
        assert!(matches!(store.snapshot_roots(), Err(Error::Damaged { .. })));
    }
}
