// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images from files: docker-archives and OCI layouts, proved as closely as those of a registry.

use stos_spec::ImageRef;
use stos_store::ImageRecord;

use crate::Engine;
use crate::error::Result;
use crate::install::{InstallOptions, NamedImage, install_images};
use crate::options::PullOptions;
use crate::pull::PullProgress;
use crate::source::LayerSource;
use crate::source::docker::DockerSource;
use crate::source::files::{Files, bad_archive};
use crate::source::input::{ImageInput, OpenInput};
use crate::source::layout::LayoutSource;
use crate::stage::{no_bytes, stage};

/// Which of the images are wanted.
#[derive(Debug, Clone, Default)]
pub enum Wanted {
    /// All of them.
    #[default]
    All,
    /// The only one.
    Only,
    /// The one that an OCI layout calls so.
    Tag(String),
    /// The one that a docker-archive calls so.
    Name(ImageRef),
}

/// Puts the images of a docker-archive or an OCI layout into the store, all of them or none.
///
/// Digests and sizes are checked where they are promised, diffIDs always. Gives the entries of each image: one for each name
/// that it has there, one without a name where it has none. What is called like an image of the store takes its name.
pub fn load_images(
    engine: &Engine,
    input: ImageInput,
    wanted: &Wanted,
    options: &PullOptions,
    progress: &dyn PullProgress,
) -> Result<Vec<Vec<ImageRecord>>> {
    engine.layerfs.kind_of_new()?;
    let lease = engine.store.lease()?;
    let input = stage("open", no_bytes, || OpenInput::open(engine, input))?;
    let label = input.files.label();
    let (source, images) = stage("resolve", no_bytes, || resolve(input.files, wanted, options))?;
    if matches!(wanted, Wanted::Only) && images.len() > 1 {
        let expected = "one image, or a name behind the path that chooses one";
        return Err(bad_archive(&label, "the whole", expected, format!("{} images", images.len())));
    }
    let install = InstallOptions { jobs: options.jobs, keep_blobs: options.keep_blobs };
    Ok(install_images(engine, lease, &*source, images, install, progress)?.records)
}

/// A docker-archive that is a layout too, as Docker writes it today, is read as a layout: that keeps every digest.
fn resolve(files: Files, wanted: &Wanted, options: &PullOptions) -> Result<(Box<dyn LayerSource>, Vec<NamedImage>)> {
    let name = if let Wanted::Name(name) = wanted { Some(name) } else { None };
    if name.is_none() && LayoutSource::is_layout(&files)? {
        let layout = LayoutSource::new(files)?;
        let tag = if let Wanted::Tag(tag) = wanted { Some(tag.as_str()) } else { None };
        let images = layout.images(&options.platform, tag)?;
        return Ok((Box::new(layout), images));
    }
    if DockerSource::is_docker_archive(&files)? {
        let (source, images) = DockerSource::read(&files, &options.platform, name)?;
        return Ok((Box::new(source), images));
    }
    Err(files.bad("the whole", "oci-layout and index.json, or manifest.json", "none of them"))
}
