// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Makes one inode with all that an entry says of it, by descriptors alone: of a name only its last component is ever used, in
//! a directory that is open.

use std::ffi::CStr;
use std::fs::{File, Metadata as Stat};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmod, chownat, fchmod, fchown,
    fsetxattr, fstat, futimens, linkat, makedev, mkdirat, mknodat, openat, removexattr, setxattr, symlinkat, utimensat,
};
use rustix::io::Errno;
use stos_erofs::{EntryKind, Metadata, Timestamp, Xattr};
use stos_store::Error as StoreError;
use stos_sys::xattr;

/// What overlayfs takes for an opaque directory: nothing of the lower layers shows in it.
pub(crate) const OPAQUE_XATTR: &CStr = c"trusted.overlay.opaque";
/// What a new file gets from a directory that has the second one, unasked.
const ACLS: [&CStr; 2] = [c"system.posix_acl_access", c"system.posix_acl_default"];

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
        self.link_to(target).map_err(self.refused("create the hard link"))
    }

    /// The same; EMLINK says that the filesystem gives the file no more names.
    pub(crate) fn link_to(self, target: Place<'_>) -> Result<(), Errno> {
        linkat(target.dir, target.name, self.dir, self.name, AtFlags::empty())
    }

    /// Makes an empty regular file, for writing.
    pub(crate) fn make_file(self) -> Result<File, StoreError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(self.dir, self.name, flags, Mode::RUSR | Mode::WUSR);
        Ok(File::from(file.map_err(self.refused("create"))?))
    }

    /// Gives what stands here, a symlink itself.
    pub(crate) fn stat(self) -> Result<Stat, StoreError> {
        std::fs::symlink_metadata(self.in_proc()).map_err(self.refused("stat"))
    }

    /// Gives a path that leads to the name in the open directory, whatever has become of the directory's own name.
    pub(crate) fn in_proc(self) -> PathBuf {
        Path::new(&in_proc(self.dir)).join(self.name)
    }

    /// Reads what an entry would say of the inode that `stat` is of: none of overlayfs's own attributes and none of the host's
    /// labels, and the mode that Linux gives all symlinks.
    pub(crate) fn metadata(self, stat: &Stat) -> Result<Metadata, StoreError> {
        let failed = |error: stos_sys::SysError| refused("read the extended attributes of", self.path)(error.errno);
        let mut all = Vec::new();
        for name in xattr::at::list(self.dir, self.name).map_err(failed)? {
            if let Some(value) = xattr::at::get(self.dir, self.name, &name).map_err(failed)? {
                all.push((name.into_bytes(), value));
            }
        }
        let xattrs = Xattr::of_file(all);
        // No layer has put them there.
        let unfit = |problem| io::Error::new(io::ErrorKind::InvalidData, problem);
        let unfit = |problem| refused("keep the extended attributes of", self.path)(unfit(problem));
        Ok(metadata_of(stat, xattrs.map_err(unfit)?))
    }

    /// Makes the inode of an entry that is neither a directory nor a link. A regular file is given, open: its metadata
    /// come after its data, by [`finish_file`].
    pub(crate) fn make(self, kind: &EntryKind) -> Result<Option<File>, StoreError> {
        let (file_type, metadata, device) = match kind {
            EntryKind::Regular { .. } => {
                return self.make_file().map(Some);
            }
            EntryKind::Symlink { metadata, target } => {
                symlinkat(target.as_slice(), self.dir, self.name).map_err(self.refused("create the symlink"))?;
                self.finish(metadata, FileType::Symlink, 0)?;
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
        self.finish(metadata, file_type, device)?;
        Ok(None)
    }

    /// Gives what was just made, and cannot be opened to read, its metadata: by a descriptor of the very inode, for where others
    /// have the tree too its name may mean something else by now.
    fn finish(self, metadata: &Metadata, file_type: FileType, device: u64) -> Result<(), StoreError> {
        let made = self.open_made(file_type, device)?;
        let inode = in_proc(made.as_fd());
        if file_type != FileType::Symlink {
            drop_acls(made.as_fd(), self.path)?;
        }
        let (uid, gid) = owner(metadata);
        chownat(&made, "", uid, gid, AtFlags::EMPTY_PATH).map_err(self.refused("chown"))?;
        if file_type != FileType::Symlink {
            chmod(&inode, mode(metadata)).map_err(self.refused("chmod"))?;
        }
        for attribute in &metadata.xattrs {
            let name = attribute_name(attribute, self.path)?;
            let set = setxattr(&inode, &name, &attribute.value, XattrFlags::empty());
            set.map_err(|errno| attribute_refused(errno, metadata, self.path))?;
        }
        // Through `/proc` the descriptor's own inode is meant, a symlink's too.
        utimensat(CWD, &inode, &times(metadata), AtFlags::empty()).map_err(self.refused("set the times of"))
    }

    /// Opens what was just made, without opening a device, and makes sure that it is that: the type, the device, and no inode
    /// that has another name.
    fn open_made(self, file_type: FileType, device: u64) -> Result<OwnedFd, StoreError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(self.dir, self.name, flags, Mode::empty()).map_err(self.refused("open"))?;
        let stat = fstat(&made).map_err(self.refused("stat"))?;
        let found = (FileType::from_raw_mode(stat.st_mode), stat.st_rdev, stat.st_nlink);
        if found == (file_type, device, 1) {
            return Ok(made);
        }
        let said = format!(
            "expected the {file_type:?} that was just made there, found {:?}: another process has changed it",
            found.0
        );
        Err(self.refused("finish")(io::Error::other(said)))
    }
}

fn in_proc(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn metadata_of(stat: &Stat, xattrs: Vec<Xattr>) -> Metadata {
    Metadata {
        mode: (stat.mode() & 0o7777) as u16,
        uid: stat.uid(),
        gid: stat.gid(),
        mtime: Timestamp { seconds: stat.mtime(), nanoseconds: stat.mtime_nsec() as u32 },
        xattrs,
    }
}

/// Reads what an entry would say of an open directory.
pub(crate) fn directory_metadata(directory: &OwnedFd, path: &[u8]) -> Result<Metadata, StoreError> {
    let place = Place { dir: directory.as_fd(), name: Path::new("."), path };
    place.metadata(&place.stat()?)
}

/// Takes away the ACLs that a new file has from the directory it was made in: an image says itself which there are.
fn drop_acls(file: BorrowedFd<'_>, path: &[u8]) -> Result<(), StoreError> {
    // One is looked for before it is removed: a removal costs a transaction even where there is none.
    let found = xattr::get_by_path(file, ACLS[0]).map_err(|error| refused("read the ACL of", path)(error.errno))?;
    match found {
        Some(_) => remove_attribute(file, ACLS[0], path),
        None => Ok(()),
    }
}

/// Takes away the attributes of a directory that its entry does not have, those that an image may have at all: not overlayfs's
/// own, and not the host's labels.
fn drop_attributes(file: BorrowedFd<'_>, metadata: &Metadata, path: &[u8]) -> Result<(), StoreError> {
    let names = xattr::list(file).map_err(|error| refused("list the extended attributes of", path)(error.errno))?;
    for name in names {
        let bytes = name.to_bytes();
        let is_overlays = bytes.starts_with(b"trusted.overlay.") || bytes.starts_with(b"user.overlay.");
        let is_an_images =
            bytes.starts_with(b"user.") || bytes.starts_with(b"trusted.") || bytes == b"security.capability";
        let is_listed = metadata.xattrs.iter().any(|attribute| attribute.full_name() == bytes);
        if !is_listed && (is_an_images && !is_overlays || ACLS.contains(&name.as_c_str())) {
            remove_attribute(file, &name, path)?;
        }
    }
    Ok(())
}

fn remove_attribute(file: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> Result<(), StoreError> {
    match removexattr(in_proc(file), name) {
        Err(errno) if errno != Errno::NODATA => Err(refused("remove an extended attribute of", path)(errno)),
        _ => Ok(()),
    }
}

/// Gives a regular file its metadata: attributes after the data, for a write takes capabilities away, and the mode after the
/// owner, for a change of it takes setuid away; the time last.
pub(crate) fn finish_file(file: &File, metadata: &Metadata, path: &[u8]) -> Result<(), StoreError> {
    drop_acls(file.as_fd(), path)?;
    set_metadata(file.as_fd(), metadata, path)?;
    set_times(file.as_fd(), metadata, path)
}

/// Gives a directory its metadata, when everything in it is made. Of its attributes those that an image may have are exactly the
/// entry's in the end.
pub(crate) fn finish_directory(
    directory: &OwnedFd,
    metadata: &Metadata,
    is_opaque: bool,
    path: &[u8],
) -> Result<(), StoreError> {
    drop_attributes(directory.as_fd(), metadata, path)?;
    set_metadata(directory.as_fd(), metadata, path)?;
    if is_opaque {
        let set = fsetxattr(directory, OPAQUE_XATTR, b"y", XattrFlags::empty());
        set.map_err(refused("mark as opaque", path))?;
    }
    set_times(directory.as_fd(), metadata, path)
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Between the making of a file and its metadata another process puts something else in its place.
    #[test]
    fn metadata_go_to_what_was_made_alone() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("kept"), "").unwrap();
        symlink("kept", at("symlink")).unwrap();
        fs::hard_link(at("kept"), at("hard")).unwrap();
        symlink("kept", at("link")).unwrap();
        fs::hard_link(at("link"), at("link2")).unwrap();
        let before = fs::metadata(at("kept")).unwrap();
        let open = File::open(dir.path()).unwrap();
        let metadata = Metadata { mode: 0o4777, uid: 7, gid: 7, ..Metadata::default() };
        let cases = [
            ("symlink", FileType::Fifo),
            ("hard", FileType::RegularFile),
            ("hard", FileType::CharacterDevice),
            ("link2", FileType::Symlink),
        ];
        for (name, file_type) in cases {
            let place = Place { dir: open.as_fd(), name: Path::new(name), path: b"a/name" };
            let error = place.finish(&metadata, file_type, 0).unwrap_err().to_string();
            assert!(error.contains("a/name"), "{name}: {error}");
        }
        let after = fs::metadata(at("kept")).unwrap();
        assert_eq!((before.mode(), before.uid(), before.ctime_nsec()), (after.mode(), after.uid(), after.ctime_nsec()));
        let place = Place { dir: open.as_fd(), name: Path::new("symlink"), path: b"a/name" };
        let metadata = Metadata { mtime: Timestamp { seconds: 9, nanoseconds: 8 }, ..metadata };
        place.finish(&metadata, FileType::Symlink, 0).unwrap();
        let stat = place.stat().unwrap();
        assert_eq!((stat.uid(), stat.mtime(), stat.mtime_nsec()), (7, 9, 8));
        assert_eq!(fs::metadata(at("kept")).unwrap().uid(), before.uid());
    }

    #[test]
    fn attributes_that_no_layer_may_have_are_damage() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
        let open = File::open(dir.path()).unwrap();
        let place = Place { dir: open.as_fd(), name: Path::new("."), path: b"d" };
        place.metadata(&place.stat().unwrap()).unwrap();
        // Where the filesystem has attributes of that size.
        if xattr::set(&open, c"trusted.big", &[1; 65_536]).is_ok() {
            let error = place.metadata(&place.stat().unwrap()).unwrap_err();
            assert!(crate::dirs::verify::is_damage(&error.into()));
        }
    }
}
