// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Paths inside a container's root, resolved by the kernel on descriptors.
//!
//! Every lookup is `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)` (Linux 5.6): `..` stops at the root, absolute symlinks
//! start there, and `/proc/PID/fd` links lead nowhere. Whoever swaps a component for a symlink meanwhile gains nothing,
//! for what is checked is the descriptor that is then used (CVE-2021-30465).

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, Timespec, Timestamps, UTIME_OMIT, futimens,
    mkdirat, openat, openat2, readlinkat, statx,
};
use rustix::io::Errno;

use crate::error::{Result, SysError};

/// How often a lookup that raced with a rename is tried again: the kernel then answers EAGAIN.
const RACES: usize = 128;

/// How much of a long path one call resolves, in bytes.
const PATH_PIECE: usize = 4000;

/// How many symlinks that dangle one path may lead through: as many as the kernel follows (`MAXSYMLINKS`).
const LINKS: usize = 40;

/// A directory that no path leads out of.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    /// What tells it from all other files, once asked for.
    identity: OnceLock<Identity>,
    /// What is refused in every lookup, beside what always is.
    refused: ResolveFlags,
}

/// What a mount point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountPoint {
    /// A directory, for all but binds of files.
    Directory,
    /// Anything else, for binds of files.
    File,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Root {
    /// Takes a descriptor of a directory as root. A descriptor of a detached mount stays good when it is attached.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, identity: OnceLock::new(), refused: ResolveFlags::empty() }
    }

    /// Refuses from now on whatever lies beyond a mount point below the root, a bind mount's too, with EXDEV.
    #[must_use]
    pub fn on_one_mount(self) -> Self {
        Self { refused: ResolveFlags::NO_XDEV, ..self }
    }

    /// Opens the directory `path` of the caller's own view as root.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, path, flags, Mode::empty())
            .map_err(SysError::at("open", || format!("{}, O_PATH|O_DIRECTORY", path.display())))?;
        Ok(Self::new(fd))
    }

    /// Resolves `path` inside the root, following symlinks there, to an `O_PATH` descriptor.
    pub fn resolve(&self, path: &Path) -> Result<OwnedFd> {
        self.open_with(path, OFlags::PATH, Mode::empty(), ResolveFlags::empty())
    }

    /// Like [`Root::resolve`], and refuses any symlink with ELOOP.
    pub fn resolve_without_symlinks(&self, path: &Path) -> Result<OwnedFd> {
        self.open_with(path, OFlags::PATH, Mode::empty(), ResolveFlags::NO_SYMLINKS)
    }

    /// Opens the directory `path` for reading, however long the path is, and refuses any symlink on the way with ELOOP.
    pub fn open_directory(&self, path: &Path) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut at: Option<Root> = None;
        let mut rest = path.as_os_str().as_bytes();
        loop {
            let here = at.as_ref().unwrap_or(self);
            // PATH_MAX, 4096 bytes with the NUL, holds for a call, not for a tree.
            let cut = match rest.get(..PATH_PIECE) {
                Some(piece) => piece.iter().rposition(|&byte| byte == b'/').unwrap_or(PATH_PIECE),
                None => rest.len(),
            };
            let piece = Path::new(OsStr::from_bytes(&rest[..cut]));
            let opened = here.open_with(piece, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
            rest = rest.get(cut + 1..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(opened);
            }
            at = Some(Self { refused: self.refused, ..Self::new(opened) });
        }
    }

    /// Opens the regular file `path` for reading. Of anything else it gives an `O_PATH` descriptor: to open a device that an image brings
    /// along can be enough to do harm, as it starts a watchdog, and a FIFO would be waited for.
    pub fn open_to_read(&self, path: &Path) -> Result<OwnedFd> {
        let found = self.resolve(path)?;
        if file_type(found.as_fd())? != FileType::RegularFile {
            return Ok(found);
        }
        // What was looked at, and nothing that has come in its place.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let itself = format!("/proc/self/fd/{}", found.as_raw_fd());
        match openat(CWD, itself.as_str(), flags | OFlags::CLOEXEC, Mode::empty()) {
            Ok(opened) => Ok(opened),
            // A container without a /proc, whose process this is: no device is open to it that is not open to the container.
            Err(_) => self.open_with(path, flags, Mode::empty(), ResolveFlags::empty()),
        }
    }

    /// Creates the file `path`, which must not exist, for writing; its parent must.
    pub fn create_file(&self, path: &Path, mode: Mode) -> Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        self.open_with(path, flags, mode, ResolveFlags::empty())
    }

    /// Reads the symlink at `path` itself.
    pub fn read_link(&self, path: &Path) -> Result<PathBuf> {
        let link = self.open_with(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty(), ResolveFlags::empty())?;
        let target =
            readlinkat(&link, "", Vec::new()).map_err(SysError::at("readlinkat", || path.display().to_string()))?;
        Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
    }

    fn open_with(&self, path: &Path, flags: OFlags, mode: Mode, extra: ResolveFlags) -> Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | self.refused | extra;
        let shown = || format!("{}, {flags:?}, {resolve:?}", path.display());
        let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
        for _ in 0..RACES {
            match openat2(&self.fd, path, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other.map_err(SysError::at("openat2", shown)),
            }
        }
        Err(SysError::new("openat2", shown(), Errno::AGAIN))
    }

    /// Makes the directory `path` and its missing parents with `mode` (less the umask), and gives an `O_PATH` descriptor.
    ///
    /// Symlinks on the way are followed inside the root, those that dangle too: what they point at is made. The
    /// modification times of directories that existed before are put back.
    pub fn create_dir_all(&self, path: &Path, mode: Mode) -> Result<OwnedFd> {
        match self.open_with(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty(), ResolveFlags::empty()) {
            Err(error) if error.errno == Errno::NOENT => {}
            other => return other,
        }
        let (deepest, missing) = self.deepest_existing(path)?;
        make_directories(deepest, &missing, mode, path)
    }

    /// Walks as far along `path` as it exists, and gives what is missing beyond. A symlink that dangles stands for where it
    /// points.
    fn deepest_existing(&self, path: &Path) -> Result<(OwnedFd, Vec<OsString>)> {
        let mut path = path.to_owned();
        for _ in 0..LINKS {
            let parts: Vec<Component<'_>> =
                path.components().filter(|part| !matches!(part, Component::RootDir | Component::CurDir)).collect();
            let (found, count) = self.deepest_of(&parts, &path)?;
            let (prefix, beyond) = parts.split_at(count);
            let Some(first) = beyond.first() else { break };
            match readlinkat(&found, first.as_os_str(), Vec::new()) {
                Ok(target) => {
                    // `..` in it counts from where the prefix really leads, as the kernel has it.
                    let mut followed: PathBuf = prefix.iter().collect();
                    followed.push(OsStr::from_bytes(target.as_bytes()));
                    followed.extend(&beyond[1..]);
                    path = followed;
                }
                Err(Errno::NOENT | Errno::INVAL) => {
                    let missing = beyond.iter().map(|part| match part {
                        Component::Normal(name) => Ok((*name).to_owned()),
                        // What does not exist has no parent to go back to.
                        _ => Err(SysError::new("mkdirat", path.display().to_string(), Errno::NOENT)),
                    });
                    return Ok((found, missing.collect::<Result<_>>()?));
                }
                Err(errno) => return Err(SysError::new("readlinkat", path.display().to_string(), errno)),
            }
        }
        Err(SysError::new("openat2", path.display().to_string(), Errno::LOOP))
    }

    /// Opens the longest part of a path that exists, less than all of it, and says how long it is.
    fn deepest_of(&self, parts: &[Component<'_>], path: &Path) -> Result<(OwnedFd, usize)> {
        for count in (0..parts.len()).rev() {
            let prefix: PathBuf = parts[..count].iter().collect();
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            match self.open_with(&prefix, flags, Mode::empty(), ResolveFlags::empty()) {
                Err(error) if error.errno == Errno::NOENT => {}
                other => return Ok((other?, count)),
            }
        }
        Err(SysError::new("openat2", path.display().to_string(), Errno::NOENT))
    }

    /// Gives an `O_PATH` descriptor of the mount point `path`, made if it is missing: a directory, or an empty file.
    ///
    /// The parent keeps its modification time; its mode and xattrs are never touched. ENOTDIR says that a directory is
    /// wanted and something else stands there; EISDIR the reverse; EBUSY that it is the root itself: what would be mounted there lay
    /// over it, where this root does not go, and other processes do.
    pub fn ensure_mount_point(&self, path: &Path, kind: MountPoint) -> Result<OwnedFd> {
        match self.resolve(path) {
            Ok(found) => {
                let (identity, kind_found) = identify(found.as_fd())?;
                if identity == self.identity()? {
                    return Err(SysError::new("mount", path.display().to_string(), Errno::BUSY));
                }
                match (kind, kind_found == FileType::Directory) {
                    (MountPoint::Directory, false) => {
                        Err(SysError::new("mount", path.display().to_string(), Errno::NOTDIR))
                    }
                    (MountPoint::File, true) => Err(SysError::new("mount", path.display().to_string(), Errno::ISDIR)),
                    _ => Ok(found),
                }
            }
            Err(error) if error.errno == Errno::NOENT => match kind {
                MountPoint::Directory => self.create_dir_all(path, Mode::from_raw_mode(0o755)),
                MountPoint::File => self.create_mount_file(path),
            },
            Err(error) => Err(error),
        }
    }

    /// Like [`Root::ensure_mount_point`], and refuses a symlink on the way with ELOOP, one that has come meanwhile too. What a symlink
    /// that dangles points at may have been made then.
    pub fn ensure_mount_point_without_symlinks(&self, path: &Path, kind: MountPoint) -> Result<OwnedFd> {
        match self.resolve_without_symlinks(path) {
            Err(error) if error.errno == Errno::NOENT => {
                self.ensure_mount_point(path, kind)?;
                self.resolve_without_symlinks(path)
            }
            found => found,
        }
    }

    /// Whether a descriptor is of the root itself, by whatever path it was found.
    pub fn is_root(&self, fd: BorrowedFd<'_>) -> Result<bool> {
        Ok(identify(fd)?.0 == self.identity()?)
    }

    fn identity(&self) -> Result<Identity> {
        if let Some(known) = self.identity.get() {
            return Ok(*known);
        }
        let (identity, _) = identify(self.fd.as_fd())?;
        Ok(*self.identity.get_or_init(|| identity))
    }

    fn create_mount_file(&self, path: &Path) -> Result<OwnedFd> {
        let shown = || path.display().to_string();
        let (deepest, missing) = self.deepest_existing(path)?;
        let (name, parents) = missing.split_last().ok_or_else(|| SysError::new("openat", shown(), Errno::EXIST))?;
        let parent = make_directories(deepest, parents, Mode::from_raw_mode(0o755), path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = || match openat(&parent, name.as_os_str(), flags, Mode::from_raw_mode(0o644)) {
            Ok(_) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(SysError::new("openat", format!("{}, O_CREAT|O_EXCL", shown()), errno)),
        };
        keeping_mtime(parent.as_fd(), make)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(&parent, name.as_os_str(), flags, Mode::empty()).map_err(SysError::at("openat", shown))?;
        match file_type(made.as_fd())? {
            // Somebody put a symlink there meanwhile: nothing is mounted through it.
            FileType::Symlink => Err(SysError::new("openat", shown(), Errno::LOOP)),
            _ => Ok(made),
        }
    }
}

/// Makes the directories `names` in `deepest`, one in the other, and opens the last. `path` is for errors alone.
fn make_directories(deepest: OwnedFd, names: &[OsString], mode: Mode, path: &Path) -> Result<OwnedFd> {
    let mut current = deepest;
    for (depth, name) in names.iter().enumerate() {
        let shown = || format!("{} of {}", Path::new(name).display(), path.display());
        let make = || match mkdirat(&current, name.as_os_str(), mode) {
            // Somebody else made it meanwhile; whether it is a directory is seen when it is opened.
            Err(Errno::EXIST) => Ok(()),
            other => other.map_err(SysError::at("mkdirat", shown)),
        };
        if depth == 0 {
            keeping_mtime(current.as_fd(), make)?
        } else {
            make()?
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        current = openat(&current, name.as_os_str(), flags, Mode::empty()).map_err(SysError::at("openat", shown))?;
    }
    Ok(current)
}

/// A mount, and a file of its filesystem.
type Identity = (u64, u64);

fn identify(fd: BorrowedFd<'_>) -> Result<(Identity, FileType)> {
    let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::MNT_ID;
    let found = statx(fd, "", AtFlags::EMPTY_PATH, wanted).map_err(SysError::at("statx", || format!("{fd:?}")))?;
    Ok(((found.stx_mnt_id, found.stx_ino), FileType::from_raw_mode(found.stx_mode.into())))
}

/// The type of what a descriptor refers to.
pub fn file_type(fd: BorrowedFd<'_>) -> Result<FileType> {
    let stat = rustix::fs::fstat(fd).map_err(SysError::at("fstat", || format!("{fd:?}")))?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// The magic number of the filesystem that a descriptor lies on (statfs(2)), `O_PATH` ones too.
pub fn filesystem_magic(fd: BorrowedFd<'_>) -> Result<u64> {
    let stat = rustix::fs::fstatfs(fd).map_err(SysError::at("fstatfs", || format!("{fd:?}")))?;
    Ok(stat.f_type as u64)
}

/// `f_type` of procfs.
pub const PROC_MAGIC: u64 = 0x9fa0;

/// `f_type` of devpts.
pub const DEVPTS_MAGIC: u64 = 0x1cd1;

/// `f_type` of pipes without a name.
pub const PIPEFS_MAGIC: u64 = 0x5049_5045;

/// `f_type` of sysfs.
pub const SYSFS_MAGIC: u64 = 0x6265_6572;

/// `f_type` of cgroup v1.
pub const CGROUP_MAGIC: u64 = 0x0027_e0eb;

/// `f_type` of cgroup v2.
pub const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Runs `change` in the directory `dir` and puts its modification time back.
///
/// On an overlay the first change copies the directory up with its mode, owner and xattrs; only mtime then moves. Where
/// the time cannot be put back (not our file) the change stands.
fn keeping_mtime(dir: BorrowedFd<'_>, change: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = statx(dir, "", AtFlags::EMPTY_PATH, StatxFlags::MTIME);
    change()?;
    let Ok(before) = before else { return Ok(()) };
    let Ok(writable) = openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) else {
        return Ok(());
    };
    let mtime = Timespec { tv_sec: before.stx_mtime.tv_sec, tv_nsec: before.stx_mtime.tv_nsec.into() };
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    match futimens(writable, &Timestamps { last_access: omit, last_modification: mtime }) {
        Ok(()) | Err(Errno::PERM | Errno::ACCESS | Errno::ROFS) => Ok(()),
        Err(errno) => Err(SysError::new("futimens", format!("{dir:?}"), errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn the_root_is_no_mount_point_of_its_own() {
        let (dir, root) = tree();
        symlink("/", dir.path().join("root/data")).unwrap();
        symlink("../..", dir.path().join("root/etc/up")).unwrap();
        for path in ["/", "/etc/..", "/data", "/etc/up"] {
            let refused = root.ensure_mount_point(Path::new(path), MountPoint::Directory).unwrap_err();
            assert_eq!(refused.errno, Errno::BUSY, "{path}");
            assert!(root.is_root(root.resolve(Path::new(path)).unwrap().as_fd()).unwrap(), "{path}");
        }
        let etc = root.ensure_mount_point(Path::new("/data/etc"), MountPoint::Directory).unwrap();
        assert!(!root.is_root(etc.as_fd()).unwrap());
    }

    fn tree() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("root/etc")).unwrap();
        fs::create_dir_all(dir.path().join("outside")).unwrap();
        let root = Root::open(&dir.path().join("root")).unwrap();
        (dir, root)
    }

    #[test]
    fn directories_are_opened_at_any_depth_and_never_through_symlinks() {
        let (dir, root) = tree();
        let mut at = rustix::fs::open(dir.path().join("root"), OFlags::PATH, Mode::empty()).unwrap();
        let name = "n".repeat(200);
        let mut path = String::new();
        for _ in 0..50 {
            mkdirat(&at, &name, Mode::RWXU).unwrap();
            at = openat(&at, &name, OFlags::PATH, Mode::empty()).unwrap();
            path = format!("{path}/{name}");
        }
        let opened = root.open_directory(Path::new(&path)).unwrap();
        assert_eq!(rustix::fs::fstat(&opened).unwrap().st_ino, rustix::fs::fstat(&at).unwrap().st_ino);
        symlink("etc", dir.path().join("root/link")).unwrap();
        fs::create_dir(dir.path().join("root/etc/deep")).unwrap();
        for path in ["link", "link/deep"] {
            assert_eq!(root.open_directory(Path::new(path)).unwrap_err().errno, Errno::LOOP, "{path}");
        }
        assert!(root.open_directory(Path::new("")).is_ok());
        assert_eq!(root.open_directory(Path::new("none")).unwrap_err().errno, Errno::NOENT);
    }

    #[test]
    fn symlinks_never_lead_out() {
        let (dir, root) = tree();
        symlink(dir.path().join("outside"), dir.path().join("root/absolute")).unwrap();
        symlink("../../../outside", dir.path().join("root/etc/relative")).unwrap();
        symlink("/proc/self/root", dir.path().join("root/magic")).unwrap();
        assert_eq!(root.resolve(Path::new("/absolute")).unwrap_err().errno, Errno::NOENT);
        assert_eq!(root.resolve(Path::new("/etc/relative")).unwrap_err().errno, Errno::NOENT);
        assert_eq!(root.resolve(Path::new("../outside")).unwrap_err().errno, Errno::NOENT);
        // What they point at is made, inside.
        root.create_dir_all(Path::new("/absolute/new"), Mode::from_raw_mode(0o755)).unwrap();
        root.ensure_mount_point(Path::new("/etc/relative"), MountPoint::Directory).unwrap();
        assert!(dir.path().join("root/outside").is_dir());
        assert!(dir.path().join("root").join(dir.path().strip_prefix("/").unwrap()).join("outside/new").is_dir());
        assert_eq!(fs::read_dir(dir.path().join("outside")).unwrap().count(), 0);
    }

    /// As images have it: `/etc/resolv.conf -> ../run/systemd/resolve/stub-resolv.conf`, and `/var/run -> /run`.
    #[test]
    fn a_mount_point_behind_a_dangling_symlink_is_made() {
        let (dir, root) = tree();
        let at = |name: &str| dir.path().join("root").join(name);
        symlink("../run/resolve/stub", at("etc/resolv.conf")).unwrap();
        symlink("/run", at("var")).unwrap();
        symlink("var/one", at("chain")).unwrap();
        root.ensure_mount_point(Path::new("/etc/resolv.conf"), MountPoint::File).unwrap();
        assert!(at("run/resolve/stub").is_file());
        root.ensure_mount_point(Path::new("/chain/two"), MountPoint::Directory).unwrap();
        assert!(at("run/one/two").is_dir());
        for number in 0..50 {
            symlink(format!("link{}", number + 1), at(&format!("link{number}"))).unwrap();
        }
        let long = root.ensure_mount_point(Path::new("/link0"), MountPoint::File).unwrap_err();
        assert_eq!(long.errno, Errno::LOOP);
        root.ensure_mount_point(Path::new("/link20"), MountPoint::File).unwrap();
        assert!(at("link50").is_file());
    }

    #[test]
    fn a_symlink_inside_is_followed_inside() {
        let (dir, root) = tree();
        fs::create_dir(dir.path().join("root/real")).unwrap();
        symlink("/real", dir.path().join("root/link")).unwrap();
        root.create_dir_all(Path::new("/link/a/b"), Mode::from_raw_mode(0o755)).unwrap();
        assert!(dir.path().join("root/real/a/b").is_dir());
        assert_eq!(root.read_link(Path::new("link")).unwrap(), Path::new("/real"));
        assert_eq!(root.resolve_without_symlinks(Path::new("/link/a")).unwrap_err().errno, Errno::LOOP);
    }

    #[test]
    fn a_mount_point_leaves_its_parent_as_it_was() {
        let (dir, root) = tree();
        let etc = dir.path().join("root/etc");
        let past = fs::File::options().read(true).open(&etc).unwrap();
        past.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 123_456_789)).unwrap();
        let before = fs::metadata(&etc).unwrap();
        root.ensure_mount_point(Path::new("/etc/hosts"), MountPoint::File).unwrap();
        root.ensure_mount_point(Path::new("/etc/a/b/c"), MountPoint::Directory).unwrap();
        let after = fs::metadata(&etc).unwrap();
        assert_eq!(
            (before.mtime(), before.mtime_nsec(), before.mode()),
            (after.mtime(), after.mtime_nsec(), after.mode())
        );
        assert!(etc.join("hosts").is_file() && etc.join("a/b/c").is_dir());
    }

    #[test]
    fn a_mount_point_of_the_wrong_kind_is_refused() {
        let (dir, root) = tree();
        fs::write(dir.path().join("root/file"), "").unwrap();
        let errno = |path, kind| root.ensure_mount_point(Path::new(path), kind).unwrap_err().errno;
        assert_eq!(errno("/file", MountPoint::Directory), Errno::NOTDIR);
        assert_eq!(errno("/etc", MountPoint::File), Errno::ISDIR);
        assert_eq!(errno("/missing/../up", MountPoint::Directory), Errno::NOENT);
    }

    #[test]
    fn a_mount_point_behind_a_symlink_can_be_refused() {
        let (dir, root) = tree();
        let made = root.ensure_mount_point_without_symlinks(Path::new("/dev/console"), MountPoint::File).unwrap();
        assert_eq!(file_type(made.as_fd()).unwrap(), FileType::RegularFile);
        symlink("etc", dir.path().join("root/link")).unwrap();
        for path in ["/link", "/link/proc"] {
            let refused = root.ensure_mount_point_without_symlinks(Path::new(path), MountPoint::Directory).unwrap_err();
            assert_eq!(refused.errno, Errno::LOOP, "{path}");
        }
    }

    #[test]
    fn nothing_but_a_regular_file_is_opened() {
        let (dir, root) = tree();
        let null = rustix::fs::makedev(1, 3);
        for (name, kind, device) in [("fifo", FileType::Fifo, 0), ("null", FileType::CharacterDevice, null)] {
            rustix::fs::mknodat(&root.fd, name, kind, Mode::from_raw_mode(0o600), device).unwrap();
            symlink(name, dir.path().join("root/link")).unwrap();
            for path in [name, "link"] {
                let found = root.open_to_read(Path::new(path)).unwrap();
                assert_eq!(file_type(found.as_fd()).unwrap(), kind);
                assert!(rustix::fs::fcntl_getfl(&found).unwrap().contains(OFlags::PATH), "{path} was opened");
            }
            fs::remove_file(dir.path().join("root/link")).unwrap();
        }
        fs::write(dir.path().join("root/file"), "text").unwrap();
        symlink("/file", dir.path().join("root/etc/link")).unwrap();
        let file = root.open_to_read(Path::new("/etc/link")).unwrap();
        assert_eq!(std::io::read_to_string(fs::File::from(file)).unwrap(), "text");
        assert_eq!(root.open_to_read(Path::new("none")).unwrap_err().errno, Errno::NOENT);
    }
}
