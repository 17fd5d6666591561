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
    #[error("not an image but an artifact: its configuration has media type {found:?}")]
    Artifact {
        /// The media type of its configuration.
        found: String,
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
    /// A layer cannot be used.
    #[error("layer {number} ({digest}) has media type {found:?}: {reason}")]
    Layer {
        /// The layer's number, the lowest is 1.
        number: usize,
        /// Its digest.
        digest: BlobDigest,
        /// Its media type.
        found: String,
        /// Why it cannot be used.
        reason: &'static str,
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
struct RawManifest {
    config: RawDescriptor,
    layers: Vec<RawDescriptor>,
}

#[derive(Deserialize)]
struct RawIndex {
    manifests: Vec<RawDescriptor>,
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8], document: &'static str) -> Result<T, ManifestError> {
    serde_json::from_slice(bytes).map_err(|error| ManifestError::Json { document, reason: shown(&error.to_string()) })
}

impl ManifestDocument {
    /// Reads the manifest or index in `bytes`.
    ///
    /// `content_type` is what the registry or the descriptor called it. Where that or the document's own `mediaType` says
    /// one thing and its fields another it is refused: two readers could take it for two images (CVE-2021-41190).
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > MANIFEST_MAX {
            return Err(ManifestError::TooLarge { found: bytes.len() as u64 });
        }
        let outline: Outline<'_> = read(bytes, "manifest")?;
        match outline.schema_version.map_or("missing", RawValue::get) {
            "2" => {}
            found => return Err(ManifestError::SchemaVersion { found: shown(found) }),
        }
        let own_type = outline.media_type.map(|raw| {
            let text = serde_json::from_str::<String>(raw.get());
            text.map_err(|_| ManifestError::UnknownMediaType { found: cut(raw.get()) })
        });
        let own_type = own_type.transpose()?;
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
        for (whose, text) in [("its mediaType", own), ("the registry's Content-Type", header)] {
            let Some(text) = text else { continue };
            match MediaType::of(text) {
                MediaType::ImageIndex if is_index => {}
                MediaType::ImageManifest if !is_index => {}
                MediaType::ImageIndex | MediaType::ImageManifest | MediaType::SchemaOne => {
                    let kind = if is_index { "an index" } else { "a manifest" };
                    let reason = format!("{whose} is {:?}, but its fields are those of {kind}", cut(text));
                    return Err(ManifestError::Ambiguous { reason });
                }
                // A generic Content-Type (application/json) says nothing; a mediaType of its own must be right.
                _ if whose == "its mediaType" => {
                    return Err(ManifestError::UnknownMediaType { found: cut(text) });
                }
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
            return Err(ManifestError::Artifact { found: cut(&config.media_type) });
        }
        if raw.layers.is_empty() || raw.layers.len() > LAYERS_MAX {
            return Err(ManifestError::LayerCount { found: raw.layers.len() });
        }
        let layers = raw.layers.into_iter().enumerate().map(|(index, layer)| {
            let number = index + 1;
            let descriptor = layer.check(|| format!("layer {number}"))?;
            let refuse = |reason| ManifestError::Layer {
                number,
                digest: descriptor.digest,
                found: cut(&descriptor.media_type),
                reason,
            };
            let compression = match MediaType::of(&descriptor.media_type) {
                MediaType::Layer(compression) => compression,
                MediaType::ForeignLayer => return Err(refuse("registries do not carry foreign layers")),
                MediaType::EncryptedLayer => return Err(refuse("encrypted layers are not supported")),
                _ => return Err(refuse("expected a layer tar, plain, gzip or zstd")),
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
mod tests {
    use super::*;
    use crate::media_type::*;
    use serde_json::{Value, json};

    fn blob(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": BlobDigest::of(b"x").to_string(), "size": 1})
    }

    fn manifest() -> Value {
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": blob(OCI_CONFIG), "layers": [blob(OCI_LAYER_GZIP)]})
    }

    fn parse(value: &Value, header: Option<&str>) -> Result<ManifestDocument, ManifestError> {
        ManifestDocument::parse(value.to_string().as_bytes(), header)
    }

    fn with(mut value: Value, key: &str, field: Value) -> Value {
        value[key] = field;
        value
    }

    #[test]
    fn a_manifest_is_read() {
        let ManifestDocument::Image(image) = parse(&manifest(), Some(OCI_MANIFEST)).unwrap() else { panic!() };
        assert_eq!(image.layers[0].compression, LayerCompression::Gzip);
        assert_eq!(image.compressed_size(), 1);
        let docker = json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": blob(DOCKER_CONFIG),
            "layers": [blob(DOCKER_LAYER_GZIP), blob(DOCKER_LAYER)]});
        let ManifestDocument::Image(image) = parse(&docker, Some("application/json")).unwrap() else { panic!() };
        assert_eq!(image.layers[1].compression, LayerCompression::None);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let both = with(manifest(), "manifests", json!([]));
        assert!(matches!(parse(&both, None), Err(ManifestError::Ambiguous { .. })));
        assert!(matches!(parse(&manifest(), Some(OCI_INDEX)), Err(ManifestError::Ambiguous { .. })));
        let wrong_name = with(manifest(), "mediaType", json!(OCI_INDEX));
        assert!(matches!(parse(&wrong_name, None), Err(ManifestError::Ambiguous { .. })));
        let neither = json!({"schemaVersion": 2});
        assert!(matches!(parse(&neither, None), Err(ManifestError::Ambiguous { .. })));
        let odd = with(manifest(), "mediaType", json!("text/plain"));
        assert!(matches!(parse(&odd, None), Err(ManifestError::UnknownMediaType { .. })));
        for no_name in ["5", "[]", "{\"a\":1}"] {
            let odd = with(manifest(), "mediaType", serde_json::from_str(no_name).unwrap());
            let error = parse(&odd, None).unwrap_err();
            assert!(matches!(&error, ManifestError::UnknownMediaType { found } if found == no_name), "{error}");
        }
    }

    #[test]
    fn layers_say_how_they_are_compressed() {
        use crate::media_type::{DOCKER_LAYER_ZSTD, OCI_LAYER_GZIP, OCI_LAYER_ZSTD};
        for (media_type, expected) in [
            (OCI_LAYER, LayerCompression::None),
            (OCI_LAYER_GZIP, LayerCompression::Gzip),
            (OCI_LAYER_ZSTD, LayerCompression::Zstd),
            (DOCKER_LAYER_ZSTD, LayerCompression::Zstd),
        ] {
            let value = with(manifest(), "layers", json!([blob(media_type)]));
            let ManifestDocument::Image(parsed) = parse(&value, None).unwrap() else { panic!("{media_type}") };
            assert_eq!(parsed.layers[0].compression, expected, "{media_type}");
        }
    }

    #[test]
    fn each_rule_has_its_own_error() {
        let one = with(manifest(), "schemaVersion", json!(1));
        assert!(matches!(parse(&one, None), Err(ManifestError::SchemaVersion { found }) if found == "1"));
        let artifact = with(manifest(), "config", blob("application/vnd.oci.empty.v1+json"));
        assert!(matches!(parse(&artifact, None), Err(ManifestError::Artifact { .. })));
        let empty = with(manifest(), "layers", json!([]));
        assert!(matches!(parse(&empty, None), Err(ManifestError::LayerCount { found: 0 })));
        let many = with(manifest(), "layers", Value::Array(vec![blob(OCI_LAYER); LAYERS_MAX + 1]));
        assert!(matches!(parse(&many, None), Err(ManifestError::LayerCount { .. })));
        for layer in [
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "x/y",
            "application/vnd.oci.image.layer.v1.tar+encrypted",
        ] {
            let value = with(manifest(), "layers", json!([blob(OCI_LAYER), blob(layer)]));
            assert!(matches!(parse(&value, None), Err(ManifestError::Layer { number: 2, .. })), "{layer}");
        }
        let mut path = manifest();
        path["layers"][0]["digest"] = json!("sha256:../../etc/passwd");
        assert!(matches!(parse(&path, None), Err(ManifestError::Digest { .. })));
        assert!(matches!(ManifestDocument::parse(b"{", None), Err(ManifestError::Json { .. })));
        let deep = [vec![b'['; 5000], vec![b']'; 5000]].concat();
        assert!(matches!(ManifestDocument::parse(&deep, None), Err(ManifestError::Json { .. })));
        let large = vec![b' '; MANIFEST_MAX as usize + 1];
        assert!(matches!(ManifestDocument::parse(&large, None), Err(ManifestError::TooLarge { .. })));
        let negative = manifest().to_string().replace("\"size\":1", "\"size\":-1");
        assert!(matches!(ManifestDocument::parse(negative.as_bytes(), None), Err(ManifestError::Json { .. })));
    }

    fn entry(text: &str, platform: Option<(&str, &str)>) -> Value {
        let mut value = blob(OCI_MANIFEST);
        value["digest"] = json!(BlobDigest::of(text.as_bytes()).to_string());
        if let Some((os, architecture)) = platform {
            value["platform"] = json!({"os": os, "architecture": architecture});
        }
        value
    }

    fn index(entries: &[Value]) -> ImageIndex {
        let value = json!({"schemaVersion": 2, "manifests": entries});
        let ManifestDocument::Index(index) = parse(&value, None).unwrap() else { panic!() };
        index
    }

    #[test]
    fn the_platform_decides() {
        let index = index(&[
            entry("attestation", Some(("unknown", "unknown"))),
            entry("arm", Some(("linux", "arm64"))),
            entry("pc", Some(("linux", "x86_64"))),
            entry("pc again", Some(("linux", "amd64"))),
        ]);
        let picked = index.select(&Platform::new("linux", "amd64", None)).unwrap();
        assert_eq!(picked.digest, BlobDigest::of(b"pc"));
        let error = index.select(&Platform::new("linux", "s390x", None)).unwrap_err();
        assert!(error.to_string().contains("linux/s390x"), "{error}");
        assert!(error.to_string().ends_with("linux/amd64, linux/arm64"), "{error}");
    }

    #[test]
    fn a_manifest_is_recorded_under_a_type_of_manifests() {
        let nameless = with(manifest(), "mediaType", Value::Null);
        for (document, header, expected) in [
            (manifest(), Some("text/plain"), OCI_MANIFEST),
            (with(manifest(), "mediaType", json!(DOCKER_MANIFEST)), Some(OCI_MANIFEST), DOCKER_MANIFEST),
            (
                nameless.clone(),
                Some("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"),
                DOCKER_MANIFEST,
            ),
            (nameless.clone(), Some("text/plain\u{1b}[2J"), OCI_MANIFEST),
            (nameless, None, OCI_MANIFEST),
        ] {
            let ManifestDocument::Image(image) = parse(&document, header).unwrap() else { panic!() };
            assert_eq!(image.media_type, expected, "{header:?}");
        }
    }

    #[test]
    fn errors_are_short_and_move_no_cursor() {
        let long = format!("\u{1b}[2J{}", "x".repeat(1 << 20));
        let mut layer = manifest();
        layer["layers"][0]["mediaType"] = json!(long);
        let mut size = manifest();
        size["layers"][0]["size"] = json!(long);
        for document in [
            with(manifest(), "schemaVersion", json!(long)),
            with(manifest(), "mediaType", json!(long)),
            with(manifest(), "mediaType", json!([long])),
            with(manifest(), "mediaType", json!(format!("{OCI_INDEX};{long}"))),
            with(manifest(), "config", blob(&long)),
            layer,
            size,
        ] {
            let error = parse(&document, None).unwrap_err().to_string();
            assert!(error.len() < 1500 && !error.contains('\u{1b}'), "{} bytes: {error}", error.len());
        }
        let odd = with(entry("x", None), "platform", json!({"os": "linux", "architecture": long}));
        let error = index(&[odd]).select(&Platform::host()).unwrap_err().to_string();
        assert!(error.len() < 1500 && !error.contains('\u{1b}'), "{} bytes: {error}", error.len());
        let many: Vec<Value> =
            (0..1000).map(|number| entry("x", Some(("linux", format!("a{number}").as_str())))).collect();
        let error = index(&many).select(&Platform::host()).unwrap_err().to_string();
        assert!(error.len() < 600, "{error}");
    }

    #[test]
    fn an_entry_that_cannot_be_read_keeps_nobody_from_another() {
        let odd_platform =
            with(entry("x", None), "platform", json!({"os": "linux", "architecture": "rva22 (preview)"}));
        let odd_digest = with(entry("x", Some(("linux", "arm64"))), "digest", json!("sha512:00"));
        let index = index(&[odd_platform, odd_digest, entry("pc", Some(("linux", "amd64")))]);
        let picked = index.select(&Platform::new("linux", "amd64", None)).unwrap();
        assert_eq!(picked.digest, BlobDigest::of(b"pc"));
        let error = index.select(&Platform::new("linux", "arm64", None)).unwrap_err();
        assert!(matches!(&error, ManifestError::Platform { what, .. } if what == "manifest 1 of the index"), "{error}");
    }

    #[test]
    fn an_index_of_one_image_needs_no_platform() {
        let host = Platform::host();
        assert!(index(&[entry("only", None)]).select(&host).is_ok());
        assert!(index(&[entry("one", None), entry("two", None)]).select(&host).is_err());
        assert!(index(&[]).select(&host).is_err());
        let attested = index(&[entry("attestation", Some(("unknown", "unknown"))), entry("only", None)]);
        assert_eq!(attested.select(&host).unwrap().digest, BlobDigest::of(b"only"));
    }
}
