// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Labels of security modules, for the command: AppArmor's profile and SELinux's label.
//!
//! They are written to the host's procfs, opened before the container's own can be looked at, and checked to be procfs
//! (CVE-2019-16884, CVE-2025-52881): a faked `attr` would take the label and enforce nothing. The kernel takes the writing from
//! whoever opened the file with the same memory, which execve(2) alone changes.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use stos_sys::SysError;
use stos_sys::rooted::{PROC_MAGIC, filesystem_magic};

use super::Step;
use super::isolation::open_host_path;
use crate::config::Settings;
use crate::init_error::InitError;

/// `f_type` of selinuxfs.
const SELINUX_MAGIC: u64 = 0xf97c_ff8c;

/// Where labels go, with what is written there.
pub(super) struct Labels {
    files: Vec<(&'static str, OwnedFd, String)>,
}

impl Labels {
    /// Opens what the labels of `settings` need. Refuses, by its key, a label whose module is not enabled.
    pub(super) fn open(settings: &Settings) -> Step<Self> {
        let process = &settings.process;
        let mut files = Vec::new();
        if let Some(profile) = &process.apparmor_profile {
            let key = "process.apparmorProfile";
            require(key, "AppArmor", has_apparmor())?;
            // The module's own file (Linux 5.8): the common one is the first module's.
            let file = match attribute("apparmor/exec") {
                Err(error) if error.errno == Errno::NOENT => attribute("exec"),
                other => other,
            };
            files.push((key, file.map_err(InitError::step(format!("set {key}")))?, format!("exec {profile}")));
        }
        if let Some(label) = &process.selinux_label {
            let key = "process.selinuxLabel";
            require(key, "SELinux", has_selinux())?;
            files.push((key, attribute("exec").map_err(InitError::step(format!("set {key}")))?, label.clone()));
        }
        if settings.mount_label.is_some() {
            require("linux.mountLabel", "SELinux", has_selinux())?;
        }
        for (key, file, _) in &files {
            if filesystem_magic(file.as_fd()).map_err(InitError::step(format!("set {key}")))? != PROC_MAGIC {
                return Err(InitError::NotProtected {
                    path: "/proc/thread-self/attr".into(),
                    expected: "procfs".into(),
                });
            }
        }
        Ok(Self { files })
    }

    /// The descriptors that [`Labels::apply`] needs: files of procfs.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.files.iter().map(|(_, file, _)| file.as_fd())
    }

    /// Sets the labels of the next execve(2).
    pub(super) fn apply(self) -> Step {
        for (key, file, text) in self.files {
            let failed = SysError::at("write", || format!("/proc/thread-self/attr, {text:?}"));
            rustix::io::write(&file, text.as_bytes()).map_err(failed).map_err(InitError::step(format!("set {key}")))?;
        }
        Ok(())
    }
}

fn require(key: &str, module: &str, is_enabled: bool) -> Step {
    if is_enabled {
        return Ok(());
    }
    Err(InitError::NoSecurityModule { key: key.to_owned(), module: module.to_owned() })
}

fn has_apparmor() -> bool {
    fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

fn has_selinux() -> bool {
    open_host_path(Path::new("/sys/fs/selinux"))
        .and_then(|directory| filesystem_magic(directory.as_fd()))
        .is_ok_and(|magic| magic == SELINUX_MAGIC)
}

fn attribute(name: &str) -> Result<OwnedFd, SysError> {
    let proc = open_host_path(Path::new("/proc"))?;
    let path = format!("thread-self/attr/{name}");
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    openat2(&proc, path.as_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve)
        .map_err(SysError::at("openat2", || format!("/proc/{path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_those_of_the_calling_thread() {
        let found = attribute("exec");
        // Where no module has them, as on many a machine, the kernel has no such file or takes nothing.
        if let Ok(file) = found {
            assert_eq!(filesystem_magic(file.as_fd()).unwrap(), PROC_MAGIC);
        }
        let outside = attribute("../../../../../../../../etc/passwd").unwrap_err().errno;
        assert!(matches!(outside, Errno::XDEV | Errno::NOENT), "{outside}");
    }
}
