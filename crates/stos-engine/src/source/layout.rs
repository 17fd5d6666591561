// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images of an OCI image layout (image-spec, image-layout.md), in a directory or in a tar.

use std::io::Read;

use serde::Deserialize;
use stos_spec::config::CONFIG_MAX;
use stos_spec::manifest::{Descriptor, ImageIndex, MANIFEST_MAX, ManifestDocument};
use stos_spec::media_type::OCI_INDEX;
use stos_spec::text::{cut, shown};
use stos_spec::{BlobDigest, ConfigError, ImageRef, ManifestError, MediaType, Platform, Verified};

use super::files::Files;
use super::{Budget, DocumentSource, Excess, LayerSource, ResolvedImage, WantedLayer, resolve_image};
use crate::error::{Error, Result};
use crate::install::NamedImage;

/// The name of an image (image-spec, annotations.md): a tag for some tools, a whole reference for others.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The whole reference, where containerd or Docker has written the layout.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// A layout.
pub(crate) struct LayoutSource {
    files: Files,
    budget: Budget,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutFile {
    image_layout_version: String,
}

impl LayoutSource {
    /// Tells whether the files are a layout's.
    pub fn is_layout(files: &Files) -> Result<bool> {
        Ok(files.find("oci-layout")?.is_some() && files.find("index.json")?.is_some())
    }

    /// Takes a layout, of version 1.
    pub fn new(files: Files) -> Result<Self> {
        let bytes = files.read("oci-layout", MANIFEST_MAX)?;
        let bad = |found: &str| files.bad("oci-layout", "imageLayoutVersion 1.x", shown(found));
        let layout: LayoutFile = serde_json::from_slice(&bytes).map_err(|error| bad(&error.to_string()))?;
        if !layout.image_layout_version.starts_with("1.") {
            return Err(bad(&layout.image_layout_version));
        }
        Ok(Self { files, budget: Budget::default() })
    }

    /// Gives every image that runs on `platform`, under the names that the layout gives it; those of other platforms are left
    /// out. `tag` chooses the one that has this name.
    ///
    /// # Errors
    /// Where there is none.
    pub fn images(&self, platform: &Platform, tag: Option<&str>) -> Result<Vec<NamedImage>> {
        let (digest, index) = self.index()?;
        let refuse = |(expected, found): Excess| self.files.bad("index.json", expected, found);
        let mut entries: Vec<(&Descriptor, Vec<EntryName>)> = Vec::new();
        for entry in index.manifests.iter().filter(|entry| is_wanted(entry, platform, tag)) {
            let name = name_of(entry);
            self.budget.take_names(name.iter().len()).map_err(refuse)?;
            match entries.iter_mut().find(|(other, _)| other.digest == entry.digest) {
                Some((_, names)) => names.extend(name),
                None => {
                    self.budget.take_image().map_err(refuse)?;
                    entries.push((entry, name.into_iter().collect()));
                }
            }
        }
        if entries.is_empty() {
            return Err(self.nothing_found(digest, &index, platform, tag));
        }
        let (mut images, mut other) = (Vec::new(), None);
        for (entry, names) in entries {
            match resolve_image(self, self.manifest(entry)?, Some(&entry.media_type), platform) {
                Ok(image) => {
                    self.budget.take_layers(image.layers.len()).map_err(refuse)?;
                    images.push(named(names, image));
                }
                // Signatures may lie beside the images, and images whose platform only their configurations or indexes tell.
                Err(
                    error @ (Error::Manifest {
                        source: ManifestError::Artifact { .. } | ManifestError::NoPlatform { .. },
                        ..
                    }
                    | Error::Config {
                        source: ConfigError::Platform { .. } | ConfigError::NoPlatform { .. },
                        ..
                    }),
                ) => {
                    other.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        match other {
            Some(error) if images.is_empty() => Err(error),
            _ => Ok(images),
        }
    }

    fn index(&self) -> Result<(BlobDigest, ImageIndex)> {
        let bytes = self.files.read("index.json", MANIFEST_MAX)?;
        let digest = BlobDigest::of(&bytes);
        match ManifestDocument::parse(&bytes, Some(OCI_INDEX)) {
            Ok(ManifestDocument::Index(index)) => Ok((digest, index)),
            Ok(ManifestDocument::Image(_)) => Err(self.files.bad("index.json", "an index", "a manifest")),
            Err(source) => Err(Error::Manifest { digest, source }),
        }
    }

    fn nothing_found(&self, digest: BlobDigest, index: &ImageIndex, platform: &Platform, tag: Option<&str>) -> Error {
        if let Some(tag) = tag {
            let names = index.manifests.iter().filter_map(|entry| entry.annotations.get(REF_NAME));
            let names: Vec<String> = names.take(20).map(|name| cut(name)).collect();
            return self.files.bad("index.json", format!("an image called {tag:?}"), format!("{names:?}"));
        }
        match index.select(platform) {
            Err(source) => Error::Manifest { digest, source },
            Ok(_) => self.files.bad("index.json", "an image", "none"),
        }
    }

    /// Reads a document under its digest, of the size that its descriptor says.
    fn document(&self, descriptor: &Descriptor, max: u64, what: &str) -> Result<Verified<Vec<u8>>> {
        let bytes = self.files.read(&blob_name(descriptor.digest), max)?;
        let refuse = |(expected, found): Excess| self.files.bad("index.json", expected, found);
        self.budget.take_document(&bytes).map_err(refuse)?;
        Ok(Verified::check(bytes, descriptor, what)?)
    }
}

/// Gives the name of a blob's file. A digest is 32 bytes: what was a path in its place has been refused when it was read.
fn blob_name(digest: BlobDigest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// An image or an index, for this platform or for whatever its documents say.
fn is_wanted(entry: &Descriptor, platform: &Platform, tag: Option<&str>) -> bool {
    let is_image = matches!(MediaType::of(&entry.media_type), MediaType::ImageManifest | MediaType::ImageIndex);
    let fits = entry.platform.as_ref().is_none_or(|own| platform.fit(own).is_some());
    is_image && fits && tag.is_none_or(|tag| entry.annotations.get(REF_NAME).is_some_and(|name| name == tag))
}

/// What an entry is called.
enum EntryName {
    Reference(ImageRef),
    /// A mere tag, as of `skopeo copy … oci:DIR:TAG`: it tells the layout's images apart, and names none outside. Were it read
    /// as a reference, `nginx` would take over what Docker Hub calls so.
    Tag(String),
}

/// Gives the name of an entry, if what stands there is one.
fn name_of(entry: &Descriptor) -> Option<EntryName> {
    let reference = |text: &String| text.parse::<ImageRef>().ok().filter(|name| name.digest().is_none());
    if let Some(name) = entry.annotations.get(CONTAINERD_NAME).and_then(reference) {
        return Some(EntryName::Reference(name));
    }
    let text = entry.annotations.get(REF_NAME)?;
    match text.contains(['/', ':']) {
        true => reference(text).map(EntryName::Reference),
        false => Some(EntryName::Tag(cut(text))),
    }
}

fn named(names: Vec<EntryName>, image: ResolvedImage) -> NamedImage {
    let mut named = NamedImage::new(Vec::new(), image);
    for name in names {
        match name {
            EntryName::Reference(name) => named.add_names(vec![name]),
            EntryName::Tag(tag) => named.tags.push(tag),
        }
    }
    named
}

impl DocumentSource for LayoutSource {
    fn manifest(&self, descriptor: &Descriptor) -> Result<Verified<Vec<u8>>> {
        self.document(descriptor, MANIFEST_MAX, "manifest")
    }

    fn config(&self, descriptor: &Descriptor) -> Result<Verified<Vec<u8>>> {
        self.document(descriptor, CONFIG_MAX, "configuration")
    }
}

impl LayerSource for LayoutSource {
    fn name(&self) -> String {
        self.files.label()
    }

    fn open_layer(&self, layer: &WantedLayer) -> Result<Box<dyn Read + '_>> {
        Ok(Box::new(self.files.open(&blob_name(layer.shown()))?))
    }
}
