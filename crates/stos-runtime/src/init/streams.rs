// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Descriptors 0, 1 and 2: where they come from, and whose they are.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, fchown, fstat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Gid, Pid, Uid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout, stderr, stdin, stdout};
use stos_sys::SysError;
use stos_sys::process::user_namespace::{read_mappings, to_host};
use stos_sys::rooted::{PIPEFS_MAGIC, filesystem_magic};

use super::Step;
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::init_error::InitError;
use crate::launch::Stdio;

const GIVE: &str = "give the standard streams to the user";

/// A copy that is out of the way of descriptors 0 to 2, which become the container's.
pub(super) fn above(fd: BorrowedFd<'_>) -> std::result::Result<OwnedFd, SysError> {
    fcntl_dupfd_cloexec(fd, 3).map_err(SysError::at("fcntl", || "F_DUPFD_CLOEXEC, 3".to_owned()))
}

/// Takes those that are not the caller's own.
pub(super) fn take(stdio: &Stdio) -> Step {
    let Stdio::Descriptors { stdin, stdout, stderr } = stdio else { return Ok(()) };
    let step = || InitError::step("take the standard streams");
    let failed = |errno| step()(SysError::new("dup2", "0, 1, 2", errno));
    // Moved up first: one of them may be 0, 1 or 2 itself.
    let moved = [stdin, stdout, stderr].map(|fd| above(fd.as_fd()));
    let [stdin, stdout, stderr] = moved;
    dup2_stdin(stdin.map_err(step())?).map_err(failed)?;
    dup2_stdout(stdout.map_err(step())?).map_err(failed)?;
    dup2_stderr(stderr.map_err(step())?).map_err(failed)
}

/// Gives the container's own terminal, and pipes, to the container's user, or it could not open `/dev/tty` and `/dev/stdout` again.
/// Files, terminals and named FIFOs of the host keep their owner.
pub(super) fn give_to(stdio: &Stdio, uid: u32) -> Step {
    let step = || InitError::step(GIVE);
    match stdio {
        // Its group is devpts's affair.
        Stdio::Terminal { .. } => fchown(stdin(), Some(Uid::from_raw(uid)), None)
            .map_err(|errno| step()(SysError::new("fchown", uid.to_string(), errno))),
        Stdio::Inherit | Stdio::Descriptors { .. } => {
            give_pipes([stdin(), stdout(), stderr()], uid, None).map_err(step())
        }
    }
}

/// With a user namespace: gives pipes to the user and group of a process, before it is in the namespace of `pid`. Inside it a file of
/// the host's root is nobody's, and no one's to give; one whose owner and group both have a number there its root can give on.
pub(crate) fn give_from_outside(settings: &Settings, stdio: &Stdio, pid: Pid) -> Result<()> {
    if !settings.has_user_namespace() {
        return Ok(());
    }
    let streams = match stdio {
        Stdio::Inherit => [stdin(), stdout(), stderr()],
        Stdio::Descriptors { stdin, stdout, stderr } => [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        Stdio::Terminal { .. } => return Ok(()),
    };
    let read;
    let ids = match &settings.id_mappings {
        Some(ids) => ids,
        None => {
            read = read_mappings(pid).map_err(Error::sys(GIVE))?;
            &read
        }
    };
    match to_host(&ids.users, settings.process.uid) {
        Some(user) => give_pipes(streams, user, to_host(&ids.groups, settings.process.gid)).map_err(Error::sys(GIVE)),
        None => Ok(()),
    }
}

/// Gives the pipes among the streams to `uid`, and to `gid` where there is one. Those that cannot be given (as runc has it: their owner
/// has no number in the caller's user namespace) stay whose they are, and work as far as they go.
fn give_pipes(streams: [BorrowedFd<'_>; 3], uid: u32, gid: Option<u32>) -> std::result::Result<(), SysError> {
    for fd in streams {
        // A closed one is nobody's.
        let Ok(stat) = fstat(fd) else { continue };
        let is_fifo = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo;
        let is_given = stat.st_uid == uid && gid.is_none_or(|gid| gid == stat.st_gid);
        if !is_fifo || is_given || filesystem_magic(fd)? != PIPEFS_MAGIC {
            continue;
        }
        match fchown(fd, Some(Uid::from_raw(uid)), gid.map(Gid::from_raw)) {
            Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
            Err(errno) => return Err(SysError::new("fchown", uid.to_string(), errno)),
        }
    }
    Ok(())
}
