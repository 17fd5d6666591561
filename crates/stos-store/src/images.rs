// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `images/index.json`: which images there are and what they are called. It is an OCI image layout's index.
//!
//! One entry is one image under one name; an image that lost its name to another keeps an entry without one, until it is
//! removed.

use std::collections::BTreeMap;
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
        let mut entries = self.read_entries()?;
        let before = entries.own.clone();
        change(&mut entries.own);
        if entries.own == before {
            return Ok(());
        }
        self.write_index(&entries.into_index())
    }

    /// Writes the index, and then the mark of a layout where that is missing: a mark without an index says that one is lost. The
    /// caller holds the lock.
    fn write_index(&self, index: &IndexFile) -> Result<()> {
        files::replace(&self.index_path(), &self.staging_area(), &files::to_json(index), Durability::Durable)?;
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
        for is_removed in [false, true] {
            if is_removed {
                std::fs::remove_file(&path).unwrap()
            } else {
                std::fs::write(&path, "{").unwrap()
            }
            // Nobody takes it for an empty one.
            let refused = [
                store.images().map(drop),
                store.foreign_manifests().map(drop),
                store.put_image(&other),
                store.remove_images(|_| true),
            ];
            assert!(refused.iter().all(|result| matches!(result, Err(Error::Damaged { .. }))), "{refused:?}");
            assert_eq!(store.is_index_lost(), !path.exists());
            store.replace_damaged_index(std::slice::from_ref(&other)).unwrap();
            assert_eq!(store.images().unwrap(), std::slice::from_ref(&other));
        }
        let (dir, empty) = store_with(&[]);
        assert!(!empty.is_index_lost() && empty.images().unwrap().is_empty(), "there never was one");
        // A crash in the first write: the mark comes last.
        empty.put_image(&other).unwrap();
        std::fs::remove_file(dir.path().join("images/oci-layout")).unwrap();
        assert!(!empty.is_index_lost() && empty.images().unwrap().len() == 1);
    }

    #[test]
    fn an_entry_that_was_ours_is_never_taken_for_another_tool_s() {
        let (sound, hit) = (record("a.example/x:1", "x"), record("b.example/y:2", "y"));
        let (dir, store) = store_with(&[sound.clone(), hit.clone()]);
        let path = dir.path().join("images/index.json");
        let good = std::fs::read_to_string(&path).unwrap();
        let [id, digest] = [hit.image_id, hit.manifest.digest].map(|digest| digest.to_string());
        let found = |record: &ImageRecord| ImageRecord { reference: None, ..record.clone() };
        for (from, to, keeps_name) in [
            ("dev.stos.image.id", "dev.stos.imagf.id", true),
            (id.as_str(), &format!("{}g", &id[..id.len() - 1]), true),
            ("b.example/y:2", "b.EXAMPLE/Y:2", false),
            (digest.as_str(), &format!("{}g", &digest[..digest.len() - 1]), false),
        ] {
            // The last place is that of the second entry.
            let at = good.rfind(from).unwrap();
            std::fs::write(&path, format!("{}{to}{}", &good[..at], &good[at + from.len()..])).unwrap();
            let error = store.images().unwrap_err();
            assert!(matches!(&error, Error::Damaged { .. }), "{to}: {error}");
            assert!(store.remove_images(|_| true).is_err(), "{to}");
            // A stray manifest that no entry means comes back only where it is unknown which is missing.
            let stray = record("c.example/z:3", "z");
            store.replace_damaged_index(&[found(&sound), found(&hit), found(&stray)]).unwrap();
            let images = store.images().unwrap();
            assert_eq!(images[0], sound, "{to}");
            let name = keeps_name.then(|| hit.reference.clone()).flatten();
            assert_eq!((images[1].reference.clone(), images[1].manifest.digest), (name, hit.manifest.digest), "{to}");
            assert_eq!(images.len(), if to.starts_with("sha256") && !keeps_name { 3 } else { 2 }, "{to}");
        }
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
