// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the kernel holds of a container's limits, as the host sees it.

use std::fs;
use std::path::PathBuf;

/// The directory of a process's cgroup: in the v1 hierarchy of the controller, or in the v2 tree where there is none.
#[track_caller]
pub fn directory(pid: i64, controller: &str) -> (PathBuf, bool) {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let find = |name: &str| {
        let path = table.lines().find_map(|line| {
            let fields: Vec<_> = line.splitn(3, ':').collect();
            fields[1].split(',').any(|found| found == name).then(|| fields[2].trim_start_matches('/').to_owned())
        })?;
        let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| match name {
            "" => fields[2] == "cgroup2",
            name => fields[2] == "cgroup" && fields[3].split(',').any(|option| option == name),
        })?;
        Some(PathBuf::from(mount[1]).join(path))
    };
    find(controller).map(|found| (found, true)).or_else(|| Some((find("")?, false))).expect("a cgroup")
}

/// Whether the controller has a v1 hierarchy here.
pub fn is_v1(controller: &str) -> bool {
    directory(i64::from(std::process::id()), controller).1
}

/// What a control file holds: `v1` where the controller has a hierarchy of its own, or `v2`.
#[track_caller]
pub fn control(pid: i64, controller: &str, v1: &str, v2: &str) -> String {
    let (directory, is_v1) = directory(pid, controller);
    let path = directory.join(if is_v1 { v1 } else { v2 });
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}
