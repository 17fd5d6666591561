// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Removes a tree by descriptors: whoever swaps a directory for a symlink meanwhile has only that symlink removed, and what lies
//! beyond a mount point stays.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, openat2, renameat, unlinkat};
use rustix::io::Errno;
use stos_store::{Error as StoreError, files};

use crate::dirs::inode::{Place, as_path, refused};
use crate::dirs::walk;

/// How deep directories are emptied where they stand; what lies deeper is moved up first. Each level takes two descriptors.
const DEPTH: usize = 24;

/// How often a look-up that raced with a rename is tried again.
const RACES: usize = 128;

/// Removes what stands at a name, with all below it. What is not there is removed already.
pub(in crate::dirs) fn remove(place: Place<'_>) -> Result<(), StoreError> {
    if is_unlinked(place)? {
        return Ok(());
    }
    let top = open(place)?;
    while empty(&top, &top, place.path, 0)? {}
    remove_directory(place)
}

/// Removes what is no directory; `false` says that one stands there.
fn is_unlinked(place: Place<'_>) -> Result<bool, StoreError> {
    match unlinkat(place.dir, place.name, AtFlags::empty()) {
        Err(Errno::ISDIR) => Ok(false),
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(errno) => Err(refused("remove", place.path)(errno)),
    }
}

fn remove_directory(place: Place<'_>) -> Result<(), StoreError> {
    match unlinkat(place.dir, place.name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(refused("remove", place.path)(errno)),
    }
}

fn open(place: Place<'_>) -> Result<OwnedFd, StoreError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let mut opened = Err(Errno::AGAIN);
    for _ in 0..RACES {
        opened = openat2(place.dir, place.name, flags, Mode::empty(), resolve);
        if !matches!(opened, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    opened.map_err(refused("empty", place.path))
}

/// Empties a directory; `true` says that something was moved to `top` and is still to be removed.
fn empty(directory: &OwnedFd, top: &OwnedFd, path: &[u8], depth: usize) -> Result<bool, StoreError> {
    let mut moved = false;
    for entry in walk::list(directory, path)? {
        let name = entry.map_err(refused("list", path))?.file_name().into_vec();
        moved |= remove_from(directory.as_fd(), top, &name, path, depth)?;
    }
    Ok(moved)
}

fn remove_from(
    directory: BorrowedFd<'_>,
    top: &OwnedFd,
    name: &[u8],
    path: &[u8],
    depth: usize,
) -> Result<bool, StoreError> {
    let path = [path, b"/", name].concat();
    let place = Place { dir: directory, name: as_path(name), path: &path };
    if is_unlinked(place)? {
        return Ok(false);
    }
    if depth == DEPTH {
        renameat(directory, place.name, top, files::unique_name()).map_err(refused("move up", &path))?;
        return Ok(true);
    }
    let moved = empty(&open(place)?, top, &path, depth + 1)?;
    remove_directory(place)?;
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn remove_in(directory: &Path, name: &str) -> Result<(), StoreError> {
        let dir = File::open(directory).unwrap();
        remove(Place { dir: dir.as_fd(), name: Path::new(name), path: name.as_bytes() })
    }

    #[test]
    fn trees_of_any_depth_go_and_symlinks_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("kept")).unwrap();
        fs::write(at("kept/file"), "x").unwrap();
        let name = "n".repeat(255);
        fs::create_dir(at("inner")).unwrap();
        // Longer than any path may be: built from the inside out.
        for _ in 0..300 {
            fs::create_dir(at("outer")).unwrap();
            fs::write(at("outer/file"), "x").unwrap();
            symlink(at("kept"), at("outer/link")).unwrap();
            fs::rename(at("inner"), at("outer").join(&name)).unwrap();
            fs::rename(at("outer"), at("inner")).unwrap();
        }
        remove_in(dir.path(), "inner").unwrap();
        symlink(at("kept"), at("link")).unwrap();
        remove_in(dir.path(), "link").unwrap();
        remove_in(dir.path(), "none").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(fs::read(at("kept/file")).unwrap(), b"x");
    }

    #[test]
    fn a_directory_that_has_become_a_symlink_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("kept")).unwrap();
        symlink("kept", dir.path().join("link")).unwrap();
        let at = File::open(dir.path()).unwrap();
        let error = open(Place { dir: at.as_fd(), name: Path::new("link"), path: b"a/link" }).unwrap_err();
        assert!(error.to_string().contains("a/link"), "{error}");
    }
}
