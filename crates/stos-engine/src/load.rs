// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images from files: docker-archives and OCI layouts, proved as closely as those of a registry.

use std::collections::BTreeMap;
use std::path::PathBuf;

use stos_config::policy::PolicyImage;
use stos_spec::ImageRef;
use stos_spec::text::cut;
use stos_store::ImageRecord;

use crate::Engine;
use crate::error::Result;
use crate::install::{InstallOptions, NamedImage, install_images};
use crate::journal::Status;
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

/// An image that came from files.
#[derive(Debug, Clone)]
pub struct LoadedFiles {
    /// Its entries: one for each name that it has there, one without a name where it has none.
    pub records: Vec<ImageRecord>,
    /// What the layout calls it, where that is a mere tag: no name outside the layout, so that it has none.
    pub tag: Option<String>,
}

/// Puts the images of a docker-archive or an OCI layout into the store, all of them or none.
///
/// Digests and sizes are checked where they are promised, diffIDs always. What is called like an image of the store takes its
/// name; two images of one name are refused.
pub fn load_images(
    engine: &Engine,
    input: ImageInput,
    wanted: &Wanted,
    options: &PullOptions,
    progress: &dyn PullProgress,
) -> Result<Vec<LoadedFiles>> {
    engine.layerfs.kind_of_new()?;
    let input = stage("open", no_bytes, || OpenInput::open(engine, input))?;
    let label = input.files.label();
    let (source, images) = stage("resolve", no_bytes, || resolve(input.files, input.path, wanted, options))?;
    check_is_the_one(&label, &images, wanted)?;
    check_names(&label, &images)?;
    let tag_of = |named: &NamedImage| named.names.is_empty().then(|| named.tags.first().cloned()).flatten();
    let tags: Vec<Option<String>> = images.iter().map(tag_of).collect();
    let install = InstallOptions { jobs: options.jobs, keep_blobs: options.keep_blobs };
    let records = install_images(engine, &*source, images, install, progress)?.records;
    for image in records.iter().filter_map(|names| names.first()) {
        engine.note_image(Status::Load, image.image_id, &label);
    }
    Ok(records.into_iter().zip(tags).map(|(records, tag)| LoadedFiles { records, tag }).collect())
}

/// Refuses several images where one is meant.
fn check_is_the_one(label: &str, images: &[NamedImage], wanted: &Wanted) -> Result<()> {
    let expected = match wanted {
        Wanted::Tag(tag) => format!("one image called {:?}", cut(tag)),
        Wanted::Name(name) => format!("one image called {name}"),
        Wanted::Only => "one image, or a name behind the path that chooses one".to_owned(),
        Wanted::All => return Ok(()),
    };
    let found = match images {
        [_] => return Ok(()),
        [one, two] => format!("2 images: {} and {}", one.image.digest(), two.image.digest()),
        more => format!("{} images", more.len()),
    };
    Err(bad_archive(label, "the whole", expected, found))
}

/// Refuses a name that two images have: nobody can say which of them it means.
fn check_names(label: &str, images: &[NamedImage]) -> Result<()> {
    let mut owners = BTreeMap::new();
    for named in images {
        for name in &named.names {
            let digest = named.image.digest();
            if let Some(other) = owners.insert(name.to_string(), digest) {
                let found = format!("{other} and {digest}");
                return Err(bad_archive(label, &format!("the name {name}"), "one image of that name", found));
            }
        }
    }
    Ok(())
}

/// A docker-archive that is a layout too, as Docker writes it today, is read as a layout: that keeps every digest. The policy is asked
/// about what the files are read as, before any document is; it knows them by `path`.
fn resolve(
    files: Files,
    path: PathBuf,
    wanted: &Wanted,
    options: &PullOptions,
) -> Result<(Box<dyn LayerSource>, Vec<NamedImage>)> {
    let name = if let Wanted::Name(name) = wanted { Some(name) } else { None };
    if name.is_none() && LayoutSource::is_layout(&files)? {
        options.registries.admit_files(&match files {
            Files::Directory(..) => PolicyImage::Oci(path),
            Files::Archive(_) => PolicyImage::OciArchive(path),
        })?;
        let layout = LayoutSource::new(files)?;
        let tag = if let Wanted::Tag(tag) = wanted { Some(tag.as_str()) } else { None };
        let images = layout.images(&options.platform, tag)?;
        return Ok((Box::new(layout), images));
    }
    if DockerSource::is_docker_archive(&files)? {
        options.registries.admit_files(&PolicyImage::DockerArchive)?;
        let (source, images) = DockerSource::read(&files, &options.platform, name)?;
        return Ok((Box::new(source), images));
    }
    Err(files.bad("the whole", "oci-layout and index.json, or manifest.json", "none of them"))
}
