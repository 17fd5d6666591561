// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a directory holds before a layer is applied to it.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::ops::Bound;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags, statx};
use stos_erofs::{DataPlace, Entry, EntryKind, LayerTree, Metadata, Step};
use stos_store::Error as StoreError;
use stos_sys::rooted::Root;

use crate::dirs::inode::{self, Place, as_path, refused};
use crate::dirs::walk::{self, Walk};
use crate::error::{Error, LayerLabel, Result};

/// The names below a directory, and where other filesystems are mounted there, bind mounts among them.
pub(super) struct Existing {
    pub(super) tree: LayerTree,
    pub(super) mounts: Mounts,
}

/// Which file it is: the device and the inode number.
type Inode = ((u32, u32), u64);

struct Reader {
    tree: LayerTree,
    mounts: Mounts,
    walk: Walk,
    /// Of files of several names the first one: its directory and the last component.
    links: HashMap<Inode, (usize, Vec<u8>)>,
}

impl Existing {
    /// Reads the names below `root`, parents first, without following a symlink and without going beyond a mount point.
    pub(super) fn read(root: &Root) -> Result<Self> {
        let (tree, mounts) = (LayerTree::in_place(), Mounts::default());
        let mut reader = Reader { tree, mounts, walk: Walk::new(), links: HashMap::new() };
        while let Some(directory) = reader.walk.next() {
            reader.directory(root, directory)?;
        }
        Ok(Self { tree: reader.tree, mounts: reader.mounts })
    }
}

impl Reader {
    fn directory(&mut self, root: &Root, directory: usize) -> Result<()> {
        let path = self.walk.path(directory, b"");
        let dir = root.open_directory(as_path(&path)).map_err(|error| refused("open", &path)(error.errno))?;
        if directory == 0 {
            self.add(Vec::new(), EntryKind::Directory(inode::directory_metadata(&dir, b"")?))?;
        }
        for name in walk::list(&dir, &path)? {
            let name = name.map_err(refused("list", &path))?.file_name().into_vec();
            let path = self.walk.path(directory, &name);
            let kind = self.name(directory, &name, Place { dir: dir.as_fd(), name: as_path(&name), path: &path })?;
            self.add(path, kind)?;
        }
        Ok(())
    }

    fn name(&mut self, directory: usize, name: &[u8], place: Place<'_>) -> Result<EntryKind> {
        let stat = look(place)?;
        let file_type = FileType::from_raw_mode(stat.stx_mode.into());
        let is_directory = file_type == FileType::Directory;
        if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            self.mounts.0.insert(place.path.to_vec());
            let metadata = Metadata::default();
            return if is_directory { Ok(EntryKind::Directory(metadata)) } else { Ok(kind_of(file_type, place)?) };
        }
        if is_directory {
            self.walk.add(directory, name);
            return Ok(EntryKind::Directory(place.metadata(&place.stat()?)?));
        }
        let inode = ((stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino);
        if let Some((directory, name)) = self.links.get(&inode) {
            return Ok(EntryKind::HardLink { target: self.walk.path(*directory, name) });
        }
        if stat.stx_nlink > 1 {
            self.links.insert(inode, (directory, name.to_vec()));
        }
        Ok(kind_of(file_type, place)?)
    }

    fn add(&mut self, path: Vec<u8>, kind: EntryKind) -> Result<()> {
        self.tree
            .add_existing(&Entry { path, kind })
            .map_err(|source| Error::Tar { layer: LayerLabel::Origin("the existing directory".to_owned()), source })
    }
}

fn look(place: Place<'_>) -> std::result::Result<Statx, StoreError> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    statx(place.dir, place.name, flags, StatxFlags::BASIC_STATS).map_err(refused("stat", place.path))
}

/// What stands at a name, as far as an entry after it asks.
fn kind_of(file_type: FileType, place: Place<'_>) -> std::result::Result<EntryKind, StoreError> {
    let metadata = Metadata::default();
    Ok(match file_type {
        FileType::RegularFile => EntryKind::Regular { metadata, size: 0, place: DataPlace::Tar, block: 0 },
        FileType::Symlink => {
            let target = fs::read_link(place.in_proc()).map_err(refused("read the symlink", place.path))?;
            EntryKind::Symlink { metadata, target: target.into_os_string().into_vec() }
        }
        // Devices, sockets.
        _ => EntryKind::Fifo(metadata),
    })
}

/// The paths of mount points.
#[derive(Default)]
pub(super) struct Mounts(BTreeSet<Vec<u8>>);

impl Mounts {
    /// Refuses a step that would change a mount point, or what lies beyond one: the layer is for the one filesystem.
    pub(super) fn check(&self, step: &Step<'_>) -> std::result::Result<(), StoreError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let (path, removes) = match *step {
            Step::Remove { path } => (path, true),
            Step::Imply { path }
            | Step::Orphan { path, .. }
            | Step::Create { path }
            | Step::Update { path }
            | Step::Link { path, .. }
            | Step::Whiteout { path }
            | Step::Opaque { path } => (path, false),
            Step::Unplaced { .. } => return Ok(()),
        };
        let found = self.above(path).or_else(|| self.below(path).filter(|_| removes));
        let Some(mount) = found else { return Ok(()) };
        let said = format!("another filesystem is mounted at {}; unmount it first", mount.escape_ascii());
        Err(refused("change", path)(io::Error::new(io::ErrorKind::CrossesDevices, said)))
    }

    /// Gives the mount point that a path is, or lies below.
    fn above(&self, path: &[u8]) -> Option<&[u8]> {
        let ends = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/').map(|(at, _)| at);
        let mut parents = ends.chain([path.len()]);
        parents.find_map(|end| self.0.get(&path[..end])).map(Vec::as_slice)
    }

    /// Gives a mount point below a path.
    fn below(&self, path: &[u8]) -> Option<&[u8]> {
        let start = [path, b"/"].concat();
        let range = (Bound::Included(start.as_slice()), Bound::Unbounded);
        let first = self.0.range::<[u8], _>(range).next()?;
        first.starts_with(&start).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_at_above_or_below_a_mount_point_is_told() {
        let mounts = Mounts(BTreeSet::from([b"a/m".to_vec(), b"proc".to_vec()]));
        let refused = |step: Step<'_>| mounts.check(&step).is_err();
        assert!(refused(Step::Create { path: b"proc/x" }) && refused(Step::Update { path: b"proc" }));
        assert!(refused(Step::Imply { path: b"a/m/b/c" }) && refused(Step::Remove { path: b"a" }));
        let steps = [Step::Update { path: b"a" }, Step::Remove { path: b"pro" }, Step::Remove { path: b"a/l" }];
        assert!(!steps.into_iter().chain([Step::Create { path: b"proc-2" }]).any(refused));
        let error = mounts.check(&Step::Remove { path: b"a" }).unwrap_err().to_string();
        assert!(error.contains("a/m"), "{error}");
    }
}
