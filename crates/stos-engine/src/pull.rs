// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A reference becomes an image in the store: the platform's manifest, its configuration and every layer, each verified, or
//! nothing.

use stos_registry::{Error as RegistryError, FetchedManifest};
use stos_spec::{BlobDigest, ImageRef, Platform};
use stos_store::ImageRecord;

use crate::Engine;
use crate::error::{Error, Result};
use crate::install::{InstallOptions, Installed, NamedImage, install_images};
use crate::journal::Status;
use crate::options::PullOptions;
use crate::registries::{RegistryConfig, as_written};
use crate::source::ResolvedImage;
use crate::source::registry::RegistrySource;
use crate::stage::stage;

/// What is known of an image once its documents are there, and before any layer comes; or before any is pushed.
#[derive(Debug, Clone, Copy)]
pub struct Announced<'a> {
    /// Its name, the first of several; `None` where it has none.
    pub image: Option<&'a ImageRef>,
    /// Its manifest; `None` where its source has none, and one is made of the layers.
    pub manifest: Option<BlobDigest>,
    /// Its configuration.
    pub image_id: BlobDigest,
    /// What it runs on.
    pub platform: &'a Platform,
    /// Its layers, the lowest first: what they are called from here on, and their bytes, 0 where nobody has said how many. An image
    /// may have one twice; it comes, or goes, once.
    pub layers: &'a [(BlobDigest, u64)],
}

/// Who wants to know how a pull goes, or a push, which has no merge. Called from several threads, for each layer in order.
///
/// What fails is not told here: it is returned.
pub trait PullProgress: Sync {
    /// An image's documents are known and keep the rules. Of an archive with several images each is told, before any layer comes.
    fn resolved(&self, _image: &Announced<'_>) {}
    /// A layer is being fetched, or sent; `size` bytes will come or go, 0 where nobody has said how many. It may start again, as what
    /// a registry did not take is sent again: then what was told of it before counts for nothing.
    fn layer_started(&self, _blob: BlobDigest, _size: u64) {}
    /// `count` more bytes of it have come, or gone: called for each piece that is read, be it small.
    fn layer_advanced(&self, _blob: BlobDigest, _count: u64) {}
    /// It is where it should be, in the store or in the registry's repository, or was there before.
    fn layer_done(&self, _blob: BlobDigest, _was_present: bool) {}
    /// All layers are there; what containers mount is made of them.
    fn merge_started(&self) {}
    /// It is made, or was there before.
    fn merge_done(&self) {}
    /// Everything is in the store or in the repository, under its names.
    fn done(&self) {}
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
/// A short name becomes what aliases and searched registries make of it; the image is called by that.
///
/// Layers whose diffID is present are not fetched. A pull that was killed leaves whole layers, which the next one uses.
pub fn pull_image_from_registry(
    engine: &Engine,
    reference: &ImageRef,
    options: &PullOptions,
    progress: &dyn PullProgress,
) -> Result<Pulled> {
    engine.layerfs.kind_of_new()?;
    let (source, resolved) = stage(
        "resolve",
        |(_, image)| document_bytes(image),
        || {
            let (source, first) = ask_for(engine, reference, &options.registries)?;
            let resolved = source.resolve(first, &options.platform)?;
            Ok::<_, Error>((source, resolved))
        },
    )?;
    let image = NamedImage::new(vec![source.reference().clone()], resolved);
    let install = InstallOptions { jobs: options.jobs, keep_blobs: options.keep_blobs };
    let installed = install_images(engine, &source, vec![image], install, progress)?;
    let Installed { mut records, fetched_bytes, present_layers } = installed;
    let image = records.pop().and_then(|mut names| names.pop());
    let image = image.ok_or_else(|| stos_store::Error::NoSuchImage(reference.to_string()))?;
    engine.note_image(Status::Pull, image.image_id, &image.reference.as_ref().unwrap_or(reference).to_string());
    Ok(Pulled { image, fetched_bytes, present_layers })
}

/// Asks for what a reference names. A short name may mean several images: the first that there is counts. The next one is asked for
/// where a registry says that there is none, or does not let us see it, which for many is the same; whatever else goes wrong ends
/// the pull, for the image may be there.
fn ask_for<'a>(
    engine: &'a Engine,
    reference: &ImageRef,
    registries: &RegistryConfig,
) -> Result<(RegistrySource<'a>, FetchedManifest)> {
    let candidates = registries.candidates(reference)?;
    let is_only = candidates.len() == 1;
    let mut tried = Vec::new();
    for candidate in candidates {
        let source = RegistrySource::new(engine, candidate.reference.clone(), registries);
        match source.and_then(|source| Ok((source.fetch_first()?, source))) {
            Ok((first, source)) => return Ok((source, first)),
            Err(error) if is_only || !is_absence(&error) => return Err(error),
            Err(error) => {
                tracing::debug!(image = %candidate.reference, %error, "not here");
                tried.push((candidate.reference, error));
            }
        }
    }
    Err(Error::InNoRegistry { name: as_written(reference), tried })
}

/// Tells whether an image is not there for us, and may be elsewhere.
fn is_absence(error: &Error) -> bool {
    fn says_no(error: &RegistryError) -> bool {
        match error {
            RegistryError::NotFound { .. } | RegistryError::Unauthorized { .. } | RegistryError::Denied { .. } => true,
            RegistryError::AllEndpoints { last, .. } => says_no(last),
            _ => false,
        }
    }
    match error {
        Error::Registry(error) => says_no(error),
        Error::RegistryConfig(error) => {
            matches!(error, stos_config::Error::Blocked { .. } | stos_config::Error::Rejected { .. })
        }
        _ => false,
    }
}

/// The bytes of an image's documents, for the log.
fn document_bytes(image: &ResolvedImage) -> u64 {
    let manifest = image.manifest.as_ref().map_or(0, |manifest| manifest.bytes.get().len());
    (manifest + image.config_bytes.get().len()) as u64
}
