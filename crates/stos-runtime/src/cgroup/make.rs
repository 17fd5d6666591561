// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Making a container's directory in one hierarchy, and removing what was made.

use std::fs;
use std::path::Path;

use rustix::fs::Mode;
use rustix::io::Errno;
use stos_sys::SysError;

use super::hierarchy::Hierarchy;
use super::{CgroupDirectory, CgroupPlace, DirectoryIdentity, io_error};
use crate::error::{Error, Result};

/// How often a directory is made again from the top: each time somebody has removed a parent that was there a moment ago.
const RACES: usize = 100;

/// Makes the directory of `place` in `hierarchy`. On failure nothing that was made stays.
pub(super) fn directory(hierarchy: &Hierarchy, place: &CgroupPlace) -> Result<CgroupDirectory> {
    for _ in 0..RACES {
        match levels(hierarchy, place) {
            // A parent is removed with the last container in it, and that may be while we make ours.
            Err(Error::Sys { source, .. }) if matches!(source.errno, Errno::NOENT | Errno::NODEV) => {}
            Err(error) => return Err(error),
            Ok(made) => {
                let mut directory = CgroupDirectory::planned(hierarchy, &place.path);
                directory.made = made;
                directory.identity = DirectoryIdentity::of(&directory.path);
                let found = if made == 0 { directory.processes()? } else { Vec::new() };
                if found.is_empty() {
                    return Ok(directory);
                }
                return Err(Error::CgroupInUse { path: directory.path, found });
            }
        }
    }
    let path = hierarchy.mount_point.join(&place.path);
    Err(Error::sys("make a cgroup")(SysError::new("mkdir", path.display().to_string(), Errno::NOENT)))
}

/// Makes the missing directories of a path, and says how many.
fn levels(hierarchy: &Hierarchy, place: &CgroupPlace) -> Result<usize> {
    let is_cpuset = hierarchy.controllers.iter().any(|controller| controller == "cpuset");
    let target = hierarchy.mount_point.join(&place.path);
    let mut path = hierarchy.mount_point.clone();
    let mut made = 0;
    for part in place.path.components() {
        let parent = path.clone();
        path.push(part);
        let is_new = make_one(&path, place.exclusive && path == target).inspect_err(|_| {
            // The cause counts.
            drop(remove_levels(&parent, made));
        })?;
        made += usize::from(is_new);
        if is_cpuset {
            inherit_cpuset(&path).inspect_err(|_| drop(remove_levels(&path, made)))?;
        }
    }
    Ok(made)
}

/// Makes one directory; `false` where it is there already. An `exclusive` one that is there is made anew: only an empty one of a
/// crashed start can be.
fn make_one(path: &Path, exclusive: bool) -> Result<bool> {
    let failed = |call, errno| Error::sys("make a cgroup")(SysError::new(call, path.display().to_string(), errno));
    let make = || rustix::fs::mkdir(path, Mode::from_raw_mode(0o755));
    match make() {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) if !exclusive => Ok(false),
        Err(Errno::EXIST) => match rustix::fs::rmdir(path) {
            Ok(()) | Err(Errno::NOENT) => make().map(|()| true).map_err(|errno| failed("mkdir", errno)),
            Err(Errno::BUSY | Errno::NOTEMPTY) => {
                let mut found = Vec::new();
                super::collect_processes(path, &mut found)?;
                Err(Error::CgroupInUse { path: path.to_owned(), found })
            }
            Err(errno) => Err(failed("rmdir", errno)),
        },
        Err(errno) => Err(failed("mkdir", errno)),
    }
}

/// Removes `count` directories, `path` first and then those above it, as far as they are empty.
pub(super) fn remove_levels(path: &Path, count: usize) -> Result<()> {
    for level in path.ancestors().take(count) {
        match rustix::fs::rmdir(level) {
            Ok(()) | Err(Errno::NOENT) => {}
            // Another container lives there by now.
            Err(Errno::BUSY | Errno::NOTEMPTY) => return Ok(()),
            Err(errno) => {
                return Err(Error::sys("remove a cgroup")(SysError::new("rmdir", level.display().to_string(), errno)));
            }
        }
    }
    Ok(())
}

/// Gives a new v1 cpuset its parent's processors and memory nodes: an empty one takes no process.
fn inherit_cpuset(path: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = path.join(file);
        let read =
            |path: &Path| fs::read_to_string(path).map_err(|error| io_error("set up a cpuset", "read", path, &error));
        if !read(&own)?.trim().is_empty() {
            continue;
        }
        let parent = path.parent().unwrap_or(path).join(file);
        let value = read(&parent)?;
        fs::write(&own, value.trim()).map_err(|error| io_error("set up a cpuset", "write", &own, &error))?;
    }
    Ok(())
}
