// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sockets that whoever started this process has made for it (sd_listen_fds(3)).

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first of them (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;
/// More than anybody passes.
const COUNT_MAX: RawFd = 64;

static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes the sockets that `LISTEN_FDS` tells of, if `LISTEN_PID` says that they are this process's. No child inherits them. There are
/// none the second time, and none that is not open.
pub fn listening_sockets() -> Vec<OwnedFd> {
    if IS_TAKEN.swap(true, Ordering::SeqCst) {
        return Vec::new();
    }
    let read = |name| std::env::var(name).ok().and_then(|text| text.parse::<RawFd>().ok());
    let is_ours = read("LISTEN_PID").is_some_and(|pid| u32::try_from(pid) == Ok(std::process::id()));
    let count = read("LISTEN_FDS").filter(|_| is_ours).unwrap_or(0).clamp(0, COUNT_MAX);
    (FIRST..FIRST + count).filter_map(take).collect()
}

fn take(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: fcntl only looks at the number and sets a flag; a number that is not open gives EBADF.
    let set = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: it is open, and by the protocol this process's own from its start; it is taken once, for only the first call gets here.
    (set == 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}
