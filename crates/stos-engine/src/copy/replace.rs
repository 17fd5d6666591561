// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A finished file gets what belongs to it, and takes its place.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chmod, chownat, fstat,
    openat, renameat, unlinkat, utimensat,
};
use rustix::io::Errno;
use stos_erofs::{Metadata, Namespace, Timestamp};
use stos_sys::process::user_namespace::IdMappings;
use stos_sys::{SysError, xattr};

use super::CopyError;
use super::sink::shown;
use super::view::mapped;
use crate::error::Result;

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
    let name = OsStr::from_bytes(name);
    let failed = |call| SysError::at(call, || shown(path));
    let placed = loop {
        match renameat(dir, temporary, dir, name) {
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) if overwrite => remove_at(dir, name)?,
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                let (found, wanted) = ("a directory", "something else");
                break Err(CopyError::InTheWay { path: shown(path), found, wanted }.into());
            }
            Err(Errno::BUSY) => break rewrite(dir, temporary, name).map_err(|error| in_place(error, path)),
            other => break other.map_err(failed("renameat")).map_err(Into::into),
        }
    };
    // Nothing of ours where it moved nothing: of two names of one file renameat(2) leaves both.
    let _ = unlinkat(dir, temporary, AtFlags::empty());
    placed
}

fn in_place(error: io::Error, path: &[u8]) -> crate::error::Error {
    stos_store::Error::io("write in place", shown(path))(error).into()
}

/// Writes what is in `temporary` into the regular file `name`, never through a symlink.
fn rewrite(dir: BorrowedFd<'_>, temporary: &str, name: &OsStr) -> io::Result<()> {
    let open = |name: &OsStr, flags| {
        openat(dir, name, flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
    };
    let mut from = File::from(open(OsStr::new(temporary), OFlags::RDONLY)?);
    let mut to = File::from(open(name, OFlags::WRONLY)?);
    if !from.metadata()?.is_file() || !to.metadata()?.is_file() {
        return Err(Errno::BUSY.into());
    }
    to.set_len(0)?;
    from.rewind()?;
    io::copy(&mut from, &mut to).map(drop)
}

/// Removes `name` from a directory, with all in it, from descriptor to descriptor: nothing is followed.
pub(super) fn remove_at(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let shown = || name.to_string_lossy().into_owned();
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(SysError::new("unlinkat", shown(), errno).into()),
    }
    // Each with the names that are left in it, and what it is called.
    let mut stack = vec![open_to_empty(dir, name)?];
    while let Some((here, names, own)) = stack.last_mut() {
        let Some(next) = names.pop() else {
            let own = own.clone();
            stack.pop();
            let above = stack.last().map_or(dir, |(above, ..)| above.as_fd());
            match unlinkat(above, &own, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(SysError::new("unlinkat", shown(), errno).into()),
            }
            continue;
        };
        match unlinkat(&*here, &next, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) if stack.len() < DEPTH_MAX => {
                let Some((here, ..)) = stack.last() else { continue };
                let below = open_to_empty(here.as_fd(), &next)?;
                stack.push(below);
            }
            Err(errno) => return Err(SysError::new("unlinkat", shown(), errno).into()),
        }
    }
    Ok(())
}

type Emptied = (OwnedFd, Vec<OsString>, OsString);

fn open_to_empty(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Emptied> {
    let failed = |call| SysError::at(call, || name.to_string_lossy().into_owned());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(dir, name, flags, Mode::empty()).map_err(failed("openat"))?;
    // Never into what is mounted there.
    let (of, own) = (fstat(dir).map_err(failed("fstat"))?, fstat(&opened).map_err(failed("fstat"))?);
    if of.st_dev != own.st_dev {
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
