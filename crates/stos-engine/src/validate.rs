// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is proved of an image before anything is created from it.

use stos_layerfs::{Chain, Integrity};
use stos_spec::Platform;

use crate::Engine;
use crate::error::{Error, Result};
use crate::image::{LoadedImage, load_image};
use crate::stage::{no_bytes, stage};
use stos_store::ImageRecord;

/// An image of which everything has been proved that was asked for.
#[derive(Debug, Clone)]
pub struct ValidatedImage {
    /// The image.
    pub image: LoadedImage,
    /// Its chain, every seal looked at.
    pub chain: Chain,
}

/// Proves manifest, configuration and layers of an image, as closely as `integrity` says.
pub fn validate_image_before_create(
    engine: &Engine,
    record: ImageRecord,
    platform: &Platform,
    integrity: Integrity,
) -> Result<ValidatedImage> {
    let image = stage(
        "validate.manifest",
        |image: &LoadedImage| image.record.manifest.size + image.manifest.config.size,
        || validate_image_manifest(engine, record),
    )?;
    stage("validate.config", no_bytes, || check_image_configuration(&image, platform))?;
    let chain = stage("validate.layers", Chain::bytes, || verify_layer_integrity(engine, &image, integrity))?;
    Ok(ValidatedImage { image, chain })
}

/// Reads manifest and configuration and proves both against their digests, and that they belong together: one diffID for
/// each layer, known media types.
pub fn validate_image_manifest(engine: &Engine, record: ImageRecord) -> Result<LoadedImage> {
    load_image(engine, record)
}

/// Checks that the configuration can run here: its platform, and what needs no look into the image. (User, environment,
/// working directory and volumes were checked when it was read.)
pub fn check_image_configuration(image: &LoadedImage, platform: &Platform) -> Result<()> {
    let refuse = |source| Error::Config { digest: image.manifest.config.digest, source };
    image.config.check_platform(platform).map_err(refuse)?;
    if let Some(signal) = &image.config.stop_signal {
        stos_runtime::parse_signal(signal)?;
    }
    Ok(())
}

/// Proves the layers: with [`Integrity::Sealed`] by their seals, one file to read; with [`Integrity::Full`] by hashing
/// every byte; with [`Integrity::None`] not at all. A merged image that is missing or damaged is made again.
pub fn verify_layer_integrity(engine: &Engine, image: &LoadedImage, integrity: Integrity) -> Result<Chain> {
    Ok(engine.layerfs.ensure_sound_chain(&image.config.diff_ids, integrity)?)
}
