// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The lock under which networks and addresses are changed, and netavark is called.
//!
//! It is podman's (`/run/lock/netavark.lock`, a lock of fcntl(2)): netavark changes one firewall for the whole machine, and two of it at
//! once get in each other's way.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Where it is.
const PATH: &str = "/run/lock/netavark.lock";

/// The lock, held until it is dropped. It is its process's: another one of the same process does not wait for it, so nobody takes two.
#[derive(Debug)]
pub struct NetworkLock {
    _file: File,
}

impl NetworkLock {
    /// Waits for it.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn wait() -> Result<Self> {
        Self::wait_at(Path::new(PATH))
    }

    fn wait_at(path: &Path) -> Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io("make", parent))?;
        }
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path);
        let file = file.map_err(Error::io("open", path))?;
        loop {
            match fcntl_lock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io("lock", path)(errno)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_made_where_it_is_missing_and_can_be_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock/netavark.lock");
        drop(NetworkLock::wait_at(&path).unwrap());
        drop(NetworkLock::wait_at(&path).unwrap());
        assert!(path.is_file());
    }
}
