// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Read-only and masked paths.
//!
//! Each path is resolved once, inside the root, to a descriptor; what is checked is that descriptor, and the cover is
//! attached to it. Below `/proc` and `/sys` it must lie on procfs and sysfs where the bundle mounts those: else a mask would
//! cover a decoy (CVE-2025-31133, CVE-2025-52565, CVE-2025-52881).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, fstat, major, minor};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use stos_sys::SysError;
use stos_sys::mount::{FsParameter, MountChange, attach_at, change_mount, new_filesystem, open_tree_clone_at};
use stos_sys::rooted::{PROC_MAGIC, Root, SYSFS_MAGIC, file_type, filesystem_magic};

use super::Step;
use super::isolation::open_host_path;
use super::rootfs::COVERS_ROOT;
use crate::config::Settings;
use crate::init_error::InitError;

/// Protects every path that the bundle names. One that does not exist needs no protection.
pub(super) fn paths(root: &Root, settings: &Settings, mut covers: Covers) -> Step {
    for path in &settings.readonly_paths {
        if let Some(target) = resolve(root, path, settings, &covers)? {
            make_read_only(target.as_fd()).map_err(InitError::step(format!("make {} read-only", path.display())))?;
        }
    }
    for path in &settings.masked_paths {
        if let Some(target) = resolve(root, path, settings, &covers)? {
            covers.mask(target.as_fd()).map_err(InitError::step(format!("mask {}", path.display())))?;
        }
    }
    Ok(())
}

/// Finds what is to be protected. `None` where nothing is there, or it is masked already: by another name of it, or the same again.
fn resolve(root: &Root, path: &Path, settings: &Settings, covers: &Covers) -> Step<Option<OwnedFd>> {
    let target = match root.resolve(path) {
        Ok(target) => target,
        Err(error) if matches!(error.errno, Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(InitError::step(format!("find {}", path.display()))(error)),
    };
    let inspect = || InitError::step("look at a path to protect");
    let mut is_kernels = false;
    for (place, fstype, magic) in [("/proc", "proc", PROC_MAGIC), ("/sys", "sysfs", SYSFS_MAGIC)] {
        let mounted = settings.mounts.iter().any(|m| m.fstype == fstype && m.destination == Path::new(place));
        if !path.starts_with(place) || !mounted {
            continue;
        }
        let found = filesystem_magic(target.as_fd()).map_err(inspect())?;
        // What the bundle itself mounts below /sys (cgroups) is no decoy of the image's.
        let by_bundle =
            settings.mounts.iter().any(|m| m.destination != Path::new(place) && path.starts_with(&m.destination));
        is_kernels |= found == magic;
        if !is_kernels && covers.include(target.as_fd()).map_err(inspect())? {
            return Ok(None);
        }
        if !is_kernels && !by_bundle {
            return Err(InitError::NotProtected { path: path.to_owned(), expected: format!("{fstype} at {place}") });
        }
    }
    if !is_kernels && root.is_root(target.as_fd()).map_err(inspect())? {
        return Err(InitError::MountRefused { destination: path.to_owned(), rule: COVERS_ROOT.to_owned() });
    }
    Ok(Some(target))
}

fn make_read_only(target: BorrowedFd<'_>) -> Result<(), SysError> {
    let view = open_tree_clone_at(target, Path::new(""), true, true)?;
    let set = MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into();
    change_mount(view.as_fd(), MountChange { set, recursive: true, ..MountChange::default() })?;
    attach_at(view.as_fd(), target)
}

/// What masks are made of: the null device for files, one empty read-only tmpfs for directories.
pub(super) struct Covers {
    /// The host's, and not what the container's `/dev/null` may be; `None` where nothing is masked.
    null: Option<OwnedFd>,
    /// Attached already; further directories get clones of it.
    directory: Option<OwnedFd>,
}

impl Covers {
    /// Takes from the host what `settings` need. To be called before the root is attached.
    pub(super) fn open(settings: &Settings) -> Step<Self> {
        let null = if settings.masked_paths.is_empty() { None } else { Some(null_device()) };
        let null = null.transpose().map_err(InitError::step("open the host's null device"))?;
        Ok(Self { null, directory: None })
    }

    /// Whether a file is one of these. The null device is the host's, and no image leads to it, nor to the tmpfs.
    fn include(&self, file: BorrowedFd<'_>) -> Result<bool, SysError> {
        let identity = |fd: BorrowedFd<'_>| match fstat(fd) {
            Ok(stat) => Ok((stat.st_dev, stat.st_ino)),
            Err(errno) => Err(SysError::new("fstat", "a mask", errno)),
        };
        let file = identity(file)?;
        for cover in self.null.iter().chain(&self.directory) {
            if identity(cover.as_fd())? == file {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn mask(&mut self, target: BorrowedFd<'_>) -> Result<(), SysError> {
        if file_type(target)? != FileType::Directory {
            let null = self.null.as_ref().ok_or_else(|| SysError::new("open", "/dev/null", Errno::NODEV))?;
            let cover = open_tree_clone_at(null.as_fd(), Path::new(""), false, true)?;
            return attach_at(cover.as_fd(), target);
        }
        if let Some(attached) = &self.directory {
            let cover = open_tree_clone_at(attached.as_fd(), Path::new(""), false, true)?;
            return attach_at(cover.as_fd(), target);
        }
        let parameters = [("source", "tmpfs"), ("mode", "555"), ("nr_blocks", "1"), ("nr_inodes", "1")];
        let parameters = parameters.map(|(key, value)| FsParameter::String(key.into(), value.into()));
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let cover = new_filesystem("tmpfs", &parameters, attributes)?;
        attach_at(cover.as_fd(), target)?;
        self.directory = Some(cover);
        Ok(())
    }
}

fn null_device() -> Result<OwnedFd, SysError> {
    let path = Path::new("/dev/null");
    let null = open_host_path(path)?;
    let found = fstat(&null).map_err(SysError::at("fstat", || path.display().to_string()))?;
    let is_null = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice
        && (major(found.st_rdev), minor(found.st_rdev)) == (1, 3);
    if is_null {
        Ok(null)
    } else {
        Err(SysError::new("open", "/dev/null: expected the character device 1:3", Errno::NODEV))
    }
}
