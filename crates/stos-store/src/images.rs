// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `images/index.json`: which images there are and what they are called. It is an OCI image layout's index.
//!
//! One entry is one image under one name; an image that lost its name to another keeps an entry without one, until it is
//! removed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use stos_spec::media_type::OCI_INDEX;
use stos_spec::text::cut;
use stos_spec::{BlobDigest, Descriptor, ImageRef};

use crate::error::{Error, Result};
use crate::files::{self, Durability};
use crate::store::Store;

/// The name of an image (image-spec, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What the annotations begin with that only our entries have.
const OWN_PREFIX: &str = "dev.stos.";
/// The image ID: the digest of its configuration.
const IMAGE_ID: &str = "dev.stos.image.id";
/// The digest of the index through which it was found.
const INDEX_DIGEST: &str = "dev.stos.index.digest";
/// When it was pulled (RFC 3339).
const PULLED: &str = "dev.stos.pulled";

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// Its name; `None` once another image has taken it.
    pub reference: Option<ImageRef>,
    /// Its manifest.
    pub manifest: Descriptor,
    /// Its ID: the digest of its configuration.
    pub image_id: BlobDigest,
    /// The index through which it was found, if there was one.
    pub index_digest: Option<BlobDigest>,
    /// When it was pulled (RFC 3339).
    pub pulled: String,
}

/// The file as it stands. What other tools wrote there (skopeo and umoci may) is kept word for word.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IndexFile {
    schema_version: u32,
    #[serde(default = "index_media_type")]
    media_type: String,
    /// `null` is what a tool of another language may write for none.
    #[serde(deserialize_with = "null_as_none")]
    manifests: Vec<Value>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

fn index_media_type() -> String {
    OCI_INDEX.to_owned()
}

fn null_as_none<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Vec<Value>, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

impl IndexFile {
    fn new() -> Self {
        Self { schema_version: 2, media_type: index_media_type(), manifests: Vec::new(), other: Map::new() }
    }

    /// Tells the entries apart.
    fn into_entries(self) -> Entries {
        let mut entries = Entries { own: Vec::new(), foreign: Vec::new(), damaged: Vec::new(), other: self.other };
        for entry in self.manifests {
            match ImageRecord::from_entry(&entry) {
                Ok(Some(image)) => entries.own.push(image),
                Ok(None) => entries.foreign.push(entry),
                Err(reason) => entries.damaged.push((entry, reason)),
            }
        }
        entries
    }
}

/// The entries of an index.
struct Entries {
    own: Vec<ImageRecord>,
    /// Those of other tools.
    foreign: Vec<Value>,
    /// Those that were ours, and why they cannot be read.
    damaged: Vec<(Value, String)>,
    /// What else the index says.
    other: Map<String, Value>,
}

impl Entries {
    fn into_index(self) -> IndexFile {
        let own = self.own.iter().map(|image| serde_json::json!(image.to_descriptor()));
        let manifests = self.foreign.into_iter().chain(own).collect();
        IndexFile { manifests, other: self.other, ..IndexFile::new() }
    }
}

impl ImageRecord {
    fn to_descriptor(&self) -> Descriptor {
        let mut annotations = BTreeMap::new();
        let mut note = |key: &str, value: Option<String>| {
            annotations.extend(value.map(|value| (key.to_owned(), value)));
        };
        note(REF_NAME, self.reference.as_ref().map(ToString::to_string));
        note(IMAGE_ID, Some(self.image_id.to_string()));
        note(INDEX_DIGEST, self.index_digest.map(|digest| digest.to_string()));
        note(PULLED, Some(self.pulled.clone()));
        Descriptor { annotations, ..self.manifest.clone() }
    }

    /// Reads an entry; `None` for one of another tool. Ours has an annotation of ours, and all of it must make sense: an image
    /// that is taken for another tool's, or for one without a name, would be swept.
    fn from_entry(entry: &Value) -> std::result::Result<Option<Self>, String> {
        let annotations = entry.get("annotations").and_then(Value::as_object);
        if !annotations.is_some_and(|notes| notes.keys().any(|key| key.starts_with(OWN_PREFIX))) {
            return Ok(None);
        }
        let mut descriptor = Descriptor::deserialize(entry).map_err(|error| error.to_string())?;
        let mut notes = std::mem::take(&mut descriptor.annotations);
        let bad = |key: &str| format!("the annotation {key} is not what it was");
        let reference = notes.remove(REF_NAME).map(|text| text.parse().map_err(|_| bad(REF_NAME))).transpose()?;
        let image_id = notes.remove(IMAGE_ID).ok_or_else(|| format!("the annotation {IMAGE_ID} is missing"))?;
        let index_digest = notes.remove(INDEX_DIGEST).map(|text| text.parse().map_err(|_| bad(INDEX_DIGEST)));
        Ok(Some(Self {
            reference,
            image_id: image_id.parse().map_err(|_| bad(IMAGE_ID))?,
            index_digest: index_digest.transpose()?,
            pulled: notes.remove(PULLED).unwrap_or_default(),
            manifest: descriptor,
        }))
    }

    /// Tells whether the image is what `wanted`, complete with its registry, names.
    fn is_named(&self, wanted: &ImageRef) -> bool {
        let Some(own) = &self.reference else { return false };
        match wanted.digest() {
            Some(digest) => {
                own.name() == wanted.name() && (self.manifest.digest == digest || self.index_digest == Some(digest))
            }
            None => own.name() == wanted.name() && own.tag() == wanted.tag() && own.digest().is_none(),
        }
    }
}

/// How a person names an image of the store: by reference, by a short form of it, or by the start of its ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSelector(String);

impl ImageSelector {
    /// Takes the words as they were typed.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for ImageSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Store {
    /// Lists the images, in the order in which they came.
    pub fn images(&self) -> Result<Vec<ImageRecord>> {
        // Entries that another tool added have no ID of ours: they are left alone and not listed.
        Ok(self.read_entries()?.own)
    }

    /// Lists what the entries that other tools have added to the index point at. A sweep keeps it.
    pub fn foreign_manifests(&self) -> Result<Vec<BlobDigest>> {
        let foreign = self.read_entries()?.foreign;
        let digest = |entry: &Value| entry.get("digest")?.as_str()?.parse().ok();
        Ok(foreign.iter().filter_map(digest).collect())
    }

    fn index_path(&self) -> PathBuf {
        self.images_dir().join("index.json")
    }

    /// Reads the index whole, or fails: an image that is overlooked would be swept.
    fn read_entries(&self) -> Result<Entries> {
        let entries = self.read_index()?.into_entries();
        let Some((entry, reason)) = entries.damaged.first() else { return Ok(entries) };
        let digest = entry.get("digest").and_then(Value::as_str).unwrap_or_default();
        Err(Error::Damaged { path: self.index_path(), reason: format!("the entry {}: {reason}", cut(digest)) })
    }

    fn read_index(&self) -> Result<IndexFile> {
        let path = self.index_path();
        match files::read_json(&path)? {
            Some(index) => Ok(index),
            None if self.is_index_lost() => Err(Error::Damaged { path, reason: "it is missing".to_owned() }),
            None => Ok(IndexFile::new()),
        }
    }

    /// Tells whether the index is lost: it was there once, for the layout's mark, which is written after it, is.
    pub fn is_index_lost(&self) -> bool {
        !self.index_path().exists() && self.images_dir().join("oci-layout").exists()
    }

    /// Writes an index that is damaged or lost anew: with the entries of it that can be read, and for the others those of `found`,
    /// images whose documents are there. One that can be read stays as it is.
    ///
    /// A damaged entry whose name can be read gives it to its image; the names of others are lost.
    pub fn replace_damaged_index(&self, found: &[ImageRecord]) -> Result<()> {
        let _lock = self.lock("images")?;
        let index = match self.read_index() {
            Ok(index) => Some(index),
            Err(Error::Damaged { .. }) => None,
            Err(error) => return Err(error),
        };
        let is_readable = index.is_some();
        let mut entries = index.unwrap_or_else(IndexFile::new).into_entries();
        let damaged = std::mem::take(&mut entries.damaged);
        if is_readable && damaged.is_empty() {
            return Ok(());
        }
        let text = |entry: &Value, pointer: &str| entry.pointer(pointer)?.as_str().map(str::to_owned);
        let named: Vec<(Option<BlobDigest>, Option<ImageRef>)> = damaged
            .iter()
            .map(|(entry, _)| {
                let digest = text(entry, "/digest").and_then(|text| text.parse().ok());
                // `/` is written `~1` in a pointer; the key has none.
                let name = text(entry, &format!("/annotations/{REF_NAME}")).and_then(|text| text.parse().ok());
                (digest, name)
            })
            .collect();
        // Where it is not known which images are missing, all may be.
        let may_be_any = !is_readable || named.iter().any(|(digest, _)| digest.is_none());
        let known: Vec<BlobDigest> = entries.own.iter().map(|image| image.manifest.digest).collect();
        for record in found.iter().filter(|record| !known.contains(&record.manifest.digest)) {
            let digest = record.manifest.digest;
            let mut own_names = named.iter().filter(|(own, _)| *own == Some(digest)).peekable();
            if own_names.peek().is_none() && may_be_any {
                entries.own.push(record.clone());
            }
            entries.own.extend(own_names.map(|(_, name)| ImageRecord { reference: name.clone(), ..record.clone() }));
        }
        drop_needless(&mut entries.own);
        self.write_index(&entries.into_index())
    }

    /// Records an image under its name, durably. An image that had the name keeps an entry without one.
    pub fn put_image(&self, record: &ImageRecord) -> Result<()> {
        self.put_images(std::slice::from_ref(record))
    }

    /// Records several images under their names as [`put_image`](Self::put_image) does: all of them by one rename, or none.
    ///
    /// # Errors
    /// [`Error::RecordTooLarge`] where so many could not be read again.
    pub fn put_images(&self, records: &[ImageRecord]) -> Result<()> {
        self.change_images(|images| put(images, records))
    }

    /// Takes names away from the image `image_id`: those that `is_gone` says. The image stays, without a name if none is left.
    ///
    /// Gives the names that are gone.
    pub fn untag_image(&self, image_id: BlobDigest, is_gone: impl Fn(&ImageRef) -> bool) -> Result<Vec<ImageRef>> {
        let mut gone = Vec::new();
        self.change_images(|images| {
            for image in images.iter_mut().filter(|image| image.image_id == image_id) {
                gone.extend(image.reference.take_if(|reference| is_gone(reference)));
            }
            drop_needless(images);
        })?;
        Ok(gone)
    }

    /// Removes entries of the index; the objects stay until a sweep.
    pub fn remove_images(&self, is_gone: impl Fn(&ImageRecord) -> bool) -> Result<()> {
        self.change_images(|images| images.retain(|image| !is_gone(image)))
    }

    fn change_images(&self, change: impl FnOnce(&mut Vec<ImageRecord>)) -> Result<()> {
        let _lock = self.lock("images")?;
        let mut entries = self.read_entries()?;
        let before = entries.own.clone();
        change(&mut entries.own);
        if entries.own == before {
            // Who made it so may have been killed before it was durable, and our caller says that it is.
            return files::sync_directory(&self.images_dir());
        }
        self.write_index(&entries.into_index())
    }

    /// Writes the index, and then the mark of a layout where that is missing: a mark without an index says that one is lost. The
    /// caller holds the lock.
    fn write_index(&self, index: &IndexFile) -> Result<()> {
        let path = self.index_path();
        files::replace(&path, &self.staging_area(), &files::to_record(index, &path)?, Durability::Durable)?;
        let mark = self.images_dir().join("oci-layout");
        match mark.exists() {
            true => Ok(()),
            false => {
                let text = b"{\"imageLayoutVersion\": \"1.0.0\"}\n";
                files::replace(&mark, &self.staging_area(), text, Durability::Durable)
            }
        }
    }

    /// Finds the one image that `selector` means: by its full name, else by the end of its name, else by its ID.
    pub fn find_image(&self, selector: &ImageSelector) -> Result<ImageRecord> {
        let images = self.images()?;
        let reference = selector.0.parse::<ImageRef>().ok();
        if let Some(reference) = &reference {
            if let Some(image) = images.iter().rev().find(|image| image.is_named(reference)) {
                return Ok(image.clone());
            }
            let may_be = |image: &&ImageRecord| image.reference.as_ref().is_some_and(|own| reference.may_mean(own));
            let candidates: Vec<_> = images.iter().filter(may_be).collect();
            if let Some(image) = one_of(selector, &candidates)? {
                return Ok(image);
            }
        }
        let digits = selector.0.strip_prefix("sha256:").unwrap_or(&selector.0);
        let is_hex = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let has_id = |image: &&ImageRecord| image.image_id.hex().starts_with(digits);
        let mut candidates: Vec<_> = images.iter().filter(|image| is_hex && has_id(image)).collect();
        // Manifests of one configuration are one image by its ID; one that has a name first.
        candidates.sort_by_key(|image| image.reference.is_none());
        if candidates.iter().all(|other| other.image_id == candidates[0].image_id) {
            candidates.truncate(1);
        }
        one_of(selector, &candidates)?.ok_or_else(|| Error::NoSuchImage(selector.0.clone()))
    }
}

/// Puts records in the places of those that had their names, one after the other.
fn put(images: &mut Vec<ImageRecord>, records: &[ImageRecord]) {
    // An archive may have thousands of names: each is looked up, not searched for.
    let (mut named, mut nameless) = (HashMap::<_, Vec<usize>>::new(), HashMap::<_, Vec<usize>>::new());
    let mut places: Vec<Option<ImageRecord>> = Vec::new();
    for (at, image) in images.iter().enumerate() {
        match &image.reference {
            Some(reference) => named.entry(reference.clone()).or_default().push(at),
            None => nameless.entry(image.manifest.digest).or_default().push(at),
        }
    }
    places.extend(images.drain(..).map(Some));
    for record in records {
        let digest = record.manifest.digest;
        let of_name = record.reference.as_ref().and_then(|reference| named.remove(reference));
        for at in of_name.into_iter().flatten() {
            match places[at].as_mut() {
                Some(other) if other.manifest.digest != digest => {
                    other.reference = None;
                    nameless.entry(other.manifest.digest).or_default().push(at);
                }
                _ => places[at] = None,
            }
        }
        nameless.remove(&digest).into_iter().flatten().for_each(|at| places[at] = None);
        match &record.reference {
            Some(reference) => named.entry(reference.clone()).or_default().push(places.len()),
            None => nameless.entry(digest).or_default().push(places.len()),
        }
        places.push(Some(record.clone()));
    }
    images.extend(places.into_iter().flatten());
    drop_needless(images);
}

/// Drops entries without a name of images that have another entry: one is enough.
fn drop_needless(images: &mut Vec<ImageRecord>) {
    let named = images.iter().filter(|image| image.reference.is_some()).map(|image| image.manifest.digest);
    let mut seen: HashSet<BlobDigest> = named.collect();
    images.retain(|image| image.reference.is_some() || seen.insert(image.manifest.digest));
}

/// Gives the image, where all candidates are one image.
fn one_of(selector: &ImageSelector, candidates: &[&ImageRecord]) -> Result<Option<ImageRecord>> {
    let Some(first) = candidates.first() else { return Ok(None) };
    if candidates.iter().all(|other| other.manifest.digest == first.manifest.digest) {
        return Ok(Some((*first).clone()));
    }
    let name =
        |image: &&ImageRecord| image.reference.as_ref().map_or_else(|| image.image_id.short(), ToString::to_string);
    Err(Error::AmbiguousImage { query: selector.0.clone(), candidates: candidates.iter().map(name).collect() })
}

#[cfg(test)]
mod tests;
