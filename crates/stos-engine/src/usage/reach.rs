// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which objects images and containers reach: all that is known of it, where some of them cannot be read too.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use stos_layerfs::BackendKind;
use stos_spec::{BlobDigest, ChainId, DiffId, ImageRef};
use stos_store::{ContainerId, ImageRecord};

use super::places::Object;
use crate::Engine;
use crate::container::{self, ContainerRecord, ContainerState};
use crate::error::Result;
use crate::gc::mark_foreign;
use crate::image::load_image;
use crate::image_mount::mounted_images;
use crate::image_volumes::NeededImage;

/// An image, whatever its names and manifests.
pub(crate) struct ImageReach {
    pub id: BlobDigest,
    pub names: Vec<ImageRef>,
    pub created: Option<String>,
    pub objects: BTreeSet<Object>,
    /// What else it reaches is not known.
    pub is_damaged: bool,
}

/// A container.
pub(crate) struct ContainerReach {
    pub id: ContainerId,
    /// `None` where it cannot be read.
    pub record: Option<ContainerRecord>,
    /// What it does, or `unreadable` where its record is.
    pub status: &'static str,
    /// Known of one that cannot be read too.
    pub is_running: bool,
    pub objects: BTreeSet<Object>,
}

/// Who reaches what.
pub(crate) struct Reach {
    /// In the order in which they came.
    pub images: Vec<ImageReach>,
    pub containers: Vec<ContainerReach>,
    /// What entries of other tools in the index reach.
    pub foreign: BTreeSet<Object>,
    /// What snapshots reach.
    pub snapshots: BTreeSet<Object>,
    /// Whether a snapshot cannot be read: what it reaches is not known.
    pub has_unreadable_snapshots: bool,
    /// The images that somebody has mounted.
    pub mounted: BTreeSet<BlobDigest>,
    /// How many containers each image has.
    users: BTreeMap<BlobDigest, usize>,
}

/// What a manifest and its configuration say, read once for all names of an image.
struct Documents {
    created: Option<String>,
    objects: BTreeSet<Object>,
}

impl Reach {
    /// Reads the documents of all images and the records of all containers. Those that cannot be read are told in the log.
    pub fn read(engine: &Engine) -> Result<Self> {
        let containers = read_containers(engine)?;
        let mut users: BTreeMap<BlobDigest, usize> = BTreeMap::new();
        for record in containers.iter().filter_map(|container| container.record.as_ref()) {
            for image in record.needed_images().map(|image| image.image_id).collect::<BTreeSet<_>>() {
                *users.entry(image).or_default() += 1;
            }
        }
        let mut foreign = BTreeSet::new();
        for manifest in engine.store.foreign_manifests()? {
            let marked = mark_foreign(engine, manifest, &mut foreign);
            marked.unwrap_or_else(|error| tracing::warn!(%error, "what another tool keeps here is not known"));
        }
        let (snapshots, has_unreadable_snapshots) = read_snapshots(engine)?;
        Ok(Self {
            snapshots,
            has_unreadable_snapshots,
            images: read_images(engine)?,
            containers,
            foreign: foreign.into_iter().map(Object::Blob).collect(),
            mounted: read_mounted(engine),
            users,
        })
    }

    /// Gives how many containers use an image.
    pub fn users_of(&self, image: BlobDigest) -> usize {
        self.users.get(&image).copied().unwrap_or(0)
    }

    /// Tells whether an image is in use: by a container, by somebody who looks at it, or by a snapshot of all its layers.
    pub fn is_active(&self, image: &ImageReach) -> bool {
        let is_chain_of_snapshot =
            |object: &Object| matches!(object, Object::Chain(_)) && self.snapshots.contains(object);
        self.users_of(image.id) > 0
            || self.mounted.contains(&image.id)
            || image.objects.iter().any(is_chain_of_snapshot)
    }

    /// Tells whether there is a container or a snapshot of which nobody knows what it reaches.
    pub fn has_unreadable_users(&self) -> bool {
        self.has_unreadable_snapshots || self.containers.iter().any(|container| container.record.is_none())
    }

    /// Tells whether somebody may stand on the replaced layer or chain that is called `name`, as far as is known.
    pub fn may_stand_on_replaced(&self, name: &str) -> bool {
        let hex = name.split('-').next().unwrap_or_default();
        let stands_on = |container: &ContainerReach| match &container.record {
            None => true,
            Some(record) => {
                let has = |image: NeededImage<'_>| {
                    let is_own = image.chain.hex() == hex || image.layers.iter().any(|layer| layer.hex() == hex);
                    image.backend == BackendKind::Dirs && is_own
                };
                container.is_running && record.needed_images().any(has)
            }
        };
        let is_of_snapshot = |object: &Object| match object {
            Object::Layer(layer) => layer.hex() == hex,
            Object::Chain(chain) => chain.hex() == hex,
            Object::Blob(_) => false,
        };
        !self.mounted.is_empty()
            || self.has_unreadable_snapshots
            || self.snapshots.iter().any(is_of_snapshot)
            || self.containers.iter().any(stands_on)
    }
}

fn read_mounted(engine: &Engine) -> BTreeSet<BlobDigest> {
    let mounted = mounted_images(engine).unwrap_or_else(|error| {
        tracing::warn!(%error, "which images are mounted is not known");
        Vec::new()
    });
    mounted.into_iter().map(|image| image.id).collect()
}

fn read_containers(engine: &Engine) -> Result<Vec<ContainerReach>> {
    let read = |(id, record): (ContainerId, Result<ContainerRecord>)| {
        let state = container::state(engine, &id).inspect_err(|error| {
            tracing::warn!(container = %id, %error, "its state cannot be read: it is taken as one that runs");
        });
        let is_running = !state.as_ref().is_ok_and(|state| !matches!(state, ContainerState::Running(_)));
        let status = state.as_ref().map_or("unreadable", ContainerState::status);
        let (record, objects, status) = match record {
            Ok(record) => {
                let mut objects = BTreeSet::new();
                for image in record.needed_images() {
                    objects.extend(objects_of(image.layers));
                    objects.extend([image.manifest, image.image_id].map(Object::Blob));
                }
                (Some(record), objects, status)
            }
            Err(error) => {
                tracing::warn!(container = %id, %error, "its record cannot be read: what it uses is not known");
                (None, BTreeSet::new(), "unreadable")
            }
        };
        ContainerReach { id, record, status, is_running, objects }
    };
    Ok(container::list(engine)?.into_iter().map(read).collect())
}

/// Gives what snapshots reach, and whether one cannot be read: such a one is told in the log.
fn read_snapshots(engine: &Engine) -> Result<(BTreeSet<Object>, bool)> {
    let (mut reached, mut has_unreadable) = (BTreeSet::new(), false);
    for (number, record) in engine.store.snapshots()? {
        match record {
            Ok(record) => reached.extend(objects_of(&record.layers)),
            Err(error) => {
                tracing::warn!(snapshot = number, %error, "its record cannot be read: what it uses is not known");
                has_unreadable = true;
            }
        }
    }
    Ok((reached, has_unreadable))
}

/// A stack of layers: they and their chain.
fn objects_of(layers: &[DiffId]) -> BTreeSet<Object> {
    let chain = ChainId::of_layers(layers).map(Object::Chain);
    layers.iter().copied().map(Object::Layer).chain(chain).collect()
}

fn read_images(engine: &Engine) -> Result<Vec<ImageReach>> {
    let mut images: Vec<ImageReach> = Vec::new();
    let mut places: BTreeMap<BlobDigest, usize> = BTreeMap::new();
    let mut read: BTreeMap<BlobDigest, Option<Documents>> = BTreeMap::new();
    for record in engine.store.images()? {
        let at = *places.entry(record.image_id).or_insert(images.len());
        if at == images.len() {
            let (names, objects) = (Vec::new(), BTreeSet::new());
            images.push(ImageReach { id: record.image_id, names, created: None, objects, is_damaged: false });
        }
        let image = &mut images[at];
        image.names.extend(record.reference.clone());
        image.objects.extend(record.index_digest.map(Object::Blob));
        image.objects.extend([record.manifest.digest, record.image_id].map(Object::Blob));
        let documents = match read.entry(record.manifest.digest) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(read_documents(engine, record)),
        };
        match documents {
            Some(Documents { created, objects }) => {
                image.created.clone_from(created);
                image.objects.extend(objects.iter());
            }
            None => image.is_damaged = true,
        }
    }
    Ok(images)
}

fn read_documents(engine: &Engine, record: ImageRecord) -> Option<Documents> {
    let id = record.image_id;
    match load_image(engine, record) {
        Ok(image) => {
            let mut objects = objects_of(&image.config.diff_ids);
            // Where those are kept.
            let blobs = image.manifest.layers.iter().map(|layer| layer.descriptor.digest);
            objects.extend(blobs.map(Object::Blob));
            Some(Documents { created: image.config.created, objects })
        }
        Err(error) => {
            tracing::warn!(%error, image = %id, "the image is damaged: its layers are not known");
            None
        }
    }
}
