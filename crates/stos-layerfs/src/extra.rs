// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `layer.extra`: the data of a layer's sparse files, each one run, with their holes.
//!
//! In the tar the data of a sparse file stand packed behind a map, so no extent of it is the file. The extra file follows
//! from the tar alone: the index says where each file lies in it. It is sparse on the host, so what it takes of the disk is
//! what its files hold.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use stos_erofs::{BLOCK, DataPlace, Entry, EntryKind, TarSink, extra_tag, index_tar_into};
use stos_spec::{BlobDigest, DiffId};
use stos_store::files;

use crate::error::{Error, Result};
use crate::pipe::is_zero;
use crate::seal::{Integrity, Seal};

/// The name of the file in a layer's directory.
pub(crate) const LAYER_EXTRA: &str = "layer.extra";

/// Where the data of an entry start in the extra file, if they lie there.
fn start_of(entry: &Entry) -> Option<u64> {
    match entry.kind {
        EntryKind::Regular { place: DataPlace::Extra, block, .. } => Some(block * BLOCK),
        _ => None,
    }
}

/// Writes the extra file of a tar that goes by. A tar without sparse files makes none.
pub(crate) struct ExtraWriter {
    path: PathBuf,
    file: Option<File>,
    /// Where the data of the file in hand start, if it is a sparse one.
    start: Option<u64>,
    written: u64,
}

impl ExtraWriter {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { path: dir.join(LAYER_EXTRA), file: None, start: None, written: 0 }
    }

    /// How many bytes have been written, holes not counted.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Gives the file its length and seals it; `None` where there is none. It is not synced yet.
    pub(crate) fn finish(self, layer: DiffId, extra_bytes: u64) -> Result<Option<(File, Seal)>> {
        let Some(file) = self.file else { return Ok(None) };
        file.set_len(extra_bytes).map_err(Error::io("set the length of", &self.path))?;
        let seal = Seal::of(&file, tag_of(layer), &self.path)?;
        Ok(Some((file, seal)))
    }
}

/// What stands in a seal for the digest of the extra file: it follows from the tar's, and nobody hashes holes.
fn tag_of(layer: DiffId) -> BlobDigest {
    BlobDigest::from_bytes(extra_tag(layer.as_bytes()))
}

impl TarSink for ExtraWriter {
    fn entry(&mut self, _: u64, entry: &Entry) -> io::Result<()> {
        self.start = start_of(entry);
        if self.start.is_some() && self.file.is_none() {
            self.file = Some(files::create_new(&self.path).map_err(|error| io::Error::other(Error::from(error)))?);
        }
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (Some(start), Some(file)) = (self.start, &self.file) else { return Ok(()) };
        if is_zero(bytes) {
            return Ok(());
        }
        self.written += bytes.len() as u64;
        let outcome = file.write_all_at(bytes, start + offset);
        outcome.map_err(|error| io::Error::other(Error::io("write", &self.path)(error)))
    }

    fn raw(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Gives a sink's error back as what it was.
pub(crate) fn sink_error(source: io::Error, path: &Path) -> Error {
    source.downcast::<Error>().unwrap_or_else(|source| Error::io("write", path)(source))
}

/// Compares an extra file with the tar that goes by: data with the tar's, all else must be zeros.
struct Comparer<'a> {
    path: &'a Path,
    file: File,
    start: Option<u64>,
    /// Everything before it has been compared.
    compared: u64,
    buffer: Vec<u8>,
}

/// The first byte of an extra file that is not the tar's.
#[derive(Debug, thiserror::Error)]
#[error("other bytes than the tar's at {at}")]
struct Differs {
    at: u64,
}

impl Comparer<'_> {
    fn io(&self, error: impl Into<io::Error>) -> io::Error {
        io::Error::other(Error::io("read", self.path)(error))
    }

    /// Reads what the file has between two places and holds it against `expected`, or against zeros.
    fn compare(&mut self, at: u64, len: u64, expected: Option<&[u8]>) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let count = (len - done).min(256 << 10) as usize;
            self.buffer.resize(count, 0);
            let read = self.file.read_exact_at(&mut self.buffer, at + done);
            read.map_err(|error| self.io(error))?;
            let is_same = match expected {
                Some(expected) => expected[done as usize..][..count] == self.buffer,
                None => is_zero(&self.buffer),
            };
            if !is_same {
                return Err(io::Error::other(Differs { at: at + done }));
            }
            done += count as u64;
        }
        Ok(())
    }

    /// Proves that nothing but zeros stands from where the comparison is up to `end`; holes are passed over.
    fn compare_hole(&mut self, end: u64) -> io::Result<()> {
        while self.compared < end {
            let data = match rustix::fs::seek(&self.file, SeekFrom::Data(self.compared)) {
                // No more data up to the end of the file.
                Err(rustix::io::Errno::NXIO) => end,
                other => other.map_err(|error| self.io(error))?.min(end),
            };
            self.compared = data;
            if data < end {
                let hole = rustix::fs::seek(&self.file, SeekFrom::Hole(data)).map_err(|error| self.io(error))?.min(end);
                self.compare(data, hole - data, None)?;
                self.compared = hole;
            }
        }
        Ok(())
    }
}

impl TarSink for Comparer<'_> {
    fn entry(&mut self, _: u64, entry: &Entry) -> io::Result<()> {
        self.start = start_of(entry);
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let Some(start) = self.start else { return Ok(()) };
        let at = start + offset;
        self.compare_hole(at)?;
        self.compare(at, bytes.len() as u64, Some(bytes))?;
        self.compared = at + bytes.len() as u64;
        Ok(())
    }

    fn raw(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Looks at a layer's extra file as closely as `integrity` says, and renews its seal where it does not hold and the bytes are
/// those of the tar, which must have been proved.
///
/// # Errors
/// [`Error::DamagedLayer`] where the file is missing or wrong: it can be made again from the tar.
pub(crate) fn check_extra(seal: &mut Seal, layer: DiffId, dir: &Path, integrity: Integrity) -> Result<()> {
    let path = dir.join(LAYER_EXTRA);
    let damaged = |expected, found| Error::DamagedLayer { layer, path: path.clone(), expected, found };
    if seal.look_for(&path, integrity, damaged)?.is_none() {
        return Ok(());
    }
    let file = files::open(&path)?;
    // Looked at before it is read: what is written to it meanwhile breaks the new seal.
    let now = Seal::of(&file, tag_of(layer), &path)?;
    if now.size != seal.size {
        return Err(damaged(format!("{} bytes", seal.size), format!("{} bytes", now.size)));
    }
    match compare_with_tar(file, &path, dir)? {
        None => {
            *seal = now;
            Ok(())
        }
        Some(found) => Err(damaged("the data of the tar's sparse files".to_owned(), found)),
    }
}

/// Tells where an extra file is not what its tar says, if it is not.
fn compare_with_tar(file: File, path: &Path, dir: &Path) -> Result<Option<String>> {
    let tar_path = dir.join("layer.tar");
    let comparer = Comparer { path, file, start: None, compared: 0, buffer: Vec::new() };
    let told = |error: io::Error| match error.downcast::<Differs>() {
        Ok(differs) => Ok(Some(differs.to_string())),
        Err(error) => match sink_error(error, path) {
            Error::Store(error) if error.is_unreadable() => Ok(Some(error.to_string())),
            error => Err(error),
        },
    };
    match index_tar_into(files::open(&tar_path)?, io::sink(), comparer) {
        Ok(mut indexed) => {
            let outcome = indexed.sink.compare_hole(indexed.summary.extra_bytes);
            outcome.map_or_else(told, |()| Ok(None))
        }
        Err(stos_erofs::Error::Sink { source }) => told(source),
        Err(stos_erofs::Error::Io { source, .. }) => Err(Error::io("read", &tar_path)(source)),
        Err(error) => Ok(Some(format!("those of a tar that cannot be used: {error}"))),
    }
}
