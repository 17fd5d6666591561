// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which system calls change a file system, and what may go wrong with each.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// Where a call names what it changes, by the number of the argument.
#[derive(Debug, Clone, Copy)]
enum Names {
    /// A descriptor.
    Fd(usize),
    /// A path.
    Path(usize),
    /// A directory's descriptor and a path below it.
    At(usize, usize),
}

/// What a call does, which says how it may fail and whether it counts at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Opens; it changes something where it creates or truncates. With the number of the argument that has the flags.
    Open(usize),
    /// The same, with a pointer to a `struct open_how`.
    Open2,
    /// Needs room: for a name, an inode or data.
    Grows,
    /// Needs none, but the disk.
    Changes,
    /// Makes a mount, and a descriptor of it.
    Mounts,
    /// open_tree(2), which makes a mount where it clones one.
    OpensTree,
    /// fsconfig(2), which makes a file system by one of its commands.
    Configures,
}

struct Call {
    number: i64,
    name: &'static str,
    kind: Kind,
    names: Names,
}

const fn call(number: i64, name: &'static str, kind: Kind, names: Names) -> Call {
    Call { number, name, kind, names }
}

/// All that stos makes or might make.
const CALLS: &[Call] = &[
    call(libc::SYS_open, "open", Kind::Open(1), Names::Path(0)),
    call(libc::SYS_openat, "openat", Kind::Open(2), Names::At(0, 1)),
    call(libc::SYS_openat2, "openat2", Kind::Open2, Names::At(0, 1)),
    call(libc::SYS_creat, "creat", Kind::Grows, Names::Path(0)),
    call(libc::SYS_write, "write", Kind::Grows, Names::Fd(0)),
    call(libc::SYS_writev, "writev", Kind::Grows, Names::Fd(0)),
    call(libc::SYS_pwrite64, "pwrite64", Kind::Grows, Names::Fd(0)),
    call(libc::SYS_pwritev, "pwritev", Kind::Grows, Names::Fd(0)),
    call(libc::SYS_pwritev2, "pwritev2", Kind::Grows, Names::Fd(0)),
    call(libc::SYS_sendfile, "sendfile", Kind::Grows, Names::Fd(0)),
    call(libc::SYS_copy_file_range, "copy_file_range", Kind::Grows, Names::Fd(2)),
    call(libc::SYS_splice, "splice", Kind::Grows, Names::Fd(2)),
    call(libc::SYS_fallocate, "fallocate", Kind::Grows, Names::Fd(0)),
    call(libc::SYS_ftruncate, "ftruncate", Kind::Grows, Names::Fd(0)),
    call(libc::SYS_truncate, "truncate", Kind::Grows, Names::Path(0)),
    call(libc::SYS_fsync, "fsync", Kind::Grows, Names::Fd(0)),
    call(libc::SYS_fdatasync, "fdatasync", Kind::Grows, Names::Fd(0)),
    call(libc::SYS_sync_file_range, "sync_file_range", Kind::Grows, Names::Fd(0)),
    call(libc::SYS_syncfs, "syncfs", Kind::Grows, Names::Fd(0)),
    call(libc::SYS_mkdir, "mkdir", Kind::Grows, Names::Path(0)),
    call(libc::SYS_mkdirat, "mkdirat", Kind::Grows, Names::At(0, 1)),
    call(libc::SYS_mknod, "mknod", Kind::Grows, Names::Path(0)),
    call(libc::SYS_mknodat, "mknodat", Kind::Grows, Names::At(0, 1)),
    call(libc::SYS_symlink, "symlink", Kind::Grows, Names::Path(1)),
    call(libc::SYS_symlinkat, "symlinkat", Kind::Grows, Names::At(1, 2)),
    call(libc::SYS_link, "link", Kind::Grows, Names::Path(1)),
    call(libc::SYS_linkat, "linkat", Kind::Grows, Names::At(2, 3)),
    call(libc::SYS_rename, "rename", Kind::Grows, Names::Path(1)),
    call(libc::SYS_renameat, "renameat", Kind::Grows, Names::At(2, 3)),
    call(libc::SYS_renameat2, "renameat2", Kind::Grows, Names::At(2, 3)),
    call(libc::SYS_unlink, "unlink", Kind::Changes, Names::Path(0)),
    call(libc::SYS_unlinkat, "unlinkat", Kind::Changes, Names::At(0, 1)),
    call(libc::SYS_rmdir, "rmdir", Kind::Changes, Names::Path(0)),
    call(libc::SYS_chmod, "chmod", Kind::Changes, Names::Path(0)),
    call(libc::SYS_fchmod, "fchmod", Kind::Changes, Names::Fd(0)),
    call(libc::SYS_fchmodat, "fchmodat", Kind::Changes, Names::At(0, 1)),
    call(libc::SYS_chown, "chown", Kind::Grows, Names::Path(0)),
    call(libc::SYS_lchown, "lchown", Kind::Grows, Names::Path(0)),
    call(libc::SYS_fchown, "fchown", Kind::Grows, Names::Fd(0)),
    call(libc::SYS_fchownat, "fchownat", Kind::Grows, Names::At(0, 1)),
    call(libc::SYS_utimensat, "utimensat", Kind::Changes, Names::At(0, 1)),
    call(libc::SYS_setxattr, "setxattr", Kind::Grows, Names::Path(0)),
    call(libc::SYS_lsetxattr, "lsetxattr", Kind::Grows, Names::Path(0)),
    call(libc::SYS_fsetxattr, "fsetxattr", Kind::Grows, Names::Fd(0)),
    call(libc::SYS_removexattr, "removexattr", Kind::Changes, Names::Path(0)),
    call(libc::SYS_fremovexattr, "fremovexattr", Kind::Changes, Names::Fd(0)),
    call(libc::SYS_mount, "mount", Kind::Mounts, Names::Path(1)),
    call(libc::SYS_umount2, "umount2", Kind::Changes, Names::Path(0)),
    call(libc::SYS_fsopen, "fsopen", Kind::Mounts, Names::Path(0)),
    call(libc::SYS_fsconfig, "fsconfig", Kind::Configures, Names::Fd(0)),
    call(libc::SYS_fsmount, "fsmount", Kind::Mounts, Names::Fd(0)),
    call(libc::SYS_open_tree, "open_tree", Kind::OpensTree, Names::At(0, 1)),
    call(libc::SYS_move_mount, "move_mount", Kind::Mounts, Names::At(2, 3)),
    call(libc::SYS_mount_setattr, "mount_setattr", Kind::Changes, Names::At(0, 1)),
    call(libc::SYS_pivot_root, "pivot_root", Kind::Changes, Names::Path(0)),
];

/// `FSCONFIG_CMD_CREATE` of fsconfig(2).
const FSCONFIG_CMD_CREATE: u64 = 6;
/// `OPEN_TREE_CLONE` of open_tree(2).
const OPEN_TREE_CLONE: u64 = 1;

/// A call that is about to be made and changes a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// The call's name.
    pub call: &'static str,
    /// What it is about to change.
    pub path: PathBuf,
    /// The errors that it may have; that of the disk is always among them.
    pub errors: &'static [Errno],
    /// Whether it is one more piece of data for a file.
    pub is_data: bool,
}

impl Point {
    /// Looks at the call `number` of the thread `tid`; `None` where it changes nothing, or what is no file system's: pipes, sockets,
    /// `/dev` and `/proc`.
    pub fn of(tid: i32, number: i64, arguments: &[u64; 6]) -> Option<Self> {
        let call = CALLS.iter().find(|call| call.number == number)?;
        if !call.changes(tid, arguments) {
            return None;
        }
        let path = match call.names {
            Names::Fd(at) => of_descriptor(tid, arguments[at])?,
            Names::Path(at) => absolute(tid, None, &string(tid, arguments[at])?)?,
            Names::At(directory, at) => absolute(tid, Some(arguments[directory]), &string(tid, arguments[at])?)?,
        };
        if !call.kind.is_about_mounts()
            && (path.starts_with("/dev") || path.starts_with("/proc") || path == Path::new("/"))
        {
            return None;
        }
        let is_data = matches!(
            call.name,
            "write" | "writev" | "pwrite64" | "pwritev" | "copy_file_range" | "splice" | "sendfile"
        );
        Some(Self { call: call.name, path, errors: call.kind.errors(), is_data })
    }
}

impl Call {
    fn changes(&self, tid: i32, arguments: &[u64; 6]) -> bool {
        let creates =
            |flags: u64| flags & (libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u64 != 0;
        match self.kind {
            Kind::Open(at) => creates(arguments[at]),
            Kind::Open2 => read(tid, arguments[2], 8)
                .is_some_and(|how| creates(u64::from_le_bytes(how.try_into().unwrap_or_default()))),
            Kind::OpensTree => arguments[2] & OPEN_TREE_CLONE != 0,
            Kind::Configures => arguments[1] == FSCONFIG_CMD_CREATE,
            Kind::Grows | Kind::Changes | Kind::Mounts => true,
        }
    }
}

impl Kind {
    fn is_about_mounts(self) -> bool {
        matches!(self, Self::Mounts | Self::OpensTree | Self::Configures)
    }

    fn errors(self) -> &'static [Errno] {
        match self {
            Self::Open(_) | Self::Open2 => &[Errno::EIO, Errno::ENOSPC, Errno::EDQUOT, Errno::EMFILE],
            Self::Grows => &[Errno::EIO, Errno::ENOSPC, Errno::EDQUOT],
            Self::Changes => &[Errno::EIO],
            // Of ENOSPC: fs.mount-max.
            Self::Mounts | Self::OpensTree => &[Errno::EIO, Errno::ENOSPC, Errno::EMFILE],
            Self::Configures => &[Errno::EIO],
        }
    }
}

/// What a descriptor of the thread is; `None` for what has no path.
fn of_descriptor(tid: i32, fd: u64) -> Option<PathBuf> {
    let fd = i32::try_from(fd & 0xffff_ffff).ok()?;
    let found = fs::read_link(format!("/proc/{tid}/fd/{fd}")).ok()?;
    let text = found.to_str().unwrap_or_default();
    // A context of fsopen(2) is a file of its own kind, and what is made of it is told apart by the call.
    let is_named = text.starts_with('/') && !text.starts_with("/memfd:") || text.starts_with("anon_inode:[fscontext]");
    is_named.then_some(found)
}

/// A path as it is seen in the root of the thread.
fn absolute(tid: i32, directory: Option<u64>, path: &Path) -> Option<PathBuf> {
    if path.is_absolute() {
        return Some(path.to_owned());
    }
    let at_cwd = i64::from(libc::AT_FDCWD).cast_unsigned() & 0xffff_ffff;
    let base = match directory.map(|fd| fd & 0xffff_ffff) {
        Some(fd) if fd != at_cwd => fs::read_link(format!("/proc/{tid}/fd/{fd}")).ok()?,
        _ => fs::read_link(format!("/proc/{tid}/cwd")).ok()?,
    };
    Some(if path.as_os_str().is_empty() { base } else { base.join(path) })
}

/// A string in the memory of the thread; empty for a null pointer.
fn string(tid: i32, at: u64) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    if at == 0 {
        return Some(PathBuf::new());
    }
    let mut text = Vec::new();
    // Page by page: what follows may not be mapped.
    while text.len() < 4096 {
        let from = at + text.len() as u64;
        let piece = read(tid, from, 4096 - (from % 4096) as usize)?;
        let end = piece.iter().position(|&byte| byte == 0);
        text.extend_from_slice(&piece[..end.unwrap_or(piece.len())]);
        if end.is_some() {
            break;
        }
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(text)))
}

fn read(tid: i32, at: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    File::open(format!("/proc/{tid}/mem")).ok()?.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}
