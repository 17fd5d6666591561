// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a container has changed against its image, and what one image changes against another.
//!
//! | module | what it is |
//! |---|---|
//! | `node` | one file, held by a descriptor |
//! | `walk` | two trees side by side, in the order of their names |
//! | `data` | what two files hold, compared |
//! | `points` | the mount points that stos itself made in a container's upper directory |
//! | `layer` | the files of a walk as a tar |
//! | `links` | the files with several names that a walk has met |
//!
//! A container's changes are read where overlayfs has put them, in its upper directory: a character device 0:0 is a name that is
//! gone, `trusted.overlay.opaque` a directory that shows nothing of the image's. Its mounts are made without `redirect_dir`
//! and `metacopy`, so the upper says all. It is only read, so the container may run meanwhile.

mod data;
pub(crate) mod layer;
mod links;
mod node;
mod points;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use serde::Serialize;
use stos_layerfs::{BackendKind, Integrity};
use stos_spec::{ChainId, DiffId};
use stos_store::Objects;

use crate::Engine;
use crate::container::ContainerRecord;
use crate::error::{Error, Result};
use crate::gc::take_back;
use crate::image::LoadedImage;

pub(crate) use node::Node;
pub(crate) use points::{Mount, MountPoints, mounts_of};
pub(crate) use walk::{Event, Mode, Walk};

/// What has become of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is another, or holds changes.
    Modified,
    /// It is gone, with all below it.
    Deleted,
}

/// Tells of each path that a container has changed against its image, in the order of the names, a directory before what lies in it.
///
/// A directory that only holds changes is [`ChangeKind::Modified`]. Left out are directories that overlayfs has merely copied
/// up, and the mount points that stos made. Paths begin with a slash; their bytes are the container's own.
pub fn container_changes(
    engine: &Engine,
    container: &ContainerRecord,
    tell: &mut dyn FnMut(ChangeKind, &[u8]) -> Result<()>,
) -> Result<()> {
    let _lease = engine.store.lease_of(&Objects::of_layers(&container.layers))?;
    let sources = ContainerTrees::open(engine, container)?;
    let points = sources.mount_points(engine, container)?;
    let walk = Walk::new(sources.upper, Some(sources.lower), Mode::Overlay, points);
    walk.run(&mut |event| tell_change(event, tell))?;
    check_is_there(engine, container)
}

/// Tells what the image `new` changes against `old`, or its topmost layer against those below it where there is no other.
pub fn image_changes(
    engine: &Engine,
    new: &LoadedImage,
    old: Option<&LoadedImage>,
    tell: &mut dyn FnMut(ChangeKind, &[u8]) -> Result<()>,
) -> Result<()> {
    let layers = &new.config.diff_ids;
    let below = old.map_or(&layers[..layers.len().saturating_sub(1)], |old| &old.config.diff_ids);
    let mut both = Objects::of_layers(layers);
    both.add_layers(below);
    let lease = engine.store.lease_of(&both)?;
    let was_there = !below.is_empty() && engine.layerfs.has_chain(below)?;
    let told = (|| {
        let upper = chain_root(engine, None, layers)?;
        let lower = if below.is_empty() { None } else { Some(chain_root(engine, None, below)?) };
        let mut walk = Walk::new(upper, lower, Mode::Trees, MountPoints::default());
        walk.written = written_names(engine, layers, below);
        walk.run(&mut |event| tell_change(event, tell))
    })();
    drop(lease);
    if !was_there && let Some(chain) = ChainId::of_layers(below) {
        forget_chain(engine, chain);
    }
    told
}

/// Gives the hashes of all names, without their directories, that only one of two stacks of layers writes; `None` where that
/// cannot be told.
///
/// Of the common layers comes the same file under any other name: a layer moves nothing, and wherever the symlinks on
/// its way lead, what it writes keeps the last name. So only files of these names need be read to be compared.
fn written_names(engine: &Engine, new: &[DiffId], old: &[DiffId]) -> Option<HashSet<u64>> {
    let common = new.iter().zip(old).take_while(|(new, old)| new == old).count();
    let mut names = HashSet::new();
    for layer in new[common..].iter().chain(&old[common..]) {
        let mut index = engine.layerfs.open_index(*layer).ok()??;
        while let Some(entry) = index.next_entry().ok()? {
            names.insert(hash_name(&entry.path));
        }
    }
    Some(names)
}

/// Hashes the last name of a path.
fn hash_name(path: &[u8]) -> u64 {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let mut hasher = std::hash::DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

fn tell_change(event: Event<'_>, tell: &mut dyn FnMut(ChangeKind, &[u8]) -> Result<()>) -> Result<()> {
    let (kind, path) = match event {
        // The root is always there, and nobody asks.
        Event::Entry { path: b"", .. } | Event::Opaque { .. } | Event::Covered { .. } => return Ok(()),
        Event::Entry { kind, path, .. } => (kind, path),
        Event::Deleted { path, .. } => (ChangeKind::Deleted, path),
    };
    tell(kind, &[b"/", path].concat())
}

/// Mounts the chain of those layers and gives its root; by the backend `kind`, or by the one that an image's would be. The caller
/// holds a lease.
pub(crate) fn chain_root(engine: &Engine, kind: Option<BackendKind>, layers: &[DiffId]) -> Result<Node> {
    let chain = match kind {
        Some(kind) => engine.layerfs.ensure_sound_chain_of(kind, layers, Integrity::Sealed)?,
        None => engine.layerfs.ensure_sound_chain(layers, Integrity::Sealed)?,
    };
    let path = engine.layerfs.ensure_chain_mounted(&chain)?;
    let root = Node::root(&path)?;
    // The empty directory below the mount would be an image without files.
    match root.is_mount_root()? {
        true => Ok(root),
        false => Err(stos_layerfs::Error::NotMounted { chain: chain.chain_id(), path }.into()),
    }
}

/// Removes a chain that was merged only to be compared, unless an image has come that needs it, or another command is at work:
/// then it goes with the next sweep.
fn forget_chain(engine: &Engine, chain: ChainId) {
    let made = Objects { chains: [chain].into(), ..Objects::default() };
    if let Err(error) = take_back(engine, &made) {
        tracing::warn!(%chain, %error, "cannot remove what was merged for the comparison: the next sweep does");
    }
}

/// The two trees that a container's root is made of.
pub(crate) struct ContainerTrees {
    /// What it has changed, in overlayfs's form.
    pub(crate) upper: Node,
    /// Its image's.
    pub(crate) lower: Node,
}

impl ContainerTrees {
    /// Opens them, the image's by the container's own backend. The caller holds a lease.
    pub(crate) fn open(engine: &Engine, container: &ContainerRecord) -> Result<Self> {
        let lower = chain_root(engine, Some(container.backend), &container.layers)?;
        let upper = Node::root(&engine.store.container_dir(&container.id).join("upper"))?;
        Ok(Self { upper, lower })
    }

    pub(crate) fn mount_points(&self, engine: &Engine, container: &ContainerRecord) -> Result<MountPoints> {
        MountPoints::read(engine, container, &self.upper, &self.lower)
    }
}

/// Refuses what was read of a container that has been removed meanwhile: files were missing that it had.
pub(crate) fn check_is_there(engine: &Engine, container: &ContainerRecord) -> Result<()> {
    match crate::container::record(engine, &container.id)? {
        Some(_) => Ok(()),
        None => Err(Error::NoSuchContainer(container.name.to_string())),
    }
}
