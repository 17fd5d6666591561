// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The gate before which a created container waits for `start`.
//!
//! Two FIFOs in the container's run directory:
//!
//! ```text
//! exec.fifo     start writes one byte, init reads it
//! exec.result   init holds it open close-on-exec: its end is success, or a report comes first
//! ```
//!
//! init opens both for reading and writing while it still sees the host, so it needs no path later, and a reader who opens
//! too early or twice does not wake it. The gate is closed as long as init has `exec.fifo` open: it lets go of it when it has read
//! its byte. Whoever holds the lock (flock(2)) of `exec.fifo` has the right to start, one of two; with a start that is killed
//! the lock goes, and another start may follow whether or not the byte was written.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, mknodat};
use rustix::io::Errno;
use stos_sys::SysError;

use crate::error::{Error, Result};
use crate::launch::{ProcessRecord, follow};
use crate::seccomp::listener::{Filtered, Processes};

const START: &str = "exec.fifo";
const RESULT: &str = "exec.result";

/// init's side of a gate.
#[derive(Debug)]
pub(crate) struct GateEnd {
    /// One byte from the creator says that init is recorded; its end, that the creator is gone.
    confirmed: OwnedFd,
    start: OwnedFd,
    /// Where errors after the gate go; its closing is success.
    result: OwnedFd,
}

fn open(path: PathBuf, flags: OFlags) -> std::result::Result<OwnedFd, SysError> {
    rustix::fs::open(&path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
        .map_err(SysError::at("open", || format!("{}, {flags:?}", path.display())))
}

impl GateEnd {
    /// Makes a closed gate in `directory`.
    pub(crate) fn create(directory: &Path, confirmed: OwnedFd) -> Result<Self> {
        let stage = "make the start gate";
        for name in [START, RESULT] {
            let path = directory.join(name);
            mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
                .map_err(|errno| Error::sys(stage)(SysError::new("mkfifo", path.display().to_string(), errno)))?;
        }
        Ok(Self {
            confirmed,
            start: open(directory.join(START), OFlags::RDWR).map_err(Error::sys(stage))?,
            result: open(directory.join(RESULT), OFlags::RDWR).map_err(Error::sys(stage))?,
        })
    }

    /// The descriptors that [`GateEnd::wait`] needs: pipes and FIFOs, no directory among them.
    pub(crate) fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [self.confirmed.as_fd(), self.start.as_fd(), self.result.as_fd()]
    }

    /// Waits until the creator has recorded the container. `false` where it ended first.
    pub(crate) fn wait_for_confirmation(&self) -> std::result::Result<bool, SysError> {
        read_byte(&self.confirmed, "the creator's pipe")
    }

    /// Waits until somebody opens the gate, and gives what tells that one how it went on.
    pub(crate) fn wait(self) -> std::result::Result<OwnedFd, SysError> {
        // Held open for writing by init itself, so it never ends.
        while !read_byte(&self.start, START)? {}
        Ok(self.result)
    }
}

/// Reads one byte; `false` where the other end has gone without.
pub(crate) fn read_byte(fd: &OwnedFd, name: &str) -> std::result::Result<bool, SysError> {
    let mut byte = [0_u8];
    loop {
        match rustix::io::read(fd, &mut byte) {
            Ok(count) => return Ok(count == 1),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(SysError::new("read", name, errno)),
        }
    }
}

/// Whether the gate in `directory` is still closed: the container is created and not started. The caller knows that init is
/// alive.
pub fn is_closed(directory: &Path) -> bool {
    // ENXIO: nobody reads.
    open(directory.join(START), OFlags::WRONLY | OFlags::NONBLOCK).is_ok()
}

/// Whether the process `pid` holds the gate in `directory` open: it is the container's first one. `false` where that cannot be seen.
pub(crate) fn is_held_by(directory: &Path, pid: i32) -> bool {
    let Ok(gate) = rustix::fs::stat(directory.join(START)) else { return false };
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let is_gate = |path: PathBuf| {
        rustix::fs::stat(path).is_ok_and(|found| (found.st_dev, found.st_ino) == (gate.st_dev, gate.st_ino))
    };
    descriptors.flatten().any(|entry| is_gate(entry.path()))
}

/// Opens the gate in `directory`, and returns when the command has been executed, or why it could not.
///
/// `false` where it is open already, or init is gone: the FIFO has no reader then, whoever has init's number now. Where init dies
/// meanwhile, the error is [`Error::InitDied`]. A seccomp listener of the container is handed on in between; for that alone init is
/// opened, and looked at whether it is still the one that was recorded.
pub fn open_gate(directory: &Path, init: &ProcessRecord) -> Result<bool> {
    let stage = "start the container";
    let path = directory.join(START);
    let start = match open(path.clone(), OFlags::WRONLY | OFlags::NONBLOCK) {
        Ok(start) => start,
        Err(error) if matches!(error.errno, Errno::NOENT | Errno::NXIO) => return Ok(false),
        Err(error) => return Err(Error::sys(stage)(error)),
    };
    let failed_at = |call: &'static str| {
        let shown = path.display().to_string();
        move |errno| Error::sys(stage)(SysError::new(call, shown, errno))
    };
    rustix::fs::flock(&start, FlockOperation::LockExclusive).map_err(failed_at("flock"))?;
    if rustix::fs::fstat(&start).map_err(failed_at("fstat"))?.st_nlink == 0 {
        // Another start had the lock before.
        return Ok(false);
    }
    // Opened before the byte is written, so that the end of init's side is seen whenever it comes.
    let result = open(directory.join(RESULT), OFlags::RDONLY | OFlags::NONBLOCK).map_err(Error::sys(stage))?;
    match rustix::io::write(&start, b"+") {
        Ok(_) => {}
        // It has let go of the gate since: for another start's byte, or by its end. Its status tells which.
        Err(Errno::PIPE) => return Ok(false),
        Err(errno) => return Err(failed_at("write")(errno)),
    }
    rustix::fs::unlink(&path).map_err(failed_at("unlink"))?;
    drop(start);
    let failed = |call, error: &std::io::Error| {
        Error::sys(stage)(SysError::new(call, RESULT, Errno::from_io_error(error).unwrap_or(Errno::IO)))
    };
    let flags =
        rustix::fs::fcntl_getfl(&result).map_err(|errno| Error::sys(stage)(SysError::new("fcntl", RESULT, errno)))?;
    rustix::fs::fcntl_setfl(&result, flags - OFlags::NONBLOCK)
        .map_err(|errno| Error::sys(stage)(SysError::new("fcntl", RESULT, errno)))?;
    follow(
        &mut File::from(result),
        Vec::new(),
        Processes { filtered: Filtered::Recorded(init), pid: init.pid, init: init.pid },
    )?;
    std::fs::remove_file(directory.join(RESULT)).map_err(|error| failed("unlink", &error))?;
    Ok(true)
}
