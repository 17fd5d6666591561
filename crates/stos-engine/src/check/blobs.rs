// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Blobs that are no documents of images: layers as they came, where they are kept, and what other tools have put there.

use std::collections::{BTreeMap, BTreeSet};

use stos_layerfs::{Integrity, Problem};
use stos_spec::BlobDigest;

use crate::error::Result;
use crate::gc::mark_foreign;

use super::Check;
use super::owners::users;
use super::report::{Finding, Item, ObjectKind, Outcome};

impl Check<'_> {
    /// Gives every blob of the store.
    pub(super) fn all_blobs(&self) -> Result<BTreeSet<BlobDigest>> {
        Ok(self.engine.store.blobs()?.into_iter().collect())
    }

    /// Looks at blobs, but for those that are documents of images. One that is not there is none that is kept.
    pub(super) fn examine_blobs(&mut self, blobs: &BTreeSet<BlobDigest>) -> Result<()> {
        let mut sizes = BTreeMap::new();
        let mut documents = BTreeSet::new();
        for owner in &self.owners {
            documents.extend([Some(owner.manifest), Some(owner.config), owner.index].into_iter().flatten());
            let layers = owner.document.iter().flat_map(|manifest| &manifest.layers);
            sizes.extend(layers.map(|layer| (layer.descriptor.digest, layer.descriptor.size)));
        }
        for &digest in blobs.difference(&documents) {
            let path = self.engine.store.blob_path(digest);
            let Ok(file) = std::fs::metadata(&path) else { continue };
            let size = sizes.get(&digest).copied();
            let finding = match size {
                Some(size) if size != file.len() => {
                    let found = format!("{} bytes", file.len());
                    Some(Finding::damage(Problem::Size, format!("{size} bytes"), found).at(self.below_root(&path)))
                }
                _ if self.how.integrity == Integrity::Full => self.look_at_blob(digest, size),
                // Nothing but its bytes can tell.
                None => continue,
                Some(_) => None,
            };
            let item = self.settle_blob(digest, finding);
            self.items.push(item);
        }
        Ok(())
    }

    fn settle_blob(&mut self, digest: BlobDigest, finding: Option<Finding>) -> Item {
        let mut item = Item::new(ObjectKind::Blob, digest, None);
        let Some(finding) = finding else { return item };
        let users = users(&self.owners, |owner| {
            owner.document.iter().flat_map(|manifest| &manifest.layers).any(|layer| layer.descriptor.digest == digest)
        });
        item.findings.push(finding.needed_by(&users));
        if let Some(repair) = &self.repair
            && Self::are_of_damage(&item.findings)
        {
            let outcome = match repair.refetch_blob(digest, &self.owners) {
                Ok(how) if self.look_at_blob(digest, None).is_none() => Outcome::Repaired { how },
                Ok(how) => Outcome::Stays { why: format!("{how}, and it is still damaged") },
                Err(why) => Outcome::Stays { why },
            };
            let is_foreign = users.is_empty() && self.is_foreign(digest);
            item.settle(&if is_foreign { outcome } else { self.of_unused(outcome, &users) });
        }
        item
    }

    /// Tells whether documents that other tools have put into the list of images lead to a blob, or may, where one cannot be read.
    fn is_foreign(&self, digest: BlobDigest) -> bool {
        let mut reached = BTreeSet::new();
        let manifests = self.engine.store.foreign_manifests().unwrap_or_else(|_| vec![digest]);
        let marked = manifests.into_iter().try_for_each(|manifest| mark_foreign(self.engine, manifest, &mut reached));
        marked.is_err() || reached.contains(&digest)
    }
}
