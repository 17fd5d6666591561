// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Giving a container its v2 cgroup, so that it may have cgroups of its own below (config-linux.md, "Cgroup ownership").

use std::fs;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Uid, chownat};
use rustix::io::Errno;
use stos_sys::SysError;

use super::{CgroupDirectory, MadeCgroups, Version};
use crate::error::{Error, Result};

/// The kernel's list of files that may be given away with a cgroup (Linux 4.15).
const DELEGATE: &str = "/sys/kernel/cgroup/delegate";

/// What is given away where the kernel has no list.
const FILES: [&str; 3] = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];

impl MadeCgroups {
    /// Makes `owner`, a uid of the host, the owner of the v2 directory and of its files that may be given away; what has v1 directories
    /// stays as it is, for v1 cannot be given away safely.
    pub(super) fn give_to(&self, owner: u32) -> Result<()> {
        if self.directories().any(|(directory, _)| directory.version == Version::V1) {
            return Ok(());
        }
        let files = files(fs::read_to_string(DELEGATE).ok().as_deref());
        self.directories().try_for_each(|(directory, held)| give(directory, held, &files, owner))
    }
}

/// The names of the list, or those that every kernel has. A list of other than plain names is none.
fn files(list: Option<&str>) -> Vec<String> {
    let listed: Vec<_> = list.into_iter().flat_map(str::lines).map(str::trim).filter(|name| !name.is_empty()).collect();
    let is_plain = |name: &&str| !name.contains('/') && *name != "..";
    let names = if listed.is_empty() || !listed.iter().all(is_plain) { &FILES[..] } else { &listed };
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn give(directory: &CgroupDirectory, held: BorrowedFd<'_>, files: &[String], owner: u32) -> Result<()> {
    let own = [""].into_iter().chain(files.iter().map(String::as_str));
    for file in own {
        let flags = if file.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW };
        match chownat(held, file, Some(Uid::from_raw(owner)), None, flags) {
            // Not all controllers are on, and each has files of its own.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => {
                let shown = format!("{}, uid {owner}", directory.path.join(file).display());
                return Err(Error::sys("give the container its cgroup")(SysError::new("fchownat", shown, errno)));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::*;
    use crate::cgroup::Hierarchy;

    #[test]
    fn the_files_of_the_kernel_s_list_are_given_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy { version: Version::V2, controllers: Vec::new(), mount_point: dir.path().to_owned() };
        let directory = CgroupDirectory::planned(&hierarchy, Path::new("a"));
        fs::create_dir(&directory.path).unwrap();
        for name in ["cgroup.procs", "memory.max", "memory.oom.group"] {
            fs::write(directory.path.join(name), "").unwrap();
        }
        let held = fs::File::open(&directory.path).unwrap();
        let names = files(Some("cgroup.procs\ncgroup.threads\nmemory.oom.group\n"));
        give(&directory, held.as_fd(), &names, 1234).unwrap();
        let owner = |name: &str| fs::metadata(directory.path.join(name)).unwrap().uid();
        assert_eq!(["", "cgroup.procs", "memory.oom.group"].map(owner), [1234; 3]);
        assert_eq!(owner("memory.max"), 0);
        for list in [None, Some(""), Some("../x\n")] {
            assert_eq!(files(list), FILES);
        }
    }
}
