// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Waiting for a process and signalling it by descriptor: a number may be reused, a descriptor never is.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use crate::error::{Result, SysError, last_errno};

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It exited with this code.
    Exited(i32),
    /// This signal killed it.
    Signaled(i32),
}

impl Ended {
    /// The code that a shell gives: the exit code, or 128 and the signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => 128 + signal,
        }
    }
}

/// Opens a descriptor of the process `pid`; `None` where there is none.
pub fn open(pid: Pid) -> Result<Option<OwnedFd>> {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::SRCH) => Ok(None),
        Err(errno) => Err(SysError::new("pidfd_open", pid.to_string(), errno)),
    }
}

/// Sends `signal` (a number, real-time ones included; 0 only asks). `false` where the process is gone.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<bool> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo asks for the same as kill(2); nothing else points anywhere.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_info, 0) };
    match answer {
        0 => Ok(true),
        _ => match last_errno() {
            Errno::SRCH => Ok(false),
            errno => Err(SysError::new("pidfd_send_signal", format!("{}, {signal}", pidfd.as_raw_fd()), errno)),
        },
    }
}

/// Waits for the child behind `pidfd` to end, and reaps it.
pub fn wait(pidfd: BorrowedFd<'_>) -> Result<Ended> {
    loop {
        match reap(pidfd, WaitIdOptions::EXITED)? {
            Some(ended) => return Ok(ended),
            None => continue,
        }
    }
}

/// Reaps the child behind `pidfd` if it has ended.
pub fn try_wait(pidfd: BorrowedFd<'_>) -> Result<Option<Ended>> {
    reap(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
}

fn reap(pidfd: BorrowedFd<'_>, options: WaitIdOptions) -> Result<Option<Ended>> {
    let status = loop {
        match waitid(WaitId::PidFd(pidfd), options) {
            Err(Errno::INTR) => {}
            other => break other.map_err(SysError::at("waitid", || format!("P_PIDFD, {}", pidfd.as_raw_fd())))?,
        }
    };
    let Some(status) = status else { return Ok(None) };
    Ok(status.exit_status().map(Ended::Exited).or_else(|| status.terminating_signal().map(Ended::Signaled)))
}

/// Waits until the process behind `pidfd` has ended, whoever its parent is; `false` where `timeout` came first. One that is longer
/// than the clock goes is none.
pub fn wait_end(pidfd: BorrowedFd<'_>, timeout: Duration) -> Result<bool> {
    let deadline = Instant::now().checked_add(timeout);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], left.as_ref()) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(SysError::new("poll", pidfd.as_raw_fd().to_string(), errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_longest_timeout_is_none() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        let process = open(pid).unwrap().unwrap();
        assert!(!wait_end(process.as_fd(), Duration::ZERO).unwrap());
        drop(child.stdin.take());
        for timeout in [Duration::MAX, Duration::from_secs(i64::MAX.unsigned_abs())] {
            assert!(wait_end(process.as_fd(), timeout).unwrap(), "{timeout:?}");
        }
        child.wait().unwrap();
    }
}
