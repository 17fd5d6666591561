// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `/sys/fs/cgroup` as the container sees it: its own directories, and never the host's tree.
//!
//! A bind of the container's directory is the same view with and without a cgroup namespace. With v1 a small tmpfs holds
//! one directory for each hierarchy and, as on a host, a symlink for each controller that shares one.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use stos_sys::SysError;
use stos_sys::mount::{FsParameter, attach_at, new_filesystem, open_tree_clone};

use super::rootfs::apply_attributes;
use crate::cgroup::{CgroupDirectory, CgroupRecord, DirectoryIdentity, Version};
use crate::config::MountRequest;

/// A view that is not attached yet. Nothing of the host is looked up to attach it.
pub(super) enum View {
    /// The directory of one hierarchy.
    One(OwnedFd),
    /// A tmpfs for the directories of all.
    All { tmpfs: OwnedFd, directories: Vec<Entry> },
}

/// A directory in a view of all hierarchies.
pub(super) struct Entry {
    name: OsString,
    aliases: Vec<String>,
    mount: OwnedFd,
}

impl View {
    /// Makes the view that `request` asks for, detached.
    pub(super) fn open(request: &MountRequest, cgroup: &CgroupRecord) -> Result<Self, SysError> {
        let unified = cgroup.directories.iter().find(|directory| directory.version == Version::V2);
        let only_v2 = cgroup.directories.iter().all(|directory| directory.version == Version::V2);
        match unified {
            Some(directory) if only_v2 || request.fstype == "cgroup2" => clone(directory, request).map(Self::One),
            None if request.fstype == "cgroup2" => {
                Err(SysError::new("mount", "cgroup2: no v2 hierarchy on this machine", Errno::NODEV))
            }
            _ => Self::of_all(request, cgroup),
        }
    }

    fn of_all(request: &MountRequest, cgroup: &CgroupRecord) -> Result<Self, SysError> {
        let parameters = [("source", "cgroup"), ("mode", "755")];
        let parameters = parameters.map(|(key, value)| FsParameter::String(key.into(), value.into()));
        let attributes =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let tmpfs = new_filesystem("tmpfs", &parameters, attributes)?;
        let named =
            cgroup.directories.iter().filter_map(|directory| Some((directory, directory.mount_point.file_name()?)));
        let directories = named.map(|(directory, name)| {
            let aliases =
                directory.controllers.iter().map(|name| name.strip_prefix("name=").unwrap_or(name).to_owned());
            let aliases = aliases.filter(|alias| name != alias.as_str()).collect();
            Ok(Entry { name: name.to_owned(), aliases, mount: clone(directory, request)? })
        });
        Ok(Self::All { tmpfs, directories: directories.collect::<Result<_, SysError>>()? })
    }

    /// Attaches the view to `target`, and gives its mount.
    pub(super) fn attach(self, request: &MountRequest, target: BorrowedFd<'_>) -> Result<OwnedFd, SysError> {
        let (tmpfs, directories) = match self {
            Self::One(mount) => {
                attach_at(mount.as_fd(), target)?;
                return Ok(mount);
            }
            Self::All { tmpfs, directories } => (tmpfs, directories),
        };
        // First, for older kernels attach nothing to a mount that is not attached itself.
        attach_at(tmpfs.as_fd(), target)?;
        // A tmpfs of our own, empty: names in it are ours.
        for Entry { name, aliases, mount } in directories {
            let shown = || Path::new(&name).display().to_string();
            mkdirat(&tmpfs, &name, Mode::from_raw_mode(0o755)).map_err(SysError::at("mkdirat", shown))?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let place = openat(&tmpfs, &name, flags, Mode::empty()).map_err(SysError::at("openat", shown))?;
            attach_at(mount.as_fd(), place.as_fd())?;
            aliases.iter().try_for_each(|alias| link(tmpfs.as_fd(), Path::new(&name), alias))?;
        }
        apply_attributes(tmpfs.as_fd(), request)?;
        Ok(tmpfs)
    }
}

/// A view of `directory`, and not of what may be at its path by now. It is found by its path, for what is open was opened in the
/// caller's mount namespace, of which nothing can be cloned here.
fn clone(directory: &CgroupDirectory, request: &MountRequest) -> Result<OwnedFd, SysError> {
    let mount = open_tree_clone(&directory.path, false)?;
    let failed = |call| SysError::at(call, || directory.path.display().to_string());
    let found = DirectoryIdentity::from(&rustix::fs::fstat(&mount).map_err(failed("fstat"))?);
    if directory.identity != Some(found) {
        return Err(failed("open_tree")(Errno::STALE));
    }
    apply_attributes(mount.as_fd(), request)?;
    Ok(mount)
}

fn link(view: BorrowedFd<'_>, target: &Path, alias: &str) -> Result<(), SysError> {
    match symlinkat(target, view, alias) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(SysError::new("symlinkat", format!("{alias} -> {}", target.display()), errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Hierarchy;

    #[test]
    fn a_later_directory_of_the_path_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy { version: Version::V2, controllers: Vec::new(), mount_point: dir.path().into() };
        let mut cgroup = CgroupRecord::planned(&[hierarchy], Path::new("a"));
        let path = cgroup.directories[0].path.clone();
        std::fs::create_dir(&path).unwrap();
        cgroup.directories[0].identity = Some(DirectoryIdentity::from(&rustix::fs::stat(&path).unwrap()));
        // Kept, so that its number is not given again.
        std::fs::rename(&path, dir.path().join("kept")).unwrap();
        std::fs::create_dir(&path).unwrap();
        let request = MountRequest {
            destination: "/sys/fs/cgroup".into(),
            fstype: "cgroup".into(),
            source: "cgroup".into(),
            options: crate::mount_options::MountOptions::default(),
            raw_options: Vec::new(),
            ids: None,
        };
        let Err(error) = View::open(&request, &cgroup) else { panic!("another directory is shown") };
        assert_eq!(error.errno, Errno::STALE);
    }
}
