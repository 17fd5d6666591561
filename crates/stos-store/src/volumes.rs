// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `volumes/`: directories of files that containers share and that outlast them.
//!
//! ```text
//! DATA-ROOT/volumes/              missing where there never was one
//!   <name>/volume.json            what it is, and whether an image's files have been copied into it
//!   <name>/_data/                 what containers see
//! ```
//!
//! **Roots**: a volume is one itself. Nothing removes it but who asks for that, and never while a container's record names it.
//! **Locks**: a volume's directory is itself the lock of its life. Who makes a container holds the locks of all its volumes, taken in the
//! order of their names, until the container's record is there; who removes a volume holds its lock while it looks at all records. So of
//! a removal and a creation at the same time one sees what the other did.
//! **Durability**: a volume is made in staging, synced, and appears by one rename; it goes by one into staging. Its record is replaced by
//! one rename.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::container_id::{ContainerId, cut, is_name, text_type};
use crate::error::{Error, Result};
use crate::files::{self, Durability};
use crate::lock::Lock;
use crate::staging::Staging;
use crate::store::Store;

/// The version of [`VolumeRecord`] that this version writes.
pub const VOLUME_VERSION: u32 = 1;

/// The name of a volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeName(String);

impl VolumeName {
    /// Draws the name of a volume that nobody has named: 64 hexadecimal digits.
    pub fn random() -> Self {
        Self(files::random_hex::<32>())
    }

    /// Gives the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tells whether it looks like one that was drawn.
    pub fn looks_random(&self) -> bool {
        self.0.parse::<ContainerId>().is_ok()
    }
}

impl FromStr for VolumeName {
    type Err = Error;

    /// podman's rule (containers/podman, `libpod/define/config.go`); and short enough for a file name.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = |rule| Err(Error::InvalidName { kind: "volume name", text: cut(text), rule });
        if !is_name(text) {
            return invalid("names must match [a-zA-Z0-9][a-zA-Z0-9_.-]*");
        }
        if text.len() > 255 {
            return invalid("expected at most 255 bytes");
        }
        Ok(Self(text.to_owned()))
    }
}

text_type!(VolumeName);

/// Whether an image's files have been copied into a volume: that is done once, at the first use that finds it empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyUp {
    /// Not yet.
    Pending,
    /// It was begun: what is there may be a part of it. The next use completes it.
    Begun,
    /// They have, or it is not wanted.
    Done,
}

/// What is written down of a volume: `volume.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// The record's version.
    pub version: u32,
    /// Its name.
    pub name: VolumeName,
    /// When it was made (RFC 3339).
    pub created: String,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Options of the driver, as they were given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// Whether it was made for one container and named by nobody: `rm --volumes` of that takes it.
    #[serde(default)]
    pub anonymous: bool,
    /// Whether an image's files are in it.
    pub copy_up: CopyUp,
}

impl VolumeRecord {
    /// A new volume without anything.
    pub fn new(name: VolumeName, created: String) -> Self {
        let (labels, options) = (BTreeMap::new(), BTreeMap::new());
        let copy_up = CopyUp::Pending;
        Self { version: VOLUME_VERSION, name, created, labels, options, anonymous: false, copy_up }
    }
}

/// A volume that nobody sees yet.
#[derive(Debug)]
pub struct StagedVolume {
    staged: Staging,
}

impl StagedVolume {
    /// Gives the directory that containers will see. It is empty, root's, mode 0755.
    pub fn data(&self) -> PathBuf {
        self.staged.path().join("_data")
    }
}

impl Store {
    /// Gives the directory of all volumes, there or not.
    pub fn volumes_dir(&self) -> PathBuf {
        self.root().join("volumes")
    }

    /// Gives the directory of a volume, there or not.
    pub fn volume_dir(&self, name: &VolumeName) -> PathBuf {
        self.volumes_dir().join(name.as_str())
    }

    /// Gives the directory of a volume's files, there or not.
    pub fn volume_data(&self, name: &VolumeName) -> PathBuf {
        self.volume_dir(name).join("_data")
    }

    /// Lists the volumes, sorted.
    pub fn volumes(&self) -> Result<Vec<VolumeName>> {
        let names = files::list_names(&self.volumes_dir())?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Reads a volume's record; `None` where there is no such volume.
    ///
    /// # Errors
    /// [`Error::Damaged`] where it cannot be read as what it should be, or is missing.
    pub fn volume(&self, name: &VolumeName) -> Result<Option<VolumeRecord>> {
        let path = self.volume_dir(name).join("volume.json");
        let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
        let record: Option<VolumeRecord> = files::read_json(&path)?;
        match record {
            Some(record) if record.version != VOLUME_VERSION => {
                Err(damaged(format!("expected version {VOLUME_VERSION}, found {}", record.version)))
            }
            Some(record) if record.name != *name => Err(damaged(format!("it is that of volume {}", record.name))),
            Some(record) => Ok(Some(record)),
            None if self.volume_dir(name).exists() => Err(damaged("it is missing".to_owned())),
            None => Ok(None),
        }
    }

    /// Begins a volume.
    pub fn stage_volume(&self) -> Result<StagedVolume> {
        let staged = StagedVolume { staged: self.stage()? };
        let data = staged.data();
        std::fs::DirBuilder::new().mode(0o755).create(&data).map_err(Error::io("create the directory", &data))?;
        // Whatever the umask is.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&data, mode).map_err(Error::io("chmod", &data))?;
        Ok(staged)
    }

    /// Makes a staged volume exist. `false` says that there is one of that name already: nothing was changed, and what was staged is
    /// gone.
    ///
    /// With [`Durability::Durable`] all of it outlasts a power cut when this returns; `has_files` says whether anything was put into it.
    pub fn commit_volume(
        &self,
        volume: StagedVolume,
        record: &VolumeRecord,
        durability: Durability,
        has_files: bool,
    ) -> Result<bool> {
        let StagedVolume { staged } = volume;
        let path = staged.path().join("volume.json");
        files::write_new(&path, &files::to_record(record, &path)?, Durability::Volatile)?;
        let parent = self.volumes_dir();
        let is_first = !parent.exists();
        files::ensure_directory(&parent)?;
        if durability == Durability::Durable {
            if has_files {
                staged.sync_filesystem()?;
            } else {
                files::sync_files([path])?;
                files::sync_directory(&staged.path().join("_data"))?;
            }
            if is_first {
                files::sync_directory(self.root())?;
            }
        }
        staged.commit(&self.volume_dir(&record.name), durability)
    }

    /// Waits for the lock of a volume's life; `None` where there is no such volume.
    pub fn lock_volume(&self, name: &VolumeName) -> Result<Option<Lock>> {
        self.check_writable()?;
        match Lock::wait_for_directory(&self.volume_dir(name)) {
            Err(error) if error.is_not_found() => Ok(None),
            other => other.map(Some),
        }
    }

    /// Takes that lock if it needs no waiting; `None` also where there is no such volume.
    pub fn try_lock_volume(&self, name: &VolumeName) -> Result<Option<Lock>> {
        self.check_writable()?;
        Lock::try_directory(&self.volume_dir(name))
    }

    /// Writes down, durably, how far the copy into a volume is. The caller holds its lock.
    pub fn note_copy_up(&self, record: &VolumeRecord, copy_up: CopyUp) -> Result<()> {
        let path = self.volume_dir(&record.name).join("volume.json");
        let record = VolumeRecord { copy_up, ..record.clone() };
        files::replace(&path, &self.staging_area(), &files::to_record(&record, &path)?, Durability::Durable)
    }

    /// Takes a volume out of the store, whose lock the caller holds: it is gone, and its files are deleted when what comes back is
    /// dropped.
    pub fn take_volume(&self, name: &VolumeName, held: &Lock) -> Result<Option<Staging>> {
        self.take_held_object(&self.volume_dir(name), held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    fn record(name: &str) -> VolumeRecord {
        VolumeRecord {
            labels: [("a".to_owned(), "b".to_owned())].into(),
            ..VolumeRecord::new(name.parse().unwrap(), "2026-01-01T00:00:00Z".to_owned())
        }
    }

    fn commit(store: &Store, name: &str) -> bool {
        let staged = store.stage_volume().unwrap();
        std::fs::write(staged.data().join("file"), name).unwrap();
        store.commit_volume(staged, &record(name), Durability::Durable, true).unwrap()
    }

    #[test]
    fn names_are_podman_s() {
        for text in ["v", "a.b_c-D", "0", &"a".repeat(255)] {
            assert_eq!(text.parse::<VolumeName>().unwrap().as_str(), text);
        }
        for text in ["", ".", "..", "a/b", "-x", "_x", "a b", "ä", &"a".repeat(256)] {
            assert!(matches!(text.parse::<VolumeName>(), Err(Error::InvalidName { .. })), "{text}");
        }
        assert!(VolumeName::random().looks_random() && !record("v").name.looks_random());
    }

    #[test]
    fn a_volume_comes_and_goes_whole() {
        let (dir, store) = store();
        assert_eq!(store.volumes().unwrap(), []);
        assert!(commit(&store, "v") && !commit(&store, "v"));
        assert_eq!(store.volume(&"v".parse().unwrap()).unwrap(), Some(record("v")));
        let name: VolumeName = "v".parse().unwrap();
        assert_eq!(std::fs::read(store.volume_data(&name).join("file")).unwrap(), b"v");
        store.note_copy_up(&record("v"), CopyUp::Done).unwrap();
        assert_eq!(store.volume(&name).unwrap().unwrap().copy_up, CopyUp::Done);
        let held = store.lock_volume(&name).unwrap().unwrap();
        assert!(store.try_lock_volume(&name).unwrap().is_none());
        let taken = store.take_volume(&name, &held).unwrap();
        assert_eq!((store.volume(&name).unwrap(), store.volumes().unwrap()), (None, vec![]));
        drop((taken, held));
        assert!(store.lock_volume(&name).unwrap().is_none());
        assert_eq!(files::list_names(&dir.path().join("staging")).unwrap(), [""; 0]);
    }

    #[test]
    fn who_waits_for_a_volume_that_goes_finds_it_gone() {
        let (_dir, store) = store();
        commit(&store, "v");
        let name: VolumeName = "v".parse().unwrap();
        let held = store.lock_volume(&name).unwrap().unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| store.lock_volume(&name).unwrap().is_none());
            drop(store.take_volume(&name, &held).unwrap());
            drop(held);
            assert!(waiter.join().unwrap());
        });
    }

    #[test]
    fn a_record_that_is_none_is_damage() {
        let (_dir, store) = store();
        let later = VolumeRecord { version: VOLUME_VERSION + 1, ..record("v") };
        for bytes in [b"{".to_vec(), b"{}".to_vec(), files::to_json(&later), files::to_json(&record("other"))] {
            commit(&store, "v");
            std::fs::write(store.volume_dir(&"v".parse().unwrap()).join("volume.json"), bytes).unwrap();
            assert!(matches!(store.volume(&"v".parse().unwrap()), Err(Error::Damaged { .. })));
        }
        std::fs::remove_file(store.volume_dir(&"v".parse().unwrap()).join("volume.json")).unwrap();
        assert!(matches!(store.volume(&"v".parse().unwrap()), Err(Error::Damaged { .. })));
    }
}
