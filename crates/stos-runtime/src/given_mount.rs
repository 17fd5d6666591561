// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Mounts that the caller of a launch has already: what lies in another container's mount namespace, which no path leads to.
//!
//! A mount of another namespace cannot be cloned from outside, not even through `/proc/PID/root` (open_tree(2): EINVAL), so a child
//! goes there for it and sends back what it has cloned.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use stos_sys::SysError;
use stos_sys::mount::open_tree_clone_at;
use stos_sys::process::clone::{CloneOptions, Cloned, clone_process, exit_now, set_namespace};
use stos_sys::process::pidfd;
use stos_sys::rooted::Root;

use crate::config::settings::namespace as kind;
use crate::console;
use crate::error::{Error, Result};

/// A detached mount that is shown, once, where the configuration has a bind of a source that is a name alone.
#[derive(Debug)]
pub struct GivenMount {
    /// The `source` of the bind that it stands for.
    pub source: PathBuf,
    /// The mount.
    pub mount: OwnedFd,
}

/// Clones the mount that has the directory `path`, without what is mounted below it, in the mount namespace `namespace`.
/// No symlink is followed there: its processes may have made it.
///
/// The caller must be single-threaded.
///
/// # Errors
/// Those of setns(2), openat2(2) and open_tree(2) in the namespace, by their errno.
pub fn clone_mount_in(namespace: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let failed = |call, errno| {
        let shown = format!("{} of another mount namespace", path.display());
        Error::sys("clone a mount")(SysError::new(call, shown, errno))
    };
    let (own, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| failed("socketpair", errno))?;
    match clone_process(CloneOptions::default())? {
        Cloned::Child => {
            drop(own);
            let sent = clone_here(namespace, path).and_then(|mount| console::send(other.as_fd(), mount.as_fd()));
            exit_now(sent.map_or_else(|error| error.errno.raw_os_error(), |()| 0))
        }
        Cloned::Parent { pidfd, .. } => {
            drop(other);
            let received = console::receive(&own);
            let ended = pidfd::wait(pidfd.as_fd()).map_err(Error::sys("clone a mount"))?;
            received?.ok_or_else(|| failed("open_tree", Errno::from_raw_os_error(ended.code())))
        }
    }
}

/// The child's part.
fn clone_here(namespace: BorrowedFd<'_>, path: &Path) -> std::result::Result<OwnedFd, SysError> {
    set_namespace(namespace, i32::try_from(kind::MOUNT).unwrap_or_default())?;
    let place = Root::open(Path::new("/"))?.resolve_without_symlinks(path)?;
    open_tree_clone_at(place.as_fd(), Path::new(""), false, false)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_cannot_be_cloned_says_why() {
        // Tests have threads beside them; the rest is what containers of the integration tests show.
        let own = File::open("/proc/self/ns/mnt").unwrap();
        let error = clone_mount_in(own.as_fd(), Path::new("/")).unwrap_err();
        assert!(error.to_string().contains("threads may not be cloned"), "{error}");
        let uts = File::open("/proc/self/ns/uts").unwrap();
        assert_eq!(clone_here(uts.as_fd(), Path::new("/")).unwrap_err().errno, Errno::INVAL);
    }
}
