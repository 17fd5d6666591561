// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tar of an unpacked layer, made again: what is left of it in `layer.rest`, with the data of its files between.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use flate2::bufread::GzDecoder;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use stos_erofs::{Entry, IndexReader, LayerTree, assemble_tar};
use stos_spec::DiffId;
use stos_store::files;
use stos_sys::rooted::Root;

use super::Dirs;
use super::inode::{Place, as_path, refused, split};
use super::verify::{is_damage, is_damage_or};
use crate::error::{Error, Result};

impl Dirs {
    /// Writes the layer's tar to `out`, and gives its length. Whether its bytes are right is for the caller's digest to say. The
    /// layer's record is not read.
    pub(crate) fn copy_tar(&self, layer: DiffId, out: &mut dyn Write) -> Result<u64> {
        let dir = self.layer_dir(layer);
        let path = dir.join("layer.rest");
        let damaged = |path: &Path, expected: String, found: String| Error::DamagedLayer {
            layer,
            path: path.to_owned(),
            expected,
            found,
        };
        let files = Files::open(&dir, self.places(layer)?);
        let files =
            files.map_err(|error| is_damage_or(error, |found| damaged(&dir, "its directories".to_owned(), found)))?;
        let mut source = Source { files, open: None, buffer: vec![0; 64 << 10], failure: None };
        let rest = self.open_side_file(layer, "layer.rest")?;
        let rest = GzDecoder::new(BufReader::with_capacity(64 << 10, rest));
        let data = |number, offset, len, out: &mut dyn Write| source.copy(number, offset, len, out);
        let outcome = assemble_tar(rest, out, data);
        outcome.map_err(|error| match (error, source.failure.take()) {
            (stos_erofs::Error::Data { .. }, Some(failure)) if !is_damage(&failure) => failure,
            (stos_erofs::Error::Data { number, source: error }, failure) => {
                let source_file = source.files.place_of(number);
                let found = failure.map_or(error.to_string(), |failure| failure.to_string());
                damaged(&dir.join(source_file), format!("the data of entry {number}"), found)
            }
            (stos_erofs::Error::Io { operation: "write the tar", source }, _) => cannot_write(layer, source),
            (stos_erofs::Error::Io { source, .. }, _) if is_host_error(&source) => Error::io("read", &path)(source),
            (other, _) => damaged(&path, "the tar without its files' data".to_owned(), other.to_string()),
        })
    }

    /// Tells where in `diff` the files of entries are.
    pub(crate) fn places(&self, layer: DiffId) -> Result<Places> {
        Ok(Rc::new(self.layer_tree(layer)?.places()))
    }

    /// Opens one of the files beside `diff`.
    fn open_side_file(&self, layer: DiffId, name: &str) -> Result<File> {
        let path = self.layer_dir(layer).join(name);
        files::open(&path).map_err(|error| {
            let expected = "a file".to_owned();
            is_damage_or(error.into(), |found| Error::DamagedLayer { layer, path, expected, found })
        })
    }

    /// Reads a layer's index, and gives each entry with its number to `take`.
    pub(super) fn read_index(&self, layer: DiffId, mut take: impl FnMut(u64, &Entry) -> Result<()>) -> Result<()> {
        let damaged = |error: stos_erofs::Error| self.index_damage(layer, error);
        let mut reader = IndexReader::new(self.open_side_file(layer, "layer.index")?).map_err(damaged)?;
        let mut number = 0;
        while let Some(entry) = reader.next_entry().map_err(damaged)? {
            take(number, &entry)?;
            number += 1;
        }
        Ok(())
    }

    fn index_damage(&self, layer: DiffId, error: stos_erofs::Error) -> Error {
        let path = self.layer_dir(layer).join("layer.index");
        match error {
            stos_erofs::Error::Io { source, .. } if is_host_error(&source) => Error::io("read", path)(source),
            error => {
                let expected = "the layer's index".to_owned();
                Error::DamagedLayer { layer, path, expected, found: error.to_string() }
            }
        }
    }

    /// Reads a layer's index, and gives what the layer by itself consists of.
    pub(crate) fn layer_tree(&self, layer: DiffId) -> Result<LayerTree> {
        let mut tree = LayerTree::new();
        self.read_index(layer, |number, entry| {
            let applied = tree.apply(number, entry, |_| Ok(()));
            applied.map_err(|error| self.index_damage(layer, error))
        })?;
        Ok(tree)
    }
}

fn cannot_write(layer: DiffId, source: io::Error) -> Error {
    Error::io("write the tar of", format!("layer {layer}"))(source)
}

/// Tells whether an error of reading is the process's or the host's, and none of the bytes.
fn is_host_error(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| code != Errno::IO.raw_os_error())
}

/// Where in `diff` the files of entries are. The others are orphans.
pub(crate) type Places = Rc<stos_erofs::Places>;

/// The files of a layer, by the numbers of their entries.
pub(crate) struct Files {
    diff: Root,
    orphans: Root,
    places: Places,
}

impl Files {
    /// Opens the directories of the layer in `dir`.
    pub(crate) fn open(dir: &Path, places: Places) -> Result<Self> {
        let (diff, orphans) = (Root::open(&dir.join("diff"))?, Root::open(&dir.join("orphans"))?);
        Ok(Self { diff, orphans, places })
    }

    /// Gives the name that errors call an entry's file by.
    fn path_of(&self, number: u64) -> Vec<u8> {
        self.places.path_of(number).unwrap_or_else(|| format!("orphans/{number}").into_bytes())
    }

    /// Gives the place of an entry's file in the layer's directory.
    fn place_of(&self, number: u64) -> PathBuf {
        match self.places.path_of(number) {
            Some(path) => Path::new("diff").join(as_path(&path)),
            None => Path::new("orphans").join(number.to_string()),
        }
    }

    /// Opens the file of an entry.
    pub(crate) fn open_file(&self, number: u64) -> Result<File> {
        let path = self.path_of(number);
        let (root, (parent, name)) = match self.places.path_of(number) {
            Some(_) => (&self.diff, split(&path)),
            None => (&self.orphans, (&b""[..], split(&path).1)),
        };
        let dir = root.open_directory(as_path(parent)).map_err(|error| refused("open", parent)(error.errno))?;
        // Opening a device may do something.
        let stat = Place { dir: dir.as_fd(), name, path: &path }.stat()?;
        if !stat.is_file() {
            let said = "expected a regular file, found something else";
            return Err(refused("read", &path)(io::Error::new(io::ErrorKind::InvalidData, said)).into());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(openat(&dir, name, flags, Mode::empty()).map_err(refused("open", &path))?))
    }
}

/// Where the data of files come from: of one the tar has several pieces.
struct Source {
    files: Files,
    open: Option<(u64, File)>,
    buffer: Vec<u8>,
    /// What failed, where something did.
    failure: Option<Error>,
}

impl Source {
    /// Copies `len` bytes from `offset` of an entry's file.
    fn copy(&mut self, number: u64, offset: u64, len: u64, out: &mut dyn Write) -> io::Result<()> {
        let file = match self.open.take() {
            Some((known, file)) if known == number => Ok(file),
            _ => self.files.open_file(number),
        };
        let copied = file.and_then(|file| {
            self.copy_of(&file, number, offset, len, out)?;
            Ok(file)
        });
        match copied {
            Ok(file) => {
                self.open = Some((number, file));
                Ok(())
            }
            Err(error) => {
                let said = io::Error::other(error.to_string());
                self.failure = Some(error);
                Err(said)
            }
        }
    }

    /// Copies what there is of it: more or less than asked for is noticed by who asked.
    fn copy_of(&mut self, file: &File, number: u64, mut offset: u64, len: u64, out: &mut dyn Write) -> Result<()> {
        let end = offset.saturating_add(len);
        while offset < end {
            let wanted = self.buffer.len().min((end - offset).try_into().unwrap_or(usize::MAX));
            let count = match file.read_at(&mut self.buffer[..wanted], offset) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(refused("read", &self.files.path_of(number))(error).into()),
            };
            // Whatever it is, it says nothing of the file.
            let failed = |error: io::Error| io::Error::new(error.kind(), error);
            let written = out.write_all(&self.buffer[..count]).map_err(failed);
            written.map_err(refused("write the tar with the data of", &self.files.path_of(number)))?;
            offset += count as u64;
        }
        Ok(())
    }
}
