// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images that a person has mounted: a read-only view of an image's root, at a path of its own, until it is unmounted.
//!
//! ```text
//! ROOT/image-mounts/<image ID>/root    the mount: a clone of the chain's, so it shares the page cache with containers
//! ROOT/image-mounts/<image ID>/mount.json   whose it is, and how often it was asked for
//! ```
//!
//! It stands by itself: what becomes of the chain's own mount does not touch it, and running containers do not touch it either.
//! `rmi` refuses an image that is mounted, or with `force` unmounts it. A reboot takes the mounts and ROOT with them.
//!
//! Data-roots may share a ROOT: who changes a mount holds the lock on the directory `ROOT/image-mounts` itself.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stos_spec::{BlobDigest, ImageRef};
use stos_store::files::{self, Durability};
use stos_store::{ImageSelector, Lock};
use stos_sys::mount::{self, MountChange};

use crate::Engine;
use crate::changes::chain_root;
use crate::error::{Error, Result};
use crate::image::find_image;
use crate::journal::Status;

/// The contents of `mount.json`.
#[derive(Debug, Serialize, Deserialize)]
struct MountRecord {
    /// The DATA-ROOT that has the image.
    store: PathBuf,
    image_id: BlobDigest,
    /// What it was called when it was mounted: by that it is found when the image is gone.
    #[serde(default)]
    names: Vec<ImageRef>,
    /// How often it was mounted and not unmounted.
    count: u32,
}

/// An image that is mounted.
#[derive(Debug, Clone, Serialize)]
pub struct MountedImage {
    /// The image ID.
    pub id: BlobDigest,
    /// Its names.
    pub names: Vec<String>,
    /// Where its root can be read.
    pub path: PathBuf,
}

/// `MOUNT_ATTR_RDONLY`, `MOUNT_ATTR_NOSUID` and `MOUNT_ATTR_NODEV` of mount_setattr(2): to be looked at, not to be run.
const LOOK_ONLY: u64 = 1 | 2 | 4;

/// Mounts an image for a person and gives where. One that is mounted is counted once more.
pub fn mount_image(engine: &Engine, image: &str) -> Result<MountedImage> {
    let _lease = engine.store.lease()?;
    // Before it is looked up: `rmi` holds it from where it asks whether an image is mounted until the image has gone.
    let _lock = lock_mounts(engine)?;
    let image = find_image(engine, image)?;
    let (id, dir) = (image.record.image_id, place(engine, image.record.image_id));
    let path = dir.join("root");
    let names = names_of(engine, id)?;
    let write = |count: u32| {
        let record = MountRecord { store: engine.store.root().to_owned(), image_id: id, names: names.clone(), count };
        files::replace(&dir.join("mount.json"), &dir, &files::to_json(&record), Durability::Volatile)
    };
    let count = match read_record(&dir)? {
        Some(record) if record.store != engine.store.root() => {
            return Err(Error::MountedElsewhere { image: image.name(), store: record.store });
        }
        Some(record) => record.count,
        None => {
            let root = chain_root(engine, None, &image.config.diff_ids)?;
            let view = mount::open_tree_clone_at(root.as_fd(), Path::new(""), false, false)?;
            mount::change_mount(view.as_fd(), MountChange { set: LOOK_ONLY, ..MountChange::default() })?;
            mount::ensure_private_area(&mounts_dir(engine))?;
            files::ensure_directory(&path)?;
            // Before the mount: one that a crash leaves is known, though nobody has asked for it yet, and unmounted like others.
            write(0)?;
            mount::attach(view.as_fd(), &path)?;
            0
        }
    };
    write(count.saturating_add(1))?;
    engine.note_image(Status::Mount, id, &image.record.reference.map(|name| name.to_string()).unwrap_or_default());
    describe(engine, id, path)
}

/// Lists the images of this store that are mounted, sorted by ID.
pub fn mounted_images(engine: &Engine) -> Result<Vec<MountedImage>> {
    let records = own_records(engine)?;
    records
        .into_iter()
        .map(|record| describe(engine, record.image_id, place(engine, record.image_id).join("root")))
        .collect()
}

/// Takes back one mount of an image, or with `force` all of them: with the last the path is gone. Gives the image's ID.
pub fn unmount_image(engine: &Engine, image: &str, force: bool) -> Result<BlobDigest> {
    let _lock = lock_mounts(engine)?;
    let record = find_record(engine, image)?;
    let id = record.image_id;
    release(engine, record, force)?;
    Ok(id)
}

/// Finds the mount of an image by what a person typed: also of one that the store does not have any more, by the names that it had
/// or by its ID.
fn find_record(engine: &Engine, image: &str) -> Result<MountRecord> {
    let found = engine.store.find_image(&ImageSelector::new(image));
    let mut records = own_records(engine)?;
    if let Ok(found) = &found
        && let Some(at) = records.iter().position(|record| record.image_id == found.image_id)
    {
        return Ok(records.swap_remove(at));
    }
    let typed = image.parse::<ImageRef>().ok();
    let digits = image.strip_prefix("sha256:").unwrap_or(image);
    let had_name = |own: &ImageRef| typed.as_ref().is_some_and(|typed| typed == own || typed.may_mean(own));
    let has_id = |record: &MountRecord| !digits.is_empty() && record.image_id.hex().starts_with(digits);
    records.retain(|record| record.names.iter().any(had_name) || has_id(record));
    match (records.pop(), found) {
        (Some(record), _) if records.is_empty() => Ok(record),
        (None, Err(error)) => Err(error.into()),
        (None, Ok(_)) => Err(Error::NotMounted { image: image.to_owned() }),
        (Some(last), _) => {
            records.push(last);
            let candidates = records.iter().map(|record| record.image_id.to_string()).collect();
            Err(stos_store::Error::AmbiguousImage { query: image.to_owned(), candidates }.into())
        }
    }
}

/// Does the same to all images of this store that are mounted. Gives their IDs.
pub fn unmount_all_images(engine: &Engine, force: bool) -> Result<Vec<BlobDigest>> {
    let _lock = lock_mounts(engine)?;
    let records = own_records(engine)?.into_iter();
    records
        .map(|record| {
            let id = record.image_id;
            release(engine, record, force).map(|()| id)
        })
        .collect()
}

/// Tells whether a person has mounted an image, and holds the right to change mounts: as long as the lock is held, that is so.
pub(crate) fn is_image_mounted(engine: &Engine, id: BlobDigest) -> Result<(bool, Lock)> {
    let lock = lock_mounts(engine)?;
    let record = read_record(&place(engine, id))?;
    Ok((record.is_some_and(|record| record.store == engine.store.root()), lock))
}

/// Gives the images of this store that are mounted, and holds the right to change mounts: as long as the lock is held, that is so.
pub(crate) fn lock_mounted_images(engine: &Engine) -> Result<(Vec<BlobDigest>, Lock)> {
    let lock = lock_mounts(engine)?;
    Ok((own_records(engine)?.into_iter().map(|record| record.image_id).collect(), lock))
}

/// Unmounts images that the store does not have any more, with `dry_run` none, and gives their IDs. The caller holds the right to
/// sweep.
pub(crate) fn sweep_image_mounts(engine: &Engine, dry_run: bool) -> Result<Vec<BlobDigest>> {
    let mut gone = Vec::new();
    if !mounts_dir(engine).exists() {
        return Ok(gone);
    }
    let images = engine.store.images()?;
    let _lock = lock_mounts(engine)?;
    for record in own_records(engine)? {
        let id = record.image_id;
        if !images.iter().any(|image| image.image_id == id) {
            if !dry_run {
                release(engine, record, true)?;
            }
            gone.push(id);
        }
    }
    Ok(gone)
}

fn mounts_dir(engine: &Engine) -> PathBuf {
    engine.root.join("image-mounts")
}

fn place(engine: &Engine, id: BlobDigest) -> PathBuf {
    mounts_dir(engine).join(id.hex())
}

/// Waits for the right to change mounts.
fn lock_mounts(engine: &Engine) -> Result<Lock> {
    let dir = mounts_dir(engine);
    files::ensure_directory(&dir)?;
    Ok(Lock::wait_for_directory(&dir)?)
}

/// Gives the record of a mount that is there: a ROOT that outlasts a reboot keeps records, and no mount.
fn read_record(dir: &Path) -> Result<Option<MountRecord>> {
    let record = files::read_json(&dir.join("mount.json"))?;
    Ok(if record.is_some() && is_mounted(&dir.join("root"))? { record } else { None })
}

/// The records of this store's images.
fn own_records(engine: &Engine) -> Result<Vec<MountRecord>> {
    let mut records = Vec::new();
    for name in files::list_names(&mounts_dir(engine))? {
        let record = read_record(&mounts_dir(engine).join(&name))?;
        records.extend(record.filter(|record| record.store == engine.store.root() && record.image_id.hex() == name));
    }
    Ok(records)
}

fn is_mounted(path: &Path) -> Result<bool> {
    Ok(mount::mount_identity(path)?.is_some_and(|identity| identity.is_mount_root))
}

/// Counts one mount less; with the last, or by force, the mount goes. Who has files of it open keeps them. The caller holds the lock.
fn release(engine: &Engine, record: MountRecord, force: bool) -> Result<()> {
    let (id, name) = (record.image_id, record.names.first().map(ToString::to_string).unwrap_or_default());
    count_less(&place(engine, id), record, force)?;
    engine.note_image(Status::Unmount, id, &name);
    Ok(())
}

fn count_less(dir: &Path, record: MountRecord, force: bool) -> Result<()> {
    let count = record.count.saturating_sub(1);
    if count > 0 && !force {
        let record = MountRecord { count, ..record };
        return Ok(files::replace(&dir.join("mount.json"), dir, &files::to_json(&record), Durability::Volatile)?);
    }
    let path = dir.join("root");
    while is_mounted(&path)? {
        mount::detach(&path)?;
    }
    Ok(files::remove_tree(dir)?)
}

fn describe(engine: &Engine, id: BlobDigest, path: PathBuf) -> Result<MountedImage> {
    let names = names_of(engine, id)?.iter().map(ToString::to_string).collect();
    Ok(MountedImage { id, names, path })
}

fn names_of(engine: &Engine, id: BlobDigest) -> Result<Vec<ImageRef>> {
    let images = engine.store.images()?.into_iter().filter(|image| image.image_id == id);
    Ok(images.filter_map(|image| image.reference).collect())
}
