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

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use stos_sys::SysError;
use stos_sys::mount::{
    FSCONFIG_STRING_MAX, FsParameter, MountChange, Propagation, attach, attach_at, change_mount, change_mount_at,
    new_filesystem, open_tree_clone,
};
use stos_sys::rooted::{
    CGROUP_MAGIC, CGROUP2_MAGIC, MountPoint, PROC_MAGIC, Root, SYSFS_MAGIC, file_type, filesystem_magic,
};

use super::Step;
use super::cgroup_view::View;
use super::copy_up::copy_tree;
use crate::cgroup::CgroupRecord;
use crate::config::{MountRequest, Settings};
use crate::init_error::InitError;
use crate::launch::{Launch, RootSource};
use crate::mount_options::{Attributes, REPLACED_BY_REMOUNT};
use crate::sources::{BoundDevices, HostSources};

/// The root, detached or in its place, and what the launch has taken from the host.
pub(super) struct Tree {
    root: OwnedFd,
    /// Whether it is attached already.
    is_attached: bool,
    binds: Option<Vec<Option<OwnedFd>>>,
    devices: Option<BoundDevices>,
}

/// Separates the mount namespace from the host's and opens the root.
///
/// With a user namespace the place of the root is reached with the caller's ids, which the process still has here.
pub(super) fn open(launch: &Launch<'_>, sources: Option<HostSources>) -> Step<Tree> {
    let settings = launch.config.settings();
    if let propagation @ Some(_) = settings.propagation.of_host {
        // The host's mounts never see ours: neither private nor slave mounts give anything back.
        let change = MountChange { propagation, recursive: true, ..MountChange::default() };
        change_mount_at(CWD, c"/", change).map_err(InitError::step("set the propagation of the host's mounts"))?;
    }
    let (root, binds, devices) = match sources {
        Some(HostSources { root, binds, devices }) => {
            (root, Some(binds), settings.has_user_namespace().then_some(devices))
        }
        None => {
            let root = match &launch.root {
                RootSource::Directory(path) => open_tree_clone(path, true),
                RootSource::Plan(plan) => plan.mount_detached(),
            };
            (root.map_err(InitError::step("mount the root"))?, None, None)
        }
    };
    if settings.propagation.of_host.is_none() {
        // What is mounted in it is the container's alone, whoever else has the directory.
        make_private(root.as_fd(), true).map_err(InitError::step("set the propagation of the root"))?;
    }
    let mut tree = Tree { root, is_attached: false, binds, devices };
    if settings.has_user_namespace() && place_of_root(launch) != Path::new("/") {
        attach_root(launch, tree.root.as_fd())?;
        tree.is_attached = true;
    }
    Ok(tree)
}

/// Where the root is attached until pivot_root. With hooks before that it is where it lies in the host's tree, for there hooks of
/// engines look for it, to mount what they have (as runc has it).
fn place_of_root<'a>(launch: &'a Launch<'_>) -> &'a Path {
    match &launch.root {
        RootSource::Directory(path) if launch.config.settings().hooks.any_before_pivot() => path,
        _ => Path::new("/"),
    }
}

fn attach_root(launch: &Launch<'_>, root: BorrowedFd<'_>) -> Step {
    let (place, step) = (place_of_root(launch), || InitError::step("attach the root"));
    if launch.config.settings().propagation.of_host.is_none() {
        isolate_place(place).map_err(step())?;
    }
    attach(root, place).map_err(step())
}

fn make_private(mount: BorrowedFd<'_>, recursive: bool) -> Result<(), SysError> {
    let propagation = Some(Propagation::Private);
    change_mount(mount, MountChange { propagation, recursive, ..MountChange::default() })
}

/// Makes the mount that holds `path` private in this namespace: what is attached to a shared one shows in the host's too.
fn isolate_place(path: &Path) -> Result<(), SysError> {
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(SysError::at("open", || path.display().to_string()))?;
    // Only the root of a mount can be told to change: up to it, one directory after the other.
    let mut at = place;
    for _ in 0..DEPTH {
        match make_private(at.as_fd(), false) {
            Err(error) if error.errno == Errno::INVAL => {}
            other => return other,
        }
        at = rustix::fs::openat(&at, c"..", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(SysError::at("openat", || "..".to_owned()))?;
    }
    // The process's own root is no mount, and the way up ends there.
    Err(SysError::new("mount_setattr", path.display().to_string(), Errno::INVAL))
}

/// As deep as a path can be named.
const DEPTH: usize = 2048;

/// The root with everything mounted in it.
pub(super) struct Mounted {
    pub root: Root,
    /// What is mounted at `/dev`, where anything is.
    pub dev: Option<Root>,
    /// The devices that were taken from the host.
    pub devices: Option<BoundDevices>,
}

/// Mounts everything in the root.
pub(super) fn mount_all(launch: &Launch<'_>, cgroup: &CgroupRecord, tree: Tree) -> Step<Mounted> {
    let settings = launch.config.settings();
    let Tree { root, is_attached, binds, devices } = tree;
    let mut binds = binds.unwrap_or_default().into_iter();
    let mut open = |request| {
        let label = settings.mount_label.as_deref();
        let source = Source::open(launch.bundle, request, cgroup, binds.next().flatten(), label);
        source.map_err(|error| mount_error(request, error))
    };
    let sources: Vec<Option<Source>> = settings.mounts.iter().map(&mut open).collect::<Step<_>>()?;
    if !is_attached {
        attach_root(launch, root.as_fd())?;
    }
    let mut mounted = Mounted { root: Root::new(root), dev: None, devices };
    for (request, source) in settings.mounts.iter().zip(sources) {
        let mount = mount_one(&mounted.root, request, source)?;
        if request.destination == Path::new(DEV) {
            mounted.dev = mount.map(Root::new).or(mounted.dev);
        }
    }
    Ok(mounted)
}

/// Where devices are.
const DEV: &str = "/dev";

/// Opens `/dev`, made where it is missing, to fill it: what is mounted there as `/dev`, and not what an image's symlink has led over
/// that. Devices and links are nothing for a directory of the host's.
pub(super) fn open_dev(mounted: &Mounted, settings: &Settings) -> Step<OwnedFd> {
    let step = || InitError::step("set up /dev");
    let found = mounted.root.create_dir_all(Path::new(DEV), Mode::from_raw_mode(0o755)).map_err(step())?;
    let Some(dev) = &mounted.dev else { return Ok(found) };
    if dev.is_root(found.as_fd()).map_err(step())? {
        return Ok(found);
    }
    let over = Root::new(found);
    let is_over = |request: &&MountRequest| {
        let place = mounted.root.resolve(&request.destination);
        request.destination != Path::new(DEV) && place.is_ok_and(|place| over.is_root(place.as_fd()).unwrap_or(false))
    };
    let destination = settings.mounts.iter().find(is_over).map_or(DEV.into(), |request| request.destination.clone());
    Err(InitError::MountRefused { destination, rule: "it would cover /dev".to_owned() })
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
    ///
    /// A bind may have been opened by the launch; `label` is SELinux's for new filesystems that keep files.
    fn open(
        bundle: &Path,
        request: &MountRequest,
        cgroup: &CgroupRecord,
        opened: Option<OwnedFd>,
        label: Option<&str>,
    ) -> Result<Option<Self>, SysError> {
        if request.options.remount {
            return Ok(None);
        }
        let source = match request.fstype.as_str() {
            "cgroup" | "cgroup2" => Self::Cgroups(View::open(request, cgroup)?),
            "bind" => {
                // config.md, "mounts": a source that is not absolute is relative to the bundle.
                let open = || open_tree_clone(&bundle.join(&request.source), request.options.bind == Some(true));
                let mount = opened.map_or_else(open, Ok)?;
                let is_directory = file_type(mount.as_fd())? == FileType::Directory;
                apply_attributes(mount.as_fd(), request)?;
                Self::Bind(mount, if is_directory { MountPoint::Directory } else { MountPoint::File })
            }
            fstype => {
                let mut parameters = with_source(request);
                if let Some(label) = label.filter(|_| !matches!(fstype, "proc" | "sysfs")) {
                    parameters.push(FsParameter::String("context".into(), label.to_owned()));
                }
                let mount = new_filesystem(fstype, &parameters, MountAttrFlags::empty())?;
                if !request.options.copy_up {
                    apply_attributes(mount.as_fd(), request)?;
                }
                Self::Filesystem(mount)
            }
        };
        Ok(Some(source))
    }
}

pub(crate) fn mount_error(request: &MountRequest, error: SysError) -> InitError {
    InitError::Mount {
        destination: request.destination.clone(),
        mount_source: request.source.clone(),
        fstype: request.fstype.clone(),
        options: request.raw_options.clone(),
        reason: error.into(),
    }
}

/// Mounts one, and gives it; `None` where one that is there is changed.
fn mount_one(root: &Root, request: &MountRequest, source: Option<Source>) -> Step<Option<OwnedFd>> {
    let failed = |error| mount_error(request, error);
    let Some(source) = source else { return remount(root, request).map(|()| None).map_err(failed) };
    let (kind, shown) = match &source {
        Source::Bind(mount, kind) => (*kind, Some(mount.as_fd())),
        Source::Filesystem(_) | Source::Cgroups(_) => (MountPoint::Directory, None),
    };
    let target = mount_point(root, request, kind).map_err(|error| match error.errno {
        Errno::BUSY => refused(request, COVERS_ROOT),
        _ => failed(error),
    })?;
    check_inside_proc(request, target.as_fd(), shown)?;
    let mount = match source {
        Source::Cgroups(view) => view.attach(request, target.as_fd()).map_err(failed)?,
        Source::Bind(mount, _) | Source::Filesystem(mount) => {
            if request.options.copy_up {
                check_copied(request, target.as_fd())?;
                copy_tree(target.as_fd(), mount.as_fd()).map_err(failed)?;
                // Only now: it may be read-only.
                apply_attributes(mount.as_fd(), request).map_err(failed)?;
            }
            attach_at(mount.as_fd(), target.as_fd()).map_err(failed)?;
            mount
        }
    };
    set_propagation(mount.as_fd(), request).map_err(failed)?;
    Ok(Some(mount))
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
    let found = root.ensure_mount_point_without_symlinks(path, kind)?;
    // Without symlinks a path that ends in a name is not the root's.
    if path.file_name().is_none() && root.is_root(found.as_fd())? {
        return Err(SysError::new("mount", path.display().to_string(), Errno::BUSY));
    }
    Ok(found)
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

/// Refuses to copy what is no file of anybody's: a symlink of an image leads to the kernel's own, and to read those as root of the host
/// has effects. procfs is refused before ([`check_inside_proc`]).
fn check_copied(request: &MountRequest, target: BorrowedFd<'_>) -> Step {
    match filesystem_magic(target).map_err(InitError::step("look at a mount point"))? {
        SYSFS_MAGIC | CGROUP_MAGIC | CGROUP2_MAGIC => {
            Err(refused(request, "what the kernel has there cannot be copied"))
        }
        _ => Ok(()),
    }
}

fn proc_bind(request: &MountRequest, source: BorrowedFd<'_>) -> Step {
    match filesystem_magic(source).map_err(InitError::step("look at a bind's source"))? {
        PROC_MAGIC => Ok(()),
        _ => Err(refused(request, "only procfs may be mounted at /proc")),
    }
}

/// The container's root is a mount that its process and later ones have entered: what lies over it only some would see.
pub(super) const COVERS_ROOT: &str = "it would cover the root";

fn refused(request: &MountRequest, rule: &str) -> InitError {
    InitError::MountRefused { destination: request.destination.clone(), rule: rule.to_owned() }
}

/// Makes the mounted root the process's own, and lets go of the host's.
pub(super) fn pivot(root: &Root, settings: &Settings) -> Step {
    let step = || InitError::step("enter the root");
    let failed = |call, errno| step()(SysError::new(call, "\".\"", errno));
    let shares = settings.propagation.of_host.is_none();
    // The mount that is the process's root until now: no name leads to it when another lies there.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = shares.then(|| rustix::fs::open("/", flags, Mode::empty()).map_err(|errno| failed("open", errno)));
    let old = old.transpose()?;
    rustix::process::fchdir(root).map_err(|errno| failed("fchdir", errno))?;
    // Old and new root at one place: the old one lies on top, and is the one that is detached.
    rustix::process::pivot_root(".", ".").map_err(|errno| failed("pivot_root", errno))?;
    if let Some(old) = old {
        // Nothing of the host's is unmounted with it.
        let propagation = Some(Propagation::Slave);
        let change = MountChange { propagation, recursive: true, ..MountChange::default() };
        change_mount(old.as_fd(), change).map_err(step())?;
    }
    unmount(".", UnmountFlags::DETACH).map_err(|errno| failed("umount2", errno))?;
    rustix::process::chdir("/").map_err(|errno| failed("chdir", errno))?;
    if let Some((propagation, recursive)) = settings.propagation.of_root {
        let change = MountChange { propagation: Some(propagation), recursive, ..MountChange::default() };
        change_mount(root.as_fd(), change).map_err(InitError::step("set linux.rootfsPropagation"))?;
    }
    Ok(())
}

/// Makes the root itself read-only; what is mounted in it stays as it is.
pub(super) fn make_read_only(root: &Root) -> Step {
    let change = MountChange { set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), ..MountChange::default() };
    change_mount(root.as_fd(), change).map_err(InitError::step("make the root read-only"))
}
