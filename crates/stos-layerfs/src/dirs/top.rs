// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `top/`: the directory that makes a stack of layers show what they mean together.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use stos_erofs::{Correction, Corrections, EntryKind, Metadata, SpecialFile};
use stos_store::files;
use stos_sys::rooted::Root;

use super::Dirs;
use super::inode::{self, Place, as_path, refused, split};
use super::layer::DirsLayerRecord;
use super::unpack::by_descriptor;
use crate::error::Result;

/// The directory, and those of the layers that its hard links go to.
pub(super) struct Top {
    root: Root,
    /// By the number of the layer: `diff` and `orphans`.
    layers: Vec<(Root, PathBuf)>,
}

impl Top {
    pub(super) fn new(dirs: &Dirs, path: &Path, records: &[DirsLayerRecord]) -> Result<Self> {
        let open = |record: &DirsLayerRecord| -> Result<_> {
            let dir = dirs.layer_dir(record.diff_id);
            Ok((Root::open(&dir.join("diff"))?, dir.join("orphans")))
        };
        Ok(Self { root: Root::open(path)?, layers: records.iter().map(open).collect::<Result<_>>()? })
    }

    /// Makes what is not there yet, and gives how much that was, the root not counted. `shown` is the layer whose root would be
    /// seen without this directory, if there is one.
    pub(super) fn make(&self, corrections: &Corrections, shown: Option<usize>) -> Result<u64> {
        let mut directories = Vec::new();
        let mut made = 0;
        for correction in corrections.iter() {
            self.make_one(&correction)?;
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
        if directories.first().is_none_or(|first| !first.path().is_empty()) {
            self.show_root_of(shown)?;
        }
        Ok(made)
    }

    /// Gives the root what is right already: overlayfs shows the metadata of the uppermost directory.
    fn show_root_of(&self, layer: Option<usize>) -> Result<()> {
        let to = File::from(self.open(b"")?);
        match layer {
            Some(layer) => {
                let from = self.layers[layer].0.open_directory(Path::new(""))?;
                Ok(inode::copy_attributes(&File::from(from), &to, b"")?)
            }
            None => {
                let implied = Metadata { mode: 0o755, ..Metadata::default() };
                Ok(inode::finish_directory(&to.into(), &implied, false, b"")?)
            }
        }
    }

    fn open(&self, path: &[u8]) -> Result<OwnedFd> {
        Ok(self.root.open_directory(as_path(path)).map_err(|error| refused("open", path)(error.errno))?)
    }

    fn make_one(&self, correction: &Correction) -> Result<()> {
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
            Correction::Copy { .. } => self.copy(correction, &by_descriptor(&place))?,
            Correction::Link { target, .. } => {
                let (parent, name) = split(target);
                let dir = self.open(parent)?;
                place.make_link(Place { dir: dir.as_fd(), name, path: target })?;
            }
            Correction::Node { .. } | Correction::Orphan { .. } => {
                let (dir, source) = self.source(correction)?;
                let (_, name) = split(&source);
                place.make_link(Place { dir: dir.as_fd(), name, path: &source })?;
            }
        }
        Ok(())
    }

    /// Opens the directory that the file lies in which a correction is a name of, and gives its path there.
    fn source(&self, correction: &Correction) -> Result<(OwnedFd, Vec<u8>)> {
        let (layer, source, number) = match correction {
            Correction::Node { layer, source, number, .. } => (*layer, Some(source), *number),
            Correction::Copy { layer, source, number, .. } => (*layer, source.as_ref(), *number),
            Correction::Orphan { layer, number, .. } => (*layer, None, *number),
            _ => return Err(refused("find the source of", correction.path())(rustix::io::Errno::INVAL).into()),
        };
        let (diff, orphans) = &self.layers[layer];
        match source {
            Some(source) => {
                let (parent, _) = split(source);
                let dir = diff.open_directory(as_path(parent)).map_err(|error| refused("open", parent)(error.errno))?;
                Ok((dir, source.clone()))
            }
            None => Ok((files::open(orphans)?.into(), number.to_string().into_bytes())),
        }
    }

    /// Copies a regular file with all its attributes.
    fn copy(&self, correction: &Correction, to: &Path) -> Result<()> {
        let (dir, source) = self.source(correction)?;
        let from = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(split(&source).1);
        let from_file = File::open(&from).map_err(refused("open", &source))?;
        let to_file = files::create_new(to)?;
        io::copy(&mut &from_file, &mut &to_file).map_err(refused("copy", &source))?;
        inode::copy_attributes(&from_file, &to_file, correction.path())?;
        Ok(())
    }

    /// Tells whether the directory holds exactly that.
    pub(super) fn is_made(&self, corrections: &Corrections) -> Result<bool> {
        let mut expected = 1;
        for correction in corrections.iter() {
            if !self.is_one_made(&correction)? {
                return Ok(false);
            }
            expected += u64::from(!correction.path().is_empty());
        }
        Ok(super::verify::count(&self.root)? == expected)
    }

    fn is_one_made(&self, correction: &Correction) -> Result<bool> {
        let (parent, name) = split(correction.path());
        let name = if correction.path().is_empty() { Path::new(".") } else { name };
        let Ok(dir) = self.open(parent) else { return Ok(false) };
        let stat_in = |dir: &OwnedFd, name: &Path| {
            fs::symlink_metadata(Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name)).ok()
        };
        let Some(stat) = stat_in(&dir, name) else { return Ok(false) };
        let has = |metadata: &Metadata| {
            let is_link = stat.file_type().is_symlink();
            (stat.uid(), stat.gid()) == (metadata.uid, metadata.gid)
                && (is_link || stat.mode() & 0o7777 == u32::from(metadata.mode))
        };
        Ok(match correction {
            Correction::Whiteout { .. } => stat.file_type().is_char_device() && stat.rdev() == 0,
            Correction::Directory { metadata, .. } => stat.is_dir() && has(metadata),
            Correction::Make { metadata, .. } => !stat.is_dir() && !stat.is_file() && has(metadata),
            Correction::Copy { .. } => stat.is_file(),
            Correction::Link { target, .. } => {
                let (parent, name) = split(target);
                let other = self.open(parent).ok().and_then(|dir| stat_in(&dir, name));
                other.is_some_and(|other| other.ino() == stat.ino())
            }
            Correction::Node { .. } | Correction::Orphan { .. } => {
                let (dir, source) = self.source(correction)?;
                stat_in(&dir, split(&source).1).is_some_and(|source| source.ino() == stat.ino())
            }
        })
    }
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
