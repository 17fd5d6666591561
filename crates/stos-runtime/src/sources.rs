// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the launch takes from the host for a container whose first process cannot: in a user namespace it may not reach the
//! bundle, nor map the ids of a mount, nor make a device. What the launch itself was given comes the same way.
//!
//! All of it are detached mounts, which belong to no mount namespace: the first process inherits their descriptors and attaches them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, makedev};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stos_sys::SysError;
use stos_sys::mount::{MountChange, Propagation, change_mount, map_mount_ids, open_tree_clone};
use stos_sys::process::user_namespace::{IdMappings, make_user_namespace};

use crate::config::settings::{NodeKind, namespace};
use crate::config::{DeviceNode, MountRequest, Settings};
use crate::error::{Error, Result};
use crate::init::{DEFAULT_DEVICES, is_default_device, mount_error};
use crate::launch::{Launch, RootSource};

/// Devices of the host by their paths, each a detached mount.
pub(crate) type BoundDevices = Vec<(PathBuf, OwnedFd)>;

/// Detached mounts of the host's files.
#[derive(Debug)]
pub(crate) struct HostSources {
    /// The container's root.
    pub root: OwnedFd,
    /// Of each of `mounts`: what a bind shows.
    pub binds: Vec<Option<OwnedFd>>,
    /// Devices, with a user namespace alone.
    pub devices: BoundDevices,
}

impl HostSources {
    /// `None` where the first process can take all by itself.
    pub(crate) fn open(launch: &Launch<'_>) -> Result<Option<Self>> {
        let settings = launch.config.settings();
        let has_given = !launch.given.is_empty();
        if !has_given && !settings.has_user_namespace() && settings.mounts.iter().all(|mount| mount.ids.is_none()) {
            return Ok(None);
        }
        let stage = "mount the root";
        let root = match &launch.root {
            RootSource::Directory(path) => open_tree_clone(path, true),
            RootSource::Plan(plan) => plan.mount_detached(),
        };
        let root = root.and_then(|root| adopt(root, settings)).map_err(Error::sys(stage))?;
        let mut namespaces = Namespaces { settings, made: Vec::new() };
        let binds = settings.mounts.iter().map(|mount| bind(launch, mount, &mut namespaces)).collect::<Result<_>>()?;
        let devices = if settings.has_user_namespace() { devices(settings)? } else { Vec::new() };
        Ok(Some(Self { root, binds, devices }))
    }
}

/// More mounts than this raise the limit of descriptors: what is mounted is held by one each, and what else a launch has fits below the
/// lowest limit that systems give, with some to spare.
const MOUNTS_OF_ANY_LIMIT: usize = 128;

/// Room for a descriptor for each of many mounts, as far as the hard limit goes. Dropping it gives the process its own limit again,
/// in the launch and in the first process, which gets it from there: what each executes later must not have it.
#[derive(Debug)]
pub(crate) struct DescriptorRoom(Rlimit);

impl DescriptorRoom {
    /// `None` where none is needed, or there is no more.
    pub(crate) fn make(settings: &Settings) -> Result<Option<Self>> {
        if settings.mounts.len() + settings.devices.len() <= MOUNTS_OF_ANY_LIMIT {
            return Ok(None);
        }
        let own = getrlimit(Resource::Nofile);
        if own.current == own.maximum {
            return Ok(None);
        }
        let raised = Rlimit { current: own.maximum, maximum: own.maximum };
        setrlimit(Resource::Nofile, raised).map_err(|errno| {
            let shown = format!("RLIMIT_NOFILE, {:?}", own.maximum);
            Error::sys("make room for the mounts")(SysError::new("setrlimit", shown, errno))
        })?;
        Ok(Some(Self(own)))
    }
}

impl Drop for DescriptorRoom {
    fn drop(&mut self) {
        // A lower limit is everyone's to set.
        let _ = setrlimit(Resource::Nofile, self.0);
    }
}

/// Gives a tree the propagation that it would have in the container's mount namespace.
fn adopt(tree: OwnedFd, settings: &Settings) -> std::result::Result<OwnedFd, SysError> {
    if let propagation @ Some(_) = settings.propagation.of_host {
        change_mount(tree.as_fd(), MountChange { propagation, recursive: true, ..MountChange::default() })?;
    }
    Ok(tree)
}

fn bind(launch: &Launch<'_>, request: &MountRequest, namespaces: &mut Namespaces<'_>) -> Result<Option<OwnedFd>> {
    if request.fstype != "bind" || request.options.remount {
        return Ok(None);
    }
    let failed = |error| Error::Init(mount_error(request, error));
    let tree = match launch.given.iter().find(|given| given.source == request.source) {
        // Itself, for what was cloned elsewhere cannot be cloned here.
        Some(given) => fcntl_dupfd_cloexec(&given.mount, 3).map_err(SysError::at("fcntl", || "F_DUPFD_CLOEXEC".into())),
        None => open_tree_clone(&launch.bundle.join(&request.source), request.options.bind == Some(true)),
    };
    let tree = tree.and_then(|tree| adopt(tree, launch.config.settings())).map_err(failed)?;
    if let Some(ids) = &request.ids {
        let mappings = namespaces.of(ids.mappings.as_ref())?;
        map_mount_ids(tree.as_fd(), mappings, ids.recursive).map_err(failed)?;
    }
    Ok(Some(tree))
}

/// User namespaces that exist for their mappings, each made once.
struct Namespaces<'a> {
    settings: &'a Settings,
    made: Vec<(Option<IdMappings>, OwnedFd)>,
}

impl Namespaces<'_> {
    /// One with these mappings, or with the container's.
    fn of(&mut self, mappings: Option<&IdMappings>) -> Result<BorrowedFd<'_>> {
        let found = self.made.iter().position(|(made, _)| made.as_ref() == mappings);
        let at = match found {
            Some(at) => at,
            None => {
                let made = self.make(mappings)?;
                self.made.push((mappings.cloned(), made));
                self.made.len() - 1
            }
        };
        Ok(self.made[at].1.as_fd())
    }

    fn make(&self, mappings: Option<&IdMappings>) -> Result<OwnedFd> {
        let stage = "make a user namespace for a mount's ids";
        let joined = self.settings.joined_namespaces.iter().find(|joined| joined.flag as u64 == namespace::USER);
        match (mappings, joined, &self.settings.id_mappings) {
            (Some(mappings), ..) | (None, None, Some(mappings)) => Ok(make_user_namespace(mappings)?),
            (None, Some(joined), _) => rustix::fs::open(&joined.path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(SysError::at("open", || joined.path.display().to_string()))
                .map_err(Error::sys(stage)),
            // The configuration has been refused before.
            (None, None, None) => Ok(make_user_namespace(&IdMappings::default())?),
        }
    }
}

/// The devices of a container with a user namespace, where mknod(2) gives none: the host's own are bound, if they are the same.
fn devices(settings: &Settings) -> Result<BoundDevices> {
    if settings.binds_dev() {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for node in settings.devices.iter().filter(|node| node.kind != NodeKind::Fifo) {
        all.push((node.path.clone(), device(node)?));
    }
    for (name, major, minor) in DEFAULT_DEVICES {
        let path = Path::new("/dev").join(name);
        if is_default_device(settings, &path) {
            let kind = NodeKind::Character(major, minor);
            let mount = device(&DeviceNode { path: path.clone(), kind, mode: None, uid: None, gid: None })?;
            all.push((path, mount));
        }
    }
    Ok(all)
}

fn device(node: &DeviceNode) -> Result<OwnedFd> {
    let unfit = |reason: String| Error::DeviceOfHost { path: node.path.clone(), reason };
    let tree = open_tree_clone(&node.path, false).map_err(|error| unfit(error.to_string()))?;
    let found = fstat(&tree).map_err(|errno| unfit(format!("fstat: {errno}")))?;
    let (kind, number) = match node.kind {
        NodeKind::Character(major, minor) => (FileType::CharacterDevice, makedev(major, minor)),
        NodeKind::Block(major, minor) => (FileType::BlockDevice, makedev(major, minor)),
        NodeKind::Fifo => return Err(unfit("it is a FIFO".to_owned())),
    };
    if FileType::from_raw_mode(found.st_mode) != kind || found.st_rdev != number {
        return Err(unfit("the host has another file there".to_owned()));
    }
    // What the bundle says of mode and owner cannot be given to the host's own file: it must be so.
    let differs = |asked: Option<u32>, found: u32| asked.is_some_and(|asked| asked != found);
    if differs(node.mode, found.st_mode & 0o7777) || differs(node.uid, found.st_uid) || differs(node.gid, found.st_gid)
    {
        return Err(unfit("its mode or owner is another on the host".to_owned()));
    }
    let change = MountChange { propagation: Some(Propagation::Private), ..MountChange::default() };
    change_mount(tree.as_fd(), change).map_err(|error| unfit(error.to_string()))?;
    Ok(tree)
}
