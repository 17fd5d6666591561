// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `images/index.json`: which images there are and what they are called. It is an OCI image layout's index.
//!
//! One entry is one image under one name; an image that lost its name to another keeps an entry without one, until it is
//! removed.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use stos_spec::media_type::OCI_INDEX;
use stos_spec::{BlobDigest, Descriptor, ImageRef};

use crate::error::{Error, Result};
use crate::files::{self, Durability};
use crate::store::Store;

/// The name of an image (image-spec, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
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

    /// Takes the entries out: those that are ours, and those of other tools.
    fn take_entries(&mut self) -> (Vec<ImageRecord>, Vec<Value>) {
        let (mut own, mut foreign) = (Vec::new(), Vec::new());
        for entry in self.manifests.drain(..) {
            match Descriptor::deserialize(&entry).ok().and_then(ImageRecord::from_descriptor) {
                Some(image) => own.push(image),
                None => foreign.push(entry),
            }
        }
        (own, foreign)
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

    fn from_descriptor(mut descriptor: Descriptor) -> Option<Self> {
        let mut notes = std::mem::take(&mut descriptor.annotations);
        Some(Self {
            reference: notes.remove(REF_NAME).and_then(|text| text.parse().ok()),
            image_id: notes.remove(IMAGE_ID)?.parse().ok()?,
            index_digest: notes.remove(INDEX_DIGEST).and_then(|text| text.parse().ok()),
            pulled: notes.remove(PULLED).unwrap_or_default(),
            manifest: descriptor,
        })
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
        Ok(self.read_index()?.take_entries().0)
    }

    /// Lists what the entries that other tools have added to the index point at. A sweep keeps it.
    pub fn foreign_manifests(&self) -> Result<Vec<BlobDigest>> {
        let (_, foreign) = self.read_index()?.take_entries();
        let digest = |entry: &Value| entry.get("digest")?.as_str()?.parse().ok();
        Ok(foreign.iter().filter_map(digest).collect())
    }

    fn read_index(&self) -> Result<IndexFile> {
        Ok(files::read_json(&self.images_dir().join("index.json"))?.unwrap_or_else(IndexFile::new))
    }

    /// Tells whether the index is lost: it was there once, for the layout's mark is.
    pub fn is_index_lost(&self) -> bool {
        !self.images_dir().join("index.json").exists() && self.images_dir().join("oci-layout").exists()
    }

    /// Writes an index of `records` alone in place of one that is damaged or lost. One that can be read stays as it is.
    pub fn replace_damaged_index(&self, records: &[ImageRecord]) -> Result<()> {
        let _lock = self.lock("images")?;
        match self.read_index() {
            Ok(_) if !self.is_index_lost() => Ok(()),
            Ok(_) | Err(Error::Damaged { .. }) => {
                let manifests = records.iter().map(|image| serde_json::json!(image.to_descriptor())).collect();
                self.write_index(&IndexFile { manifests, ..IndexFile::new() })
            }
            Err(error) => Err(error),
        }
    }

    /// Records an image under its name, durably. An image that had the name keeps an entry without one.
    pub fn put_image(&self, record: &ImageRecord) -> Result<()> {
        self.put_images(std::slice::from_ref(record))
    }

    /// Records several images under their names as [`put_image`](Self::put_image) does: all of them by one rename, or none.
    pub fn put_images(&self, records: &[ImageRecord]) -> Result<()> {
        self.change_images(|images| records.iter().for_each(|record| put(images, record)))
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
        let mut index = self.read_index()?;
        let (mut images, foreign) = index.take_entries();
        let before = images.clone();
        change(&mut images);
        if images == before {
            return Ok(());
        }
        let own = images.iter().map(|image| serde_json::json!(image.to_descriptor()));
        index.manifests = foreign.into_iter().chain(own).collect();
        self.write_index(&index)
    }

    /// Writes the index, after the mark of a layout where that is missing. The caller holds the lock.
    fn write_index(&self, index: &IndexFile) -> Result<()> {
        let layout = self.images_dir().join("oci-layout");
        if !layout.exists() {
            let text = b"{\"imageLayoutVersion\": \"1.0.0\"}\n";
            files::replace(&layout, &self.staging_area(), text, Durability::Durable)?;
        }
        let path = self.images_dir().join("index.json");
        files::replace(&path, &self.staging_area(), &files::to_json(index), Durability::Durable)
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

/// Puts a record in the place of the one that had its name.
fn put(images: &mut Vec<ImageRecord>, record: &ImageRecord) {
    for other in images.iter_mut().filter(|other| other.reference == record.reference) {
        if other.manifest.digest != record.manifest.digest {
            other.reference = None;
        }
    }
    let same = |other: &ImageRecord| {
        other.manifest.digest == record.manifest.digest
            && (other.reference == record.reference || other.reference.is_none())
    };
    images.retain(|other| !same(other));
    images.push(record.clone());
    drop_needless(images);
}

/// Drops entries without a name of images that have another entry: one is enough.
fn drop_needless(images: &mut Vec<ImageRecord>) {
    let named: Vec<_> =
        images.iter().filter(|image| image.reference.is_some()).map(|image| image.manifest.digest).collect();
    let mut seen = Vec::new();
    images.retain(|image| {
        let digest = image.manifest.digest;
        let repeats = image.reference.is_none() && (named.contains(&digest) || seen.contains(&digest));
        seen.push(digest);
        !repeats
    });
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
mod tests {
    use super::*;

    fn record(name: &str, content: &str) -> ImageRecord {
        ImageRecord {
            reference: Some(name.parse().unwrap()),
            manifest: Descriptor::new("application/json", BlobDigest::of(content.as_bytes()), content.len() as u64),
            image_id: BlobDigest::of(format!("config of {content}").as_bytes()),
            index_digest: Some(BlobDigest::of(format!("index of {content}").as_bytes())),
            pulled: "2026-01-01T00:00:00Z".to_owned(),
        }
    }

    fn store_with(records: &[ImageRecord]) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        records.iter().for_each(|record| store.put_image(record).unwrap());
        (dir, store)
    }

    fn find(store: &Store, text: &str) -> Result<BlobDigest> {
        store.find_image(&ImageSelector::new(text)).map(|image| image.manifest.digest)
    }

    #[test]
    fn images_are_found_by_name_short_name_digest_and_id() {
        let deb = record("127.0.0.1:5000/team/deb:12", "deb");
        let (_dir, store) = store_with(&[deb.clone(), record("quay.io/a/sci:2", "sci")]);
        let digest = deb.manifest.digest;
        for text in [
            "127.0.0.1:5000/team/deb:12".to_owned(),
            "deb:12".to_owned(),
            "team/deb:12".to_owned(),
            format!("127.0.0.1:5000/team/deb@{digest}"),
            format!("127.0.0.1:5000/team/deb@{}", deb.index_digest.unwrap()),
            deb.image_id.short(),
            deb.image_id.to_string(),
        ] {
            assert_eq!(find(&store, &text).expect(&text), digest, "{text}");
        }
        for text in ["deb:13", "quay.io/deb:12", "zz", "", "sha256:"] {
            assert!(matches!(find(&store, text), Err(Error::NoSuchImage(_))), "{text}");
        }
    }

    #[test]
    fn only_a_damaged_or_lost_index_is_replaced() {
        let (dir, store) = store_with(&[record("a.example/x:1", "x")]);
        let other = ImageRecord { reference: None, ..record("a.example/y:1", "y") };
        let path = dir.path().join("images/index.json");
        store.replace_damaged_index(std::slice::from_ref(&other)).unwrap();
        assert_eq!(store.images().unwrap(), [record("a.example/x:1", "x")], "it can be read");
        std::fs::write(&path, "{").unwrap();
        assert!(!store.is_index_lost() && store.images().is_err());
        store.replace_damaged_index(std::slice::from_ref(&other)).unwrap();
        assert_eq!(store.images().unwrap(), std::slice::from_ref(&other));
        std::fs::remove_file(&path).unwrap();
        assert!(store.is_index_lost());
        store.replace_damaged_index(std::slice::from_ref(&other)).unwrap();
        assert_eq!(store.images().unwrap(), [other]);
        let (_dir, empty) = store_with(&[]);
        assert!(!empty.is_index_lost(), "there never was one");
    }

    #[test]
    fn a_short_name_of_two_images_is_ambiguous() {
        let (_dir, store) = store_with(&[record("a.example/deb:12", "a"), record("b.example/deb:12", "b")]);
        assert!(
            matches!(find(&store, "deb:12"), Err(Error::AmbiguousImage { candidates, .. }) if candidates.len() == 2)
        );
    }

    #[test]
    fn a_moved_tag_leaves_the_old_image_without_a_name() {
        let (_dir, store) = store_with(&[record("a.example/x:1", "old"), record("a.example/x:1", "new")]);
        assert_eq!(find(&store, "a.example/x:1").unwrap(), BlobDigest::of(b"new"));
        let images = store.images().unwrap();
        assert_eq!(images.len(), 2);
        assert_eq!(images[0].reference, None);
        store.put_image(&record("a.example/x:1", "new")).unwrap();
        assert_eq!(store.images().unwrap().len(), 2);
        store.remove_images(|image| image.reference.is_none()).unwrap();
        assert_eq!(store.images().unwrap().len(), 1);
    }

    #[test]
    fn manifests_of_one_configuration_are_one_image_by_its_id() {
        let named = record("a.example/x:1", "gzip");
        let plain = Descriptor::new("application/json", BlobDigest::of(b"plain"), 5);
        let unnamed = ImageRecord { reference: None, manifest: plain, ..named.clone() };
        let (_dir, store) = store_with(&[unnamed.clone(), named.clone()]);
        assert_eq!(store.images().unwrap().len(), 2);
        for text in [named.image_id.to_string(), named.image_id.short()] {
            assert_eq!(find(&store, &text).unwrap(), named.manifest.digest, "{text}");
        }
        store.remove_images(|image| image.reference.is_some()).unwrap();
        assert_eq!(find(&store, &named.image_id.short()).unwrap(), unnamed.manifest.digest);
    }

    #[test]
    fn names_go_and_the_image_stays() {
        let names = ["a.example/x:1", "a.example/x:2", "a.example/y:1"];
        let (_dir, store) = store_with(&[]);
        store.put_images(&names.map(|name| record(name, "x"))).unwrap();
        store.put_image(&record("a.example/z:1", "z")).unwrap();
        let id = record(names[0], "x").image_id;
        let gone = store.untag_image(id, |name| name.tag() == Some("1")).unwrap();
        assert_eq!(gone.iter().map(ToString::to_string).collect::<Vec<_>>(), [names[0], names[2]]);
        assert_eq!(store.images().unwrap().len(), 2, "no entry without a name beside one with a name");
        assert_eq!(store.untag_image(id, |_| true).unwrap().len(), 1);
        assert_eq!(store.untag_image(id, |_| true).unwrap(), []);
        let images = store.images().unwrap();
        assert_eq!(images.iter().filter(|image| image.image_id == id && image.reference.is_none()).count(), 1);
        assert_eq!(find(&store, "z:1").unwrap(), BlobDigest::of(b"z"), "another image keeps its name");
        let unnamed = ImageRecord { reference: None, ..record(names[0], "x") };
        store.put_images(&[unnamed.clone(), unnamed]).unwrap();
        assert_eq!(store.images().unwrap().len(), 2);
    }

    #[test]
    fn an_image_pulled_by_its_short_and_by_its_full_name_is_one() {
        let full = "docker.io/library/x:1";
        for second in ["same", "moved"] {
            let (_dir, store) = store_with(&[record("x:1", "same"), record(full, second), record("x:1", second)]);
            let images = store.images().unwrap();
            let named: Vec<_> = images.iter().filter(|image| image.reference.is_some()).collect();
            assert_eq!(named.len(), 1, "{images:?}");
            assert_eq!(named[0].manifest.digest, BlobDigest::of(second.as_bytes()));
            assert_eq!(images.len(), if second == "same" { 1 } else { 2 }, "a moved tag leaves the old image");
            assert_eq!(find(&store, "x:1").unwrap(), find(&store, full).unwrap());
        }
    }

    #[test]
    fn what_other_tools_wrote_is_kept_word_for_word() {
        let (dir, store) = store_with(&[record("a.example/x:1", "x")]);
        let path = dir.path().join("images/index.json");
        let digest = BlobDigest::of(b"theirs");
        let theirs = serde_json::json!({"mediaType": "a/b", "digest": digest, "size": 6, "artifactType": "c/d",
            "annotations": {"org.opencontainers.image.ref.name": "theirs"}});
        let odd = serde_json::json!({"digest": "sha512:00"});
        let mut index: Value = files::read_json(&path).unwrap().unwrap();
        index["manifests"].as_array_mut().unwrap().extend([theirs.clone(), odd.clone()]);
        index["annotations"] = serde_json::json!({"who": "they"});
        std::fs::write(&path, index.to_string()).unwrap();
        store.put_image(&record("a.example/y:1", "y")).unwrap();
        store.remove_images(|image| image.manifest.digest == BlobDigest::of(b"x")).unwrap();
        let index: Value = files::read_json(&path).unwrap().unwrap();
        let entries = index["manifests"].as_array().unwrap();
        assert!(entries.contains(&theirs) && entries.contains(&odd) && entries.len() == 3, "{index}");
        assert_eq!(index["annotations"]["who"], "they");
        assert_eq!(store.images().unwrap().len(), 1);
        assert_eq!(store.foreign_manifests().unwrap(), [digest]);
        // Not even a list of tools that write no media type, or null for no entries, is taken for damage.
        for none in ["[]", "null"] {
            std::fs::write(&path, format!(r#"{{"schemaVersion": 2, "manifests": {none}}}"#)).unwrap();
            assert!(store.images().unwrap().is_empty(), "{none}");
            store.put_image(&record("a.example/z:1", "z")).unwrap();
            assert_eq!(store.images().unwrap().len(), 1, "{none}");
        }
    }

    #[test]
    fn a_damaged_index_is_named() {
        let (dir, store) = store_with(&[record("a.example/x:1", "x")]);
        std::fs::write(dir.path().join("images/index.json"), b"{").unwrap();
        let error = store.images().unwrap_err();
        assert!(matches!(&error, Error::Damaged { .. }) && error.to_string().contains("index.json"), "{error}");
    }
}
