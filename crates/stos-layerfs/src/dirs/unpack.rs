// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Unpacks a layer while its bytes go by, so that its directory always equals the tree that the entries so far make.
//!
//! Which path an entry means is decided in memory ([`LayerTree`], the same rules as in the merged image); what is done on disk
//! follows step by step, each path opened anew from the directory's descriptor through no symlink. So a tar that puts a
//! symlink where it then writes "below" it is followed in the tree, and a path that is a symlink on disk all the same is an
//! error and no way out.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags, openat, renameat};
use stos_erofs::{DirectoryState, Entry, EntryKind, LayerTree, Metadata, Step, TarSink};
use stos_sys::rooted::Root;

use super::inode::{self, Place, refused, split};

mod remove;

pub(super) use remove::remove;

/// What becomes of regular files that have no name in their own layer, or lose their last one while it goes by.
pub(crate) enum Orphans {
    /// Kept in this directory under their entry's number: the tar is made again of them, and the layers below may mean that
    /// one is seen after all.
    Keep(OwnedFd),
    /// Removed with what they stood in.
    Drop,
}

/// Why an entry could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// The disk is to blame.
    #[error(transparent)]
    Disk(#[from] stos_store::Error),
    /// The layer is.
    #[error(transparent)]
    Layer(#[from] stos_erofs::Error),
}

/// A layer on its way into a directory; the tar's other bytes go to `raw`.
pub(crate) struct Unpacker<W> {
    tree: LayerTree,
    disk: Disk,
    raw: W,
}

/// The directory, and what is open in it.
struct Disk {
    root: Root,
    orphans: Orphans,
    /// The last parent that was opened: the next entry most often has the same.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// The regular file that the data belong to.
    file: Option<OpenFile>,
}

struct OpenFile {
    file: File,
    path: Vec<u8>,
    metadata: Metadata,
    size: u64,
    /// Where the next data go, if no hole comes first.
    position: u64,
}

impl<W: Write> Unpacker<W> {
    /// Unpacks into `root`, of which `tree` says what is there.
    pub(crate) fn new(root: Root, tree: LayerTree, orphans: Orphans, raw: W) -> Self {
        Self { tree, disk: Disk { root, orphans, parent: None, file: None }, raw }
    }

    /// Ends the last file, and gives every directory what it is to be.
    pub(crate) fn finish(mut self) -> Result<(LayerTree, W), stos_store::Error> {
        self.disk.end_file()?;
        for directory in self.tree.directories() {
            self.disk.finish_directory(&directory)?;
        }
        Ok((self.tree, self.raw))
    }
}

impl<W: Write> TarSink for Unpacker<W> {
    fn entry(&mut self, number: u64, entry: &Entry) -> io::Result<()> {
        let Self { tree, disk, .. } = self;
        disk.end_file().map_err(unpack_error)?;
        let applied: Result<(), UnpackError> = tree.apply(number, entry, |step| Ok(disk.step(step, entry)?));
        applied.map_err(io::Error::other)
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.write(offset, bytes).map_err(unpack_error)
    }

    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.raw.write_all(bytes)
    }
}

impl Disk {
    fn step(&mut self, step: Step<'_>, entry: &Entry) -> Result<(), stos_store::Error> {
        match step {
            Step::Imply { path } => self.place(path)?.make_directory(),
            Step::Remove { path } => self.remove(path),
            Step::Orphan { number, path } => self.keep_orphan(number, path),
            Step::Unplaced { number } => self.create_orphan(number, entry),
            Step::Create { path } => self.create(path, &entry.kind),
            // The metadata of directories come last.
            Step::Update { .. } | Step::Opaque { .. } => Ok(()),
            Step::Link { path, target } => self.link(path, target),
            Step::Whiteout { path } => self.place(path)?.make_whiteout(),
        }
    }

    /// Opens the directory that `path` lies in.
    fn place<'a>(&'a mut self, path: &'a [u8]) -> Result<Place<'a>, stos_store::Error> {
        let (parent, name) = split(path);
        if self.parent.as_ref().is_none_or(|(known, _)| known != parent) {
            self.parent = None;
            let opened = self.root.open_directory(inode::as_path(parent));
            self.parent = Some((parent.to_vec(), opened.map_err(|error| refused("open", parent)(error.errno))?));
        }
        match &self.parent {
            Some((_, dir)) => Ok(Place { dir: dir.as_fd(), name, path }),
            None => unreachable!("it was opened above"),
        }
    }

    fn create(&mut self, path: &[u8], kind: &EntryKind) -> Result<(), stos_store::Error> {
        let place = self.place(path)?;
        if matches!(kind, EntryKind::Directory(_)) {
            return place.make_directory();
        }
        let Some(file) = place.make(kind)? else { return Ok(()) };
        self.begin_file(file, path, kind);
        Ok(())
    }

    fn begin_file(&mut self, file: File, path: &[u8], kind: &EntryKind) {
        if let EntryKind::Regular { metadata, size, .. } = kind {
            let (metadata, size) = (metadata.clone(), *size);
            self.file = Some(OpenFile { file, path: path.to_vec(), metadata, size, position: 0 });
        }
    }

    /// Makes the file of an entry that has no place in the layer by itself.
    fn create_orphan(&mut self, number: u64, entry: &Entry) -> Result<(), stos_store::Error> {
        let Orphans::Keep(orphans) = &self.orphans else { return Ok(()) };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(orphans, number.to_string(), flags, Mode::RUSR | Mode::WUSR);
        let file = file.map_err(refused("create", &entry.path))?;
        self.begin_file(File::from(file), &entry.path, &entry.kind);
        Ok(())
    }

    fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), stos_store::Error> {
        let (parent, name) = split(target);
        let dir =
            self.root.open_directory(inode::as_path(parent)).map_err(|error| refused("open", parent)(error.errno))?;
        self.place(path)?.make_link(Place { dir: dir.as_fd(), name, path: target })
    }

    /// Removes what stands at `path`, with all below it, by the descriptor of what it lies in.
    fn remove(&mut self, path: &[u8]) -> Result<(), stos_store::Error> {
        let place = self.place(path)?;
        let removed = remove(place);
        // What was open may have lain below it.
        self.parent = None;
        removed
    }

    fn keep_orphan(&mut self, number: u64, path: &[u8]) -> Result<(), stos_store::Error> {
        if let Orphans::Drop = self.orphans {
            return Ok(());
        }
        self.place(path)?;
        let (Orphans::Keep(orphans), Some((_, dir))) = (&self.orphans, &self.parent) else { return Ok(()) };
        renameat(dir, split(path).1, orphans, number.to_string()).map_err(refused("set aside", path))
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), stos_store::Error> {
        // Data of an entry that made no file of its own have no place; the indexer gives none.
        let Some(open) = &mut self.file else { return Ok(()) };
        let written = match offset == open.position {
            true => (&open.file).write_all(bytes),
            // After a hole.
            false => open.file.write_all_at(bytes, offset),
        };
        written.map_err(refused("write", &open.path))?;
        if offset == open.position {
            open.position += bytes.len() as u64;
        }
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), stos_store::Error> {
        let Some(OpenFile { file, path, metadata, size, position }) = self.file.take() else { return Ok(()) };
        if position != size {
            // Sparse: what follows the last data is a hole too.
            file.set_len(size).map_err(refused("set the length of", &path))?;
        }
        inode::finish_file(&file, &metadata, &path)
    }

    fn finish_directory(&mut self, state: &DirectoryState) -> Result<(), stos_store::Error> {
        let path = &state.path;
        let directory = self.root.open_directory(inode::as_path(path));
        let directory = directory.map_err(|error| refused("open", path)(error.errno))?;
        inode::finish_directory(&directory, &state.metadata, state.opaque, path)
    }
}

fn unpack_error(error: stos_store::Error) -> io::Error {
    io::Error::other(UnpackError::from(error))
}
