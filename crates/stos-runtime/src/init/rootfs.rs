// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The root, its mounts, pivot_root.
//!
//! The new root is mounted over `/` of the new mount namespace and worked on through its descriptor, so the host's paths
//! stay in view for bind sources until pivot_root(2). Each mount is made detached, given its attributes, and then attached to
//! a descriptor that was resolved inside the root: no path is looked up twice.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use stos_sys::SysError;
use stos_sys::mount::{
    FSCONFIG_STRING_MAX, FsParameter, MountChange, attach, attach_at, change_mount, change_mount_at, new_filesystem,
    open_tree_clone,
};
use stos_sys::rooted::{MountPoint, PROC_MAGIC, Root, file_type, filesystem_magic};

use super::Step;
use super::cgroup_view;
use crate::cgroup::CgroupRecord;
use crate::config::MountRequest;
use crate::init_error::InitError;
use crate::launch::{Launch, RootSource};
use crate::mount_options::{Attributes, REPLACED_BY_REMOUNT};

/// Mounts the root and everything in it, and gives the root.
pub(super) fn mount_all(launch: &Launch<'_>, cgroup: &CgroupRecord) -> Step<Root> {
    let settings = launch.config.settings();
    // The host's mounts never see ours: neither private nor slave mounts give anything back.
    let change = MountChange { propagation: Some(settings.propagation), recursive: true, ..MountChange::default() };
    change_mount_at(CWD, c"/", change).map_err(InitError::step("set the propagation of the host's mounts"))?;
    let root = mount_root(&launch.root)?;
    for request in &settings.mounts {
        mount_one(&root, launch.bundle, request, cgroup)?;
    }
    Ok(root)
}

fn mount_root(source: &RootSource<'_>) -> Step<Root> {
    let mount = match source {
        RootSource::Directory(path) => open_tree_clone(path, true),
        RootSource::Plan(plan) => plan.mount_detached(),
    };
    let mount = mount.map_err(InitError::step("mount the root"))?;
    attach(mount.as_fd(), Path::new("/")).map_err(InitError::step("attach the root"))?;
    Ok(Root::new(mount))
}

fn mount_one(root: &Root, bundle: &Path, request: &MountRequest, cgroup: &CgroupRecord) -> Step {
    let failed = |error: SysError| InitError::Mount {
        destination: request.destination.clone(),
        mount_source: request.source.clone(),
        fstype: request.fstype.clone(),
        options: request.raw_options.clone(),
        reason: error.into(),
    };
    if request.options.remount {
        return remount(root, request).map_err(failed);
    }
    let target = match request.fstype.as_str() {
        "cgroup" | "cgroup2" => return cgroup_view::mount(root, request, cgroup).map_err(failed),
        "bind" => {
            let (mount, kind) = bind(bundle, request).map_err(failed)?;
            let target = root.ensure_mount_point(&request.destination, kind).map_err(failed)?;
            check_inside_proc(request, target.as_fd(), Some(mount.as_fd()))?;
            attach_at(mount.as_fd(), target.as_fd()).map_err(failed)?;
            mount
        }
        fstype => {
            let parameters = with_source(request);
            let target = filesystem_target(root, request).map_err(failed)?;
            check_inside_proc(request, target.as_fd(), None)?;
            let mount = new_filesystem(fstype, &parameters, MountAttrFlags::empty()).map_err(failed)?;
            apply_attributes(mount.as_fd(), request).map_err(failed)?;
            attach_at(mount.as_fd(), target.as_fd()).map_err(failed)?;
            mount
        }
    };
    set_propagation(target.as_fd(), request).map_err(failed)
}

/// The options of a new filesystem and its source: mount tables name it by that, and say "none" without.
fn with_source(request: &MountRequest) -> Vec<FsParameter> {
    let source = request.source.to_str().filter(|source| (1..=FSCONFIG_STRING_MAX).contains(&source.len()));
    let source = source.unwrap_or(&request.fstype).to_owned();
    let source = [FsParameter::String("source".into(), source)];
    source.into_iter().chain(request.options.parameters.iter().cloned()).collect()
}

/// The mount point of a new filesystem. procfs and sysfs must be where they are asked for: through a symlink of the image
/// they would be elsewhere, and `/proc` and `/sys` what the image likes (CVE-2019-19921, CVE-2023-27561).
fn filesystem_target(root: &Root, request: &MountRequest) -> Result<OwnedFd, SysError> {
    if matches!(request.fstype.as_str(), "proc" | "sysfs") {
        match root.resolve_without_symlinks(&request.destination) {
            Err(error) if error.errno == Errno::NOENT => {}
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    root.ensure_mount_point(&request.destination, MountPoint::Directory)
}

/// Clones what a bind shows, with its attributes, and says what kind of mount point it needs.
fn bind(bundle: &Path, request: &MountRequest) -> Result<(OwnedFd, MountPoint), SysError> {
    // config.md, "mounts": a source that is not absolute is relative to the bundle.
    let source: PathBuf = bundle.join(&request.source);
    let mount = open_tree_clone(&source, request.options.bind == Some(true))?;
    let kind = if file_type(mount.as_fd())? == FileType::Directory { MountPoint::Directory } else { MountPoint::File };
    apply_attributes(mount.as_fd(), request)?;
    Ok((mount, kind))
}

/// Sets attributes. A bind keeps those of its source that the options do not name: nothing is made writable, or its
/// devices usable, but by asking.
fn apply_attributes(mount: BorrowedFd<'_>, request: &MountRequest) -> Result<(), SysError> {
    let change = |Attributes { set, clear }: Attributes, recursive| match (set, clear) {
        (0, 0) => Ok(()),
        _ => change_mount(mount, MountChange { set, clear, propagation: None, recursive }),
    };
    change(request.options.recursive, true)?;
    change(request.options.attributes, false)
}

fn set_propagation(mount: BorrowedFd<'_>, request: &MountRequest) -> Result<(), SysError> {
    for (propagation, recursive) in &request.options.propagation {
        let change = MountChange { propagation: Some(*propagation), recursive: *recursive, ..MountChange::default() };
        change_mount(mount, change)?;
    }
    Ok(())
}

/// Changes the mount at the destination as mount(2) with MS_REMOUNT does: the attributes given replace the others.
fn remount(root: &Root, request: &MountRequest) -> Result<(), SysError> {
    let target = root.resolve(&request.destination)?;
    let Attributes { set, clear } = request.options.attributes;
    let change = MountChange { set, clear: clear | (REPLACED_BY_REMOUNT & !set), propagation: None, recursive: false };
    change_mount(target.as_fd(), change)?;
    set_propagation(target.as_fd(), request)
}

/// Files of procfs that engines cover with their own (as runc's list has it): they inform, and nothing is decided by them.
const COVERABLE_IN_PROC: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Refuses mounts inside the container's procfs but for a few files: a faked `/proc/self/attr` would switch security
/// modules off, a faked `/proc/sys` would take what we write (CVE-2019-16884, CVE-2025-52881).
fn check_inside_proc(request: &MountRequest, target: BorrowedFd<'_>, source: Option<BorrowedFd<'_>>) -> Step {
    let inspect = InitError::step("look at a mount point");
    let on_proc = filesystem_magic(target).map_err(inspect)? == PROC_MAGIC;
    let inside = request.destination.starts_with("/proc") && request.destination != Path::new("/proc");
    if !on_proc && !inside {
        return match source {
            Some(source) if request.destination == Path::new("/proc") => proc_bind(request, source),
            None if request.destination == Path::new("/proc") && request.fstype != "proc" => {
                Err(refused(request, "only procfs may be mounted at /proc"))
            }
            _ => Ok(()),
        };
    }
    let coverable = COVERABLE_IN_PROC.iter().any(|path| request.destination == Path::new(path));
    // A second procfs on the first is what engines do to a bound one.
    let again = request.fstype == "proc" && request.destination == Path::new("/proc");
    if coverable || again { Ok(()) } else { Err(refused(request, "it would cover a part of procfs")) }
}

fn proc_bind(request: &MountRequest, source: BorrowedFd<'_>) -> Step {
    match filesystem_magic(source).map_err(InitError::step("look at a bind's source"))? {
        PROC_MAGIC => Ok(()),
        _ => Err(refused(request, "only procfs may be mounted at /proc")),
    }
}

fn refused(request: &MountRequest, rule: &str) -> InitError {
    InitError::MountRefused { destination: request.destination.clone(), rule: rule.to_owned() }
}

/// Makes the mounted root the process's own, and lets go of the host's.
pub(super) fn pivot(root: &Root) -> Step {
    let failed = |call, errno| InitError::step("enter the root")(SysError::new(call, "\".\"", errno));
    rustix::process::fchdir(root).map_err(|errno| failed("fchdir", errno))?;
    // Old and new root at one place: the old one lies on top, and is the one that is detached.
    rustix::process::pivot_root(".", ".").map_err(|errno| failed("pivot_root", errno))?;
    unmount(".", UnmountFlags::DETACH).map_err(|errno| failed("umount2", errno))?;
    rustix::process::chdir("/").map_err(|errno| failed("chdir", errno))
}

/// Makes the root itself read-only; what is mounted in it stays as it is.
pub(super) fn make_read_only(root: &Root) -> Step {
    let change = MountChange { set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), ..MountChange::default() };
    change_mount(root.as_fd(), change).map_err(InitError::step("make the root read-only"))
}
