// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Freezing a container and letting it go on: v1's freezer (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst), or v2's
//! `cgroup.freeze` (cgroup-v2.rst, Linux 5.2).

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{CgroupRecord, children, write_existing};
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
            write_tree(&directory.path, "freezer.state", "THAWED")?;
        }
        match self.v2() {
            Some(directory) => write_tree(&directory.path, "cgroup.freeze", "0"),
            None => Ok(()),
        }
    }
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

/// Writes a control file of a cgroup and of all below it.
fn write_tree(directory: &Path, file: &str, text: &str) -> Result<()> {
    write_existing(&directory.join(file), text)?;
    children(directory)?.iter().try_for_each(|child| write_tree(child, file, text))
}

#[cfg(test)]
mod tests {
    use super::super::{Hierarchy, Version};
    use super::*;

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
