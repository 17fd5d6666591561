// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What each call of the snapshots API does. The contract is containerd's (core/snapshots/snapshotter.go), the codes of what is refused
//! those of its own snapshotters.
//!
//! All of it blocks. Nothing is lost where it is killed: a snapshot is there from the rename that makes it, and gone from the one that
//! removes it; mounts that nobody uses go with the next [clean-up](crate::cleanup).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use stos_engine::Engine;
use stos_engine::filesystem::copy_attributes;
use stos_spec::{ChainId, DiffId};
use stos_store::snapshots::SNAPSHOT_VERSION;
use stos_store::{Error as StoreError, SnapshotKind, SnapshotRecord, SnapshotUsage, Staging, files, usage};

use crate::api::types::Mount;
use crate::cleanup::Leftovers;
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::filter::Filters;
use crate::images::OwnImages;
use crate::metadata::{Metadata, Snapshot};
use crate::metrics::{LayerSource, Metrics};
use crate::mounts::{Lower, MountedLower, check_path};
use crate::remote::{Puller, Remote, SNAPSHOT_REF};

/// The most bytes of a label, key and value together (containerd, pkg/labels).
const LABEL_MAX: usize = 4096;

/// The labels of a request.
pub type Labels = BTreeMap<String, String>;

/// The snapshots of one store, served by this process.
#[derive(Debug)]
pub struct Snapshotter {
    pub(crate) engine: Engine,
    pub(crate) metadata: Metadata,
    pub(crate) own: OwnImages,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) leftovers: Mutex<Leftovers>,
    /// Held by who cleans up.
    pub(crate) cleaning: Mutex<()>,
    /// Held to read by who relies on a mount of a chain until a snapshot says so, to write by who unmounts.
    pub(crate) mounting: RwLock<()>,
    remote: Remote,
    settings: RwLock<Arc<Settings>>,
}

impl Snapshotter {
    /// Takes the store of `engine`, whose chains are mounted below `root`.
    ///
    /// # Errors
    /// Where another process serves the store, or its path cannot stand in the options of an overlay.
    pub fn open(engine: Engine, root: &Path, settings: Settings, metrics: Arc<Metrics>) -> Result<Self> {
        check_path(engine.store().root())?;
        check_path(root)?;
        let metadata = Metadata::open(engine.store())?;
        let own = OwnImages::open(engine.store());
        let settings = RwLock::new(Arc::new(settings));
        let (leftovers, cleaning) = (Mutex::default(), Mutex::default());
        let (mounting, remote) = (RwLock::default(), Remote::default());
        Ok(Self { engine, metadata, own, metrics, leftovers, cleaning, mounting, remote, settings })
    }

    /// Gives the settings that count now.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes other settings count. Pulls that are under way go on as they began.
    pub fn set_settings(&self, settings: Settings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        self.remote.forget_failures();
    }

    /// Gives a snapshot.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn stat(&self, name: &str) -> Result<Snapshot> {
        self.metadata.get(name)
    }

    /// Gives the snapshots that one of `filters` fits, sorted by name.
    ///
    /// # Errors
    /// [`Error::Invalid`] of what is no filter.
    pub fn list(&self, filters: &[String]) -> Result<Vec<Snapshot>> {
        let filters = Filters::parse(filters)?;
        let mut all = self.metadata.all();
        all.retain(|snapshot| filters.fits(&snapshot.record));
        Ok(all)
    }

    /// Makes a snapshot that is written to, and gives how it is mounted. Where the labels say that a layer is to be unpacked into it
    /// and the layer is there, or can be pulled, it is made a committed snapshot instead.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] of a name that is taken, or of a layer that needs no unpacking: that is how containerd hears of it;
    /// [`Error::Refused`] and [`Error::Unproved`] of a layer of an image that may not come in.
    pub fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        self.check_request(key, parent, &labels)?;
        if let Some(target) = labels.get(SNAPSHOT_REF) {
            if self.provide_layer(target, parent, &labels)? {
                return Err(Error::AlreadyExists(target.clone()));
            }
            self.remote.admit_unpacking(&self.settings(), &labels)?;
            self.metrics.count_layer(LayerSource::Unpacked);
        }
        self.create(SnapshotKind::Active, key, parent, labels)
    }

    /// Makes a snapshot that is read, and gives how it is mounted.
    pub fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        self.check_request(key, parent, &labels)?;
        self.create(SnapshotKind::View, key, parent, labels)
    }

    fn check_request(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<()> {
        check_name("key", key)?;
        check_labels(labels)?;
        self.metadata.check_is_new(key, parent)
    }

    fn create(&self, kind: SnapshotKind, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        let _mounting = self.mounting.read().unwrap_or_else(PoisonError::into_inner);
        let below = parent.map(|parent| self.metadata.get(parent)).transpose()?;
        let staged = self.engine.store().stage()?;
        let made = self.mount_lower(Lower::of(&self.metadata, parent)?).and_then(|lower| {
            make_directories(staged.path(), kind, &lower)?;
            Ok(lower)
        });
        let lower = self.unless_gone(below.as_ref(), made)?;
        let snapshot = self.metadata.insert(new_record(kind, key, parent, labels), staged)?;
        lower.mounts(kind, &self.metadata.directory(snapshot.number))
    }

    /// Tells of what went wrong with a snapshot that another caller has removed meanwhile that it is not there: that is no fault of
    /// ours.
    fn unless_gone<T>(&self, snapshot: Option<&Snapshot>, got: Result<T>) -> Result<T> {
        got.map_err(|error| match snapshot {
            Some(Snapshot { number, record }) => match self.metadata.get_settled(&record.name) {
                Ok(found) if found.number == *number => error,
                _ => Error::NotFound(record.name.clone()),
            },
            None => error,
        })
    }

    /// Makes sure that what is below a snapshot can be seen. The caller holds `mounting`.
    fn mount_lower(&self, lower: Lower) -> Result<MountedLower> {
        if let Some(chain) = lower.chain() {
            self.leftovers().chains.insert(chain);
        }
        lower.mount(&self.engine)
    }

    pub(crate) fn leftovers(&self) -> std::sync::MutexGuard<'_, Leftovers> {
        self.leftovers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives how a snapshot is mounted. What it stands on is mounted anew where that is gone, as after a reboot.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Precondition`] of a committed one.
    pub fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let _mounting = self.mounting.read().unwrap_or_else(PoisonError::into_inner);
        let Snapshot { number, record } = self.metadata.get(key)?;
        if record.kind == SnapshotKind::Committed {
            return Err(Error::precondition(key, "it is committed, and mounted by no one"));
        }
        let lower = self.mount_lower(Lower::of(&self.metadata, record.parent.as_deref())?)?;
        lower.mounts(record.kind, &self.metadata.directory(number))
    }

    /// Makes what was written one that others stand on, called `name`. Its files are durable before its record is. Where containerd
    /// has unpacked a layer that the store has, because it did not ask (`ctr` of 1.6 does not), what it has unpacked goes: the
    /// snapshot is that of the store's layers.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Precondition`] of one that is not written to; [`Error::AlreadyExists`] of the name.
    pub fn commit(&self, name: &str, key: &str, labels: Labels) -> Result<()> {
        check_name("name", name)?;
        check_name("key", key)?;
        check_labels(&labels)?;
        if self.metadata.get(name).is_ok() {
            return Err(Error::AlreadyExists(name.to_owned()));
        }
        let active = self.metadata.get(key)?;
        check_is_active(&active.record)?;
        if let Some(chain) = unpacked_chain(name, key)
            && let Some(layers) = self.remote.local_layers(&self.engine, chain)?
            && self.fits_parent(&layers, active.record.parent.as_deref())?
        {
            let _lease = self.engine.store().lease()?;
            if let Some(&top) = layers.last()
                && self.are_sound(&layers)?
            {
                return self.commit_as_layers(name, key, labels, &layers, self.layer_usage(top)?);
            }
        }
        let fs = self.metadata.directory(active.number).join("fs");
        let usage = measure(&fs).and_then(|usage| {
            files::sync_filesystem_of(&fs)?;
            Ok(usage)
        });
        let usage = self.unless_gone(Some(&active), usage)?;
        self.metadata.change(key, |record| {
            check_is_active(&record)?;
            Ok(SnapshotRecord { usage: Some(usage), ..committed(record, name, labels) })
        })?;
        Ok(())
    }

    /// Tells whether all layers are there as they were when they were proved, by a few stats each.
    fn are_sound(&self, layers: &[DiffId]) -> Result<bool> {
        for layer in layers {
            if !self.engine.layerfs().ensure_layer_is_sound(*layer)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes what was unpacked a snapshot of the store's own layers. The caller holds a lease.
    fn commit_as_layers(
        &self,
        name: &str,
        key: &str,
        labels: Labels,
        layers: &[DiffId],
        usage: SnapshotUsage,
    ) -> Result<()> {
        let snapshot = self.metadata.change(key, |record| {
            check_is_active(&record)?;
            Ok(SnapshotRecord { layers: layers.to_vec(), usage: Some(usage), ..committed(record, name, labels) })
        })?;
        self.metrics.count_layer(LayerSource::Provided);
        let directory = self.metadata.directory(snapshot.number);
        for part in ["fs", "work"] {
            // What a crash leaves of them goes with the snapshot.
            let taken = self.engine.store().take_object(&directory.join(part))?;
            self.leftovers().directories.extend(taken);
        }
        Ok(())
    }

    /// Removes a snapshot. Its files are deleted by the next clean-up.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Precondition`] where something stands on it.
    pub fn remove(&self, key: &str) -> Result<()> {
        let (removed, taken) = self.metadata.remove(key)?;
        let mut leftovers = self.leftovers();
        leftovers.directories.extend(taken);
        leftovers.has_lost_layers |= !removed.record.layers.is_empty();
        Ok(())
    }

    /// Changes labels: all of them, or those that `mask` names.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] where `mask` names something else.
    pub fn update(&self, name: &str, labels: Labels, mask: &[String]) -> Result<Snapshot> {
        check_labels(&labels)?;
        self.metadata.change(name, |mut record| {
            if mask.is_empty() {
                record.labels.clone_from(&labels);
            }
            for path in mask {
                match path.strip_prefix("labels.") {
                    Some(key) => match labels.get(key).filter(|value| !value.is_empty()) {
                        Some(value) => drop(record.labels.insert(key.to_owned(), value.clone())),
                        None => drop(record.labels.remove(key)),
                    },
                    None if path == "labels" => record.labels.clone_from(&labels),
                    None => return Err(Error::invalid("update mask", format!("{path:?} cannot be changed"))),
                }
            }
            Ok(SnapshotRecord { updated: now(), ..record })
        })
    }

    /// Gives what a snapshot itself takes: of one that is written to what is in its own directory, of a committed one what that was.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn usage(&self, name: &str) -> Result<SnapshotUsage> {
        let snapshot = self.metadata.get(name)?;
        match snapshot.record.kind {
            SnapshotKind::Active => {
                let usage = measure(&self.metadata.directory(snapshot.number).join("fs"));
                self.unless_gone(Some(&snapshot), usage)
            }
            _ => Ok(snapshot.record.usage.unwrap_or_default()),
        }
    }

    /// Makes a committed snapshot of layers of the store, where they are there or can be pulled; tells whether it is there now.
    fn provide_layer(&self, target: &str, parent: Option<&str>, labels: &Labels) -> Result<bool> {
        // Of another algorithm, or of nothing that we know: it is unpacked.
        let Ok(chain) = target.parse::<ChainId>() else { return Ok(false) };
        if self.has_layer(target, parent) {
            self.metrics.count_layer(LayerSource::Present);
            return Ok(true);
        }
        let settings = self.settings();
        let puller = Puller {
            engine: &self.engine,
            settings: &settings,
            own: &self.own,
            metrics: &self.metrics,
            was_in_vain: Cell::new(false),
        };
        loop {
            let found = self.remote.layers(&puller, chain, labels);
            self.leftovers().has_lost_layers |= puller.was_in_vain.get();
            // Held until the snapshot keeps them.
            let Some(found) = found? else { return Ok(false) };
            let layers = &found.layers;
            let Some(&top) = layers.last() else { return Ok(false) };
            if !self.fits_parent(layers, parent)? {
                tracing::warn!(%chain, parent, "the parent is another chain: it is unpacked");
                return Ok(false);
            }
            // Nothing is swept until the record keeps them.
            let _lease = self.engine.store().lease()?;
            if self.engine.layerfs().kept(top)?.is_none() {
                // A sweep was first.
                continue;
            }
            // Where containerd has unpacked the layers below, nobody has looked at the store's: they may be what it did not trust.
            if !self.shows_layers(parent)? && !self.are_sound(layers)? {
                tracing::warn!(%chain, "a layer below it is damaged: it is unpacked");
                return Ok(false);
            }
            self.commit_layers(target, parent, labels, layers)?;
            self.metrics.count_layer(LayerSource::Provided);
            self.own.complete(&self.engine, layers)?;
            return Ok(true);
        }
    }

    /// Tells whether there is a snapshot that containerd will find for a layer: committed, of the label and on the parent that it asks
    /// for (containerd, core/metadata/snapshot.go).
    fn has_layer(&self, target: &str, parent: Option<&str>) -> bool {
        let is_it = |record: &SnapshotRecord| {
            record.kind == SnapshotKind::Committed
                && record.parent.as_deref() == parent
                && record.labels.get(SNAPSHOT_REF).is_some_and(|label| label == target)
        };
        // It is called by that name, unless another parent came first.
        self.metadata.get(target).is_ok_and(|found| is_it(&found.record))
            || self.metadata.all().iter().any(|snapshot| is_it(&snapshot.record))
    }

    /// Tells whether a chain continues what its parent shows, as far as that is known: a layer that containerd has unpacked has no
    /// digests.
    fn fits_parent(&self, layers: &[DiffId], parent: Option<&str>) -> Result<bool> {
        let lower = &layers[..layers.len().saturating_sub(1)];
        match parent {
            None => Ok(lower.is_empty()),
            Some(parent) => {
                let shown = &self.metadata.get(parent)?.record.layers;
                Ok(!lower.is_empty() && (shown.is_empty() || shown == lower))
            }
        }
    }

    /// Tells whether what is below a layer is nothing, or layers of the store.
    fn shows_layers(&self, parent: Option<&str>) -> Result<bool> {
        parent.map_or(Ok(true), |parent| Ok(!self.metadata.get(parent)?.record.layers.is_empty()))
    }

    fn commit_layers(&self, target: &str, parent: Option<&str>, labels: &Labels, layers: &[DiffId]) -> Result<()> {
        let is_taken = self.metadata.get(target).is_ok();
        let name = if is_taken { format!("{target} on {}", parent.unwrap_or_default()) } else { target.to_owned() };
        let mut record = new_record(SnapshotKind::Committed, &name, parent, labels.clone());
        record.layers = layers.to_vec();
        record.usage = layers.last().map(|layer| self.layer_usage(*layer)).transpose()?;
        match self.metadata.insert(record, self.engine.store().stage()?) {
            // Another request for the same layer was first.
            Err(Error::AlreadyExists(_)) if self.has_layer(target, parent) => Ok(()),
            other => other.map(drop),
        }
    }

    fn layer_usage(&self, layer: DiffId) -> Result<SnapshotUsage> {
        let mut sum = SnapshotUsage::default();
        for form in self.engine.layerfs().forms_of(layer)? {
            let usage = measure(&form.path)?;
            sum = SnapshotUsage { bytes: sum.bytes + usage.bytes, inodes: sum.inodes + usage.inodes };
        }
        Ok(sum)
    }

    /// Gives the directories of removed snapshots, which go when they are dropped.
    pub(crate) fn take_directories(&self) -> Vec<Staging> {
        std::mem::take(&mut self.leftovers().directories)
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

fn new_record(kind: SnapshotKind, name: &str, parent: Option<&str>, labels: Labels) -> SnapshotRecord {
    let created = now();
    SnapshotRecord {
        version: SNAPSHOT_VERSION,
        name: name.to_owned(),
        kind,
        parent: parent.map(str::to_owned),
        labels,
        updated: created.clone(),
        created,
        layers: Vec::new(),
        usage: None,
    }
}

/// A record of what was written, committed. When it was made counts from then on.
fn committed(record: SnapshotRecord, name: &str, labels: Labels) -> SnapshotRecord {
    let created = now();
    let kind = SnapshotKind::Committed;
    SnapshotRecord { name: name.to_owned(), kind, labels, updated: created.clone(), created, ..record }
}

fn check_name(what: &str, name: &str) -> Result<()> {
    match name.is_empty() {
        true => Err(Error::invalid(what, "expected a name, found none")),
        false => Ok(()),
    }
}

fn check_labels(labels: &Labels) -> Result<()> {
    match labels.iter().find(|(key, value)| key.len() + value.len() > LABEL_MAX) {
        Some((key, value)) => {
            let reason = format!("expected at most {LABEL_MAX} bytes, found {}", key.len() + value.len());
            let shown: String = key.chars().take(64).collect();
            Err(Error::invalid(&format!("label {shown:?}"), reason))
        }
        None => Ok(()),
    }
}

fn check_is_active(record: &SnapshotRecord) -> Result<()> {
    match record.kind {
        SnapshotKind::Active => Ok(()),
        _ => Err(Error::precondition(&record.name, "it is not one that is written to")),
    }
}

/// Gives the chain that containerd has unpacked a layer of: where it commits what it prepared under a key for that
/// (`extract-… CHAINID`, containerd, core/snapshots/snapshotter.go: `UnpackKeyFormat`) as that very chain. What somebody else has written
/// is never taken for a layer.
fn unpacked_chain(name: &str, key: &str) -> Option<ChainId> {
    let last = |text: &str| text.rsplit('/').next().map(str::to_owned);
    let (name, key) = (last(name)?, last(key)?);
    let (extract, chain) = key.split_once(' ')?;
    (extract.starts_with("extract-") && chain == name).then(|| chain.parse().ok())?
}

fn measure(path: &Path) -> Result<SnapshotUsage> {
    let usage = usage::measure_tree(path)?;
    Ok(SnapshotUsage { bytes: usage.bytes(), inodes: usage.inodes() })
}

/// Makes the directories of a snapshot. Its root looks like the one below it, for overlayfs shows the upper's.
fn make_directories(dir: &Path, kind: SnapshotKind, lower: &MountedLower) -> Result<()> {
    let fs = dir.join("fs");
    files::ensure_directory(&fs)?;
    let chmod = |mode| fs::set_permissions(&fs, Permissions::from_mode(mode)).map_err(StoreError::io("chmod", &fs));
    if kind == SnapshotKind::Active {
        files::ensure_directory(&dir.join("work"))?;
    }
    match lower.root() {
        None => chmod(0o755)?,
        Some((root, true)) => copy_attributes(root, &fs)?,
        Some((root, false)) => {
            // Not its attributes: among them is what overlayfs notes for itself.
            let metadata = fs::metadata(root).map_err(StoreError::io("stat", root))?;
            chown(&fs, Some(metadata.uid()), Some(metadata.gid())).map_err(StoreError::io("chown", &fs))?;
            chmod(metadata.mode() & 0o7777)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_containerd_unpacks_is_taken_for_a_layer() {
        let chain = ChainId::of(b"x");
        let unpacked = |name: &str, key: &str| unpacked_chain(name, key);
        assert_eq!(unpacked(&format!("default/7/{chain}"), &format!("default/6/extract-12-ab {chain}")), Some(chain));
        let other = ChainId::of(b"y");
        for (name, key) in [
            (format!("default/7/{chain}"), format!("default/6/extract-12-ab {other}")),
            (format!("default/7/{chain}"), "default/6/mine".to_owned()),
            (format!("default/7/{chain}"), format!("default/6/mine {chain}")),
            (format!("default/7/{chain}"), format!("{chain}")),
            ("default/7/x".to_owned(), "default/6/extract-12-ab x".to_owned()),
            (String::new(), String::new()),
        ] {
            assert_eq!(unpacked(&name, &key), None, "{name} {key}");
        }
    }

    #[test]
    fn labels_are_bounded_as_containerd_bounds_them() {
        let label = |size: usize| Labels::from([("k".to_owned(), "v".repeat(size))]);
        check_labels(&label(LABEL_MAX - 1)).unwrap();
        assert!(matches!(check_labels(&label(LABEL_MAX)), Err(Error::Invalid { .. })));
    }
}
