// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images of two layers, small enough to be pulled hundreds of times: this machine's shell, and above it files of all kinds.

use stos_testkit::image_builder::{Image, ImageBuilder, Layer};
use stos_testkit::registry::Registry;
use stos_testkit::rootfs;
use stos_testkit::tar_builder::{Entry, TarBuilder};

/// The lower layer, which all of them share.
pub fn base() -> anyhow::Result<Layer> {
    Ok(Layer::gzip(rootfs::host_programs(&["cat", "echo", "ls", "rm", "sleep", "stat", "test", "true", "wc"])?))
}

/// An image of the base and a layer with `/srv/marker`, which has a text, links, a larger file, and a whiteout.
pub fn image(base: &Layer, text: &str) -> Image {
    let tar = TarBuilder::new()
        .entry(Entry::directory("srv"))
        .entry(Entry::file("srv/marker", text).owner(1000, 1000))
        .entry(Entry::file("srv/data", vec![7_u8; 300_000]))
        .entry(Entry::hard_link("srv/link", "srv/data"))
        .entry(Entry::symlink("srv/symlink", "marker"))
        // podman takes a directory that a layer only implies for damage.
        .entry(Entry::directory("etc"))
        .whiteout("etc/passwd");
    ImageBuilder::new().layer(base.clone()).layer(Layer::gzip(tar.finish())).command(&["/bin/sh"]).build()
}

/// Puts an image into a registry, and gives its name there.
pub fn publish(registry: &Registry, name: &str, image: &Image) -> String {
    for blob in image.blobs() {
        registry.put_blob(blob.bytes.clone().unwrap_or_default());
    }
    let manifest = image.manifest.bytes.clone().unwrap_or_default();
    registry.put_manifest(name, Some("1"), &image.manifest.media_type, &manifest);
    format!("{}/{name}:1", registry.address())
}
