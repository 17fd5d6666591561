// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images go out to files: as a docker-archive, or as an OCI layout in a tar or a directory.
//!
//! Everything is hashed while it is written. What is not what its digest says fails the save, and nothing half-made stays.

mod directory;
mod docker;
mod layout;
pub(crate) mod output;
mod sink;

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use stos_layerfs::Integrity;
use stos_spec::manifest::Descriptor;
use stos_spec::{BlobDigest, DiffId, ImageRef};
use stos_store::{ImageSelector, Objects};

use crate::Engine;
use crate::error::{Error, Result};
use crate::image::{LoadedImage, load_image};
use crate::journal::Status;
use crate::stage::{no_bytes, stage};

pub(crate) use layout::has_every_blob;

use directory::DirectorySink;
pub use output::OutputFile;
use sink::{Sink, TarSink};

/// How images are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveFormat {
    /// A docker-archive, which every engine reads. It keeps no manifest.
    DockerArchive,
    /// A tar of an OCI image layout.
    OciArchive,
    /// A directory with an OCI image layout.
    OciDir,
}

/// Where images are written.
pub enum SaveTarget<'a> {
    /// A stream, such as standard output.
    Stream(&'a mut dyn Write),
    /// A file, made or replaced by one rename; or a directory that is new or empty.
    Path(&'a Path),
}

/// What a save did.
#[derive(Debug, Default)]
pub struct Saved {
    /// The images whose manifest is a new one, for not every blob of theirs is kept: their layers are uncompressed.
    pub rewritten: Vec<String>,
}

/// An image that is being saved, under the names by which it was asked for.
struct SavedImage {
    image: LoadedImage,
    names: Vec<ImageRef>,
}

/// Writes images, each under the names by which it was asked for; by its ID it has none. What they share is written once.
///
/// In the OCI forms an image of which every blob is kept goes with its own manifest, so that every digest stays. Another one
/// gets a new manifest over its uncompressed layers: diffIDs and image ID stay, for the configuration is the same.
pub fn save_images(engine: &Engine, images: &[String], format: SaveFormat, target: SaveTarget<'_>) -> Result<Saved> {
    let mut lease = engine.store.lease()?;
    let images = collect(engine, images)?;
    lease.narrow_if_possible(&relied_on(&images));
    let place = match &target {
        SaveTarget::Stream(_) => "/dev/stdout".to_owned(),
        SaveTarget::Path(path) => path.display().to_string(),
    };
    let saved = stage("save", no_bytes, || match (format, target) {
        (SaveFormat::OciDir, SaveTarget::Stream(_)) => {
            let reason = "a directory cannot be written to a stream: give it with --output".to_owned();
            Err(Error::Option { option: "--format", value: "oci-dir".to_owned(), reason })
        }
        (SaveFormat::OciDir, SaveTarget::Path(path)) => {
            let mut sink = DirectorySink::new(path)?;
            let saved = layout::write(engine, &images, &mut sink)?;
            sink.commit()?;
            Ok(saved)
        }
        (_, SaveTarget::Stream(out)) => write_archive(engine, &images, format, out),
        (_, SaveTarget::Path(path)) => {
            let mut file = OutputFile::create(path, "--output")?;
            let saved = write_archive(engine, &images, format, &mut file)?;
            file.commit()?;
            Ok(saved)
        }
    })?;
    images.iter().for_each(|saved| engine.note_image(Status::Save, saved.image.record.image_id, &place));
    Ok(saved)
}

/// Gives what the images consist of. Whoever reads an archive from a pipe may take his time.
fn relied_on(images: &[SavedImage]) -> Objects {
    let mut objects = Objects::default();
    images.iter().for_each(|saved| objects.extend(saved.image.objects()));
    objects
}

fn write_archive(engine: &Engine, images: &[SavedImage], format: SaveFormat, out: &mut dyn Write) -> Result<Saved> {
    let mut sink = TarSink::new(out);
    let saved = match format {
        SaveFormat::DockerArchive => docker::write(engine, images, &mut sink)?,
        SaveFormat::OciArchive | SaveFormat::OciDir => layout::write(engine, images, &mut sink)?,
    };
    sink.finish()?;
    Ok(saved)
}

/// Finds the images; one that is asked for under several names is one.
fn collect(engine: &Engine, queries: &[String]) -> Result<Vec<SavedImage>> {
    let mut images: Vec<SavedImage> = Vec::new();
    for query in queries {
        let record = engine.store.find_image(&ImageSelector::new(query))?;
        let is_its_name = |own: &ImageRef| {
            query.parse::<ImageRef>().is_ok_and(|name| name.name() == own.name() || name.may_mean(own))
        };
        let name = record.reference.clone().filter(|own| own.digest().is_none() && is_its_name(own));
        match images.iter_mut().find(|other| other.image.record.manifest.digest == record.manifest.digest) {
            Some(other) => other.names.extend(name.filter(|name| !other.names.contains(name))),
            None => images.push(SavedImage { image: load_image(engine, record)?, names: name.into_iter().collect() }),
        }
    }
    Ok(images)
}

/// Writes a layer's tar as the member `name`. Who reads it proves it: its last read fails where it is not the layer.
fn write_layer(engine: &Engine, image: &LoadedImage, layer: DiffId, name: &str, sink: &mut dyn Sink) -> Result<()> {
    let mut tar = engine.layerfs.open_tar(layer)?;
    let size = tar.size();
    sink.add_stream(name, size, &mut tar).or_else(|error| {
        // Where the layer is at fault every byte is looked at, so that the damage is told as such, and the next pull heals it.
        if !is_of_reading(&error) {
            return Err(error);
        }
        engine.layerfs.ensure_sound_chain(&image.config.diff_ids, Integrity::Full)?;
        Err(error)
    })
}

fn is_of_reading(error: &Error) -> bool {
    matches!(error, Error::Store(stos_store::Error::Io { action: "read", .. }))
}

/// Gives a JSON document as it is written.
fn document(value: &Value) -> Vec<u8> {
    let mut bytes = value.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

/// Describes an image in an index, under a name if it has one.
fn index_entry(manifest: &Descriptor, name: Option<&ImageRef>) -> Value {
    let mut entry = json!(Descriptor { annotations: Default::default(), ..manifest.clone() });
    if let Some(name) = name {
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name.to_string() });
    }
    entry
}

/// The file of a blob in a layout.
fn blob_name(digest: BlobDigest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
