// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images of a docker-archive: `manifest.json`, configurations and layers (moby image-spec v1.2, "Combined Image JSON +
//! Filesystem Changeset Format").

use std::collections::HashMap;
use std::io::Read;

use serde::Deserialize;
use stos_spec::config::CONFIG_MAX;
use stos_spec::manifest::{LAYERS_MAX, MANIFEST_MAX};
use stos_spec::text::{cut, shown};
use stos_spec::{BlobDigest, DiffId, ImageRef, LayerCompression, Platform, Verified};

use super::files::{Files, SourceFile};
use super::{Budget, Excess, LayerSource, ResolvedImage, WantedLayer, read_config};
use crate::build::plain_layer;
use crate::error::{Error, Result};
use crate::install::NamedImage;

/// What old versions of Docker write where an image has no name.
const NO_NAME: &str = "<none>:<none>";

/// A docker-archive, and the file of each layer.
pub(crate) struct DockerSource {
    label: String,
    layers: HashMap<DiffId, SourceFile>,
}

/// An image as `manifest.json` tells of it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    /// Docker writes `null` for none.
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl DockerSource {
    /// Tells whether the files are a docker-archive's.
    pub fn is_docker_archive(files: &Files) -> Result<bool> {
        Ok(files.find("manifest.json")?.is_some())
    }

    /// Reads what the archive holds: every image, under the names that it gives it. `name` chooses the one that has it.
    ///
    /// A layer that is not compressed is promised by its diffID and its size; of a compressed one only the diffID is known.
    pub fn read(files: &Files, platform: &Platform, name: Option<&ImageRef>) -> Result<(Self, Vec<NamedImage>)> {
        let mut source = Self { label: files.label(), layers: HashMap::new() };
        let (mut images, budget) = (Vec::<NamedImage>::new(), Budget::default());
        let refuse = |(expected, found): Excess| files.bad("manifest.json", expected, found);
        for entry in read_entries(files)? {
            let tags = entry.repo_tags.as_deref().unwrap_or_default();
            budget.take_names(tags.len()).map_err(refuse)?;
            let names = names_of(files, tags, name.is_some())?;
            if name.is_some_and(|name| !names.contains(name)) {
                continue;
            }
            let image = source.read_image(files, &entry, platform, &budget)?;
            // Two entries of one configuration are one image.
            match images.iter_mut().find(|known| known.image.digest() == image.digest()) {
                Some(known) => known.add_names(names),
                None => {
                    budget.take_image().and_then(|()| budget.take_layers(image.layers.len())).map_err(refuse)?;
                    images.push(NamedImage::new(names, image));
                }
            }
        }
        if images.is_empty() {
            let expected = name.map_or_else(|| "an image".to_owned(), |name| format!("an image called {name}"));
            return Err(files.bad("manifest.json", expected, "none"));
        }
        Ok((source, images))
    }

    fn read_image(
        &mut self,
        files: &Files,
        entry: &Entry,
        platform: &Platform,
        budget: &Budget,
    ) -> Result<ResolvedImage> {
        let bytes = files.read(&entry.config, CONFIG_MAX)?;
        budget.take_document(&bytes).map_err(|(expected, found)| files.bad("manifest.json", expected, found))?;
        // Where the file is called by a digest, that is a promise.
        let config_bytes = match promised_digest(&entry.config) {
            Some(digest) => Verified::check_digest(bytes, digest, "configuration")?,
            None => Verified::trust(bytes),
        };
        let names = entry.layers.as_deref().unwrap_or_default();
        if names.is_empty() || names.len() > LAYERS_MAX {
            let found = format!("{}", names.len());
            return Err(files.bad("manifest.json", format!("1 to {LAYERS_MAX} layers of an image"), found));
        }
        let config = read_config(&config_bytes, names.len(), platform)?;
        let mut layers = Vec::new();
        for (&diff_id, name) in config.diff_ids.iter().zip(names) {
            let file = files.open(name)?;
            // Of a layer that lies there twice the first is read.
            let file = self.layers.entry(diff_id).or_insert(file);
            let compression = files.compression(name, file)?;
            let is_plain = compression == LayerCompression::None;
            let blob = is_plain.then(|| plain_layer(diff_id, file.size()));
            layers.push(WantedLayer { diff_id, compression, blob });
        }
        Ok(ResolvedImage { index: None, manifest: None, config_bytes, platform: config.platform, layers })
    }
}

fn read_entries(files: &Files) -> Result<Vec<Entry>> {
    let bytes = files.read("manifest.json", MANIFEST_MAX)?;
    let entries: Vec<Entry> = serde_json::from_slice(&bytes)
        .map_err(|error| files.bad("manifest.json", "a list of images", shown(&error.to_string())))?;
    if entries.len() as u64 > Budget::IMAGES_MAX {
        let found = entries.len().to_string();
        return Err(files.bad("manifest.json", format!("at most {} images", Budget::IMAGES_MAX), found));
    }
    Ok(entries)
}

/// Gives the names of an image. What Docker writes for none is none. `by_name` says that the image is being looked for by one of
/// its names: there what is no name is passed over, for it may be another image's.
fn names_of(files: &Files, tags: &[String], by_name: bool) -> Result<Vec<ImageRef>> {
    let mut names = Vec::new();
    for text in tags.iter().filter(|text| *text != NO_NAME) {
        match text.parse::<ImageRef>() {
            Ok(name) if name.digest().is_none() => names.push(name),
            _ if by_name => {}
            _ => {
                let expected = "names in RepoTags, as [REGISTRY/]REPOSITORY[:TAG]";
                return Err(files.bad("manifest.json", expected, format!("{:?}", cut(text))));
            }
        }
    }
    Ok(names)
}

/// Reads the digest in the name of a configuration: `HEX.json`, `blobs/sha256/HEX`, `sha256:HEX`.
fn promised_digest(name: &str) -> Option<BlobDigest> {
    let name = name.rsplit('/').next()?;
    let name = name.strip_suffix(".json").unwrap_or(name);
    BlobDigest::from_hex(name.strip_prefix("sha256:").unwrap_or(name))
}

impl LayerSource for DockerSource {
    fn name(&self) -> String {
        self.label.clone()
    }

    fn open_layer(&self, layer: &WantedLayer) -> Result<Box<dyn Read + '_>> {
        let file = self.layers.get(&layer.diff_id);
        let file = file.ok_or(Error::Layers(stos_layerfs::Error::NoSuchLayer(layer.diff_id)))?;
        Ok(Box::new(file.clone()))
    }
}
