// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the store takes of the disk, to the byte, and who makes it: what `du -s -B1 DATA-ROOT` counts, told apart.
//!
//! | module | what it is |
//! |---|---|
//! | [`places`] | what each object and container takes, by walking DATA-ROOT |
//! | [`reach`] | which objects images, containers and snapshots reach |
//!
//! Nothing is locked: what comes and goes meanwhile is counted or not. What cannot be read is told in the log, and the rest is
//! counted all the same.

pub(crate) mod places;
pub(crate) mod reach;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use stos_spec::{BlobDigest, DiffId};
use stos_store::{ContainerId, VolumeName};

use crate::Engine;
use crate::error::Result;
use places::{Object, Places};
use reach::{ContainerReach, ImageReach, Reach};

/// All that the store takes, in bytes of blocks that are allocated.
///
/// Rows of the summary and kinds each add up to the total.
#[derive(Debug, Clone, Serialize)]
pub struct DiskUsage {
    /// DATA-ROOT.
    pub data_root: String,
    /// What it takes.
    pub total: u64,
    /// By what keeps it.
    pub summary: Summary,
    /// By what it is.
    pub kinds: Kinds,
    /// The images, each once whatever its names.
    pub images: Vec<ImageUsage>,
    /// The containers.
    pub containers: Vec<ContainerUsage>,
    /// The volumes.
    pub volumes: Vec<VolumeUsage>,
    /// The layers.
    pub layers: Vec<LayerUsage>,
}

/// What keeps the bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Images: the layers, chains and documents that an image reaches, or the container or snapshot of one that is gone.
    pub images: Row,
    /// Containers: their own directories.
    pub containers: Row,
    /// Volumes: all of their files.
    pub volumes: Row,
    /// Snapshots: the own directories of those that containerd has. Only it can tell which are in use, so none is reclaimable.
    pub snapshots: Row,
    /// Layers, chains and blobs that nothing reaches: what `system gc` removes.
    pub unused: Row,
    /// The store's own files: the index, names, locks, staging, the records of pods, and what other tools keep in the image layout.
    pub other: Other,
}

/// A line of the summary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Row {
    /// How many there are.
    pub total: usize,
    /// How many are in use: images of a container, or mounted; containers that run; volumes of a container.
    pub active: usize,
    /// What they take.
    pub size: u64,
    /// What becomes free when all that are not in use are removed. 0 where it cannot be told what is in use.
    pub reclaimable: u64,
}

/// The last line of the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Other {
    /// What they take.
    pub size: u64,
}

/// What the bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Kinds {
    /// Layers, in both forms.
    pub layers: u64,
    /// Chains: what is made of an image's layers.
    pub chains: u64,
    /// Manifests, configurations, and the layers' blobs that are kept.
    pub blobs: u64,
    /// The containers' own directories.
    pub containers: u64,
    /// The volumes.
    pub volumes: u64,
    /// The snapshots' own directories.
    pub snapshots: u64,
    /// Everything else.
    pub other: u64,
}

/// What an image takes.
#[derive(Debug, Clone, Serialize)]
pub struct ImageUsage {
    /// The image ID.
    pub id: BlobDigest,
    /// Its names; none for one that has lost them.
    pub names: Vec<String>,
    /// When it was made, as its configuration says (RFC 3339).
    pub created: Option<String>,
    /// Its layers, chain and documents: the next two together.
    pub size: u64,
    /// What another image reaches too.
    pub shared_size: u64,
    /// What only it reaches.
    pub unique_size: u64,
    /// How many containers use it.
    pub containers: usize,
    /// Whether somebody has mounted it to look at.
    pub mounted: bool,
    /// Whether a document of it cannot be read: then its layers are not known.
    pub damaged: bool,
}

/// What a container takes.
#[derive(Debug, Clone, Serialize)]
pub struct ContainerUsage {
    /// Its id.
    pub id: ContainerId,
    /// Its name; `None` where its record cannot be read.
    pub name: Option<String>,
    /// The image as it was named.
    pub image: Option<String>,
    /// What it does, as in `list`.
    pub status: &'static str,
    /// Its own directory: what it has changed, its log.
    pub size: u64,
}

/// What a volume takes.
#[derive(Debug, Clone, Serialize)]
pub struct VolumeUsage {
    /// Its name.
    pub name: VolumeName,
    /// How many containers have it.
    pub links: usize,
    /// What it takes in DATA-ROOT; what it shows of the host, or keeps in memory, takes nothing there.
    pub size: u64,
}

/// What a layer takes.
#[derive(Debug, Clone, Serialize)]
pub struct LayerUsage {
    /// The layer.
    pub diff_id: DiffId,
    /// What it takes, in all forms in which it is kept.
    pub size: u64,
    /// How many images have it.
    pub images: usize,
    /// How many containers stand on it.
    pub containers: usize,
}

/// Counts what the store takes.
pub fn disk_usage(engine: &Engine) -> Result<DiskUsage> {
    // First, for it removes what should have gone already.
    let reach = Reach::read(engine)?;
    let places = places::measure(engine)?;
    Ok(Report { reach: &reach, places: &places }.write(engine))
}

/// The two sides of the account.
struct Report<'a> {
    reach: &'a Reach,
    places: &'a Places,
}

impl Report<'_> {
    fn write(&self, engine: &Engine) -> DiskUsage {
        let mut users: BTreeMap<Object, usize> = BTreeMap::new();
        for object in self.reach.images.iter().flat_map(|image| &image.objects) {
            *users.entry(*object).or_default() += 1;
        }
        let images = self.reach.images.iter().map(|image| self.image(image, &users)).collect();
        let containers = self.reach.containers.iter().map(|container| self.container(container)).collect();
        DiskUsage {
            data_root: engine.store.root().display().to_string(),
            total: self.places.total(),
            summary: self.summary(),
            kinds: self.kinds(),
            images,
            containers,
            volumes: self.volumes(),
            layers: self.layers(&users),
        }
    }

    fn size(&self, object: &Object) -> u64 {
        self.places.objects.get(object).copied().unwrap_or(0)
    }

    fn container_size(&self, container: &ContainerReach) -> u64 {
        self.places.containers.get(&container.id).copied().unwrap_or(0)
    }

    fn image(&self, image: &ImageReach, users: &BTreeMap<Object, usize>) -> ImageUsage {
        let is_shared = |object: &&Object| users.get(object).is_some_and(|count| *count > 1);
        let (shared, unique): (Vec<_>, Vec<_>) = image.objects.iter().partition(is_shared);
        let sum = |objects: Vec<&Object>| objects.into_iter().map(|object| self.size(object)).sum::<u64>();
        let (shared_size, unique_size) = (sum(shared), sum(unique));
        ImageUsage {
            id: image.id,
            names: image.names.iter().map(ToString::to_string).collect(),
            created: image.created.clone(),
            size: shared_size + unique_size,
            shared_size,
            unique_size,
            containers: self.reach.users_of(image.id),
            mounted: self.reach.mounted.contains(&image.id),
            damaged: image.is_damaged,
        }
    }

    fn container(&self, container: &ContainerReach) -> ContainerUsage {
        let record = container.record.as_ref();
        ContainerUsage {
            id: container.id.clone(),
            name: record.map(|record| record.name.to_string()),
            image: record.map(|record| record.image.clone()),
            status: container.status,
            size: self.container_size(container),
        }
    }

    fn volumes(&self) -> Vec<VolumeUsage> {
        let records = || self.reach.containers.iter().filter_map(|container| container.record.as_ref());
        let links =
            |name: &VolumeName| records().filter(|record| record.volumes.iter().any(|used| used.name == *name)).count();
        let volume =
            |(name, size): (&VolumeName, &u64)| VolumeUsage { name: name.clone(), links: links(name), size: *size };
        self.places.volumes.iter().map(volume).collect()
    }

    /// The row of the volumes. What a container has whose record cannot be read nobody knows.
    fn volumes_row(&self) -> Row {
        let mut row = Row::default();
        for volume in self.volumes() {
            row.total += 1;
            row.size += volume.size;
            match volume.links {
                0 => row.reclaimable += volume.size,
                _ => row.active += 1,
            }
        }
        if self.reach.has_unreadable_users() {
            row.reclaimable = 0;
        }
        row
    }

    fn layers(&self, users: &BTreeMap<Object, usize>) -> Vec<LayerUsage> {
        let mut stands_on: BTreeMap<DiffId, usize> = BTreeMap::new();
        for container in self.reach.containers.iter().filter_map(|container| container.record.as_ref()) {
            for layer in container.needed_images().flat_map(|image| image.layers).collect::<BTreeSet<_>>() {
                *stands_on.entry(*layer).or_default() += 1;
            }
        }
        let layer = |(object, &size): (&Object, &u64)| match *object {
            Object::Layer(diff_id) => Some(LayerUsage {
                diff_id,
                size,
                images: users.get(object).copied().unwrap_or(0),
                containers: stands_on.get(&diff_id).copied().unwrap_or(0),
            }),
            _ => None,
        };
        self.places.objects.iter().filter_map(layer).collect()
    }

    fn summary(&self) -> Summary {
        let reach = self.reach;
        let of_images: BTreeSet<Object> = reach.images.iter().flat_map(|image| &image.objects).copied().collect();
        let of_containers: BTreeSet<Object> =
            reach.containers.iter().flat_map(|container| &container.objects).copied().collect();
        let is_active = |image: &&ImageReach| reach.is_active(image);
        let mut active = &(&of_containers | &reach.foreign) | &reach.snapshots;
        active.extend(reach.images.iter().filter(is_active).flat_map(|image| &image.objects));

        let mut images = Row { total: reach.images.len(), ..Row::default() };
        images.active = reach.images.iter().filter(is_active).count();
        let (mut unused, mut other) = (Row::default(), self.places.rest);
        for (object, &size) in &self.places.objects {
            let is_used = [&of_images, &of_containers, &reach.snapshots].iter().any(|users| users.contains(object));
            if is_used {
                images.size += size;
                images.reclaimable += if active.contains(object) { 0 } else { size };
            } else if reach.foreign.contains(object) {
                other += size;
            } else {
                unused.total += 1;
                unused.size += size;
            }
        }
        for (name, size) in &self.places.replaced {
            if reach.may_stand_on_replaced(name) {
                other += size;
            } else {
                unused.total += 1;
                unused.size += size;
            }
        }
        unused.reclaimable = unused.size;
        // What a container or a snapshot reaches whose record cannot be read nobody knows; of an image the same, but it goes with the others.
        if reach.has_unreadable_users() {
            images.reclaimable = 0;
        }
        if reach.has_unreadable_users() || reach.images.iter().any(|image| image.is_damaged) {
            unused.reclaimable = 0;
        }
        let (containers, lost) = self.containers();
        let (total, size) = self.places.snapshots;
        let snapshots = Row { total, active: total, size, reclaimable: 0 };
        let volumes = self.volumes_row();
        Summary { images, containers, volumes, snapshots, unused, other: Other { size: other + lost } }
    }

    /// The row of the containers; and what lies among them and was none when they were listed.
    fn containers(&self) -> (Row, u64) {
        let mut row = Row { total: self.reach.containers.len(), ..Row::default() };
        for container in &self.reach.containers {
            let size = self.container_size(container);
            row.size += size;
            match container.is_running {
                true => row.active += 1,
                false => row.reclaimable += size,
            }
        }
        (row, self.places.containers.values().sum::<u64>() - row.size)
    }

    fn kinds(&self) -> Kinds {
        let mut kinds = Kinds {
            layers: 0,
            chains: 0,
            blobs: 0,
            containers: self.places.containers.values().sum(),
            volumes: self.places.volumes.values().sum(),
            snapshots: self.places.snapshots.1,
            other: self.places.rest + self.places.replaced.iter().map(|(_, size)| size).sum::<u64>(),
        };
        for (object, size) in &self.places.objects {
            match object {
                Object::Layer(_) => kinds.layers += size,
                Object::Chain(_) => kinds.chains += size,
                Object::Blob(_) => kinds.blobs += size,
            }
        }
        kinds
    }
}
