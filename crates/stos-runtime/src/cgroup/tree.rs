// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Walking a cgroup and all below it, however deep.
//!
//! A container that may write to its cgroups nests them deeper than any path reaches (PATH_MAX), and than descriptors or a stack would. So
//! the walk takes one step at a time, down by name and up by `..`, and holds one directory. A cgroup keeps its parent for life: v1
//! renames it within that alone, v2 not at all.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Dir, FileType, Mode, OFlags, openat};
use rustix::io::Errno;
use stos_sys::SysError;

use crate::error::{Error, Result};

const STAGE: &str = "walk through a cgroup";

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Walks through `top` and all cgroups below it.
///
/// `enter` is given each directory before those below it, `leave` the parent and the name of each but `top` after those below it. What goes
/// meanwhile is left out. `path` is that of `top`, for messages.
pub(super) fn walk(
    top: OwnedFd,
    path: &Path,
    mut enter: impl FnMut(BorrowedFd<'_>) -> Result<()>,
    mut leave: impl FnMut(BorrowedFd<'_>, &CString) -> Result<()>,
) -> Result<()> {
    enter(top.as_fd())?;
    let mut here = top;
    // On each level from `top` down: what is to be entered there, and after it on the way down what was.
    let mut levels = vec![children(here.as_fd(), path)?];
    let mut entered: Vec<CString> = Vec::new();
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.pop() {
            let child = match openat(&here, &name, DIRECTORY, Mode::empty()) {
                Err(Errno::NOENT | Errno::NODEV) => continue,
                other => other.map_err(failed("openat", &shown(path, &name)))?,
            };
            here = child;
            enter(here.as_fd())?;
            levels.push(children(here.as_fd(), &shown(path, &name))?);
            entered.push(name);
            continue;
        }
        levels.pop();
        if let Some(name) = entered.pop() {
            here = openat(&here, "..", DIRECTORY, Mode::empty()).map_err(failed("openat", &shown(path, &name)))?;
            leave(here.as_fd(), &name)?;
        }
    }
    Ok(())
}

/// A name below `path`, however far: the way there may be longer than anybody wants to read.
pub(super) fn shown(path: &Path, name: &CString) -> std::path::PathBuf {
    path.join("...").join(OsStr::from_bytes(name.as_bytes()))
}

/// Names of the cgroups right below `directory`. One has two links and one for each child, so one without is not read.
fn children(directory: BorrowedFd<'_>, path: &Path) -> Result<Vec<CString>> {
    if rustix::fs::fstat(directory).map_err(failed("fstat", path))?.st_nlink == 2 {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    let gone = |errno: &Errno| matches!(*errno, Errno::NOENT | Errno::NODEV);
    let entries = match Dir::read_from(directory) {
        Err(errno) if gone(&errno) => return Ok(found),
        other => other.map_err(failed("open", path))?,
    };
    for entry in entries {
        let entry = match entry {
            // It went meanwhile, and all below it before.
            Err(errno) if gone(&errno) => return Ok(Vec::new()),
            other => other.map_err(failed("getdents64", path))?,
        };
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            found.push(name.to_owned());
        }
    }
    Ok(found)
}

fn failed(call: &'static str, path: &Path) -> impl FnOnce(Errno) -> Error {
    let shown = path.display().to_string();
    move |errno| Error::sys(STAGE)(SysError::new(call, shown, errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn each_is_entered_before_and_left_after_what_is_below() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["a/b/c", "a/d", "e"] {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        std::fs::write(dir.path().join("a/file"), "").unwrap();
        let (mut entered, mut left) = (0, Vec::new());
        let leave = |_: BorrowedFd<'_>, name: &CString| {
            left.push(name.to_str().unwrap().to_owned());
            Ok(())
        };
        let enter = |_: BorrowedFd<'_>| {
            entered += 1;
            Ok(())
        };
        walk(open(dir.path()), dir.path(), enter, leave).unwrap();
        assert_eq!(entered, 6);
        let at = |name: &str| left.iter().position(|found| found == name).unwrap();
        assert!(left.len() == 5 && at("c") < at("b") && at("b") < at("a") && at("d") < at("a"));
    }

    #[test]
    fn nothing_is_too_deep() {
        let dir = tempfile::tempdir().unwrap();
        let mut here = open(dir.path());
        for _ in 0..5000 {
            rustix::fs::mkdirat(&here, "x", Mode::RWXU).unwrap();
            here = openat(&here, "x", DIRECTORY, Mode::empty()).unwrap();
        }
        drop(here);
        let mut entered = 0;
        let enter = |_: BorrowedFd<'_>| {
            entered += 1;
            Ok(())
        };
        let leave = |parent: BorrowedFd<'_>, name: &CString| {
            rustix::fs::unlinkat(parent, name, rustix::fs::AtFlags::REMOVEDIR)
                .map_err(failed("unlinkat", Path::new("x")))
        };
        walk(open(dir.path()), dir.path(), enter, leave).unwrap();
        assert_eq!((entered, std::fs::read_dir(dir.path()).unwrap().count()), (5001, 0));
    }
}
