// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `images/index.json`, and the documents of images. They are small, so each is always hashed.

use std::collections::BTreeMap;

use stos_layerfs::Problem;
use stos_spec::{BlobDigest, ImageConfig, ManifestDocument};
use stos_store::ImageRecord;

use crate::container;
use crate::error::Result;

use super::owners::{Owner, users};
use super::report::{Finding, Item, ObjectKind, Outcome};
use super::{Check, repair};

/// Where the list of images lies.
const INDEX: &str = "images/index.json";

impl Check<'_> {
    /// Reads which images and containers there are. A damaged list of images is made again first, if that was asked for.
    pub(super) fn read_owners(&mut self) -> Result<()> {
        let images = self.read_images();
        self.owners.extend(images.iter().map(Owner::of_image));
        for id in self.engine.store.containers()? {
            match container::record(self.engine, &id) {
                Ok(Some(record)) => self.owners.extend(Owner::of_container(&record)),
                Ok(None) => {}
                // One that cannot be read is told with the containers; what is left of one that has ended needs nothing.
                Err(_) => self.has_unread_owners |= !container::is_remainder(self.engine, &id).unwrap_or(false),
            }
        }
        Ok(())
    }

    fn read_images(&mut self) -> Vec<ImageRecord> {
        let store = &self.engine.store;
        let finding = match store.images() {
            Ok(images) => return images,
            Err(stos_store::Error::Damaged { .. }) if store.is_index_lost() => {
                Finding::damage(Problem::Missing, "the list of images", "none")
            }
            Err(stos_store::Error::Damaged { reason, .. }) => {
                Finding::damage(Problem::Unreadable, "the list of images", reason)
            }
            Err(error) => Finding::unread("the list of images", &error),
        };
        let mut item = Item::new(ObjectKind::Record, INDEX, None);
        item.findings.push(finding.at(INDEX));
        let mut images = None;
        if self.repair.is_some() && Self::are_of_damage(&item.findings) {
            let rebuilt = repair::rebuild_index(self.engine).and_then(|found| Ok((found, store.images()?)));
            let outcome = match rebuilt {
                Ok((found, rebuilt)) => {
                    let what = if found == 1 { "image" } else { "images" };
                    let names = "names that could not be read are lost: `stos tag` or `stos pull` gives them again";
                    let how = format!("made again of the documents of {found} {what}; {names}");
                    images = Some(rebuilt);
                    Outcome::Repaired { how }
                }
                Err(error) => Outcome::Stays { why: error.to_string() },
            };
            item.settle(&outcome);
        }
        self.items.push(item);
        self.has_unread_owners |= images.is_none();
        images.unwrap_or_default()
    }

    /// Looks at the documents of all owners, each once, and reads what they say.
    pub(super) fn examine_documents(&mut self) {
        self.examine_each(ObjectKind::Index, |owner| owner.index);
        self.examine_each(ObjectKind::Manifest, |owner| Some(owner.manifest));
        self.read_manifests();
        self.examine_ids();
        self.examine_each(ObjectKind::Configuration, |owner| Some(owner.config));
        self.read_configurations();
    }

    fn examine_each(&mut self, kind: ObjectKind, digest_of: impl Fn(&Owner) -> Option<BlobDigest>) {
        let mut wanted: BTreeMap<BlobDigest, Vec<usize>> = BTreeMap::new();
        for (number, owner) in self.owners.iter().enumerate() {
            if let Some(digest) = digest_of(owner) {
                wanted.entry(digest).or_default().push(number);
            }
        }
        for (digest, numbers) in wanted {
            let item = self.examine_document(kind, digest, &numbers);
            self.items.push(item);
        }
    }

    fn examine_document(&mut self, kind: ObjectKind, digest: BlobDigest, numbers: &[usize]) -> Item {
        let mut item = Item::new(kind, digest, None);
        let Some(finding) = self.look_at_blob(digest, None) else { return item };
        let users = users(&self.owners, |owner| {
            owner.manifest == digest || owner.config == digest || owner.index == Some(digest)
        });
        item.findings.push(finding.needed_by(&users));
        if let Some(repair) = &self.repair
            && Self::are_of_damage(&item.findings)
        {
            let owners: Vec<_> = numbers.iter().map(|&number| &self.owners[number]).collect();
            let outcome = match repair.remake_document(kind, digest, &owners) {
                Ok(how) if self.look_at_blob(digest, None).is_none() => Outcome::Repaired { how },
                Ok(how) => Outcome::Stays { why: format!("{how}, and it is still damaged") },
                Err(why) => Outcome::Stays { why },
            };
            item.settle(&outcome);
        }
        item
    }

    /// Hashes a blob and tells what is wrong with it. Where its size is known it is told first.
    pub(super) fn look_at_blob(&mut self, digest: BlobDigest, size: Option<u64>) -> Option<Finding> {
        let store = &self.engine.store;
        let path = self.below_root(&store.blob_path(digest));
        let finding = match store.hash_blob(digest) {
            Ok(Some((found, bytes))) => {
                self.hashed += bytes;
                match size {
                    _ if found == digest => return None,
                    Some(size) if size != bytes => {
                        Finding::damage(Problem::Size, format!("{size} bytes"), format!("{bytes} bytes"))
                    }
                    _ => Finding::damage(Problem::Altered, digest.to_string(), found.to_string()),
                }
            }
            Ok(None) => Finding::damage(Problem::Missing, "a file", "none"),
            Err(error) => Finding::unread(digest.to_string(), &error),
        };
        Some(finding.at(path))
    }

    fn read_manifests(&mut self) {
        for number in 0..self.owners.len() {
            let owner = &self.owners[number];
            let Ok(bytes) = self.engine.store.read_blob(owner.manifest) else { continue };
            let media_type = owner.entry.as_ref().map(|entry| entry.manifest.media_type.as_str());
            match ManifestDocument::parse(bytes.get(), media_type) {
                Ok(ManifestDocument::Image(manifest)) => self.owners[number].document = Some(manifest),
                Ok(ManifestDocument::Index(_)) => {
                    self.tell_unusable(ObjectKind::Manifest, owner.manifest, "an index".to_owned());
                }
                Err(error) => self.tell_unusable(ObjectKind::Manifest, owner.manifest, error.to_string()),
            }
        }
    }

    /// Compares the ID that the list of images has of each image with its manifest. That is what its digest says, so it is right.
    fn examine_ids(&mut self) {
        for owner in &mut self.owners {
            let (Some(entry), Some(manifest)) = (&owner.entry, &owner.document) else { continue };
            let right = manifest.config.digest;
            if entry.image_id == right {
                continue;
            }
            let (expected, found) = (format!("the image ID {right}"), entry.image_id.to_string());
            let mut finding = Finding::damage(Problem::Altered, expected, found).at(INDEX);
            finding.images.push(owner.label());
            if self.repair.is_some() {
                finding.outcome = match repair::correct_id(self.engine, entry, right) {
                    Ok(()) => Outcome::Repaired { how: "taken from the image's manifest".to_owned() },
                    Err(error) => Outcome::Stays { why: error.to_string() },
                };
            }
            // The configuration that is looked at is the one that the image has.
            owner.config = right;
            self.items.push(Item { findings: vec![finding], ..Item::new(ObjectKind::Record, INDEX, None) });
        }
    }

    fn read_configurations(&mut self) {
        for number in 0..self.owners.len() {
            let owner = &self.owners[number];
            let Ok(bytes) = self.engine.store.read_blob(owner.config) else { continue };
            let counts = owner.document.as_ref().map(|manifest| manifest.layers.len());
            let counted = |config: ImageConfig| match counts {
                Some(count) if owner.is_image() => config.check_layer_count(count).map(|()| config),
                _ => Ok(config),
            };
            match ImageConfig::parse(bytes.get()).and_then(counted) {
                // A container knows its layers by itself.
                Ok(config) if owner.is_image() => self.owners[number].set_layers(config.diff_ids),
                Ok(_) => {}
                Err(error) => self.tell_unusable(ObjectKind::Configuration, owner.config, error.to_string()),
            }
        }
    }

    /// Tells of a document that is what its digest says, and that nobody can use.
    fn tell_unusable(&mut self, kind: ObjectKind, digest: BlobDigest, found: String) {
        let path = self.below_root(&self.engine.store.blob_path(digest));
        let users = users(&self.owners, |owner| owner.manifest == digest || owner.config == digest);
        let mut finding = Finding::damage(Problem::Unreadable, format!("an image's {kind}"), found);
        if self.repair.is_some() {
            let why = "it is what its digest says: `stos rmi` removes the image".to_owned();
            finding.outcome = Outcome::Stays { why };
        }
        let id = digest.to_string();
        if let Some(item) = self.items.iter_mut().find(|item| item.object == kind && item.id == id)
            && item.findings.is_empty()
        {
            item.findings.push(finding.at(path).needed_by(&users));
        }
    }
}
