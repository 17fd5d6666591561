// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the start of a container takes by a descriptor: volumes in memory, and directories in volumes.
//!
//! ```text
//! ROOT/volume-mounts/<store>/<name>    the filesystem of a volume in memory, as long as a container has it mounted
//! ```
//!
//! Data-roots may share a ROOT, so `<store>` tells them apart as with events. The volume's lock guards its mount.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::MountAttrFlags;
use stos_runtime::given_mount::GivenMount;
use stos_store::{VolumeName, files};
use stos_sys::mount::{self, FsParameter};
use stos_sys::rooted::Root;

use super::VolumeError;
use super::driver::{Backing, LocalOptions};
use super::plan::{GIVEN, UsedVolume};
use crate::Engine;
use crate::container::{self, ContainerRecord, ContainerState};
use crate::error::Result;

/// Opens what a container's start is given, in the place of the sources that its configuration names. A filesystem in memory that is
/// not there yet is made.
pub(crate) fn open_given(engine: &Engine, record: &ContainerRecord) -> Result<Vec<GivenMount>> {
    let mut given = Vec::new();
    for (number, used) in record.volumes.iter().enumerate().filter(|(_, used)| used.is_given()) {
        let source = PathBuf::from(format!("{GIVEN}{number}"));
        given.push(GivenMount { source, mount: open(engine, used)? });
    }
    Ok(given)
}

/// The same for who looks at a container that does not run: what is in memory only while it runs is not there.
pub(crate) fn open_given_of_stopped(engine: &Engine, record: &ContainerRecord) -> Result<Vec<GivenMount>> {
    let lasting = record.volumes.iter().cloned().map(|used| UsedVolume {
        subpath: used.subpath.filter(|_| !used.in_memory),
        in_memory: false,
        ..used
    });
    open_given(engine, &ContainerRecord { volumes: lasting.collect(), ..record.clone() })
}

fn open(engine: &Engine, used: &UsedVolume) -> Result<OwnedFd> {
    let missing = || VolumeError::NotFound(used.name.to_string());
    let _lock = engine.store.lock_volume(&used.name)?.ok_or_else(missing)?;
    let record = engine.store.volume(&used.name)?.ok_or_else(missing)?;
    let (path, recursive) = match LocalOptions::parse(&record.options)?.backing {
        Backing::Own => (engine.store.volume_data(&used.name), false),
        Backing::Host { device, recursive, .. } => (device, recursive),
        Backing::Memory { parameters, .. } => {
            let place = place(engine, &used.name);
            if !is_mounted(&place)? {
                mount::ensure_private_area(&area(engine)?)?;
                files::ensure_directory(&place)?;
                // Mount tables name it by that.
                let source = FsParameter::String("source".to_owned(), "tmpfs".to_owned());
                let parameters: Vec<_> = std::iter::once(source).chain(parameters).collect();
                let made = mount::new_filesystem("tmpfs", &parameters, MountAttrFlags::empty())?;
                mount::attach(made.as_fd(), &place)?;
            }
            (place, false)
        }
    };
    Ok(match &used.subpath {
        None => mount::open_tree_clone(&path, recursive)?,
        Some(subpath) => {
            let failed = |error: stos_sys::SysError| VolumeError::Subpath {
                volume: used.name.to_string(),
                subpath: subpath.display().to_string(),
                reason: error.to_string(),
            };
            // Containers write there: no symlink of theirs leads out.
            let found = Root::open(&path)?.resolve(subpath).map_err(failed)?;
            mount::open_tree_clone_at(found.as_fd(), Path::new(""), recursive, false)?
        }
    })
}

/// Unmounts the volumes in memory of a container that has ended, but for those that one has which runs: another one, or itself, where somebody
/// has started it again. What fails is told.
pub(crate) fn release(engine: &Engine, record: &ContainerRecord) {
    for used in record.volumes.iter().filter(|used| used.in_memory) {
        if let Err(error) = release_one(engine, &used.name) {
            tracing::warn!(volume = %used.name, %error, "it stays in memory until it is removed");
        }
    }
}

fn release_one(engine: &Engine, name: &VolumeName) -> Result<()> {
    // With it nobody is just about to mount one. A start counts as running before it comes to that.
    let Some(_lock) = engine.store.lock_volume(name)? else { return Ok(()) };
    for id in engine.store.containers()? {
        let Some(other) = container::record(engine, &id)? else { continue };
        let has_it = other.volumes.iter().any(|used| used.name == *name);
        if has_it && matches!(container::state(engine, &id)?, ContainerState::Running(_)) {
            return Ok(());
        }
    }
    unmount(engine, name)
}

/// Unmounts a volume in memory, where it is mounted. The caller holds its lock.
pub(crate) fn unmount(engine: &Engine, name: &VolumeName) -> Result<()> {
    let place = place(engine, name);
    while is_mounted(&place)? {
        mount::detach(&place)?;
    }
    match std::fs::remove_dir(&place) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(stos_store::Error::io("remove", &place)(error).into())
        }
        _ => Ok(()),
    }
}

fn is_mounted(path: &Path) -> Result<bool> {
    Ok(mount::mount_identity(path)?.is_some_and(|identity| identity.is_mount_root))
}

fn area(engine: &Engine) -> Result<PathBuf> {
    let area = engine.root.join("volume-mounts");
    files::ensure_directory(&area)?;
    Ok(area)
}

fn place(engine: &Engine, name: &VolumeName) -> PathBuf {
    let store = engine.journal.directory().file_name().unwrap_or_default().to_owned();
    engine.root.join("volume-mounts").join(store).join(name.as_str())
}
