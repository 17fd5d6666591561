// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The images that only the benchmark uses, made once, in the registry of the cache beside the real ones.
//!
//! ```text
//! deb:12-zstd, sci:2-zstd, many:100-zstd   the real ones, each layer compressed with zstd (level 3, as others do)
//! wide:8, wide:8-zstd                      the second layer of sci:2, 1 GB, cut into eight layers
//! chain:1 … chain:300                      a small root and so many layers in all, a file in each
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;
use serde_json::Value;
use stos_testkit::docker_registry::DockerRegistry;
use stos_testkit::environment;
use stos_testkit::image_builder::{Blob, Image, ImageBuilder, Layer, push_blob, push_manifest};
use stos_testkit::tar_builder::{Entry, TarBuilder};

use crate::process::step;
use crate::small_images;

/// How many layers the chains have.
pub const CHAINS: [usize; 4] = [1, 10, 100, 300];
/// Into how many layers the wide image is cut.
const WIDTH: usize = 8;
/// What `skopeo copy --dest-compress-format zstd` and the engines take.
const LEVEL: i32 = 3;
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// A manifest, as far as it is used here.
#[derive(Debug, Deserialize)]
pub struct Manifest {
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// A blob's name.
#[derive(Debug, Clone, Deserialize)]
pub struct Descriptor {
    /// `sha256:` and 64 hex digits.
    pub digest: String,
    /// In bytes.
    pub size: u64,
    /// What the bytes are.
    #[serde(rename = "mediaType")]
    pub media_type: String,
}

/// Makes what is missing.
pub fn ensure() -> anyhow::Result<()> {
    let missing = |name: &str| environment::image_digest(name).is_none();
    let zstd = ["deb:12", "sci:2", "many:100"].map(|image| (image, format!("{image}-zstd")));
    let chains = CHAINS.map(|count| (count, format!("chain:{count}")));
    let names = zstd.iter().map(|(_, name)| name.as_str()).chain(chains.iter().map(|(_, name)| name.as_str()));
    if !names.chain(["wide:8", "wide:8-zstd"]).any(missing) {
        return Ok(());
    }
    let registry = DockerRegistry::start(&environment::registry_storage()).context("starting docker-registry")?;
    for (image, name) in &zstd {
        if missing(name) {
            step(&format!("making the image {name}"), || recompress(&registry, image, name))?;
        }
    }
    if missing("wide:8") || missing("wide:8-zstd") {
        step("making the image wide:8", || make_wide(&registry))?;
    }
    for (count, name) in &chains {
        if missing(name) {
            step(&format!("making the image {name}"), || make_chain(&registry, *count, name))?;
        }
    }
    Ok(())
}

/// The manifest of an image in the registry of the cache.
pub fn manifest(image: &str) -> anyhow::Result<Manifest> {
    Ok(serde_json::from_value(manifest_value(image)?)?)
}

/// Where the registry of the cache has a blob.
pub fn blob(digest: &str) -> PathBuf {
    let hex = digest.trim_start_matches("sha256:");
    let blobs = environment::registry_storage().join("docker/registry/v2/blobs/sha256");
    blobs.join(hex.get(..2).unwrap_or_default()).join(hex).join("data")
}

/// Opens the tar of a layer whose blob is a file.
pub fn open_layer(path: &Path, media_type: &str) -> anyhow::Result<Box<dyn Read>> {
    let blob = File::open(path).with_context(|| path.display().to_string())?;
    inflate(BufReader::with_capacity(1 << 18, blob), media_type)
}

/// Inflates a layer's blob.
pub fn inflate<'a>(blob: impl BufRead + 'a, media_type: &str) -> anyhow::Result<Box<dyn Read + 'a>> {
    Ok(match media_type {
        zstd if zstd.ends_with("zstd") => Box::new(zstd::Decoder::with_buffer(blob)?),
        gzip if gzip.ends_with("gzip") => Box::new(MultiGzDecoder::new(blob)),
        _ => Box::new(blob),
    })
}

fn manifest_value(image: &str) -> anyhow::Result<Value> {
    let digest = environment::image_digest(image).with_context(|| format!("the image {image} is not there"))?;
    let path = blob(&digest);
    serde_json::from_slice(&fs::read(&path).with_context(|| path.display().to_string())?).context("reading a manifest")
}

fn tar_of(layer: &Descriptor) -> anyhow::Result<Vec<u8>> {
    let mut tar = Vec::new();
    open_layer(&blob(&layer.digest), &layer.media_type)?.read_to_end(&mut tar)?;
    Ok(tar)
}

/// The same image with its layers compressed by zstd.
fn recompress(registry: &DockerRegistry, image: &str, name: &str) -> anyhow::Result<()> {
    let mut value = manifest_value(image)?;
    let (repository, tag) = name.split_once(':').context("an image's name")?;
    let config = value["config"]["digest"].as_str().context("a config's digest")?.to_owned();
    let config = Blob::new(value["config"]["mediaType"].as_str().unwrap_or_default(), fs::read(blob(&config))?);
    push_blob(registry.address(), repository, &config)?;
    let layers: Vec<Descriptor> = serde_json::from_value(value["layers"].clone())?;
    let mut sent = Vec::new();
    for layer in &layers {
        let layer = Blob::new(ZSTD, zstd::encode_all(&*tar_of(layer)?, LEVEL)?);
        push_blob(registry.address(), repository, &layer)?;
        sent.push(layer.descriptor());
    }
    value["layers"] = sent.into();
    let media_type = value["mediaType"].as_str().unwrap_or("application/vnd.oci.image.manifest.v1+json").to_owned();
    let manifest = Blob::new(media_type, serde_json::to_vec(&value)?);
    push_manifest(registry.address(), repository, tag, &manifest)?;
    mark(name, &manifest.digest)
}

fn make_wide(registry: &DockerRegistry) -> anyhow::Result<()> {
    let layers = manifest("sci:2")?.layers;
    let tar = tar_of(layers.get(1).context("sci:2 has a second layer")?)?;
    let parts = cut(&tar, WIDTH)?;
    drop(tar);
    let (mut gzip, mut zstd) = (ImageBuilder::new(), ImageBuilder::new());
    for part in parts {
        let stored = zstd::encode_all(&*part, LEVEL)?;
        zstd = zstd.layer(Layer::plain(part.clone()).stored_as(stored).media_type(ZSTD));
        gzip = gzip.layer(Layer::gzip(part));
    }
    publish(registry, &gzip.build(), "wide:8")?;
    publish(registry, &zstd.build(), "wide:8-zstd")
}

fn make_chain(registry: &DockerRegistry, count: usize, name: &str) -> anyhow::Result<()> {
    let mut builder = ImageBuilder::new().command(&["/bin/sh"]).layer(small_images::base()?);
    for number in 1..count {
        let file = Entry::file(format!("layers/{number}"), format!("{number}\n"));
        // podman takes a directory that a layer only implies for damage.
        builder = builder.layer(Layer::gzip(TarBuilder::new().entry(Entry::directory("layers")).entry(file).finish()));
    }
    publish(registry, &builder.build(), name)
}

fn publish(registry: &DockerRegistry, image: &Image, name: &str) -> anyhow::Result<()> {
    let (repository, tag) = name.split_once(':').context("an image's name")?;
    image.push(registry.address(), repository, tag)?;
    mark(name, &image.manifest.digest)
}

/// Says that an image is whole.
fn mark(name: &str, digest: &str) -> anyhow::Result<()> {
    let path = environment::cache().join("images").join(format!("{}.digest", environment::layout_tag(name)));
    let staged = path.with_extension("staged");
    fs::write(&staged, format!("{digest}\n"))?;
    fs::rename(staged, path).map_err(Into::into)
}

/// Cuts a tar into so many, in its order, each with the directories that its entries stand in; hard links stay with their targets.
fn cut(tar: &[u8], parts: usize) -> anyhow::Result<Vec<Vec<u8>>> {
    let goal = tar.len().div_ceil(parts);
    let mut cut = vec![Vec::new(); parts];
    let mut directories = BTreeMap::<PathBuf, &[u8]>::new();
    let (mut homes, mut made) = (BTreeMap::<PathBuf, usize>::new(), BTreeSet::<(usize, PathBuf)>::new());
    let (mut current, mut begin) = (0, 0);
    for entry in tar::Archive::new(tar).entries()? {
        let entry = entry?;
        let path = entry.path()?.components().collect::<PathBuf>();
        let end = usize::try_from(entry.raw_file_position() + entry.size().next_multiple_of(512))?;
        // With the headers before it that belong to it.
        let bytes = tar.get(begin..end).context("a tar that ends within an entry")?;
        begin = end;
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            directories.insert(path, bytes);
            continue;
        }
        if cut[current].len() >= goal && current + 1 < parts {
            current += 1;
        }
        let target = entry.link_name()?.filter(|_| kind.is_hard_link());
        let home = target.and_then(|target| homes.get(&*target.components().collect::<PathBuf>()).copied());
        let home = home.unwrap_or(current);
        let parents = path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty());
        for parent in parents.collect::<Vec<_>>().into_iter().rev() {
            if made.insert((home, parent.to_owned()))
                && let Some(bytes) = directories.get(parent)
            {
                cut[home].extend_from_slice(bytes);
            }
        }
        cut[home].extend_from_slice(bytes);
        homes.insert(path, home);
    }
    for part in &mut cut {
        part.extend_from_slice(&[0; 1024]);
    }
    Ok(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(tar: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(tar);
        archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn a_tar_is_cut_between_entries_and_links_stay_with_their_targets() {
        let long = "x".repeat(120);
        let mut tar = TarBuilder::new().entry(Entry::directory("d")).entry(Entry::directory("d/e"));
        for number in 0..8 {
            tar.push(&Entry::file(format!("d/e/{number}"), vec![number; 65_536]));
        }
        let tar = tar.entry(Entry::hard_link("d/first", "d/e/0")).entry(Entry::file(format!("d/{long}"), "x")).finish();
        let parts = cut(&tar, 3).unwrap();
        let names: Vec<_> = parts.iter().map(|part| names(part)).collect();
        let has = |names: &[String], directory: &str| names.iter().any(|name| name.trim_end_matches('/') == directory);
        for part in &names {
            let is_below = part.iter().any(|name| name.starts_with("d/e/") && !name.ends_with('/'));
            assert!(has(part, "d") && has(part, "d/e") == is_below, "{part:?}");
        }
        assert!(names[0].contains(&"d/e/0".to_owned()) && names[0].contains(&"d/first".to_owned()), "{names:?}");
        assert!(names[2].contains(&format!("d/{long}")), "{names:?}");
        let is_file = |name: &&String| !["d", "d/e"].contains(&name.trim_end_matches('/'));
        let files = names.iter().flatten().filter(is_file).count();
        assert_eq!(files, 10);
    }

    #[test]
    fn a_blob_has_its_place() {
        let digest = stos_testkit::image_builder::digest(b"");
        assert!(blob(&digest).ends_with(format!("sha256/e3/{}/data", &digest[7..])));
        assert!(manifest("no:image").is_err());
    }
}
