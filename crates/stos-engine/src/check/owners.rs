// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images and containers: who needs the other objects of a store, and where those may be had again.

use stos_layerfs::BackendKind;
use stos_spec::{BlobDigest, ChainId, DiffId, ImageManifest, ImageRef};
use stos_store::ImageRecord;

use crate::container::ContainerRecord;

use super::Check;
use super::report::{Outcome, Users};

/// An image or a container.
pub(super) struct Owner {
    name: OwnerName,
    /// Where the image came from, if it has a name.
    pub repository: Option<ImageRef>,
    /// What the list of images says of it, if it is one.
    pub entry: Option<ImageRecord>,
    /// The manifest's digest.
    pub manifest: BlobDigest,
    /// The configuration's digest: the image ID.
    pub config: BlobDigest,
    pub index: Option<BlobDigest>,
    /// The manifest itself, once it has been read.
    pub document: Option<ImageManifest>,
    /// The layers, the lowest first; of an image once its configuration has been read.
    pub layers: Vec<DiffId>,
    /// The chain of those.
    pub chain: Option<ChainId>,
    /// The backend that a container stays with.
    pub backend: Option<BackendKind>,
}

enum OwnerName {
    Image(String),
    Container(String),
}

impl Owner {
    pub fn of_image(record: &ImageRecord) -> Self {
        let label = record.reference.as_ref().map_or_else(|| record.image_id.to_string(), ToString::to_string);
        Self {
            name: OwnerName::Image(label),
            repository: record.reference.clone(),
            entry: Some(record.clone()),
            manifest: record.manifest.digest,
            config: record.image_id,
            index: record.index_digest,
            document: None,
            layers: Vec::new(),
            chain: None,
            backend: None,
        }
    }

    /// Gives one for each image that it needs.
    pub fn of_container(record: &ContainerRecord) -> impl Iterator<Item = Self> {
        record.needed_images().map(|image| Self {
            name: OwnerName::Container(record.name.to_string()),
            // One of an image without a name has the ID here, or what was typed.
            repository: image.image.parse::<ImageRef>().ok().filter(|name| !name.is_short()),
            entry: None,
            manifest: image.manifest,
            config: image.image_id,
            index: None,
            document: None,
            chain: Some(image.chain),
            layers: image.layers.to_vec(),
            backend: Some(image.backend),
        })
    }

    pub fn is_image(&self) -> bool {
        matches!(self.name, OwnerName::Image(_))
    }

    /// Tells whether it is known what it needs: a container's record says all of it, of an image only its documents do.
    fn is_read(&self) -> bool {
        !self.is_image() || self.document.is_some() && self.chain.is_some()
    }

    /// Says which layers it has, once that is known.
    pub fn set_layers(&mut self, layers: Vec<DiffId>) {
        self.chain = ChainId::of_layers(&layers);
        self.layers = layers;
    }

    /// Gives what people call it.
    pub fn label(&self) -> String {
        match &self.name {
            OwnerName::Image(name) | OwnerName::Container(name) => name.clone(),
        }
    }
}

impl Check<'_> {
    /// Says of damage that stays and harms nobody how it goes. Where one of those that may need the object cannot be read nobody can
    /// tell that, and no sweep removes anything.
    pub(super) fn of_unused(&self, outcome: Outcome, users: &Users) -> Outcome {
        let is_garbage = users.is_empty() && !self.has_unread_owners && self.owners.iter().all(Owner::is_read);
        if is_garbage { outcome.of_garbage() } else { outcome }
    }
}

/// Gives the names of those that `needs` says.
pub(super) fn users(owners: &[Owner], needs: impl Fn(&Owner) -> bool) -> Users {
    let mut users = Users::default();
    for owner in owners.iter().filter(|owner| needs(owner)) {
        match &owner.name {
            OwnerName::Image(name) => users.images.insert(name.clone()),
            OwnerName::Container(name) => users.containers.insert(name.clone()),
        };
    }
    users
}
