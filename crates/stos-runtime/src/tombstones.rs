// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ids that bundle mode deleted.
//!
//! Engines call `delete --force ID` for what is long gone, with the binary's own name; it must end there, and not go on to a
//! container of image mode that happens to be named so. One file holds an id a line; it is halved where it grows beyond
//! [`FILE_MAX`], so the oldest are forgotten.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use stos_sys::SysError;

use crate::error::{Error, Result};
use crate::id::ContainerId;
use crate::state::StateDirectory;

/// About 16,000 ids of 64 letters.
const FILE_MAX: u64 = 1 << 20;

fn path(root: &StateDirectory) -> PathBuf {
    root.root().join("tombstones")
}

fn failed(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let shown = path.display().to_string();
    move |error| {
        Error::sys("remember a deleted id")(SysError::new(
            call,
            shown,
            Errno::from_io_error(&error).unwrap_or(Errno::IO),
        ))
    }
}

/// Whether bundle mode has deleted a container of this id.
pub fn contains(root: &StateDirectory, id: &ContainerId) -> Result<bool> {
    let path = path(root);
    match fs::read(&path) {
        Ok(ids) => Ok(ids.split(|byte| *byte == b'\n').any(|line| line == id.as_str().as_bytes())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("read", &path)(error)),
    }
}

/// Remembers that bundle mode deleted the container `id`.
pub fn add(root: &StateDirectory, id: &ContainerId) -> Result<()> {
    if contains(root, id)? {
        return Ok(());
    }
    let path = path(root);
    let mut file = File::options().append(true).create(true).read(true).open(&path).map_err(failed("open", &path))?;
    // Held while the file is halved, so that no id is appended to what is thrown away.
    flock(&file, FlockOperation::LockExclusive).map_err(|errno| failed("flock", &path)(io::Error::from(errno)))?;
    if file.metadata().map_err(failed("stat", &path))?.len() > FILE_MAX {
        forget_older_half(&path, &file)?;
    }
    let end = file.metadata().map_err(failed("stat", &path))?.len();
    let written = file.write_all(format!("{id}\n").as_bytes()).map_err(failed("write", &path));
    // A part of an id would spoil the next. The cause counts.
    written.inspect_err(|_| drop(file.set_len(end)))
}

fn forget_older_half(path: &Path, file: &File) -> Result<()> {
    let ids = fs::read(path).map_err(failed("read", path))?;
    let middle = ids.len() / 2;
    let start = ids[middle..].iter().position(|byte| *byte == b'\n').map_or(ids.len(), |at| middle + at + 1);
    file.set_len(0).map_err(failed("ftruncate", path))?;
    (&*file).write_all(&ids[start..]).map_err(failed("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleted_ids_are_remembered_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = StateDirectory::new(dir.path());
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        assert!(!contains(&root, &a).unwrap());
        add(&root, &a).unwrap();
        add(&root, &a).unwrap();
        assert!(contains(&root, &a).unwrap() && !contains(&root, &b).unwrap());
        assert_eq!(fs::read_to_string(path(&root)).unwrap(), "a\n");
    }

    #[test]
    fn the_oldest_are_forgotten_when_they_are_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let root = StateDirectory::new(dir.path());
        let many: String = (0..40_000).map(|n| format!("container-{n:020}\n")).collect();
        fs::write(path(&root), many).unwrap();
        add(&root, &"last".parse().unwrap()).unwrap();
        let kept = fs::metadata(path(&root)).unwrap().len();
        assert!(kept < FILE_MAX && kept > FILE_MAX / 4, "{kept}");
        assert!(contains(&root, &"last".parse().unwrap()).unwrap());
        assert!(contains(&root, &format!("container-{:020}", 39_999).parse().unwrap()).unwrap());
        assert!(!contains(&root, &format!("container-{:020}", 0).parse().unwrap()).unwrap());
    }
}
