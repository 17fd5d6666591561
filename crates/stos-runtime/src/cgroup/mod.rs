// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container's cgroups: made before it, entered by its first process, emptied and removed after it.
//!
//! v1, v2 and hybrid (v1 controllers beside a v2 tree) are one thing here: a list of mounted hierarchies, in each of which
//! the container has a directory of the same path. Writing a pid into `cgroup.procs` costs up to 9 ms on an idle machine
//! (the kernel waits for readers of a global lock), a single-threaded process that writes `0` into its own v1 `tasks` 0.1
//! ms, and `CLONE_INTO_CGROUP` on v2 0.4 ms; so those two are used.

mod delegated;
mod devices;
mod freezer;
mod hierarchy;
mod join;
pub mod limits;
mod make;
mod manager;
mod own;
mod owner;
mod scope;
pub mod systemd;
mod tree;

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use stos_sys::SysError;
use stos_sys::process::exec::c_string;
use stos_sys::process::pidfd;

pub use delegated::below_own;
pub(crate) use devices::default_rules;
pub use hierarchy::{CGROUP_ROOT, Hierarchy, Version, mounted_hierarchies};
pub(crate) use join::JoinedCgroups;
pub use join::SubCgroup;
pub(crate) use make::{MadeCgroups, Wishes, open_control};
pub(crate) use manager::check_booted;
pub use own::OwnCgroup;
pub(crate) use scope::Scope;

use crate::error::{Error, Result};

/// How long a killed process may take until it has left its cgroup.
const PATIENCE: Duration = Duration::from_secs(10);

/// The parent of the cgroups of image mode's containers. It is stos's own, so whoever leaves it empty removes it: its maker may
/// have gone before.
pub const SHARED_PARENT: &str = "stos";

/// Where a container's cgroups should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupRequest {
    /// Below the root of each hierarchy, without a leading slash; `None`: `stos-<id>`, one level, so that no parent is
    /// shared with other containers and none stays.
    pub path: Option<PathBuf>,
    /// Whether systemd makes them: then `linux.cgroupsPath` names a unit ([`systemd::Unit`]), and there is no path.
    pub by_systemd: bool,
}

/// Where a container's cgroups go, below the root of each hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CgroupPlace {
    /// Without a leading slash.
    pub path: PathBuf,
    /// Whether nobody but us has a use for the path: `stos-<id>`, and none that a bundle names.
    pub exclusive: bool,
    /// The container's first process, where it may be there already.
    pub first: Option<i32>,
}

/// A container's cgroups, as recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupRecord {
    /// Below the root of each hierarchy.
    pub path: PathBuf,
    /// One directory for each hierarchy.
    pub directories: Vec<CgroupDirectory>,
    /// systemd's unit, where systemd has made them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// A container's directory in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupDirectory {
    /// v1 or v2.
    pub version: Version,
    /// Its controllers; for a named v1 hierarchy `name=…`; for v2 empty.
    pub controllers: Vec<String>,
    /// The mount point of the hierarchy.
    pub mount_point: PathBuf,
    /// The directory.
    pub path: PathBuf,
    /// How many directories were made for it: it, and this many less one above it.
    pub made: usize,
    /// Which directory it is: where it is gone, another container may have one of the same path by now. `None` in a plan:
    /// whatever is there counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<DirectoryIdentity>,
}

/// What tells a cgroup from a later one of the same path: the kernel uses no number twice (Linux 5.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryIdentity {
    /// The hierarchy's device number.
    pub device: u64,
    /// The directory's inode number.
    pub inode: u64,
}

impl CgroupRecord {
    /// What a launch is about to make at `path` ([`crate::launch::planned_cgroup`]) below each of `hierarchies`, for a record that
    /// is written first: should the creator be killed, its directories and the processes in them are found.
    pub fn planned(hierarchies: &[Hierarchy], path: &Path) -> Self {
        let directories = hierarchies.iter().map(|hierarchy| CgroupDirectory::planned(hierarchy, path)).collect();
        Self { path: path.to_owned(), directories, unit: None }
    }

    /// The directories that are still the container's.
    fn own(&self) -> impl Iterator<Item = &CgroupDirectory> {
        self.directories.iter().filter(|directory| directory.is_own())
    }

    /// Every process of the container, as pids of the caller's namespace, each once.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let mut all = Vec::new();
        for directory in &self.directories {
            all.extend(directory.processes()?);
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// The directory of a v1 controller.
    pub(crate) fn v1(&self, controller: &str) -> Option<&CgroupDirectory> {
        let has = |directory: &&CgroupDirectory| directory.controllers.iter().any(|name| name == controller);
        self.directories.iter().find(has).filter(|directory| directory.is_own())
    }

    pub(crate) fn v2(&self) -> Option<&CgroupDirectory> {
        self.directories
            .iter()
            .find(|directory| directory.version == Version::V2)
            .filter(|directory| directory.is_own())
    }

    /// Changes limits of the container: all that `resources` asks for, or none.
    ///
    /// What it does not name stays as it is. The device rules stay too, whatever it says of them, as runc has it: engines send the
    /// whole of a container's resources. Where the cgroups are systemd's it is told after the kernel has taken all.
    ///
    /// # Errors
    /// [`limits::LimitError`] for a key that this machine cannot keep, or whose value the kernel refuses.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        // Before anything is changed: most that can go wrong with it goes wrong here.
        let manager = self.unit.as_deref().map(manager::Manager::connect).transpose()?;
        let mut resources = resources.clone();
        if let Some(v2) = self.v2() {
            limits::complete(&mut resources, &limits::Current::of(&v2.path));
        }
        let groups = limits::plan(&resources, &limits::Layout::of(&mounted_hierarchies()?))?;
        if let Some(v2) = self.v2() {
            limits::enable_controllers(v2, &groups, false)?;
        }
        let mut held = Vec::new();
        for directory in self.own() {
            held.extend(directory.open()?.map(|held| (directory, held)));
        }
        let targets: Vec<_> =
            held.iter().map(|(directory, held)| limits::Target { directory, held: held.as_fd() }).collect();
        limits::apply(&groups, &targets, true)?;
        if let (Some(unit), Some(manager)) = (&self.unit, manager) {
            scope::tell(unit, &groups, manager)?;
            // It rounds some.
            limits::apply(&groups, &targets, true)?;
        }
        Ok(())
    }

    /// How many processes of the container the kernel has killed for want of memory (v1 `memory.oom_control`, Linux 4.13;
    /// v2 `memory.events`). 0 where it cannot be read.
    pub fn oom_kills(&self) -> u64 {
        let count = |directory: &CgroupDirectory, file: &str| {
            let text = fs::read_to_string(directory.path.join(file)).ok()?;
            text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse::<u64>().ok()
        };
        let v1 = self.v1("memory").and_then(|directory| count(directory, "memory.oom_control"));
        v1.max(self.v2().and_then(|directory| count(directory, "memory.events"))).unwrap_or(0)
    }

    /// Sends `signal` to every process of the container.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        let stage = "signal a container's process";
        let mut opened = Vec::new();
        for pid in self.processes()? {
            let Some(process) = rustix::process::Pid::from_raw(pid) else { continue };
            opened.extend(pidfd::open(process).map_err(Error::sys(stage))?.map(|process| (pid, process)));
        }
        // Looked at again: between the list and the descriptor a number may have gone to a process of the host.
        let still = self.processes()?;
        for (_, process) in opened.iter().filter(|(pid, _)| still.contains(pid)) {
            pidfd::send_signal(process.as_fd(), signal).map_err(Error::sys(stage))?;
        }
        Ok(())
    }

    /// Kills every process of the container and waits until none is left, frozen or not, forking or not.
    ///
    /// v2's `cgroup.kill` (Linux 5.14) is used where there is a v2 tree, v1 ones are killed until none is found.
    pub fn kill_all(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(200);
        loop {
            if let Some(directory) = self.v2() {
                write_existing(&directory.path.join("cgroup.kill"), "1")?;
            }
            let found = self.processes()?;
            if found.is_empty() {
                return Ok(());
            }
            self.signal_all(rustix::process::Signal::KILL.as_raw())?;
            // A frozen process dies when it thaws.
            self.thaw()?;
            if Instant::now() > deadline {
                return Err(Error::CgroupBusy { path: self.path.clone(), found });
            }
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Removes the container's directories, those that it made inside them, and parents that are empty and were made for it, or
    /// are [`SHARED_PARENT`]. Its processes must be gone. What is gone already is no error.
    pub fn remove(&self) -> Result<()> {
        if let Some(unit) = &self.unit {
            scope::forget(unit);
        }
        let in_shared = self.path.parent() == Some(Path::new(SHARED_PARENT));
        for directory in &self.directories {
            directory.remove_all()?;
            if let Some(parent) = directory.path.parent() {
                make::remove_levels(parent, directory.made.saturating_sub(1).max(usize::from(in_shared)))?;
            }
        }
        Ok(())
    }

    /// Removes those of the container's directories that nothing is in. `false` where one stays.
    pub(crate) fn remove_empty(&self) -> Result<bool> {
        let mut all_gone = true;
        for directory in &self.directories {
            all_gone &= directory.remove_if_empty()?;
        }
        Ok(all_gone)
    }

    /// Undoes a launch: kills what is in the directories that were made for it, and removes them. One that was there before, which a
    /// bundle named, is left with whatever has come into it.
    pub(crate) fn discard(&self) -> Result<()> {
        let made = self.directories.iter().filter(|directory| directory.made > 0).cloned().collect();
        let made = Self { path: self.path.clone(), directories: made, unit: self.unit.clone() };
        made.kill_all()?;
        made.remove()
    }

    /// Removes what a launch that came to nothing may have left at the planned path: an empty directory, in each hierarchy. `false`
    /// where one is in use: by the first process of that launch, which ends after its creator, or by somebody else.
    pub(crate) fn remove_unused(&self) -> Result<bool> {
        let mut all_gone = true;
        for directory in &self.directories {
            all_gone &= make::remove_unused(&directory.path)?;
        }
        Ok(all_gone)
    }
}

impl CgroupDirectory {
    fn planned(hierarchy: &Hierarchy, path: &Path) -> Self {
        Self {
            version: hierarchy.version,
            controllers: hierarchy.controllers.clone(),
            mount_point: hierarchy.mount_point.clone(),
            path: hierarchy.mount_point.join(path),
            made: 1,
            identity: None,
        }
    }

    /// Whether what is at its path is this very directory.
    fn is_own(&self) -> bool {
        self.identity.is_none_or(|identity| DirectoryIdentity::of(&self.path) == Some(identity))
    }

    /// Opens this very directory; `None` where it is gone.
    fn open(&self) -> Result<Option<OwnedFd>> {
        let failed = |call| {
            move |errno| Error::sys("open a cgroup")(SysError::new(call, self.path.display().to_string(), errno))
        };
        let held =
            match rustix::fs::open(&self.path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
                Err(Errno::NOENT | Errno::NODEV) => return Ok(None),
                other => other.map_err(failed("open"))?,
            };
        let found = DirectoryIdentity::from(&rustix::fs::fstat(&held).map_err(failed("fstat"))?);
        Ok(self.identity.is_none_or(|identity| identity == found).then_some(held))
    }

    /// Processes in this directory and below, as this hierarchy knows them. None where it is gone.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let mut found = Vec::new();
        let Some(top) = self.open()? else { return Ok(found) };
        let collect = |directory: BorrowedFd<'_>| {
            let text = match read_at(directory, "cgroup.procs") {
                // A threaded one (cgroup-v2.rst, "Threads"), which the container may have made: its processes are those of the domain
                // above, which is the container's own at most.
                Err(Errno::OPNOTSUPP) => return Ok(()),
                other => other.map_err(|errno| {
                    let shown = self.path.join("cgroup.procs").display().to_string();
                    Error::sys("read a cgroup's processes")(SysError::new("read", shown, errno))
                })?,
            };
            // A zero is a process of a pid namespace that we cannot see.
            let text = text.unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse().ok()).filter(|pid: &i32| *pid != 0));
            Ok(())
        };
        tree::walk(top, &self.path, collect, |_, _| Ok(()))?;
        Ok(found)
    }

    /// Writes a control file of this directory and of all below it; where there is none (an older kernel) nothing is written.
    fn write_all(&self, file: &str, text: &str) -> Result<()> {
        let Some(top) = self.open()? else { return Ok(()) };
        let write = |directory: BorrowedFd<'_>| {
            let opened = openat(directory, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
            match opened.and_then(|fd| rustix::io::write(&fd, text.as_bytes())) {
                Ok(_) | Err(Errno::NOENT | Errno::NODEV) => Ok(()),
                Err(errno) => {
                    let failure = SysError::new("write", self.path.join(file).display().to_string(), errno);
                    Err(Error::sys("control a cgroup")(failure))
                }
            }
        };
        tree::walk(top, &self.path, write, |_, _| Ok(()))
    }

    /// Removes this very directory where there is neither a process nor a cgroup in it. `false` where it stays.
    fn remove_if_empty(&self) -> Result<bool> {
        if self.open()?.is_none() {
            return Ok(true);
        }
        match rustix::fs::rmdir(&self.path) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::BUSY | Errno::NOTEMPTY) => Ok(false),
            Err(errno) => {
                let shown = self.path.display().to_string();
                Err(Error::sys("remove a cgroup")(SysError::new("rmdir", shown, errno)))
            }
        }
    }

    /// Removes this very directory with all below it. What is gone already is no error.
    fn remove_all(&self) -> Result<()> {
        let Some(top) = self.open()? else { return Ok(()) };
        let remove =
            |parent: BorrowedFd<'_>, name: &CString| remove_directory(parent, name, || tree::shown(&self.path, name));
        tree::walk(top, &self.path, |_| Ok(()), remove)?;
        let name = c_string("unlinkat", self.path.as_os_str().as_bytes()).map_err(Error::sys("remove a cgroup"))?;
        remove_directory(CWD, &name, || self.path.clone())
    }
}

impl DirectoryIdentity {
    /// `None` where there is no such directory.
    fn of(path: &Path) -> Option<Self> {
        rustix::fs::stat(path).ok().as_ref().map(Self::from)
    }
}

impl From<&rustix::fs::Stat> for DirectoryIdentity {
    fn from(stat: &rustix::fs::Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NODEV))
}

pub(crate) fn io_error(stage: &'static str, call: &'static str, path: &Path, error: &io::Error) -> Error {
    let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
    Error::sys(stage)(SysError::new(call, path.display().to_string(), errno))
}

/// Reads a control file of `directory`; `None` where it or the directory is gone.
fn read_at(directory: BorrowedFd<'_>, file: &str) -> std::result::Result<Option<String>, Errno> {
    let opened = openat(directory, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let mut text = String::new();
    match opened.and_then(|fd| {
        let read = io::Read::read_to_string(&mut fs::File::from(fd), &mut text);
        read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }) {
        Ok(_) => Ok(Some(text)),
        // ENODEV: the directory went while it was open.
        Err(Errno::NOENT | Errno::NODEV) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn remove_directory(parent: BorrowedFd<'_>, name: &std::ffi::CStr, shown: impl Fn() -> PathBuf) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // A process that has just ended is still being taken out.
            Err(Errno::BUSY) if Instant::now() < deadline => sleep(Duration::from_millis(1)),
            Err(errno) => {
                let failure = SysError::new("unlinkat", shown().display().to_string(), errno);
                return Err(Error::sys("remove a cgroup")(failure));
            }
        }
    }
}

/// Writes a control file; one that is not there (an older kernel, a cgroup that is gone) is no error.
fn write_existing(path: &Path, text: &str) -> Result<()> {
    match fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
    {
        Ok(()) => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) => Err(io_error("control a cgroup", "write", path, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(root: &Path, path: &str) -> CgroupRecord {
        let hierarchy = Hierarchy { version: Version::V2, controllers: Vec::new(), mount_point: root.to_owned() };
        CgroupRecord::planned(&[hierarchy], Path::new(path))
    }

    #[test]
    fn what_is_empty_goes_without_a_look_for_processes() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["one", "two/below"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        let left = || fs::read_dir(dir.path()).unwrap().count();
        assert!(planned(dir.path(), "one").remove_empty().unwrap() && left() == 1);
        assert!(planned(dir.path(), "one").remove_empty().unwrap(), "it is gone already");
        assert!(!planned(dir.path(), "two").remove_empty().unwrap() && left() == 1);
        // Another container's of the same path.
        let mut other = planned(dir.path(), "two");
        fs::remove_dir(dir.path().join("two/below")).unwrap();
        other.directories[0].identity = Some(DirectoryIdentity { device: 0, inode: 0 });
        assert!(other.remove_empty().unwrap() && left() == 1);
    }

    #[test]
    fn the_last_container_takes_the_shared_parent_along() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["stos/one", "stos/two", "other/one"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        let exists = |path: &str| dir.path().join(path).exists();
        planned(dir.path(), "stos/one").remove().unwrap();
        assert!(exists("stos/two"));
        planned(dir.path(), "stos/two").remove().unwrap();
        assert!(!exists("stos"));
        // Somebody else's stays.
        planned(dir.path(), "other/one").remove().unwrap();
        assert!(exists("other") && !exists("other/one"));
    }

    #[test]
    fn a_failed_launch_kills_nobody_in_a_directory_that_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut sleeper = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let there = dir.path().join("there");
        fs::create_dir(&there).unwrap();
        fs::write(there.join("cgroup.procs"), sleeper.id().to_string()).unwrap();
        let mut record = planned(dir.path(), "there");
        record.directories[0].made = 0;
        record.discard().unwrap();
        let alive = sleeper.try_wait().unwrap().is_none();
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert!(alive && there.exists());
    }

    #[test]
    fn a_plan_of_a_bundle_removes_nothing_that_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        fs::create_dir_all(&path).unwrap();
        assert!(!planned(dir.path(), "a").remove_unused().unwrap());
        assert!(path.exists());
        assert!(planned(dir.path(), "a/b").remove_unused().unwrap());
        assert!(!path.exists() && dir.path().join("a").exists());
        assert!(planned(dir.path(), "a/b").remove_unused().unwrap());
    }

    #[test]
    fn a_directory_of_the_same_path_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::create_dir(&path).unwrap();
        let mut record = planned(dir.path(), "a");
        record.directories[0].identity = DirectoryIdentity::of(&path);
        // Kept, so that its number is not given again.
        fs::rename(&path, dir.path().join("kept")).unwrap();
        fs::create_dir(&path).unwrap();
        record.remove().unwrap();
        assert!(path.exists());
        fs::remove_dir(&path).unwrap();
        fs::rename(dir.path().join("kept"), &path).unwrap();
        record.remove().unwrap();
        assert!(!path.exists());
    }
}
