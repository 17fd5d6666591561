// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Signals as something to read (signalfd(2)), for a process that waits for several things at once.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::error::{Result, SysError};

/// Signals that are blocked and come to a descriptor instead. Dropping it leaves them blocked.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Blocks `signals` in the calling thread and opens a descriptor, close-on-exec and non-blocking, that they come to.
    ///
    /// A child inherits the mask: whoever clones one resets it there.
    pub fn new(signals: &[i32]) -> Result<Self> {
        // SAFETY: all-zero bytes are a valid `sigset_t`.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` is a valid set to be emptied.
        unsafe { libc::sigemptyset(&raw mut set) };
        for &signal in signals {
            // SAFETY: `set` was emptied above; a number that is no signal changes nothing.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        // SAFETY: `set` is initialised; the old mask is not asked for.
        let blocked = unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if blocked != 0 {
            return Err(SysError::new("sigprocmask", format!("SIG_BLOCK, {signals:?}"), last_errno()));
        }
        // SAFETY: `set` is initialised; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(SysError::new("signalfd", format!("{signals:?}"), last_errno()));
        }
        // SAFETY: the kernel gave a new descriptor, which nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Gives the next signal that has come; `None` where none has.
    pub fn next_signal(&self) -> Result<Option<i32>> {
        let mut buffer = [0_u8; size_of::<libc::signalfd_siginfo>()];
        loop {
            match rustix::io::read(&self.0, &mut buffer) {
                // The number is the structure's first field.
                Ok(_) => return Ok(Some(i32::from_ne_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]))),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(errno) => return Err(SysError::new("read", format!("signalfd {}", self.0.as_raw_fd()), errno)),
            }
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Gives `signal` its default action again in the calling process, which its caller may have ignored for it.
pub fn set_default_action(signal: i32) -> Result<()> {
    // SAFETY: the default action runs no code of ours.
    if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
        return Err(SysError::new("signal", format!("{signal}, SIG_DFL"), last_errno()));
    }
    Ok(())
}

fn last_errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_can_be_read() {
        let signals = SignalFd::new(&[libc::SIGUSR2]).unwrap();
        assert_eq!(signals.next_signal().unwrap(), None);
        // SAFETY: raises a signal that this thread has blocked.
        unsafe { libc::raise(libc::SIGUSR2) };
        assert_eq!(signals.next_signal().unwrap(), Some(libc::SIGUSR2));
    }
}
