// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Manifests and indexes.

use serde_json::Value;
use stos_spec::manifest::{LAYERS_MAX, LayerDescriptor};
use stos_spec::{Descriptor, ImageIndex, ImageManifest, ManifestDocument, MediaType, Platform};

use crate::check_message;

/// What a registry may call the document.
const CONTENT_TYPES: [Option<&str>; 6] = [
    None,
    Some("application/vnd.oci.image.manifest.v1+json"),
    Some("application/vnd.oci.image.index.v1+json; charset=utf-8"),
    Some("application/vnd.docker.distribution.manifest.v2+json"),
    Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
    Some("application/json"),
];

/// Reads a manifest or an index: the first byte chooses its Content-Type.
///
/// What is accepted says what a plain JSON reader finds there, is of one kind alone, and keeps its rules: 1 to
/// [`LAYERS_MAX`] layers of known types, a configuration, digests in one form. An index gives one of its own entries, or says why none.
pub fn manifest(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let content_type = CONTENT_TYPES[usize::from(*choice) % CONTENT_TYPES.len()];
    let document = match ManifestDocument::parse(bytes, content_type) {
        Ok(document) => document,
        Err(error) => return check_message(&error),
    };
    let json: Value = serde_json::from_slice(bytes).unwrap();
    assert_eq!(json["schemaVersion"], 2);
    match document {
        ManifestDocument::Image(manifest) => image(&manifest, &json),
        ManifestDocument::Index(index) => check_index(&index, &json),
    }
}

fn image(manifest: &ImageManifest, json: &Value) {
    assert!(json["manifests"].is_null());
    assert_eq!(MediaType::of(&manifest.media_type), MediaType::ImageManifest);
    assert_eq!(MediaType::of(&manifest.config.media_type), MediaType::ImageConfig);
    check_descriptor(&manifest.config, &json["config"]);
    let layers = json["layers"].as_array().unwrap();
    assert!((1..=LAYERS_MAX).contains(&layers.len()) && layers.len() == manifest.layers.len());
    for (LayerDescriptor { descriptor, compression }, json) in manifest.layers.iter().zip(layers) {
        check_descriptor(descriptor, json);
        assert_eq!(MediaType::of(&descriptor.media_type), MediaType::Layer(*compression));
    }
    let sum: u128 = manifest.layers.iter().map(|layer| u128::from(layer.descriptor.size)).sum();
    assert_eq!(u128::from(manifest.compressed_size()), sum.min(u128::from(u64::MAX)));
}

fn check_index(index: &ImageIndex, json: &Value) {
    assert!(json["layers"].is_null() && json["config"].is_null());
    let entries = json["manifests"].as_array().unwrap();
    assert!(index.manifests.len() == entries.len() || index.unreadable.is_some());
    let read: Vec<_> = entries.iter().filter(|entry| index.manifests.iter().any(|read| is_of(read, entry))).collect();
    assert!(read.len() >= index.manifests.len());
    for architecture in ["amd64", "arm64", "arm", "s390x"] {
        let wanted = Platform::new("linux", architecture, None);
        match index.select(&wanted) {
            Ok(chosen) => {
                assert!(index.manifests.contains(chosen));
                assert!(chosen.platform.as_ref().is_none_or(|own| wanted.fit(own).is_some()));
            }
            Err(error) => check_message(&error),
        }
    }
}

fn is_of(descriptor: &Descriptor, json: &Value) -> bool {
    json["digest"] == descriptor.digest.to_string()
        && json["size"] == descriptor.size
        && json["mediaType"] == descriptor.media_type
}

fn check_descriptor(descriptor: &Descriptor, json: &Value) {
    assert!(is_of(descriptor, json), "{descriptor:?} of {json}");
}
