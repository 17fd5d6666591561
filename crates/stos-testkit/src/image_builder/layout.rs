// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images in an OCI image layout on disk (image-spec, image-layout.md).

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::{Blob, Image, to_json};

impl Image {
    /// Adds the image under `tag` to the layout in `directory`, which is made where it is missing.
    ///
    /// # Errors
    /// What the file system says; an `index.json` that is no index.
    pub fn write_layout(&self, directory: &Path, tag: &str) -> io::Result<()> {
        for blob in self.blobs().chain([&self.manifest]) {
            store(directory, blob)?;
        }
        add_reference(directory, self.manifest.descriptor(), tag)
    }

    /// Adds an index over `images` under `tag`, and the images themselves.
    ///
    /// # Errors
    /// As [`Image::write_layout`].
    pub fn write_index_layout(index: &Blob, images: &[&Image], directory: &Path, tag: &str) -> io::Result<()> {
        for blob in images.iter().flat_map(|image| image.blobs().chain([&image.manifest])).chain([index]) {
            store(directory, blob)?;
        }
        add_reference(directory, index.descriptor(), tag)
    }
}

/// Writes a blob under the digest that it claims, which a fault may have made wrong.
fn store(directory: &Path, blob: &Blob) -> io::Result<()> {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let name = blob.digest.trim_start_matches("sha256:");
    blob.bytes.as_ref().map_or(Ok(()), |bytes| fs::write(blobs.join(name), bytes))
}

fn add_reference(directory: &Path, mut descriptor: Value, tag: &str) -> io::Result<()> {
    fs::write(directory.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let path = directory.join("index.json");
    let mut index: Value = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => json!({ "schemaVersion": 2, "manifests": [] }),
        Err(error) => return Err(error),
    };
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
    let manifests = index["manifests"].as_array_mut().ok_or(io::ErrorKind::InvalidData)?;
    manifests.retain(|other| other["annotations"]["org.opencontainers.image.ref.name"] != tag);
    manifests.push(descriptor);
    fs::write(path, to_json(&index))
}
