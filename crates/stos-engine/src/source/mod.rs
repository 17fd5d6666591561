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

use stos_spec::manifest::{Descriptor, ManifestDocument};
use stos_spec::{BlobDigest, DiffId, ImageConfig, LayerCompression, Platform, Verified};

use crate::error::{Error, Result};

/// How deep indexes may lie in indexes: multi-platform indexes of indexes exist, deeper ones lead nowhere.
const INDEX_DEPTH_MAX: usize = 3;

/// An image as its source describes it, every document verified.
pub(crate) struct ResolvedImage {
    /// The index that was asked for, if it was one.
    pub index: Option<Verified<Vec<u8>>>,
    /// The manifest; `None` where the source has none, and one is to be made of the layers.
    pub manifest: Option<Manifest>,
    pub config_bytes: Verified<Vec<u8>>,
    pub config: ImageConfig,
    /// The layers, the lowest first: one for each diffID.
    pub layers: Vec<WantedLayer>,
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

/// How much the images of one archive may make us hold while they come in: a small compressed archive can be gigabytes of
/// documents.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    images: usize,
    layers: usize,
    bytes: usize,
}

impl Budget {
    /// The most images.
    pub const IMAGES_MAX: usize = 1000;
    /// The most layers, of all images together.
    pub const LAYERS_MAX: usize = 20_000;
    /// The most bytes of documents, of all images together.
    pub const BYTES_MAX: usize = 64 << 20;

    /// Counts an image. An error says what was expected, and what was found.
    pub fn take(&mut self, image: &ResolvedImage) -> std::result::Result<(), (String, String)> {
        let documents = [Some(&image.config_bytes), image.manifest.as_ref().map(|m| &m.bytes), image.index.as_ref()];
        self.images += 1;
        self.layers += image.layers.len();
        self.bytes += documents.iter().flatten().map(|bytes| bytes.get().len()).sum::<usize>();
        for (found, max, what) in [
            (self.images, Self::IMAGES_MAX, "images"),
            (self.layers, Self::LAYERS_MAX, "layers of all images together"),
            (self.bytes, Self::BYTES_MAX, "bytes of manifests and configurations"),
        ] {
            if found > max {
                return Err((format!("at most {max} {what}"), "more of them".to_owned()));
            }
        }
        Ok(())
    }
}

/// Something that has layers.
pub(crate) trait LayerSource: Sync {
    /// Gives what `layer.json` says of where a layer came from.
    fn name(&self) -> String;

    /// Opens a layer as it lies there, compressed or not. Whoever reads it proves it.
    fn open_layer(&self, layer: &WantedLayer) -> Result<Box<dyn Read + '_>>;
}

/// Something that has documents under their digests.
pub(crate) trait DocumentSource {
    /// Gives the manifest or index that an index points at, and refuses one that is not what the index calls it.
    fn manifest(&self, descriptor: &Descriptor) -> Result<Verified<Vec<u8>>>;

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
    let config_bytes = source.config(&manifest.config)?;
    let config = read_config(&config_bytes, manifest.layers.len(), platform)?;
    let layers = config.diff_ids.iter().zip(manifest.layers);
    let layers = layers.map(|(&diff_id, layer)| WantedLayer {
        diff_id,
        compression: layer.compression,
        blob: Some(layer.descriptor),
    });
    let layers = layers.collect();
    let manifest = Manifest { bytes, media_type: manifest.media_type };
    Ok(ResolvedImage { index, manifest: Some(manifest), config_bytes, config, layers })
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
        let layer = WantedLayer { diff_id: DiffId::of(b""), compression: LayerCompression::None, blob: None };
        let text = format!(
            r#"{{"os": "linux", "architecture": "amd64", "rootfs": {{"type": "layers", "diff_ids": []}}, "x": "{}"}}"#,
            "x".repeat(1 << 20)
        );
        let config_bytes = Verified::trust(text.into_bytes());
        let config = ImageConfig::parse(config_bytes.get()).unwrap();
        let image = |layers: usize, config_bytes: &Verified<Vec<u8>>| ResolvedImage {
            index: None,
            manifest: None,
            config_bytes: config_bytes.clone(),
            config: config.clone(),
            layers: vec![layer.clone(); layers],
        };
        let small = Verified::trust(Vec::new());
        for (image, fits, said) in [
            (image(1, &small), Budget::IMAGES_MAX, "images"),
            (image(1000, &small), 20, "layers"),
            (image(0, &config_bytes), 63, "bytes"),
        ] {
            let mut budget = Budget::default();
            for _ in 0..fits {
                budget.take(&image).unwrap();
            }
            assert!(budget.take(&image).unwrap_err().0.contains(said), "{said}");
        }
    }
}
