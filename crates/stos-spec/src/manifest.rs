// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Manifests and indexes, read with suspicion (image-spec, manifest.md and image-index.md; Docker's v2 schema 2).
//!
//! Reading gives a type that keeps the rules: what follows need not look again. The bytes themselves are kept by the
//! caller, for their digest is the image's name.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::bounded::Map;
use crate::digest::{BlobDigest, DigestError};
use crate::document::{self, DEPTH_MAX, DocumentError};
use crate::media_type::{LayerCompression, MediaType, OCI_MANIFEST, essence};
use crate::platform::{Platform, PlatformError};
use crate::text::{cut, shown};

/// The largest manifest or index, in bytes (distribution-spec, "Pushing Manifests": registries take at least 4 MB).
pub const MANIFEST_MAX: u64 = 4 << 20;

/// The most layers an image may have: containers' storage and overlayfs agree on fewer, 1,000 is far beyond use.
pub const LAYERS_MAX: usize = 1000;

/// A manifest or an index that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It is larger than [`MANIFEST_MAX`].
    #[error("the manifest has {found} bytes, expected at most {MANIFEST_MAX}")]
    TooLarge {
        /// Its size in bytes.
        found: u64,
    },
    /// It is not the JSON that it should be.
    #[error("the {document} is not valid: {reason}")]
    Json {
        /// What was read.
        document: &'static str,
        /// What the parser says, with line and column. It quotes the document, so it is cut.
        reason: String,
    },
    /// Values lie in values deeper than any real document's, which some readers do not survive.
    #[error("the manifest is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// A name stands twice in an object, maybe once in other case: readers differ in which of them counts.
    #[error("the manifest is ambiguous: it has {name:?} twice in one object, maybe in other case")]
    DuplicateName {
        /// The name, the second time.
        name: String,
    },
    /// A name of manifests is written in other case: some readers take it for that, others pass it over.
    #[error(
        "the manifest is ambiguous: it has {found:?}, which some readers take for {expected:?} and others for nothing"
    )]
    NameCase {
        /// What stands there.
        found: String,
        /// The name as it is written.
        expected: &'static str,
    },
    /// Its `schemaVersion` is not 2.
    #[error("the manifest has schemaVersion {found}, expected 2")]
    SchemaVersion {
        /// The version found.
        found: String,
    },
    /// It can be read as manifest and as index (CVE-2021-41190), or is neither.
    #[error("the manifest is ambiguous: {reason}")]
    Ambiguous {
        /// Which fields contradict each other.
        reason: String,
    },
    /// Its media type is none that stos knows.
    #[error("the manifest has media type {found:?}, expected an image manifest or an image index")]
    UnknownMediaType {
        /// The media type found.
        found: String,
    },
    /// It is a manifest, but of an artifact: its configuration is not an image's.
    #[error("not an image but an artifact{}: its configuration has media type {found:?}", of_type(artifact_type.as_deref()))]
    Artifact {
        /// The media type of its configuration.
        found: String,
        /// What it calls itself (`artifactType`), where it does.
        artifact_type: Option<String>,
    },
    /// A descriptor has a digest that cannot be used.
    #[error("{what}: {source}")]
    Digest {
        /// The descriptor's place.
        what: String,
        /// What is wrong with it.
        source: DigestError,
    },
    /// A descriptor has a platform that cannot be one.
    #[error("{what}: {source}")]
    Platform {
        /// The descriptor's place.
        what: String,
        /// What is wrong with it.
        source: PlatformError,
    },
    /// A layer is none that stos knows.
    #[error("layer {number} ({digest}) has media type {found:?}: expected a layer tar, plain, gzip or zstd")]
    UnknownLayer {
        /// The layer's number, the lowest is 1.
        number: usize,
        /// Its digest.
        digest: BlobDigest,
        /// Its media type.
        found: String,
    },
    /// A layer is one that registries do not carry (image-spec, layer.md "Non-Distributable Layers"; Docker's foreign layers).
    #[error("layer {number} ({digest}) has media type {found:?}: registries do not carry foreign layers")]
    ForeignLayer {
        /// The layer's number, the lowest is 1.
        number: usize,
        /// Its digest.
        digest: BlobDigest,
        /// Its media type.
        found: String,
    },
    /// A layer needs a key (ocicrypt).
    #[error("layer {number} ({digest}) has media type {found:?}: encrypted layers are not supported")]
    EncryptedLayer {
        /// The layer's number, the lowest is 1.
        number: usize,
        /// Its digest.
        digest: BlobDigest,
        /// Its media type.
        found: String,
    },
    /// The image has no layers, or too many.
    #[error("the manifest lists {found} layers, expected 1 to {LAYERS_MAX}")]
    LayerCount {
        /// How many there are.
        found: usize,
    },
    /// No image of an index fits the platform.
    #[error("no image for platform {wanted}; the index has: {found}")]
    NoPlatform {
        /// The platform asked for.
        wanted: Platform,
        /// The platforms of the index, joined by commas: the first few.
        found: String,
    },
}

fn of_type(artifact_type: Option<&str>) -> String {
    artifact_type.map(|text| format!(" of type {text:?}")).unwrap_or_default()
}

/// Points at a blob: what it is, how large, and what it must hash to (image-spec, descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The blob's media type, as written.
    pub media_type: String,
    /// What its bytes hash to.
    pub digest: BlobDigest,
    /// How many bytes it has.
    pub size: u64,
    /// Notes for people and tools.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The platform of the image that it points at, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// Makes a descriptor without annotations and platform.
    pub fn new(media_type: impl Into<String>, digest: BlobDigest, size: u64) -> Self {
        Self { media_type: media_type.into(), digest, size, annotations: BTreeMap::new(), platform: None }
    }
}

/// A layer as its manifest gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDescriptor {
    /// Where the blob is and what it must be.
    pub descriptor: Descriptor,
    /// How it is compressed.
    pub compression: LayerCompression,
}

/// The manifest of one image; its media types and counts have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageManifest {
    /// The manifest's media type: its own, or else what it was called where that is one, or else OCI's.
    pub media_type: String,
    /// The image's configuration.
    pub config: Descriptor,
    /// The layers, the lowest first.
    pub layers: Vec<LayerDescriptor>,
}

/// An index: manifests of one image for several platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageIndex {
    /// What it lists, in its order; without the entries that cannot be read, which may be for platforms of the future.
    pub manifests: Vec<Descriptor>,
    /// Why the first of those cannot be read.
    pub unreadable: Option<ManifestError>,
}

/// What a registry gives for a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestDocument {
    /// One image.
    Image(ImageManifest),
    /// Images for several platforms.
    Index(ImageIndex),
}

/// A descriptor before its digest is known to be one.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: Option<Map<String>>,
    #[serde(default)]
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

impl RawDescriptor {
    fn check(self, what: impl FnOnce() -> String) -> Result<Descriptor, ManifestError> {
        let digest = match self.digest.parse() {
            Ok(digest) => digest,
            Err(source) => return Err(ManifestError::Digest { what: what(), source }),
        };
        let platform = self.platform.map(|raw| Platform::of_image(&raw.os, &raw.architecture, raw.variant.as_deref()));
        let platform = platform.transpose().map_err(|source| ManifestError::Platform { what: what(), source })?;
        Ok(Descriptor {
            media_type: self.media_type,
            digest,
            size: self.size,
            annotations: self.annotations.unwrap_or_default().0,
            platform,
        })
    }
}

/// Which fields a document has, before it is read as what they make it. `null` is as good as missing.
///
/// Nothing is copied: a tree of values would take many times the document's size.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline<'a> {
    #[serde(borrow)]
    schema_version: Option<&'a RawValue>,
    #[serde(borrow)]
    media_type: Option<&'a RawValue>,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawManifest {
    config: RawDescriptor,
    layers: Vec<RawDescriptor>,
    #[serde(default)]
    artifact_type: Option<String>,
}

#[derive(Deserialize)]
struct RawIndex {
    manifests: Vec<RawDescriptor>,
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8], document: &'static str) -> Result<T, ManifestError> {
    serde_json::from_slice(bytes).map_err(|error| ManifestError::Json { document, reason: shown(&error.to_string()) })
}

/// Tells whether a media type is one of manifests or indexes, of whatever age.
fn is_of_manifests(text: &str) -> bool {
    matches!(MediaType::of(text), MediaType::ImageManifest | MediaType::ImageIndex | MediaType::SchemaOne)
}

impl ManifestDocument {
    /// Reads the manifest or index in `bytes`.
    ///
    /// `content_type` is what the registry or the descriptor called it. Where that or the document's own `mediaType` says
    /// one thing and its fields another it is refused: two readers could take it for two images (CVE-2021-41190). So is one in
    /// which a name stands twice, or in other case than it is written in.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > MANIFEST_MAX {
            return Err(ManifestError::TooLarge { found: bytes.len() as u64 });
        }
        document::check(bytes, &document::MANIFEST).map_err(|error| match error {
            DocumentError::Json(reason) => ManifestError::Json { document: "manifest", reason },
            DocumentError::TooDeep => ManifestError::TooDeep,
            DocumentError::DuplicateName(name) => ManifestError::DuplicateName { name },
            DocumentError::NameCase { found, expected } => ManifestError::NameCase { found, expected },
        })?;
        let outline: Outline<'_> = read(bytes, "manifest")?;
        let own_type = outline.media_type.map(|raw| {
            let text = serde_json::from_str::<String>(raw.get());
            text.map_err(|_| ManifestError::UnknownMediaType { found: cut(raw.get()) })
        });
        let own_type = own_type.transpose()?;
        // What it is comes first: of something else nothing more is known.
        if let Some(found) = own_type.as_deref().filter(|own| !is_of_manifests(own)) {
            return Err(ManifestError::UnknownMediaType { found: cut(found) });
        }
        match outline.schema_version.map_or("missing", RawValue::get) {
            "2" => {}
            found => return Err(ManifestError::SchemaVersion { found: shown(found) }),
        }
        if Self::kind_of(&outline, own_type.as_deref(), content_type)? {
            return Ok(Self::Index(ImageIndex::of(read(bytes, "index")?)));
        }
        // A registry may call it anything: only a name of a manifest is kept.
        let called = content_type.filter(|text| MediaType::of(text) == MediaType::ImageManifest);
        let media_type = essence(own_type.as_deref().or(called).unwrap_or(OCI_MANIFEST)).to_owned();
        ImageManifest::check(read(bytes, "manifest")?, media_type).map(Self::Image)
    }

    /// Tells an index (`true`) from a manifest (`false`) by its fields, and refuses what contradicts itself.
    fn kind_of(outline: &Outline<'_>, own: Option<&str>, header: Option<&str>) -> Result<bool, ManifestError> {
        let is_index = outline.manifests.is_some();
        let (has_config, has_layers) = (outline.config.is_some(), outline.layers.is_some());
        if is_index && (has_layers || has_config || outline.fs_layers.is_some()) {
            let reason = "it has \"manifests\" beside \"config\" or \"layers\"".to_owned();
            return Err(ManifestError::Ambiguous { reason });
        }
        let is_manifest = has_config && has_layers;
        if !is_index && !is_manifest {
            let reason = "it has neither \"manifests\" nor both \"config\" and \"layers\"".to_owned();
            return Err(ManifestError::Ambiguous { reason });
        }
        for (whose, text) in [("its mediaType is", own), ("it was announced as", header)] {
            let Some(text) = text else { continue };
            match MediaType::of(text) {
                MediaType::ImageIndex if is_index => {}
                MediaType::ImageManifest if !is_index => {}
                MediaType::ImageIndex | MediaType::ImageManifest | MediaType::SchemaOne => {
                    let kind = if is_index { "an index" } else { "a manifest" };
                    let reason = format!("{whose} {:?}, but its fields are those of {kind}", cut(text));
                    return Err(ManifestError::Ambiguous { reason });
                }
                // A generic Content-Type (application/json) says nothing.
                _ => {}
            }
        }
        Ok(is_index)
    }
}

impl ImageManifest {
    fn check(raw: RawManifest, media_type: String) -> Result<Self, ManifestError> {
        let config = raw.config.check(|| "the configuration's descriptor".to_owned())?;
        if MediaType::of(&config.media_type) != MediaType::ImageConfig {
            let artifact_type = raw.artifact_type.as_deref().map(cut);
            return Err(ManifestError::Artifact { found: cut(&config.media_type), artifact_type });
        }
        if raw.layers.is_empty() || raw.layers.len() > LAYERS_MAX {
            return Err(ManifestError::LayerCount { found: raw.layers.len() });
        }
        let layers = raw.layers.into_iter().enumerate().map(|(index, layer)| {
            let number = index + 1;
            let descriptor = layer.check(|| format!("layer {number}"))?;
            let (digest, found) = (descriptor.digest, || cut(&descriptor.media_type));
            let compression = match MediaType::of(&descriptor.media_type) {
                MediaType::Layer(compression) => compression,
                MediaType::ForeignLayer => {
                    return Err(ManifestError::ForeignLayer { number, digest, found: found() });
                }
                MediaType::EncryptedLayer => {
                    return Err(ManifestError::EncryptedLayer { number, digest, found: found() });
                }
                _ => return Err(ManifestError::UnknownLayer { number, digest, found: found() }),
            };
            Ok(LayerDescriptor { descriptor, compression })
        });
        Ok(Self { media_type, config, layers: layers.collect::<Result<_, _>>()? })
    }

    /// Gives the bytes of all layers as the registry sends them.
    pub fn compressed_size(&self) -> u64 {
        self.layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.descriptor.size))
    }
}

impl ImageIndex {
    fn of(raw: RawIndex) -> Self {
        let mut index = Self { manifests: Vec::new(), unreadable: None };
        for (number, raw) in (1..).zip(raw.manifests) {
            match raw.check(|| format!("manifest {number} of the index")) {
                Ok(entry) => index.manifests.push(entry),
                Err(error) => drop(index.unreadable.get_or_insert(error)),
            }
        }
        index
    }

    /// Picks the image that fits `wanted` best; of equals the first, as the specification asks.
    ///
    /// Entries that are no images for a platform (attestations say `unknown/unknown`) never fit. An index whose one image has
    /// no platform means that image. Where none fits, an entry that cannot be read is the reason, for it may be the one.
    pub fn select(&self, wanted: &Platform) -> Result<&Descriptor, ManifestError> {
        let images: Vec<&Descriptor> = self.manifests.iter().filter(|entry| is_image(entry)).collect();
        let fitting = images.iter().filter_map(|entry| Some((wanted.fit(entry.platform.as_ref()?)?, *entry)));
        if let Some((_, entry)) = fitting.min_by_key(|(fit, _)| *fit) {
            return Ok(entry);
        }
        match images.as_slice() {
            [only] if only.platform.is_none() => Ok(only),
            _ => Err(self
                .unreadable
                .clone()
                .unwrap_or_else(|| ManifestError::NoPlatform { wanted: wanted.clone(), found: platforms_of(&images) })),
        }
    }
}

fn is_image(entry: &Descriptor) -> bool {
    let is_unknown = entry.platform.as_ref().is_some_and(|platform| platform.os == "unknown");
    !is_unknown && matches!(MediaType::of(&entry.media_type), MediaType::ImageManifest | MediaType::ImageIndex)
}

/// Names the platforms of an index for people.
fn platforms_of(images: &[&Descriptor]) -> String {
    let platforms = images.iter().filter_map(|entry| entry.platform.as_ref());
    let names: BTreeSet<String> = platforms.map(ToString::to_string).collect();
    if names.is_empty() {
        return "none".to_owned();
    }
    shown(&names.into_iter().collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests;
