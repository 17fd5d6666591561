// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A container's cgroups where systemd makes them: a scope around its first process, which waits meanwhile.
//!
//! systemd makes the scope's directory where it keeps units (the v2 tree, v1's `name=systemd`) and in those hierarchies whose
//! controllers it uses for it. The rest is made here, and the process put there; limits and device rules are then written as for
//! any other container, for systemd has no property for many.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use stos_sys::SysError;

use super::limits::Group;
use super::manager::Manager;
use super::systemd::{Unit, limit_properties};
use super::{CgroupPlace, CgroupRecord, Hierarchy, MadeCgroups, Version, Wishes, make::open_control};
use crate::error::{Error, Result};

/// A scope that a launch is about to have.
#[derive(Debug)]
pub(crate) struct Scope {
    manager: Manager,
    unit: Unit,
    id: String,
    hierarchies: Vec<Hierarchy>,
    wishes: Wishes,
    /// Whether systemd was asked.
    is_asked: bool,
    made: Option<MadeCgroups>,
}

impl Scope {
    /// Connects to systemd. Nothing is made yet.
    pub(crate) fn prepare(unit: Unit, id: &str, hierarchies: Vec<Hierarchy>, wishes: Wishes) -> Result<Self> {
        if hierarchies.is_empty() {
            return Err(Error::NoCgroups);
        }
        let manager = Manager::connect(&unit.name)?;
        Ok(Self { manager, unit, id: id.to_owned(), hierarchies, wishes, is_asked: false, made: None })
    }

    /// Where it will be.
    pub(crate) fn planned(&self) -> CgroupRecord {
        CgroupRecord {
            unit: Some(self.unit.name.clone()),
            ..CgroupRecord::planned(&self.hierarchies, &self.unit.cgroup())
        }
    }

    /// Has the scope made around `pid`, and puts it into the directories that systemd does not use.
    pub(crate) fn take_in(&mut self, pid: i32) -> Result<()> {
        let number = u32::try_from(pid).unwrap_or_default();
        // systemd's own idea of the machine: v2 alone, or units in v1's named hierarchy.
        let is_v1 = self.hierarchies.iter().any(|hierarchy| hierarchy.version == Version::V1);
        let version = if is_v1 { Version::V1 } else { Version::V2 };
        let mut properties = self.unit.properties(&self.id, number, version, self.manager.version());
        properties.extend(limit_properties(&self.wishes.limits, self.manager.version()));
        self.is_asked = true;
        self.manager.start(&self.unit, &properties)?;
        let path = self.unit.cgroup();
        let found = place_of(pid)?;
        if found != Path::new("/").join(&path) {
            return Err(Error::SystemdPlace { unit: self.unit.name.clone(), expected: path, found });
        }
        let place = CgroupPlace { path, exclusive: false, first: Some(pid) };
        let mut made = MadeCgroups::create(&self.hierarchies, &place, &self.wishes)?;
        made.belong_to(&self.unit.name);
        let made = self.made.insert(made);
        for (directory, held) in made.directories() {
            if directory.processes()?.contains(&pid) {
                continue;
            }
            let step = || Error::sys("put the container's first process into its cgroup");
            let procs = open_control(directory, held, "cgroup.procs").map_err(step())?;
            let failed = SysError::at("write", || format!("{}, {pid}", directory.path.join("cgroup.procs").display()));
            rustix::io::write(&procs, pid.to_string().as_bytes()).map_err(failed).map_err(step())?;
        }
        Ok(())
    }

    /// What was made, once all is well.
    pub(crate) fn into_record(self) -> CgroupRecord {
        let planned = self.planned();
        self.made.map_or(planned, MadeCgroups::into_record)
    }

    /// How many processes in it the kernel has killed for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        self.made.as_ref().map_or(0, |made| made.record().oom_kills())
    }

    /// Undoes it. The first process has ended.
    pub(crate) fn discard(mut self) -> Result<()> {
        let removed = self.made.take().map_or(Ok(()), |made| {
            let record = CgroupRecord { unit: None, ..made.into_record() };
            record.discard()
        });
        let stopped = if self.is_asked { self.manager.stop(&self.unit.name) } else { Ok(()) };
        removed.and(stopped)
    }
}

/// Tells systemd of changed limits, so that it does not set them back.
pub(super) fn tell(unit: &str, groups: &[Group], mut manager: Manager) -> Result<()> {
    let properties = limit_properties(groups, manager.version());
    if properties.is_empty() { Ok(()) } else { manager.set(unit, &properties) }
}

/// Has systemd forget a scope whose processes have ended. It does so by itself when it finds the scope empty, so what fails here
/// keeps nobody from deleting the container.
pub(super) fn forget(unit: &str) {
    if let Err(error) = Manager::connect(unit).and_then(|mut manager| manager.stop(unit)) {
        tracing::warn!(unit, %error, "systemd cannot be told that the container is deleted");
    }
}

/// Where systemd keeps the process, below the root of its hierarchy.
fn place_of(pid: i32) -> Result<PathBuf> {
    let table = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&table).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        Error::sys("look for the container's scope")(SysError::new("read", table.clone(), errno))
    })?;
    Ok(unit_path(&text).into())
}

/// systemd's own v1 hierarchy where there is one, else the v2 tree.
fn unit_path(table: &str) -> &str {
    let of = |name: &str| table.lines().find_map(|line| line.split_once(':')?.1.strip_prefix(name)?.strip_prefix(':'));
    of("name=systemd").or_else(|| of("")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_looked_for_where_systemd_keeps_it() {
        assert_eq!(unit_path("9:name=systemd:/a:b\n8:pids:/c\n0::/d\n"), "/a:b");
        assert_eq!(unit_path("8:pids:/c\n0::/d\n"), "/d");
        assert_eq!(unit_path(""), "");
    }
}
