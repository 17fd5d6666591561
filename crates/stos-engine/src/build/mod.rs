// SPDX-License-Identifier: Apache-2.0 OR MIT
//! New images: a configuration, changed, and one layer more.
//!
//! What is not ours to understand of a configuration (a health check, Docker's own fields) is kept word for word.

mod changes;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use stos_layerfs::Integrity;
use stos_spec::config::History;
use stos_spec::manifest::{Descriptor, LayerDescriptor};
use stos_spec::media_type::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use stos_spec::{BlobDigest, DiffId, ImageConfig, ImageRef, ManifestDocument, Platform, Verified};
use stos_store::ImageRecord;

use crate::Engine;
use crate::error::{Error, Result};
use crate::image::LoadedImage;

pub use changes::apply_changes;

/// An image configuration as JSON, to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigDocument(Map<String, Value>);

impl ConfigDocument {
    /// Makes a configuration without layers for `platform`; `created` is RFC 3339.
    pub fn new(platform: &Platform, created: &str) -> Self {
        let mut document = Map::new();
        document.insert("created".to_owned(), json!(created));
        document.insert("os".to_owned(), json!(platform.os));
        document.insert("architecture".to_owned(), json!(platform.architecture));
        document.extend(platform.variant.iter().map(|variant| ("variant".to_owned(), json!(variant))));
        document.insert("config".to_owned(), json!({}));
        document.insert("rootfs".to_owned(), json!({ "type": "layers", "diff_ids": [] }));
        Self(document)
    }

    /// Takes the configuration of an image, every field of it.
    pub fn of_image(image: &LoadedImage) -> Result<Self> {
        let digest = image.manifest.config.digest;
        let reason = |error: serde_json::Error| Error::Config {
            digest,
            source: stos_spec::ConfigError::Json { reason: stos_spec::text::shown(&error.to_string()) },
        };
        serde_json::from_slice(&image.config_bytes).map(Self).map_err(reason)
    }

    /// Says when the image was made (RFC 3339).
    pub fn set_created(&mut self, created: &str) {
        self.0.insert("created".to_owned(), json!(created));
    }

    /// Says who made it.
    pub fn set_author(&mut self, author: &str) {
        self.0.insert("author".to_owned(), json!(author));
    }

    /// Checks the rules that hold for every image, but for those about its layers.
    fn check(&self) -> std::result::Result<(), stos_spec::ConfigError> {
        ImageConfig::parse(Value::Object(self.0.clone()).to_string().as_bytes()).map(drop)
    }

    /// Gives what its containers run: the member `config`.
    pub(crate) fn process(&mut self) -> &mut Map<String, Value> {
        object_in(&mut self.0, "config")
    }
}

/// Gives the object `key` of a document, made anew where there is none.
fn object_in<'a>(document: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let entry = document.entry(key).or_insert(Value::Null);
    if !entry.is_object() {
        *entry = json!({});
    }
    match entry {
        Value::Object(object) => object,
        _ => unreachable!("it was made an object"),
    }
}

/// Gives the list `key` of a document, made anew where there is none.
fn list_in<'a>(document: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let entry = document.entry(key).or_insert(Value::Null);
    if !entry.is_array() {
        *entry = json!([]);
    }
    match entry {
        Value::Array(list) => list,
        _ => unreachable!("it was made a list"),
    }
}

/// A layer of the store on top of the others.
#[derive(Debug, Clone)]
pub struct TopLayer {
    /// Which.
    pub diff_id: DiffId,
    /// The bytes of its tar.
    pub size: u64,
    /// How it came to be.
    pub history: History,
}

/// The documents of a new image. Nothing of it is in the store yet.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// The configuration's bytes; their digest is the image ID.
    pub config_bytes: Verified<Vec<u8>>,
    /// The configuration.
    pub config: ImageConfig,
    /// The manifest's bytes.
    pub manifest_bytes: Verified<Vec<u8>>,
}

/// Puts a layer on top of an image, or of nothing: gives the new configuration and its manifest, which is OCI's.
///
/// The base's layers stay the blobs that they are; the new one is uncompressed, so its blob digest is its diffID. `config`
/// is the base's configuration, changed already.
///
/// # Errors
/// [`Error::Config`] where the new configuration breaks a rule: a change may have set what no image may have.
pub fn append_layer(base: Option<&LoadedImage>, mut config: ConfigDocument, top: TopLayer) -> Result<NewImage> {
    list_in(object_in(&mut config.0, "rootfs"), "diff_ids").push(json!(top.diff_id));
    list_in(&mut config.0, "history").push(json!(top.history));
    let mut layers: Vec<Descriptor> =
        base.map_or_else(Vec::new, |base| base.manifest.layers.iter().map(as_oci_layer).collect());
    layers.push(plain_layer(top.diff_id, top.size));
    let config_bytes = Verified::trust(Value::Object(config.0).to_string().into_bytes());
    NewImage::new(config_bytes, &layers)
}

/// Puts a new image into the store: its merged index and documents are durable, and it has its name, or nothing has changed
/// but for garbage that the next sweep takes.
///
/// Its layers are in the store, and the caller holds a lease. An image that had the name stays, without one.
pub fn store_new_image(engine: &Engine, image: &NewImage, reference: Option<ImageRef>) -> Result<ImageRecord> {
    engine.layerfs.ensure_sound_chain(&image.config.diff_ids, Integrity::Sealed)?;
    engine.store.put_blob(&image.config_bytes)?;
    engine.store.put_blob(&image.manifest_bytes)?;
    let size = image.manifest_bytes.get().len() as u64;
    let record = ImageRecord {
        reference,
        manifest: Descriptor {
            platform: Some(image.config.platform.clone()),
            ..Descriptor::new(OCI_MANIFEST, image.manifest_bytes.digest(), size)
        },
        image_id: image.config_bytes.digest(),
        index_digest: None,
        pulled: crate::container::now(),
    };
    engine.store.put_image(&record)?;
    Ok(record)
}

impl NewImage {
    fn new(config_bytes: Verified<Vec<u8>>, layers: &[Descriptor]) -> Result<Self> {
        let digest = config_bytes.digest();
        let config = ImageConfig::parse(config_bytes.get())
            .and_then(|config| config.check_layer_count(layers.len()).map(|()| config))
            .map_err(|source| Error::Config { digest, source })?;
        let manifest_bytes = oci_manifest(&config_bytes, layers)?;
        Ok(Self { config_bytes, config, manifest_bytes })
    }
}

/// Makes an OCI manifest. The same configuration and layers always give the same bytes.
pub(crate) fn oci_manifest(config: &Verified<Vec<u8>>, layers: &[Descriptor]) -> Result<Verified<Vec<u8>>> {
    let document = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor::new(OCI_CONFIG, config.digest(), config.get().len() as u64),
        "layers": layers,
    });
    let bytes = Verified::trust(document.to_string().into_bytes());
    // The rules of what is read hold for what is written: the count of layers above all.
    let digest = bytes.digest();
    ManifestDocument::parse(bytes.get(), Some(OCI_MANIFEST)).map_err(|source| Error::Manifest { digest, source })?;
    Ok(bytes)
}

/// Describes a layer by its own tar.
pub(crate) fn plain_layer(layer: DiffId, size: u64) -> Descriptor {
    Descriptor::new(OCI_LAYER, BlobDigest::from_bytes(*layer.as_bytes()), size)
}

/// Describes the same blob in OCI's words: a manifest speaks one dialect.
pub(crate) fn as_oci_layer(layer: &LayerDescriptor) -> Descriptor {
    let media_type = layer.compression.oci_layer().to_owned();
    Descriptor { media_type, annotations: BTreeMap::new(), ..layer.descriptor.clone() }
}

#[cfg(test)]
mod tests {
    use stos_spec::LayerCompression;
    use stos_spec::media_type::OCI_LAYER_GZIP;

    use super::*;

    fn top(text: &str) -> TopLayer {
        let history = History { created_by: Some(text.to_owned()), ..History::default() };
        TopLayer { diff_id: DiffId::of(text.as_bytes()), size: 1024, history }
    }

    fn first() -> NewImage {
        append_layer(None, ConfigDocument::new(&Platform::host(), "2024-01-01T00:00:00Z"), top("low")).unwrap()
    }

    fn manifest(image: &NewImage) -> stos_spec::ImageManifest {
        match ManifestDocument::parse(image.manifest_bytes.get(), None).unwrap() {
            ManifestDocument::Image(manifest) => manifest,
            ManifestDocument::Index(_) => panic!("an index"),
        }
    }

    #[test]
    fn an_image_of_one_layer_keeps_the_rules() {
        let image = first();
        let manifest = manifest(&image);
        assert_eq!(manifest.config.digest, image.config_bytes.digest());
        assert_eq!(manifest.layers[0].descriptor, plain_layer(DiffId::of(b"low"), 1024));
        assert_eq!(image.config.history[0].created_by.as_deref(), Some("low"));
        assert_eq!(image.config.platform, Platform::host());
        assert_eq!(first().manifest_bytes, image.manifest_bytes, "the same each time");
    }

    #[test]
    fn a_layer_goes_on_top_and_what_is_not_ours_stays() {
        let base = first();
        let mut document: Value = serde_json::from_slice(base.config_bytes.get()).unwrap();
        document["config"]["Healthcheck"] = json!({ "Test": ["NONE"] });
        document["history"] = Value::Null;
        let bytes = document.to_string().into_bytes();
        let mut manifest = manifest(&base);
        manifest.layers[0].descriptor.media_type = stos_spec::media_type::DOCKER_LAYER_GZIP.to_owned();
        manifest.layers[0].compression = LayerCompression::Gzip;
        let loaded = LoadedImage {
            record: stos_store::ImageRecord {
                reference: None,
                manifest: Descriptor::new(OCI_MANIFEST, BlobDigest::of(b""), 0),
                image_id: BlobDigest::of(&bytes),
                index_digest: None,
                pulled: String::new(),
            },
            manifest,
            config: ImageConfig::parse(&bytes).unwrap(),
            config_bytes: bytes,
        };
        let mut config = ConfigDocument::of_image(&loaded).unwrap();
        config.set_created("2025-01-01T00:00:00Z");
        config.set_author("somebody");
        let image = append_layer(Some(&loaded), config, top("high")).unwrap();
        let made: Value = serde_json::from_slice(image.config_bytes.get()).unwrap();
        assert_eq!(made["config"]["Healthcheck"], json!({ "Test": ["NONE"] }));
        assert_eq!((&made["author"], &made["created"]), (&json!("somebody"), &json!("2025-01-01T00:00:00Z")));
        assert_eq!(image.config.diff_ids, [DiffId::of(b"low"), DiffId::of(b"high")]);
        let types: Vec<_> =
            self::manifest(&image).layers.iter().map(|layer| layer.descriptor.media_type.clone()).collect();
        assert_eq!(types, [OCI_LAYER_GZIP, OCI_LAYER]);

        let mut bad = ConfigDocument::of_image(&loaded).unwrap();
        bad.process().insert("WorkingDir".to_owned(), json!("relative"));
        assert!(matches!(append_layer(Some(&loaded), bad, top("high")), Err(Error::Config { .. })));
        let lost = ConfigDocument::new(&Platform::host(), "2024-01-01T00:00:00Z");
        assert!(matches!(append_layer(Some(&loaded), lost, top("high")), Err(Error::Config { .. })), "another base's");
    }
}
