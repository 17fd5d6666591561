// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A process that only waits: for namespaces and descriptors that somebody has to hold where no container does.
//!
//! [`start_pause`] is the caller's half; the child's is `init::pause`. Until it is confirmed it ends with its caller, so that nobody has to
//! find it again whom nobody has recorded.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::pipe::{PipeFlags, pipe_with};
use stos_sys::SysError;
use stos_sys::process::clone::{CloneOptions, Cloned, clone_process};
use stos_sys::process::pidfd;

use crate::error::{Error, Result};
use crate::init;
use crate::launch::{ProcessRecord, check_caller, end_failed, read_report};

const STAGE: &str = "start a process that waits";

/// What a process that only waits is to hold.
#[derive(Debug, Clone, Copy, Default)]
pub struct PauseRequest<'a> {
    /// New namespaces that it is born in, `CLONE_NEW*` bits; in one of the network the loopback is up.
    pub namespaces: u64,
    /// The host's name in a UTS namespace of its own.
    pub hostname: &'a str,
    /// Descriptors that it keeps open.
    pub held: &'a [BorrowedFd<'a>],
    /// For one that is to stay: a directory that its empty root is mounted on, which nobody else sees.
    pub stays_at: Option<&'a Path>,
}

/// A process that waits. Dropped, it ends.
#[derive(Debug)]
pub struct Pause {
    /// Its number and how it is known again.
    pub process: ProcessRecord,
    pidfd: OwnedFd,
    /// Where it is told to stay.
    confirmation: Option<OwnedFd>,
}

impl Pause {
    /// Lets it outlive the caller.
    ///
    /// # Errors
    /// Where it has ended meanwhile.
    pub fn confirm(mut self) -> Result<()> {
        let Some(pipe) = self.confirmation.take() else { return Ok(()) };
        rustix::io::write(&pipe, b"+")
            .map(drop)
            .map_err(|errno| Error::sys(STAGE)(SysError::new("write", "a pipe", errno)))
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        if self.confirmation.take().is_some() {
            // It ends by itself when that closes; a caller that ignores SIGCHLD has nothing to reap.
            drop(pidfd::wait(self.pidfd.as_fd()));
        }
    }
}

/// Starts a process that only waits, in namespaces of its own where that is asked for. It is the caller's child.
///
/// The caller must be single-threaded and run from a protected binary ([`crate::protect_binary`]).
///
/// # Errors
/// Whatever it is, there is no such process then.
pub fn start_pause(request: &PauseRequest<'_>) -> Result<Pause> {
    check_caller()?;
    let pipe =
        || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Error::sys(STAGE)(SysError::new("pipe2", "O_CLOEXEC", errno)));
    let (read_end, write_end) = pipe()?;
    let (confirmed, confirmation) = pipe()?;
    match clone_process(CloneOptions { namespaces: request.namespaces, ..CloneOptions::default() })? {
        Cloned::Child => {
            drop((read_end, confirmation));
            init::pause::run(request, confirmed, write_end)
        }
        Cloned::Parent { pid, pidfd } => {
            drop((write_end, confirmed));
            let mut report = Vec::new();
            let failed = |error: &std::io::Error| {
                let errno = rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::IO);
                Error::sys(STAGE)(SysError::new("read", "a pipe", errno))
            };
            let read = File::from(read_end).read_to_end(&mut report).map_err(|error| failed(&error));
            let process = read
                .and_then(|_| read_report(&report))
                .and_then(|()| ProcessRecord::of(pid.as_raw_nonzero().get())?.ok_or(Error::InitDied { ended: None }));
            match process {
                Ok(process) => Ok(Pause { process, pidfd, confirmation: Some(confirmation) }),
                Err(error) => Err(end_failed(&pidfd, error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_with_threads_is_refused() {
        // Tests have threads beside them; the rest is what pods of the integration tests show.
        assert!(start_pause(&PauseRequest::default()).is_err());
    }
}
