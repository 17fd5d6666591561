// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tar of an unpacked layer, made again: what is left of it in `layer.rest`, with the data of its files between.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use flate2::bufread::GzDecoder;
use rustix::fs::{Mode, OFlags, openat};
use stos_erofs::{IndexReader, LayerTree, assemble_tar};
use stos_spec::DiffId;
use stos_store::files;
use stos_sys::rooted::Root;

use super::Dirs;
use super::inode::{as_path, refused, split};
use super::layer::DirsLayerRecord;
use crate::error::{Error, Result};

impl Dirs {
    /// Writes the layer's tar to `out`, and gives its length. Whether its bytes are right is for the caller's digest to say.
    pub(crate) fn copy_tar(&self, layer: DiffId, out: &mut dyn Write) -> Result<u64> {
        let record = self.need_layer(layer)?;
        let dir = self.layer_dir(layer);
        let mut source = Source { files: Files::open(&dir, self.places(&record)?)?, open: None };
        let path = dir.join("layer.rest");
        let rest = GzDecoder::new(BufReader::with_capacity(64 << 10, files::open(&path)?));
        let damaged =
            |expected: String, found: String| Error::DamagedLayer { layer, path: path.clone(), expected, found };
        let data = |number, offset, len, out: &mut dyn Write| source.copy(number, offset, len, out);
        assemble_tar(rest, out, data).map_err(|error| match error {
            stos_erofs::Error::Io { operation: "write the tar", source } => {
                Error::io("write the tar of", format!("layer {layer}"))(source)
            }
            stos_erofs::Error::Data { number, source } => {
                damaged(format!("the data of entry {number}"), source.to_string())
            }
            other => damaged("the tar without its files' data".to_owned(), other.to_string()),
        })
    }

    /// Tells where in `diff` the files of entries are.
    pub(crate) fn places(&self, record: &DirsLayerRecord) -> Result<Places> {
        Ok(Arc::new(self.layer_tree(record)?.places().collect()))
    }

    /// Reads a layer's index, and gives what the layer by itself consists of.
    pub(crate) fn layer_tree(&self, record: &DirsLayerRecord) -> Result<LayerTree> {
        let path = self.layer_dir(record.diff_id).join("layer.index");
        let damaged = |error: stos_erofs::Error| {
            let expected = "the layer's index".to_owned();
            Error::DamagedLayer { layer: record.diff_id, path: path.clone(), expected, found: error.to_string() }
        };
        let mut reader = IndexReader::new(files::open(&path)?).map_err(damaged)?;
        let mut tree = LayerTree::new();
        let mut number = 0;
        while let Some(entry) = reader.next_entry().map_err(damaged)? {
            tree.apply(number, &entry, |_| Ok(())).map_err(damaged)?;
            number += 1;
        }
        Ok(tree)
    }
}

/// The paths of files in `diff`, by the numbers of their entries. The others are orphans.
pub(crate) type Places = Arc<HashMap<u64, Vec<u8>>>;

/// The files of a layer, by the numbers of their entries.
pub(crate) struct Files {
    diff: Root,
    orphans: OwnedFd,
    places: Places,
}

impl Files {
    /// Opens the directories of the layer in `dir`.
    pub(crate) fn open(dir: &Path, places: Places) -> Result<Self> {
        let diff = Root::open(&dir.join("diff"))?;
        Ok(Self { diff, orphans: files::open(&dir.join("orphans"))?.into(), places })
    }

    /// Opens the file of an entry.
    pub(crate) fn open_file(&self, number: u64) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = match self.places.get(&number) {
            Some(path) => {
                let (parent, name) = split(path);
                let dir = self.diff.open_directory(as_path(parent))?;
                openat(dir.as_fd(), name, flags, Mode::empty()).map_err(refused("open", path))
            }
            None => {
                let name = number.to_string();
                openat(&self.orphans, Path::new(&name), flags, Mode::empty())
                    .map_err(refused("open the orphan", name.as_bytes()))
            }
        };
        Ok(File::from(opened?))
    }
}

/// Where the data of files come from: of one the tar has several pieces.
struct Source {
    files: Files,
    open: Option<(u64, File)>,
}

impl Source {
    /// Copies `len` bytes from `offset` of an entry's file.
    fn copy(&mut self, number: u64, offset: u64, len: u64, out: &mut dyn Write) -> io::Result<()> {
        let mut file = match self.open.take() {
            Some((known, file)) if known == number => file,
            _ => self.files.open_file(number).map_err(io::Error::other)?,
        };
        file.seek(SeekFrom::Start(offset))?;
        // More or less than that is noticed by who asked.
        io::copy(&mut (&file).take(len), out)?;
        self.open = Some((number, file));
        Ok(())
    }
}
