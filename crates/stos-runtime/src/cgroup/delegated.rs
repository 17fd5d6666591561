// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cgroup that the caller is in, with containers below it: a service manager has delegated it (systemd's `Delegate=`).
//!
//! On v2 a cgroup that has controllers for those below it has no processes of its own (cgroups(7), "no internal processes"), so the caller
//! goes into one beside the container's first, as podman's does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use stos_sys::SysError;

use super::{CgroupRequest, Hierarchy, Version, mounted_hierarchies};
use crate::error::{Error, Result};

/// Where the caller goes on v2.
const SUPERVISOR: &str = "supervisor";

/// Has a container's cgroups be `name` below the caller's own. On v2 the caller has left that when this returns.
///
/// # Errors
/// [`Error::NoOwnCgroup`] where the caller is in the root of every hierarchy.
pub fn below_own(name: &str) -> Result<CgroupRequest> {
    let path = "/proc/self/cgroup";
    let table = fs::read_to_string(path).map_err(failed("read", Path::new(path)))?;
    let hierarchies = mounted_hierarchies()?;
    let v2 = hierarchies.iter().find(|hierarchy| hierarchy.version == Version::V2);
    let own = own_cgroup(&table, v2.is_some()).ok_or(Error::NoOwnCgroup)?;
    if let Some(v2) = v2 {
        step_aside(v2, &own)?;
    }
    Ok(CgroupRequest { path: Some(own.join(name)), by_systemd: false })
}

/// The caller's cgroup of cgroups(7)'s `ID:CONTROLLERS:PATH` lines, without a leading slash: that of v2, where that is mounted, or systemd's,
/// or any. `None` where all are roots. Where the caller has stepped aside before it is the one above.
fn own_cgroup(table: &str, has_v2: bool) -> Option<PathBuf> {
    let lines = table.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let path = Path::new(path.strip_prefix('/')?);
        let path = if path.ends_with(SUPERVISOR) { path.parent()? } else { path };
        (!path.as_os_str().is_empty()).then_some((controllers, path))
    });
    let rank = |controllers: &str| match controllers {
        "" if has_v2 => 0,
        "name=systemd" => 1,
        "" => 3,
        _ => 2,
    };
    lines.min_by_key(|(controllers, _)| rank(controllers)).map(|(_, path)| path.to_owned())
}

fn step_aside(v2: &Hierarchy, own: &Path) -> Result<()> {
    let directory = v2.mount_point.join(own).join(SUPERVISOR);
    match fs::create_dir(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("mkdir", &directory)(error)),
        _ => {}
    }
    let procs = directory.join("cgroup.procs");
    fs::write(&procs, "0").map_err(failed("write", &procs))
}

fn failed(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let shown = path.display().to_string();
    move |error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        Error::sys("make cgroups below the caller's own")(SysError::new(call, shown, errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_of_the_unit_is_found() {
        let v2 = "0::/system.slice/web.service\n";
        let hybrid = "4:memory:/system.slice\n1:name=systemd:/system.slice/web.service\n0::/system.slice/web.service\n";
        let v1 = "4:memory:/m\n1:name=systemd:/system.slice/web.service\n";
        let unit = Some(PathBuf::from("system.slice/web.service"));
        assert_eq!(own_cgroup(v2, true), unit);
        assert_eq!(own_cgroup(hybrid, true), unit);
        assert_eq!(own_cgroup(v1, false), unit);
        assert_eq!(own_cgroup("0::/system.slice/web.service/supervisor\n", true), unit);
        assert_eq!(own_cgroup("4:memory:/m\n0::/\n", true), Some(PathBuf::from("m")));
        for root in ["0::/\n", "0::/supervisor\n", "", "nonsense\n"] {
            assert_eq!(own_cgroup(root, true), None, "{root:?}");
        }
    }
}
