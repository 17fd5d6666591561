// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Durability: write-behind while a file grows, fsync of files and of the directories that name them.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::error::{Result, SysError};

/// Starts writing `length` bytes of `file` from `offset` to disk and returns at once (sync_file_range(2)); a length of 0
/// means all that follows.
///
/// A hint: it makes a later fsync short and promises nothing, so its failure is of no consequence and not told.
pub fn start_write_behind(file: impl AsFd, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else { return };
    // SAFETY: takes a descriptor that is open for the call's duration, and no pointers.
    unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Makes the entries of the directory at `path` durable.
pub fn sync_directory(path: &Path) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir =
        rustix::fs::open(path, flags, Mode::empty()).map_err(SysError::at("open", || path.display().to_string()))?;
    rustix::fs::fsync(&dir).map_err(SysError::at("fsync", || path.display().to_string()))
}

/// Makes the contents of the open `file` durable; `path` is for the error alone.
pub fn sync_file(file: impl AsFd, path: &Path) -> Result<()> {
    rustix::fs::fsync(file).map_err(SysError::at("fsync", || path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_directories_can_be_synced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"x").unwrap();
        let file = std::fs::File::open(&path).unwrap();
        start_write_behind(&file, 0, 1);
        sync_file(&file, &path).unwrap();
        sync_directory(dir.path()).unwrap();
        let error = sync_directory(&path).unwrap_err();
        assert_eq!(error.errno, rustix::io::Errno::NOTDIR);
    }
}
