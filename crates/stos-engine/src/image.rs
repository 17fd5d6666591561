// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images in the store: load, list, inspect, remove.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use stos_spec::{BlobDigest, ChainId, DiffId, ImageConfig, ImageManifest, ManifestDocument};
use stos_store::{ImageRecord, ImageSelector, Objects};

use crate::Engine;
use crate::container::ContainerRecord;
use crate::error::{Error, Result};
use crate::gc::sweep_after_removal;
use crate::journal::Status;

/// An image with its documents, each proved against its digest.
#[derive(Debug, Clone)]
pub struct LoadedImage {
    /// Its entry in the store.
    pub record: ImageRecord,
    /// Its manifest.
    pub manifest: ImageManifest,
    /// Its configuration.
    pub config: ImageConfig,
    /// The configuration's bytes, for `inspect`.
    pub config_bytes: Vec<u8>,
}

impl LoadedImage {
    /// Gives the chain of all its layers.
    pub fn chain_id(&self) -> Result<ChainId> {
        ChainId::of_layers(&self.config.diff_ids).ok_or(Error::Layers(stos_layerfs::Error::NoLayers))
    }

    /// Gives everything that it consists of.
    pub(crate) fn objects(&self) -> Objects {
        let mut objects = Objects::default();
        objects.add_layers(&self.config.diff_ids);
        objects.blobs.extend([self.record.manifest.digest, self.record.image_id]);
        objects.blobs.extend(self.record.index_digest);
        objects.blobs.extend(self.manifest.layers.iter().map(|layer| layer.descriptor.digest));
        objects
    }

    /// Gives what people call it: its name, or its ID.
    pub fn name(&self) -> String {
        self.record.reference.as_ref().map_or_else(|| self.record.image_id.to_string(), ToString::to_string)
    }
}

/// A line of `stos images`.
#[derive(Debug, Clone, Serialize)]
pub struct ImageSummary {
    /// The repository, with its registry; `None` for an image without a name.
    pub repository: Option<String>,
    /// The tag.
    pub tag: Option<String>,
    /// The manifest's digest.
    pub digest: BlobDigest,
    /// The image ID: the digest of the configuration.
    pub id: BlobDigest,
    /// The platform.
    pub platform: String,
    /// When it was made, as its configuration says (RFC 3339).
    pub created: Option<String>,
    /// When it was pulled (RFC 3339).
    pub pulled: String,
    /// The bytes of its layers, uncompressed; a layer that the store lacks counts 0.
    pub size: u64,
    /// How many layers it has.
    pub layers: usize,
}

/// Reads an image's documents from the store and checks what needs no other file.
pub fn load_image(engine: &Engine, record: ImageRecord) -> Result<LoadedImage> {
    let digest = record.manifest.digest;
    let bytes = engine.store.read_blob(digest)?;
    let document = ManifestDocument::parse(bytes.get(), Some(&record.manifest.media_type));
    let manifest = match document.map_err(|source| Error::Manifest { digest, source })? {
        ManifestDocument::Image(manifest) => manifest,
        ManifestDocument::Index(_) => return Err(Error::NestedIndex { digest, depth: 0 }),
    };
    let config_digest = manifest.config.digest;
    let config_bytes = engine.store.read_blob(config_digest)?;
    let config = ImageConfig::parse(config_bytes.get())
        .and_then(|config| config.check_layer_count(manifest.layers.len()).map(|()| config))
        .map_err(|source| Error::Config { digest: config_digest, source })?;
    Ok(LoadedImage { record, manifest, config, config_bytes: config_bytes.into_inner() })
}

/// Finds an image by what a person typed and reads its documents.
pub fn find_image(engine: &Engine, name: &str) -> Result<LoadedImage> {
    let record = engine.store.find_image(&ImageSelector::new(name))?;
    load_image(engine, record)
}

/// Lists the images. One whose documents are damaged is listed with what its entry says.
pub fn list_images(engine: &Engine) -> Result<Vec<ImageSummary>> {
    // Images share layers: each is looked at once.
    let mut sizes = BTreeMap::new();
    let images = engine.store.images()?;
    images.into_iter().map(|record| summarize(engine, record, &mut sizes)).collect()
}

fn summarize(engine: &Engine, record: ImageRecord, sizes: &mut BTreeMap<DiffId, u64>) -> Result<ImageSummary> {
    let mut summary = ImageSummary {
        repository: record.reference.as_ref().map(stos_spec::ImageRef::name),
        tag: record.reference.as_ref().and_then(|reference| reference.tag().map(str::to_owned)),
        digest: record.manifest.digest,
        id: record.image_id,
        platform: record.manifest.platform.as_ref().map(ToString::to_string).unwrap_or_default(),
        created: None,
        pulled: record.pulled.clone(),
        size: 0,
        layers: 0,
    };
    match load_image(engine, record) {
        Ok(image) => {
            summary.layers = image.config.diff_ids.len();
            let unique: BTreeSet<DiffId> = image.config.diff_ids.iter().copied().collect();
            for layer in unique {
                summary.size += match sizes.entry(layer) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(new) => *new.insert(engine.layerfs.tar_bytes(layer)?.unwrap_or(0)),
                };
            }
            summary.created = image.config.created;
        }
        Err(error) => tracing::warn!(%error, image = %summary.id, "the image is damaged"),
    }
    Ok(summary)
}

/// What removing an image did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Removed {
    /// The names that are gone.
    pub untagged: Vec<String>,
    /// The images (IDs) that are gone.
    pub deleted: Vec<BlobDigest>,
}

/// Removes a name; and with an image's last name the image, and what only it reached.
///
/// Named by its ID, all its names go where there is one, or with `force`. An image that a container uses is kept, unless
/// `force`: then only its names go, and its layers live as long as the container.
pub fn remove_image(engine: &Engine, name: &str, force: bool) -> Result<Removed> {
    let record = engine.store.find_image(&ImageSelector::new(name))?;
    let images = engine.store.images()?;
    let same: Vec<_> = images.iter().filter(|image| image.image_id == record.image_id).collect();
    let by_id = name.parse::<stos_spec::ImageRef>().map_or(true, |reference| {
        record.reference.as_ref().is_none_or(|own| own.name() != reference.name() && !reference.may_mean(own))
    });
    if by_id && same.len() > 1 && !force {
        let names = same.iter().filter_map(|image| image.reference.as_ref().map(ToString::to_string)).collect();
        return Err(Error::ImageHasNames { image: name.to_owned(), names });
    }
    remove_entries(engine, name, &record, by_id, force)
}

/// Removes an image's entry as it was read: one name, and with the last one the image, unless a container uses it. What another image
/// or another name of this one has got meanwhile stays.
///
/// # Errors
/// As [`remove_image`] without `force`.
pub fn remove_image_entry(engine: &Engine, record: &ImageRecord) -> Result<Removed> {
    let name = record.reference.as_ref().map_or_else(|| record.image_id.to_string(), ToString::to_string);
    remove_entries(engine, &name, record, false, false)
}

/// Removes an image's entry, or with `by_id` all of them.
fn remove_entries(engine: &Engine, name: &str, record: &ImageRecord, by_id: bool, force: bool) -> Result<Removed> {
    let images = engine.store.images()?;
    let goes_whole = by_id || images.iter().filter(|image| image.image_id == record.image_id).count() == 1;
    if goes_whole && !force {
        let users = crate::container::records(engine)?;
        let needs_it =
            |container: &&ContainerRecord| container.needed_images().any(|image| image.image_id == record.image_id);
        if let Some(user) = users.iter().find(needs_it) {
            return Err(Error::ImageInUse { image: name.to_owned(), container: user.name.to_string() });
        }
    }
    // Nobody mounts it from here on, until it has gone.
    let (is_mounted, mounts) = crate::image_mount::is_image_mounted(engine, record.image_id)?;
    if goes_whole && !force && is_mounted {
        return Err(Error::ImageMounted { image: name.to_owned() });
    }
    let is_gone =
        |image: &ImageRecord| image.image_id == record.image_id && (by_id || image.reference == record.reference);
    let mut removed = Removed::default();
    removed.untagged.extend(
        images
            .iter()
            .filter(|image| is_gone(image))
            .filter_map(|image| image.reference.as_ref().map(ToString::to_string)),
    );
    if goes_whole {
        removed.deleted.push(record.image_id);
    }
    engine.store.remove_images(is_gone)?;
    drop(mounts);
    note_removed(engine, record.image_id, &removed);
    sweep_after_removal(engine);
    Ok(removed)
}

fn note_removed(engine: &Engine, id: BlobDigest, removed: &Removed) {
    removed.untagged.iter().for_each(|name| engine.note_image(Status::Untag, id, name));
    if !removed.deleted.is_empty() {
        let name = removed.untagged.first().map(String::as_str).unwrap_or_default();
        engine.note_image(Status::Remove, id, name);
    }
}
