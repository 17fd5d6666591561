// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `/dev`: the default devices and links of config-linux.md, and those of `linux.devices`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, chownat, makedev, mknodat, statat, symlinkat};
use rustix::io::Errno;
use stos_sys::SysError;
use stos_sys::mount::attach_at;
use stos_sys::rooted::{MountPoint, Root};

use super::Step;
use super::rootfs::{self, Mounted};
use crate::config::settings::NodeKind;
use crate::config::{DeviceNode, Settings};
use crate::init_error::InitError;

pub(crate) const DEFAULT_DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Fills `/dev`, and gives the root. A `/dev` bound from the host has all that it should, and stays as it is.
///
/// With a user namespace there are bound devices of the host in the place of nodes, which could not be made.
pub(super) fn create(mounted: Mounted, settings: &Settings) -> Step<Root> {
    if settings.binds_dev() {
        return Ok(mounted.root);
    }
    let step = || InitError::step("set up /dev");
    let dev = rootfs::open_dev(&mounted, settings)?;
    let Mounted { root, devices: bound, .. } = mounted;
    let are_bound = bound.is_some();
    for (path, mount) in bound.into_iter().flatten() {
        bind_device(&root, &path, &mount).map_err(|error| device_error(&path, error))?;
    }
    for node in settings.devices.iter().filter(|node| !are_bound || node.kind == NodeKind::Fifo) {
        create_node(&root, node)?;
    }
    for (name, major, minor) in DEFAULT_DEVICES {
        let path = Path::new("/dev").join(name);
        if are_bound || !is_default(settings, &path) {
            continue;
        }
        let node = DeviceNode { path, kind: NodeKind::Character(major, minor), mode: None, uid: None, gid: None };
        make_node(dev.as_fd(), Path::new(name), &node).map_err(|error| device_error(&node.path, error))?;
    }
    for (name, target) in LINKS {
        match symlinkat(target, &dev, name) {
            // An image or a bundle may bring its own.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(step()(SysError::new("symlinkat", format!("/dev/{name} -> {target}"), errno))),
        }
    }
    Ok(root)
}

/// Whether the default device at `path` is to be made: not where the bundle has one of its own, or mounts something.
pub(crate) fn is_default(settings: &Settings, path: &Path) -> bool {
    let is_mounted = settings.mounts.iter().any(|mount| mount.destination == path);
    !is_mounted && settings.devices.iter().all(|node| node.path != path)
}

fn bind_device(root: &Root, path: &Path, mount: &OwnedFd) -> Result<(), SysError> {
    let target = root.ensure_mount_point(path, MountPoint::File)?;
    attach_at(mount.as_fd(), target.as_fd())
}

fn device_error(path: &Path, error: SysError) -> InitError {
    InitError::Device { path: path.to_owned(), reason: error.into() }
}

fn create_node(root: &Root, node: &DeviceNode) -> Step {
    let failed = |error| device_error(&node.path, error);
    let (Some(parent), Some(name)) = (node.path.parent(), node.path.file_name()) else {
        return Err(failed(SysError::new("mknodat", node.path.display().to_string(), Errno::INVAL)));
    };
    let directory = root.create_dir_all(parent, Mode::from_raw_mode(0o755)).map_err(failed)?;
    make_node(directory.as_fd(), &PathBuf::from(name), node).map_err(failed)
}

fn make_node(directory: BorrowedFd<'_>, name: &Path, node: &DeviceNode) -> Result<(), SysError> {
    let (kind, number) = match node.kind {
        NodeKind::Character(major, minor) => (FileType::CharacterDevice, makedev(major, minor)),
        NodeKind::Block(major, minor) => (FileType::BlockDevice, makedev(major, minor)),
        NodeKind::Fifo => (FileType::Fifo, 0),
    };
    let shown = || format!("{}, {kind:?}, {:?}", node.path.display(), node.kind);
    match mknodat(directory, name, kind, Mode::from_raw_mode(node.mode.unwrap_or(0o666)), number) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            // The very device may be there, from an image with a /dev of its own; anything else would pass for it.
            let found = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(SysError::at("fstatat", shown))?;
            let same =
                FileType::from_raw_mode(found.st_mode) == kind && (kind == FileType::Fifo || found.st_rdev == number);
            if !same {
                return Err(SysError::new("mknodat", shown(), Errno::EXIST));
            }
        }
        Err(errno) => return Err(SysError::new("mknodat", shown(), errno)),
    }
    let (uid, gid) = (node.uid.unwrap_or(0), node.gid.unwrap_or(0));
    if uid == 0 && gid == 0 {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(SysError::at("fchownat", shown))
}
