// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container's root as its processes see it, held by a descriptor.
//!
//! One that runs is seen through its first process's root. One that does not is mounted in a mount namespace of the caller's own,
//! with what is bind-mounted into it, under its lock: nobody starts it meanwhile, for two overlays over one upper directory are
//! undefined (Documentation/filesystems/overlayfs.rst). When the process ends nothing of it is left.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use serde_json::Value;
use stos_layerfs::Integrity;
use stos_runtime::RunState;
use stos_spec::UserSpec;
use stos_store::{Lease, Lock, Objects, files};
use stos_sys::mount::{self, MountChange};
use stos_sys::process::filesystem_ids::FilesystemIds;
use stos_sys::process::user_namespace::{IdMapping, IdMappings, make_user_namespace, read_mappings, to_host};
use stos_sys::rooted::{MountPoint, Root, file_type};

use super::CopyError;
use crate::Engine;
use crate::container::{ContainerRecord, ContainerState, state};
use crate::create::container_mount_plan;
use crate::error::{Error, Result};
use crate::filesystem::ensure_own_files;
use crate::image_volumes;
use crate::lifecycle::{life_lock, not_running, running};
use crate::lookup::look_up_user;
use crate::namespaces::SHM_OF_ANOTHER;
use crate::volumes::GIVEN;
use crate::volumes::memory::open_given_of_stopped;

/// `MOUNT_ATTR_RDONLY` of mount_setattr(2).
const READ_ONLY: u64 = 1;

/// Whether the process is in a mount namespace of its own: entered once, where the first stopped container is opened.
#[derive(Debug, Default)]
pub(super) struct Namespace {
    is_entered: bool,
}

impl Namespace {
    fn enter(&mut self) -> Result<()> {
        if !self.is_entered {
            mount::enter_private_namespace()?;
            self.is_entered = true;
        }
        Ok(())
    }
}

/// A container's root.
#[derive(Debug)]
pub(super) struct ContainerView {
    // In this order they are let go of: the mount is busy as long as its root is held, and the lock outlasts it.
    root: Root,
    _mounted: Option<Mounted>,
    _lease: Option<Lease>,
    _lock: Option<Lock>,
    mappings: IdMappings,
    user: UserSpec,
    name: String,
}

/// A mount that goes with this.
#[derive(Debug)]
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = mount::detach(&self.0) {
            tracing::warn!(%error, "the container's root stays mounted until this process ends");
        }
    }
}

impl ContainerView {
    /// Opens it, whether the container runs or not.
    pub fn open(engine: &Engine, record: &ContainerRecord, namespace: &mut Namespace) -> Result<Self> {
        loop {
            match running(engine, &record.id)? {
                Some(run) => {
                    if let Some(view) = Self::of_running(engine, record, &run)? {
                        return Ok(view);
                    }
                }
                None => {
                    let gone = || Error::NoSuchContainer(record.name.to_string());
                    let lock = life_lock(engine, &record.id)?.ok_or_else(gone)?;
                    if !matches!(state(engine, &record.id)?, ContainerState::Running(_)) {
                        return Self::of_stopped(engine, record, namespace, lock);
                    }
                }
            }
        }
    }

    /// `None` where it has ended meanwhile.
    fn of_running(engine: &Engine, record: &ContainerRecord, run: &RunState) -> Result<Option<Self>> {
        let Some(init) = &run.init else { return Err(not_running("copy from or to", engine, record)?) };
        let opened = Root::open(Path::new(&format!("/proc/{}/root", init.pid)));
        let mappings = rustix::process::Pid::from_raw(init.pid).map(read_mappings);
        // It lives after that: so it was its number all the time.
        if !init.is_alive()? {
            return match state(engine, &record.id)? {
                // Its monitor is about to write that down.
                ContainerState::Running(_) => {
                    std::thread::sleep(crate::lifecycle::START_INTERVAL);
                    Ok(None)
                }
                _ => Ok(None),
            };
        }
        let mappings = mappings.transpose()?.unwrap_or_default();
        Ok(Some(Self::new(record, opened?, mappings)))
    }

    fn new(record: &ContainerRecord, root: Root, mappings: IdMappings) -> Self {
        let (user, name) = (record.user.clone(), record.name.to_string());
        Self { root, _mounted: None, _lease: None, _lock: None, mappings, user, name }
    }

    fn of_stopped(engine: &Engine, record: &ContainerRecord, namespace: &mut Namespace, lock: Lock) -> Result<Self> {
        let mut needed = Objects::default();
        record.needed_images().for_each(|image| needed.add_layers(image.layers));
        let lease = engine.store.lease_of(&needed)?;
        let chain = engine.layerfs.ensure_sound_chain_of(record.backend, &record.layers, Integrity::Sealed)?;
        // The image's own mount stays on the host, as after a start.
        engine.layerfs.ensure_chain_mounted(&chain)?;
        namespace.enter()?;
        let dir = engine.store.container_dir(&record.id);
        let view = container_mount_plan(engine, record, &chain)?.mount_detached()?;
        // Of all that the container has nobody needs this one by its path: overlay holds it.
        let place = dir.join("work");
        mount::attach(view.as_fd(), &place)?;
        let mounted = Mounted(place);
        let root = Root::new(view);
        ensure_own_files(engine, record, None)?;
        let config: Value = files::read_json(&dir.join("config.json"))?.unwrap_or_default();
        let mut given = open_given_of_stopped(engine, record)?;
        given.extend(image_volumes::open_given(engine, record)?);
        let mappings = record.user_namespace.as_ref().map(|users| users.mappings.clone()).unwrap_or_default();
        {
            // Mount points may be missing.
            let _ids = filesystem_ids(&mappings)?;
            for bind in config["mounts"].as_array().into_iter().flatten() {
                let source = bind["source"].as_str().unwrap_or_default();
                let at = given.iter().position(|given| given.source == Path::new(source));
                let given = at.map(|at| given.swap_remove(at).mount);
                attach_bind(&root, &dir, bind, given, &mappings)?;
            }
        }
        let view = Self::new(record, root, mappings);
        Ok(Self { _mounted: Some(mounted), _lease: Some(lease), _lock: Some(lock), ..view })
    }

    /// The same view for the other end of a copy. It must not outlast this one.
    pub fn again(&self, record: &ContainerRecord) -> Result<Self> {
        let root =
            self.root.as_fd().try_clone_to_owned().map_err(stos_store::Error::io("duplicate", "a descriptor"))?;
        Ok(Self::new(record, Root::new(root), self.mappings.clone()))
    }

    pub fn root(&self) -> &Root {
        &self.root
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The numbers of users and groups; empty where they are the host's.
    pub fn mappings(&self) -> &IdMappings {
        &self.mappings
    }

    /// Makes files as the container's root as long as what comes back is held: in its filesystems the host's has no id.
    pub fn filesystem_ids(&self) -> Result<Option<FilesystemIds>> {
        filesystem_ids(&self.mappings)
    }

    /// Whom the container runs as, in the host's numbers.
    pub fn owner(&self) -> Result<(u32, u32)> {
        let (uid, gid, _) = look_up_user(&self.root, &self.user)?;
        Ok((mapped(&self.mappings.users, uid)?, mapped(&self.mappings.groups, gid)?))
    }
}

fn filesystem_ids(mappings: &IdMappings) -> Result<Option<FilesystemIds>> {
    match mappings.root() {
        None | Some((0, 0)) => Ok(None),
        Some((uid, gid)) => Ok(Some(FilesystemIds::take(uid, gid)?)),
    }
}

/// An id of the container's in the host's numbers; without a user namespace they are the same.
pub(super) fn mapped(mappings: &[IdMapping], id: u32) -> std::result::Result<u32, CopyError> {
    match mappings {
        [] => Ok(id),
        mappings => to_host(mappings, id).ok_or(CopyError::Unmapped { id }),
    }
}

/// Mounts what config.json binds into the container. What is not there any more is left out: the container could not start either.
/// `given` is what is mounted, where no path leads to it.
fn attach_bind(root: &Root, dir: &Path, bind: &Value, given: Option<OwnedFd>, mappings: &IdMappings) -> Result<()> {
    let (Some(source), Some(target)) = (bind["source"].as_str(), bind["destination"].as_str()) else { return Ok(()) };
    let has = |option: &str| bind["options"].as_array().is_some_and(|options| options.iter().any(|it| it == option));
    // Another container's shared memory is there while both run, a volume in memory while this one does.
    let is_gone = source == SHM_OF_ANOTHER || (source.starts_with(GIVEN) && given.is_none());
    if !(has("bind") || has("rbind")) || is_gone {
        return Ok(());
    }
    let (clone, kind) = match given {
        Some(given) => match file_type(given.as_fd())? {
            FileType::Directory => (given, MountPoint::Directory),
            _ => (given, MountPoint::File),
        },
        None => {
            // Its own files and volumes are named from where config.json lies.
            let source = dir.join(source);
            let kind = match std::fs::metadata(&source) {
                Ok(found) if found.is_dir() => MountPoint::Directory,
                Ok(_) => MountPoint::File,
                Err(error) => {
                    tracing::warn!(source = %source.display(), %error, "what is mounted in the container is not there");
                    return Ok(());
                }
            };
            (mount::open_tree_clone(&source, has("rbind"))?, kind)
        }
    };
    if has("idmap") {
        let namespace = make_user_namespace(mappings).map_err(stos_runtime::Error::from)?;
        mount::map_mount_ids(clone.as_fd(), namespace.as_fd(), false)?;
    }
    if has("ro") || has("rro") {
        let change = MountChange { set: READ_ONLY, recursive: has("rro"), ..MountChange::default() };
        mount::change_mount(clone.as_fd(), change)?;
    }
    let point = root.ensure_mount_point(Path::new(target), kind)?;
    Ok(mount::attach_at(clone.as_fd(), point.as_fd())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_user_namespace() {
        let mappings = [IdMapping { container: 0, host: 100_000, size: 1000 }];
        assert_eq!(mapped(&mappings, 7).unwrap(), 100_007);
        assert!(matches!(mapped(&mappings, 1000), Err(CopyError::Unmapped { id: 1000 })));
        assert_eq!(mapped(&[], 1000).unwrap(), 1000);
    }
}
