// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Space comes back: what images, containers, snapshots and leases reach is marked, the rest is swept.
//!
//! A sweep has the store for milliseconds: what goes is renamed into staging, and deleted when others can work again. It waits
//! for commands that keep everything, which most do for as short a time; a pull lists what it relies on, and goes on meanwhile.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Map, Value};
use stos_layerfs::BackendKind;
use stos_layerfs::dirs::Replaced;
use stos_spec::BlobDigest;
use stos_store::usage::measure_tree;
use stos_store::{ContainerId, Lock, Objects, Staging};

use crate::Engine;
use crate::container::{self, ContainerState};
use crate::error::{Error, Result};
use crate::image::load_image;
use crate::image_mount;

/// How long `system gc` waits for commands that keep everything.
pub const GC_PATIENCE: Duration = Duration::from_secs(10);
/// How long the removal of an image does: the next sweep can take what stays.
const REMOVAL_PATIENCE: Duration = Duration::from_millis(200);
/// How long to wait between two looks at the lock.
const LOCK_INTERVAL: Duration = Duration::from_millis(2);

/// Of what kind something is that nothing reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GarbageKind {
    /// A container that should have gone with its process.
    Container,
    /// What was made of an image's layers to show them.
    Chain,
    /// A layer.
    Layer,
    /// A manifest, an index, a configuration, or a layer as its registry has it.
    Blob,
    /// A layer or chain that was replaced, and that no container stands on any more.
    Replaced,
    /// A name that leads to no container and no pod.
    Name,
    /// A mount of a chain that the store does not hold, or of an image.
    Mount,
    /// What netavark has made for a container that does not run.
    Network,
    /// What the containers of a pod shared that is gone, or has stopped.
    Pod,
}

impl std::fmt::Display for GarbageKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Container => "container",
            Self::Chain => "chain",
            Self::Layer => "layer",
            Self::Blob => "blob",
            Self::Replaced => "replaced",
            Self::Name => "name",
            Self::Mount => "mount",
            Self::Network => "network",
            Self::Pod => "pod",
        })
    }
}

/// Something that nothing reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Garbage {
    /// Of what kind it is.
    pub kind: GarbageKind,
    /// Its digest, id or name.
    pub id: String,
    /// What it takes of the disk in bytes.
    pub bytes: u64,
}

/// What a sweep has removed, or would remove.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// Each thing.
    pub removed: Vec<Garbage>,
    /// What all of it takes of the disk, in bytes.
    pub bytes: u64,
}

/// Marks what images, containers, snapshots and leases reach. The caller holds the right to sweep.
///
/// One of these that cannot be read makes this fail: what it reaches is unknown, and nothing may be removed then.
pub fn used_objects(engine: &Engine) -> Result<Objects> {
    // Leases first: an image or a container is there before its lease is given up.
    let mut used = engine.store.leased()?;
    for record in engine.store.images()? {
        used.blobs.extend(record.index_digest);
        used.blobs.extend([record.manifest.digest, record.image_id]);
        let image = load_image(engine, record)?;
        // That is the image's ID, unless the list of images is damaged.
        used.blobs.insert(image.manifest.config.digest);
        // Where those are kept.
        used.blobs.extend(image.manifest.layers.iter().map(|layer| layer.descriptor.digest));
        used.add_layers(&image.config.diff_ids);
    }
    for manifest in engine.store.foreign_manifests()? {
        mark_foreign(engine, manifest, &mut used.blobs)?;
    }
    for id in engine.store.containers()? {
        if container::is_remainder(engine, &id)? {
            continue;
        }
        let Some(container) = container::record(engine, &id)? else { continue };
        for image in container.needed_images() {
            used.add_layers(image.layers);
            used.blobs.extend([image.manifest, image.image_id]);
        }
    }
    used.extend(engine.store.snapshot_roots()?);
    Ok(used)
}

/// Marks what a document of another tool reaches: every blob that it names, and what the documents name that it leads to
/// (`manifests` and `subject`; image-spec, manifest.md and image-index.md).
///
/// It need not be a document that we could use: each text in it that is a digest counts, wherever it stands. Only where it
/// looks like a document and cannot be read, this fails.
pub(crate) fn mark_foreign(engine: &Engine, digest: BlobDigest, blobs: &mut BTreeSet<BlobDigest>) -> Result<()> {
    // Not `blobs`: a document that is ours too still leads to layers of theirs.
    let mut seen = BTreeSet::new();
    let mut waiting = vec![digest];
    while let Some(digest) = waiting.pop() {
        blobs.insert(digest);
        if !seen.insert(digest) {
            continue;
        }
        // What is no JSON object is no document and leads nowhere; most of it is large, too.
        if !may_be_document(&engine.store.blob_path(digest)) {
            continue;
        }
        let bytes = match engine.store.read_blob(digest) {
            Ok(bytes) => bytes,
            Err(stos_store::Error::NoSuchBlob(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        let unreadable = |error: serde_json::Error| stos_store::Error::Damaged {
            path: engine.store.blob_path(digest),
            reason: error.to_string(),
        };
        let document: Map<String, Value> = serde_json::from_slice(bytes.get()).map_err(unreadable)?;
        for (key, value) in &document {
            let mut named = Vec::new();
            collect_digests(value, &mut named);
            blobs.extend(&named);
            if matches!(key.as_str(), "manifests" | "subject") {
                waiting.extend(named);
            }
        }
    }
    Ok(())
}

/// Tells by its first bytes whether a file may hold a JSON object. One that cannot be read may.
fn may_be_document(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(4096).read_to_end(&mut start));
    read.is_err() || start.trim_ascii_start().first() == Some(&b'{')
}

/// Collects every text in a JSON value that is a digest. The value's depth is bounded by its parser.
fn collect_digests(value: &Value, into: &mut Vec<BlobDigest>) {
    match value {
        Value::String(text) => into.extend(text.parse::<BlobDigest>()),
        Value::Array(values) => values.iter().for_each(|value| collect_digests(value, into)),
        Value::Object(members) => members.values().for_each(|value| collect_digests(value, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Takes the right to sweep. Commands that keep everything are waited for, up to `patience`.
fn sweep_right(engine: &Engine, patience: Duration) -> Result<Lock> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(right) = engine.store.try_sweep_right()? {
            return Ok(right);
        }
        if Instant::now() >= deadline {
            return Err(Error::StoreBusy { path: engine.store.root().to_owned() });
        }
        std::thread::sleep(LOCK_INTERVAL);
    }
}

/// Removes every object that neither images nor containers nor snapshots nor leases reach, and what crashes have left of names, mounts and locks;
/// with `dry_run` it only tells what it would remove.
///
/// # Errors
/// [`Error::StoreBusy`] where commands keep everything for longer than `patience`. Where an image or a container cannot be read
/// nothing is removed, for what it reaches is unknown.
pub fn collect_garbage(engine: &Engine, dry_run: bool, patience: Duration) -> Result<GcReport> {
    let started = Instant::now();
    let right = sweep_right(engine, patience)?;
    let mut sweep = Sweep { engine, dry_run, found: Vec::new() };
    sweep.containers()?;
    sweep.networks()?;
    sweep.pods()?;
    let mounted = sweep.image_mounts()?;
    let used = used_objects(engine)?;
    sweep.chains(&used)?;
    sweep.layers(&used)?;
    sweep.blobs(&used)?;
    sweep.replaced(mounted)?;
    sweep.names_and_mounts()?;
    if !dry_run {
        engine.store.sweep_locks()?;
    }
    drop(right);
    let held = started.elapsed();
    let removed = finish_all(sweep.found);
    let report = GcReport { bytes: removed.iter().map(|garbage| garbage.bytes).sum(), removed };
    let (objects, bytes) = (report.removed.len(), report.bytes);
    let (held_ms, ms) = (held.as_millis(), started.elapsed().as_millis());
    tracing::debug!(dry_run, objects, bytes, held_ms, ms, "swept");
    Ok(report)
}

/// Removes what the removal of images has left. That they are gone stands: what cannot be removed now, the next sweep can.
pub(crate) fn sweep_after_removal(engine: &Engine) -> GcReport {
    match collect_garbage(engine, false, REMOVAL_PATIENCE) {
        Ok(report) => report,
        Err(Error::StoreBusy { .. }) => {
            tracing::info!("another command is at work: unused layers stay until the next sweep");
            GcReport::default()
        }
        Err(error) => {
            tracing::warn!(%error, "not everything that is unused could be removed: `stos system gc` tries again");
            GcReport::default()
        }
    }
}

/// Something that was found, and where its bytes are to be counted before they go.
struct Found {
    garbage: Garbage,
    /// It lies in staging, until this goes.
    taken: Vec<Staging>,
    /// It is still where it was.
    kept: Vec<PathBuf>,
}

/// Gives what a file or a directory takes of the disk. What has gone meanwhile takes nothing.
fn bytes_of(path: &Path) -> u64 {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => measure_tree(path).map_or(0, |usage| usage.bytes()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    }
}

impl Found {
    /// Counts its bytes and deletes it.
    fn finish(mut self) -> Garbage {
        let places = self.taken.iter().map(Staging::path).chain(self.kept.iter().map(PathBuf::as_path));
        self.garbage.bytes += places.map(bytes_of).sum::<u64>();
        self.garbage
    }
}

/// Deletes what was found, two things side by side: most of the time goes to the filesystem.
fn finish_all(found: Vec<Found>) -> Vec<Garbage> {
    let count = found.len();
    let queue = Mutex::new(found.into_iter().enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || std::iter::from_fn(next).map(|(number, found)| (number, found.finish())).collect::<Vec<_>>();
    let mut removed = if count < 2 {
        work()
    } else {
        std::thread::scope(|scope| {
            let other = scope.spawn(work);
            let mut own = work();
            own.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            own
        })
    };
    removed.sort_unstable_by_key(|(number, _)| *number);
    removed.into_iter().map(|(_, garbage)| garbage).collect()
}

/// A sweep under way. Its maker holds the right to.
struct Sweep<'a> {
    engine: &'a Engine,
    dry_run: bool,
    found: Vec<Found>,
}

impl Sweep<'_> {
    fn add(&mut self, kind: GarbageKind, id: impl ToString, taken: Vec<Staging>, kept: Vec<PathBuf>) {
        self.found.push(Found { garbage: Garbage { kind, id: id.to_string(), bytes: 0 }, taken, kept });
    }

    /// Takes something out of the store that lies at `places`; or leaves it there, and only tells of it.
    fn take(
        &mut self,
        kind: GarbageKind,
        id: impl ToString,
        places: Vec<PathBuf>,
        take: impl FnOnce() -> Result<Vec<Staging>>,
    ) -> Result<()> {
        let (taken, kept) = if self.dry_run { (Vec::new(), places) } else { (take()?, Vec::new()) };
        self.add(kind, id, taken, kept);
        Ok(())
    }

    /// Containers that should have gone with their process.
    fn containers(&mut self) -> Result<()> {
        for id in self.engine.store.containers()? {
            if !container::is_remainder(self.engine, &id)? {
                continue;
            }
            let path = self.engine.store.container_dir(&id);
            if self.dry_run {
                self.add(GarbageKind::Container, &id, Vec::new(), vec![path]);
                continue;
            }
            if let Some(taken) = container::take_gone(self.engine, &id)? {
                self.add(GarbageKind::Container, &id, taken, Vec::new());
            }
        }
        Ok(())
    }

    /// Networks of containers that do not run: their monitor was killed. Those that somebody is at work on stay.
    fn networks(&mut self) -> Result<()> {
        let sandboxes = self.engine.sandboxes();
        for id in sandboxes.ids()? {
            let Ok(container) = id.parse::<ContainerId>() else { continue };
            let directory = self.engine.store.container_dir(&container);
            let lock = Lock::try_directory(&directory)?;
            if (lock.is_none() && directory.exists())
                || matches!(container::state(self.engine, &container)?, ContainerState::Running(_))
            {
                continue;
            }
            if !self.dry_run {
                sandboxes.tear_down(&id)?;
            }
            self.add(GarbageKind::Network, id, Vec::new(), Vec::new());
        }
        Ok(())
    }

    /// What there is of pods that are gone, or should have stopped.
    fn pods(&mut self) -> Result<()> {
        for id in crate::pods::sweep(self.engine, self.dry_run)? {
            self.add(GarbageKind::Pod, id, Vec::new(), Vec::new());
        }
        Ok(())
    }

    /// Mounts of images that are gone. Tells whether any image is mounted still.
    fn image_mounts(&mut self) -> Result<bool> {
        for id in image_mount::sweep_image_mounts(self.engine, self.dry_run)? {
            self.add(GarbageKind::Mount, id, Vec::new(), Vec::new());
        }
        Ok(!image_mount::mounted_images(self.engine)?.is_empty())
    }

    fn chains(&mut self, used: &Objects) -> Result<()> {
        let layerfs = &self.engine.layerfs;
        for chain in layerfs.chains()?.into_iter().filter(|chain| !used.chains.contains(chain)) {
            self.take(GarbageKind::Chain, chain, layerfs.chain_places(chain), || Ok(layerfs.take_chain(chain)?))?;
        }
        Ok(())
    }

    fn layers(&mut self, used: &Objects) -> Result<()> {
        let layerfs = &self.engine.layerfs;
        for layer in layerfs.layers()?.into_iter().filter(|layer| !used.layers.contains(layer)) {
            self.take(GarbageKind::Layer, layer, layerfs.layer_places(layer), || Ok(layerfs.take_layer(layer)?))?;
        }
        Ok(())
    }

    fn blobs(&mut self, used: &Objects) -> Result<()> {
        let store = &self.engine.store;
        for blob in store.blobs()?.into_iter().filter(|blob| !used.blobs.contains(blob)) {
            let bytes = bytes_of(&store.blob_path(blob));
            if !self.dry_run {
                store.remove_blob(blob)?;
            }
            let garbage = Garbage { kind: GarbageKind::Blob, id: blob.to_string(), bytes };
            self.found.push(Found { garbage, taken: Vec::new(), kept: Vec::new() });
        }
        Ok(())
    }

    /// Stacked directories that were replaced, where nobody can stand on them any more: no container that runs, and no image
    /// that somebody looks at.
    fn replaced(&mut self, is_any_image_mounted: bool) -> Result<()> {
        let engine = self.engine;
        let old = engine.layerfs.dirs().replaced()?;
        if old.is_empty() || is_any_image_mounted {
            return Ok(());
        }
        let used = stood_on(engine)?;
        for Replaced { digits, path, .. } in old.into_iter().filter(|old| !used.contains(&old.digits)) {
            let take = || Ok(engine.store.take_object(&path)?.into_iter().collect());
            self.take(GarbageKind::Replaced, digits, vec![path.clone()], take)?;
        }
        Ok(())
    }

    fn names_and_mounts(&mut self) -> Result<()> {
        let (store, layerfs) = (&self.engine.store, &self.engine.layerfs);
        let names = if self.dry_run { store.dangling_names()? } else { store.sweep_names()? };
        let mounts = layerfs.sweep_mounts(self.dry_run)?;
        let strays = names.into_iter().map(|name| (GarbageKind::Name, name));
        for (kind, id) in strays.chain(mounts.into_iter().map(|mount| (GarbageKind::Mount, mount))) {
            self.add(kind, id, Vec::new(), Vec::new());
        }
        Ok(())
    }
}

/// Gives the digits of layers and chains that running containers stand on as directories; and those of snapshots, whose containers
/// only containerd knows.
fn stood_on(engine: &Engine) -> Result<BTreeSet<String>> {
    let roots = engine.store.snapshot_roots()?;
    let layers = roots.layers.iter().map(|layer| layer.hex().to_string());
    let mut used: BTreeSet<String> = layers.chain(roots.chains.iter().map(|chain| chain.hex().to_string())).collect();
    for id in engine.store.containers()? {
        let Some(record) = container::record(engine, &id)? else { continue };
        let stands_on = || record.needed_images().filter(|image| image.backend == BackendKind::Dirs);
        if stands_on().next().is_some() && matches!(container::state(engine, &record.id)?, ContainerState::Running(_)) {
            for image in stands_on() {
                used.insert(image.chain.hex());
                used.extend(image.layers.iter().map(|layer| layer.hex()));
            }
        }
    }
    Ok(used)
}

/// Removes those of `objects` again that nothing else reaches: what a command that failed has added. Where another one is at
/// work that keeps everything it may rely on them already: then they stay for the next sweep.
pub(crate) fn take_back(engine: &Engine, objects: &Objects) -> Result<()> {
    let Some(right) = engine.store.try_sweep_right()? else { return Ok(()) };
    let used = used_objects(engine)?;
    let mut taken = Vec::new();
    for &chain in objects.chains.difference(&used.chains) {
        taken.extend(engine.layerfs.take_chain(chain)?);
    }
    for &layer in objects.layers.difference(&used.layers) {
        taken.extend(engine.layerfs.take_layer(layer)?);
    }
    for &blob in objects.blobs.difference(&used.blobs) {
        engine.store.remove_blob(blob)?;
    }
    drop(right);
    Ok(())
}
