// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An image of the store becomes one of a registry: its layers first, then its configuration, and last its manifest, so that
//! nobody ever sees an image there that is not whole.
//!
//! | module | what it is |
//! |---|---|
//! | `target` | the repository that it goes to, and the names of others that it may take blobs from |
//! | `layers` | how the repository comes to have a layer |
//! | `compress` | a layer's tar, compressed while it is read |
//!
//! **Which digests stay.** A blob goes as it came wherever it can: where it is kept (`pull --keep-blobs`), where the repository has
//! it, or another repository of the registry from which it can be mounted. An image of which all blobs go so keeps its manifest.
//! Other layers are compressed here, with gzip unless something else is wanted, and the image gets a new manifest; diffIDs and
//! image ID stay, for the configuration is the same.

mod compress;
mod layers;
mod target;

use std::io::Read;

use stos_layerfs::Integrity;
use stos_registry::Error as RegistryError;
use stos_spec::manifest::Descriptor;
use stos_spec::media_type::OCI_MANIFEST;
use stos_spec::{BlobDigest, ImageRef, LayerCompression, Verified};

use self::layers::{LayerPush, PushedLayer, Way};
use self::target::Target;
use crate::Engine;
use crate::build::{as_oci_layer, oci_manifest};
use crate::error::{Error, Result};
use crate::image::{LoadedImage, find_image};
use crate::journal::Status;
use crate::pull::{Announced, PullProgress};
use crate::registries::RegistryConfig;
use crate::side_by_side::{default_jobs, side_by_side};
use crate::stage::{no_bytes, stage};

/// How much of a layer is sent at a time where it is sent in chunks, in bytes. Each layer under way keeps one in memory.
const CHUNK: u64 = 8 << 20;

/// How to push.
#[derive(Debug, Clone, Default)]
pub struct PushOptions {
    /// How to reach registries.
    pub registries: RegistryConfig,
    /// How all layers are to be compressed. `None` leaves those as they are that can go so, and compresses the others with gzip.
    pub compression: Option<LayerCompression>,
    /// How much effort goes into that: 1 to 9 for gzip, 1 to 20 for zstd; `None` for what each has by default.
    pub level: Option<u32>,
    /// How many layers are sent side by side; `None` for one more than there are processors, at most 8. Each takes a
    /// chunk of 8 MiB, a thread for each processor, at most 8, and for each of those two blocks of 1 MiB (gzip) or 2 MiB (zstd).
    pub jobs: Option<usize>,
}

/// What a push did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// What the image is called there.
    pub reference: ImageRef,
    /// The manifest there.
    pub manifest: BlobDigest,
    /// Whether that is another one than the store has.
    pub is_rewritten: bool,
    /// How many bytes of layers were sent.
    pub sent_bytes: u64,
    /// How many layers the repository had already.
    pub present_layers: usize,
    /// How many layers it took from another repository.
    pub mounted_layers: usize,
}

/// Pushes an image to `destination`, or to where its name says.
///
/// # Errors
/// [`Error::NoDestination`] where neither is given; whatever the registry refuses. What has been sent by then stays there without
/// a name, until the registry removes it.
pub fn push_image(
    engine: &Engine,
    image: &str,
    destination: Option<&ImageRef>,
    options: &PushOptions,
    progress: &dyn PullProgress,
) -> Result<Pushed> {
    compress::check_level(options.compression, options.level)?;
    let mut lease = engine.store.lease()?;
    let image = find_image(engine, image)?;
    // A registry may take its time.
    lease.narrow_if_possible(&image.objects());
    let no_destination = || Error::NoDestination { image: image.name() };
    let reference = destination.or(image.record.reference.as_ref()).ok_or_else(no_destination)?;
    let target = Target::new(reference, &options.registries)?;
    let push = LayerPush { engine, target: &target, options, progress };
    announce(&push, &image, reference)?;
    let layers = stage(
        "layers",
        |layers: &Vec<PushedLayer>| layers.iter().map(PushedLayer::sent_bytes).sum(),
        || push_layers(&push, &image),
    )?;
    let (manifest, is_rewritten) = stage("documents", no_bytes, || push_documents(engine, &target, &image, &layers))?;
    progress.done();
    engine.note_image(Status::Push, image.record.image_id, &reference.to_string());
    let count = |way: Way| layers.iter().filter(|layer| layer.way == way).count();
    Ok(Pushed {
        reference: reference.clone(),
        manifest,
        is_rewritten,
        sent_bytes: layers.iter().map(PushedLayer::sent_bytes).sum(),
        present_layers: count(Way::Present),
        mounted_layers: count(Way::Mounted),
    })
}

/// Tells what is going to be sent, at most.
fn announce(push: &LayerPush<'_>, image: &LoadedImage, reference: &ImageRef) -> Result<()> {
    let layers = image.config.diff_ids.iter().zip(&image.manifest.layers);
    let layers = layers.map(|(diff_id, layer)| Ok((layer.descriptor.digest, push.expected(*diff_id, layer)?)));
    push.progress.resolved(&Announced {
        image: Some(reference),
        manifest: Some(image.record.manifest.digest),
        image_id: image.record.image_id,
        platform: &image.config.platform,
        layers: &layers.collect::<Result<Vec<_>>>()?,
    });
    Ok(())
}

/// Makes sure of every layer, the largest first, and gives them in the manifest's order.
fn push_layers(push: &LayerPush<'_>, image: &LoadedImage) -> Result<Vec<PushedLayer>> {
    let all: Vec<_> = image.config.diff_ids.iter().copied().zip(&image.manifest.layers).collect();
    // An image may hold a layer twice, the empty one above all.
    let mut queue: Vec<_> = all.iter().collect();
    queue.sort_by_key(|(diff_id, layer)| (std::cmp::Reverse(layer.descriptor.size), *diff_id));
    queue.dedup();
    let jobs = push.options.jobs.unwrap_or_else(default_jobs);
    let pushed = side_by_side(&queue, jobs, |(diff_id, layer)| push.ensure(*diff_id, layer), || push.target.cancel());
    let pushed = pushed.map_err(|error| explain(push.engine, image, error))?;
    let of = |wanted| queue.iter().zip(&pushed).find(|(layer, _)| **layer == wanted).map(|(_, pushed)| pushed.clone());
    Ok(all.iter().filter_map(of).collect())
}

/// Where a layer is at fault every byte is looked at, so that the damage is told as such, and the next pull heals it.
fn explain(engine: &Engine, image: &LoadedImage, error: Error) -> Error {
    match &error {
        Error::Registry(RegistryError::Content { .. }) => {
            let examined = engine.layerfs.ensure_sound_chain(&image.config.diff_ids, Integrity::Full);
            examined.map_or_else(Error::from, |_| error)
        }
        _ => error,
    }
}

/// Sends configuration and manifest; gives the manifest's digest, and whether it is another one than the store has.
fn push_documents(
    engine: &Engine,
    target: &Target<'_>,
    image: &LoadedImage,
    layers: &[PushedLayer],
) -> Result<(BlobDigest, bool)> {
    let config = Verified::trust(image.config_bytes.clone());
    let own = image.manifest.layers.iter().map(|layer| layer.descriptor.digest);
    let is_whole = own.eq(layers.iter().map(|pushed| pushed.layer.descriptor.digest));
    let (manifest, media_type) = match is_whole {
        true => (engine.store.read_blob(image.record.manifest.digest)?, image.record.manifest.media_type.as_str()),
        false => {
            let layers: Vec<Descriptor> = layers.iter().map(|pushed| as_oci_layer(&pushed.layer)).collect();
            (oci_manifest(&config, &layers)?, OCI_MANIFEST)
        }
    };
    let descriptor =
        Descriptor::new(image.manifest.config.media_type.clone(), config.digest(), config.get().len() as u64);
    if !target.has_blob(&descriptor)? {
        target.push_blob(&descriptor, None, &|| Ok(Box::new(config.get().as_slice()) as Box<dyn Read>))?;
    }
    Ok((target.put_manifest(media_type, manifest.get())?, !is_whole))
}
