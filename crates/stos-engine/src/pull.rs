// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A reference becomes an image in the store: the platform's manifest, its configuration and every layer, each verified, or
//! nothing.

use stos_spec::{BlobDigest, ImageRef};
use stos_store::ImageRecord;

use crate::Engine;
use crate::error::Result;
use crate::install::{InstallOptions, Installed, NamedImage, install_images};
use crate::options::PullOptions;
use crate::source::ResolvedImage;
use crate::source::registry::RegistrySource;
use crate::stage::stage;

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
    engine.layerfs.kind_of_new()?;
    let source = RegistrySource::new(engine, reference, options)?;
    let resolved = stage("resolve", document_bytes, || source.resolve(&options.platform))?;
    if let Some(manifest) = &resolved.manifest {
        progress.resolved(manifest.bytes.digest(), resolved.layers.len());
    }
    let image = NamedImage::new(vec![reference.clone()], resolved);
    let install = InstallOptions { jobs: options.jobs, keep_blobs: options.keep_blobs };
    let installed = install_images(engine, &source, vec![image], install, progress)?;
    let Installed { mut records, fetched_bytes, present_layers } = installed;
    let image = records.pop().and_then(|mut names| names.pop());
    let image = image.ok_or_else(|| stos_store::Error::NoSuchImage(reference.to_string()))?;
    Ok(Pulled { image, fetched_bytes, present_layers })
}

/// The bytes of an image's documents, for the log.
fn document_bytes(image: &ResolvedImage) -> u64 {
    let manifest = image.manifest.as_ref().map_or(0, |manifest| manifest.bytes.get().len());
    (manifest + image.config_bytes.get().len()) as u64
}
