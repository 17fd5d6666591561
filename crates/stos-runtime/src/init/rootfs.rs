// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The root, its mounts, pivot_root.
//!
//! The order keeps the host and the container apart. First all that comes from the host is opened: the root, the source of
//! each bind, the container's cgroups, and every new filesystem, for its parameters may be paths. Each is a detached mount with
//! its attributes. Then the new root is attached over `/`, where a `..` of a host path would cross onto it and an image's symlinks
//! decide what is mounted; so no path of the host is looked up any more. Last each mount is attached to a descriptor that was
//! resolved inside the root: no path is looked up twice.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

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
use super::cgroup_view::View;
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
    let root = match &launch.root {
        RootSource::Directory(path) => open_tree_clone(path, true),
        RootSource::Plan(plan) => plan.mount_detached(),
    };
    let root = root.map_err(InitError::step("mount the root"))?;
    let open = |request| Source::open(launch.bundle, request, cgroup).map_err(|error| mount_error(request, error));
    let sources: Vec<Option<Source>> = settings.mounts.iter().map(open).collect::<Step<_>>()?;
    attach(root.as_fd(), Path::new("/")).map_err(InitError::step("attach the root"))?;
    let root = Root::new(root);
    for (request, source) in settings.mounts.iter().zip(sources) {
        mount_one(&root, request, source)?;
    }
    Ok(root)
}

/// What a request mounts, detached, with its attributes.
enum Source {
    /// What a bind shows, and what kind of mount point it needs.
    Bind(OwnedFd, MountPoint),
    Filesystem(OwnedFd),
    Cgroups(View),
}

impl Source {
    /// `None` where a mount that is there already is changed.
    fn open(bundle: &Path, request: &MountRequest, cgroup: &CgroupRecord) -> Result<Option<Self>, SysError> {
        if request.options.remount {
            return Ok(None);
        }
        let source = match request.fstype.as_str() {
            "cgroup" | "cgroup2" => Self::Cgroups(View::open(request, cgroup)?),
            "bind" => {
                // config.md, "mounts": a source that is not absolute is relative to the bundle.
                let mount = open_tree_clone(&bundle.join(&request.source), request.options.bind == Some(true))?;
                let is_directory = file_type(mount.as_fd())? == FileType::Directory;
                apply_attributes(mount.as_fd(), request)?;
                Self::Bind(mount, if is_directory { MountPoint::Directory } else { MountPoint::File })
            }
            fstype => {
                let mount = new_filesystem(fstype, &with_source(request), MountAttrFlags::empty())?;
                apply_attributes(mount.as_fd(), request)?;
                Self::Filesystem(mount)
            }
        };
        Ok(Some(source))
    }
}

fn mount_error(request: &MountRequest, error: SysError) -> InitError {
    InitError::Mount {
        destination: request.destination.clone(),
        mount_source: request.source.clone(),
        fstype: request.fstype.clone(),
        options: request.raw_options.clone(),
        reason: error.into(),
    }
}

fn mount_one(root: &Root, request: &MountRequest, source: Option<Source>) -> Step {
    let failed = |error| mount_error(request, error);
    let Some(source) = source else { return remount(root, request).map_err(failed) };
    let (kind, shown) = match &source {
        Source::Bind(mount, kind) => (*kind, Some(mount.as_fd())),
        Source::Filesystem(_) | Source::Cgroups(_) => (MountPoint::Directory, None),
    };
    let target = mount_point(root, request, kind).map_err(failed)?;
    check_inside_proc(request, target.as_fd(), shown)?;
    let mount = match source {
        Source::Cgroups(view) => view.attach(request, target.as_fd()).map_err(failed)?,
        Source::Bind(mount, _) | Source::Filesystem(mount) => {
            attach_at(mount.as_fd(), target.as_fd()).map_err(failed)?;
            mount
        }
    };
    set_propagation(mount.as_fd(), request).map_err(failed)
}

/// The options of a new filesystem and its source: mount tables name it by that, and say "none" without.
fn with_source(request: &MountRequest) -> Vec<FsParameter> {
    let source = request.source.to_str().filter(|source| (1..=FSCONFIG_STRING_MAX).contains(&source.len()));
    let source = source.unwrap_or(&request.fstype).to_owned();
    let source = [FsParameter::String("source".into(), source)];
    source.into_iter().chain(request.options.parameters.iter().cloned()).collect()
}

/// The mount point of a request, made where it is missing. procfs and sysfs must be where they are asked for: through a
/// symlink of the image they would be elsewhere, and `/proc` and `/sys` what the image likes (CVE-2019-19921,
/// CVE-2023-27561). What was resolved without symlinks is what is used.
fn mount_point(root: &Root, request: &MountRequest, kind: MountPoint) -> Result<OwnedFd, SysError> {
    let path = &request.destination;
    if !matches!(request.fstype.as_str(), "proc" | "sysfs") {
        return root.ensure_mount_point(path, kind);
    }
    match root.resolve_without_symlinks(path) {
        Err(error) if error.errno == Errno::NOENT => {
            root.ensure_mount_point(path, kind)?;
            root.resolve_without_symlinks(path)
        }
        found => found,
    }
}

/// Sets attributes. A bind keeps those of its source that the options do not name: nothing is made writable, or its
/// devices usable, but by asking.
pub(super) fn apply_attributes(mount: BorrowedFd<'_>, request: &MountRequest) -> Result<(), SysError> {
    change_attributes(mount, request.options.recursive, true)?;
    change_attributes(mount, request.options.attributes, false)
}

fn change_attributes(mount: BorrowedFd<'_>, change: Attributes, recursive: bool) -> Result<(), SysError> {
    let Attributes { set, clear } = change;
    if change.is_empty() {
        Ok(())
    } else {
        change_mount(mount, MountChange { set, clear, propagation: None, recursive })
    }
}

fn set_propagation(mount: BorrowedFd<'_>, request: &MountRequest) -> Result<(), SysError> {
    for (propagation, recursive) in &request.options.propagation {
        let change = MountChange { propagation: Some(*propagation), recursive: *recursive, ..MountChange::default() };
        change_mount(mount, change)?;
    }
    Ok(())
}

/// Changes the mount at the destination as mount(2) with MS_REMOUNT does: the attributes given replace the others. Recursive
/// ones (`rro`) change what is mounted below too.
fn remount(root: &Root, request: &MountRequest) -> Result<(), SysError> {
    let target = root.resolve(&request.destination)?;
    let (own, recursive) = (request.options.attributes, request.options.recursive);
    change_attributes(target.as_fd(), recursive, true)?;
    let replaced = REPLACED_BY_REMOUNT & !(own.set | recursive.set);
    change_attributes(target.as_fd(), Attributes { set: own.set, clear: own.clear | replaced }, false)?;
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
