// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A cgroup of its own for a further process of a container: by it the process can be ended with all that it has started, whoever is
//! the parent of that by then.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use super::{CgroupDirectory, CgroupRecord, DirectoryIdentity, SubCgroup, Version, io_error, write_existing};
use crate::error::Result;

/// The v1 controllers whose hierarchy may have one: a new cgroup of these takes processes at once, and limits nothing by itself.
const CONTROLLERS: [&str; 3] = ["pids", "freezer", "devices"];

/// A cgroup below the container's, in one hierarchy: that of v2 where there is no v1 controller. Limits count for what is below, too.
#[derive(Debug)]
pub struct OwnCgroup {
    record: CgroupRecord,
    /// The container's directory that it lies in.
    above: PathBuf,
    sub: SubCgroup,
}

impl OwnCgroup {
    /// Makes it, by a name that nobody else uses; `None` where the container has no cgroup that could have one.
    ///
    /// # Errors
    /// Where the kernel refuses it: for its depth, say.
    pub fn make(container: &CgroupRecord, name: &str) -> Result<Option<Self>> {
        let Some((directory, controllers)) = place(container) else { return Ok(None) };
        let path = directory.path.join(name);
        fs::create_dir(&path).map_err(|error| io_error("make a cgroup", "mkdir", &path, &error))?;
        let own = CgroupDirectory { identity: DirectoryIdentity::of(&path), path, made: 1, ..directory.clone() };
        Ok(Some(Self {
            record: CgroupRecord { path: container.path.join(name), directories: vec![own], unit: None },
            above: directory.path.clone(),
            sub: SubCgroup { controllers, path: name.into() },
        }))
    }

    /// Where the process goes.
    pub fn sub(&self) -> &SubCgroup {
        &self.sub
    }

    /// Kills whatever is in it, and removes it.
    pub fn end(&self) -> Result<()> {
        self.record.kill_all()?;
        self.record.remove()
    }

    /// Removes it when its process has ended by itself. What that has left behind becomes the container's; where the container has no
    /// place for it, it stays where it is, and goes with the container.
    pub fn dissolve(&self) -> Result<()> {
        if self.record.remove_empty()? {
            return Ok(());
        }
        for pid in self.record.processes()? {
            match fs::write(self.above.join("cgroup.procs"), pid.to_string()) {
                // It has ended meanwhile.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
                // A v2 cgroup whose controllers are its children's takes no process (cgroups(7)).
                Err(error) if error.kind() == ErrorKind::ResourceBusy => return Ok(()),
                Err(error) => return Err(io_error("leave a cgroup", "write", &self.above, &error)),
                Ok(()) => {}
            }
        }
        self.record.remove_empty().map(drop)
    }

    /// Asks the kernel to kill whatever is in it, and waits for nothing. What is in a v1 cgroup is signalled once.
    pub fn kill(&self) -> Result<()> {
        if let Some(directory) = self.record.v2() {
            write_existing(&directory.path.join("cgroup.kill"), "1")?;
        }
        self.record.signal_all(rustix::process::Signal::KILL.as_raw())
    }
}

/// The directory of the container that it goes into, and the controllers that name its hierarchy.
fn place(container: &CgroupRecord) -> Option<(&CgroupDirectory, Vec<String>)> {
    for controller in CONTROLLERS {
        if let Some(directory) = container.v1(controller) {
            return Some((directory, vec![controller.to_owned()]));
        }
    }
    // Without controllers the name counts for every hierarchy: there must be no other.
    let only = container.directories.iter().all(|directory| directory.version == Version::V2);
    container.v2().filter(|_| only).map(|directory| (directory, Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::super::Hierarchy;
    use super::*;

    fn record(hierarchies: &[(Version, &str)]) -> (tempfile::TempDir, CgroupRecord) {
        let dir = tempfile::tempdir().unwrap();
        let of = |(version, controller): &(Version, &str)| Hierarchy {
            version: *version,
            controllers: Some((*controller).to_owned()).filter(|name| !name.is_empty()).into_iter().collect(),
            mount_point: dir.path().join(if controller.is_empty() { "unified" } else { controller }),
        };
        let hierarchies: Vec<_> = hierarchies.iter().map(of).collect();
        let record = CgroupRecord::planned(&hierarchies, "stos/c".as_ref());
        record.directories.iter().for_each(|directory| fs::create_dir_all(&directory.path).unwrap());
        (dir, record)
    }

    #[test]
    fn it_lies_in_one_hierarchy_that_takes_it_at_once() {
        let hybrid = [(Version::V1, "cpuset"), (Version::V1, "pids"), (Version::V2, "")];
        let (dir, container) = record(&hybrid);
        let own = OwnCgroup::make(&container, "x").unwrap().unwrap();
        assert_eq!((own.sub().controllers.as_slice(), own.sub().path.to_str()), (&["pids".to_owned()][..], Some("x")));
        assert!(dir.path().join("pids/stos/c/x").is_dir() && !dir.path().join("unified/stos/c/x").exists());
        assert!(OwnCgroup::make(&container, "x").is_err(), "its name is its own");
        own.dissolve().unwrap();
        assert!(!dir.path().join("pids/stos/c/x").exists() && dir.path().join("pids/stos/c").exists());
        let (dir, container) = record(&[(Version::V2, "")]);
        let own = OwnCgroup::make(&container, "x").unwrap().unwrap();
        assert!(own.sub().controllers.is_empty() && dir.path().join("unified/stos/c/x").is_dir());
        let (_dir, container) = record(&[(Version::V1, "cpuset"), (Version::V2, "")]);
        assert!(OwnCgroup::make(&container, "x").unwrap().is_none());
    }
}
