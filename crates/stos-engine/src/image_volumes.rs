// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images that are mounted in a container beside the one that it is made from: `--mount type=image`.
//!
//! ```text
//! containers/<id>/images/<n>/upper, work    what the container has written to the n-th, where it may
//! ```
//!
//! A container's record names the layers of such an image as it does its own: they are kept as long as the container is there. Each start
//! proves them by their seals, as those of the root. What is only read is a clone of the chain's mount, and shares its page cache; what
//! may be written to, or is seen by users of the container's own, is an overlay over it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stos_layerfs::{BackendKind, Integrity};
use stos_runtime::given_mount::GivenMount;
use stos_spec::{BlobDigest, ChainId, DiffId, Platform};
use stos_store::files;
use stos_sys::mount::{self, MountChange, MountPlan, UpperDirs};
use stos_sys::process::user_namespace::IdMappings;
use stos_sys::rooted::Root;

use crate::Engine;
use crate::changes::chain_root;
use crate::container::ContainerRecord;
use crate::create::setup_layerfs_for_container;
use crate::error::{Error, Result};
use crate::filesystem::copy_attributes;
use crate::image::find_image;
use crate::options::CreateOptions;
use crate::validate::validate_image_before_create;

/// What the source of the mount of an image begins with: the start puts it there. See [`crate::volumes`].
pub(crate) const GIVEN: &str = "/proc/0/images/";

/// `MOUNT_ATTR_RDONLY` of mount_setattr(2).
const READ_ONLY: u64 = 1;

/// An image that is to be mounted in a new container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageMountOption {
    /// A name or an ID. It is in the store already.
    pub image: String,
    /// In the container; absolute.
    pub target: PathBuf,
    /// Whether the container may write there; it alone sees that.
    pub writable: bool,
    /// A directory or file in it that is mounted instead of all of it.
    pub subpath: Option<PathBuf>,
}

/// An image as a container has it mounted: a part of its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedImage {
    /// The image as it was named.
    pub image: String,
    /// The image ID.
    pub image_id: BlobDigest,
    /// The image's manifest.
    pub manifest: BlobDigest,
    /// The image's layers, the lowest first.
    pub layers: Vec<DiffId>,
    /// The chain of those layers.
    pub chain: ChainId,
    /// The backend that shows them.
    pub backend: BackendKind,
    /// In the container; absolute.
    pub target: String,
    /// Whether the container may write there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub writable: bool,
    /// A directory or file in it that is mounted instead of all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subpath: Option<PathBuf>,
}

/// An image that a container needs of the store: that of its root, or one that is mounted in it.
#[derive(Debug, Clone, Copy)]
pub struct NeededImage<'a> {
    /// The image as it was named.
    pub image: &'a str,
    /// The image ID.
    pub image_id: BlobDigest,
    /// The image's manifest.
    pub manifest: BlobDigest,
    /// The image's layers, the lowest first.
    pub layers: &'a [DiffId],
    /// The chain of those layers.
    pub chain: ChainId,
    /// The backend that shows them.
    pub backend: BackendKind,
}

impl ContainerRecord {
    /// Gives the images that it needs, that of its root first.
    pub fn needed_images(&self) -> impl Iterator<Item = NeededImage<'_>> {
        let (layers, backend) = (self.layers.as_slice(), self.backend);
        let (image, image_id, manifest, chain) = (self.image.as_str(), self.image_id, self.manifest, self.chain);
        let own = NeededImage { image, image_id, manifest, layers, chain, backend };
        let mounted = self.images.iter().map(|used| NeededImage {
            image: &used.image,
            image_id: used.image_id,
            manifest: used.manifest,
            layers: &used.layers,
            chain: used.chain,
            backend: used.backend,
        });
        std::iter::once(own).chain(mounted)
    }
}

/// Refuses images that the store does not have: told before anything is fetched.
pub(crate) fn check(engine: &Engine, options: &CreateOptions) -> Result<()> {
    options.images.iter().try_for_each(|wanted| find_image(engine, &wanted.image).map(drop))
}

/// Finds and proves the images that a new container is to have, and sets up their layers. The caller keeps everything.
pub(crate) fn prove(engine: &Engine, options: &CreateOptions, platform: &Platform) -> Result<Vec<UsedImage>> {
    let mut used = Vec::new();
    for wanted in &options.images {
        let record = find_image(engine, &wanted.image)?.record;
        let proved = validate_image_before_create(engine, record, platform, options.integrity)?;
        let chain = setup_layerfs_for_container(engine, &proved.chain, options.integrity)?;
        let image = proved.image;
        used.push(UsedImage {
            image: image.record.reference.as_ref().map_or_else(|| wanted.image.clone(), ToString::to_string),
            image_id: image.record.image_id,
            manifest: image.record.manifest.digest,
            layers: image.config.diff_ids.clone(),
            chain: chain.chain_id(),
            backend: chain.kind(),
            target: wanted.target.display().to_string(),
            writable: wanted.writable,
            subpath: wanted.subpath.clone(),
        });
    }
    Ok(used)
}

/// Gives the mounts of a new container's images, with their places.
pub(crate) fn mounts(options: &CreateOptions) -> impl Iterator<Item = (String, Value)> {
    options.images.iter().enumerate().map(|(number, wanted)| {
        let (target, access) = (wanted.target.display().to_string(), if wanted.writable { "rw" } else { "ro" });
        let options = json!(["bind", access, "nosuid", "nodev", "rprivate"]);
        let source = format!("{GIVEN}{number}");
        (target.clone(), json!({"destination": target, "type": "bind", "source": source, "options": options}))
    })
}

/// Opens what a container's start is given of its images.
pub(crate) fn open_given(engine: &Engine, record: &ContainerRecord) -> Result<Vec<GivenMount>> {
    let open = |(number, used): (usize, &UsedImage)| {
        let mount = open(engine, record, number, used)?;
        Ok(GivenMount { source: PathBuf::from(format!("{GIVEN}{number}")), mount })
    };
    record.images.iter().enumerate().map(open).collect()
}

fn open(engine: &Engine, record: &ContainerRecord, number: usize, used: &UsedImage) -> Result<OwnedFd> {
    let ids = record.user_namespace.as_ref().map(|users| users.mappings.clone());
    let place = used.subpath.as_deref().unwrap_or(Path::new("/"));
    let failed = |source| Error::Tree { path: format!("{} of image {}", place.display(), used.image), source };
    let clone = |root: &Root| {
        let found = root.resolve(place).map_err(failed)?;
        mount::open_tree_clone_at(found.as_fd(), Path::new(""), false, false).map_err(failed)
    };
    let mount = if used.writable || ids.is_some() {
        let root = overlay(engine, record, number, used, ids)?;
        // A part of a mount that is nowhere attached can be cloned from Linux 6.15 on.
        if used.subpath.is_some() { clone(&Root::new(root))? } else { root }
    } else {
        let root = chain_root(engine, Some(used.backend), &used.layers)?;
        clone(&Root::open(&descriptor_path(root.as_fd()))?)?
    };
    if !used.writable {
        mount::change_mount(mount.as_fd(), MountChange { set: READ_ONLY, ..MountChange::default() })?;
    }
    Ok(mount)
}

/// Gives the path by which a descriptor is opened again.
fn descriptor_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/.", fd.as_raw_fd()))
}

/// Mounts what the container has written over what the image has.
fn overlay(
    engine: &Engine,
    record: &ContainerRecord,
    number: usize,
    used: &UsedImage,
    ids: Option<IdMappings>,
) -> Result<OwnedFd> {
    let chain = engine.layerfs.ensure_sound_chain_of(used.backend, &used.layers, Integrity::Sealed)?;
    let lower = engine.layerfs.ensure_chain_mounted(&chain)?;
    let dir = engine.store.container_dir(&record.id).join("images").join(number.to_string());
    let dirs = UpperDirs { upper: dir.join("upper"), work: dir.join("work"), volatile: record.is_volatile() };
    if !dirs.upper.exists() {
        files::ensure_directory(&dirs.upper)?;
        // overlayfs shows the upper's.
        copy_attributes(&lower, &dirs.upper)?;
    }
    files::ensure_directory(&dirs.work)?;
    Ok(MountPlan { ids, ..engine.layerfs.container_plan(&chain, dirs)? }.mount_detached()?)
}
