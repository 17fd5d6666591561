// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Working directory, limits, ids, capabilities.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::Mode;
use rustix::io::Errno;
use stos_sys::SysError;
use stos_sys::process::attributes::{set_io_priority, set_personality, set_scheduler};
use stos_sys::process::credentials::{
    CAPABILITY_NAMES, CapabilityMasks, drop_capabilities, limit_bounding_set, permitted_capabilities,
    set_capability_sets, set_ids, set_limit, set_no_new_privileges,
};
use stos_sys::rooted::Root;

use super::Step;
use crate::accounts::Account;
use crate::config::settings::Limit;
use crate::config::{ProcessAttributes, ProcessSettings, Settings};
use crate::init_error::InitError;

/// Enters the working directory, made where it is missing.
///
/// It is resolved inside the root, so it is there by construction; that the kernel can name it from the root is checked
/// again, for a directory outside is how CVE-2024-21626 got out.
pub(super) fn enter_working_directory(root: &Root, cwd: &Path) -> Step {
    let wrong = |reason: String| InitError::WorkingDirectory { cwd: cwd.to_owned(), reason };
    let directory = root.create_dir_all(cwd, Mode::from_raw_mode(0o755)).map_err(|error| match error.errno {
        Errno::NOTDIR => wrong("it is not a directory".to_owned()),
        _ => wrong(error.to_string()),
    })?;
    enter_directory(cwd, directory.as_fd())
}

/// Enters the working directory where it is there: a further process makes none.
pub(super) fn enter_existing_directory(root: &Root, cwd: &Path) -> Step {
    let directory = root.resolve(cwd).map_err(|error| {
        let reason = match error.errno {
            Errno::NOENT => "no such file or directory".to_owned(),
            _ => error.to_string(),
        };
        InitError::WorkingDirectory { cwd: cwd.to_owned(), reason }
    })?;
    enter_directory(cwd, directory.as_fd())
}

fn enter_directory(cwd: &Path, directory: BorrowedFd<'_>) -> Step {
    let wrong = |reason: String| InitError::WorkingDirectory { cwd: cwd.to_owned(), reason };
    rustix::process::fchdir(directory).map_err(|errno| wrong(SysError::new("fchdir", "", errno).to_string()))?;
    let named =
        rustix::process::getcwd(Vec::new()).map_err(|errno| wrong(SysError::new("getcwd", "", errno).to_string()))?;
    if named.as_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(wrong("it is outside the container's root".to_owned()))
    }
}

/// CAP_SYS_ADMIN where it must be kept for a moment: without no_new_privs a seccomp filter cannot be loaded without it.
fn kept(settings: &Settings) -> u64 {
    const SYS_ADMIN: u64 = 1 << 21;
    if settings.seccomp.is_some() && !settings.process.no_new_privileges { SYS_ADMIN } else { 0 }
}

/// Sets how the kernel treats the process. What the kernel refuses is named.
pub(super) fn set_attributes(attributes: &ProcessAttributes) -> Step {
    if let Some(scheduler) = attributes.scheduler {
        set_scheduler(scheduler).map_err(InitError::step("set process.scheduler"))?;
    }
    if let Some((class, priority)) = attributes.io_priority {
        set_io_priority(class, priority).map_err(InitError::step("set process.ioPriority"))?;
    }
    if let Some(domain) = attributes.personality {
        set_personality(domain).map_err(InitError::step("set linux.personality"))?;
    }
    Ok(())
}

/// Takes `process.rlimits`.
pub(super) fn set_limits(process: &ProcessSettings) -> Step {
    let set = |limit: &Limit| set_limit(None, &limit.name, limit.soft, limit.hard);
    process.limits.iter().try_for_each(|limit| set(limit).map_err(InitError::step("set process.rlimits")))
}

/// Takes limits, ids and capabilities, in the order in which each still has the privilege that it needs.
///
/// Where a filter is loaded later and that needs CAP_SYS_ADMIN, the process has it until [`drop_kept`].
pub(super) fn become_user(settings: &Settings, account: &Account) -> Step {
    let (process, kept) = (&settings.process, kept(settings));
    // With a user namespace they have been set from outside.
    if !settings.has_user_namespace() {
        set_limits(process)?;
    }
    let step = || InitError::step("set process.capabilities");
    let masks = process.capabilities;
    let wanted = masks.bounding | masks.permitted | masks.inheritable | kept;
    let lacking = wanted & !permitted_capabilities().map_err(step())?;
    if lacking != 0 {
        let names = CAPABILITY_NAMES.iter().enumerate().filter(|(number, _)| lacking & (1 << number) != 0);
        let names: Vec<_> = names.map(|(_, name)| format!("CAP_{name}")).collect();
        return Err(step()(SysError::new(
            "capset",
            format!("{}, which the caller lacks", names.join(", ")),
            Errno::PERM,
        )));
    }
    limit_bounding_set(masks.bounding).map_err(step())?;
    set_ids(account.uid, account.gid, &account.groups).map_err(InitError::step("set process.user"))?;
    let until_restricted =
        CapabilityMasks { effective: masks.effective | kept, permitted: masks.permitted | kept, ..masks };
    set_capability_sets(until_restricted).map_err(step())?;
    if process.no_new_privileges {
        set_no_new_privileges().map_err(InitError::step("set process.noNewPrivileges"))?;
    }
    rustix::process::umask(Mode::from_raw_mode(process.umask));
    // Changed ids made the process what /proc/sys/fs/suid_dumpable says; until execve(2) nobody may look in.
    stos_sys::process::credentials::set_dumpable(false).map_err(InitError::step("leave the caller"))
}

/// Gives up what [`become_user`] has kept for the seccomp filter: one system call, or none.
pub(super) fn drop_kept(settings: &Settings) -> Step {
    let masks = settings.process.capabilities;
    if kept(settings) & !(masks.effective & masks.permitted) == 0 {
        return Ok(());
    }
    drop_capabilities(masks).map_err(InitError::step("set process.capabilities under the seccomp filter"))
}
