// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Builds images: layers, config, manifest, index; in OCI and in Docker v2s2 media types; correct, or with one fault.
//!
//! An [`Image`] is plain bytes. It goes into an OCI image layout ([`Image::write_layout`]), over HTTP into a registry
//! ([`Image::push`]), or blob by blob into a hostile one ([`Image::blobs`]).
//!
//! ```
//! use stos_testkit::image_builder::{ImageBuilder, Layer};
//! use stos_testkit::tar_builder::{Entry, TarBuilder};
//! let tar = TarBuilder::new().entry(Entry::file("hello", "hi")).finish();
//! let image = ImageBuilder::new().layer(Layer::gzip(tar)).entrypoint(&["/bin/sh"]).user("1000:1000").build();
//! assert!(image.manifest.digest.starts_with("sha256:"));
//! ```

mod http;
mod layout;

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub use http::{PushError, push_blob, push_manifest};

/// Which family of media types the image speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// `application/vnd.oci.image.*`.
    #[default]
    Oci,
    /// `application/vnd.docker.*`, manifest schema 2.
    Docker,
}

impl Dialect {
    /// The media type of a manifest.
    pub fn manifest(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    /// The media type of an index or a manifest list.
    pub fn index(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.index.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    /// The media type of a config.
    pub fn config(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.config.v1+json",
            Self::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    /// The media type of a layer, gzip or plain.
    pub fn layer(self, gzip: bool) -> &'static str {
        match (self, gzip) {
            (Self::Oci, true) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Self::Oci, false) => "application/vnd.oci.image.layer.v1.tar",
            (Self::Docker, true) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            (Self::Docker, false) => "application/vnd.docker.image.rootfs.diff.tar",
        }
    }
}

/// One layer: its tar, and the bytes that a registry would store for it.
#[derive(Clone, Debug)]
pub struct Layer {
    tar: Vec<u8>,
    stored: Vec<u8>,
    gzip: bool,
    media_type: Option<String>,
}

impl Layer {
    /// A layer stored as the tar itself.
    pub fn plain(tar: Vec<u8>) -> Self {
        Self { stored: tar.clone(), tar, gzip: false, media_type: None }
    }

    /// A layer stored as one gzip member; the same tar always gives the same bytes.
    pub fn gzip(tar: Vec<u8>) -> Self {
        Self { stored: gzip(&tar), tar, gzip: true, media_type: None }
    }

    /// A layer stored as several gzip members, each of at most `size` bytes of tar (RFC 1952 §2.2 allows it).
    pub fn gzip_members(tar: Vec<u8>, size: usize) -> Self {
        Self { stored: tar.chunks(size).flat_map(gzip).collect(), tar, gzip: true, media_type: None }
    }

    /// Keeps the tar and its diffID, but stores these bytes for it: garbage after gzip, a gzip of something else.
    #[must_use]
    pub fn stored_as(self, stored: Vec<u8>) -> Self {
        Self { stored, ..self }
    }

    /// Declares this media type, whatever the bytes are.
    #[must_use]
    pub fn media_type(self, media_type: &str) -> Self {
        Self { media_type: Some(media_type.into()), ..self }
    }
}

/// One promise for the image to break. Everything else of it stays correct, so that a test finds the check it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A bit of the stored layer is flipped: its digest is not the manifest's, its size is.
    LayerBytes(usize),
    /// The stored layer lacks its second half.
    LayerTruncated(usize),
    /// The manifest gives the layer one byte too many.
    LayerSize(usize),
    /// The layer is not stored.
    LayerMissing(usize),
    /// The config gives the layer another diffID than its tar has.
    DiffId(usize),
    /// The config has one diffID more than there are layers.
    DiffIdExtra,
    /// The config has one diffID less than there are layers.
    DiffIdLost,
    /// A byte of the stored config is changed: its digest is not the manifest's, its size is.
    ConfigBytes,
    /// The manifest gives the config one byte too many.
    ConfigSize,
    /// A byte of the stored manifest is changed, while it is still named by the digest of the right one.
    ManifestBytes,
}

/// Bytes under the name by which others ask for them. With a [`Fault`] the bytes may not be what the digest says.
#[derive(Clone, Debug)]
pub struct Blob {
    /// The media type that the descriptor declares.
    pub media_type: String,
    /// The digest that the descriptor declares, `sha256:` and 64 hex digits.
    pub digest: String,
    /// The size that the descriptor declares.
    pub size: u64,
    /// The bytes that are stored; `None` where the blob is missing.
    pub bytes: Option<Vec<u8>>,
}

impl Blob {
    /// An honest blob.
    pub fn new(media_type: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { media_type: media_type.into(), digest: digest(&bytes), size: bytes.len() as u64, bytes: Some(bytes) }
    }

    /// The OCI descriptor of this blob.
    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.size })
    }

    fn damage(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        change(self.bytes.as_mut().expect("a blob is damaged once"));
    }
}

/// An image in the making.
#[derive(Clone, Debug)]
pub struct ImageBuilder {
    dialect: Dialect,
    layers: Vec<Layer>,
    config: Value,
    fault: Option<Fault>,
}

impl Default for ImageBuilder {
    fn default() -> Self {
        let config = json!({
            "created": "2024-01-01T00:00:00Z", "os": "linux", "architecture": architecture(),
            "config": { "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] },
            "rootfs": { "type": "layers", "diff_ids": [] }, "history": []
        });
        Self { dialect: Dialect::Oci, layers: Vec::new(), config, fault: None }
    }
}

impl ImageBuilder {
    /// Starts an OCI image without layers, for Linux on this machine's architecture.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a layer on top.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Chooses the family of media types.
    #[must_use]
    pub fn dialect(self, dialect: Dialect) -> Self {
        Self { dialect, ..self }
    }

    /// Breaks one promise.
    #[must_use]
    pub fn fault(self, fault: Fault) -> Self {
        Self { fault: Some(fault), ..self }
    }

    /// Sets the entrypoint.
    #[must_use]
    pub fn entrypoint(self, arguments: &[&str]) -> Self {
        self.set("/config/Entrypoint", json!(arguments))
    }

    /// Sets the command.
    #[must_use]
    pub fn command(self, arguments: &[&str]) -> Self {
        self.set("/config/Cmd", json!(arguments))
    }

    /// Sets the user, in any form that `USER` of a Dockerfile takes.
    #[must_use]
    pub fn user(self, user: &str) -> Self {
        self.set("/config/User", json!(user))
    }

    /// Sets the working directory.
    #[must_use]
    pub fn working_dir(self, directory: &str) -> Self {
        self.set("/config/WorkingDir", json!(directory))
    }

    /// Sets the whole environment.
    #[must_use]
    pub fn environment(self, variables: &[&str]) -> Self {
        self.set("/config/Env", json!(variables))
    }

    /// Sets operating system and architecture, and a variant where it is not empty.
    #[must_use]
    pub fn platform(self, os: &str, architecture: &str, variant: &str) -> Self {
        let image = self.set("/os", json!(os)).set("/architecture", json!(architecture));
        if variant.is_empty() { image } else { image.set("/variant", json!(variant)) }
    }

    /// Sets any member of the config by its JSON pointer; what is missing on the way is made.
    ///
    /// # Panics
    /// Where the pointer goes through something that is no object.
    #[must_use]
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        let mut place = &mut self.config;
        for key in pointer.trim_start_matches('/').split('/') {
            let object = place.as_object_mut().expect("a pointer goes through objects");
            place = object.entry(key).or_insert_with(|| json!({}));
        }
        *place = value;
        self
    }

    /// Gives the image. The same builder always gives the same bytes.
    pub fn build(&self) -> Image {
        let mut layers: Vec<Blob> = self.layers.iter().map(|layer| self.layer_blob(layer)).collect();
        let mut config = Blob::new(self.dialect.config(), to_json(&self.config_document()));
        match self.fault {
            Some(Fault::LayerSize(at)) => layers[at].size += 1,
            Some(Fault::ConfigSize) => config.size += 1,
            _ => {}
        }
        let document = json!({
            "schemaVersion": 2, "mediaType": self.dialect.manifest(), "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>()
        });
        let mut manifest = Blob::new(self.dialect.manifest(), to_json(&document));
        match self.fault {
            Some(Fault::LayerBytes(at)) => layers[at].damage(|bytes| flip_middle_bit(bytes)),
            Some(Fault::LayerTruncated(at)) => layers[at].damage(|bytes| bytes.truncate(bytes.len() / 2)),
            Some(Fault::LayerMissing(at)) => layers[at].bytes = None,
            Some(Fault::ConfigBytes) => config.damage(|bytes| rename_author(bytes)),
            Some(Fault::ManifestBytes) => manifest.damage(|bytes| bytes.extend_from_slice(b"\n")),
            _ => {}
        }
        let diff_ids = self.layers.iter().map(|layer| digest(&layer.tar)).collect();
        Image { dialect: self.dialect, manifest, config, layers, diff_ids, platform: self.platform_of() }
    }

    fn layer_blob(&self, layer: &Layer) -> Blob {
        let media_type = layer.media_type.clone().unwrap_or_else(|| self.dialect.layer(layer.gzip).into());
        Blob::new(media_type, layer.stored.clone())
    }

    fn config_document(&self) -> Value {
        let mut diff_ids: Vec<String> = self.layers.iter().map(|layer| digest(&layer.tar)).collect();
        match self.fault {
            Some(Fault::DiffId(at)) => diff_ids[at] = digest(b"another tar"),
            Some(Fault::DiffIdExtra) => diff_ids.push(digest(b"one more tar")),
            Some(Fault::DiffIdLost) => drop(diff_ids.pop()),
            _ => {}
        }
        let mut config = self.config.clone();
        let history = diff_ids.iter().map(|_| json!({ "created_by": "stos-testkit" })).collect::<Vec<_>>();
        // Only what `set` has not already filled: a test may want a rootfs or a history of its own.
        if config["rootfs"]["diff_ids"].as_array().is_some_and(Vec::is_empty) {
            config["rootfs"]["diff_ids"] = json!(diff_ids);
        }
        if config["history"].as_array().is_some_and(Vec::is_empty) {
            config["history"] = json!(history);
        }
        config
    }

    fn platform_of(&self) -> Value {
        let mut platform = json!({ "os": self.config["os"], "architecture": self.config["architecture"] });
        if let Some(variant) = self.config.get("variant") {
            platform["variant"] = variant.clone();
        }
        platform
    }
}

/// An image as bytes.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its family of media types.
    pub dialect: Dialect,
    /// The manifest; its digest is the image's name.
    pub manifest: Blob,
    /// The config; its digest is the image id.
    pub config: Blob,
    /// The layers, lowest first.
    pub layers: Vec<Blob>,
    /// The true diffIDs of the layers, whatever the config says.
    pub diff_ids: Vec<String>,
    platform: Value,
}

impl Image {
    /// Config and layers, without the manifest, in the order in which a client would push them.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().chain([&self.config])
    }

    /// The index (or manifest list) over several images, one for each platform. The index is only its own bytes: the
    /// images must be stored as well.
    pub fn index(dialect: Dialect, images: &[&Image]) -> Blob {
        let manifests: Vec<Value> = images
            .iter()
            .map(|image| {
                let mut descriptor = image.manifest.descriptor();
                descriptor["platform"] = image.platform.clone();
                descriptor
            })
            .collect();
        let document = json!({ "schemaVersion": 2, "mediaType": dialect.index(), "manifests": manifests });
        Blob::new(dialect.index(), to_json(&document))
    }
}

/// The digest of some bytes as the specifications write it.
pub fn digest(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// The architecture of this machine in GOARCH's words.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("a Vec takes every byte")
}

fn to_json(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a Value is JSON")
}

/// Flips one bit in the middle: past a gzip header, within the data.
fn flip_middle_bit(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
}

/// Changes a config to another one of the same length that is still valid JSON.
fn rename_author(bytes: &mut [u8]) {
    let at = bytes.windows(4).position(|four| four == b"2024").expect("every config has a date");
    bytes[at + 3] = b'5';
}

#[cfg(test)]
mod tests;
