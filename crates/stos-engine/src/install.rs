// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images from anywhere come into the store: every layer, the merged index, the documents, and last the names; or nothing.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use stos_layerfs::{Integrity, LayerLabel, LayerOutcome, LayerRequest, NewLayer};
use stos_spec::media_type::{OCI_LAYER, OCI_MANIFEST};
use stos_spec::{BlobDigest, ChainId, Descriptor, DiffId, ImageRef, LayerCompression, Verified};
use stos_store::{ImageRecord, Lease, Objects};

use crate::Engine;
use crate::build::{oci_manifest, plain_layer};
use crate::counted::Counted;
use crate::error::{Error, Result};
use crate::gc::take_back;
use crate::image::load_image;
use crate::pull::{Announced, PullProgress};
use crate::room::check_room;
use crate::side_by_side::{default_jobs, side_by_side};
use crate::source::{LayerSource, Manifest, ResolvedImage, WantedLayer};
use crate::stage::{no_bytes, stage};

/// An image on its way, and what it will be called; of no names, it is known by its ID.
pub(crate) struct NamedImage {
    pub names: Vec<ImageRef>,
    /// What its source calls it besides, which is no name outside.
    pub tags: Vec<String>,
    pub image: ResolvedImage,
    /// Its names, to tell which it has.
    known: HashSet<ImageRef>,
}

impl NamedImage {
    pub fn new(names: Vec<ImageRef>, image: ResolvedImage) -> Self {
        let mut named = Self { names: Vec::new(), tags: Vec::new(), image, known: HashSet::new() };
        named.add_names(names);
        named
    }

    /// Gives it further names, each once.
    pub fn add_names(&mut self, names: Vec<ImageRef>) {
        for name in names {
            if self.known.insert(name.clone()) {
                self.names.push(name);
            }
        }
    }
}

/// What came into the store.
pub(crate) struct Installed {
    /// The entries of each image, in the images' order: one for each name, at least one.
    pub records: Vec<Vec<ImageRecord>>,
    /// How many bytes of layers were fetched.
    pub fetched_bytes: u64,
    /// How many layers were there already.
    pub present_layers: usize,
}

/// How images come in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InstallOptions {
    /// How many layers side by side.
    pub jobs: Option<usize>,
    /// Whether the blobs that layers come as are kept.
    pub keep_blobs: bool,
}

/// Images on their way from one source.
struct Install<'a> {
    engine: &'a Engine,
    source: &'a dyn LayerSource,
    progress: &'a dyn PullProgress,
    keep_blobs: bool,
    /// The layers that this has added to the store, and the blobs: layers, and manifests made here.
    added: Mutex<Objects>,
    /// One layer has failed: the others stop where they are.
    is_cancelled: AtomicBool,
}

/// Puts `images` into the store, their layers side by side, `jobs` at a time: all of them, or none.
///
/// A lease keeps what is added, narrowed to that while the layers come. Layers whose diffID is present are not fetched. What was
/// killed leaves whole layers, which the next command uses.
pub(crate) fn install_images(
    engine: &Engine,
    source: &dyn LayerSource,
    images: Vec<NamedImage>,
    options: InstallOptions,
    progress: &dyn PullProgress,
) -> Result<Installed> {
    let InstallOptions { jobs, keep_blobs } = options;
    images.iter().for_each(|image| announce(image, progress));
    let install =
        Install { engine, source, progress, keep_blobs, added: Mutex::default(), is_cancelled: AtomicBool::new(false) };
    let mut lease = engine.store.lease_of(&install.relied_on(&images))?;
    let installed = install.run(&images, &mut lease, jobs.unwrap_or_else(default_jobs));
    match installed {
        Ok(_) => progress.done(),
        Err(_) => install.undo(lease, &images),
    }
    installed
}

/// Tells what is going to come.
fn announce(named: &NamedImage, progress: &dyn PullProgress) {
    let image = &named.image;
    let layers: Vec<_> = image.layers.iter().map(|layer| (layer.shown(), layer.size())).collect();
    progress.resolved(&Announced {
        image: named.names.first(),
        manifest: image.manifest.as_ref().map(|manifest| manifest.bytes.digest()),
        image_id: image.config_bytes.digest(),
        platform: &image.platform,
        layers: &layers,
    });
}

impl Install<'_> {
    /// Gives everything of which it is known that these images will need it.
    fn relied_on(&self, images: &[NamedImage]) -> Objects {
        let mut objects = Objects::default();
        for NamedImage { image, .. } in images {
            objects.add_layers(&image.diff_ids());
            objects.blobs.extend(documents(image));
            if self.keep_blobs {
                objects.blobs.extend(image.layers.iter().map(WantedLayer::shown));
            }
        }
        objects
    }

    fn run(&self, images: &[NamedImage], lease: &mut Lease, jobs: usize) -> Result<Installed> {
        check_room(self.engine, images, self.keep_blobs)?;
        let (fetched_bytes, present_layers) = self.fetch_layers(images, jobs)?;
        self.progress.merge_started();
        stage("index", no_bytes, || {
            images.iter().try_for_each(|named| {
                let layerfs = &self.engine.layerfs;
                let chain = layerfs.ensure_sound_chain(&named.image.diff_ids(), Integrity::Sealed)?;
                if let Err(error) = layerfs.heal_chains(&chain) {
                    // The image is whole without it; who needs it makes it again.
                    tracing::warn!(chain = %chain.chain_id(), %error, "the other backend's form of the image stays damaged");
                }
                Ok::<_, Error>(())
            })
        })?;
        self.progress.merge_done();
        // Which manifests are made is not known before.
        lease.widen()?;
        let records = stage("commit", no_bytes, || self.record(images))?;
        Ok(Installed { records, fetched_bytes, present_layers })
    }

    /// Makes sure of every layer, the largest first. Gives the bytes fetched and the layers present.
    fn fetch_layers(&self, images: &[NamedImage], jobs: usize) -> Result<(u64, usize)> {
        // Images share layers, and one may hold a layer twice, the empty one above all. Each blob that is kept comes.
        let mut seen = BTreeSet::new();
        let key = |layer: &WantedLayer| (layer.diff_id, self.keep_blobs.then(|| layer.shown()));
        let all = images.iter().flat_map(|named| &named.image.layers);
        let mut queue: Vec<&WantedLayer> = all.filter(|layer| seen.insert(key(layer))).collect();
        queue.sort_by_key(|layer| std::cmp::Reverse(layer.size()));
        let all = images.iter().flat_map(|named| &named.image.layers);
        // What manifests claim of layers that are there already may be anything.
        let total = all.fold(0, |sum: u64, layer| sum.saturating_add(layer.size()));
        stage("layers", |_| total, || self.run_queue(&queue, jobs))
    }

    fn run_queue(&self, queue: &[&WantedLayer], jobs: usize) -> Result<(u64, usize)> {
        let cancel = || {
            self.is_cancelled.store(true, Ordering::Relaxed);
            self.source.cancel();
        };
        let present = side_by_side(queue, jobs, |layer| self.ensure(layer), cancel)?;
        let fetched = queue.iter().zip(&present).filter(|(_, was_present)| !**was_present);
        Ok((fetched.map(|(layer, _)| layer.size()).sum(), present.iter().filter(|was_present| **was_present).count()))
    }

    /// Makes sure of a layer, and tells whether it was there.
    fn ensure(&self, layer: &WantedLayer) -> Result<bool> {
        let was_present = match &layer.blob {
            Some(blob) => self.ensure_promised(layer, blob)?,
            None => self.ensure_unpromised(layer)?,
        };
        if let Err(error) = self.engine.layerfs.heal_forms(layer.diff_id) {
            // One form is sound, which is enough for the image.
            tracing::warn!(layer = %layer.diff_id, %error, "the other backend's form of the layer stays damaged");
        }
        self.progress.layer_done(layer.shown(), was_present);
        Ok(was_present)
    }

    fn ensure_promised(&self, layer: &WantedLayer, blob: &Descriptor) -> Result<bool> {
        let (source, compression) = (self.source.name(), layer.compression);
        let request =
            LayerRequest { diff_id: layer.diff_id, blob, compression, source: &source, keep_blob: self.keep_blobs };
        let advance = |count| self.progress.layer_advanced(blob.digest, count);
        let open = || -> Result<_> {
            self.progress.layer_started(blob.digest, blob.size);
            self.open(layer)
        };
        let outcome = self.engine.layerfs.ensure_layer(request, open, &advance).map_err(unwrap_registry_error)?;
        match outcome {
            LayerOutcome::Present => return Ok(true),
            LayerOutcome::Fetched(_) => self.has_added(|added| &mut added.layers, layer.diff_id),
            LayerOutcome::BlobFetched => {}
        }
        if self.keep_blobs {
            self.has_added(|added| &mut added.blobs, blob.digest);
        }
        Ok(false)
    }

    /// A layer of which only the diffID is promised. What is kept of it is its tar, for that is what its manifest will name.
    fn ensure_unpromised(&self, layer: &WantedLayer) -> Result<bool> {
        let layerfs = &self.engine.layerfs;
        let was_present = layerfs.ensure_layer_is_sound(layer.diff_id)?;
        if !was_present {
            self.progress.layer_started(layer.shown(), 0);
            let source = self.source.name();
            let label = LayerLabel::Origin(source.clone());
            let new = NewLayer {
                label: &label,
                compression: layer.compression,
                diff_id: Some(layer.diff_id),
                media_type: OCI_LAYER,
                source: &source,
            };
            let advance = |count| self.progress.layer_advanced(layer.shown(), count);
            layerfs.add_layer(new, Counted::new(self.open(layer)?, advance))?;
            self.has_added(|added| &mut added.layers, layer.diff_id);
        }
        if self.keep_blobs {
            self.keep_tar(layer.diff_id)?;
        }
        Ok(was_present)
    }

    fn keep_tar(&self, layer: DiffId) -> Result<()> {
        let tar = self.engine.layerfs.open_tar(layer)?;
        let blob = plain_layer(layer, tar.size());
        let (compression, source) = (LayerCompression::None, self.source.name());
        let request = LayerRequest { diff_id: layer, blob: &blob, compression, source: &source, keep_blob: true };
        match self.engine.layerfs.ensure_layer(request, || Ok::<_, Error>(tar), &|_| {})? {
            LayerOutcome::Present => {}
            _ => self.has_added(|added| &mut added.blobs, blob.digest),
        }
        Ok(())
    }

    fn open<'a>(&'a self, layer: &WantedLayer) -> Result<Cancellable<'a>> {
        Ok(Cancellable { blob: self.source.open_layer(layer)?, is_cancelled: &self.is_cancelled })
    }

    /// Writes the documents, then the names, by one rename: the images exist from then on.
    fn record(&self, images: &[NamedImage]) -> Result<Vec<Vec<ImageRecord>>> {
        let mut records = Vec::new();
        for named in images {
            let record = self.record_documents(&named.image)?;
            let with_name = |name: Option<ImageRef>| ImageRecord { reference: name, ..record.clone() };
            records.push(match named.names.as_slice() {
                [] => vec![with_name(None)],
                names => names.iter().map(|name| with_name(Some(name.clone()))).collect(),
            });
        }
        self.engine.store.put_images(&records.concat())?;
        Ok(records)
    }

    /// Writes an image's documents and gives its entry, without a name yet.
    fn record_documents(&self, image: &ResolvedImage) -> Result<ImageRecord> {
        let store = &self.engine.store;
        let made;
        let manifest = match &image.manifest {
            Some(manifest) => manifest,
            None => match self.known_image(image)? {
                Some(record) => return Ok(record),
                None => {
                    made = self.make_manifest(image)?;
                    &made
                }
            },
        };
        if let Some(index) = &image.index {
            store.put_blob(index)?;
        }
        store.put_blob(&image.config_bytes)?;
        store.put_blob(&manifest.bytes)?;
        let size = manifest.bytes.get().len() as u64;
        Ok(ImageRecord {
            reference: None,
            manifest: Descriptor {
                platform: Some(image.platform.clone()),
                ..Descriptor::new(manifest.media_type.clone(), manifest.bytes.digest(), size)
            },
            image_id: image.config_bytes.digest(),
            index_digest: image.index.as_ref().map(Verified::digest),
            pulled: crate::container::now(),
        })
    }

    /// Gives an entry of the same image ID, if the store has a sound one: an image without a manifest of its own is that image,
    /// and with it keeps the digests that a registry gave it.
    fn known_image(&self, image: &ResolvedImage) -> Result<Option<ImageRecord>> {
        let images = self.engine.store.images()?;
        let same = images.into_iter().filter(|record| record.image_id == image.config_bytes.digest());
        let mut sound = same.filter(|record| load_image(self.engine, record.clone()).is_ok());
        Ok(sound.next().map(|record| ImageRecord { reference: None, ..record }))
    }

    /// Makes a manifest of layers that nobody has described: uncompressed, so that the same image always gets the same.
    fn make_manifest(&self, image: &ResolvedImage) -> Result<Manifest> {
        let mut layers = Vec::new();
        for layer in &image.layers {
            let record = self.engine.layerfs.kept(layer.diff_id)?;
            let record = record.ok_or(Error::Layers(stos_layerfs::Error::NoSuchLayer(layer.diff_id)))?;
            layers.push(plain_layer(layer.diff_id, record.tar_bytes));
        }
        let bytes = oci_manifest(&image.config_bytes, &layers)?;
        self.has_added(|added| &mut added.blobs, bytes.digest());
        Ok(Manifest { bytes, media_type: OCI_MANIFEST.to_owned() })
    }

    /// Notes something that was not there before.
    fn has_added<T: Ord>(&self, which: impl FnOnce(&mut Objects) -> &mut BTreeSet<T>, item: T) {
        which(&mut self.added.lock().unwrap_or_else(PoisonError::into_inner)).insert(item);
    }

    /// Removes what has been added in vain. Where another command is at work that may rely on the layers already, they stay for
    /// the next sweep.
    fn undo(self, lease: Lease, images: &[NamedImage]) {
        drop(lease);
        let mut added = self.added.into_inner().unwrap_or_else(PoisonError::into_inner);
        for NamedImage { image, .. } in images {
            added.chains.extend(ChainId::of_layers(&image.diff_ids()));
            added.blobs.extend(documents(image));
        }
        if let Err(error) = take_back(self.engine, &added) {
            // What failed first is the one to tell; what stays is garbage for the sweep.
            tracing::warn!(%error, "cannot remove what a failed command has added");
        }
    }
}

/// Gives the digests of an image's documents.
fn documents(image: &ResolvedImage) -> impl Iterator<Item = BlobDigest> {
    let manifest = image.manifest.as_ref().map(|manifest| manifest.bytes.digest());
    let index = image.index.as_ref().map(Verified::digest);
    [manifest, Some(image.config_bytes.digest()), index].into_iter().flatten()
}

/// A blob on its way, which ends in an error once another has failed.
struct Cancellable<'a> {
    blob: Box<dyn Read + 'a>,
    is_cancelled: &'a AtomicBool,
}

impl Read for Cancellable<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.is_cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("another layer of the image has failed"));
        }
        self.blob.read(into)
    }
}

/// A registry's error that came through a reader is told as what it is.
pub(crate) fn unwrap_registry_error(error: Error) -> Error {
    match error {
        Error::Layers(stos_layerfs::Error::Source { layer, source }) => {
            match source.downcast::<stos_registry::Error>() {
                Ok(error) => Error::Registry(error),
                Err(source) => Error::Layers(stos_layerfs::Error::Source { layer, source }),
            }
        }
        other => other,
    }
}
