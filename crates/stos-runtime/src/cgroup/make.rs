// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Making a container's directory in one hierarchy, and removing what was made.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;
use stos_sys::SysError;
use stos_sys::cgroup_bpf::DeviceRule;

use super::hierarchy::Hierarchy;
use super::limits::{self, Group, Target};
use super::{CgroupDirectory, CgroupPlace, CgroupRecord, DirectoryIdentity, Version, devices, freezer, io_error};
use crate::error::{Error, Result};

/// How often a directory is made again from the top: each time somebody has removed a parent that was there a moment ago.
const RACES: usize = 100;

/// A container's cgroups from their making until its first process is in them.
///
/// Each is held open, and all is done through that descriptor: whatever becomes of the path meanwhile, the process enters this
/// very directory or none, and the rules of a later one of the same path stay as they are. Each is locked (flock(2)) too, so
/// that no other launch takes it for what a crash has left.
#[derive(Debug)]
pub(crate) struct MadeCgroups {
    record: CgroupRecord,
    /// One for each directory of the record, in its order.
    held: Vec<OwnedFd>,
}

/// What a container's cgroups are to be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wishes {
    /// Which devices it may use.
    pub rules: Vec<DeviceRule>,
    /// What it may use at most.
    pub limits: Vec<Group>,
    /// The uid of the host that a v2 directory is to belong to, where that is not root.
    pub owner: Option<u32>,
}

impl MadeCgroups {
    /// Makes the container's directory in each of `hierarchies`, as `wishes` have it.
    ///
    /// On failure what was made is removed. A directory that exists is taken only where it is empty: as it is where the
    /// bundle names it, and made anew where it is `stos-<id>`, so that no two containers of that id share one.
    pub(crate) fn create(hierarchies: &[Hierarchy], place: &CgroupPlace, wishes: &Wishes) -> Result<Self> {
        if hierarchies.is_empty() {
            return Err(Error::NoCgroups);
        }
        let record = CgroupRecord { path: place.path.clone(), ..CgroupRecord::default() };
        let mut made = Self { record, held: Vec::new() };
        let all = hierarchies.iter().try_for_each(|hierarchy| {
            let (directory, held) = directory(hierarchy, place)?;
            made.record.directories.push(directory);
            made.held.push(held);
            Ok(())
        });
        let all = all.and_then(|()| made.refuse_frozen()).and_then(|()| devices::apply(&made, &wishes.rules));
        let all = all.and_then(|()| made.limit(&wishes.limits));
        match all.and_then(|()| wishes.owner.map_or(Ok(()), |owner| made.give_to(owner))) {
            Ok(()) => Ok(made),
            Err(error) => {
                // The cause counts; a directory that cannot be removed now holds somebody else's processes.
                drop(made.record.discard());
                Err(error)
            }
        }
    }

    /// A process that enters a frozen cgroup stands still at once: it would be set up when somebody thaws it, or never.
    fn refuse_frozen(&self) -> Result<()> {
        for (directory, held) in self.directories() {
            if freezer::freezes(directory, held)? {
                return Err(Error::CgroupFrozen { path: directory.path.clone() });
            }
        }
        Ok(())
    }

    /// Puts limits on, before any process is in. A pure v2 tree gets every controller that it has, so that the container's use is
    /// counted and limits can come later.
    fn limit(&self, limits: &[Group]) -> Result<()> {
        let is_controlled = |directory: &CgroupDirectory| directory.controllers.iter().any(|name| !name.contains('='));
        let pure_v2 = !self.record.directories.iter().any(is_controlled);
        if let Some(directory) = self.record.directories.iter().find(|directory| directory.version == Version::V2) {
            limits::enable_controllers(directory, limits, pure_v2)?;
        }
        let targets: Vec<_> = self.directories().map(|(directory, held)| Target { directory, held }).collect();
        // One that was there keeps its limits where these cannot be had; what was made goes.
        let keeps = self.record.directories.iter().any(|directory| directory.made == 0);
        Ok(limits::apply(limits, &targets, keeps)?)
    }

    /// Each directory, and where it is open.
    pub(crate) fn directories(&self) -> impl Iterator<Item = (&CgroupDirectory, BorrowedFd<'_>)> {
        self.record.directories.iter().zip(self.held.iter().map(AsFd::as_fd))
    }

    /// The v2 directory, for a process to be cloned into; `None` where no v2 tree is mounted. In one that has been removed the
    /// clone fails.
    pub(crate) fn v2(&self) -> Option<BorrowedFd<'_>> {
        self.directories().find(|(directory, _)| directory.version == Version::V2).map(|(_, held)| held)
    }

    /// The v1 directories, which the container's first process enters by itself.
    pub(crate) fn v1(&self) -> impl Iterator<Item = (&CgroupDirectory, BorrowedFd<'_>)> {
        self.directories().filter(|(directory, _)| directory.version == Version::V1)
    }

    /// Directories that systemd makes later: none is held.
    pub(crate) fn later(record: CgroupRecord) -> Self {
        Self { record, held: Vec::new() }
    }

    /// The same, now that they are there.
    pub(crate) fn found(&self) -> Self {
        let mut record = self.record.clone();
        for directory in &mut record.directories {
            directory.identity = DirectoryIdentity::of(&directory.path);
        }
        Self::later(record)
    }

    /// Marks them as those of systemd's `unit`: the container's own, whoever made them, but nothing above them is.
    pub(super) fn belong_to(&mut self, unit: &str) {
        self.record.unit = Some(unit.to_owned());
        self.record.directories.iter_mut().for_each(|directory| directory.made = 1);
    }

    /// Its record.
    pub(crate) fn record(&self) -> &CgroupRecord {
        &self.record
    }

    /// Lets go of the directories, once the first process keeps them in use.
    pub(crate) fn into_record(self) -> CgroupRecord {
        self.record
    }
}

/// Opens a control file of `held`, for writing. Where the directory has been removed there is none.
pub(crate) fn open_control(
    directory: &CgroupDirectory,
    held: BorrowedFd<'_>,
    file: &str,
) -> std::result::Result<File, SysError> {
    openat(held, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .map(File::from)
        .map_err(SysError::at("openat", || directory.path.join(file).display().to_string()))
}

/// Makes the directory of `place` in `hierarchy`, and holds it. On failure nothing that was made stays.
fn directory(hierarchy: &Hierarchy, place: &CgroupPlace) -> Result<(CgroupDirectory, OwnedFd)> {
    let mut directory = CgroupDirectory::planned(hierarchy, &place.path);
    for _ in 0..RACES {
        directory.made = match levels(hierarchy, place) {
            // A parent is removed with the last container in it, and that may be while we make ours.
            Err(Error::Sys { source, .. }) if matches!(source.errno, Errno::NOENT | Errno::NODEV) => continue,
            other => other?,
        };
        let Some((held, identity)) = claim(&directory.path)? else {
            if let Some(parent) = directory.path.parent() {
                remove_levels(parent, directory.made.saturating_sub(1))?;
            }
            continue;
        };
        directory.identity = Some(identity);
        if directory.made > 0 {
            return Ok((directory, held));
        }
        let is_empty = if place.exclusive {
            // Nobody else holds it: a crashed start has left it.
            match rustix::fs::rmdir(&directory.path) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::BUSY | Errno::NOTEMPTY) => false,
                Err(errno) => return Err(failed_at("rmdir", &directory.path)(errno)),
            }
        } else {
            directory.processes()?.iter().all(|process| Some(*process) == place.first)
        };
        if is_empty {
            return Ok((directory, held));
        }
        return Err(Error::CgroupInUse { found: directory.processes()?, path: directory.path });
    }
    Err(failed_at("mkdir", &directory.path)(Errno::NOENT))
}

fn failed_at(call: &'static str, path: &Path) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::sys("make a cgroup")(SysError::new(call, path.display().to_string(), errno))
}

/// Opens and locks the directory at `path`; `None` where it has gone, or become another one, meanwhile.
fn claim(path: &Path) -> Result<Option<(OwnedFd, DirectoryIdentity)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let held = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(held) => held,
        Err(Errno::NOENT | Errno::NODEV) => return Ok(None),
        Err(errno) => return Err(failed_at("open", path)(errno)),
    };
    match flock(&held, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(Error::CgroupClaimed { path: path.to_owned() }),
        Err(errno) => return Err(failed_at("flock", path)(errno)),
    }
    let identity = DirectoryIdentity::from(&rustix::fs::fstat(&held).map_err(failed_at("fstat", path))?);
    Ok((DirectoryIdentity::of(path) == Some(identity)).then_some((held, identity)))
}

/// Removes the directory at `path` where it is empty and no launch is about to use it. `false` where it stays.
pub(super) fn remove_unused(path: &Path) -> Result<bool> {
    let held = match claim(path) {
        Ok(held) => held,
        Err(Error::CgroupClaimed { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    if held.is_some() {
        remove_levels(path, 1)?;
    }
    Ok(DirectoryIdentity::of(path).is_none())
}

/// Makes the missing directories of a path, and says how many.
fn levels(hierarchy: &Hierarchy, place: &CgroupPlace) -> Result<usize> {
    let is_cpuset = hierarchy.controllers.iter().any(|controller| controller == "cpuset");
    let mut path = hierarchy.mount_point.clone();
    let mut made = 0;
    for part in place.path.components() {
        let parent = path.clone();
        path.push(part);
        let is_new = make_one(&path).inspect_err(|_| {
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

/// Makes one directory; `false` where it is there already.
fn make_one(path: &Path) -> Result<bool> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(failed_at("mkdir", path)(errno)),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(root: &Path) -> Hierarchy {
        Hierarchy { version: Version::V1, controllers: Vec::new(), mount_point: root.to_owned() }
    }

    fn place(exclusive: bool) -> CgroupPlace {
        CgroupPlace { path: "a".into(), exclusive, first: None }
    }

    /// Tries until it comes about: what another test has just forked holds our locks too, until it has become its program.
    fn soon<T>(attempt: impl Fn() -> Option<T>) -> T {
        for _ in 0..6000 {
            if let Some(found) = attempt() {
                return found;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("it does not come about");
    }

    #[test]
    fn what_is_made_is_entered_and_not_a_later_one_of_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let (path, kept) = (dir.path().join("a"), dir.path().join("kept"));
        let (directory, held) = directory(&hierarchy(dir.path()), &place(false)).unwrap();
        fs::rename(&path, &kept).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("tasks"), "").unwrap();
        let error = open_control(&directory, held.as_fd(), "tasks").unwrap_err();
        assert_eq!(error.errno, Errno::NOENT);
        fs::write(kept.join("tasks"), "").unwrap();
        open_control(&directory, held.as_fd(), "tasks").unwrap();
    }

    #[test]
    fn a_directory_that_a_launch_holds_is_left_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for exclusive in [true, false] {
            let held = directory(&hierarchy(dir.path()), &place(true)).unwrap();
            let refused = directory(&hierarchy(dir.path()), &place(exclusive)).unwrap_err();
            assert!(matches!(&refused, Error::CgroupClaimed { path: named } if *named == path), "{refused}");
            assert!(!remove_unused(&path).unwrap());
            assert_eq!(DirectoryIdentity::of(&path), held.0.identity);
            drop(held);
            soon(|| remove_unused(&path).unwrap().then_some(()));
            assert!(!path.exists());
        }
    }

    #[test]
    fn what_a_crash_left_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        let (made, held) = directory(&hierarchy(dir.path()), &place(true)).unwrap();
        assert_eq!(made.made, 1);
        drop(held);
        // One that a bundle names is taken as it is.
        let (taken, held) = soon(|| directory(&hierarchy(dir.path()), &place(false)).ok());
        assert_eq!((taken.made, taken.identity), (0, made.identity));
        fs::write(dir.path().join("a/file"), "").unwrap();
        drop(held);
        let refuse = || directory(&hierarchy(dir.path()), &place(true)).unwrap_err();
        let refused = soon(|| Some(refuse()).filter(|refused| !matches!(refused, Error::CgroupClaimed { .. })));
        assert!(matches!(refused, Error::CgroupInUse { .. }), "{refused}");
    }
}
