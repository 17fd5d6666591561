// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The OCI image layout (image-spec, image-layout.md).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};

use serde_json::json;
use stos_spec::manifest::{Descriptor, LayerDescriptor};
use stos_spec::media_type::{OCI_INDEX, OCI_MANIFEST};
use stos_spec::{BlobDigest, DiffId, DigestHasher, LayerCompression, Verified};
use stos_store::files;

use super::sink::Sink;
use super::{Saved, SavedImage, blob_name, document, index_entry, write_layer};
use crate::Engine;
use crate::build::{oci_manifest, plain_layer};
use crate::error::Result;
use crate::image::LoadedImage;

/// Writes the images: blobs, the index, and last the file that says that it is a layout.
pub(super) fn write(engine: &Engine, images: &[SavedImage], sink: &mut dyn Sink) -> Result<Saved> {
    let (mut written, mut entries, mut saved) = (BTreeSet::new(), Vec::new(), Saved::default());
    for SavedImage { image, names } in images {
        let is_whole = has_every_blob(engine, image);
        if !is_whole {
            saved.rewritten.push(names.first().map_or_else(|| image.name(), ToString::to_string));
        }
        let manifest = write_image(engine, image, is_whole, &mut written, sink)?;
        match names.as_slice() {
            [] => entries.push(index_entry(&manifest, None)),
            names => entries.extend(names.iter().map(|name| index_entry(&manifest, Some(name)))),
        }
    }
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    sink.add_bytes("index.json", &document(&index))?;
    sink.add_bytes("oci-layout", &document(&json!({ "imageLayoutVersion": "1.0.0" })))?;
    Ok(saved)
}

/// Tells whether every blob of an image's layers is there, so that the image can go with its own manifest.
pub(crate) fn has_every_blob(engine: &Engine, image: &LoadedImage) -> bool {
    image.config.diff_ids.iter().zip(&image.manifest.layers).all(|(diff_id, layer)| {
        is_its_tar(*diff_id, layer) || engine.store.has_blob(layer.descriptor.digest, layer.descriptor.size)
    })
}

/// Whether the blob is the layer's tar itself, which is always there.
fn is_its_tar(diff_id: DiffId, layer: &LayerDescriptor) -> bool {
    layer.compression == LayerCompression::None && layer.descriptor.digest.as_bytes() == diff_id.as_bytes()
}

/// Writes an image's blobs, unless they were, and gives the descriptor of its manifest.
fn write_image(
    engine: &Engine,
    image: &LoadedImage,
    is_whole: bool,
    written: &mut BTreeSet<BlobDigest>,
    sink: &mut dyn Sink,
) -> Result<Descriptor> {
    let mut layers = Vec::new();
    for (diff_id, layer) in image.config.diff_ids.iter().zip(&image.manifest.layers) {
        let blob = if is_whole { layer.descriptor.clone() } else { describe_tar(engine, *diff_id)? };
        if written.insert(blob.digest) {
            match is_whole && !is_its_tar(*diff_id, layer) {
                true => write_kept_blob(engine, &blob, sink)?,
                false => write_layer(engine, image, *diff_id, &blob_name(blob.digest), sink)?,
            }
        }
        layers.push(blob);
    }
    let config = Verified::trust(image.config_bytes.clone());
    let manifest =
        if is_whole { engine.store.read_blob(image.record.manifest.digest)? } else { oci_manifest(&config, &layers)? };
    for bytes in [&config, &manifest] {
        if written.insert(bytes.digest()) {
            sink.add_bytes(&blob_name(bytes.digest()), bytes.get())?;
        }
    }
    let media_type = if is_whole { image.record.manifest.media_type.as_str() } else { OCI_MANIFEST };
    Ok(Descriptor {
        platform: Some(image.config.platform.clone()),
        ..Descriptor::new(media_type, manifest.digest(), manifest.get().len() as u64)
    })
}

fn describe_tar(engine: &Engine, layer: DiffId) -> Result<Descriptor> {
    let kept = engine.layerfs.kept(layer)?.ok_or(stos_layerfs::Error::NoSuchLayer(layer))?;
    Ok(plain_layer(layer, kept.tar_bytes))
}

/// Writes a blob that is kept. One that has turned out damaged is removed: it is of no use, and the next pull with
/// `--keep-blobs` fetches it again.
fn write_kept_blob(engine: &Engine, blob: &Descriptor, sink: &mut dyn Sink) -> Result<()> {
    let mut file =
        Hashing { file: files::open(&engine.store.blob_path(blob.digest))?, hasher: DigestHasher::default() };
    sink.add_stream(&blob_name(blob.digest), blob.size, &mut file)?;
    let found = BlobDigest::from_bytes(file.hasher.finish());
    if found == blob.digest {
        return Ok(());
    }
    Err(engine.store.discard_damaged_layer_blob(blob.digest, found)?.into())
}

/// A file that is hashed as it is read.
struct Hashing {
    file: File,
    hasher: DigestHasher,
}

impl Read for Hashing {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(into)?;
        self.hasher.update(&into[..count]);
        Ok(count)
    }
}
