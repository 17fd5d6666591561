// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One file of a tree, held by a descriptor: what is looked at is what is then read, whoever renames meanwhile.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, StatxAttributes, StatxFlags, fstat, openat, readlinkat, statx,
};
use rustix::io::Errno;
use stos_erofs::{Metadata, Timestamp, Xattr};
use stos_sys::{SysError, xattr};

use crate::error::Result;

/// What a file's attributes may take together in an image (EROFS counts in 16 bits, by four bytes).
const ATTRIBUTES_MAX: usize = 4 * (u16::MAX as usize - 1);

/// A file of any type, never followed and never opened by being looked at.
#[derive(Debug)]
pub(crate) struct Node {
    fd: OwnedFd,
    stat: Stat,
}

/// A file of a filesystem that is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    /// The type's bits of the mode.
    kind: u32,
    /// When it was made, where the filesystem says so.
    birth: Option<(i64, u32)>,
}

/// What all names of a file show alike, as long as it does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Looks {
    size: u64,
    mtime: (i64, u32),
    mode: u32,
    owner: (u32, u32),
    device: (u32, u32),
}

impl Node {
    /// Opens the directory at `path`, a root.
    pub(crate) fn root(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let shown = || path.display().to_string();
        let fd = openat(CWD, path, flags, Mode::empty()).map_err(SysError::at("open", shown))?;
        let stat = fstat(&fd).map_err(SysError::at("fstat", shown))?;
        Ok(Self { fd, stat })
    }

    /// Takes what a descriptor refers to.
    pub(crate) fn of(fd: OwnedFd) -> Result<Self> {
        let stat = fstat(&fd).map_err(SysError::at("fstat", || format!("{}", fd.as_raw_fd())))?;
        Ok(Self { fd, stat })
    }

    /// Opens `name` in this directory; `None` where it is not there, or this is no directory.
    pub(crate) fn child(&self, name: &[u8]) -> Result<Option<Self>> {
        let shown = || name.escape_ascii().to_string();
        let fd = match openat(&self.fd, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            other => other.map_err(SysError::at("openat", shown))?,
        };
        let stat = fstat(&fd).map_err(SysError::at("fstat", shown))?;
        Ok(Some(Self { fd, stat }))
    }

    pub(crate) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    /// Tells whether it is overlayfs's whiteout (Documentation/filesystems/overlayfs.rst).
    pub(crate) fn is_whiteout(&self) -> bool {
        self.file_type() == FileType::CharacterDevice && self.stat.st_rdev == 0
    }

    /// Tells whether overlayfs shows nothing of the lower directory here. `x` says only that whiteouts may be attributes.
    pub(crate) fn is_opaque(&self) -> Result<bool> {
        Ok(xattr::get_by_path(&self.fd, c"trusted.overlay.opaque")?.as_deref() == Some(b"y"))
    }

    /// Gives the device numbers.
    pub(crate) fn device(&self) -> (u32, u32) {
        (rustix::fs::major(self.stat.st_rdev), rustix::fs::minor(self.stat.st_rdev))
    }

    /// Gives what tells the file from every other, also from one that had its inode's number before.
    pub(crate) fn identity(&self) -> Result<Identity> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        let more = statx(&self.fd, "", flags, StatxFlags::BTIME).map_err(SysError::at("statx", || self.shown()))?;
        let has_birth = more.stx_mask & StatxFlags::BTIME.bits() != 0;
        let birth = has_birth.then_some((more.stx_btime.tv_sec, more.stx_btime.tv_nsec));
        let kind = self.file_type().as_raw_mode();
        Ok(Identity { device: self.stat.st_dev, inode: self.stat.st_ino, kind, birth })
    }

    /// Tells whether something is mounted here, and this is its root (statx(2), Linux 5.8).
    pub(crate) fn is_mount_root(&self) -> Result<bool> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        let more = statx(&self.fd, "", flags, StatxFlags::empty()).map_err(SysError::at("statx", || self.shown()))?;
        Ok(more.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    }

    /// Gives what all names of a file show alike: size, time, mode, owner and device numbers.
    pub(crate) fn looks(&self) -> Looks {
        let stat = &self.stat;
        Looks {
            size: self.size(),
            mtime: (stat.st_mtime, stat.st_mtime_nsec as _),
            mode: stat.st_mode,
            owner: (stat.st_uid, stat.st_gid),
            device: self.device(),
        }
    }

    /// How many names the file has.
    pub(crate) fn names_of_file(&self) -> u64 {
        // Its width depends on the architecture.
        self.stat.st_nlink as _
    }

    pub(crate) fn size(&self) -> u64 {
        u64::try_from(self.stat.st_size).unwrap_or(0)
    }

    /// Lists the names in this directory, sorted; none where it has gone meanwhile.
    pub(crate) fn names(&self) -> Result<Vec<Vec<u8>>> {
        let failed = |call| SysError::at(call, || self.shown());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = match openat(&self.fd, ".", flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            other => other.map_err(failed("openat"))?,
        };
        let mut names = Vec::new();
        for entry in Dir::new(fd).map_err(failed("getdents64"))? {
            let entry = entry.map_err(failed("getdents64"))?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Gives what a tar says of it.
    pub(crate) fn metadata(&self) -> Result<Metadata> {
        self.metadata_and(&mut |_| {})
    }

    /// The same; tells the names of the attributes that no tar or no image could hold, and which are not in it.
    pub(crate) fn metadata_and(&self, leave_out: &mut dyn FnMut(&CStr)) -> Result<Metadata> {
        Ok(Metadata {
            mode: (self.stat.st_mode & 0o7777) as u16,
            uid: self.stat.st_uid,
            gid: self.stat.st_gid,
            mtime: Timestamp { seconds: self.stat.st_mtime, nanoseconds: self.stat.st_mtime_nsec as u32 },
            xattrs: self.xattrs(leave_out)?,
        })
    }

    /// Gives the attributes that an image keeps, sorted.
    fn xattrs(&self, leave_out: &mut dyn FnMut(&CStr)) -> Result<Vec<Xattr>> {
        let (mut xattrs, mut sum) = (Vec::new(), 0);
        let mut names = xattr::list_by_path(&self.fd)?;
        names.sort_unstable();
        for name in names {
            let Some(value) = xattr::get_by_path(&self.fd, &name)? else { continue };
            let own = 4 + (name.to_bytes().len() + value.len()).next_multiple_of(4);
            match Xattr::of_file([(name.to_bytes(), value)]) {
                // What an image would drop is no loss.
                Ok(kept) if kept.is_empty() => {}
                Ok(kept) if sum + own <= ATTRIBUTES_MAX && kept.iter().all(|kept| !kept.name.contains(&b'=')) => {
                    sum += own;
                    xattrs.extend(kept);
                }
                _ => leave_out(&name),
            }
        }
        xattrs.sort_unstable();
        Ok(xattrs)
    }

    /// Gives where a symlink points.
    pub(crate) fn target(&self) -> Result<Vec<u8>> {
        let target = readlinkat(&self.fd, "", Vec::new()).map_err(SysError::at("readlinkat", || self.shown()))?;
        Ok(target.into_bytes())
    }

    /// Opens the data of a regular file, of this very one.
    pub(crate) fn open_data(&self) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = openat(CWD, self.shown(), flags, Mode::empty()).map_err(SysError::at("openat", || self.shown()))?;
        Ok(File::from(fd))
    }

    fn shown(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
