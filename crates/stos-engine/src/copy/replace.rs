// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A finished file gets what belongs to it, and takes its place.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, StatxAttributes, StatxFlags, Timespec, Timestamps, UTIME_OMIT, Uid,
    chmod, chownat, fstat, openat, renameat, statx, unlinkat, utimensat,
};
use rustix::io::Errno;
use stos_erofs::{Metadata, Namespace, Timestamp};
use stos_sys::process::user_namespace::IdMappings;
use stos_sys::{SysError, xattr};

use super::CopyError;
use super::sink::shown;
use super::view::mapped;
use crate::error::{Error, Result};

/// How deep a directory that is replaced may be.
const DEPTH_MAX: usize = 2048;

/// What belongs to a file.
pub(super) struct Attributes<'a> {
    pub metadata: &'a Metadata,
    /// Whom it is to belong to; `None` for whom it belonged to.
    pub owner: Option<(u32, u32)>,
    /// What the numbers in `metadata` mean on the host; empty where they are the host's.
    pub ids: &'a IdMappings,
}

impl Attributes<'_> {
    /// Gives a file what belongs to it, through a descriptor of it, one with `O_PATH` for what is neither a regular file nor a
    /// directory. With another owner it keeps no rights of its own: no set-id bits, no `security.*`.
    pub fn set(&self, fd: BorrowedFd<'_>, kind: FileType) -> Result<()> {
        let failed = |call| SysError::at(call, || format!("{}", fd.as_raw_fd()));
        let (uid, gid) = match self.owner {
            Some(owner) => owner,
            None => (mapped(&self.ids.users, self.metadata.uid)?, mapped(&self.ids.groups, self.metadata.gid)?),
        };
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH).map_err(failed("fchownat"))?;
        if kind == FileType::Symlink {
            return Ok(());
        }
        let kept = if self.owner.is_some() { 0o1777 } else { 0o7777 };
        let mode = Mode::from_raw_mode(u32::from(self.metadata.mode) & kept);
        // The file itself, whatever it is called by now.
        chmod(proc_path(fd), mode).map_err(failed("chmod"))?;
        if matches!(kind, FileType::RegularFile | FileType::Directory) {
            self.set_xattrs(fd)?;
        }
        Self::set_time(fd, self.metadata.mtime)
    }

    fn set_xattrs(&self, fd: BorrowedFd<'_>) -> Result<()> {
        for attribute in &self.metadata.xattrs {
            let prefix = match attribute.namespace {
                Namespace::User => "user.",
                Namespace::Security if self.owner.is_none() => "security.",
                _ => continue,
            };
            let Ok(name) = CString::new([prefix.as_bytes(), &attribute.name].concat()) else { continue };
            match xattr::set(fd, &name, &attribute.value) {
                // The filesystem there has none.
                Err(error) if error.errno == Errno::OPNOTSUPP => {
                    tracing::warn!(attribute = %name.to_string_lossy(), "the attribute cannot be kept: left out");
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// Sets the time of the last change.
    pub fn set_time(fd: BorrowedFd<'_>, mtime: Timestamp) -> Result<()> {
        let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let last_modification = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() };
        let times = Timestamps { last_access: omit, last_modification };
        Ok(utimensat(CWD, proc_path(fd), &times, AtFlags::empty())
            .map_err(SysError::at("utimensat", || format!("{}", fd.as_raw_fd())))?)
    }
}

fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Renames `temporary` to `name`, in place of what is there. A directory is replaced only with `overwrite`. A file that something is
/// mounted on is written anew instead. `path` is for errors alone.
pub(super) fn put_in_place(
    dir: BorrowedFd<'_>,
    temporary: &str,
    name: &[u8],
    path: &[u8],
    overwrite: bool,
) -> Result<()> {
    let placed = place(dir, OsStr::new(temporary), OsStr::from_bytes(name), path, overwrite);
    // Nothing of ours where it moved nothing: of two names of one file renameat(2) leaves both.
    let _ = unlinkat(dir, temporary, AtFlags::empty());
    placed
}

fn place(dir: BorrowedFd<'_>, temporary: &OsStr, name: &OsStr, path: &[u8], overwrite: bool) -> Result<()> {
    if is_mount_point(dir, name)? {
        return rewrite(dir, temporary, name, path);
    }
    loop {
        match renameat(dir, temporary, dir, name) {
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) if overwrite => remove_at(dir, name)?,
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                let (found, wanted) = ("a directory", "something else");
                return Err(CopyError::InTheWay { path: shown(path), found, wanted }.into());
            }
            other => return Ok(other.map_err(SysError::at("renameat", || shown(path)))?),
        }
    }
}

/// Whether something is mounted on `name` (statx(2), Linux 5.8).
///
/// rename(2) and unlink(2) refuse only what is a mount point in the caller's own mount namespace. In any other they take the mount away
/// with the name: in that of a container that runs, which is seen through its root.
fn is_mount_point(dir: BorrowedFd<'_>, name: &OsStr) -> Result<bool> {
    match statx(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, StatxFlags::empty()) {
        Ok(found) => Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(SysError::new("statx", shown(name.as_bytes()), errno).into()),
    }
}

/// Writes what is in `temporary` into the regular file `name`, never through a symlink. Nothing else is opened, or can be put there.
fn rewrite(dir: BorrowedFd<'_>, temporary: &OsStr, name: &OsStr, path: &[u8]) -> Result<()> {
    let failed = |error| stos_store::Error::io("write in place", shown(path))(error);
    let open = |name, flags, (found, wanted)| -> Result<File> {
        let opened = open_regular(dir, name, flags).map_err(|errno| failed(errno.into()))?;
        opened.ok_or_else(|| CopyError::InTheWay { path: shown(path), found, wanted }.into())
    };
    let mut from = open(temporary, OFlags::RDONLY, ("a mount point", "anything but a file"))?;
    let mut to = open(name, OFlags::WRONLY, ("a mount point that is no file", "something else"))?;
    let written = to.set_len(0).and_then(|()| from.rewind()).and_then(|()| io::copy(&mut from, &mut to));
    Ok(written.map(drop).map_err(failed)?)
}

/// Opens a regular file; `None` where it is none.
fn open_regular(dir: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> std::result::Result<Option<File>, Errno> {
    let found = openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&found)?.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    Ok(Some(File::from(rustix::fs::open(proc_path(found.as_fd()), flags | OFlags::CLOEXEC, Mode::empty())?)))
}

/// Removes a name that nothing is mounted on.
fn unlink(dir: BorrowedFd<'_>, name: &OsStr, flags: AtFlags) -> std::result::Result<(), Errno> {
    match is_mount_point(dir, name) {
        Ok(true) => Err(Errno::BUSY),
        _ => unlinkat(dir, name, flags),
    }
}

/// Removes `name` from a directory, with all in it, from descriptor to descriptor: nothing is followed. Where something is mounted it
/// ends.
pub(super) fn remove_at(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let failed = |name: &OsStr, errno| -> Error {
        match (shown(name.as_bytes()), errno) {
            (path, Errno::BUSY) => {
                CopyError::InTheWay { path, found: "a mount point", wanted: "something else" }.into()
            }
            (path, errno) => SysError::new("unlinkat", path, errno).into(),
        }
    };
    match unlink(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(failed(name, errno)),
    }
    // Each with the names that are left in it, and what it is called.
    let mut stack = vec![open_to_empty(dir, name)?];
    while let Some((here, names, own)) = stack.last_mut() {
        let Some(next) = names.pop() else {
            let own = own.clone();
            stack.pop();
            let above = stack.last().map_or(dir, |(above, ..)| above.as_fd());
            match unlink(above, &own, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed(&own, errno)),
            }
            continue;
        };
        match unlink(here.as_fd(), &next, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) if stack.len() < DEPTH_MAX => {
                let Some((here, ..)) = stack.last() else { continue };
                let below = open_to_empty(here.as_fd(), &next)?;
                stack.push(below);
            }
            Err(errno) => return Err(failed(&next, errno)),
        }
    }
    Ok(())
}

type Emptied = (OwnedFd, Vec<OsString>, OsString);

fn open_to_empty(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Emptied> {
    let failed = |call| SysError::at(call, || name.to_string_lossy().into_owned());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(dir, name, flags, Mode::empty()).map_err(failed("openat"))?;
    // Never into what has been mounted there meanwhile. Its device would not tell: a bind may be of the same filesystem.
    if is_mount_point(opened.as_fd(), OsStr::new("."))? {
        return Err(failed("unlinkat")(Errno::BUSY).into());
    }
    let mut names = Vec::new();
    for entry in Dir::read_from(&opened).map_err(failed("getdents64"))? {
        let entry = entry.map_err(failed("getdents64"))?;
        let found = entry.file_name().to_bytes();
        if !matches!(found, b"." | b"..") {
            names.push(OsString::from_vec(found.to_vec()));
        }
    }
    Ok((opened, names, name.to_owned()))
}
