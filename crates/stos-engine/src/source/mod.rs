// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where images come from. Each source tells of images in the same words, and gives their layers' bytes.
//!
//! | module | the source |
//! |---|---|
//! | [`registry`] | an OCI distribution registry |
//! | [`layout`] | an OCI image layout, in a directory or in a tar |
//! | [`docker`] | a docker-archive |
//!
//! The last two read their [`files`] from a directory or an [`archive`], which [`input`] opens.

pub(crate) mod archive;
pub(crate) mod docker;
pub(crate) mod files;
pub(crate) mod input;
pub(crate) mod layout;
pub(crate) mod registry;

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};

use stos_spec::manifest::{Descriptor, ManifestDocument};
use stos_spec::{BlobDigest, DiffId, ImageConfig, LayerCompression, Platform, Verified};

use crate::error::{Error, Result};

/// How deep indexes may lie in indexes: multi-platform indexes of indexes exist, deeper ones lead nowhere.
const INDEX_DEPTH_MAX: usize = 3;

/// An image as its source describes it, every document verified.
///
/// Of what the documents say only that is held which its way in needs: parsed they take many times their bytes, and an archive
/// may hold a thousand images.
pub(crate) struct ResolvedImage {
    /// The index that was asked for, if it was one.
    pub index: Option<Verified<Vec<u8>>>,
    /// The manifest; `None` where the source has none, and one is to be made of the layers.
    pub manifest: Option<Manifest>,
    pub config_bytes: Verified<Vec<u8>>,
    /// What it runs on, as its configuration says.
    pub platform: Platform,
    /// The layers, the lowest first: one for each diffID.
    pub layers: Vec<WantedLayer>,
}

impl ResolvedImage {
    /// Gives the diffIDs of its layers, the lowest first.
    pub fn diff_ids(&self) -> Vec<DiffId> {
        self.layers.iter().map(|layer| layer.diff_id).collect()
    }

    /// Gives the digest that tells it from others: its manifest's, or its configuration's where it has none.
    pub fn digest(&self) -> BlobDigest {
        self.manifest.as_ref().map_or(self.config_bytes.digest(), |manifest| manifest.bytes.digest())
    }
}

/// A manifest that was read and keeps the rules.
pub(crate) struct Manifest {
    pub bytes: Verified<Vec<u8>>,
    pub media_type: String,
}

/// A layer of an image that is being added.
#[derive(Clone)]
pub(crate) struct WantedLayer {
    pub diff_id: DiffId,
    pub compression: LayerCompression,
    /// The blob that it comes as; `None` where nobody has promised a digest.
    pub blob: Option<Descriptor>,
}

impl WantedLayer {
    /// Gives what progress calls it: its blob, or what that is once it is uncompressed.
    pub fn shown(&self) -> BlobDigest {
        self.blob.as_ref().map_or(BlobDigest::from_bytes(*self.diff_id.as_bytes()), |blob| blob.digest)
    }

    /// Gives how many bytes will come, as far as is known.
    pub fn size(&self) -> u64 {
        self.blob.as_ref().map_or(0, |blob| blob.size)
    }
}

/// How much the images of one archive may make us read and hold while they come in: a small compressed archive can be gigabytes
/// of documents. What is then left out, for another platform, has been read and counts too.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    images: AtomicU64,
    names: AtomicU64,
    layers: AtomicU64,
    bytes: AtomicU64,
}

/// What was expected, and what was found.
pub(crate) type Excess = (String, String);

impl Budget {
    /// The most images.
    pub const IMAGES_MAX: u64 = 1000;
    /// The most names, of all images together.
    pub const NAMES_MAX: u64 = 10_000;
    /// The most layers, of all images together.
    pub const LAYERS_MAX: u64 = 20_000;
    /// The most bytes of documents, of all images together.
    pub const BYTES_MAX: u64 = 64 << 20;

    /// Counts an image, before its documents are read.
    pub fn take_image(&self) -> std::result::Result<(), Excess> {
        Self::take(&self.images, 1, Self::IMAGES_MAX, "images")
    }

    /// Counts names of an image, before they are read.
    pub fn take_names(&self, count: usize) -> std::result::Result<(), Excess> {
        Self::take(&self.names, count, Self::NAMES_MAX, "names of all images together")
    }

    /// Counts the layers of an image.
    pub fn take_layers(&self, count: usize) -> std::result::Result<(), Excess> {
        Self::take(&self.layers, count, Self::LAYERS_MAX, "layers of all images together")
    }

    /// Counts a manifest or a configuration, before it is parsed.
    pub fn take_document(&self, bytes: &[u8]) -> std::result::Result<(), Excess> {
        Self::take(&self.bytes, bytes.len(), Self::BYTES_MAX, "bytes of manifests and configurations")
    }

    fn take(counter: &AtomicU64, more: usize, max: u64, what: &str) -> std::result::Result<(), Excess> {
        let more = more as u64;
        match counter.fetch_add(more, Ordering::Relaxed) + more > max {
            true => Err((format!("at most {max} {what}"), "more of them".to_owned())),
            false => Ok(()),
        }
    }
}

/// Something that has layers.
pub(crate) trait LayerSource: Sync {
    /// Gives what `layer.json` says of where a layer came from.
    fn name(&self) -> String;

    /// Opens a layer as it lies there, compressed or not. Whoever reads it proves it.
    fn open_layer(&self, layer: &WantedLayer) -> Result<Box<dyn Read + '_>>;

    /// Ends what waits for layers, for nobody wants them any more: it fails soon. Files make nobody wait.
    fn cancel(&self) {}
}

/// Something that has documents under their digests.
pub(crate) trait DocumentSource {
    /// Gives the manifest or index that an index points at, and refuses one that is not what the index calls it.
    fn manifest(&self, descriptor: &Descriptor) -> Result<Verified<Vec<u8>>>;

    /// Refuses the image of a manifest that may not come in: asked before anything that it names is read. Files were asked about as
    /// a whole.
    fn admit(&self, _manifest: BlobDigest) -> Result<()> {
        Ok(())
    }

    /// Gives a configuration.
    fn config(&self, descriptor: &Descriptor) -> Result<Verified<Vec<u8>>>;
}

/// Follows a manifest, or an index to the one that fits `platform`, to an image, and checks what its documents say of each
/// other.
///
/// `media_type` is what the source calls `first`.
pub(crate) fn resolve_image(
    source: &dyn DocumentSource,
    first: Verified<Vec<u8>>,
    media_type: Option<&str>,
    platform: &Platform,
) -> Result<ResolvedImage> {
    let (mut bytes, mut media_type) = (first, media_type.map(str::to_owned));
    let mut index = None;
    let mut depth = 0;
    let manifest = loop {
        let digest = bytes.digest();
        let document = ManifestDocument::parse(bytes.get(), media_type.as_deref());
        match document.map_err(|source| Error::Manifest { digest, source })? {
            ManifestDocument::Image(manifest) => break manifest,
            ManifestDocument::Index(_) if depth == INDEX_DEPTH_MAX => return Err(Error::NestedIndex { digest, depth }),
            ManifestDocument::Index(list) => {
                let chosen = list.select(platform).map_err(|source| Error::Manifest { digest, source })?;
                let next = source.manifest(chosen)?;
                index.get_or_insert(std::mem::replace(&mut bytes, next));
                media_type = Some(chosen.media_type.clone());
                depth += 1;
            }
        }
    };
    source.admit(bytes.digest())?;
    let config_bytes = source.config(&manifest.config)?;
    let config = read_config(&config_bytes, manifest.layers.len(), platform)?;
    let layers = config.diff_ids.iter().zip(manifest.layers);
    let layers = layers.map(|(&diff_id, layer)| WantedLayer {
        diff_id,
        compression: layer.compression,
        blob: Some(bare(layer.descriptor)),
    });
    let layers = layers.collect();
    let manifest = Manifest { bytes, media_type: manifest.media_type };
    Ok(ResolvedImage { index, manifest: Some(manifest), config_bytes, platform: config.platform, layers })
}

/// Gives a descriptor without notes.
fn bare(descriptor: Descriptor) -> Descriptor {
    Descriptor::new(descriptor.media_type, descriptor.digest, descriptor.size)
}

/// Reads a configuration that belongs to `layers` layers and must run on `platform`.
pub(crate) fn read_config(bytes: &Verified<Vec<u8>>, layers: usize, platform: &Platform) -> Result<ImageConfig> {
    let digest = bytes.digest();
    let refuse = |source| Error::Config { digest, source };
    let config = ImageConfig::parse(bytes.get()).map_err(refuse)?;
    config.check_layer_count(layers).map_err(refuse)?;
    config.check_platform(platform).map_err(refuse)?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_archive_may_hold_is_bounded() {
        type Take = fn(&Budget) -> std::result::Result<(), Excess>;
        for (take, fits, said) in [
            ((|budget| budget.take_image()) as Take, Budget::IMAGES_MAX, "images"),
            (|budget| budget.take_names(100), 100, "names"),
            (|budget| budget.take_layers(1000), 20, "layers"),
            (|budget| budget.take_document(&[b' '; 1 << 20]), 64, "bytes"),
        ] {
            let budget = Budget::default();
            for _ in 0..fits {
                take(&budget).unwrap();
            }
            assert!(take(&budget).unwrap_err().0.contains(said), "{said}");
        }
    }
}
