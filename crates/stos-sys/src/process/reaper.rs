// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A first process that runs no program of its own: it reaps, passes signals on to one child, and ends as that one does.

use std::convert::Infallible;

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions};

use super::pidfd::Ended;
use crate::error::{Result, SysError, last_errno};

/// Forks the calling process, which must have one thread. `None` in the child.
///
/// By fork(2), not by clone3(2): a seccomp profile cannot look into the latter's arguments, and most refuse it.
pub fn fork() -> Result<Option<Pid>> {
    // SAFETY: the caller has one thread, so no lock is held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(SysError::new("fork", "", last_errno())),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// Blocks every signal, so that none is lost before [`serve`] waits for it.
pub fn block_all_signals() -> Result<()> {
    // SAFETY: all-zero bytes are a valid `sigset_t`, filled before its use; the old mask is not asked for.
    let blocked = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut())
    };
    if blocked == 0 { Ok(()) } else { Err(SysError::new("sigprocmask", "SIG_SETMASK, all", last_errno())) }
}

/// Closes the standard streams: who only waits must not keep the other ends of pipes from being told of their end.
pub fn close_streams() {
    for fd in 0..3 {
        // SAFETY: the caller uses none of them again, and opens nothing that would take their numbers.
        unsafe { libc::close(fd) };
    }
}

/// Waits until `child` has ended, reaps every other process meanwhile, and passes each signal on to `child` but those of children and of
/// our own use of a terminal. Every signal must be blocked.
pub fn serve(child: Pid) -> Result<Ended> {
    loop {
        match wait_for_signal()? {
            libc::SIGCHLD => {
                if let Some(ended) = reap(child)? {
                    return Ok(ended);
                }
            }
            libc::SIGTTIN | libc::SIGTTOU => {}
            // SAFETY: kill takes plain integers. Where the child is gone SIGCHLD is on its way.
            signal => drop(unsafe { libc::kill(child.as_raw_nonzero().get(), signal) }),
        }
    }
}

/// Reaps whatever becomes a child of the caller, for ever. Every signal must be blocked: none ends it but SIGKILL.
pub fn serve_orphans() -> Result<Infallible> {
    loop {
        if wait_for_signal()? == libc::SIGCHLD {
            // Nobody's child is the first process.
            reap(Pid::INIT)?;
        }
    }
}

fn wait_for_signal() -> Result<i32> {
    // SAFETY: all-zero bytes are a valid `sigset_t`, filled before its use; what came with the signal is not asked for.
    let signal = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigwaitinfo(&raw const all, std::ptr::null_mut())
    };
    match signal {
        -1 if last_errno() == Errno::INTR => Ok(libc::SIGCHLD),
        -1 => Err(SysError::new("sigwaitinfo", "all", last_errno())),
        signal => Ok(signal),
    }
}

/// Reaps all of our children that have ended, and tells how `child` has where it is among them.
pub fn reap(child: Pid) -> Result<Option<Ended>> {
    let mut found = None;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == child => {
                found = status
                    .exit_status()
                    .map(Ended::Exited)
                    .or_else(|| status.terminating_signal().map(Ended::Signaled));
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(found),
            Err(errno) => return Err(SysError::new("wait4", "-1, WNOHANG", errno)),
        }
    }
}
