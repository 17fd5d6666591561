// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Cgroups, joined namespaces, host name, settings of the kernel: all that is done while the host is still in view.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat2, stat};
use rustix::io::Errno;
use stos_sys::SysError;
use stos_sys::interface::bring_loopback_up;
use stos_sys::process::clone::{set_namespace, unshare};
use stos_sys::rooted::{PROC_MAGIC, filesystem_magic};

use super::Step;
use crate::cgroup::{CgroupDirectory, open_control};
use crate::config::settings::namespace;
use crate::config::{ProcessSettings, Settings};
use crate::init_error::InitError;
use crate::launch::pid_flag;

/// Enters the container's v1 cgroups; the v2 one it was born in. Then a cgroup namespace shows them as `/`.
pub(super) fn enter_cgroups<'a>(
    v1: impl Iterator<Item = (&'a CgroupDirectory, BorrowedFd<'a>)>,
    new_namespace: bool,
) -> Step {
    for (directory, held) in v1 {
        let step = || InitError::step("enter the cgroup");
        let tasks = open_control(directory, held, "tasks").map_err(step())?;
        // "0" means the writing thread, which is all of this process: no global lock, unlike `cgroup.procs`.
        let failed = SysError::at("write", || format!("{}, 0", directory.path.join("tasks").display()));
        rustix::io::write(&tasks, b"0").map_err(failed).map_err(step())?;
    }
    if new_namespace {
        let flag = i32::try_from(namespace::CGROUP).unwrap_or_default();
        unshare(flag).map_err(InitError::step("make the cgroup namespace"))?;
    }
    Ok(())
}

fn write_file(path: &Path, text: &str) -> Result<(), SysError> {
    let failed = |call, error: &std::io::Error| {
        SysError::new(call, format!("{}, {text:?}", path.display()), Errno::from_io_error(error).unwrap_or(Errno::IO))
    };
    let mut file = fs::OpenOptions::new().write(true).open(path).map_err(|error| failed("open", &error))?;
    file.write_all(text.as_bytes()).map_err(|error| failed("write", &error))
}

/// Joins the namespaces that the bundle names, all opened before the first is entered. The pid namespace was joined by
/// the caller; the mount namespace comes last, and is the only one that a process between leaves.
///
/// A path may lead to the caller's own namespace, or to that of the machine's first process: to the host's host name, network or mounts, which a container must not
/// change. What the bundle wants changed there is refused.
pub(super) fn join_namespaces(settings: &Settings, only_mount: bool) -> Step {
    let is_left = |flag: i32| flag != pid_flag() && (!only_mount || flag as u64 == namespace::MOUNT);
    let mut opened = open_namespaces(settings, is_left)?;
    opened.sort_by_key(|(flag, _)| *flag as u64 == namespace::MOUNT);
    let step = || InitError::step("join a namespace");
    opened.iter().try_for_each(|(flag, fd)| set_namespace(fd.as_fd(), *flag).map_err(step()))
}

/// Opens those of the bundle's namespaces that `is_wanted` by their kind.
pub(super) fn open_namespaces(settings: &Settings, is_wanted: impl Fn(i32) -> bool) -> Step<Vec<(i32, OwnedFd)>> {
    let step = || InitError::step("join a namespace");
    let mut opened = Vec::new();
    for asked in settings.joined_namespaces.iter().filter(|asked| is_wanted(asked.flag)) {
        let fd = rustix::fs::open(&asked.path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| step()(SysError::new("open", asked.path.display().to_string(), errno)))?;
        if let Some(key) = settings.changes_namespace(asked.flag as u64)
            && is_hosts_namespace(fd.as_fd()).map_err(step())?
        {
            return Err(InitError::HostNamespace { key, path: asked.path.clone() });
        }
        opened.push((asked.flag, fd));
    }
    Ok(opened)
}

/// Whether `namespace`, of whatever kind, is one of the calling process's (those that the bundle does not make new are its
/// caller's), or of the first process's that the caller sees.
fn is_hosts_namespace(namespace: BorrowedFd<'_>) -> Result<bool, SysError> {
    let found = fstat(namespace).map_err(SysError::at("fstat", || "a namespace".to_owned()))?;
    for process in ["self", "1"] {
        for kind in ["mnt", "uts", "ipc", "net"] {
            let path = format!("/proc/{process}/ns/{kind}");
            match stat(&path) {
                Ok(own) if (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino) => return Ok(true),
                Ok(_) => {}
                // Without CAP_SYS_PTRACE, and where procfs hides it, the first process's are unknown.
                Err(Errno::ACCESS | Errno::PERM | Errno::NOENT) if process == "1" => {}
                Err(errno) => return Err(SysError::new("stat", path, errno)),
            }
        }
    }
    Ok(false)
}

/// Sets what belongs to the new namespaces and to the process itself.
pub(super) fn separate(settings: &Settings) -> Step {
    if settings.new_namespaces & namespace::NETWORK != 0 {
        bring_loopback_up().map_err(InitError::step("bring the loopback up"))?;
    }
    if let Some(name) = &settings.hostname {
        rustix::system::sethostname(name.as_bytes())
            .map_err(|errno| InitError::step("set the host name")(SysError::new("sethostname", name, errno)))?;
    }
    if let Some(name) = &settings.domainname {
        rustix::system::setdomainname(name.as_bytes())
            .map_err(|errno| InitError::step("set the domain name")(SysError::new("setdomainname", name, errno)))?;
    }
    for setting in &settings.sysctl {
        set_sysctl(&setting.path, &setting.value)?;
    }
    // The launch has set it where root of a user namespace could not lower it.
    if settings.has_user_namespace() { Ok(()) } else { set_oom_score(&settings.process) }
}

/// Sets `process.oomScoreAdj`, by the procfs that the caller sees: to be done while that is the host's.
pub(super) fn set_oom_score(process: &ProcessSettings) -> Step {
    match process.oom_score_adj {
        Some(score) => write_file(Path::new("/proc/self/oom_score_adj"), &score.to_string())
            .map_err(InitError::step("set process.oomScoreAdj")),
        None => Ok(()),
    }
}

/// Writes one setting, through the host's procfs: it shows the namespaces of whoever looks.
///
/// No path of the container is involved, and the file is checked to be procfs's own (CVE-2025-52881).
fn set_sysctl(path: &Path, value: &str) -> Step {
    let stage = || InitError::step(format!("set linux.sysctl {}", path.display()));
    let base = rustix::fs::open("/proc/sys", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| stage()(SysError::new("open", "/proc/sys", errno)))?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let file = openat2(&base, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve)
        .map_err(|errno| stage()(SysError::new("openat2", format!("/proc/sys/{}", path.display()), errno)))?;
    if filesystem_magic(file.as_fd()).map_err(stage())? != PROC_MAGIC {
        return Err(InitError::NotProtected { path: path.to_owned(), expected: "procfs".to_owned() });
    }
    rustix::io::write(&file, value.as_bytes())
        .map(drop)
        .map_err(|errno| stage()(SysError::new("write", format!("/proc/sys/{}, {value:?}", path.display()), errno)))
}

/// A descriptor of the calling process's own view of `path`, for what must be taken from the host.
pub(super) fn open_host_path(path: &Path) -> Result<OwnedFd, SysError> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(SysError::at("open", || path.display().to_string()))
}
