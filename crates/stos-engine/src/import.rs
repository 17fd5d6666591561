// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A root filesystem becomes an image of one layer.

use std::path::Path;

use stos_erofs::TarWriter;
use stos_layerfs::{Kept, LayerLabel, NewLayer};
use stos_spec::config::History;
use stos_spec::media_type::OCI_LAYER;
use stos_spec::{ImageRef, Platform};
use stos_store::{ImageRecord, files};

use crate::Engine;
use crate::additions::Additions;
use crate::build::{ConfigDocument, TopLayer, append_layer, apply_changes, store_new_image};
use crate::changes::layer::TreeWriter;
use crate::changes::{Mode, MountPoints, Node, Walk};
use crate::container::now;
use crate::error::{Error, Result};
use crate::journal::Status;
use crate::source::input::{ImageInput, RawInput};
use crate::stage::{no_bytes, stage};
use crate::tag::check_is_tag;
use crate::written_layer::add_written_layer;

/// What a new image is to be.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Its name; without one it is known by its ID.
    pub name: Option<ImageRef>,
    /// Changes of its configuration, as a Dockerfile has them.
    pub changes: Vec<String>,
    /// A note for its history.
    pub message: Option<String>,
    /// What it runs on.
    pub platform: Platform,
    /// Whether nobody is told of what is left out of a directory.
    pub quiet: bool,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self { name: None, changes: Vec::new(), message: None, platform: Platform::host(), quiet: false }
    }
}

/// Makes an image of a tar, plain or compressed with gzip or zstd, in one pass: the uncompressed tar is the layer, its digest
/// the diffID. Of a directory a tar is made, the same each time for the same files and times.
///
/// The layer and the merged index are durable before the image has its name; on an error nothing has changed.
pub fn import_image(engine: &Engine, input: ImageInput, options: &ImportOptions) -> Result<ImageRecord> {
    engine.layerfs.kind_of_new()?;
    options.name.as_ref().map_or(Ok(()), check_is_tag)?;
    let created = now();
    let mut config = ConfigDocument::new(&options.platform, &created);
    // Told before anything is read.
    apply_changes(&mut config, &options.changes)?;
    let mut additions = Additions::begin(engine)?;
    let imported = (|| {
        let (layer, origin) =
            stage("layer", |(layer, _): &(Kept, _)| layer.tar_bytes, || add_layer(engine, input, options.quiet))?;
        additions.layer(layer.diff_id);
        let history = History {
            created: Some(created),
            created_by: Some(format!("stos import {origin}")),
            comment: options.message.clone(),
            ..History::default()
        };
        let top = TopLayer { diff_id: layer.diff_id, size: layer.tar_bytes, history };
        let image = append_layer(None, config, top)?;
        additions.image(&image)?;
        stage("commit", no_bytes, || store_new_image(engine, &image, options.name.clone()))
    })();
    let image = additions.settle(imported)?;
    let name = image.reference.as_ref().map(ToString::to_string).unwrap_or_default();
    engine.note_image(Status::Import, image.image_id, &name);
    Ok(image)
}

/// Opens what is to be imported: before anything else is done, so that a path that is wrong changes nothing.
pub fn open_input(path: &Path) -> Result<ImageInput> {
    if path.is_dir() {
        return Ok(ImageInput::Path(path.to_owned()));
    }
    Ok(ImageInput::Stream(files::open(path)?, path.display().to_string()))
}

/// Adds the layer, and gives it with what people call where it came from.
fn add_layer(engine: &Engine, input: ImageInput, quiet: bool) -> Result<(Kept, String)> {
    let (file, origin) = match input {
        ImageInput::Path(path) if path.is_dir() => return add_directory(engine, &path, quiet),
        ImageInput::Path(path) => (files::open(&path)?, path.display().to_string()),
        ImageInput::Stream(file, label) => (file, label),
    };
    let stream = RawInput::new(file, &origin)?;
    let label = LayerLabel::Origin(origin.clone());
    let new = NewLayer {
        label: &label,
        compression: stream.compression,
        diff_id: None,
        media_type: OCI_LAYER,
        source: &origin,
    };
    if stream.is_empty() {
        let reason = "expected a tar, found nothing".to_owned();
        return Err(Error::Option { option: "the input", value: origin, reason });
    }
    Ok((engine.layerfs.add_layer(new, stream)?, origin))
}

/// Makes a layer of all that is in a directory, and of the directory itself. Mount points come empty, as in an export.
fn add_directory(engine: &Engine, path: &Path, quiet: bool) -> Result<(Kept, String)> {
    let origin = path.display().to_string();
    let root = std::fs::canonicalize(path).map_err(stos_store::Error::io("find", path))?;
    let layer = add_written_layer(engine, &origin, |out| {
        let mut tar = TreeWriter::new(TarWriter::new(out), &*origin, quiet).for_layer_on(engine, &[])?;
        let mut walk = Walk::new(Node::root(&root)?, None, Mode::Trees, MountPoints::default());
        walk.stays_on_mount = true;
        walk.run(&mut |event| tar.write(event))?;
        tar.finish().map(drop)
    })?;
    Ok((layer, origin))
}
