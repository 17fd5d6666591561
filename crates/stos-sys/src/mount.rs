// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Mounts by file descriptor: fsopen(2), fsconfig(2), fsmount(2), open_tree(2), move_mount(2), mount_setattr(2).
//!
//! Everything here gives a *detached* mount, which belongs to its descriptor alone and goes with it: nothing shows in a
//! mount table until [`attach`] puts it there. mount(8) is never used: it insists on a loop device for an EROFS file.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

use crate::error::{Result, SysError, last_errno};
pub use crate::overlay::{MountPlan, OVERLAY_LOWERS_MAX, UpperDirs};

/// The longest value of an fsconfig(2) string, in bytes, without its NUL (`fs/fsopen.c`: `strndup_user(_value, 256)`).
pub const FSCONFIG_STRING_MAX: usize = 255;

/// One parameter of a new filesystem, as fsconfig(2) takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FsParameter {
    /// A parameter without a value, such as `ro`.
    Flag(String),
    /// `key=value`; the value may not be longer than [`FSCONFIG_STRING_MAX`].
    String(String, String),
}

impl std::fmt::Display for FsParameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(key) => f.write_str(key),
            Self::String(key, value) => write!(f, "{key}={value}"),
        }
    }
}

/// Makes a filesystem of type `fstype` and gives a detached mount of it.
///
/// `attributes` are those of the mount (`MOUNT_ATTR_*`), not of the filesystem. An error carries what the kernel wrote
/// into the context's message log, which says far more than the errno.
pub fn new_filesystem(fstype: &str, parameters: &[FsParameter], attributes: MountAttrFlags) -> Result<OwnedFd> {
    let context = fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC).map_err(SysError::at("fsopen", || fstype.to_owned()))?;
    let failed = |call, what: String, errno| {
        let said = kernel_messages(context.as_fd());
        let said = if said.is_empty() { String::new() } else { format!(" [kernel: {said}]") };
        SysError::new(call, format!("{fstype}, {what}{said}"), errno)
    };
    for parameter in parameters {
        let set = match parameter {
            FsParameter::Flag(key) => fsconfig_set_flag(&context, key.as_str()),
            FsParameter::String(_, value) if value.len() > FSCONFIG_STRING_MAX => Err(Errno::NAMETOOLONG),
            FsParameter::String(key, value) => fsconfig_set_string(&context, key.as_str(), value.as_str()),
        };
        set.map_err(|errno| failed("fsconfig", parameter.to_string(), errno))?;
    }
    let listed = || parameters.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    fsconfig_create(&context).map_err(|errno| failed("fsconfig", format!("CREATE {}", listed()), errno))?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|errno| failed("fsmount", listed(), errno))
}

/// Reads what the kernel logged in a filesystem context, on one line.
fn kernel_messages(context: BorrowedFd<'_>) -> String {
    let mut lines = Vec::new();
    let mut buffer = [0_u8; 512];
    while let Ok(count @ 1..) = rustix::io::read(context, &mut buffer) {
        let line = String::from_utf8_lossy(&buffer[..count]);
        // Each message starts with its level and a space: "e overlay: …".
        lines.push(line.get(2..).unwrap_or_default().trim_end().to_owned());
    }
    lines.join("; ")
}

/// Clones the mount at `path` (and those below it, where `recursive`) into a detached mount.
pub fn open_tree_clone(path: &Path, recursive: bool) -> Result<OwnedFd> {
    open_tree_clone_at(CWD, path, recursive, true)
}

/// Clones the mount of `path` below `dir`; an empty path means `dir` itself. Symlinks at the end are followed only where
/// `follow` says so.
pub fn open_tree_clone_at(dir: BorrowedFd<'_>, path: &Path, recursive: bool, follow: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    flags.set(OpenTreeFlags::AT_SYMLINK_NOFOLLOW, !follow);
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.as_os_str().is_empty());
    open_tree(dir, path, flags).map_err(SysError::at("open_tree", || format!("{}, {flags:?}", path.display())))
}

/// Attaches a detached mount at `target`, a path that must exist. A symlink at the end of `target` is not followed.
pub fn attach(mount: BorrowedFd<'_>, target: &Path) -> Result<()> {
    move_mount(mount, c"", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(SysError::at("move_mount", || format!("{}, {}", mount.as_raw_fd(), target.display())))
}

/// Attaches a detached mount on what `target` refers to, a descriptor opened with `O_PATH`.
pub fn attach_at(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags)
        .map_err(SysError::at("move_mount", || format!("{}, {}", mount.as_raw_fd(), target.as_raw_fd())))
}

/// Detaches the mount at `path` lazily (`MNT_DETACH`): what is open stays open, the name is free at once.
pub fn detach(path: &Path) -> Result<()> {
    unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        .map_err(SysError::at("umount2", || format!("{}, MNT_DETACH", path.display())))
}

/// Attaches a detached mount at `target`, which is the root of another mount, in that one's place.
///
/// The new one goes beneath the old, then the old is detached lazily: at no instant is nothing mounted there. Where the
/// kernel cannot do that (before Linux 6.5, and on some roots) the old one goes first, and only then does that not hold.
pub fn replace(mount: BorrowedFd<'_>, target: &Path) -> Result<()> {
    let beneath = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_BENEATH;
    match move_mount(mount, c"", CWD, target, beneath) {
        Ok(()) => detach(target),
        Err(Errno::INVAL) => {
            detach(target)?;
            attach(mount, target)
        }
        Err(errno) => {
            let arguments = format!("{}, {}, MOVE_MOUNT_BENEATH", mount.as_raw_fd(), target.display());
            Err(SysError::new("move_mount", arguments, errno))
        }
    }
}

/// Moves the calling thread into a mount namespace of its own, in which nothing that is mounted or unmounted is seen elsewhere, and
/// nothing of elsewhere comes in. What was opened before belongs to the old one.
pub fn enter_private_namespace() -> Result<()> {
    crate::process::clone::unshare(libc::CLONE_NEWNS)?;
    let private = MountChange { propagation: Some(Propagation::Private), recursive: true, ..MountChange::default() };
    change_mount_at(CWD, c"/", private)
}

/// How a mount passes mounts below it on to its copies (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Neither gives nor takes.
    Private,
    /// Takes only.
    Slave,
    /// Gives and takes.
    Shared,
    /// Like private, and cannot be bind-mounted.
    Unbindable,
}

impl Propagation {
    fn flag(self) -> u64 {
        match self {
            Self::Private => libc::MS_PRIVATE,
            Self::Slave => libc::MS_SLAVE,
            Self::Shared => libc::MS_SHARED,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// A change of a mount's attributes, for [`change_mount`]. Bits are `MOUNT_ATTR_*` of mount_setattr(2).
#[derive(Debug, Clone, Copy, Default)]
pub struct MountChange {
    /// Attributes to set.
    pub set: u64,
    /// Attributes to clear first.
    pub clear: u64,
    /// The new propagation, or as it is.
    pub propagation: Option<Propagation>,
    /// Whether the mounts below change too.
    pub recursive: bool,
}

/// Changes the attributes of a mount given by a descriptor of its root (mount_setattr(2), Linux 5.12).
pub fn change_mount(mount: BorrowedFd<'_>, change: MountChange) -> Result<()> {
    change_mount_at(mount, c"", change)
}

/// Changes the attributes of the mount at `path` below `dir`; an empty path means `dir` itself.
pub fn change_mount_at(dir: BorrowedFd<'_>, path: &std::ffi::CStr, change: MountChange) -> Result<()> {
    let attr = MountAttr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change.propagation.map_or(0, Propagation::flag),
        userns_fd: 0,
    };
    let set = set_attributes(dir, path, &attr, change.recursive);
    set.map_err(SysError::at("mount_setattr", || format!("{}, {path:?}, {change:?}", dir.as_raw_fd())))
}

/// Shows the ids of a detached mount (and of those below it, where `recursive`) as the user namespace `mappings` maps them
/// (`MOUNT_ATTR_IDMAP`, Linux 5.12; which filesystems can is the kernel's say: EINVAL).
pub fn map_mount_ids(mount: BorrowedFd<'_>, mappings: BorrowedFd<'_>, recursive: bool) -> Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let userns_fd = u64::from(mappings.as_raw_fd().cast_unsigned());
    let attr = MountAttr { attr_set: MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    set_attributes(mount, c"", &attr, recursive)
        .map_err(SysError::at("mount_setattr", || format!("{}, MOUNT_ATTR_IDMAP", mount.as_raw_fd())))
}

/// `struct mount_attr` of mount_setattr(2), version 0.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

fn set_attributes(
    dir: BorrowedFd<'_>,
    path: &std::ffi::CStr,
    attr: &MountAttr,
    recursive: bool,
) -> std::result::Result<(), Errno> {
    let mut flags = 0;
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: `path` is NUL-terminated, `attr` is the kernel's `struct mount_attr` of version 0 and outlives the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if answer == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Mounts an EROFS image kept in a file, with its data in `devices`, read-only and detached.
///
/// The order of `devices` must be that of the image's device table: the kernel checks their number alone, and **a wrong
/// order silently serves wrong data**. Check tags and sizes before. Needs Linux 6.12 with `EROFS_FS_BACKED_BY_FILE`;
/// `ENOTBLK` says that the image lies on a filesystem which cannot back a mount.
pub fn mount_erofs(image: BorrowedFd<'_>, devices: &[OwnedFd]) -> Result<OwnedFd> {
    let path = |fd: BorrowedFd<'_>| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut parameters = vec![FsParameter::String("source".into(), path(image)), FsParameter::Flag("ro".into())];
    parameters.extend(devices.iter().map(|device| FsParameter::String("device".into(), path(device.as_fd()))));
    new_filesystem("erofs", &parameters, MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// What identifies the mount that a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountIdentity {
    /// The mount's id (`STATX_MNT_ID`), unique while it is mounted.
    pub mount_id: u64,
    /// Whether the path is the root of that mount.
    pub is_mount_root: bool,
}

/// Tells which mount `path` lies on (statx(2), Linux 5.8). `None` where there is no such path.
pub fn mount_identity(path: &Path) -> Result<Option<MountIdentity>> {
    const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;
    let c_path = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| SysError::new("statx", path.display().to_string(), Errno::INVAL))?;
    // SAFETY: all-zero bytes are a valid `statx`.
    let mut answer: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is NUL-terminated and the buffer is a `struct statx`; both outlive the call.
    let code = unsafe {
        libc::statx(libc::AT_FDCWD, c_path.as_ptr(), libc::AT_SYMLINK_NOFOLLOW, libc::STATX_MNT_ID, &raw mut answer)
    };
    if code == 0 {
        let is_mount_root = answer.stx_attributes & STATX_ATTR_MOUNT_ROOT != 0;
        return Ok(Some(MountIdentity { mount_id: answer.stx_mnt_id, is_mount_root }));
    }
    match last_errno() {
        Errno::NOENT => Ok(None),
        errno => Err(SysError::new("statx", path.display().to_string(), errno)),
    }
}

/// Makes sure that what is mounted below the directory `path` propagates nowhere.
///
/// Where the mount that it lies on is shared (mount_namespaces(7)), as systemd makes `/`, it becomes a private mount of its
/// own; elsewhere nothing is mounted. The caller lets nobody else do so at the same time: a second mount would hide what has
/// been mounted below the first.
pub fn ensure_private_area(path: &Path) -> Result<()> {
    let Some(identity) = mount_identity(path)? else {
        return Err(SysError::new("statx", path.display().to_string(), Errno::NOENT));
    };
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if !is_shared(&table, identity.mount_id) {
        return Ok(());
    }
    let own = open_tree_clone(path, false)?;
    attach(own.as_fd(), path)?;
    // Only now: attaching to a shared mount makes what is attached shared (`attach_recursive_mnt` in `fs/namespace.c`).
    change_mount(own.as_fd(), MountChange { propagation: Some(Propagation::Private), ..MountChange::default() })
}

/// Reads from `/proc/self/mountinfo` whether a mount is in a peer group (proc_pid_mountinfo(5), the optional fields).
fn is_shared(table: &str, mount_id: u64) -> bool {
    let id = mount_id.to_string();
    let line = table.lines().find(|line| line.split(' ').next() == Some(id.as_str()));
    line.is_some_and(|line| line.split(" - ").next().unwrap_or_default().contains(" shared:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_option_is_refused_before_the_kernel_cuts_it() {
        let Ok(fd) = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC) else { return };
        drop(fd);
        let long = FsParameter::String("source".into(), "x".repeat(FSCONFIG_STRING_MAX + 1));
        let error = new_filesystem("tmpfs", &[long], MountAttrFlags::empty()).unwrap_err();
        assert_eq!(error.errno, Errno::NAMETOOLONG);
    }

    #[test]
    fn errors_name_the_call_and_its_arguments() {
        let error = open_tree_clone(Path::new("/no/such/place"), false).unwrap_err();
        assert_eq!((error.call, error.errno), ("open_tree", Errno::NOENT));
        assert!(error.arguments.contains("/no/such/place"), "{error}");
    }

    #[test]
    fn a_missing_path_has_no_mount() {
        assert_eq!(mount_identity(Path::new("/no/such/place")).unwrap(), None);
        assert!(mount_identity(Path::new("/proc")).unwrap().unwrap().is_mount_root);
        assert!(!mount_identity(Path::new("/proc/self")).unwrap().unwrap().is_mount_root);
    }

    #[test]
    fn shared_mounts_are_told_from_private_ones() {
        let table = "21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n22 21 0:5 / /proc rw - proc shared:9 rw\n";
        assert!(is_shared(table, 21));
        assert!(!is_shared(table, 22));
        assert!(!is_shared(table, 2));
    }
}
