// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Freezing a container and letting it go on: v1's freezer (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst), or v2's
//! `cgroup.freeze` (cgroup-v2.rst, Linux 5.2).

use std::fs;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use stos_sys::SysError;

use super::{CgroupDirectory, CgroupRecord, Version, read_at, write_existing};
use crate::error::{Error, Result};

/// How long a container may take to freeze. Only a process that the kernel itself keeps waiting needs more than a moment.
const PATIENCE: Duration = Duration::from_secs(10);

/// After how many looks a v1 cgroup that is still freezing goes on for a moment: a process that was cloned meanwhile can have slipped
/// through, and none of the looks catches it (opencontainers/runc issue 2105).
const LOOKS: u32 = 50;

impl CgroupRecord {
    /// Whether the container is frozen, in v1's freezer or in v2.
    pub fn is_frozen(&self) -> bool {
        let v1 = self.v1("freezer").is_some_and(|directory| reads(&directory.path.join("freezer.state"), "FROZEN"));
        v1 || self.v2().is_some_and(|directory| reads(&directory.path.join("cgroup.events"), "frozen 1"))
    }

    /// Freezes every process of the container, and returns when all are.
    ///
    /// # Errors
    /// Where they do not freeze: then they go on. Where nothing can freeze them.
    pub fn freeze(&self) -> Result<()> {
        let frozen = match (self.v1("freezer"), self.v2()) {
            (Some(directory), _) => freeze_v1(&directory.path),
            (None, Some(directory)) => freeze_v2(&directory.path),
            (None, None) => return Err(Error::NoFreezer),
        };
        frozen.inspect_err(|_| {
            // The cause counts.
            drop(self.thaw());
        })
    }

    /// Lets a frozen container go on, with what it has frozen itself further down. One that is not frozen, or is gone, is left
    /// as it is.
    pub fn thaw(&self) -> Result<()> {
        if let Some(directory) = self.v1("freezer") {
            directory.write_all("freezer.state", "THAWED")?;
        }
        match self.v2() {
            Some(directory) => directory.write_all("cgroup.freeze", "0"),
            None => Ok(()),
        }
    }
}

/// Whether a process that enters `held` freezes there, because of the directory itself or of one above it.
///
/// One read says both: v1's `freezer.state` counts the parents' freeze in, and an empty v2 cgroup is frozen when it or a parent is told to
/// be.
pub(super) fn freezes(directory: &CgroupDirectory, held: BorrowedFd<'_>) -> Result<bool> {
    let (file, is_frozen): (_, fn(&str) -> bool) = match directory.version {
        Version::V2 => ("cgroup.events", |line| line == "frozen 1"),
        Version::V1 if directory.controllers.iter().any(|name| name == "freezer") => {
            ("freezer.state", |line| line != "THAWED")
        }
        Version::V1 => return Ok(false),
    };
    let text = read_at(held, file).map_err(|errno| {
        let shown = directory.path.join(file).display().to_string();
        Error::sys("look whether a cgroup is frozen")(SysError::new("read", shown, errno))
    })?;
    Ok(text.is_some_and(|text| text.lines().any(is_frozen)))
}

fn reads(path: &Path, expected: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.lines().any(|line| line == expected))
}

fn freeze_v1(directory: &Path) -> Result<()> {
    let state = directory.join("freezer.state");
    let deadline = Instant::now() + PATIENCE;
    loop {
        for _ in 0..LOOKS {
            // Each write looks for processes that came since.
            write_existing(&state, "FROZEN")?;
            if reads(&state, "FROZEN") {
                return Ok(());
            }
            sleep(Duration::from_micros(50));
        }
        if Instant::now() > deadline || !state.exists() {
            return Err(Error::NotFrozen { path: directory.to_owned() });
        }
        write_existing(&state, "THAWED")?;
        sleep(Duration::from_millis(10));
    }
}

fn freeze_v2(directory: &Path) -> Result<()> {
    write_existing(&directory.join("cgroup.freeze"), "1")?;
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(50);
    while !reads(&directory.join("cgroup.events"), "frozen 1") {
        if Instant::now() > deadline || !directory.exists() {
            return Err(Error::NotFrozen { path: directory.to_owned() });
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::super::Hierarchy;
    use super::*;

    #[test]
    fn a_frozen_cgroup_is_told_by_one_file() {
        let cases = [
            (Version::V1, "freezer", "freezer.state", "THAWED\n", false),
            (Version::V1, "freezer", "freezer.state", "FREEZING\n", true),
            (Version::V1, "freezer", "freezer.state", "FROZEN\n", true),
            (Version::V1, "pids", "freezer.state", "FROZEN\n", false),
            (Version::V2, "", "cgroup.events", "populated 0\nfrozen 0\n", false),
            (Version::V2, "", "cgroup.events", "populated 0\nfrozen 1\n", true),
            // Before Linux 5.2 nothing freezes there.
            (Version::V2, "", "cgroup.events", "populated 0\n", false),
        ];
        for (version, controller, file, text, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(file), text).unwrap();
            let hierarchy =
                Hierarchy { version, controllers: vec![controller.to_owned()], mount_point: dir.path().to_owned() };
            let directory = CgroupDirectory::planned(&hierarchy, Path::new(""));
            let held = fs::File::open(dir.path()).unwrap();
            assert_eq!(freezes(&directory, held.as_fd()).unwrap(), expected, "{version} {controller} {text}");
        }
    }

    #[test]
    fn a_v2_container_is_frozen_when_the_kernel_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy { version: Version::V2, controllers: Vec::new(), mount_point: dir.path().to_owned() };
        let record = CgroupRecord::planned(&[hierarchy], Path::new(""));
        fs::write(dir.path().join("cgroup.freeze"), "0").unwrap();
        fs::write(dir.path().join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        assert!(!record.is_frozen());
        std::thread::scope(|scope| {
            let freezing = scope.spawn(|| record.freeze());
            while fs::read(dir.path().join("cgroup.freeze")).unwrap() != b"1" {
                std::thread::yield_now();
            }
            fs::write(dir.path().join("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
            freezing.join().unwrap().unwrap();
        });
        assert!(record.is_frozen());
        record.thaw().unwrap();
        assert_eq!(fs::read(dir.path().join("cgroup.freeze")).unwrap(), b"0");
    }

    #[test]
    fn without_a_freezer_nothing_freezes() {
        let record = CgroupRecord::default();
        assert!(!record.is_frozen());
        assert!(matches!(record.freeze(), Err(Error::NoFreezer)));
        record.thaw().unwrap();
    }
}
