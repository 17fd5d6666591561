// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container's changes become a layer, and with its image's layers a new image.
//!
//! The layer's tar goes to LayerFS while the changes are read: no copy of it is made on the way.

mod config;

use std::io::Write;

use stos_erofs::TarWriter;
use stos_layerfs::Kept;
use stos_spec::config::History;
use stos_spec::{BlobDigest, Descriptor, ImageRef};
use stos_store::ImageRecord;

use crate::Engine;
use crate::additions::Additions;
use crate::build::{ConfigDocument, TopLayer, append_layer, apply_changes, store_new_image};
use crate::changes::layer::TreeWriter;
use crate::changes::{ContainerTrees, Mode, Walk, check_is_there, mounts_of};
use crate::container::{ContainerRecord, now};
use crate::error::Result;
use crate::image::{LoadedImage, load_image};
use crate::journal::Status;
use crate::stage::{no_bytes, stage};
use crate::tag::check_is_tag;
use crate::written_layer::add_written_layer;

/// How to make an image of a container.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// What it is called.
    pub name: Option<ImageRef>,
    /// Who made it.
    pub author: Option<String>,
    /// Why.
    pub message: Option<String>,
    /// Changes of the configuration, as a Dockerfile has them.
    pub changes: Vec<String>,
    /// Whether what the user has mounted are volumes of the image: their places, not what is in them.
    pub include_volumes: bool,
    /// Whether nobody is told of what is left out.
    pub quiet: bool,
}

/// Makes an image of a container: the image's layers and one more, which holds the container's changes. A container without
/// changes gives a layer without entries. Its configuration is the image's with what was asked for when the container was created:
/// entrypoint, command, environment, working directory, user, labels; then come `changes`. It may run meanwhile: what it changes while it is read may be in it or not, file by file.
///
/// The new layer and the merged index are durable before the image has its name; on an error nothing has changed.
pub fn commit_container(engine: &Engine, container: &ContainerRecord, options: &CommitOptions) -> Result<ImageRecord> {
    if let Some(name) = &options.name {
        check_is_tag(name)?;
    }
    let mut additions = Additions::begin(engine)?;
    let base = image_of(engine, container)?;
    let mut config = ConfigDocument::of_image(&base)?;
    config::lay_over(engine, container, &base.config, &mut config)?;
    if options.include_volumes {
        apply_changes(&mut config, &user_volumes(engine, container)?)?;
    }
    // Told before the tree is read.
    apply_changes(&mut config, &options.changes)?;
    let committed = (|| {
        let size = |layer: &Kept| layer.tar_bytes;
        let layer = stage("changes", size, || add_changes(engine, container, options.quiet))?;
        additions.layer(layer.diff_id);
        let created = now();
        config.set_created(&created);
        if let Some(author) = &options.author {
            config.set_author(author);
        }
        let history = History {
            created: Some(created),
            created_by: Some(container.command.join(" ")),
            author: options.author.clone(),
            comment: options.message.clone(),
            ..History::default()
        };
        let top = TopLayer { diff_id: layer.diff_id, size: layer.tar_bytes, history };
        let image = append_layer(Some(&base), config, top)?;
        additions.image(&image)?;
        stage("commit", no_bytes, || store_new_image(engine, &image, options.name.clone()))
    })();
    let image = additions.settle(committed)?;
    engine.note(Status::Commit, container);
    Ok(image)
}

/// Reads the documents of a container's image. They are there as long as the container is, whatever has become of the image's names.
fn image_of(engine: &Engine, container: &ContainerRecord) -> Result<LoadedImage> {
    let is_own = |image: &ImageRecord| image.manifest.digest == container.manifest;
    let listed = engine.store.images()?.into_iter().find(is_own);
    let record = match listed {
        Some(record) => record,
        None => ImageRecord {
            reference: None,
            manifest: describe_manifest(engine, container.manifest)?,
            image_id: container.image_id,
            index_digest: None,
            pulled: String::new(),
        },
    };
    load_image(engine, record)
}

/// Gives an instruction for each mount of the user's, and for each volume.
fn user_volumes(engine: &Engine, container: &ContainerRecord) -> Result<Vec<String>> {
    let mounts = mounts_of(engine, container)?;
    let binds = mounts.iter().filter(|mount| mount.is_of_host()).map(|mount| mount.destination.as_str());
    let mut targets: Vec<_> = binds.chain(container.volumes.iter().map(|volume| volume.target.as_str())).collect();
    targets.dedup();
    Ok(targets.iter().map(|target| format!("VOLUME {}", serde_json::json!([target]))).collect())
}

/// Describes a manifest of the store by what it says of itself.
fn describe_manifest(engine: &Engine, digest: BlobDigest) -> Result<Descriptor> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<String>,
    }
    let bytes = engine.store.read_blob(digest)?;
    let typed: Option<Typed> = serde_json::from_slice(bytes.get()).ok();
    let media_type = typed.and_then(|typed| typed.media_type);
    let media_type = media_type.unwrap_or_else(|| stos_spec::media_type::OCI_MANIFEST.to_owned());
    Ok(Descriptor::new(media_type, digest, bytes.get().len() as u64))
}

/// Adds the layer of a container's changes.
fn add_changes(engine: &Engine, container: &ContainerRecord, quiet: bool) -> Result<Kept> {
    add_written_layer(engine, &format!("container {}", container.name), |out| {
        write_changes(engine, container, quiet, out)
    })
}

fn write_changes(engine: &Engine, container: &ContainerRecord, quiet: bool, out: impl Write) -> Result<()> {
    let trees = ContainerTrees::open(engine, container)?;
    let points = trees.mount_points(engine, container)?;
    let tar = TreeWriter::new(TarWriter::new(out), format!("container {}", container.name), quiet);
    let mut tar = tar.for_layer_on(engine, &container.layers)?;
    Walk::new(trees.upper, Some(trees.lower), Mode::Overlay, points).run(&mut |event| tar.write(event))?;
    check_is_there(engine, container)?;
    tar.finish().map(drop)
}
