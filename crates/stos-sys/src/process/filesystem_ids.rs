// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ids that count for files, for a moment: setfsuid(2), setfsgid(2).

use rustix::io::Errno;
use rustix::thread::CapabilitySets;

use crate::error::{Result, SysError};

/// What the calling thread does in filesystems is done as another user and group, with the capabilities that it has, until this is
/// dropped.
///
/// Where ids are mapped (mount_setattr(2), `MOUNT_ATTR_IDMAP`) whoever makes a file must have ids that the mapping knows: EOVERFLOW
/// for the host's root, whatever its capabilities.
#[derive(Debug)]
#[must_use = "dropped at once it changes nothing"]
pub struct FilesystemIds {
    uid: u32,
    gid: u32,
    capabilities: CapabilitySets,
    is_dumpable: bool,
}

impl FilesystemIds {
    /// Takes the ids.
    ///
    /// # Errors
    /// EPERM without CAP_SETUID and CAP_SETGID.
    pub fn take(uid: u32, gid: u32) -> Result<Self> {
        let capabilities = rustix::thread::capabilities(None).map_err(SysError::at("capget", String::new))?;
        // Asked before they change.
        let is_dumpable = is_dumpable();
        let before = Self { gid: set_gid(gid), uid: set_uid(uid), capabilities, is_dumpable };
        // What is asked for next is refused, and the answer is what counts (setfsuid(2), "Bugs").
        let taken = (set_uid(u32::MAX), set_gid(u32::MAX));
        if taken != (uid, gid) {
            return Err(SysError::new("setfsuid", format!("uid={uid}, gid={gid}"), Errno::PERM));
        }
        // With root's id go the capabilities about files (capabilities(7)).
        rustix::thread::set_capabilities(None, capabilities).map_err(SysError::at("capset", String::new))?;
        Ok(before)
    }
}

impl Drop for FilesystemIds {
    fn drop(&mut self) {
        set_uid(self.uid);
        set_gid(self.gid);
        // They are permitted, as they were before.
        let _ = rustix::thread::set_capabilities(None, self.capabilities);
        if self.is_dumpable {
            // Other ids have made the process what /proc/sys/fs/suid_dumpable says.
            let _ = super::credentials::set_dumpable(true);
        }
    }
}

/// Gives the id that was there before; it has no other answer.
fn set_uid(uid: u32) -> u32 {
    // SAFETY: setfsuid takes a plain integer, and changes the calling thread alone.
    unsafe { libc::setfsuid(uid) }.cast_unsigned()
}

fn set_gid(gid: u32) -> u32 {
    // SAFETY: as above.
    unsafe { libc::setfsgid(gid) }.cast_unsigned()
}

fn is_dumpable() -> bool {
    // SAFETY: PR_GET_DUMPABLE takes no argument.
    unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) == 1 }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn files_are_made_as_somebody_else_and_then_as_oneself_again() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let made = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            let metadata = std::fs::metadata(path).unwrap();
            (metadata.uid(), metadata.gid())
        };
        let before = rustix::thread::capabilities(None).unwrap();
        let ids = FilesystemIds::take(4711, 4712).unwrap();
        // The directory is root's alone: the capabilities still count.
        assert_eq!(made("theirs"), (4711, 4712));
        drop(ids);
        assert_eq!(made("ours"), (0, 0));
        assert_eq!(rustix::thread::capabilities(None).unwrap(), before);
    }
}
