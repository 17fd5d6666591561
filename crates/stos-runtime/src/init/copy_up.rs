// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `tmpcopyup`: a new tmpfs begins with what it hides.
//!
//! Everything goes by descriptors of directories and by names in them, never through a symlink, and never onto another mount.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Statx, StatxAttributes, StatxFlags, StatxTimestamp, Timespec,
    Timestamps, Uid, chmodat, chownat, makedev, mkdirat, mknodat, openat, readlinkat, statx, symlinkat, utimensat,
};
use rustix::io::Errno;
use stos_sys::SysError;

/// Directories in directories: more than any path that can be named has.
const DEPTH: usize = 2048;

/// Copies what is in the directory `from` into the empty directory `to`, with its owner, mode and time. The directory's own too.
pub(super) fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), SysError> {
    copy_directory(from, to, 0)?;
    // Their own attributes last: a read-only directory, or its time, would not outlast what is put into it.
    let stat = look(from, c"", AtFlags::EMPTY_PATH)?;
    let to = openat(to, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(at("openat", c"."))?;
    set_attributes(to.as_fd(), c".", &stat)
}

fn at(call: &'static str, name: &CStr) -> impl FnOnce(Errno) -> SysError {
    let name = name.to_string_lossy().into_owned();
    move |errno| SysError::new(call, format!("tmpcopyup {name:?}"), errno)
}

fn look(directory: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<Statx, SysError> {
    statx(directory, name, flags | AtFlags::NO_AUTOMOUNT, StatxFlags::BASIC_STATS).map_err(at("statx", name))
}

fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, SysError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map_err(at("openat", name))
}

fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> Result<(), SysError> {
    if depth > DEPTH {
        return Err(at("openat", c"")(Errno::NAMETOOLONG));
    }
    let reader = open_directory(from, c".")?;
    for entry in Dir::read_from(&reader).map_err(at("getdents64", c"."))? {
        let entry = entry.map_err(at("getdents64", c"."))?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = look(reader.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?;
        // Not by its device: files of an overlay have those of their layers.
        if !stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            copy_entry(reader.as_fd(), to, name, &stat, depth)?;
        }
    }
    Ok(())
}

fn copy_entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    stat: &Statx,
    depth: usize,
) -> Result<(), SysError> {
    let private = Mode::RWXU;
    match file_type(stat) {
        FileType::Directory => {
            mkdirat(to, name, private).map_err(at("mkdirat", name))?;
            let (from, to) = (open_directory(from, name)?, open_directory(to, name)?);
            copy_directory(from.as_fd(), to.as_fd(), depth + 1)?;
        }
        FileType::RegularFile => copy_file(from, to, name)?,
        FileType::Symlink => {
            let target: CString = readlinkat(from, name, Vec::new()).map_err(at("readlinkat", name))?;
            symlinkat(target.as_c_str(), to, name).map_err(at("symlinkat", name))?;
        }
        kind => {
            let number = makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
            mknodat(to, name, kind, private, number).map_err(at("mknodat", name))?;
        }
    }
    set_attributes(to, name, stat)
}

fn copy_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(), SysError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let from = openat(from, name, flags, Mode::empty()).map_err(at("openat", name))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to = openat(to, name, flags, Mode::RUSR | Mode::WUSR).map_err(at("openat", name))?;
    let copied = io::copy(&mut File::from(from), &mut File::from(to));
    copied.map(drop).map_err(|error| at("copy", name)(Errno::from_io_error(&error).unwrap_or(Errno::IO)))
}

fn file_type(stat: &Statx) -> FileType {
    FileType::from_raw_mode(stat.stx_mode.into())
}

fn set_attributes(parent: BorrowedFd<'_>, name: &CStr, stat: &Statx) -> Result<(), SysError> {
    let (uid, gid) = (Uid::from_raw(stat.stx_uid), Gid::from_raw(stat.stx_gid));
    let kept = match chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(()) => 0o7777,
        // Its owner has no name in the user namespace: it stays root's, and runs as nobody else.
        Err(Errno::INVAL) => 0o1777,
        Err(errno) => return Err(at("fchownat", name)(errno)),
    };
    if file_type(stat) != FileType::Symlink {
        // The name is ours: nobody else sees the tmpfs yet.
        chmodat(parent, name, Mode::from_raw_mode(u32::from(stat.stx_mode) & kept), AtFlags::empty())
            .map_err(at("fchmodat", name))?;
    }
    let time = |time: StatxTimestamp| Timespec { tv_sec: time.tv_sec, tv_nsec: time.tv_nsec.into() };
    let times = Timestamps { last_access: time(stat.stx_atime), last_modification: time(stat.stx_mtime) };
    utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(at("utimensat", name))
}
