// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `/sys/fs/cgroup` as the container sees it: its own directories, and never the host's tree.
//!
//! A bind of the container's directory is the same view with and without a cgroup namespace. With v1 a small tmpfs holds
//! one directory for each hierarchy and, as on a host, a symlink for each controller that shares one.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, symlinkat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use stos_sys::SysError;
use stos_sys::mount::{FsParameter, MountChange, attach_at, change_mount, new_filesystem, open_tree_clone};
use stos_sys::rooted::{MountPoint, Root};

use crate::cgroup::{CgroupDirectory, CgroupRecord, Version};
use crate::config::MountRequest;

/// Mounts the view that `request` asks for.
pub(super) fn mount(root: &Root, request: &MountRequest, cgroup: &CgroupRecord) -> Result<(), SysError> {
    let unified = cgroup.directories.iter().find(|directory| directory.version == Version::V2);
    let only_v2 = cgroup.directories.iter().all(|directory| directory.version == Version::V2);
    match unified {
        Some(directory) if only_v2 || request.fstype == "cgroup2" => {
            let target = root.ensure_mount_point(&request.destination, MountPoint::Directory)?;
            bind(directory, request, target.as_fd())
        }
        None if request.fstype == "cgroup2" => {
            Err(SysError::new("mount", "cgroup2: no v2 hierarchy on this machine", Errno::NODEV))
        }
        _ => mount_all(root, request, cgroup),
    }
}

fn bind(
    directory: &CgroupDirectory,
    request: &MountRequest,
    target: std::os::fd::BorrowedFd<'_>,
) -> Result<(), SysError> {
    let view = open_tree_clone(&directory.path, false)?;
    let attributes = request.options.attributes;
    if !attributes.is_empty() {
        let change = MountChange { set: attributes.set, clear: attributes.clear, ..MountChange::default() };
        change_mount(view.as_fd(), change)?;
    }
    attach_at(view.as_fd(), target)
}

fn mount_all(root: &Root, request: &MountRequest, cgroup: &CgroupRecord) -> Result<(), SysError> {
    let target = root.ensure_mount_point(&request.destination, MountPoint::Directory)?;
    let parameters = [("source", "cgroup"), ("mode", "755")];
    let parameters = parameters.map(|(key, value)| FsParameter::String(key.into(), value.into()));
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let tmpfs = new_filesystem("tmpfs", &parameters, attributes)?;
    attach_at(tmpfs.as_fd(), target.as_fd())?;
    // A tmpfs of our own, empty: names in it are ours.
    let view = Root::new(tmpfs);
    for directory in &cgroup.directories {
        let Some(name) = directory.mount_point.file_name() else { continue };
        let target = view.create_dir_all(Path::new(name), Mode::from_raw_mode(0o755))?;
        bind(directory, request, target.as_fd())?;
        for controller in &directory.controllers {
            let alias = controller.strip_prefix("name=").unwrap_or(controller);
            if Path::new(alias) != Path::new(name) {
                link(&view, Path::new(name), alias)?;
            }
        }
    }
    if request.options.read_only {
        let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into();
        change_mount(view.as_fd(), MountChange { set: read_only, ..MountChange::default() })?;
    }
    Ok(())
}

fn link(view: &Root, target: &Path, alias: &str) -> Result<(), SysError> {
    match symlinkat(target, view, alias) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => {
            let shown: PathBuf = Path::new(alias).to_owned();
            Err(SysError::new("symlinkat", format!("{} -> {}", shown.display(), target.display()), errno))
        }
    }
}
