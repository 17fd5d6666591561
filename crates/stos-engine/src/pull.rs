// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A reference becomes an image in the store: the platform's manifest, its configuration and every layer, each verified, or
//! nothing.

use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use stos_layerfs::Integrity;
use stos_layerfs::{LayerOutcome, LayerRequest};
use stos_registry::Registry;
use stos_spec::config::CONFIG_MAX;
use stos_spec::manifest::{Descriptor, ImageManifest, LayerDescriptor, ManifestDocument};
use stos_spec::{BlobDigest, ChainId, DiffId, ImageConfig, ImageRef, Verified};
use stos_store::{ImageRecord, Lock};

use crate::Engine;
use crate::error::{Error, Result};
use crate::options::PullOptions;
use crate::stage::{no_bytes, stage};

/// How deep indexes may lie in indexes: multi-platform indexes of indexes exist, deeper ones lead nowhere.
const INDEX_DEPTH_MAX: usize = 3;

/// Who wants to know how a pull goes. Called from several threads.
pub trait PullProgress: Sync {
    /// The manifest is known; `layers` of them in all.
    fn resolved(&self, _manifest: BlobDigest, _layers: usize) {}
    /// A layer is being fetched; `size` bytes will come.
    fn layer_started(&self, _blob: BlobDigest, _size: u64) {}
    /// `count` more bytes of it have come.
    fn layer_advanced(&self, _blob: BlobDigest, _count: u64) {}
    /// It is in the store, or was there before.
    fn layer_done(&self, _blob: BlobDigest, _was_present: bool) {}
}

/// Nobody does.
pub struct Silent;

impl PullProgress for Silent {}

/// What a pull did.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The image as it stands in the store.
    pub image: ImageRecord,
    /// How many bytes of layers came over the network.
    pub fetched_bytes: u64,
    /// How many layers were there already.
    pub present_layers: usize,
}

/// An image as a registry describes it, every document verified.
struct ResolvedImage {
    /// The index that was asked for, if it was one.
    index: Option<Verified<Vec<u8>>>,
    manifest_bytes: Verified<Vec<u8>>,
    manifest: ImageManifest,
    config_bytes: Verified<Vec<u8>>,
    config: ImageConfig,
}

/// Pulls an image: the platform's manifest, configuration and every layer are in the store and verified, and their merged
/// index is durable, or nothing has changed.
///
/// Layers whose diffID is present are not fetched. A pull that was killed leaves whole layers, which the next one uses.
pub fn pull_image_from_registry(
    engine: &Engine,
    reference: &ImageRef,
    options: &PullOptions,
    progress: &dyn PullProgress,
) -> Result<Pulled> {
    engine.layerfs.require_backend()?;
    let lease = engine.store.lease()?;
    let registry = Registry::new(reference, &options.client)?;
    let resolved = stage(
        "resolve",
        |resolved: &ResolvedImage| (resolved.manifest_bytes.get().len() + resolved.config_bytes.get().len()) as u64,
        || resolve(engine, &registry, reference, options),
    )?;
    progress.resolved(resolved.manifest_bytes.digest(), resolved.manifest.layers.len());
    let fetch = Fetch {
        engine,
        registry: &registry,
        reference,
        progress,
        added: Mutex::default(),
        is_cancelled: AtomicBool::new(false),
    };
    let pulled = fetch.run(&resolved, options.jobs).and_then(|(fetched_bytes, present_layers)| {
        let layers = &resolved.config.diff_ids;
        stage("index", no_bytes, || Ok::<_, Error>(engine.layerfs.ensure_sound_chain(layers, Integrity::Sealed)?))?;
        let image = stage("commit", no_bytes, || record(engine, reference, &resolved))?;
        Ok(Pulled { image, fetched_bytes, present_layers })
    });
    if pulled.is_err() {
        let added = fetch.added.into_inner().unwrap_or_default();
        undo(engine, lease, &added, &resolved);
    }
    pulled
}

fn resolve(engine: &Engine, registry: &Registry, reference: &ImageRef, options: &PullOptions) -> Result<ResolvedImage> {
    let repository = reference.repository();
    let mut fetched = registry.fetch_manifest(repository, &reference.target(), None)?;
    let mut index = None;
    let mut depth = 0;
    let (manifest_bytes, manifest) = loop {
        let digest = fetched.bytes.digest();
        let document = ManifestDocument::parse(fetched.bytes.get(), fetched.content_type.as_deref());
        match document.map_err(|source| Error::Manifest { digest, source })? {
            ManifestDocument::Image(manifest) => break (fetched.bytes, manifest),
            ManifestDocument::Index(_) if depth == INDEX_DEPTH_MAX => return Err(Error::NestedIndex { digest, depth }),
            ManifestDocument::Index(list) => {
                let chosen = list.select(&options.platform).map_err(|source| Error::Manifest { digest, source })?;
                let next = fetch_described_manifest(registry, repository, chosen)?;
                index.get_or_insert(std::mem::replace(&mut fetched, next).bytes);
                depth += 1;
            }
        }
    };
    let config_bytes = fetch_config(engine, registry, repository, &manifest.config)?;
    let digest = config_bytes.digest();
    let refuse = |source| Error::Config { digest, source };
    let config = ImageConfig::parse(config_bytes.get()).map_err(refuse)?;
    config.check_layer_count(manifest.layers.len()).map_err(refuse)?;
    config.check_platform(&options.platform).map_err(refuse)?;
    Ok(ResolvedImage { index, manifest_bytes, manifest, config_bytes, config })
}

/// Fetches what an index points at; what the index calls it counts as much as what the registry does.
fn fetch_described_manifest(
    registry: &Registry,
    repository: &str,
    descriptor: &Descriptor,
) -> Result<stos_registry::FetchedManifest> {
    let mut fetched = registry.fetch_manifest(repository, &descriptor.digest.to_string(), Some(descriptor))?;
    ManifestDocument::parse(fetched.bytes.get(), fetched.content_type.as_deref())
        .map_err(|source| Error::Manifest { digest: descriptor.digest, source })?;
    fetched.content_type = Some(descriptor.media_type.clone());
    Ok(fetched)
}

/// Gives the configuration from the store where it is there, whole; else from the registry.
fn fetch_config(
    engine: &Engine,
    registry: &Registry,
    repository: &str,
    descriptor: &Descriptor,
) -> Result<Verified<Vec<u8>>> {
    match engine.store.read_blob(descriptor.digest) {
        Ok(bytes) if bytes.get().len() as u64 == descriptor.size => Ok(bytes),
        _ => Ok(registry.fetch_config(repository, descriptor, CONFIG_MAX)?),
    }
}

/// The layers of one pull, on their way.
struct Fetch<'a> {
    engine: &'a Engine,
    registry: &'a Registry,
    reference: &'a ImageRef,
    progress: &'a dyn PullProgress,
    /// The layers that this pull has added to the store.
    added: Mutex<Vec<DiffId>>,
    /// One layer has failed: the others stop where they are.
    is_cancelled: AtomicBool,
}

/// A blob on its way, which ends in an error once the pull has failed.
struct Cancellable<'a, R> {
    blob: R,
    is_cancelled: &'a AtomicBool,
}

impl<R: Read> Read for Cancellable<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.is_cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("another layer of the image has failed"));
        }
        self.blob.read(into)
    }
}

impl Fetch<'_> {
    /// Makes sure of every layer, `jobs` at a time, the largest first. Gives the bytes fetched and the layers present.
    fn run(&self, image: &ResolvedImage, jobs: usize) -> Result<(u64, usize)> {
        let mut queue: Vec<(DiffId, &LayerDescriptor)> = Vec::new();
        for (&diff_id, layer) in image.config.diff_ids.iter().zip(&image.manifest.layers) {
            // An image may hold a layer twice, the empty one above all.
            if !queue.iter().any(|(queued, _)| *queued == diff_id) {
                queue.push((diff_id, layer));
            }
        }
        queue.sort_by_key(|(_, layer)| std::cmp::Reverse(layer.descriptor.size));
        let total = |_: &(u64, usize)| image.manifest.compressed_size();
        stage("layers", total, || self.run_queue(&queue, jobs))
    }

    fn run_queue(&self, queue: &[(DiffId, &LayerDescriptor)], jobs: usize) -> Result<(u64, usize)> {
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let present = AtomicUsize::new(0);
        let work = || {
            while let Some((diff_id, layer)) = queue.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.ensure(*diff_id, layer) {
                    Ok(LayerOutcome::Present) => {
                        present.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(LayerOutcome::Fetched(_)) => {
                        self.added.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(*diff_id);
                    }
                    Err(error) => {
                        // The first failure is the one to tell: it is kept before the others learn of it.
                        failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
                        self.is_cancelled.store(true, Ordering::Relaxed);
                        next.store(queue.len(), Ordering::Relaxed);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..jobs.clamp(1, queue.len().max(1)) {
                scope.spawn(work);
            }
        });
        if let Some(error) = failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            return Err(error);
        }
        let added = self.added.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let fetched = queue.iter().filter(|(diff_id, _)| added.contains(diff_id));
        Ok((fetched.map(|(_, layer)| layer.descriptor.size).sum(), present.into_inner()))
    }

    fn ensure(&self, diff_id: DiffId, layer: &LayerDescriptor) -> Result<LayerOutcome> {
        let blob = &layer.descriptor;
        let source = self.reference.name();
        let request = LayerRequest { diff_id, blob, compression: layer.compression, source: &source };
        let open = || -> Result<_> {
            self.progress.layer_started(blob.digest, blob.size);
            let blob = self.registry.open_blob(self.reference.repository(), blob)?;
            Ok(Cancellable { blob, is_cancelled: &self.is_cancelled })
        };
        let advance = |count| self.progress.layer_advanced(blob.digest, count);
        let outcome = self.engine.layerfs.ensure_layer(request, open, &advance).map_err(unwrap_registry_error)?;
        self.progress.layer_done(blob.digest, matches!(outcome, LayerOutcome::Present));
        Ok(outcome)
    }
}

/// A registry's error that came through a reader is told as what it is.
fn unwrap_registry_error(error: Error) -> Error {
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

/// Writes the documents, then the name: the image exists from then on.
fn record(engine: &Engine, reference: &ImageRef, resolved: &ResolvedImage) -> Result<ImageRecord> {
    let store = &engine.store;
    if let Some(index) = &resolved.index {
        store.put_blob(index)?;
    }
    store.put_blob(&resolved.config_bytes)?;
    store.put_blob(&resolved.manifest_bytes)?;
    let manifest = Descriptor {
        platform: Some(resolved.config.platform.clone()),
        ..Descriptor::new(
            resolved.manifest.media_type.clone(),
            resolved.manifest_bytes.digest(),
            resolved.manifest_bytes.get().len() as u64,
        )
    };
    let image = ImageRecord {
        reference: Some(reference.clone()),
        manifest,
        image_id: resolved.config_bytes.digest(),
        index_digest: resolved.index.as_ref().map(Verified::digest),
        pulled: crate::container::now(),
    };
    store.put_image(&image)?;
    Ok(image)
}

/// Removes what a failed pull has added. Where another command is at work it may rely on the layers already: then they
/// stay for the next sweep.
fn undo(engine: &Engine, lease: Lock, added: &[DiffId], resolved: &ResolvedImage) {
    drop(lease);
    let removed = || -> Result<()> {
        let Some(_right) = engine.store.try_sweep_right()? else { return Ok(()) };
        let used = crate::image::used_objects(engine)?;
        if let Some(chain) = ChainId::of_layers(&resolved.config.diff_ids).filter(|chain| !used.chains.contains(chain))
        {
            engine.layerfs.unmount_chain(chain)?;
            engine.layerfs.remove_chain(chain)?;
        }
        for layer in added.iter().filter(|layer| !used.layers.contains(layer)) {
            engine.layerfs.remove_layer(*layer)?;
        }
        let documents = [Some(&resolved.manifest_bytes), Some(&resolved.config_bytes), resolved.index.as_ref()];
        for digest in
            documents.into_iter().flatten().map(Verified::digest).filter(|digest| !used.blobs.contains(digest))
        {
            engine.store.remove_blob(digest)?;
        }
        Ok(())
    };
    if let Err(error) = removed() {
        // The pull's own error is the one to tell; what stays is garbage for the sweep.
        tracing::warn!(%error, "cannot remove what a failed pull has added");
    }
}
