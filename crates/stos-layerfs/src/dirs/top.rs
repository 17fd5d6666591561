// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `top/`: the directory that makes a stack of layers show what they mean together.

use std::collections::HashMap;
use std::fs::{self, File, Metadata as Stat};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use stos_erofs::{Correction, Corrections, DataPlace, EntryKind, Metadata, SpecialFile};
use stos_store::Store;
use stos_sys::rooted::Root;

use super::Dirs;
use super::copy;
use super::inode::{self, Place, as_path, refused, split};
use super::layer::DirsLayerRecord;
use super::verify::{Comparer, is_damage};
use super::walk;
use crate::error::Result;
use crate::room::Room;

/// The directory, and those of the layers that its hard links go to.
pub(super) struct Top<'a> {
    store: &'a Store,
    path: PathBuf,
    root: Root,
    layers: Vec<Layer>,
}

struct Layer {
    diff: Root,
    orphans: Root,
}

/// Files of layers that the filesystem gives no more names, by layer and entry: the path of the last copy of each.
type Copies = HashMap<(usize, u64), Vec<u8>>;

/// A file of a layer that a correction is about.
struct Source {
    /// The directory that it lies in.
    dir: OwnedFd,
    /// Its path in `diff/` or `orphans/`.
    path: Vec<u8>,
    /// The layer and the number of its entry.
    file: (usize, u64),
}

impl Source {
    fn place(&self) -> Place<'_> {
        Place { dir: self.dir.as_fd(), name: split(&self.path).1, path: &self.path }
    }
}

impl<'a> Top<'a> {
    pub(super) fn new(dirs: &'a Dirs, path: &Path, records: &[DirsLayerRecord]) -> Result<Self> {
        let open = |record: &DirsLayerRecord| -> Result<_> {
            let dir = dirs.layer_dir(record.diff_id);
            Ok(Layer { diff: Root::open(&dir.join("diff"))?, orphans: Root::open(&dir.join("orphans"))? })
        };
        let layers = records.iter().map(open).collect::<Result<_>>()?;
        Ok(Self { store: &dirs.store, path: path.to_owned(), root: Root::open(path)?, layers })
    }

    /// Makes what is not there yet, and gives how much that was, the root not counted. `shown` is the layer whose root would be
    /// seen without this directory, if there is one.
    pub(super) fn make(&self, corrections: &Corrections, shown: Option<usize>) -> Result<u64> {
        let mut directories = Vec::new();
        let mut made = 0;
        let mut copies = Copies::new();
        let reserve = Room::of(&self.root).map_err(refused("measure the disk of", b""))?.reserve();
        for correction in corrections.iter() {
            self.make_one(&correction, &mut copies, reserve)?;
            made += u64::from(!correction.path().is_empty());
            if matches!(correction, Correction::Directory { .. }) {
                directories.push(correction);
            }
        }
        // Children come before their parents, for what is made in a directory changes its time.
        for correction in directories.iter().rev() {
            if let Correction::Directory { path, metadata, opaque } = correction {
                let directory = self.open(path)?;
                inode::finish_directory(&directory, metadata, *opaque, path)?;
            }
        }
        if !has_root(corrections) {
            inode::finish_directory(&self.open(b"")?, &self.root_of(shown)?, false, b"")?;
        }
        Ok(made)
    }

    /// Gives what the root is to be where it is right already: overlayfs shows the metadata of the uppermost directory.
    fn root_of(&self, layer: Option<usize>) -> Result<Metadata> {
        match layer {
            Some(layer) => Ok(inode::directory_metadata(&self.layers[layer].diff.open_directory(Path::new(""))?, b"")?),
            None => Ok(Metadata { mode: 0o755, ..Metadata::default() }),
        }
    }

    fn open(&self, path: &[u8]) -> Result<OwnedFd> {
        Ok(self.root.open_directory(as_path(path)).map_err(|error| refused("open", path)(error.errno))?)
    }

    fn make_one(&self, correction: &Correction, copies: &mut Copies, reserve: u64) -> Result<()> {
        let path = correction.path();
        if path.is_empty() {
            return Ok(());
        }
        let (parent, name) = split(path);
        let dir = self.open(parent)?;
        let place = Place { dir: dir.as_fd(), name, path };
        match correction {
            Correction::Whiteout { .. } => place.make_whiteout()?,
            Correction::Directory { .. } => place.make_directory()?,
            Correction::Make { metadata, file, .. } => {
                place.make(&special(file, metadata))?;
            }
            Correction::Copy { .. } => copy_file(&self.source(correction)?, place, reserve)?,
            Correction::Link { target, .. } => self.link(place, target)?,
            Correction::Node { .. } | Correction::Orphan { .. } => {
                self.link_or_copy(&self.source(correction)?, place, copies, reserve)?;
            }
        }
        Ok(())
    }

    /// Makes one more name for what stands at `target` in the directory itself.
    fn link(&self, place: Place<'_>, target: &[u8]) -> Result<()> {
        let (parent, name) = split(target);
        let dir = self.open(parent)?;
        Ok(place.make_link(Place { dir: dir.as_fd(), name, path: target })?)
    }

    /// Makes one more name for a layer's file. A filesystem has a bound on those (ext4: 65,000 of a file), and other images'
    /// stacks take theirs: beyond it a copy does, whose further names are links to it.
    fn link_or_copy(&self, source: &Source, place: Place<'_>, copies: &mut Copies, reserve: u64) -> Result<()> {
        match place.link_to(source.place()) {
            Err(Errno::MLINK) => {}
            made => return Ok(made.map_err(refused("create the hard link", place.path))?),
        }
        if let Some(copy) = copies.get(&source.file) {
            let (parent, name) = split(copy);
            let dir = self.open(parent)?;
            match place.link_to(Place { dir: dir.as_fd(), name, path: copy }) {
                Err(Errno::MLINK) => {}
                made => return Ok(made.map_err(refused("create the hard link", place.path))?),
            }
        }
        copy_file(source, place, reserve)?;
        copies.insert(source.file, place.path.to_vec());
        Ok(())
    }

    /// Finds the file that a correction is a name of.
    fn source(&self, correction: &Correction) -> Result<Source> {
        let (layer, source, number) = match correction {
            Correction::Node { layer, source, number, .. } => (*layer, Some(source), *number),
            Correction::Copy { layer, source, number, .. } => (*layer, source.as_ref(), *number),
            Correction::Orphan { layer, number, .. } => (*layer, None, *number),
            _ => return Err(refused("find the source of", correction.path())(Errno::INVAL).into()),
        };
        let Layer { diff, orphans } = &self.layers[layer];
        let (root, path) = match source {
            Some(source) => (diff, source.clone()),
            None => (orphans, number.to_string().into_bytes()),
        };
        let (parent, _) = split(&path);
        let dir = root.open_directory(as_path(parent)).map_err(|error| refused("open", parent)(error.errno))?;
        Ok(Source { dir, path, file: (layer, number) })
    }

    /// Tells whether the directory holds exactly what [`make`](Self::make) makes: each whiteout, directory and special file as the
    /// corrections have it, opaque or not, with all its metadata (see [`Comparer`]), the root's included; each hard link being of
    /// the layer's very file; each copy with the file's data and metadata; and nothing else.
    pub(super) fn is_made(&self, corrections: &Corrections, shown: Option<usize>) -> Result<bool> {
        match self.holds(corrections, shown) {
            Err(error) if is_damage(&error) => Ok(false),
            other => other,
        }
    }

    fn holds(&self, corrections: &Corrections, shown: Option<usize>) -> Result<bool> {
        let mut comparer = Comparer::new(self.store, &self.root, self.path.clone());
        let mut copies = Copies::new();
        let mut expected = 1;
        for correction in corrections.iter() {
            if !self.holds_one(&correction, &mut comparer, &mut copies)? {
                return Ok(false);
            }
            expected += u64::from(!correction.path().is_empty());
        }
        if !has_root(corrections) {
            let root = EntryKind::Directory(self.root_of(shown)?);
            if comparer.compare(b"", &root, false)?.is_err() {
                return Ok(false);
            }
        }
        if walk::count_tree(&self.root)? != expected {
            return Ok(false);
        }
        comparer.finish()?;
        Ok(true)
    }

    fn holds_one(&self, correction: &Correction, comparer: &mut Comparer<'_>, copies: &mut Copies) -> Result<bool> {
        let path = correction.path();
        let mut is = |kind, is_opaque| Ok(comparer.compare(path, &kind, is_opaque)?.is_ok());
        match correction {
            Correction::Whiteout { .. } => is(EntryKind::Whiteout, false),
            Correction::Directory { metadata, opaque, .. } => is(EntryKind::Directory(metadata.clone()), *opaque),
            Correction::Make { metadata, file, .. } => is(special(file, metadata), false),
            Correction::Copy { .. } => is_copy(&self.source(correction)?, comparer.place(path)?),
            Correction::Link { target, .. } => {
                let inode = inode_of(&comparer.place(path)?.stat()?);
                Ok(inode == inode_of(&comparer.place(target)?.stat()?))
            }
            Correction::Node { .. } | Correction::Orphan { .. } => {
                let source = self.source(correction)?;
                let inode = inode_of(&comparer.place(path)?.stat()?);
                if inode == inode_of(&source.place().stat()?) {
                    return Ok(true);
                }
                if let Some(copy) = copies.get(&source.file)
                    && inode == inode_of(&comparer.place(copy)?.stat()?)
                {
                    return Ok(true);
                }
                copies.insert(source.file, path.to_vec());
                Ok(comparer.has_all_names(source.place())? && is_copy(&source, comparer.place(path)?)?)
            }
        }
    }
}

/// Tells whether the root is among the corrections.
fn has_root(corrections: &Corrections) -> bool {
    corrections.iter().next().is_some_and(|first| first.path().is_empty())
}

/// Which inode it is: by device and number.
fn inode_of(stat: &Stat) -> (u64, u64) {
    (stat.dev(), stat.ino())
}

/// Copies a file with all its attributes; of a regular one the data too, holes left out.
fn copy_file(source: &Source, to: Place<'_>, reserve: u64) -> Result<()> {
    let from = source.place();
    let kind = kind_of(from, &from.stat()?)?;
    if let (Some(file), EntryKind::Regular { metadata, .. }) = (to.make(&kind)?, &kind) {
        copy::copy_data(&open_file(from)?, &file, reserve, to.path)?;
        inode::finish_file(&file, metadata, to.path)?;
    }
    Ok(())
}

/// Tells whether a file is a copy of another one as [`copy_file`] makes them.
fn is_copy(source: &Source, copy: Place<'_>) -> Result<bool> {
    let from = source.place();
    let (left, right) = (from.stat()?, copy.stat()?);
    if inode_of(&left) == inode_of(&right) || kind_of(from, &left)? != kind_of(copy, &right)? {
        return Ok(false);
    }
    match left.is_file() {
        true => Ok(copy::has_same_data(&open_file(from)?, &open_file(copy)?).map_err(refused("compare", copy.path))?),
        false => Ok(true),
    }
}

fn open_file(place: Place<'_>) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(openat(place.dir, place.name, flags, Mode::empty()).map_err(refused("open", place.path))?))
}

/// Gives what stands at a name, as an entry that would make it.
fn kind_of(place: Place<'_>, stat: &Stat) -> Result<EntryKind> {
    let metadata = place.metadata(stat)?;
    let (major, minor) = (rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev()));
    let kind = stat.file_type();
    Ok(if kind.is_symlink() {
        let target = fs::read_link(place.in_proc()).map_err(refused("read the symlink", place.path))?;
        EntryKind::Symlink { metadata, target: target.into_os_string().into_vec() }
    } else if kind.is_char_device() {
        EntryKind::CharacterDevice { metadata, major, minor }
    } else if kind.is_block_device() {
        EntryKind::BlockDevice { metadata, major, minor }
    } else if kind.is_fifo() {
        EntryKind::Fifo(metadata)
    } else if kind.is_file() {
        EntryKind::Regular { metadata, size: stat.len(), place: DataPlace::Tar, block: 0 }
    } else {
        EntryKind::Directory(metadata)
    })
}

fn special(file: &SpecialFile, metadata: &Metadata) -> EntryKind {
    let metadata = metadata.clone();
    let (major, minor) = match file {
        SpecialFile::CharacterDevice(device) | SpecialFile::BlockDevice(device) => stos_erofs::device_parts(*device),
        SpecialFile::Symlink(_) | SpecialFile::Fifo => (0, 0),
    };
    match file {
        SpecialFile::Symlink(target) => EntryKind::Symlink { metadata, target: target.clone() },
        SpecialFile::CharacterDevice(_) => EntryKind::CharacterDevice { metadata, major, minor },
        SpecialFile::BlockDevice(_) => EntryKind::BlockDevice { metadata, major, minor },
        SpecialFile::Fifo => EntryKind::Fifo(metadata),
    }
}
