// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Cgroups of a container that a further process enters.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use stos_sys::SysError;
use stos_sys::rooted::Root;

use super::{CgroupDirectory, CgroupRecord, DirectoryIdentity, Version};
use crate::error::{Error, Result};

const STAGE: &str = "enter the container's cgroup";

/// A cgroup below the container's own that a process is to enter (`exec --cgroup`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubCgroup {
    /// The v1 controllers for which it counts; empty: for every hierarchy.
    pub controllers: Vec<String>,
    /// Below the container's directory, which is `/`.
    pub path: PathBuf,
}

impl std::str::FromStr for SubCgroup {
    type Err = Error;

    /// Reads `[CONTROLLER[,CONTROLLER…]:]PATH`.
    fn from_str(text: &str) -> Result<Self> {
        let (controllers, path) = match text.split_once(':') {
            Some((controllers, path)) => (controllers.split(',').map(str::to_owned).collect(), path),
            None => (Vec::new(), text),
        };
        let is_name = |name: &String| !name.is_empty();
        let is_inside = !path.is_empty() && !path.split('/').any(|part| part == "..");
        if is_inside && controllers.iter().all(is_name) {
            return Ok(Self { controllers, path: path.into() });
        }
        Err(Error::SubCgroup { text: text.to_owned(), reason: "expected [CONTROLLER:]PATH without \"..\"".to_owned() })
    }
}

/// Directories that a process is about to enter, each held open.
#[derive(Debug)]
pub(crate) struct JoinedCgroups {
    directories: Vec<(CgroupDirectory, OwnedFd)>,
    /// Whether that of v2 was chosen by the caller: then no other will do.
    is_chosen: bool,
}

impl JoinedCgroups {
    /// Opens the container's directories, or those below them that `chosen` names. Each is the one that was recorded, and not a later
    /// one of its path.
    pub(crate) fn open(record: &CgroupRecord, chosen: &[SubCgroup]) -> Result<Self> {
        check_controllers(record, chosen)?;
        let mut directories = Vec::new();
        for directory in &record.directories {
            let held = open(&directory.path)?;
            let found = rustix::fs::fstat(&held).map_err(failed("fstat", &directory.path))?;
            if directory.identity.is_some_and(|own| own != DirectoryIdentity::from(&found)) {
                return Err(failed("open", &directory.path)(Errno::STALE));
            }
            let held = match chosen.iter().find(|sub| sub.counts_for(directory)) {
                // The tree is one that the container may have a hand in: no path leads out of it.
                Some(sub) => Root::new(held).open_directory(&sub.path).map_err(Error::sys(STAGE))?,
                None => held,
            };
            directories.push((directory.clone(), held));
        }
        let v2 = record.directories.iter().find(|it| it.version == Version::V2);
        let is_chosen = v2.is_some_and(|v2| chosen.iter().any(|sub| sub.counts_for(v2)));
        Ok(Self { directories, is_chosen })
    }

    /// Takes the cgroup that the process `pid` is in for the v2 one: a container may have moved its processes further down, and then its
    /// own directory takes none (cgroups(7), "no internal processes"). `false` where the caller has chosen one.
    pub(crate) fn follow(&mut self, pid: i32) -> Result<bool> {
        let Some((directory, held)) = self.directories.iter_mut().find(|(it, _)| it.version == Version::V2) else {
            return Ok(false);
        };
        if self.is_chosen {
            return Ok(false);
        }
        let table = PathBuf::from(format!("/proc/{pid}/cgroup"));
        let text = fs::read_to_string(&table)
            .map_err(|error| failed("read", &table)(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        let Some(path) = unified_path(&text) else { return Ok(false) };
        *held = open(&directory.mount_point.join(path.trim_start_matches('/')))?;
        Ok(true)
    }

    /// The v2 directory, for a process to be cloned into.
    pub(crate) fn v2(&self) -> Option<BorrowedFd<'_>> {
        self.directories.iter().find(|(it, _)| it.version == Version::V2).map(|(_, held)| held.as_fd())
    }

    /// The v1 directories, which the process enters by itself.
    pub(crate) fn v1(&self) -> impl Iterator<Item = (&CgroupDirectory, BorrowedFd<'_>)> {
        let v1 = self.directories.iter().filter(|(it, _)| it.version == Version::V1);
        v1.map(|(directory, held)| (directory, held.as_fd()))
    }
}

impl SubCgroup {
    fn counts_for(&self, directory: &CgroupDirectory) -> bool {
        let has = |name: &String| directory.controllers.iter().any(|own| own == name);
        self.controllers.is_empty() || self.controllers.iter().any(has)
    }
}

/// A controller that the container has in no hierarchy is a mistake, not a wish for nothing.
fn check_controllers(record: &CgroupRecord, chosen: &[SubCgroup]) -> Result<()> {
    let known = |name: &String| record.directories.iter().any(|directory| directory.controllers.contains(name));
    for sub in chosen {
        if let Some(unknown) = sub.controllers.iter().find(|name| !known(name)) {
            let reason = format!("no v1 hierarchy has the controller {unknown:?}");
            return Err(Error::SubCgroup { text: sub.path.display().to_string(), reason });
        }
    }
    Ok(())
}

fn unified_path(table: &str) -> Option<&str> {
    table.lines().find_map(|line| line.strip_prefix("0::"))
}

fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(failed("open", path))
}

fn failed(call: &'static str, path: &Path) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::sys(STAGE)(SysError::new(call, path.display().to_string(), errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Hierarchy;

    #[test]
    fn a_sub_cgroup_is_a_path_and_maybe_controllers() {
        let sub: SubCgroup = "memory,pids:a/b".parse().unwrap();
        assert_eq!((sub.controllers, sub.path), (vec!["memory".into(), "pids".into()], "a/b".into()));
        assert!("/".parse::<SubCgroup>().unwrap().controllers.is_empty());
        for text in ["", "a/../../b", ":a", "memory:", "memory,:a"] {
            assert!(matches!(text.parse::<SubCgroup>(), Err(Error::SubCgroup { .. })), "{text}");
        }
    }

    #[test]
    fn only_what_was_recorded_is_entered() {
        let dir = tempfile::tempdir().unwrap();
        let hierarchy =
            Hierarchy { version: Version::V1, controllers: vec!["memory".into()], mount_point: dir.path().into() };
        let mut record = CgroupRecord::planned(&[hierarchy], Path::new("a"));
        fs::create_dir_all(dir.path().join("a/sub")).unwrap();
        record.directories[0].identity = DirectoryIdentity::of(&dir.path().join("a"));
        let open = |chosen: &str| JoinedCgroups::open(&record, &[chosen.parse().unwrap()]);
        assert_eq!(open("memory:sub").unwrap().v1().count(), 1);
        assert!(open("none").is_err() && matches!(open("cpu:sub"), Err(Error::SubCgroup { .. })));
        std::os::unix::fs::symlink("/tmp", dir.path().join("a/link")).unwrap();
        assert!(open("link").is_err());
        fs::rename(dir.path().join("a"), dir.path().join("kept")).unwrap();
        fs::create_dir_all(dir.path().join("a/sub")).unwrap();
        assert!(open("sub").is_err(), "a later directory of the path");
    }

    #[test]
    fn the_v2_path_is_found() {
        assert_eq!(unified_path("12:pids:/a\n1:name=systemd:/b\n0::/c/d\n"), Some("/c/d"));
        assert_eq!(unified_path("12:pids:/a\n"), None);
    }
}
