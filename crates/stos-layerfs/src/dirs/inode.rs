// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Makes one inode with all that an entry says of it, by descriptors alone: of a name only its last component is ever used, in
//! a directory that is open.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod, fchown,
    fsetxattr, futimens, linkat, makedev, mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;
use stos_erofs::{EntryKind, Metadata, Xattr};
use stos_store::Error as StoreError;
use stos_sys::xattr;

/// What overlayfs takes for an opaque directory: nothing of the lower layers shows in it.
pub(crate) const OPAQUE_XATTR: &std::ffi::CStr = c"trusted.overlay.opaque";

/// A directory that is open, and a name in it.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) dir: BorrowedFd<'a>,
    pub(crate) name: &'a Path,
    /// The whole path, for errors.
    pub(crate) path: &'a [u8],
}

impl Place<'_> {
    /// Makes the closure that says what was tried with which path.
    fn refused<E: Into<io::Error>>(self, action: &'static str) -> impl FnOnce(E) -> StoreError {
        refused(action, self.path)
    }

    /// Makes a directory that only its maker may enter; what it is to be comes last, by [`finish_directory`].
    pub(crate) fn make_directory(self) -> Result<(), StoreError> {
        mkdirat(self.dir, self.name, Mode::RWXU).map_err(self.refused("create the directory"))
    }

    /// Makes the file of overlayfs that says that the lower layers' name is gone.
    pub(crate) fn make_whiteout(self) -> Result<(), StoreError> {
        let made = mknodat(self.dir, self.name, FileType::CharacterDevice, Mode::empty(), makedev(0, 0));
        made.map_err(self.refused("create the whiteout"))
    }

    /// Makes one more name for what stands at `target`, never following a symlink.
    pub(crate) fn make_link(self, target: Place<'_>) -> Result<(), StoreError> {
        let made = linkat(target.dir, target.name, self.dir, self.name, AtFlags::empty());
        made.map_err(self.refused("create the hard link"))
    }

    /// Makes the inode of an entry that is neither a directory nor a link. A regular file is given, open: its metadata
    /// come after its data, by [`finish_file`].
    pub(crate) fn make(self, kind: &EntryKind) -> Result<Option<File>, StoreError> {
        let (file_type, metadata, device) = match kind {
            EntryKind::Regular { .. } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(self.dir, self.name, flags, Mode::RUSR | Mode::WUSR);
                return Ok(Some(File::from(file.map_err(self.refused("create"))?)));
            }
            EntryKind::Symlink { metadata, target } => {
                symlinkat(target.as_slice(), self.dir, self.name).map_err(self.refused("create the symlink"))?;
                self.finish(metadata, false)?;
                return Ok(None);
            }
            EntryKind::CharacterDevice { metadata, major, minor } => {
                (FileType::CharacterDevice, metadata, makedev(*major, *minor))
            }
            EntryKind::BlockDevice { metadata, major, minor } => {
                (FileType::BlockDevice, metadata, makedev(*major, *minor))
            }
            EntryKind::Fifo(metadata) => (FileType::Fifo, metadata, 0),
            EntryKind::Directory(_) | EntryKind::HardLink { .. } | EntryKind::Whiteout | EntryKind::Opaque => {
                return Ok(None);
            }
        };
        mknodat(self.dir, self.name, file_type, Mode::empty(), device).map_err(self.refused("create"))?;
        self.finish(metadata, true)?;
        Ok(None)
    }

    /// Gives what cannot be opened its metadata. Nobody else sees the tree, so the name still means what was just made.
    fn finish(self, metadata: &Metadata, has_mode: bool) -> Result<(), StoreError> {
        let (uid, gid) = owner(metadata);
        chownat(self.dir, self.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(self.refused("chown"))?;
        if has_mode {
            chmodat(self.dir, self.name, mode(metadata), AtFlags::empty()).map_err(self.refused("chmod"))?;
        }
        for attribute in &metadata.xattrs {
            let name = attribute_name(attribute, self.path)?;
            let set = xattr::at::set(self.dir, self.name, &name, &attribute.value);
            set.map_err(|error| attribute_refused(error.errno, metadata, self.path))?;
        }
        let set = utimensat(self.dir, self.name, &times(metadata), AtFlags::SYMLINK_NOFOLLOW);
        set.map_err(self.refused("set the times of"))
    }
}

/// Gives a regular file its metadata: attributes after the data, for a write takes capabilities away, and the mode after the
/// owner, for a change of it takes setuid away; the time last.
pub(crate) fn finish_file(file: &File, metadata: &Metadata, path: &[u8]) -> Result<(), StoreError> {
    set_metadata(file.as_fd(), metadata, path)?;
    set_times(file.as_fd(), metadata, path)
}

/// Gives a directory its metadata, when everything in it is made.
pub(crate) fn finish_directory(
    directory: &OwnedFd,
    metadata: &Metadata,
    is_opaque: bool,
    path: &[u8],
) -> Result<(), StoreError> {
    set_metadata(directory.as_fd(), metadata, path)?;
    if is_opaque {
        let set = fsetxattr(directory, OPAQUE_XATTR, b"y", XattrFlags::empty());
        set.map_err(refused("mark as opaque", path))?;
    }
    set_times(directory.as_fd(), metadata, path)
}

/// Gives a regular file or directory the owner, mode, attributes and times of another one, but none of overlayfs's own
/// attributes.
pub(crate) fn copy_attributes(from: &File, to: &File, path: &[u8]) -> Result<(), StoreError> {
    use std::os::unix::fs::MetadataExt;
    let stat = from.metadata().map_err(refused("stat", path))?;
    fchown(to, Some(Uid::from_raw(stat.uid())), Some(Gid::from_raw(stat.gid()))).map_err(refused("chown", path))?;
    fchmod(to, Mode::from_raw_mode(stat.mode() & 0o7777)).map_err(refused("chmod", path))?;
    let failed = |error: stos_sys::SysError| refused("copy the extended attributes of", path)(error.errno);
    let names = xattr::list(from).map_err(failed)?;
    for name in names.into_iter().filter(|name| !name.to_bytes().starts_with(b"trusted.overlay.")) {
        if let Some(value) = xattr::get(from, &name).map_err(failed)? {
            xattr::set(to, &name, &value).map_err(failed)?;
        }
    }
    let time = Timespec { tv_sec: stat.mtime(), tv_nsec: stat.mtime_nsec() };
    let times = Timestamps { last_access: time, last_modification: time };
    futimens(to, &times).map_err(refused("set the times of", path))
}

/// Puts a directory's time back that new names in it have changed.
pub(crate) fn set_times(file: BorrowedFd<'_>, metadata: &Metadata, path: &[u8]) -> Result<(), StoreError> {
    futimens(file, &times(metadata)).map_err(refused("set the times of", path))
}

fn set_metadata(file: BorrowedFd<'_>, metadata: &Metadata, path: &[u8]) -> Result<(), StoreError> {
    let (uid, gid) = owner(metadata);
    fchown(file, uid, gid).map_err(refused("chown", path))?;
    fchmod(file, mode(metadata)).map_err(refused("chmod", path))?;
    for attribute in &metadata.xattrs {
        let name = attribute_name(attribute, path)?;
        let set = fsetxattr(file, &name, &attribute.value, XattrFlags::empty());
        set.map_err(|errno| attribute_refused(errno, metadata, path))?;
    }
    Ok(())
}

/// ext4 keeps an inode's attributes in one block beside it and says ENOSPC where they do not fit (`ext4_xattr_set_entry`): that
/// is no full disk.
fn attribute_refused(errno: Errno, metadata: &Metadata, path: &[u8]) -> StoreError {
    const SMALLEST_BLOCK: usize = 1024;
    let bytes: usize = metadata.xattrs.iter().map(|attribute| attribute.name.len() + attribute.value.len()).sum();
    let action = "set an extended attribute of";
    if errno == Errno::NOSPC && bytes > SMALLEST_BLOCK {
        let said = format!("the filesystem cannot keep {bytes} bytes of attributes of one file");
        return refused(action, path)(io::Error::other(said));
    }
    refused(action, path)(errno)
}

fn attribute_name(attribute: &Xattr, path: &[u8]) -> Result<std::ffi::CString, StoreError> {
    let name = std::ffi::CString::new(attribute.full_name());
    name.map_err(|_| refused("set an extended attribute of", path)(Errno::INVAL))
}

fn owner(metadata: &Metadata) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)))
}

fn mode(metadata: &Metadata) -> Mode {
    Mode::from_raw_mode(metadata.mode.into())
}

fn times(metadata: &Metadata) -> Timestamps {
    let time = Timespec { tv_sec: metadata.mtime.seconds, tv_nsec: metadata.mtime.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Makes the closure that says what was tried with which path of a layer.
pub(crate) fn refused<E: Into<io::Error>>(action: &'static str, path: &[u8]) -> impl FnOnce(E) -> StoreError {
    let shown = path.escape_ascii().to_string();
    move |error| StoreError::io(action, Path::new(if shown.is_empty() { "/" } else { &shown }))(error)
}

/// Takes the bytes of a path for a path.
pub(crate) fn as_path(path: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(path))
}

/// Splits a path into its parent and its last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &Path) {
    let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&b""[..], path),
    };
    (parent, as_path(name))
}
