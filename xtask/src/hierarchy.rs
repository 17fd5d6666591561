// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A cgroup hierarchy that crun needs on a host with cgroups of both versions.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

/// The hierarchy without which crun refuses a host with cgroups of both versions; gone when dropped.
pub struct Hierarchy(bool);

const HIERARCHY: &str = "/sys/fs/cgroup/hugetlb";

impl Hierarchy {
    /// Mounts it, where the host is one that needs it and has it not.
    pub fn mount() -> Self {
        if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() || Path::new(HIERARCHY).join("tasks").exists() {
            return Self(false);
        }
        let _ = fs::create_dir_all(HIERARCHY);
        // The hierarchy of one who had it before goes some time after its last cgroup.
        for _ in 0..100 {
            let mut mount = Command::new("mount");
            if mount.args(["-t", "cgroup", "-o", "hugetlb", "cgroup", HIERARCHY]).status().is_ok_and(|it| it.success())
            {
                return Self(true);
            }
            sleep(Duration::from_millis(100));
        }
        eprintln!("the hugetlb hierarchy cannot be mounted: crun will refuse");
        Self(false)
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        if self.0 {
            // crun leaves cgroups of a create that has failed, and with them the hierarchy would stay.
            remove_cgroups(Path::new(HIERARCHY));
            let _ = Command::new("umount").arg(HIERARCHY).status();
        }
    }
}

fn remove_cgroups(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
            let _ = fs::remove_dir(entry.path());
        }
    }
}
