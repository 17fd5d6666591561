// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The media types that stos knows, and what each means.

use serde::{Deserialize, Serialize};

/// How a layer's tar is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerCompression {
    /// Not at all.
    None,
    /// gzip (RFC 1952), of one member or several.
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
}

impl LayerCompression {
    /// Gives OCI's media type of a layer that is compressed so.
    pub fn oci_layer(self) -> &'static str {
        match self {
            Self::None => OCI_LAYER,
            Self::Gzip => OCI_LAYER_GZIP,
            Self::Zstd => OCI_LAYER_ZSTD,
        }
    }
}

/// What a media type says that a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MediaType {
    /// A manifest of one image: OCI's, or Docker's version 2 schema 2.
    ImageManifest,
    /// An OCI index or a Docker manifest list.
    ImageIndex,
    /// A Docker manifest of schema 1, which proves nothing about its layers.
    SchemaOne,
    /// The configuration of an image.
    ImageConfig,
    /// A layer.
    Layer(LayerCompression),
    /// A layer that registries do not carry (`nondistributable`, `foreign`).
    ForeignLayer,
    /// A layer that needs a key.
    EncryptedLayer,
    /// Anything else.
    Unknown,
}

/// OCI's image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI's image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI's image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI's plain layer.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI's gzip layer.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI's zstd layer.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Docker's image manifest, version 2 schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker's plain layer.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker's gzip layer.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker's zstd layer, as BuildKit writes it.
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// The manifest types that a pull asks for, in the order of preference (an `Accept` header's words).
pub const ACCEPTED_MANIFESTS: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

impl MediaType {
    /// Reads a media type; parameters after a `;` do not count.
    pub fn of(text: &str) -> Self {
        let text = essence(text);
        match text {
            OCI_MANIFEST | DOCKER_MANIFEST => Self::ImageManifest,
            OCI_INDEX | DOCKER_LIST => Self::ImageIndex,
            OCI_CONFIG | DOCKER_CONFIG => Self::ImageConfig,
            OCI_LAYER | DOCKER_LAYER => Self::Layer(LayerCompression::None),
            OCI_LAYER_GZIP | DOCKER_LAYER_GZIP => Self::Layer(LayerCompression::Gzip),
            OCI_LAYER_ZSTD | DOCKER_LAYER_ZSTD => Self::Layer(LayerCompression::Zstd),
            "application/vnd.docker.distribution.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v1+prettyjws" => Self::SchemaOne,
            _ if text.ends_with("+encrypted") => Self::EncryptedLayer,
            _ if text.starts_with("application/vnd.oci.image.layer.nondistributable.")
                || text.starts_with("application/vnd.docker.image.rootfs.foreign.") =>
            {
                Self::ForeignLayer
            }
            _ => Self::Unknown,
        }
    }
}

/// Gives a media type without its parameters.
pub fn essence(text: &str) -> &str {
    text.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_told_apart() {
        for (text, expected) in [
            (OCI_MANIFEST, MediaType::ImageManifest),
            ("application/vnd.oci.image.manifest.v1+json; charset=utf-8", MediaType::ImageManifest),
            (DOCKER_LIST, MediaType::ImageIndex),
            (OCI_LAYER_GZIP, MediaType::Layer(LayerCompression::Gzip)),
            (DOCKER_LAYER, MediaType::Layer(LayerCompression::None)),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", MediaType::EncryptedLayer),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", MediaType::ForeignLayer),
            ("application/vnd.docker.distribution.manifest.v1+prettyjws", MediaType::SchemaOne),
            ("application/vnd.oci.empty.v1+json", MediaType::Unknown),
        ] {
            assert_eq!(MediaType::of(text), expected, "{text}");
        }
    }
}
