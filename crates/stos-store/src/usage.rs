// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What trees take of the disk, as du(1) counts it: blocks that are allocated, those of directories too, and each inode once
//! however many names it has.
//!
//! A walk goes from descriptor to descriptor and keeps a bounded number of them, so no tree is too deep for it and no name too
//! odd. It follows no symlink, enters no mount, and leaves the tree by no race: a directory that is moved away while it is
//! walked is told, not followed. What goes meanwhile counts for nothing.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, StatxAttributes, StatxFlags, fstat, openat, openat2,
    statx,
};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// How many directories of one walk are open at once.
const OPEN_MAX: usize = 32;
/// How much of a directory is read at once, in bytes.
const LIST_BUFFER: usize = 32 << 10;
/// How many failures of one walk are kept to be told.
const PROBLEMS_MAX: usize = 8;
/// More threads than this share their locks in the kernel rather than the work.
const THREADS_MAX: usize = 8;

/// Device and number of an inode.
type InodeId = (u64, u64);

/// What a tree takes.
#[derive(Debug, Default)]
pub struct TreeUsage {
    /// The bytes of inodes with one name, directories among them.
    single: u64,
    /// How many those are.
    single_count: u64,
    /// The inodes with several names, each once, and their bytes: others of their names may lie in another tree.
    linked: Vec<(InodeId, u64)>,
    /// What could not be read: what is counted lacks it. At most a few of them.
    pub problems: Vec<Error>,
}

impl TreeUsage {
    /// Gives the bytes of the tree by itself.
    pub fn bytes(&self) -> u64 {
        self.single + self.linked.iter().map(|(_, bytes)| bytes).sum::<u64>()
    }

    /// Gives how many inodes the tree has.
    pub fn inodes(&self) -> u64 {
        self.single_count + self.linked.len() as u64
    }

    /// Gives the bytes of the inodes that no tree had before which went into `seen`.
    fn bytes_beyond(&self, seen: &mut HashSet<InodeId>) -> u64 {
        let new = self.linked.iter().filter(|(inode, _)| seen.insert(*inode));
        self.single + new.map(|(_, bytes)| bytes).sum::<u64>()
    }

    fn tell(&mut self, problem: Error) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}

/// What a tree takes, cut along areas: directories whose entries are counted one by one.
#[derive(Debug, Default)]
pub struct AreaUsage {
    /// For each area the names in it, sorted, and the bytes of each. An inode counts where its first name is, in the order of the
    /// areas and names.
    pub areas: Vec<Vec<(OsString, u64)>>,
    /// The bytes of all else, the areas' own directories among them.
    pub rest: u64,
    /// What could not be read: what is counted lacks it.
    pub problems: Vec<Error>,
}

impl AreaUsage {
    /// Gives the bytes of the whole tree.
    pub fn total(&self) -> u64 {
        self.rest + self.areas.iter().flatten().map(|(_, bytes)| bytes).sum::<u64>()
    }
}

/// Counts what the directory `path` and all below it take.
///
/// # Errors
/// Only where the directory itself cannot be opened; what fails below it is among the problems.
pub fn measure_tree(path: &Path) -> Result<TreeUsage> {
    let mut walk = Walk::new(path.to_owned(), &[]);
    walk.run(open_root(path)?);
    Ok(walk.usage)
}

/// Counts what the directory `root` and all below it take, by threads side by side; the entries of each of `areas` (paths below
/// `root`) by themselves. An area that is not there has no entries.
///
/// # Errors
/// Only where the directory itself cannot be opened.
pub fn measure_areas(root: &Path, areas: &[PathBuf]) -> Result<AreaUsage> {
    let names: Vec<&[u8]> = areas.iter().map(|area| area.as_os_str().as_encoded_bytes()).collect();
    let mut walk = Walk::new(root.to_owned(), &names);
    walk.run(open_root(root)?);
    let Walk { usage: rest, areas: mut found, .. } = walk;
    found.sort_by_key(|area| area.index);
    found.iter_mut().for_each(|area| area.names.sort());
    let units: Vec<Unit<'_>> = found.iter().flat_map(|area| area.names.iter().map(move |name| (area, name))).collect();
    let measured = measure_units(&units, |index| root.join(&areas[index]));

    let mut usage = AreaUsage { areas: vec![Vec::new(); areas.len()], ..AreaUsage::default() };
    let mut seen = HashSet::new();
    for ((area, name), mut tree) in units.into_iter().zip(measured) {
        let bytes = tree.bytes_beyond(&mut seen);
        usage.areas[area.index].push((os_string(name), bytes));
        usage.problems.append(&mut tree.problems);
    }
    usage.rest = rest.bytes_beyond(&mut seen);
    usage.problems.extend(rest.problems);
    Ok(usage)
}

/// An area that was met.
struct Area {
    index: usize,
    directory: OwnedFd,
    names: Vec<CString>,
}

/// An entry of an area.
type Unit<'a> = (&'a Area, &'a CString);

/// Measures each by itself. `path` gives that of an area, for errors.
fn measure_units(units: &[Unit<'_>], path: impl Fn(usize) -> PathBuf + Sync) -> Vec<TreeUsage> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(units.len()));
    let work = || {
        let mut own = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((area, name)) = units.get(at) else { break };
            let mut walk = Walk::new(path(area.index).join(os_string(name)), &[]);
            walk.enter_or_count(area.directory.as_fd(), name);
            own.push((at, walk.usage));
        }
        done.lock().unwrap_or_else(PoisonError::into_inner).append(&mut own);
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX).min(units.len());
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, tree)| tree).collect()
}

fn os_string(name: &CStr) -> OsString {
    OsString::from_vec(name.to_bytes().to_vec())
}

fn open_root(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(Error::io("open", path))
}

/// A directory on the way down.
struct Frame {
    /// `None` while it is too far up to be kept open.
    directory: Option<OwnedFd>,
    inode: InodeId,
    /// The directories in it that are still to be entered.
    waiting: Vec<CString>,
    /// How long its path is below the top.
    path_length: usize,
}

/// A walk over one tree.
struct Walk<'a> {
    usage: TreeUsage,
    /// The inodes with several names that were met.
    seen: HashSet<InodeId>,
    /// The paths, below the top, of directories whose entries are left to others.
    area_paths: &'a [&'a [u8]],
    areas: Vec<Area>,
    /// Where it began, for errors.
    top: PathBuf,
    /// Where it is, below the top.
    path: Vec<u8>,
    buffer: Vec<MaybeUninit<u8>>,
}

impl<'a> Walk<'a> {
    fn new(top: PathBuf, area_paths: &'a [&'a [u8]]) -> Self {
        Self {
            usage: TreeUsage::default(),
            seen: HashSet::new(),
            area_paths,
            areas: Vec::new(),
            top,
            path: Vec::new(),
            buffer: vec![MaybeUninit::uninit(); LIST_BUFFER],
        }
    }

    /// Counts an entry of `directory`, and all below it.
    fn enter_or_count(&mut self, directory: BorrowedFd<'_>, name: &CStr) {
        match open_child(directory, name) {
            Ok(child) => self.run(child),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                self.count(directory, name);
            }
            Err(errno) => self.tell("open", errno),
        }
    }

    /// Counts a directory and all below it.
    fn run(&mut self, top: OwnedFd) {
        let mut frames: Vec<Frame> = self.list(top).into_iter().collect();
        while let Some(frame) = frames.last_mut() {
            self.path.truncate(frame.path_length);
            let (Some(directory), Some(name)) = (&frame.directory, frame.waiting.pop()) else {
                self.leave(&mut frames);
                continue;
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.as_bytes());
            match open_child(directory.as_fd(), &name) {
                Ok(child) => {
                    frames.extend(self.list(child));
                    if let Some(far) = frames.len().checked_sub(OPEN_MAX + 1) {
                        frames[far].directory = None;
                    }
                }
                Err(errno) => self.tell("open", errno),
            }
        }
    }

    /// Goes back up from a directory that is done. One that was closed meanwhile is opened again through its child, where that
    /// still lies in it.
    fn leave(&mut self, frames: &mut Vec<Frame>) {
        let Some(done) = frames.pop() else { return };
        let Some(parent) = frames.last_mut() else { return };
        if parent.directory.is_some() {
            return;
        }
        // Also where nothing waits in it: only what is open leads to the next one above.
        match done.directory.ok_or(Errno::STALE).and_then(|child| open_parent(child.as_fd(), parent.inode)) {
            Ok(directory) => parent.directory = Some(directory),
            Err(errno) => {
                self.path.truncate(parent.path_length);
                self.tell("go back to", errno);
            }
        }
    }

    /// Counts a directory and what in it is none, and gives the directories that are still to be entered.
    fn list(&mut self, directory: OwnedFd) -> Option<Frame> {
        let stat = match fstat(&directory) {
            Ok(stat) => stat,
            Err(errno) => {
                self.tell("stat", errno);
                return None;
            }
        };
        self.usage.single += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        self.usage.single_count += 1;
        let area = self.area_paths.iter().position(|area| *area == self.path);
        let mut waiting = Vec::new();
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut entries = RawDir::new(&directory, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(errno) => {
                    self.tell("list", errno);
                    break;
                }
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            // A filesystem need not say what an entry is.
            let is_left = area.is_some() || entry.file_type() == FileType::Directory;
            if is_left || self.count(directory.as_fd(), name) == Some(FileType::Directory) {
                waiting.push(name.to_owned());
            }
        }
        self.buffer = buffer;
        if let Some(index) = area {
            self.areas.push(Area { index, directory, names: waiting });
            return None;
        }
        let inode = (stat.st_dev, stat.st_ino);
        Some(Frame { directory: Some(directory), inode, waiting, path_length: self.path.len() })
    }

    /// Counts what is no directory, and tells what it is; `None` where it is gone, or only mounted there.
    fn count(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Option<FileType> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let wanted = StatxFlags::TYPE | StatxFlags::NLINK | StatxFlags::INO | StatxFlags::BLOCKS;
        let stat = match statx(directory, name, flags, wanted) {
            Ok(stat) => stat,
            Err(errno) => {
                self.tell("stat a file in", errno);
                return None;
            }
        };
        if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return None;
        }
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        if kind == FileType::Directory {
            return Some(kind);
        }
        let bytes = stat.stx_blocks * 512;
        if stat.stx_nlink < 2 {
            self.usage.single += bytes;
            self.usage.single_count += 1;
        } else {
            let inode = (rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino);
            if self.seen.insert(inode) {
                self.usage.linked.push((inode, bytes));
            }
        }
        Some(kind)
    }

    /// Keeps what failed; unless it is that something has gone, was replaced, or is mounted there.
    fn tell(&mut self, action: &'static str, errno: Errno) {
        if !matches!(errno, Errno::NOENT | Errno::XDEV | Errno::NOTDIR | Errno::LOOP) {
            self.usage.tell(Error::io(action, self.here())(errno));
        }
    }

    fn here(&self) -> PathBuf {
        self.top.join(OsString::from_vec(self.path.clone()))
    }
}

/// Opens a directory in `directory`: EXDEV where something is mounted there, ELOOP or ENOTDIR where it is none.
fn open_child(directory: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        match openat2(directory, name, flags, Mode::empty(), resolve) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Opens the directory that `child` lies in, if it is still the one that it was.
fn open_parent(child: BorrowedFd<'_>, inode: InodeId) -> rustix::io::Result<OwnedFd> {
    let parent = openat(child, c"..", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let stat = fstat(&parent)?;
    if (stat.st_dev, stat.st_ino) == inode { Ok(parent) } else { Err(Errno::STALE) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn what_is_mounted_below_is_not_the_tree_s() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let (root, other) = (dir.path().join("root"), dir.path().join("other"));
        for path in ["area/unit", "area/mounted", "rootfs"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        fs::create_dir(&other).unwrap();
        fs::write(other.join("big"), vec![1; 1 << 20]).unwrap();
        fs::write(root.join("file"), "x").unwrap();
        // Of the same filesystem, so that no device number tells.
        let bind = |from: &Path, to: &str| {
            let view = stos_sys::mount::open_tree_clone_at(CWD, from, false, false).unwrap();
            stos_sys::mount::attach(view.as_fd(), &root.join(to)).unwrap();
        };
        let places = ["rootfs", "area/mounted", "file"];
        for (place, from) in places.iter().zip([&other, &other, &other.join("big")]) {
            bind(from, place);
        }
        let usage = measure_areas(&root, &[PathBuf::from("area")]).unwrap();
        places.iter().for_each(|place| stos_sys::mount::detach(&root.join(place)).unwrap());
        assert!(usage.total() < 1 << 20, "{usage:?}");
        assert!(usage.problems.is_empty(), "{:?}", usage.problems);
    }

    #[test]
    fn what_was_moved_away_or_cannot_be_read_is_told_and_what_has_gone_is_not() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::create_dir_all(dir.path().join("parent/child")).unwrap();
        let child = open_root(&dir.path().join("parent/child")).unwrap();
        let metadata = fs::metadata(dir.path().join("parent")).unwrap();
        let parent = (metadata.dev(), metadata.ino());
        assert!(open_parent(child.as_fd(), parent).is_ok());
        fs::rename(dir.path().join("parent/child"), dir.path().join("elsewhere")).unwrap();
        assert_eq!(open_parent(child.as_fd(), parent).unwrap_err(), Errno::STALE);

        let mut walk = Walk::new(PathBuf::from("/top"), &[]);
        walk.path = b"a/b".to_vec();
        for errno in [Errno::NOENT, Errno::XDEV, Errno::NOTDIR, Errno::LOOP] {
            walk.tell("open", errno);
        }
        assert!(walk.usage.problems.is_empty());
        for _ in 0..100 {
            walk.tell("open", Errno::IO);
        }
        assert_eq!(walk.usage.problems.len(), PROBLEMS_MAX);
        assert!(walk.usage.problems[0].is_unreadable());
        assert!(walk.usage.problems[0].to_string().contains("cannot open /top/a/b"), "{}", walk.usage.problems[0]);
    }
}
